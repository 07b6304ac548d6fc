"""What an evaluation found, as values; how it is shown lives in `tables` and `page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labclip.evaluation.scores import Compared
from labclip.evaluation.sources import Benchmark

RESERVED = ("base", "intervals", "differences", "n", "chance", "pictures", "captions", "notes", "about")
"""Keys of a benchmark in the JSON beside the alignments' names, which must be none of them."""


@dataclass(frozen=True)
class Result:
    """One benchmark, all models on the same items.

    Attributes:
        benchmark: Its entry in the table.
        compared: Its metrics; estimates in the order of `Report.models`.
        notes: What was left out, which choices were made.
        pictures: Distinct pictures encoded.
        captions: Distinct captions encoded.
        data: Where its files lie, as it was said; "" where it needs none.
        options: Its options, as they were said.
    """

    benchmark: Benchmark
    compared: Sequence[Compared]
    notes: Sequence[str]
    pictures: int
    captions: int
    data: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def metric(self, name: str) -> Compared:
        """One metric by name."""
        return next(one for one in self.compared if one.metric == name)


@dataclass(frozen=True)
class Report:
    """One or many benchmarks of a base and its alignments.

    Attributes:
        base: The base in words, for example "ViT-B-32-quickgelu (openai)".
        weights_sha256: Of the base's weights.
        models: "base", then each alignment: "labclip" where there is one, else its name, with "@strength" where one
            alignment is asked about at several.
        alignments: For each model but the base, what the matrix is: name, strength, SHA-256, and whether it records its
            base.
        results: One a benchmark.
        versions: Of the packages that decide a number.
    """

    base: str
    weights_sha256: str
    models: Sequence[str]
    alignments: Sequence[dict[str, Any]]
    results: Sequence[Result]
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """`{benchmark: {"base": {metric: value}, model: {metric: value}, ...}}`, with intervals beside."""
        return {result.benchmark.name: self._result(result) for result in self.results}

    def _result(self, result: Result) -> dict[str, Any]:
        values = {
            model: {one.metric: one.estimates[place].value for one in result.compared}
            for place, model in enumerate(self.models)
        }
        intervals = {
            model: {one.metric: [one.estimates[place].low, one.estimates[place].high] for one in result.compared}
            for place, model in enumerate(self.models)
        }
        differences = {
            model: {one.metric: one.differences[place].as_json() for one in result.compared}
            for place, model in enumerate(self.models[1:])
        }
        return {
            **values,
            "intervals": intervals,
            "differences": differences,
            "n": {one.metric: one.estimates[0].n for one in result.compared},
            "chance": {one.metric: one.estimates[0].chance for one in result.compared},
            "pictures": result.pictures,
            "captions": result.captions,
            "notes": list(result.notes),
            "about": {
                "base": self.base,
                "weights_sha256": self.weights_sha256,
                "alignments": list(self.alignments),
                "versions": self.versions,
                "data": result.data,
                "options": dict(result.options),
            },
        }
