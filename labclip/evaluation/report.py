"""`Report` and `Result`: what an evaluation found, as values and as JSON; how it is shown is in `render`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labclip.data.entries import fields
from labclip.evaluation import render
from labclip.evaluation.answers import Answer, write_csv
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.paper import latex_of_models
from labclip.evaluation.scores import Compared, Difference, Estimate
from labclip.evaluation.sources import Benchmark
from labclip.files import read_json, whole_file
from labclip.report import Reported
from labclip.report.example import ShownItem
from labclip.report.values import Page

_MEASURED = ("base", "weights_sha256", "models", "alignments", "versions")


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
        items: Every item with each model's answer; empty in a report that was read from a file. Margins of retrieval
            and classification are made once they are looked at, and embeddings kept until then.
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
    example: ShownItem | None = field(default=None, repr=False, compare=False)

    def metric(self, name: str) -> Compared:
        """One metric by name.

        Raises:
            KeyError: If it has none of that name; those that it has are named.
        """
        found = {one.metric: one for one in self.compared}
        if name not in found:
            raise KeyError(f"{self.benchmark.name} has no metric {name!r}; it has {', '.join(found)}.")
        return found[name]

    def to_json(self, models: Sequence[str]) -> dict[str, Any]:
        """Plain JSON values, by model and metric."""
        estimates = {model: {one.metric: one.estimates[at] for one in self.compared} for at, model in enumerate(models)}
        return {
            "models": {model: {name: one.value for name, one in found.items()} for model, found in estimates.items()},
            "intervals": {
                model: {name: [one.low, one.high] for name, one in found.items()} for model, found in estimates.items()
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
    def from_json(cls, value: Any, benchmark: Benchmark, models: Sequence[str], place: str) -> Result:
        """A result from what `to_json` made of it; errors as of `Report.from_json`."""
        parts = ("models", "intervals", "differences", "sides", "n", "chance")
        values, intervals, differences, sides, n, chance = fields(value, parts, place)
        images, captions, notes, data, options = fields(
            value, ("images", "captions", "notes", "data", "options"), place
        )
        values, intervals = (fields(one, models, place) for one in (values, intervals))
        moved = fields(differences, models[1:], place)
        compared = []
        for metric in n:
            ends = [one[metric] for one in intervals]
            estimates = [
                Estimate(one[metric], low, high, n[metric], chance[metric])
                for one, (low, high) in zip(values, ends, strict=True)
            ]
            moves = [Difference(**one[metric]) for one in moved]
            compared.append(Compared(metric, estimates, moves, sides[metric]))
        return cls(benchmark, compared, notes, images, captions, data, options)


@dataclass(frozen=True, repr=False)
class Report(Reported):
    """One or many benchmarks of a base and its alignments.

    `report["sugarcrepe"]` is one benchmark's `Result`; `report["sugarcrepe"].items` tells item by item.

    Attributes:
        base: The base in words, for example "ViT-B-32-quickgelu (openai)".
        weights_sha256: Of the base's weights.
        models: "base", then each alignment: "labclip" where there is one, else its name, with "@strength" where one
            alignment is asked about at several.
        alignments: For each model but the base, what the matrix is: name, strength, SHA-256, and whether it records its
            base.
        results: One a benchmark.
        versions: Of the packages that decide a number.
        date: On which it was measured, for example "2026-03-01"; "" in one that was kept without.
    """

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

    def page(self, *, plots: bool = False) -> Page:
        """The report as values: where there are several benchmarks a short table first, then each by itself."""
        return render.page(self, plots=plots)

    def to_latex(self, *others: Report, rows: str = "metrics", percent: bool = False) -> str:
        """The report's tables as LaTeX with booktabs, or one table for a paper.

        Args:
            others: Reports of other bases on the same files, which the table for a paper has below one another.
            rows: "metrics" is every table of the report; "models" is one table with the models in rows, the headline
                metrics of the benchmarks in columns, and a dagger for a measurable difference.
            percent: Whether the table for a paper has percent with one decimal, not fractions with three.

        Raises:
            ValueError: If `rows` is neither, or `others` or `percent` are passed without rows="models", or bases were
                measured on different items.
        """
        if rows not in ("metrics", "models"):
            raise ValueError(f'rows is {rows!r}. Pass "metrics" or "models".')
        if rows == "models":
            return latex_of_models([self, *others], percent=percent)
        if others or percent:
            raise ValueError('Several bases in one table, and `percent`, need rows="models". Pass it too.')
        return super().to_latex()

    def write_items(self, path: str | Path) -> None:
        """Write every item of every benchmark with each model's answer as a csv file, whole or not at all.

        Raises:
            OSError: If it can't be written; what was there is then still whole.
        """
        with (
            whole_file(Path(path)) as part,
            part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            write_csv({result.benchmark.name: result.items for result in self.results}, self.models, file)

    def to_json(self) -> dict[str, Any]:
        """`{"benchmarks": {name: {"models": {model: {metric: value}}, "n": ..., ...}}, "measured": {...}}`."""
        return {
            "benchmarks": {result.benchmark.name: result.to_json(self.models) for result in self.results},
            "measured": {
                "base": self.base,
                "weights_sha256": self.weights_sha256,
                "models": list(self.models),
                "alignments": list(self.alignments),
                "versions": self.versions,
                "date": self.date,
            },
        }

    @classmethod
    def from_json(cls, value: Any, place: str = "The report") -> Report:
        """A report from what `to_json` made of it: plain JSON values, or the path of a file of them.

        `place` says where they stand, for messages.

        Raises:
            ValueError: If something is missing, or a benchmark is none of `BENCHMARKS`.
        """
        if isinstance(value, str | Path):
            return cls.from_json(read_json(Path(value)), str(value))
        benchmarks, measured = fields(value, ("benchmarks", "measured"), place)
        facts = dict(zip(_MEASURED, fields(measured, _MEASURED, f"{place}, measured"), strict=True))
        unknown = [name for name in benchmarks if name not in BENCHMARKS]
        if unknown:
            raise ValueError(f"{place} is of {', '.join(unknown)}. Benchmarks: {', '.join(BENCHMARKS)}.")
        results = [
            Result.from_json(one, BENCHMARKS[name], facts["models"], f"{place}, {name}")
            for name, one in benchmarks.items()
        ]
        return cls(**facts, results=results, date=measured.get("date", ""))
