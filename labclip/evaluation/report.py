"""`Report`: what an evaluation found, and every form in which it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labclip.data.entries import fields
from labclip.evaluation import render
from labclip.evaluation.answers import write_csv
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.paper import latex_of_models
from labclip.evaluation.results import Measured, Result
from labclip.files import read_json, whole_file
from labclip.report import Reported
from labclip.report.values import Page


@dataclass(frozen=True, repr=False)
class Report(Measured, Reported):
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

    @classmethod
    def from_json(cls, value: Any, location: str = "The report") -> Report:
        """A report from what `to_json` made of it: plain JSON values, or the path of a file of them.

        `location` says where they stand, for messages.

        Raises:
            ValueError: If something is missing, or a benchmark is none of `BENCHMARKS`.
        """
        if isinstance(value, str | Path):
            return cls.from_json(read_json(Path(value)), str(value))
        benchmarks, measured = fields(value, ("benchmarks", "measured"), location)
        names = ("base", "weights_sha256", "models", "alignments", "versions")
        facts = dict(zip(names, fields(measured, names, f"{location}, measured"), strict=True))
        if unknown := [name for name in benchmarks if name not in BENCHMARKS]:
            raise ValueError(f"{location} is of {', '.join(unknown)}. Benchmarks: {', '.join(BENCHMARKS)}.")
        results = [
            Result.from_json(result, BENCHMARKS[name], facts["models"], f"{location}, {name}")
            for name, result in benchmarks.items()
        ]
        return cls(**facts, results=results, date=measured.get("date", ""))
