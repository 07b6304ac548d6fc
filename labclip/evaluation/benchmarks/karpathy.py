"""COCO and Flickr30k captions in the splits of Karpathy and Li, read for retrieval and for what builds on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from labclip.data import BadRow, Columns, read_items
from labclip.data.entries import one_of
from labclip.data.items import RowReader
from labclip.data.located import ImageLayout
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Retrieval, Task

CAPTIONS = 5
"""Captions used of each image: the first five."""

SPLITS = ("test", "val", "restval")


class Captioned(NamedTuple):
    """The row of an image, what is said of it, up to five captions as the file has them, and file and position."""

    row: int
    captions: list[str]
    place: str


def read_coco(sources: Sources, *, split: str = "test") -> Task:
    """Recall at 1, 5 and 10 in both directions, captions as they are.

    Args:
        sources: The files.
        split: "test", "val", or "restval".
    """
    return _retrieval(sources, coco(sources, split))


def read_flickr30k(sources: Sources, *, split: str = "test") -> Task:
    """Recall at 1, 5 and 10 in both directions, captions as they are.

    Args:
        sources: The files.
        split: "test" or "val".
    """
    return _retrieval(sources, flickr30k(sources, split))


def coco(sources: Sources, split: str) -> list[Captioned]:
    """COCO's images and captions of a split."""
    one_of("split", split, SPLITS)
    layout = ImageLayout(sources, "{path}", "{name}", "images/{path}")
    return _captioned(sources, (f"coco_karpathy_{split}.json", "dataset_coco.json"), split, layout)


def flickr30k(sources: Sources, split: str) -> list[Captioned]:
    """Flickr30k's images and captions of a split."""
    one_of("split", split, SPLITS[:2])
    layout = ImageLayout(sources, "{path}", "{name}", "flickr30k-images/{path}")
    return _captioned(sources, (f"flickr30k_{split}.json", "dataset_flickr30k.json"), split, layout)


def _captioned(sources: Sources, names: tuple[str, ...], split: str, layout: ImageLayout) -> list[Captioned]:
    path = sources.either(*names)
    # The original form has all splits in one file; there an image's folder is its `filepath`, never its split.
    whole = RowReader(path, path.parent, Columns(negatives=()))
    first = next(whole.rows(), None)
    columns = Columns(negatives=(), split=(split,) if first and "split" in first.cells else None)
    found, none = [], True
    for item in read_items(path, columns=columns, clean=False):
        none = False
        if isinstance(item, BadRow):
            raise ValueError(f"{item.place} {item.reason}.")
        assert item.image is not None
        row = layout.image(item.image.name, item.place)
        if row is not None:
            found.append(Captioned(row, list(item.captions[:CAPTIONS]), item.place))
    if none and columns.split:
        there = sorted({str(row.cells.get("split")) for row in whole.rows()})
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(there)}.")
    if none:
        raise ValueError(f"{path} has no item.")
    return found


def _retrieval(sources: Sources, found: list[Captioned]) -> Task:
    if not found:
        return sources.task()
    # An image that has several entries is one of the gallery: beside itself it could not be found.
    images = list(dict.fromkeys(one.row for one in found))
    place_of = {row: place for place, row in enumerate(images)}
    texts = [(sources.captions.row(text, one.place), place_of[one.row]) for one in found for text in one.captions]
    rows, places = zip(*texts, strict=True)
    repeated = len(set(zip(rows, places, strict=True))) - len(set(rows))
    if repeated:
        sources.notes.append(f"{repeated:,} captions also belong to an earlier image: a tie, which counts as wrong.")
    return sources.task(Retrieval(np.array(images), np.array(rows), np.array(places)))


COCO = Benchmark(
    "coco", "COCO retrieval", "retrieval", read_coco,
    wants="coco_karpathy_test.json or dataset_coco.json as data; the folder of val2014 as images",
    source="cs.stanford.edu/people/karpathy/deepimagesent, "
    "storage.googleapis.com/sfr-vision-language-research/datasets/coco_karpathy_test.json, cocodataset.org",
    licence="CC BY 4.0; images: Flickr terms of use",
    paper="arXiv:1412.2306",
    headline=("t2i_r1", "t2i_r5", "i2t_r1", "i2t_r5"),
)  # fmt: skip
FLICKR30K = Benchmark(
    "flickr30k", "Flickr30k retrieval", "retrieval", read_flickr30k,
    wants="flickr30k_test.json or dataset_flickr30k.json as data; flickr30k-images as images",
    source="cs.stanford.edu/people/karpathy/deepimagesent, "
    "storage.googleapis.com/sfr-vision-language-research/datasets/flickr30k_test.json, "
    "shannon.cs.illinois.edu/DenotationGraph",
    licence="non-commercial research and education; images: Flickr terms of use",
    paper="arXiv:1412.2306",
    headline=("t2i_r1", "t2i_r5", "i2t_r1", "i2t_r5"),
)  # fmt: skip
