"""Right and wrong items, their averages, and intervals that tell a difference from chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)
DIFFERING = 6
"""Units on which two models must differ before a difference counts: with fewer a sign test stays above 5%."""

BREAKDOWN, BY_INDEX, CONTROL = "breakdown", "ties by index", "control"
"""Sides of metrics that never stand for a benchmark: the first two have a table of their own, a control stands behind
the metric that it is of."""

Groups = NDArray[np.int64]
Right = NDArray[np.bool_ | np.floating[Any]]


@dataclass(frozen=True)
class Asked:
    """The images and captions of n items, as rows of a task's.

    Attributes:
        images: The images of each item, int64 [n, j]; -1 stands for none.
        captions: The captions of each item, the right one first, int64 [n, k]; -1 stands for none.
        locations: File and position of each item; empty where that is not known.
    """

    images: NDArray[np.int64]
    captions: NDArray[np.int64]
    locations: Sequence[str] = ()


@dataclass(frozen=True)
class ScoredItems:
    """Scored items of one question, each right or wrong, and the metrics that average them.

    Attributes:
        correct: Whether each item was right, bool [n], where a tie is wrong; or how right, float [n] from 0 to 1.
        unit: What each item belongs to, int64 [n]: items of one unit share an image, and so are not independent.
        metrics: For each metric the group of every item, int64 [n], -1 where the item is not in it. The metric's value
            is the mean over groups of the mean in each: one group is a micro mean, several are a macro mean.
        chance: Expected value without knowledge, or None where there is no simple one.
        margin: Cosine of the right answer minus that of the best wrong one, float32 [n], or None.
        asked: What each item asks, for a report item by item; with None these items are not listed there.
        side: "retrieval" or "classification" where the question is of that kind, or `BREAKDOWN` or `BY_INDEX`; "" is
            what the benchmark measures.
        controls: Which items would be right by less than image and caption, bool [n] each: "blind" and "grounded" give
            every metric its companions `NAME_blind` and `NAME_grounded`.
        lower_is_better: Whether a lower value is better, as for the fraction of confused images.
    """

    correct: Right
    unit: NDArray[np.int64]
    metrics: Mapping[str, Groups]
    chance: float | None = None
    margin: NDArray[np.float32] | None = None
    asked: Asked | None = None
    side: str = ""
    controls: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    lower_is_better: bool = False

    def value(self, metric: str) -> float:
        """One metric as a fraction of 1; nan where no item is in it."""
        return _mean_of_groups(self.correct, self.metrics[metric])

    def count(self, metric: str) -> int:
        """Items in a metric."""
        return int((self.metrics[metric] >= 0).sum())


def _mean_of_groups(correct: Right, group: Groups) -> float:
    inside = group >= 0
    if not inside.any():
        return math.nan
    items, right = np.bincount(group[inside]), np.bincount(group[inside], weights=correct[inside])
    return float((right[items > 0] / items[items > 0]).mean())


def everything(n: int) -> Groups:
    """The group of a micro mean over all items."""
    return np.zeros(n, dtype=np.int64)


def connected(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """The unit of each item: items share one that share an image, or that others join by their images.

    Of images int64 [n, j] it is the least that can be reached from an item's own, int64 [n].

    Example:
        >>> connected(np.array([[0, 1], [2, 3], [4, 1], [3, 5]]))
        array([0, 2, 0, 2])
    """
    least = np.arange(int(images.max()) + 1 if images.size else 0)
    while True:
        before = least.copy()
        np.minimum.at(least, images, least[images].min(axis=1, keepdims=True))
        least = least[least]  # the way halves each time
        if np.array_equal(least, before):
            return least[images[:, 0]]


@dataclass(frozen=True)
class Estimate:
    """A measured metric with its 95% interval.

    Attributes:
        value: As measured, a fraction of 1.
        low: Lower end of the 95% interval.
        high: Upper end.
        n: Items.
        chance: Value without knowledge, or None.
    """

    value: float
    low: float
    high: float
    n: int
    chance: float | None = None


@dataclass(frozen=True)
class Difference:
    """The difference of a metric between two models on the same items.

    Attributes:
        value: As measured.
        low: Lower end of the 95% interval of paired items.
        high: Upper end.
        measurable: Whether the interval excludes zero and the models differ on at least `DIFFERING` units.
        lower_is_better: As in `ScoredItems`.
    """

    value: float
    low: float
    high: float
    measurable: bool
    lower_is_better: bool = False

    @property
    def gain(self) -> float:
        """The difference, above 0 if it is an improvement."""
        return -self.value if self.lower_is_better else self.value

    @property
    def measured(self) -> float | None:
        """`gain` where it is measurable, else None."""
        return self.gain if self.measurable else None


@dataclass(frozen=True)
class Compared:
    """One metric of several models on the same items, the first of which is the base.

    Attributes:
        metric: Its name.
        estimates: One for each model.
        differences: One for each model but the first, against the first.
        side: As in `ScoredItems`, or `CONTROL`.
    """

    metric: str
    estimates: Sequence[Estimate]
    differences: Sequence[Difference] = ()
    side: str = ""


def compare(models: Sequence[ScoredItems]) -> list[Compared]:
    """Estimate every metric of one set of items for several models, the base first; each control behind its metric.

    The interval of a metric is Clopper and Pearson's, exact for independent items; that of a paired difference is
    Bonett and Price's; those of items that are right in part are the normal ones. Where items share units, or a macro
    mean weighs them unequally, both are of the number of independent items with the variance that the units show, as
    Korn and Graubard have it.

    Source: Korn and Graubard, Survey Methodology 24 (1998), 193-201; Bonett and Price, Journal of Educational and
    Behavioral Statistics 37 (2012), 479-488.
    """
    first, compared = models[0], []
    for metric, group in first.metrics.items():
        if not (group >= 0).any():
            continue
        sample = _Sample(group, first.unit)
        asked = [(metric, first.side, [model.correct for model in models])]
        asked += [(f"{metric}_{name}", CONTROL, [model.controls[name] for model in models]) for name in first.controls]
        for name, side, correct in asked:
            values = [_mean_of_groups(answers, group) for answers in correct]
            base, *others = right = [answers[sample.inside] for answers in correct]
            estimates = [
                Estimate(value, *sample.interval(hits), len(hits), first.chance)
                for value, hits in zip(values, right, strict=True)
            ]
            differences = [
                Difference(value - values[0], *sample.difference(hits, base, value - values[0]), first.lower_is_better)
                for value, hits in zip(values[1:], others, strict=True)
            ]
            compared.append(Compared(name, estimates, differences, side))
    return compared


class _Sample:
    """The items of one metric: what each counts, [items], and its unit."""

    def __init__(self, group: Groups, unit: NDArray[np.int64]) -> None:
        self.inside = group >= 0
        _, self.group, size = np.unique(group[self.inside], return_inverse=True, return_counts=True)
        self.weight = 1 / (len(size) * size[self.group])
        _, self.unit = np.unique(unit[self.inside], return_inverse=True)
        self.units = int(self.unit.max()) + 1

    def mean(self, values: NDArray[Any]) -> float:
        return float((self.weight * values).sum())

    def independent(self, values: NDArray[Any]) -> float:
        """The effective sample size: independent items whose mean would be as uncertain as that of `values`."""
        if self.units == 1:
            return 1.0
        variance = self.mean(values.astype(float) ** 2) - self.mean(values) ** 2
        if variance < 1e-12:  # all alike: nothing shows how much items of a unit have in common
            return float(1 / (np.bincount(self.unit, self.weight) ** 2).sum())
        variance *= len(values) / (len(values) - 1)
        of_group = np.bincount(self.group, values) / np.bincount(self.group)
        moved = np.bincount(self.unit, self.weight * (values - of_group[self.group]))
        shown = (moved**2).sum() * self.units / (self.units - 1)
        # Never more than were weighed; and the fewer the units, the less is known about how much they vary.
        most = 1 / (self.weight**2).sum()
        count = min(variance / shown, most) if shown > 0 else most
        return float(count * (_student(len(values) - 1) / _student(self.units - 1)) ** 2)

    def interval(self, right: NDArray[Any]) -> tuple[float, float]:
        """Clopper and Pearson's; the normal one of items that are right in part."""
        n, value = self.independent(right), self.mean(right)
        if right.dtype == np.bool_ or len(np.unique(right)) == 1:
            return _least(value * n, n), 1 - _least((1 - value) * n, n)
        wide = self._normal(right, n)
        return max(0.0, value - wide), min(1.0, value + wide)

    def difference(self, right: NDArray[Any], base: NDArray[Any], value: float) -> tuple[float, float, bool]:
        """Bonett and Price's interval, Wald's with one more item won and one more lost; and whether it counts."""
        moved = right.astype(float) - base
        n = self.independent(moved)
        won, lost = ((n * self.mean(moved == way) + 1) / (n + 2) for way in (1, -1))
        middle, wide = won - lost, _NORMAL * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
        if right.dtype != np.bool_ and moved.any():
            middle, wide = value, self._normal(moved, n)
        low, high = max(-1.0, middle - wide), min(1.0, middle + wide)
        differing = len(np.unique(self.unit[moved != 0]))
        return low, high, bool(differing >= DIFFERING and (low > 0 or high < 0))

    def _normal(self, values: NDArray[Any], n: float) -> float:
        """Half of the normal interval of a mean of `n` independent items."""
        return _NORMAL * math.sqrt(max(0.0, self.mean(values**2) - self.mean(values) ** 2) / n)


def _student(freedom: int) -> float:
    """Student's 97.5% quantile, to 1% from three degrees of freedom on (Abramowitz and Stegun 26.7.5)."""
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _least(k: float, n: float) -> float:
    """The proportion at which k of n, or more, has a probability of 2.5%: a quantile of the beta distribution."""
    if k < 1e-9:
        return 0.0
    a, b = k, n - k + 1
    # On the scale of log odds the density is smooth and falls off exponentially on both sides.
    wide = 8 * math.sqrt(1 / a + 1 / b)
    odds = np.linspace(math.log(a / b) - wide - 30 / a, math.log(a / b) + wide + 30 / b, 8001)
    density = -a * np.logaddexp(0, -odds) - b * np.logaddexp(0, odds)
    mass = np.exp(density - density.max())
    below = np.cumsum(mass) - mass / 2
    return float(1 / (1 + math.exp(-np.interp((1 - LEVEL) / 2 * mass.sum(), below, odds))))
