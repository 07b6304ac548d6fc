"""COCO and Flickr30k captions in the splits of Karpathy and Li, read for retrieval and for what builds on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labclip.checks import checked_whole
from labclip.data import read_items
from labclip.data.entries import one_of
from labclip.data.located import ImageLayout
from labclip.data.rows import column_names, text_rows
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Retrieval, Task

SPLITS = ("test", "val", "restval")


class Captioned(NamedTuple):
    """The row of an image, what is said of it, captions as the file has them, and file and position."""

    row: int
    captions: list[str]
    location: str


def read_coco(sources: Sources, *, split: str = "test", captions: int = 0) -> Task:
    """Recall at 1, 5 and 10 in both directions, captions as they are.

    Args:
        sources: The files.
        split: "test", "val", or "restval".
        captions: Only the first so many of each image, as 5 in the LABCLIP paper; 0 takes all, as CLIP_benchmark does.
    """
    return retrieval(sources, coco(sources, split, captions))


def read_flickr30k(sources: Sources, *, split: str = "test", captions: int = 0) -> Task:
    """Recall at 1, 5 and 10 in both directions, captions as they are; options as of `coco`, splits "test" and "val"."""
    return retrieval(sources, flickr30k(sources, split, captions))


def coco(sources: Sources, split: str, captions: int = 0) -> list[Captioned]:
    """COCO's images of a split with the first `captions` of each; 0 is all."""
    one_of("split", split, SPLITS)
    layout = ImageLayout(sources, "{path}", "{name}", "val2014/{name}", "images/{path}")
    names = (f"coco_karpathy_{split}.json", f"coco_{split}_karpathy.json", "dataset_coco.json")
    return captioned(sources, names, layout, captions, split)


def flickr30k(sources: Sources, split: str, captions: int = 0) -> list[Captioned]:
    """Flickr30k's images of a split with the first `captions` of each; 0 is all."""
    one_of("split", split, SPLITS[:2])
    layout = ImageLayout(sources, "{path}", "{name}", "flickr30k-images/{path}")
    names = (f"flickr30k_{split}.json", f"flickr30k_{split}_karpathy.txt", "dataset_flickr30k.json")
    return captioned(sources, names, layout, captions, split)


def captioned(
    sources: Sources,
    names: Sequence[str],
    layout: ImageLayout,
    captions: int = 0,
    split: str = "",
    column: str | None = None,
) -> list[Captioned]:
    """The images of the first of some files that is there, an entry each, with the first `captions` of each image."""
    checked_whole("captions", captions, least=0)
    path = sources.either(*names)
    found: dict[int, Captioned] = {}
    for name, texts, location in _lines(path) if path.suffix.lower() == ".txt" else _rows(path, split, column):
        if (row := layout.image(name, location)) is not None:
            # An image that has several entries is one of the gallery: beside itself it could not be found.
            found.setdefault(row, Captioned(row, [], location)).captions.extend(texts)
    return [one._replace(captions=one.captions[: captions or None]) for one in found.values()]


def _rows(path: Path, split: str, column: str | None) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Each row's image, captions and location."""
    # The original form has all splits in one file; there an image's folder is its `filepath`, never its split.
    splits = (split,) if "split" in column_names(path) else None
    for item in read_items(path, column=column, negative_columns=(), split=splits, clean=False):
        yield item.checked().name, item.captions, item.location


def _lines(path: Path) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """The same of CLIP_benchmark's text files: a header, then NAME.jpg,CAPTION with commas that are not quoted."""
    for location, cells in itertools.islice(text_rows(path), 1, None):
        name, ending, text = cells["caption"].partition(".jpg,")
        if cells["caption"].strip():
            if not ending:
                raise ValueError(f"{location} is {cells['caption'][:80]!r}, not NAME.jpg,CAPTION.")
            yield f"{name}.jpg", (text.strip(),), location


def retrieval(sources: Sources, found: list[Captioned]) -> Task:
    """Recall in both directions among images and all their captions."""
    if not found:
        return sources.task()
    images = [one.row for one in found]
    texts = [(sources.caption(text, one.location), at) for at, one in enumerate(found) for text in one.captions]
    rows, index = zip(*texts, strict=True)
    repeated = len(set(zip(rows, index, strict=True))) - len(set(rows))
    if repeated:
        sources.notes.append(
            f"{repeated:,} captions also belong to an earlier image: a tie, which counts as wrong, so that recall is "
            "lower than where the first is taken."
        )
    return sources.task(Retrieval(np.array(images), np.array(rows), np.array(index)))
