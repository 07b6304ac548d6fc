"""Images with their captions, as COCO and Flickr30k in the splits of Karpathy and Li: for retrieval, and for others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labclip.checks import checked_whole
from labclip.data import read_items
from labclip.data.entries import one_of
from labclip.data.located import ImageLayout
from labclip.data.rows import column_names, text_rows
from labclip.evaluation.benchmarks.fields import in_folder
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Retrieval, Task


@dataclass(frozen=True)
class Form:
    """Which files hold the captions.

    Attributes:
        files: Names of the file, the first that is there; `{split}` is the split.
        ways: Where people have an image, as `ImageLayout` takes it.
        splits: Those that there are.
        column: The captions', where it has no usual name.
    """

    files: Sequence[str]
    ways: Sequence[str]
    splits: Sequence[str] = ("",)
    column: str | None = None


class Captioned(NamedTuple):
    """The row of an image, what is said of it, captions as the file has them, and file and position."""

    row: int
    captions: list[str]
    location: str


def read(form: dict[str, Any], sources: Sources) -> Task:
    """Recall at 1, 5 and 10 in both directions among images and all their captions, as they are."""
    return _task(sources, captioned(form, sources))


def read_split(form: dict[str, Any], sources: Sources, *, split: str = "test", captions: int = 0) -> Task:
    """`read` of a split, with the first `captions` of each image: 5 in the LABCLIP paper, 0, all, in CLIP_benchmark."""
    return _task(sources, captioned(form, sources, split, captions))


def captioned(form: dict[str, Any], sources: Sources, split: str = "", captions: int = 0) -> list[Captioned]:
    """The images of a split, an entry each, with the first `captions` of each image; 0 is all."""
    chosen = Form(**form)
    one_of("split", split, chosen.splits)
    checked_whole("captions", captions, least=0)
    layout = ImageLayout(sources, *chosen.ways)
    path = sources.either(*(name.format(split=split) for name in chosen.files))
    rows = _lines(path) if path.suffix.lower() == ".txt" else _rows(path, split, chosen.column)
    found: dict[int, Captioned] = {}
    for name, texts, location in rows:
        if (row := layout.image(in_folder(sources, name), location)) is not None:
            # An image that has several entries is one of the gallery: beside itself it could not be found.
            found.setdefault(row, Captioned(row, [], location)).captions.extend(texts)
    return [one._replace(captions=one.captions[: captions or None]) for one in found.values()]


def _rows(path: Path, split: str, column: str | None) -> Iterator[tuple[str, Sequence[str], str]]:
    """Each row's image, captions and location."""
    # The original form has all splits in one file; there an image's folder is its `filepath`, never its split.
    splits = (split,) if "split" in column_names(path) else None
    for item in read_items(path, column=column, negative_columns=(), split=splits, clean=False):
        yield item.checked().name, item.captions, item.location


def _lines(path: Path) -> Iterator[tuple[str, Sequence[str], str]]:
    """The same of CLIP_benchmark's text files: a header, then NAME.jpg,CAPTION with commas that are not quoted."""
    for location, cells in itertools.islice(text_rows(path), 1, None):
        name, ending, text = cells["caption"].partition(".jpg,")
        if cells["caption"].strip():
            if not ending:
                raise ValueError(f"{location} is {cells['caption'][:80]!r}, not NAME.jpg,CAPTION.")
            yield f"{name}.jpg", (text.strip(),), location


def _task(sources: Sources, found: Sequence[Captioned]) -> Task:
    if not found:
        return sources.task()
    texts = [(sources.caption(text, one.location), at) for at, one in enumerate(found) for text in one.captions]
    rows, index = zip(*texts, strict=True)
    repeated = len(set(texts)) - len(set(rows))
    if repeated:
        sources.notes.append(
            f"{repeated:,} captions also belong to an earlier image: a tie, which counts as wrong, so that recall is "
            "lower than where the first is taken."
        )
    return sources.task(Retrieval(np.array([one.row for one in found]), np.array(rows), np.array(index)))
