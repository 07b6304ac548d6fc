"""Gains beside costs in short: which side of the trade a metric is on, headline metrics, a sentence for each model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labclip.evaluation.scores import Compared, Difference
from labclip.evaluation.sources import Benchmark
from labclip.report.values import signed

if TYPE_CHECKING:
    from labclip.evaluation.report import Report, Result

SIDES: dict[str, str] = {
    "binding": "binding",
    "retrieval": "retrieval",
    "classification": "zero-shot classification",
}
"""What a `Benchmark.measures` is called; the first is what a matrix is for, the others what it may cost."""

UNMEASURABLE = "no measurable difference"
COMMANDS: dict[str, str] = {
    "binding": "labclip evaluate sugarcrepe --model MODEL --data PATH --images DIR",
    "retrieval": "labclip evaluate coco --model MODEL --data PATH --images DIR",
    "classification": "labclip evaluate zero-shot --model MODEL --data PATH",
}
"""What measures a side, by a benchmark that everybody can get."""


@dataclass(frozen=True)
class Shown:
    """One metric of one benchmark, with where it stands."""

    benchmark: Benchmark
    compared: Compared
    side: str

    def name(self, several: bool) -> str:
        """What it is called, where metrics of several benchmarks are told and where of one."""
        return f"{self.benchmark.title} {self.compared.metric}" if several else self.compared.metric


def side(benchmark: Benchmark, compared: Compared) -> str:
    """What the question says, else what the benchmark measures: a key of `SIDES`, or that of a table of its own."""
    return compared.side or benchmark.measures


def metrics(result: Result) -> list[Shown]:
    """All metrics of one benchmark, binding first."""
    return _by_side(Shown(result.benchmark, one, side(result.benchmark, one)) for one in result.compared)


def headline(report: Report) -> list[Shown]:
    """The metrics that stand for each benchmark, binding first; of a side with none of them all its metrics."""
    chosen = []
    for result in report.results:
        every = metrics(result)
        told = {one.side for one in every if one.compared.metric in result.benchmark.headline or one.side not in SIDES}
        chosen += [one for one in every if one.compared.metric in result.benchmark.headline or one.side not in told]
    return _by_side(chosen)


def _by_side(shown: Iterable[Shown]) -> list[Shown]:
    order = list(SIDES)
    return sorted(shown, key=lambda one: order.index(one.side) if one.side in SIDES else len(order))


def reading(chosen: Sequence[Shown], model: int, *, several: bool = False) -> str:
    """What one model gained and lost, side by side.

    A side of one metric is told by its difference. Of several, those that differ measurably are counted, better and
    worse, and the largest of either is named: a loss is never averaged away. `model` is the place among those that are
    not the base.
    """
    parts = []
    for key, words in SIDES.items():
        differences = {one.name(several): one.compared.differences[model] for one in chosen if one.side == key}
        if differences:
            parts.append(f"{words} {_told(differences)}")
    return "; ".join(parts)


def unmeasured(report: Report) -> list[str]:
    """For each side that nothing was measured of: that it was not, and what to type."""
    measured = {one.side for result in report.results for one in metrics(result)}
    own = {result.benchmark.name for result in report.results} <= {"csv", "features"}
    commands = COMMANDS | ({"binding": "labclip negatives IN OUT"} if own else {})
    return [
        f"{words[0].upper()}{words[1:]} was not measured. Type: `{commands[key]}`"
        for key, words in SIDES.items()
        if key not in measured
    ]


def told(difference: Difference) -> str:
    """A difference with its interval, or that there is none to be told."""
    return f"{signed(difference.value)} {interval(difference)}" if difference.measurable else UNMEASURABLE


def interval(difference: Difference) -> str:
    """The 95% interval of a difference."""
    return f"[{signed(difference.low)}, {signed(difference.high)}]"


def _told(differences: Mapping[str, Difference]) -> str:
    if len(differences) == 1:
        return told(next(iter(differences.values())))
    moved = {name: one for name, one in differences.items() if one.measurable}
    if not moved:
        return f"{UNMEASURABLE} in any of {len(differences)} metrics"
    counts, most = [], []
    for word, sign in (("better", 1), ("worse", -1)):
        group = {name: one.value * sign for name, one in moved.items() if one.value * sign > 0}
        if group:
            name = max(group, key=lambda name: group[name])
            counts.append(f"{word} in {len(group)}")
            most.append(f"{told(moved[name])} ({name})")
    return f"{' and '.join(counts)} of {len(differences)} metrics, at most {' and '.join(most)}"
