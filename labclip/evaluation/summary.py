"""The metrics that a report shows, by side, and what it says of them: what the base does, and what a matrix costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from labclip.evaluation.results import Result
from labclip.evaluation.scores import CONTROL, Compared, Difference, Estimate
from labclip.evaluation.sources import Benchmark
from labclip.report.values import percent, signed, worded

SIDES = {"binding": "binding", "retrieval": "retrieval", "classification": "zero-shot classification"}
"""`Benchmark.measures` in words: a matrix is for the first, and may cost the others."""

KNOWN = 0.9
"""Accuracy that the whole interval reaches where a model "tells" in the first sentence of a report."""

_ATTRIBUTES = ("scenes", "clevr", "pug-spar", "pug-spare", "vg-a")
"""Benchmarks whose wrong captions have attributes swapped."""


@dataclass(frozen=True)
class Shown:
    """One metric of one benchmark, the side it is on, its controls; and the title, where those of several are told."""

    benchmark: Benchmark
    compared: Compared
    side: str
    title: str = ""
    controls: list[Compared] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name in a sentence."""
        return (f"{self.title}, " if self.title else "") + worded(self.compared.metric)

    @property
    def stands(self) -> bool:
        """Whether it stands for its benchmark."""
        return self.compared.metric in self.benchmark.headline


def metrics(result: Result, *, titled: bool = False) -> list[Shown]:
    """All metrics of one benchmark, binding first; on the side of their question, else on that of the benchmark."""
    benchmark, shown = result.benchmark, list[Shown]()
    for compared in result.compared:
        if compared.side == CONTROL:
            shown[-1].controls.append(compared)  # it stands behind its metric
        else:
            shown.append(
                Shown(benchmark, compared, compared.side or benchmark.measures, benchmark.title if titled else "")
            )
    return _by_side(shown)


def headline(results: Sequence[Result]) -> list[Shown]:
    """The metrics that stand for each benchmark, binding first; of a side with none of them all its metrics."""
    chosen = []
    for result in results:
        every = metrics(result, titled=True)
        sides = {metric.side for metric in every if metric.stands or metric.side not in SIDES}
        chosen += [metric for metric in every if metric.stands or metric.side not in sides]
    return _by_side(chosen)


def _by_side(shown: Iterable[Shown]) -> list[Shown]:
    order = list(SIDES)
    return sorted(shown, key=lambda metric: order.index(metric.side) if metric.side in SIDES else len(order))


def lead_metric(chosen: Sequence[Shown]) -> Shown:
    """The metric that the first sentence tells: of binding, "binding" or "swap" before the first headline metric."""
    mine = [metric for metric in chosen if metric.side == "binding"] or chosen
    mine = [metric for metric in mine if metric.benchmark.name == mine[0].benchmark.name]
    order = ("binding", "swap", *mine[0].benchmark.headline, *(metric.compared.metric for metric in mine))
    return min(mine, key=lambda metric: order.index(metric.compared.metric))


def opening(shown: Shown) -> str:
    """The base's result as a plain sentence."""
    base, title, words = shown.compared.estimates[0], shown.benchmark.title, worded(shown.compared.metric)
    if shown.side != "binding":
        return f"This model gets {percent(base.value)}% in {words}{_guessing(base)} on {title}."
    of = title if shown.compared.metric == "binding" else f"{title}, {words}"
    if shown.benchmark.name in _ATTRIBUTES:
        return f"This model {attributes(base)} on {of}."
    known = "tells right captions from wrong ones" if base.low >= KNOWN else "confuses right and wrong captions"
    return f"This model {known}: {percent(base.value)}% accuracy{_guessing(base)} on {of}."


def attributes(base: Estimate) -> str:
    """A model's accuracy on swapped attributes, as the end of a sentence."""
    verb = "tells" if base.low >= KNOWN else "confuses"
    return f"{verb} which attribute belongs to which object: {percent(base.value)}% accuracy{_guessing(base)}"


def _guessing(base: Estimate) -> str:
    return "" if base.chance is None else f" (chance {percent(base.chance)}%)"


def cost_sentence(others: Mapping[str, Difference]) -> str:
    """The cost as a sentence: the largest measurable loss among some metrics, never a mean."""
    losses = [(-moved.gain, name) for name, moved in others.items() if moved.measurable and moved.gain < 0]
    if not others:
        return "What it costs was not measured."
    if not losses:
        return f"It costs nothing measurable in {_count(len(others), 'other figure')}."
    more = f", and less in {_count(len(losses) - 1, 'other')}" if len(losses) > 1 else ""
    loss, name = max(losses, key=lambda pair: pair[0])
    return f"It costs {_count(percent(loss), 'point')} in {name.removesuffix(' (R@1)')}{more}."


def _count(count: int | str, noun: str) -> str:
    return f"{count} {noun if str(count) == '1' else noun + 's'}"


def interval(difference: Difference) -> str:
    """The 95% interval of a difference."""
    return f"[{signed(difference.low)}, {signed(difference.high)}]"
