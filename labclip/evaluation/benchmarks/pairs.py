"""Items of two images and two captions, which goes with which: what several benchmarks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from labclip.evaluation.scores import Scores
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Pairs, Task

PairRow = tuple[str, Sequence[int | None], Sequence[Any], str]
"""File and position, the rows of both images, both captions in the same order, and the kind of the item or ""."""


@dataclass(frozen=True)
class PairsOfKinds(Pairs):
    """`Pairs` with the scores of each kind too, called `kind_text` and so on.

    Attributes:
        kinds: The kind of each item, "" for none.
    """

    kinds: Sequence[str] = ()

    def score(self, images: Tensor, texts: Any) -> list[Scores]:
        """`text`, `image` and `group`, of all items and of each kind."""
        inside = {
            kind: np.where([one == kind for one in self.kinds], 0, NONE)
            for kind in dict.fromkeys(filter(None, self.kinds))
        }
        return [
            replace(one, metrics={**one.metrics, **{f"{kind}_{name}": rows for kind, rows in inside.items()}})
            for one in super().score(images, texts)
            for name in one.metrics
        ]


def pairs_task(sources: Sources, rows: Iterable[PairRow]) -> Task:
    """The task of a benchmark's rows.

    A row is left out if an image is missing. One whose captions are equal is wrong in every score.

    Raises:
        FileNotFoundError: If images are missing and `on_missing` is "raise".
        ValueError: If a caption is no text, or there is no item.
    """
    images, texts, places, kinds, equal = [], [], [], [], 0
    for place, shown, said, kind in rows:
        if None not in shown:
            images.append(shown)
            texts.append([sources.captions.row(caption, place) for caption in said])
            places.append(place)
            kinds.append(kind)
            equal += texts[-1][0] == texts[-1][1]
    if equal:
        sources.notes.append(f"{equal:,} items have one caption twice, which counts as wrong.")
    if not images:
        return sources.task()
    asked = np.array(images, dtype=np.int64), np.array(texts, dtype=np.int64)
    return sources.task(PairsOfKinds(*asked, places=places, kinds=kinds))
