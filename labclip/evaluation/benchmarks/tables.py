"""Tables of images with captions and negatives: a user's own, and COCO's captions with hard negatives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labclip.data import read_items
from labclip.data.cleaning import TrueCaptions, comparable
from labclip.data.items import WORDS
from labclip.data.located import ImageLayout, check_caption
from labclip.evaluation.benchmarks.retrieval import captioned
from labclip.evaluation.items import Items
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task
from labclip.negatives import clean as cleaned
from labclip.negatives import shuffle


def read_own(sources: Sources, *, column: str = "", image_column: str = "", negative_column: str = "") -> Task:
    """`binding`: a caption beats all its negatives; `pairwise`: each of them, where some have several; and retrieval.

    Args:
        sources: The files.
        column: The captions'; "" takes `caption`, `title`, `captions`, `sentences` or `text`.
        image_column: The images'; "" takes `image`, `filename`, `filepath`, `image_path` or `file_name`.
        negative_column: The negatives', several with commas; "" takes `negative`, `negative_2` ..., `negatives`,
            `neg_caption` and `negative_caption`, where they are.
    """
    negatives = [name.strip() for name in negative_column.split(",")] if negative_column else None
    return _task(sources, _untrue(sources, own_rows(sources, column, image_column, negative_columns=negatives)))


def read_coco(
    form: dict[str, Any], sources: Sources, *, split: str = "test", seed: int = 0, clean: bool = True
) -> Task:
    """`binding`: a caption beats all its hard negatives; `pairwise`: each of them, where some have several.

    Negatives come from a table such as NegCLIP's, or are made of Karpathy's captions: nouns swapped with nouns and
    adjectives with adjectives, one negative a caption.

    Args:
        form: Of Karpathy's captions, as `retrieval` has it.
        sources: The files.
        split: "test", "val" or "restval" of Karpathy's captions.
        seed: Of the shuffle.
        clean: Whether captions and negatives of a table are both cleaned, to 40 words: in NegCLIP's, a space before the
            full stop tells a negative. Those that are made are always cleaned.
    """
    if sources.data is not None and sources.data.is_file() and sources.data.suffix.lower() != ".json":
        layout = ImageLayout(sources, "{path}", "{rest}", "{name}", "coco/{path}")
        return _task(sources, _rows(sources, sources.data, layout, clean=clean))
    found = [(one, text) for one in captioned(form, sources, split, CAPTIONS) for text in one.captions]
    for one, text in found:
        check_caption(text, one.location)
    made = shuffle([text for _, text in found], seed=seed, image_index=[one.row for one, _ in found])
    sources.notes.append(f"Negatives were made with seed {seed}: nouns and adjectives shuffled, 40 words.")
    rows = (
        (one.row, cleaned(text, WORDS), [negative] if negative else [], one.location)
        for (one, text), negative in zip(found, made, strict=True)
    )
    return _task(sources, rows)


CAPTIONS = 5
"""Captions of each of Karpathy's images: the first five, as in the LABCLIP paper."""

Row = tuple[int | None, str, Sequence[str], str]
"""The image's row, a caption, its negatives, and file and position."""


def own_rows(
    sources: Sources, column: str, image_column: str, *, negative_columns: Sequence[str] | None
) -> Iterator[Row]:
    """The captions of a user's own table; options as of `read_own`, and negatives as of `read_items`."""
    if sources.data is None or not sources.data.is_file():
        lacks = "No file was given" if sources.data is None else f"{sources.data} is not a file"
        raise FileNotFoundError(f"{lacks}. Pass data=FILE. {sources.hint}")
    columns: dict[str, Any] = {
        "column": column or None,
        "image_column": image_column or None,
        "negative_columns": negative_columns,
    }
    yield from _rows(sources, sources.data, ImageLayout(sources, "{path}"), **columns)


def _rows(sources: Sources, path: Path, layout: ImageLayout, *, clean: bool = False, **columns: Any) -> Iterator[Row]:
    """The captions of a table; a flaw is an error with its location."""
    if path.suffix.lower() == ".tar":
        raise ValueError(f"{path} is a tar. Pass a table: csv, tsv, jsonl, json or Parquet.")
    empty = True
    for item in read_items(path, clean=False, **columns):
        named = item.checked().image
        assert named is not None
        empty = False
        held = named.data
        image = (
            layout.image(named.name, item.location) if held is None else sources.image_in_memory(held, item.location)
        )
        for caption, negatives in zip(item.captions, item.negatives, strict=True):
            own, *wrong = (cleaned(text, WORDS) if clean else text for text in (caption, *negatives))
            yield image, own, wrong, item.location
    if empty:
        raise ValueError(f"{path} has no row.")


def _untrue(sources: Sources, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows without the negatives that are true of their image, as `labclip embed` leaves them out."""
    rows, known, left_out = list(rows), TrueCaptions(), 0
    for image, caption, _, _ in rows:
        known.add(image, caption)
    for image, caption, negatives, location in rows:
        kept = [negative for negative in negatives if not known.hold(image, comparable(negative))]
        left_out += len(negatives) - len(kept)
        yield image, caption, kept, location
    if left_out:
        sources.notes.append(f"{left_out:,} negatives that are true of their image are left out.")


def _task(sources: Sources, rows: Iterable[Row]) -> Task:
    """Binding where there are negatives, retrieval where there are several images; rows without a negative too."""
    every, bound = Items(sources), Items(sources)
    without = 0
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
