"""A report as a table on the terminal, Markdown, LaTeX or an HTML page: gains, and costs beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from labclip import report as pages
from labclip.evaluation import sides
from labclip.evaluation.report import Report, Result
from labclip.evaluation.scores import DIFFERING, Difference, Estimate
from labclip.report.values import Cell, Mark, Page, Section, Table, Value

_HOW = "Fractions of 1; a tie is wrong. Intervals are 95%, of resampling, exact where all are right or none."
# The rule of three: what 0 of n leaves possible at 95%.
_HOW_DIFFERENT = (
    " Differences are paired, on the same items; one is measurable where its interval leaves zero out and the models "
    f"differ on at least {DIFFERING} of the units that are resampled, as a rule pictures. One that is not may still be "
    "as large as the far end of its interval, or, where no item differs, as 3/n."
)
_MANY = 20


def terminal(report: Report, *, width: int = 100) -> str:
    """The report as lines of at most `width` characters."""
    return pages.terminal(page(report), width=width)


def markdown(report: Report, *, level: int = 1) -> str:
    """The report as GitHub Markdown, its title a heading of `level`."""
    return pages.markdown(page(report), level=level)


def latex(report: Report) -> str:
    """The report's tables as LaTeX with booktabs."""
    return pages.latex(page(report))


def write_page(report: Report, path: str | Path) -> Path:
    """The report as a self-contained HTML page with its plot, whole or not at all.

    Raises:
        FileNotFoundError: If the folder does not exist.
        MissingPackageError: If jinja2 or matplotlib is not installed.
    """
    return pages.write(page(report, plot=True), path)


def page(report: Report, *, plot: bool = False) -> Page:
    """The report as values: where there are several benchmarks a short table first, then each by itself.

    Args:
        report: What was measured.
        plot: Whether to draw the differences, where there are any.
    """
    chosen = sides.headline(report)
    several = len(report.results) > 1
    sections = [_short(report)] if several else []
    sections += [_long(report, result) for result in report.results]
    if lacking := sides.unmeasured(report):
        sections.append(Section("Not measured", notes=lacking))
    if plot and len(report.models) > 1:
        from labclip.evaluation.plot import differences

        shown = chosen if several else sides.metrics(report.results[0])
        sections.insert(0, Section("Gains beside costs", figures=[differences(report, shown)]))
    return Page(_title(report), _lead(report), sections, _facts(report))


def _title(report: Report) -> str:
    if len(report.models) == 1:
        return f"{report.base}, measured"
    return f"What an alignment gains and costs: {report.base}"


def _lead(report: Report) -> str:
    match len(report.models):
        case 1:
            return "Only the base was measured. Pass `--alignment A` to see what a matrix gains and what it costs."
        case 2:
            told = _readings(report)
        case count:
            told = [f"{count - 1} alignments and their base on the same items."]
    return " ".join(told)


def _readings(report: Report) -> list[str]:
    """One for each model but the base, of the metrics that the first table shows."""
    several = len(report.results) > 1
    chosen = sides.headline(report) if several else sides.metrics(report.results[0])
    name = _full if several else _short_name
    return [f"{model}: {sides.reading(chosen, at, name=name)}." for at, model in enumerate(report.models[1:])]


def _full(one: sides.Shown) -> str:
    return f"{one.benchmark.title} {one.compared.metric}"


def _short_name(one: sides.Shown) -> str:
    return one.compared.metric


def _short(report: Report) -> Section:
    """The headline metrics of every benchmark."""
    chosen, tables = sides.headline(report), []
    for side in dict.fromkeys(one.side for one in chosen):
        rows = [
            row for one in chosen if one.side == side for row in _rows(report, one, [one.benchmark.title], spread=False)
        ]
        tables.append(_table(report, side, rows, ["benchmark"], spread=False))
    return Section("In short", _readings(report) if len(report.models) > 2 else [], tables=tables)


def _long(report: Report, result: Result) -> Section:
    """Every metric of one benchmark."""
    every = sides.metrics(result)
    tables = []
    for side in dict.fromkeys(one.side for one in every):
        rows = [row for one in every if one.side == side for row in _rows(report, one, [], spread=True)]
        tables.append(_table(report, side, rows, [], spread=True))
    # One benchmark, one alignment: it is the lead already.
    single = replace(report, results=[result])
    paragraphs = _readings(single) if len(report.results) > 1 or len(report.models) > 2 else []
    size = f"{result.pictures:,} pictures, {result.captions:,} captions."
    size += f" Defined in {result.benchmark.paper}." if result.benchmark.paper else ""
    return Section(result.benchmark.title, paragraphs, tables=tables, notes=[*result.notes, *_few(result), size])


def _few(result: Result) -> list[str]:
    """Which metrics would be told apart, had the models differed on more items."""
    names = [
        one.metric
        for one in result.compared
        if any(not found.measurable and (found.low > 0 or found.high < 0) for found in one.differences)
    ]
    told = f"Too few items differ to tell, though the interval leaves zero out (fewer than {DIFFERING}): "
    return [f"{told}{', '.join(names)}. Measure on more items."] if names else []


def _table(report: Report, side: str, rows: list[list[Value]], before: list[str], *, spread: bool) -> Table:
    words = sides.SIDES.get(side, side)
    if len(report.models) > 1:
        words = f"What it is for: {words}" if side == "binding" else f"What it may cost: {words}"
    difference = ["difference", "95% interval"] if spread else ["difference"]
    match len(report.models):
        case 1:
            values = ["base", "95% interval"]
        case 2:
            values = [*report.models, *difference]
        case _:
            values = ["model", "value", *difference]
    columns = [*before, "metric", "n", "chance", *values]
    wordy = [place for place, column in enumerate(columns) if column in ("benchmark", "metric", "model")]
    grouped = columns.index("model") if "model" in columns else 0
    return Table(words[0].upper() + words[1:], columns, rows, words=wordy, grouped=grouped)


def _rows(report: Report, one: sides.Shown, before: Sequence[Value], *, spread: bool) -> list[list[Value]]:
    """One metric: one row, or where there are several alignments one a model."""
    compared = one.compared
    base = compared.estimates[0]
    head: list[Value] = [*before, compared.metric]
    size: list[Value] = [base.n, base.chance]
    match len(report.models):
        case 1:
            return [[*head, *size, base.value, _range(base)]]
        case 2:
            other = compared.estimates[1].value
            return [[*head, *size, base.value, other, *_difference(compared.differences[0], spread=spread)]]
        case _:
            blank: list[Value] = [None, None] if spread else [None]
            changes = [blank, *(_difference(difference, spread=spread) for difference in compared.differences)]
            return [
                [*head, *size, model, estimate.value, *change]
                for model, estimate, change in zip(report.models, compared.estimates, changes, strict=True)
            ]


def _difference(difference: Difference, *, spread: bool) -> list[Value]:
    mark: Mark = "none" if not difference.measurable else "good" if difference.value > 0 else "bad"
    if not spread:
        return [Cell(sides.signed(difference), mark)]
    told = sides.plus(difference.value) if difference.measurable else sides.UNMEASURABLE
    return [Cell(told, mark), sides.interval(difference)]


def _range(estimate: Estimate) -> str:
    return f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _unchecked(matrix: Mapping[str, Any]) -> str:
    return "" if matrix.get("recorded", True) else "; it does not say which base it was fitted on"


def _facts(report: Report) -> list[tuple[str, str]]:
    matrices = [
        (str(one["name"]), f"matrix {str(one['matrix_sha256'])[:16]}, strength {one['strength']:g}{_unchecked(one)}")
        for one in report.alignments
    ]
    looked = sum(len(one.differences) for result in report.results for one in result.compared)
    many = f" Of {looked} differences about one in twenty would look measurable by chance alone."
    places = [
        (result.benchmark.title, ", ".join([result.data, *(f"{key}={value}" for key, value in result.options.items())]))
        for result in report.results
        if result.data
    ]
    return [
        *places,
        ("Base", report.base),
        ("Weights", f"SHA-256 {report.weights_sha256}"),
        *matrices,
        ("Versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("How to read", _HOW + (_HOW_DIFFERENT if looked else "") + (many if looked >= _MANY else "")),
    ]
