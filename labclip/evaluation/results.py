"""What an evaluation found, as values and as JSON; nothing of how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from labclip.data.entries import fields
from labclip.evaluation.answers import Answer
from labclip.evaluation.scores import Compared, Difference, Estimate
from labclip.evaluation.sources import Benchmark
from labclip.report.values import Section


@dataclass(frozen=True)
class Result:
    """One benchmark, all models on the same items.

    Attributes:
        benchmark: What was asked.
        compared: Its metrics; estimates in the order of `Report.models`.
        notes: What was left out, which choices were made.
        images: Number of distinct images.
        captions: Number of distinct captions.
        data: Where its files are, as the user said; "" where it needs none.
        options: Its options, as the user said.
        items: Every item with each model's answer; empty in a report that was read from a file.
        example: One of the items with its image, for a page; None where there is none, or it was read from a file.
    """

    benchmark: Benchmark
    compared: Sequence[Compared]
    notes: Sequence[str]
    images: int
    captions: int
    data: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    items: Sequence[Answer] = field(default=(), repr=False, compare=False)
    example: Section | None = field(default=None, repr=False, compare=False)

    def metric(self, name: str) -> Compared:
        """One metric by name.

        Raises:
            KeyError: If it has none of that name; those that it has are named.
        """
        found = {compared.metric: compared for compared in self.compared}
        if name not in found:
            raise KeyError(f"{self.benchmark.name} has no metric {name!r}; it has {', '.join(found)}.")
        return found[name]

    def to_json(self, models: Sequence[str]) -> dict[str, Any]:
        """Plain JSON values, by model and metric."""
        return {
            "models": {
                model: {one.metric: one.estimates[at].value for one in self.compared} for at, model in enumerate(models)
            },
            "intervals": {
                model: {one.metric: [one.estimates[at].low, one.estimates[at].high] for one in self.compared}
                for at, model in enumerate(models)
            },
            "differences": {
                model: {one.metric: asdict(one.differences[at]) for one in self.compared}
                for at, model in enumerate(models[1:])
            },
            "sides": {one.metric: one.side for one in self.compared},
            "n": {one.metric: one.estimates[0].n for one in self.compared},
            "chance": {one.metric: one.estimates[0].chance for one in self.compared},
            "images": self.images,
            "captions": self.captions,
            "notes": list(self.notes),
            "data": self.data,
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, value: Any, benchmark: Benchmark, models: Sequence[str], location: str) -> Result:
        """A result from what `to_json` made of it; errors as of `Report.from_json`."""
        names = ("models", "intervals", "differences", "sides", "n", "chance", "images", "captions", "notes", "data",
                 "options")  # fmt: skip
        values, intervals, differences, sides, n, chance, *rest = fields(value, names, location)
        values, intervals = (fields(by_model, models, location) for by_model in (values, intervals))
        moved = fields(differences, models[1:], location)
        compared = []
        for metric in n:
            ends = [of_model[metric] for of_model in intervals]
            estimates = [
                Estimate(of_model[metric], low, high, n[metric], chance[metric])
                for of_model, (low, high) in zip(values, ends, strict=True)
            ]
            moves = [Difference(**of_model[metric]) for of_model in moved]
            compared.append(Compared(metric, estimates, moves, sides[metric]))
        images, captions, notes, data, options = rest
        return cls(benchmark, compared, notes, images, captions, data, options)


@dataclass(frozen=True, repr=False)
class Measured:
    """The values of a `Report`, which says what each is."""

    base: str
    weights_sha256: str
    models: Sequence[str]
    alignments: Sequence[dict[str, Any]]
    results: Sequence[Result]
    versions: dict[str, str]
    date: str = ""

    def __getitem__(self, benchmark: str) -> Result:
        found = {result.benchmark.name: result for result in self.results}
        if benchmark not in found:
            raise KeyError(f"The report has no benchmark {benchmark!r}; it has {', '.join(found)}.")
        return found[benchmark]

    def __repr__(self) -> str:
        names = ", ".join(result.benchmark.name for result in self.results)
        return f"Report({names}; {self.base}: {', '.join(self.models)})"

    def to_json(self) -> dict[str, Any]:
        """`{"benchmarks": {name: {"models": {model: {metric: value}}, "n": ..., ...}}, "measured": {...}}`."""
        facts = {**vars(self), "models": list(self.models), "alignments": list(self.alignments)}
        del facts["results"]
        return {
            "benchmarks": {result.benchmark.name: result.to_json(self.models) for result in self.results},
            "measured": facts,
        }
