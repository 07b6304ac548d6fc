"""Reports as JSON that can be read again, so that tables are made from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.report import Report, Result
from labclip.evaluation.scores import Compared, Difference, Estimate
from labclip.evaluation.sources import fields, read_json

_FACTS = ("base", "weights_sha256", "models", "alignments", "versions")


def as_json(report: Report) -> dict[str, Any]:
    """All of a report as plain JSON values; `from_json` reads it."""
    return {**{name: getattr(report, name) for name in _FACTS}, "results": report.as_json()}


def from_json(value: Any, place: str = "The report") -> Report:
    """A report from what `as_json` made of it.

    Args:
        value: Plain JSON values.
        place: Where they stand, for messages.

    Raises:
        ValueError: If something is missing, or a benchmark is none of the table's.
    """
    *facts, results = fields(value, (*_FACTS, "results"), place)
    unknown = [name for name in results if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"{place} is of {', '.join(unknown)}. Benchmarks: {', '.join(BENCHMARKS)}.")
    models = value["models"]
    found = [_result(name, models, one, f"{place}, {name}") for name, one in results.items()]
    return Report(**dict(zip(_FACTS, facts, strict=True)), results=found)


def read(path: str | Path) -> Report:
    """A report from a JSON file.

    Raises:
        ValueError: If it is no JSON, or no report; the file is named.
    """
    return from_json(read_json(Path(path)), str(path))


def _result(name: str, models: list[str], one: Any, place: str) -> Result:
    parts = (*models, "intervals", "differences", "n", "chance", "pictures", "captions", "notes")
    *values, intervals, differences, n, chance, pictures, captions, notes = fields(one, parts, place)
    compared = [
        Compared(
            metric,
            [
                Estimate(value[metric], *_ends(intervals[model][metric]), n[metric], chance[metric])
                for model, value in zip(models, values, strict=True)
            ],
            [Difference(**differences[model][metric]) for model in models[1:]],
        )
        for metric in n
    ]
    about = one.get("about", {})
    return Result(
        BENCHMARKS[name], compared, notes, pictures, captions,
        data=about.get("data", ""), options=about.get("options", {}),
    )  # fmt: skip


def _ends(interval: list[float]) -> tuple[float, float]:
    low, high = interval
    return low, high
