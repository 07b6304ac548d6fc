"""Items of two images and two captions, which goes with which: what several benchmarks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Pairs

PairRow = tuple[str, Sequence[int | None], Sequence[Any], Sequence[str]]
"""File and position, the rows of both images, both captions in the same order, and the kinds that the item is of."""


def pairs_of(sources: Sources, rows: Iterable[PairRow]) -> list[Pairs]:
    """The question of a benchmark's rows; each kind of items has its scores in a table of its own. None without a row.

    A row is left out if an image is missing. One whose captions are equal is wrong in every score.

    Raises:
        ValueError: If a caption is no text.
    """
    images, texts = [], []
    places: list[str] = []
    kinds: dict[str, list[int]] = {}
    for place, shown, said, of in rows:
        for caption in said:
            sources.captions.check(caption, place)
        if None in shown:
            continue
        for kind in of:
            kinds.setdefault(kind, []).append(len(places))
        images.append(shown)
        texts.append([sources.captions.row(caption, place) for caption in said])
        places.append(place)
        sources.repeated += texts[-1][0] == texts[-1][1]
    if not images:
        return []
    everyone = np.arange(len(places))
    breakdown = {kind: np.where(np.isin(everyone, kinds[kind]), 0, NONE) for kind in sorted(kinds)}
    return [Pairs(np.array(images), np.array(texts), places, breakdown)]
