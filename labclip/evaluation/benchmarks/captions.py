"""Images with their captions: COCO and Flickr30k as Karpathy and Li split them, NegCLIP's negatives, a user's table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labclip.checks import checked_integer
from labclip.data import read_items
from labclip.data.cleaning import clean as cleaned
from labclip.data.cleaning import comparable, true_captions
from labclip.data.items import WORDS
from labclip.data.rows import column_names, text_rows
from labclip.evaluation.benchmarks.forms import Form, in_folder, one_of
from labclip.evaluation.questions import Retrieval
from labclip.evaluation.sources import Items, Sources
from labclip.evaluation.tasks import Task
from labclip.negatives import shuffle

CAPTIONS = 5
"""Captions of each of Karpathy's images that have a negative made: the first five, as in the LABCLIP paper."""

Row = tuple[int | None, str, Sequence[str], str]
"""An image's row, a caption, its negatives, and file and position."""


def read(form: Form, sources: Sources) -> Task:
    """Recall at 1, 5 and 10 in both directions among images and all their captions, as they are."""
    return _retrieval(sources, captioned(form, sources))


def read_split(form: Form, sources: Sources, *, split: str = "test", captions: int = 0) -> Task:
    """`read` of a split, with the first `captions` of each image: 5 in the LABCLIP paper, 0, all, in CLIP_benchmark."""
    return _retrieval(sources, captioned(form, sources, split, checked_integer("captions", captions, least=0)))


def read_negatives(form: Form, sources: Sources, *, split: str = "test", seed: int = 0, clean: bool = True) -> Task:
    """`binding`: a caption beats all its hard negatives; `pairwise`: each of them, where some have several.

    Negatives come from a table such as NegCLIP's, or are made of Karpathy's captions: nouns swapped with nouns and
    adjectives with adjectives, one negative a caption.

    Args:
        form: Of Karpathy's captions.
        sources: The files.
        split: "test", "val" or "restval" of Karpathy's captions.
        seed: Seed of the shuffle.
        clean: Whether captions and negatives of a table are both cleaned, to 40 words: in NegCLIP's, a space before the
            full stop tells a negative. Those that are made are always cleaned.
    """
    if sources.data is not None and sources.data.is_file() and sources.data.suffix.lower() != ".json":
        ways = ("{path}", "{rest}", "{name}", "coco/{path}")
        return _binding(sources, list(_table(sources, ways, clean=clean)))
    rows = captioned(form, sources, split, CAPTIONS)
    made = shuffle([text for _, text, *_ in rows], seed=seed, image_index=[row for row, *_ in rows])
    sources.notes.append(f"Negatives were made with seed {seed}: nouns and adjectives shuffled, {WORDS} words.")
    return _binding(sources, [(row, cleaned(text, WORDS), [wrong] if wrong else [], location)
                              for (row, text, _, location), wrong in zip(rows, made, strict=True)])  # fmt: skip


def read_own(sources: Sources, *, column: str = "", image_column: str = "", negative_column: str = "") -> Task:
    """`binding`: a caption beats all its negatives; `pairwise`: each of them, where some have several; and retrieval.

    Columns are as in `labclip embed`, of negatives several with commas; "" takes the usual names.
    """
    negatives = [name.strip() for name in negative_column.split(",")] if negative_column else None
    rows, left_out = own_rows(sources, column, image_column, negatives), 0
    known = true_captions([row for row, *_ in rows], [caption for _, caption, *_ in rows])
    kept: list[Row] = []
    for row, caption, several, location in rows:
        # As `labclip embed` leaves them out.
        wrong = [negative for negative in several if (row, comparable(negative)) not in known]
        left_out += len(several) - len(wrong)
        kept.append((row, caption, wrong, location))
    if left_out:
        sources.notes.append(f"{left_out:,} negatives that are true of their image are left out.")
    return _binding(sources, kept)


def own_rows(sources: Sources, column: str, image_column: str, negative_columns: Sequence[str] | None) -> list[Row]:
    """The captions of a user's own table; options as in `read_own`, and negatives as in `read_items`."""
    if sources.data is None or not sources.data.is_file():
        lacks = "No file was given" if sources.data is None else f"{sources.data} is not a file"
        raise FileNotFoundError(f"{lacks}. Pass data=FILE. {sources.hint}")
    columns: dict[str, Any] = {"column": column or None, "image_column": image_column or None}
    return list(_table(sources, negative_columns=negative_columns, **columns))


def _table(
    sources: Sources, ways: Sequence[str] = ("{path}",), *, clean: bool = False, **columns: Any
) -> Iterator[Row]:
    """The captions of the table that `data` is; a flaw is an error with its location."""
    assert sources.data is not None
    if sources.data.suffix.lower() == ".tar":
        raise ValueError(f"{sources.data} is a tar. Pass a table: csv, tsv, jsonl, json or Parquet.")
    for item in read_items(sources.data, clean=clean, **columns):
        image = item.checked().image
        assert image is not None
        row = sources.image(image.name, item.location, ways) if image.start is None else sources.add(image)
        for caption, negatives in zip(item.captions, item.negatives, strict=True):
            yield row, caption, negatives, item.location


def captioned(form: Form, sources: Sources, split: str = "", captions: int = 0) -> list[Row]:
    """The captions of a split, those of one image together, the first `captions` of each; 0 is all."""
    one_of("split", split, form.splits)
    path = sources.find_file(*(name.format(split=split) for name in form.files[0]))
    rows_of: dict[int, list[Row]] = {}
    for name, texts, location in _lines(path) if path.suffix.lower() == ".txt" else _entries(path, split):
        if (row := sources.image(in_folder(sources, name), location, form.ways[""])) is not None:
            # An image that has several entries is one of the gallery: beside itself it could not be found.
            rows_of.setdefault(row, []).extend((row, text, (), location) for text in texts)
    return [row for several in rows_of.values() for row in several[: captions or None]]


def _entries(path: Path, split: str) -> Iterator[tuple[str, Sequence[str], str]]:
    # The original form has all splits in one file; there an image's folder is its `filepath`, never its split.
    splits = (split,) if "split" in column_names(path) else None
    for item in read_items(path, negative_columns=(), split=splits, clean=False):
        yield item.checked().name, item.captions, item.location


def _lines(path: Path) -> Iterator[tuple[str, Sequence[str], str]]:
    """Images and captions of CLIP_benchmark's text files: a header, then NAME.jpg,CAPTION with unquoted commas."""
    for location, cells in itertools.islice(text_rows(path), 1, None):
        name, _, text = cells["caption"].partition(".jpg,")
        if cells["caption"].strip():
            yield f"{name}.jpg", (text.strip(),), location


def _retrieval(sources: Sources, rows: Sequence[Row]) -> Task:
    if not rows:
        return sources.task()
    index_of = {row: index for index, row in enumerate(dict.fromkeys(row for row, *_ in rows))}
    texts = [(sources.caption(text, location), index_of[row]) for row, text, _, location in rows]
    captions, index = zip(*texts, strict=True)
    if repeated := len(set(texts)) - len(set(captions)):
        sources.notes.append(
            f"{repeated:,} captions also belong to an earlier image: a tie, which counts as wrong, so that recall is "
            "lower than where the first is taken."
        )
    return sources.task(Retrieval(np.array(list(index_of)), np.array(captions), np.array(index)))


def _binding(sources: Sources, rows: Sequence[Row]) -> Task:
    """Binding where there are negatives, retrieval where there are several images; rows without a negative too."""
    every, bound, without = Items(sources), Items(sources), 0
    for image, caption, negatives, location in rows:
        every.add(image, (caption,), location)
        without += image is not None and not negatives
        if negatives:
            bound.add(image, (caption, *negatives), location)
    if without:
        sources.notes.append(f"{without:,} of {len(every):,} captions have no negative.")
    pairs = bound.pairs()
    pairwise = pairs.question("pairwise") if len(pairs) > len(bound) else []
    return sources.task(*bound.question("binding"), *pairwise, *every.gallery())
