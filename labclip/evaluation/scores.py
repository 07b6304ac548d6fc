"""Which items were right, how they are averaged, and what chance alone would have moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
DIFFERING = 6
"""Units on which two models must differ before a difference counts: with fewer a sign test stays above 5%."""

BREAKDOWN, BY_INDEX = "breakdown", "ties by index"
"""Sides of metrics that stand in tables of their own."""

Groups = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """What n items ask, as rows of a task's images and captions; text is made of it only where it is looked at.

    Attributes:
        images: The images of each item, int64 [n, j]; -1 stands for none.
        captions: The captions of each item, the right one first, int64 [n, k]; -1 stands for none.
        places: File and position of each item; empty where that is not known.
    """

    images: NDArray[np.int64]
    captions: NDArray[np.int64]
    places: Sequence[str] = ()


@dataclass(frozen=True)
class Scores:
    """Items of one kind, each right or wrong, and the metrics that average them.

    Attributes:
        correct: Whether each item was right, bool [n]. A tie is wrong.
        unit: What each item belongs to, int64 [n]: items of one image are resampled together, as they are not
            independent.
        metrics: For each metric the group of every item, int64 [n], -1 where the item is not in it. The metric's value
            is the mean over groups of the mean in each: one group is a micro mean, several are a macro mean.
        chance: Expected value without knowledge, or None where there is no simple one.
        margin: Cosine of the right answer minus that of the best wrong one, float32 [n], or a function that gives it
            once somebody looks at the items; or None.
        asked: What each item asks, for a report item by item; with None these items are not listed there.
        side: "retrieval" or "classification" where the question is of that kind; "" is what the benchmark measures. Of
            `BREAKDOWN` and `BY_INDEX` no metric stands for the benchmark.
        by_index: Which items are right where the first of equal answers is taken, as `argmax` does, bool [n], or a
            function that gives it. None where published code has ties wrong too.
    """

    correct: NDArray[np.bool_]
    unit: NDArray[np.int64]
    metrics: Mapping[str, Groups]
    chance: float | None = None
    margin: NDArray[np.float32] | Callable[[], NDArray[np.float32]] | None = None
    asked: Asked | None = None
    side: str = ""
    by_index: NDArray[np.bool_] | Callable[[], NDArray[np.bool_]] | None = None

    def value(self, metric: str) -> float:
        """One metric as a fraction of 1; nan where no item is in it."""
        group = self.metrics[metric]
        inside = group >= 0
        if not inside.any():
            return float("nan")
        items = np.bincount(group[inside])
        right = np.bincount(group[inside], weights=self.correct[inside])
        return float((right[items > 0] / items[items > 0]).mean())

    def margins(self) -> NDArray[np.float32]:
        """The margins, made where they were not yet; nan where there are none."""
        if self.margin is None:
            return np.full(len(self.correct), np.nan, dtype=np.float32)
        return self.margin() if callable(self.margin) else self.margin

    def count(self, metric: str) -> int:
        """Items in a metric."""
        return int((self.metrics[metric] >= 0).sum())


def ties_by_index(models: Sequence[Scores]) -> list[Scores]:
    """The same items with ties as published code has them; empty where that is as here."""
    return [
        Scores(
            one.by_index() if callable(one.by_index) else one.by_index,
            one.unit,
            {f"{metric}_index": group for metric, group in one.metrics.items()},
            one.chance,
            side=BY_INDEX,
        )
        for one in models
        if one.by_index is not None
    ]


def everything(n: int) -> Groups:
    """The group of a micro mean over all items."""
    return np.zeros(n, dtype=np.int64)


@dataclass(frozen=True)
class Estimate:
    """A metric with what a new draw of items could have made of it.

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
    """A metric of one model minus the same metric of another on the same items.

    Attributes:
        value: As measured.
        low: Lower end of the 95% interval of paired resampling.
        high: Upper end.
        measurable: Whether the interval excludes zero and the models differ on at least `DIFFERING` units.
    """

    value: float
    low: float
    high: float
    measurable: bool


@dataclass(frozen=True)
class Compared:
    """One metric of several models on the same items, the first of which is the base.

    Attributes:
        metric: Its name.
        estimates: One a model.
        differences: Of each model but the first, to the first.
        side: As of `Scores`.
    """

    metric: str
    estimates: Sequence[Estimate]
    differences: Sequence[Difference] = field(default=())
    side: str = ""


def compare(models: Sequence[Scores], *, resamples: int = RESAMPLES, seed: int = 0) -> list[Compared]:
    """Estimate every metric of one set of items for several models, the base first.

    Units are drawn with replacement, the same draws for all models, so that differences are paired; intervals are
    percentiles. A group with no item in a draw is left out of that draw's macro mean. Where every item is right, or
    none, all draws are alike, and the interval is the exact one of as many units.
    """
    first = models[0]
    columns = [_Column(metric, group, first.unit) for metric, group in first.metrics.items() if (group >= 0).any()]
    _, units = np.unique(first.unit, return_inverse=True)
    right = [np.concatenate([column.sums(units, scores.correct) for column in columns], axis=1) for scores in models]
    items = np.concatenate([column.sums(units, np.ones(len(units), dtype=np.bool_)) for column in columns], axis=1)
    drawn: list[list[NDArray[np.float64]]] = [[] for _ in models]
    for counts in _draws(int(units.max()) + 1, resamples, seed):
        total = counts @ items
        with np.errstate(invalid="ignore"):
            for model, sums in enumerate(right):
                drawn[model].append(_means(counts @ sums / total, columns))
    values = [np.concatenate(parts) for parts in drawn]  # each [resamples, metrics]
    compared = []
    for c, column in enumerate(columns):
        estimates = [_estimate(scores, column, units, drew[:, c]) for scores, drew in zip(models, values, strict=True)]
        differences = [
            _difference(first, scores, column, units, drew[:, c] - values[0][:, c])
            for scores, drew in zip(models[1:], values[1:], strict=True)
        ]
        compared.append(Compared(column.metric, estimates, differences, first.side))
    return compared


class _Column:
    """The groups of one metric, one column each."""

    def __init__(self, metric: str, group: Groups, unit: NDArray[np.int64]) -> None:
        self.metric, self.inside = metric, group >= 0
        _, compact = np.unique(group[self.inside], return_inverse=True)
        self.group, self.n = compact, int(self.inside.sum())
        self.groups = int(compact.max()) + 1

    def sums(self, units: NDArray[np.int64], values: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Sum of values over each unit's items in each group, [units, groups]."""
        cell = units[self.inside] * self.groups + self.group
        size = (int(units.max()) + 1) * self.groups
        summed = np.bincount(cell, weights=values[self.inside], minlength=size)
        return summed.reshape(-1, self.groups).astype(np.float32)


def _draws(units: int, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """How often each unit was drawn, float32 [some resamples, units], a few megabytes at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, min(resamples, 4_000_000 // units))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(0, units, size=(rows, units), dtype=np.int32)
        drawn += (np.arange(rows, dtype=np.int32) * units)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float32)


def _means(values: NDArray[np.float64], columns: Sequence[_Column]) -> NDArray[np.float64]:
    """Mean over each metric's groups: [resamples, all groups] -> [resamples, metrics]."""
    ends = np.cumsum([column.groups for column in columns])[:-1]
    with np.errstate(invalid="ignore"):
        parts = np.split(values, ends, axis=1)
        return np.stack([np.nansum(p, axis=1) / (~np.isnan(p)).sum(axis=1) for p in parts], axis=1)


def _interval(drawn: NDArray[np.float64], widest: tuple[float, float]) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return widest
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _estimate(scores: Scores, column: _Column, units: NDArray[np.int64], drawn: NDArray[np.float64]) -> Estimate:
    value = scores.value(column.metric)
    low, high = _interval(drawn, (0.0, 1.0))
    # Clopper and Pearson's interval of n out of n.
    edge = ((1 - LEVEL) / 2) ** (1 / len(np.unique(units[column.inside])))
    if value == 1:
        low = min(low, edge)
    if value == 0:
        high = max(high, 1 - edge)
    return Estimate(value, low, high, column.n, scores.chance)


def _difference(
    base: Scores, other: Scores, column: _Column, units: NDArray[np.int64], drawn: NDArray[np.float64]
) -> Difference:
    low, high = _interval(drawn, (-1.0, 1.0))
    moved = units[column.inside][(base.correct != other.correct)[column.inside]]
    differing = len(np.unique(moved))
    value = other.value(column.metric) - base.value(column.metric)
    return Difference(value, low, high, bool(differing >= DIFFERING and (low > 0 or high < 0)))
