"""Search with what people type: a query that several images of a gallery answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip.evaluation.scores import Asked, Groups, ScoredItems
from labclip.metrics import TIE
from labclip.report.values import LOWER_IS_BETTER

TOP = 5
_BLOCK = 4_000_000  # cosines at a time


@dataclass(frozen=True)
class Search:
    """Queries, each with all images that answer it, and those that hold its words bound to other objects.

    Attributes:
        images: The gallery, int64 [n], rows of `Task.images`.
        queries: int64 [m], rows of `Task.captions`; each has an image that answers it.
        right: Whether an image answers a query, bool [m, n].
        confused: Whether an image has the words of a query on different objects, bool [m, n]; none that is right.
        groups: By what stands behind the metrics' names, the group of every query: {"": all} is one mean of all.
    """

    images: NDArray[np.int64]
    queries: NDArray[np.int64]
    right: NDArray[np.bool_]
    confused: NDArray[np.bool_]
    groups: Mapping[str, Groups]

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """`search_map`, the mean average precision; of the top five what is right and what is confused.

        `search_p5` is the fraction of the top five that is right, `search_confused5` the fraction that is confused.
        Nearer by less than `metrics.TIE` is a tie, and counts against the query: wrong images come first. As an item a
        query is right if all images that answer it come first; its margin is that of the first of them.
        """
        gallery = images[torch.from_numpy(self.images)]
        found: list[tuple[float, float, float, float]] = []
        step = max(1, _BLOCK // len(gallery))
        for start in range(0, len(self.queries), step):
            for cosine in (texts[torch.from_numpy(self.queries[start : start + step])] @ gallery.T).numpy():
                found.append(_of_query(cosine, self.right[len(found)], self.confused[len(found)]))
        *columns, margin = (np.array(values) for values in zip(*found, strict=True))
        asked = Asked(np.empty((len(found), 0), dtype=np.int64), self.queries[:, None])
        return [
            ScoredItems(
                values,
                np.arange(len(values)),
                {f"search_{name}{ending}": group for ending, group in self.groups.items()},
                margin=margin.astype(np.float32) if name == "map" else None,
                asked=asked if name == "map" else None,
                lower_is_better=f"search_{name}".startswith(LOWER_IS_BETTER),
            )
            for name, values in zip(("map", f"p{TOP}", f"confused{TOP}"), columns, strict=True)
        ]


def _of_query(
    cosine: NDArray[np.float32], right: NDArray[np.bool_], confused: NDArray[np.bool_]
) -> tuple[float, float, float, float]:
    """Average precision, of the top five what is right and what is confused, and the margin; cosines [n] of a query."""
    own, wrong = np.sort(cosine[right])[::-1], np.sort(cosine[~right])
    ahead = len(wrong) - np.searchsorted(wrong, own - TIE)  # wrong images at least as near as each right one
    place = np.arange(1, len(own) + 1) + ahead
    fifth = np.sort(cosine)[::-1][:TOP][-1]  # of a tie at the last place any image may be shown
    return (
        float((np.arange(1, len(own) + 1) / place).mean()),
        float((place <= TOP).sum() / TOP),
        min(int((cosine[confused] >= fifth - TIE).sum()), TOP) / TOP,
        float(own[0] - wrong[-1]) if len(wrong) else np.nan,
    )
