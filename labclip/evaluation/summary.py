"""The metrics that a report shows, sorted by side, and its sentences: what the base does, and what a matrix costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labclip.evaluation.results import Result
from labclip.evaluation.scores import CONTROL, Compared, Difference, Estimate
from labclip.evaluation.sources import Benchmark
from labclip.report.values import metric_words, percent

SIDES = {"binding": "binding", "retrieval": "retrieval", "classification": "zero-shot classification"}
"""`Benchmark.measures` in words. A matrix is meant to improve the first side, and may cost something on the others."""

TELLS_FROM = 0.9
"""A report says that a model "tells" right from wrong if the whole interval of its accuracy is at least this high."""

_ATTRIBUTES = ("scenes", "clevr", "pug-spar", "pug-spare", "vg-a")
"""Benchmarks whose wrong captions have attributes swapped."""


@dataclass(frozen=True)
class MetricEntry:
    """A metric of a benchmark, its side and its controls; with the benchmark's title where several are shown."""

    benchmark: Benchmark
    compared: Compared
    side: str
    title: str = ""
    controls: list[Compared] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the metric in a sentence."""
        return (f"{self.title}, " if self.title else "") + metric_words(self.compared.metric)

    @property
    def in_headline(self) -> bool:
        """Whether the metric represents its benchmark."""
        return self.compared.metric in self.benchmark.headline


def metrics(*results: Result) -> list[MetricEntry]:
    """The metrics of one benchmark, binding first; of several the headlines, and all of a side that has no headline.

    The side of a metric is that of its question, or else that of its benchmark.
    """
    entries, has_several, order = list[MetricEntry](), len(results) > 1, list(SIDES)
    for result in results:
        benchmark, own_entries = result.benchmark, list[MetricEntry]()
        for compared in result.compared:
            if compared.side == CONTROL:
                own_entries[-1].controls.append(compared)  # controls follow their metric
            else:
                title = benchmark.title if has_several else ""
                own_entries.append(MetricEntry(benchmark, compared, compared.side or benchmark.measures, title))
        if has_several:
            sides = {entry.side for entry in own_entries if entry.in_headline or entry.side not in SIDES}
            own_entries = [entry for entry in own_entries if entry.in_headline or entry.side not in sides]
        entries += own_entries
    return sorted(entries, key=lambda entry: order.index(entry.side) if entry.side in SIDES else len(order))


def lead_metric(entries: Sequence[MetricEntry]) -> MetricEntry:
    """The metric for the first sentence: of binding, and "binding" or "swap" before the first headline metric."""
    candidates = [entry for entry in entries if entry.side == "binding"] or entries
    benchmark = candidates[0].benchmark
    candidates = [entry for entry in candidates if entry.benchmark.name == benchmark.name]
    order = ("binding", "swap", *benchmark.headline, *(entry.compared.metric for entry in candidates))
    return min(candidates, key=lambda entry: order.index(entry.compared.metric))


def base_sentence(entry: MetricEntry) -> str:
    """The base's result as a plain sentence."""
    base, title, words = entry.compared.estimates[0], entry.benchmark.title, metric_words(entry.compared.metric)
    if entry.side != "binding":
        return f"This model gets {percent(base.value)}% in {words}{_chance_words(base)} on {title}."
    subject = title if entry.compared.metric == "binding" else f"{title}, {words}"
    return f"This model {binding_phrase(base, attributes=entry.benchmark.name in _ATTRIBUTES)} on {subject}."


def binding_phrase(base: Estimate, *, attributes: bool = True) -> str:
    """A model's accuracy on right and wrong captions, or on swapped attributes, as the end of a sentence."""
    verb, link = ("tells", "from") if base.low >= TELLS_FROM else ("confuses", "and")
    what = "which attribute belongs to which object" if attributes else f"right {link} wrong captions"
    return f"{verb} {what}: {percent(base.value)}% accuracy{_chance_words(base)}"


def _chance_words(base: Estimate) -> str:
    return "" if base.chance is None else f" (chance {percent(base.chance)}%)"


def cost_sentence(others: Mapping[str, Difference]) -> str:
    """The cost as a sentence: the largest measurable loss among these metrics, never a mean."""
    losses = [(-change.gain, name) for name, change in others.items() if change.measurable and change.gain < 0]
    if not others:
        return "What it costs was not measured."
    if not losses:
        return f"It costs nothing measurable in {_count(len(others), 'other figure')}."
    further = f", and less in {_count(len(losses) - 1, 'other')}" if len(losses) > 1 else ""
    loss, name = max(losses, key=lambda pair: pair[0])
    return f"It costs {_count(percent(loss), 'point')} in {name.removesuffix(' (R@1)')}{further}."


def _count(count: int | str, noun: str) -> str:
    return f"{count} {noun if str(count) == '1' else noun + 's'}"
