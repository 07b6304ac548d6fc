"""Images with their captions: COCO and Flickr30k as Karpathy and Li split them, NegCLIP's negatives, a user's table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labclip.checks import check_choice, checked_integer
from labclip.data import read_items
from labclip.data.cleaning import clean as cleaned
from labclip.data.cleaning import comparable, true_captions
from labclip.data.items import WORDS
from labclip.data.rows import column_names, text_rows
from labclip.evaluation.benchmarks.forms import Form, image_name
from labclip.evaluation.questions import Retrieval
from labclip.evaluation.sources import Items, Sources
from labclip.evaluation.tasks import Task
from labclip.negatives import shuffle


class CaptionRow(NamedTuple):
    """A caption with the row of its image, None if that is missing; its negatives; and its file and position."""

    image: int | None
    caption: str
    negatives: Sequence[str]
    location: str


def read(form: Form, sources: Sources) -> Task:
    """Recall at 1, 5 and 10 in both directions among images and all their captions, as they are."""
    return _retrieval_task(sources, read_captions(form, sources))


def read_split(form: Form, sources: Sources, *, split: str = "test", captions: int = 0) -> Task:
    """`read` for a split, with `captions` of each image: 5 in the LABCLIP paper, all (0) in CLIP_benchmark."""
    return _retrieval_task(sources, read_captions(form, sources, split, checked_integer("captions", captions, least=0)))


def read_negatives(form: Form, sources: Sources, *, split: str = "test", seed: int = 0, clean: bool = True) -> Task:
    """`binding`: a caption beats all its hard negatives; `pairwise`: each of them, where some have several.

    Negatives come from a table such as NegCLIP's, or are made from Karpathy's captions, one for each caption: its nouns
    are shuffled among themselves, and so are its adjectives.

    Args:
        form: The form of Karpathy's captions.
        sources: The files.
        split: "test", "val" or "restval" of Karpathy's captions.
        seed: Seed of the shuffle.
        clean: Whether captions and negatives of a table are both cleaned, to 40 words. In NegCLIP's table the space
            before the full stop gives a negative away. Negatives that are made here are always cleaned.
    """
    if sources.data is not None and sources.data.is_file() and sources.data.suffix.lower() != ".json":
        patterns = ("{path}", "{rest}", "{name}", "coco/{path}")
        return _binding_task(sources, read_table(sources, patterns, clean=clean))
    rows = read_captions(form, sources, split, captions=5)  # as in the LABCLIP paper
    shuffled = shuffle([row.caption for row in rows], seed=seed, image_index=[row.image for row in rows])
    sources.notes.append(f"Negatives were made with seed {seed}: nouns and adjectives shuffled, {WORDS} words.")
    return _binding_task(sources, [
        row._replace(caption=cleaned(row.caption, WORDS), negatives=[negative] if negative else [])
        for row, negative in zip(rows, shuffled, strict=True)
    ])  # fmt: skip


def read_own(sources: Sources, *, column: str = "", image_column: str = "", negative_column: str = "") -> Task:
    """`binding`: a caption beats all its negatives; `pairwise`: each of them, where some have several; and retrieval.

    Columns are as in `labclip embed`, several columns of negatives separated by commas; "" takes the usual names.
    """
    negatives = [name.strip() for name in negative_column.split(",")] if negative_column else None
    rows = read_table(sources, column=column, image_column=image_column, negative_columns=negatives, clean=False)
    true = true_captions([row.image for row in rows], [row.caption for row in rows])
    kept, left_out = [], 0
    for row in rows:
        # `labclip embed` leaves out the same ones.
        wrong = [negative for negative in row.negatives if (row.image, comparable(negative)) not in true]
        left_out += len(row.negatives) - len(wrong)
        kept.append(row._replace(negatives=wrong))
    if left_out:
        sources.notes.append(f"{left_out:,} negatives that are true of their image are left out.")
    return _binding_task(sources, kept)


def read_table(sources: Sources, patterns: Sequence[str] = ("{path}",), **options: Any) -> list[CaptionRow]:
    """The captions of the table `data`; options as in `read_items`. ValueError for the first row that can't be read."""
    if sources.data is None or not sources.data.is_file():
        reason = "No file was given" if sources.data is None else f"{sources.data} is not a file"
        raise FileNotFoundError(f"{reason}. Pass data=FILE. {sources.hint}")
    if sources.data.suffix.lower() == ".tar":
        raise ValueError(f"{sources.data} is a tar. Pass a table: csv, tsv, jsonl, json or Parquet.")
    rows = []
    for item in read_items(sources.data, **options):
        source = item.checked().image
        assert source is not None
        has_own_file = source.start is None
        image = sources.image(source.name, item.location, patterns) if has_own_file else sources.add(source)
        captions = zip(item.captions, item.negatives, strict=True)
        rows += [CaptionRow(image, caption, negatives, item.location) for caption, negatives in captions]
    return rows


def read_captions(form: Form, sources: Sources, split: str = "", captions: int = 0) -> list[CaptionRow]:
    """The captions of a split, grouped by image: the first `captions` of each image, or all for 0."""
    check_choice("The option split", split, form.splits)
    path = sources.find_file(*(name.format(split=split) for name in form.files[0]))
    rows_of: dict[int, list[CaptionRow]] = {}
    for name, texts, location in _read_lines(path) if path.suffix.lower() == ".txt" else _read_entries(path, split):
        image = sources.image(image_name(sources, name), location, form.patterns[""])
        if image is not None:
            # Entries of one image become one image of the gallery: its copy would count as a wrong answer.
            rows_of.setdefault(image, []).extend(CaptionRow(image, text, (), location) for text in texts)
    return [row for rows in rows_of.values() for row in rows[: captions or None]]


def _read_entries(path: Path, split: str) -> Iterator[tuple[str, Sequence[str], str]]:
    """Name, captions and location of each image of a split."""
    # Karpathy's own file has all splits; its images are in the folder `filepath`, which is not named after the split.
    splits = (split,) if "split" in column_names(path) else None
    for item in read_items(path, negative_columns=(), split=splits, clean=False):
        yield item.checked().name, item.captions, item.location


def _read_lines(path: Path) -> Iterator[tuple[str, Sequence[str], str]]:
    """The same for CLIP_benchmark's text files: a header, then lines NAME.jpg,CAPTION with unquoted commas."""
    for location, cells in itertools.islice(text_rows(path), 1, None):
        name, _, text = cells["caption"].partition(".jpg,")
        if cells["caption"].strip():
            yield f"{name}.jpg", (text.strip(),), location


def _retrieval_task(sources: Sources, rows: Sequence[CaptionRow]) -> Task:
    if not rows:
        return sources.task()
    index_of = {image: index for index, image in enumerate(dict.fromkeys(row.image for row in rows))}
    texts = [(sources.caption(row.caption, row.location), index_of[row.image]) for row in rows]
    captions, image_index = zip(*texts, strict=True)
    if repeated := len(set(texts)) - len(set(captions)):
        sources.notes.append(
            f"{repeated:,} captions also belong to an earlier image: a tie, which counts as wrong, so recall is lower "
            "than in code that takes the first of them."
        )
    return sources.task(Retrieval(np.array(list(index_of)), np.array(captions), np.array(image_index)))


def _binding_task(sources: Sources, rows: Sequence[CaptionRow]) -> Task:
    """Binding for captions with negatives, and retrieval among all captions if there are several images."""
    all_items, with_negatives = Items(sources), Items(sources)
    for image, caption, negatives, location in rows:
        all_items.add(image, (caption,), location)
        if negatives:
            with_negatives.add(image, (caption, *negatives), location)
    if without := len(all_items) - len(with_negatives):
        sources.notes.append(f"{without:,} of {len(all_items):,} captions have no negative.")
    pairs = with_negatives.pairs()
    pairwise = pairs.question("pairwise") if len(pairs) > len(with_negatives) else []
    return sources.task(*with_negatives.question("binding"), *pairwise, *all_items.gallery())
