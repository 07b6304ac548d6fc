"""A report as a page of tables and one figure: gains, and costs beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labclip.evaluation import summary
from labclip.evaluation.scores import DIFFERING, Difference
from labclip.report import Figure, drawn
from labclip.report.drawing import COLOURS, SOFT, empty, legend_below, literal
from labclip.report.values import Cell, Page, Section, Table, Value, judged, matrix_in_words, measured_by, percent

if TYPE_CHECKING:
    from labclip.evaluation.report import Report, Result

_HOW = "Fractions of 1; a tie is wrong. Intervals are 95%; items that share an image count as one where they agree."
_HOW_DIFFERENT = (
    " Differences are paired, on the same items; one is measurable where its interval excludes zero and the models "
    f"differ on items of at least {DIFFERING} images. One that is not may still be as large as the far end of its "
    "interval."
)
_MANY = 20

_ROW, _BETWEEN, _MARGINS = 0.36, 0.5, 0.8  # inches


def page(report: Report, *, plots: bool = False) -> Page:
    """The report as values: where there are several benchmarks a short table first, then each by itself."""
    several = len(report.results) > 1
    chosen = summary.headline(report) if several else summary.metrics(report.results[0])
    lead, key = _lead(report, chosen, several)
    sections = []
    if plots:
        sections += [one.example.section() for one in report.results if one.example is not None][:1]
    if plots and len(report.models) > 1:
        sections.append(Section("Gains beside costs", figures=[_figure(report, chosen)]))
    if several:
        sections.append(
            Section("In short", _readings(report, chosen, several), tables=_tables(report, chosen, short=True))
        )
    sections += [_long(report, result) for result in report.results]
    if lacking := summary.unmeasured(report):
        sections.append(Section("Not measured", notes=lacking))
    title = "What an alignment gains and costs" if len(report.models) > 1 else "What the base does"
    return Page(f"{title}: {report.base}", lead, sections, _facts(report), key)


def _lead(report: Report, chosen: Sequence[summary.Shown], several: bool) -> tuple[str, list[tuple[str, str]]]:
    """What was found in a sentence for everybody, and three figures; of several alignments by the best one."""
    chosen = [one for one in chosen if one.side in summary.SIDES]
    told = summary.first(chosen)
    name, compared = told.name(several), told.compared
    if len(report.models) == 1:
        lead = "Only the base was measured. Pass `alignments=A` to see what a matrix gains and what it costs."
        shown = [told, *(one for one in chosen if one is not told and one.compared.metric in one.benchmark.headline)]
        key = [(f"{percent(one.compared.estimates[0].value)}%", one.name(several)) for one in shown[:3]]
        return f"{summary.opening(told)} {lead}", key
    values = [estimate.value for estimate in compared.estimates[1:]]
    best = values.index(max(values))
    others = {one.name(several): one.compared.differences[best] for one in chosen if one is not told}
    matrix = "the matrix" if len(values) == 1 else report.models[1 + best]
    of = "" if len(values) == 1 else f" (the best of {len(values)})"
    gained = summary.gained(f"With {matrix}{of}", compared.estimates[1 + best], compared.differences[best])
    key = [
        (f"{percent(compared.estimates[0].value)}%", f"without the matrix: {name}"),
        (f"{percent(values[best])}%", f"with {matrix}{of}"),
        summary.key_cost(others),
    ]
    return f"{summary.opening(told)} {gained} {summary.paid(others)}", key


def _readings(report: Report, chosen: Sequence[summary.Shown], several: bool) -> list[str]:
    """One for each model but the base."""
    return [f"{model}: {summary.reading(chosen, at, several=several)}." for at, model in enumerate(report.models[1:])]


def _long(report: Report, result: Result) -> Section:
    """Every metric of one benchmark."""
    every = summary.metrics(result)
    paragraphs = _readings(report, every, False)
    size = f"{result.images:,} images, {result.captions:,} captions."
    size += f" Defined in {result.benchmark.paper}." if result.benchmark.paper else ""
    notes = [*result.notes, *_few(result), size]
    return Section(result.benchmark.title, paragraphs, tables=_tables(report, every, short=False), notes=notes)


def _few(result: Result) -> list[str]:
    """Which metrics would be told apart, had the models differed on more items."""
    names = [
        summary.worded(one.metric)
        for one in result.compared
        if any(not found.measurable and (found.low > 0 or found.high < 0) for found in one.differences)
    ]
    told = f"Too few items differ to tell, though the interval excludes zero (fewer than {DIFFERING}): "
    return [f"{told}{', '.join(names)}. Measure on more items."] if names else []


def _tables(report: Report, chosen: Sequence[summary.Shown], *, short: bool) -> list[Table]:
    """One a side; a short one names the benchmark, and leaves intervals out."""
    models, difference = len(report.models), ["difference"] if short else ["difference", "95% interval"]
    values = ["base", "95% interval"] if models == 1 else [*report.models, *difference]
    if models > 2:
        values = ["model", "value", *difference]
    columns = [*(["benchmark"] if short else []), "metric", "n", "chance", *values]
    wordy = [place for place, column in enumerate(columns) if column in ("benchmark", "metric", "model")]
    minor = [place for place, column in enumerate(columns) if column in ("n", "chance")]
    tables = []
    for side in dict.fromkeys(one.side for one in chosen):
        words = summary.SIDES.get(side, side)
        if models > 1 and side in summary.SIDES:
            words = f"What it is for: {words}" if side == "binding" else f"What it may cost: {words}"
        rows = [row for one in chosen if one.side == side for row in _rows(report, one, short=short)]
        grouped = columns.index("model") if models > 2 else 0
        tables.append(Table(words[0].upper() + words[1:], columns, rows, words=wordy, grouped=grouped, minor=minor))
    return tables


def _rows(report: Report, one: summary.Shown, *, short: bool) -> list[list[Value]]:
    """One metric: one row, or where there are several alignments one a model."""
    compared, base = one.compared, one.compared.estimates[0]
    metric = Cell(compared.metric, words=summary.worded(compared.metric))
    head: list[Value] = [*([one.benchmark.title] if short else []), metric, base.n, base.chance]
    changes = [_change(difference, short=short) for difference in compared.differences]
    match len(report.models):
        case 1:
            return [[*head, base.value, f"[{base.low:.3f}, {base.high:.3f}]"]]
        case 2:
            return [[*head, base.value, compared.estimates[1].value, *changes[0]]]
        case _:
            blank: list[Value] = [None] if short else [None, None]
            return [
                [*head, model, estimate.value, *change]
                for model, estimate, change in zip(report.models, compared.estimates, [blank, *changes], strict=True)
            ]


def _change(one: Difference, *, short: bool) -> list[Value]:
    if short:
        return [judged(one.value, one.measurable, summary.told(one))]
    return [judged(one.value, one.measurable, "" if one.measurable else summary.UNMEASURABLE), summary.interval(one)]


def _facts(report: Report) -> list[tuple[str, str]]:
    matrices = []
    for one in report.alignments:
        unknown = "" if one.get("recorded", True) else "; it does not say which base it was fitted on"
        matrices.append((str(one["name"]), matrix_in_words(one["matrix_sha256"], one["strength"]) + unknown))
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
        *matrices,
        *measured_by(report.weights_sha256, report.versions, report.date),
        ("How to read", _HOW + (_HOW_DIFFERENT if looked else "") + (many if looked >= _MANY else "")),
    ]


def _figure(report: Report, chosen: Sequence[summary.Shown]) -> Figure:
    """Metrics with one dot a model beside the base, hollow where the difference is not measurable.

    Of those that no model moves measurably the headline alone.
    """
    chosen = [one for one in chosen if one.compared.metric in one.benchmark.headline
              or any(found.measurable for found in one.compared.differences)] or chosen  # fmt: skip
    found = {one.side for one in chosen}
    groups = {key: [one for one in chosen if one.side == key] for key in summary.SIDES if key in found}
    models, several = report.models[1:], len(report.results) > 1
    rows = [len(group) * max(1.0, 0.6 * len(models)) for group in groups.values()]
    height = _ROW * sum(rows) + _BETWEEN * len(rows) + _MARGINS
    figure, _ = empty(5.6, height, rows=len(groups), sharex=True, height_ratios=rows)
    for axes, (key, group) in zip(figure.axes, groups.items(), strict=True):
        _panel(axes, group, models, several=several)
        axes.set_title(summary.SIDES.get(key, key), loc="left", fontsize=10)
    figure.axes[-1].set_xlabel("difference to the base; hollow: not measurable", fontsize=9)
    if len(models) > 1:
        legend_below(figure, figure.axes[0])
    told = "; ".join(f"{model}: {summary.reading(chosen, place)}" for place, model in enumerate(models))
    caption = "Differences to the base with 95% intervals, all on one scale."
    return drawn(figure, f"Differences to the base by metric. {told}.", caption)


def _panel(axes: Any, group: Sequence[summary.Shown], models: Sequence[str], *, several: bool) -> None:
    step = 0.7 / len(models)
    for place, model in enumerate(models):
        colour = COLOURS[place % len(COLOURS)]
        shift = (place - (len(models) - 1) / 2) * step
        for row, one in enumerate(group):
            difference = one.compared.differences[place]
            axes.plot([difference.low, difference.high], [row + shift] * 2, color=colour, linewidth=1.5)
            face = colour if difference.measurable else "white"
            label = {"label": literal(model)} if row == 0 else {}
            axes.plot([difference.value], [row + shift], "o", color=colour, markerfacecolor=face, markersize=6, **label)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(range(len(group)), ["\n".join(textwrap.wrap(literal(one.name(several)), 26)) for one in group])
    axes.set_ylim(len(group) - 0.5, -0.5)
