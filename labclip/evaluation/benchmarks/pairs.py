"""Items of two images and two captions, which goes with which: what several benchmarks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Pairs, Task

PairRow = tuple[str, Sequence[int | None], Sequence[Any], str]
"""File and position, the rows of both images, both captions in the same order, and the kind of the item or ""."""


def pairs_task(sources: Sources, rows: Iterable[PairRow]) -> Task:
    """The task of a benchmark's rows; each kind of items has its scores in a table of its own.

    A row is left out if an image is missing. One whose captions are equal is wrong in every score.

    Raises:
        FileNotFoundError: If images are missing and `on_missing` is "raise".
        ValueError: If a caption is no text, or there is no item.
    """
    images, texts, places, kinds = [], [], [], []
    for place, shown, said, kind in rows:
        if None not in shown:
            images.append(shown)
            texts.append([sources.captions.row(caption, place) for caption in said])
            places.append(place)
            kinds.append(kind)
            sources.repeated += texts[-1][0] == texts[-1][1]
    if not images:
        return sources.task()
    breakdown = {kind: np.where([one == kind for one in kinds], 0, NONE) for kind in dict.fromkeys(filter(None, kinds))}
    return sources.task(Pairs(np.array(images), np.array(texts), places, breakdown))
