"""Right and wrong items, their means, and intervals that show whether a difference may be chance."""

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
"""Units on which two models must differ before a difference is measurable: with fewer a sign test stays above 5%."""

BREAKDOWN, BY_INDEX, CONTROL = "breakdown", "ties by index", "control"
"""Sides of metrics that never represent a benchmark. Each of the first two has a table of its own; a control follows
its metric."""

Groups = NDArray[np.int64]
Right = NDArray[np.bool_ | np.floating[Any]]


@dataclass(frozen=True)
class ItemRows:
    """The images and captions of n items, as rows of the task's lists; -1 stands for none."""

    images: NDArray[np.int64]  # [n, j]
    captions: NDArray[np.int64]  # [n, k], the right one first
    locations: Sequence[str] = ()  # file and position of each item; empty if unknown


@dataclass(frozen=True)
class ScoredItems:
    """Scored items of one question, each right or wrong, and the metrics that average them.

    Attributes:
        correct: Whether each item was right, bool [n], where a tie is wrong; or how right, float [n] from 0 to 1.
        unit: Unit of each item, int64 [n]. Items of one unit share an image, so they are not independent.
        metrics: For each metric the group of every item, int64 [n], -1 if the item does not count in it. The value of
            the metric is the mean over groups of the mean in each group: one group gives a micro mean, several give a
            macro mean.
        chance: Expected value of random answers, or None if there is no simple one.
        margin: Cosine of the right answer minus that of the best wrong one, float32 [n], or None.
        rows: Images and captions of each item, for the report item by item; None leaves these items out of it.
        side: "retrieval" or "classification" for such questions, or `BREAKDOWN` or `BY_INDEX`; "" for what the
            benchmark measures.
        controls: Whether each item is right with the mean of the other images in place of its image ("blind"), and
            with its image minus that mean ("grounded"), bool [n]. Each metric gets companions with these suffixes.
        lower_is_better: Whether a lower value is better, as for the fraction of confused images.
    """

    correct: Right
    unit: NDArray[np.int64]
    metrics: Mapping[str, Groups]
    chance: float | None = None
    margin: NDArray[np.float32] | None = None
    rows: ItemRows | None = None
    side: str = ""
    controls: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    lower_is_better: bool = False

    def value(self, metric: str) -> float:
        """One metric as a fraction of 1; nan if no item counts in it."""
        return _mean_of_groups(self.correct, self.metrics[metric])

    def count(self, metric: str) -> int:
        """Number of items in a metric."""
        return int((self.metrics[metric] >= 0).sum())


def _mean_of_groups(correct: Right, group: Groups) -> float:
    counted = group >= 0
    if not counted.any():
        return math.nan
    items, right = np.bincount(group[counted]), np.bincount(group[counted], weights=correct[counted])
    return float((right[items > 0] / items[items > 0]).mean())


def one_group(n: int) -> Groups:
    """The groups of a micro mean: all n items in one."""
    return np.zeros(n, dtype=np.int64)


def shared_units(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """The unit of each item, int64 [n]: items that share an image are in one unit, also by way of other items.

    The unit is the lowest image that is connected with those of the item; `images` are int64 [n, j].

    Example:
        >>> shared_units(np.array([[0, 1], [2, 3], [4, 1], [3, 5]]))
        array([0, 2, 0, 2])
    """
    lowest = np.arange(int(images.max()) + 1 if images.size else 0)  # connected with each image
    while True:
        before = lowest.copy()
        np.minimum.at(lowest, images, lowest[images].min(axis=1, keepdims=True))
        lowest = lowest[lowest]  # halves the length of chains
        if np.array_equal(lowest, before):
            return lowest[images[:, 0]]


@dataclass(frozen=True)
class Estimate:
    """A measured metric with its 95% interval.

    Attributes:
        value: The measured value, a fraction of 1.
        low: Lower end of the 95% interval.
        high: Upper end.
        n: Number of items.
        chance: Expected value of random answers, or None.
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
        value: The measured difference.
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
        """`gain` if it is measurable, else None."""
        return self.gain if self.measurable else None


@dataclass(frozen=True)
class Compared:
    """One metric of several models on the same items. The first model is the base.

    Attributes:
        metric: Name of the metric.
        estimates: One for each model.
        differences: For each model except the base its difference to the base.
        side: As in `ScoredItems`, or `CONTROL`.
    """

    metric: str
    estimates: Sequence[Estimate]
    differences: Sequence[Difference] = ()
    side: str = ""


def compare(models: Sequence[ScoredItems]) -> list[Compared]:
    """Estimate every metric of one set of items for several models, the base first. Controls follow their metric.

    The interval of a metric is Clopper and Pearson's, exact for independent items; that of a paired difference is
    Bonett and Price's. Items that can be right in part have normal intervals. If items share units, or a macro mean
    weighs them unequally, the intervals are computed for an effective number of independent items, which follows from
    the variance between units (Korn and Graubard).

    Source: Korn and Graubard, Survey Methodology 24 (1998), 193-201; Bonett and Price, Journal of Educational and
    Behavioral Statistics 37 (2012), 479-488.
    """
    base, comparisons = models[0], []
    for metric, group in base.metrics.items():
        if not (group >= 0).any():
            continue
        sample = _Sample(group, base.unit)
        variants = [(metric, base.side, [model.correct for model in models])]
        variants += [
            (f"{metric}_{name}", CONTROL, [model.controls[name] for model in models]) for name in base.controls
        ]
        for name, side, correct in variants:
            values = [_mean_of_groups(items, group) for items in correct]
            rights = [items[sample.counted] for items in correct]
            estimates = [
                Estimate(value, *sample.interval(right), len(right), base.chance)
                for value, right in zip(values, rights, strict=True)
            ]
            differences = [
                Difference(
                    value - values[0], *sample.difference(right, rights[0], value - values[0]), base.lower_is_better
                )
                for value, right in zip(values[1:], rights[1:], strict=True)
            ]
            comparisons.append(Compared(name, estimates, differences, side))
    return comparisons


class _Sample:
    """The items that count in one metric, n of them, with their weights and units."""

    def __init__(self, group: Groups, unit: NDArray[np.int64]) -> None:
        self.counted = group >= 0
        _, self.group, size = np.unique(group[self.counted], return_inverse=True, return_counts=True)
        self.weight = 1 / (len(size) * size[self.group])  # [n], sum 1
        _, self.unit = np.unique(unit[self.counted], return_inverse=True)
        self.units = int(self.unit.max()) + 1

    def mean(self, values: NDArray[Any]) -> float:
        return float((self.weight * values).sum())

    def effective_size(self, values: NDArray[Any]) -> float:
        """The number of independent items whose mean would be as uncertain as that of `values`, [n]."""
        if self.units == 1:
            return 1.0
        variance = self.mean(values.astype(float) ** 2) - self.mean(values) ** 2
        if variance < 1e-12:  # all values are equal: nothing shows how similar the items of a unit are
            return float(1 / (np.bincount(self.unit, self.weight) ** 2).sum())
        variance *= len(values) / (len(values) - 1)
        group_mean = np.bincount(self.group, values) / np.bincount(self.group)
        deviation = np.bincount(self.unit, self.weight * (values - group_mean[self.group]))
        variance_of_mean = (deviation**2).sum() * self.units / (self.units - 1)
        # At most as many as the weights allow. The fewer units, the less is known about how much they vary.
        most = 1 / (self.weight**2).sum()
        size = min(variance / variance_of_mean, most) if variance_of_mean > 0 else most
        return float(size * (_student_quantile(len(values) - 1) / _student_quantile(self.units - 1)) ** 2)

    def interval(self, right: NDArray[Any]) -> tuple[float, float]:
        """The 95% interval of a mean, Clopper and Pearson's; the normal one if items are right in part."""
        n, value = self.effective_size(right), self.mean(right)
        if right.dtype == np.bool_ or len(np.unique(right)) == 1:
            return _lower_bound(value * n, n), 1 - _lower_bound((1 - value) * n, n)
        half_width = self._half_width(right, n)
        return max(0.0, value - half_width), min(1.0, value + half_width)

    def difference(self, right: NDArray[Any], base: NDArray[Any], value: float) -> tuple[float, float, bool]:
        """The 95% interval of the difference `value` to the base, and whether it is measurable.

        The interval is Bonett and Price's: Wald's with one more item won and one more lost.
        """
        change = right.astype(float) - base
        n = self.effective_size(change)
        won, lost = ((n * self.mean(change == sign) + 1) / (n + 2) for sign in (1, -1))
        middle, half_width = won - lost, _NORMAL * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
        if right.dtype != np.bool_ and change.any():
            middle, half_width = value, self._half_width(change, n)
        low, high = max(-1.0, middle - half_width), min(1.0, middle + half_width)
        differing_units = len(np.unique(self.unit[change != 0]))
        return low, high, bool(differing_units >= DIFFERING and (low > 0 or high < 0))

    def _half_width(self, values: NDArray[Any], n: float) -> float:
        """Half the width of the normal interval of a mean of `n` independent items."""
        return _NORMAL * math.sqrt(max(0.0, self.mean(values**2) - self.mean(values) ** 2) / n)


def _student_quantile(freedom: int) -> float:
    """Student's 97.5% quantile, within 1% from three degrees of freedom on (Abramowitz and Stegun 26.7.5)."""
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _lower_bound(k: float, n: float) -> float:
    """The proportion for which k or more right items of n have a probability of 2.5%: a quantile of a beta density."""
    if k < 1e-9:
        return 0.0
    a, b = k, n - k + 1
    # On the scale of log odds the density is smooth and falls exponentially on both sides.
    half_width = 8 * math.sqrt(1 / a + 1 / b)
    odds = np.linspace(math.log(a / b) - half_width - 30 / a, math.log(a / b) + half_width + 30 / b, 8001)
    density = -a * np.logaddexp(0, -odds) - b * np.logaddexp(0, odds)
    mass = np.exp(density - density.max())
    below = np.cumsum(mass) - mass / 2
    return float(1 / (1 + math.exp(-np.interp((1 - LEVEL) / 2 * mass.sum(), below, odds))))
