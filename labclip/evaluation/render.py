"""A report as a page of tables and one figure: gains, and costs beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from labclip.evaluation import summary
from labclip.evaluation.results import Measured, Result
from labclip.evaluation.scores import CONTROL, DIFFERING, Compared, Difference
from labclip.report import Figure, drawn
from labclip.report.drawing import COLOURS, SOFT, empty, legend_below, literal
from labclip.report.values import (
    Cell,
    Page,
    Section,
    Table,
    Value,
    judged,
    matrix_in_words,
    measured_by,
    percent,
    signed,
)

_HOW = "Fractions of 1; a tie is wrong. Intervals are 95%; items that share an image count as one where they agree."
_HOW_DIFFERENT = (
    " Differences are paired, on the same items; one is measurable where its interval excludes zero and the models "
    f"differ on items of at least {DIFFERING} images. One that is not may still be as large as the far end of its "
    "interval."
)
_HOW_BLIND = (
    " NAME_blind has the mean of the other images in the place of each image: what the captions alone give away. "
    "NAME_grounded has the image less that mean: what the image adds."
)
_MANY = 20

_ROW, _BETWEEN, _MARGINS = 0.36, 0.5, 0.8  # inches


def page(report: Measured, *, plots: bool = False) -> Page:
    """The report as values: where there are several benchmarks a short table first, then each by itself."""
    several = len(report.results) > 1
    chosen = summary.headline(report) if several else summary.metrics(report.results[0])
    lead, key = _lead(report, chosen, several)
    sections = []
    if plots:
        sections += [result.example for result in report.results if result.example is not None][:1]
    if plots and len(report.models) > 1:
        sections.append(Section("Gains beside costs", figures=[_figure(report, chosen)]))
    if several:
        tables = _tables(report, chosen, short=True)
        sections.append(Section("In short", _readings(report, chosen, several), tables=tables))
    sections += [_section(report, result) for result in report.results]
    if lacking := summary.unmeasured(report):
        sections.append(Section("Not measured", notes=lacking))
    title = "What an alignment gains and costs" if len(report.models) > 1 else "What the base does"
    return Page(f"{title}: {report.base}", lead, sections, _facts(report), key)


def _lead(report: Measured, chosen: Sequence[summary.Shown], several: bool) -> tuple[str, list[tuple[str, str]]]:
    """What was found in a sentence for everybody, and three figures; of several alignments by the best one."""
    chosen = [shown for shown in chosen if shown.side in summary.SIDES]
    lead = summary.lead_metric(chosen)
    name, compared = lead.name(several), lead.compared
    if len(report.models) == 1:
        words = "Only the base was measured. Pass `alignments=A` to see what a matrix gains and what it costs."
        others = [one for one in chosen if one is not lead and one.compared.metric in one.benchmark.headline]
        key = [(f"{percent(one.compared.estimates[0].value)}%", one.name(several)) for one in [lead, *others][:3]]
        return f"{summary.opening(lead)} {words}", key
    values = [estimate.value for estimate in compared.estimates[1:]]
    best = values.index(max(values))
    costs = {one.name(several): one.compared.differences[best] for one in chosen if one is not lead}
    matrix = "the matrix" if len(values) == 1 else report.models[1 + best]
    of = "" if len(values) == 1 else f" (the best of {len(values)})"
    gain = summary.gain_sentence(f"With {matrix}{of}", compared.estimates[1 + best], compared.differences[best])
    gain += "".join(
        f" {summary.need_sentence(compared.differences[best], control.differences[best])}"
        for control in lead.controls
        if control.metric.endswith("_grounded") and compared.differences[best].measurable
    )
    key = [
        (f"{percent(compared.estimates[0].value)}%", f"without the matrix: {name}"),
        (f"{percent(values[best])}%", f"with {matrix}{of}"),
        summary.key_cost(costs),
    ]
    return f"{summary.opening(lead)} {gain} {summary.cost_sentence(costs)}", key


def _readings(report: Measured, chosen: Sequence[summary.Shown], several: bool) -> list[str]:
    """One for each model but the base."""
    return [f"{model}: {summary.reading(chosen, at, several=several)}." for at, model in enumerate(report.models[1:])]


def _section(report: Measured, result: Result) -> Section:
    """Every metric of one benchmark."""
    every = summary.metrics(result)
    size = f"{result.images:,} images, {result.captions:,} captions."
    size += f" Defined in {result.benchmark.paper}." if result.benchmark.paper else ""
    tables = _tables(report, every, short=False)
    return Section(result.benchmark.title, _readings(report, every, False), tables=tables, notes=[*result.notes, size])


def _tables(report: Measured, chosen: Sequence[summary.Shown], *, short: bool) -> list[Table]:
    """One a side, controls behind their metric; a short one names the benchmark, and leaves intervals out."""
    models, difference = len(report.models), ["difference"] if short else ["difference", "95% interval"]
    values = ["base", "95% interval"] if models == 1 else [*report.models, *difference]
    if models > 2:
        values = ["model", "value", *difference]
    columns = [*(["benchmark"] if short else []), "metric", "n", "chance", *values]
    wordy = [index for index, column in enumerate(columns) if column in ("benchmark", "metric", "model")]
    minor = [index for index, column in enumerate(columns) if column in ("n", "chance")]
    tables = []
    for side in dict.fromkeys(shown.side for shown in chosen):
        words = summary.SIDES[side][0] if side in summary.SIDES else side
        if models > 1 and side in summary.SIDES:
            words = f"What it is for: {words}" if side == "binding" else f"What it may cost: {words}"
        rows = [
            row
            for shown in chosen
            if shown.side == side
            for compared in (shown.compared, *shown.controls)
            for row in _rows(report, [shown.benchmark.title] if short else [], compared, short=short)
        ]
        grouped = columns.index("model") if models > 2 else 0
        tables.append(Table(words[0].upper() + words[1:], columns, rows, words=wordy, grouped=grouped, minor=minor))
    return tables


def _rows(report: Measured, title: list[Value], compared: Compared, *, short: bool) -> list[list[Value]]:
    """One metric: one row, or where there are several alignments one a model."""
    base = compared.estimates[0]
    metric = Cell(compared.metric, words=summary.worded(compared.metric))
    head: list[Value] = [*title, metric, base.n, base.chance]
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


def _change(moved: Difference, *, short: bool) -> list[Value]:
    if short:
        return [judged(moved.gain, moved.measurable, summary.format_difference(moved))]
    words = signed(moved.value) if moved.measurable else summary.UNMEASURABLE
    return [judged(moved.gain, moved.measurable, words), summary.interval(moved)]


def _facts(report: Measured) -> list[tuple[str, str]]:
    matrices = []
    for one in report.alignments:
        unknown = "" if one.get("recorded", True) else "; it does not say which base it was fitted on"
        matrices.append((str(one["name"]), matrix_in_words(one["matrix_sha256"], one["strength"]) + unknown))
    differences = sum(len(compared.differences) for result in report.results for compared in result.compared)
    many = f" Of {differences} differences about one in twenty would look measurable by chance alone."
    files = [
        (result.benchmark.title, ", ".join([result.data, *(f"{key}={value}" for key, value in result.options.items())]))
        for result in report.results
        if result.data
    ]
    controlled = any(compared.side == CONTROL for result in report.results for compared in result.compared)
    how = _HOW + (_HOW_BLIND if controlled else "")
    return [
        *files,
        ("Base", report.base),
        *matrices,
        *measured_by(report.weights_sha256, report.versions, report.date),
        ("How to read", how + (_HOW_DIFFERENT if differences else "") + (many if differences >= _MANY else "")),
    ]


def _figure(report: Measured, chosen: Sequence[summary.Shown]) -> Figure:
    """Metrics with one dot a model beside the base, hollow where the difference is not measurable.

    Of those that no model moves measurably the headline alone.
    """
    chosen = [one for one in chosen if one.compared.metric in one.benchmark.headline
              or any(moved.measurable for moved in one.compared.differences)] or chosen  # fmt: skip
    by_side = {side: [one for one in chosen if one.side == side] for side in summary.SIDES}
    groups = {side: group for side, group in by_side.items() if group}
    models, several = report.models[1:], len(report.results) > 1
    rows = [len(group) * max(1.0, 0.6 * len(models)) for group in groups.values()]
    height = _ROW * sum(rows) + _BETWEEN * len(rows) + _MARGINS
    figure, _ = empty(5.6, height, rows=len(groups), sharex=True, height_ratios=rows)
    for axes, (side, group) in zip(figure.axes, groups.items(), strict=True):
        _panel(axes, group, models, several=several)
        axes.set_title(summary.SIDES[side][0], loc="left", fontsize=10)
    figure.axes[-1].set_xlabel("difference to the base; hollow: not measurable", fontsize=9)
    if len(models) > 1:
        legend_below(figure, figure.axes[0])
    words = "; ".join(f"{model}: {summary.reading(chosen, at)}" for at, model in enumerate(models))
    caption = "Differences to the base with 95% intervals, all on one scale."
    return drawn(figure, f"Differences to the base by metric. {words}.", caption)


def _panel(axes: Any, group: Sequence[summary.Shown], models: Sequence[str], *, several: bool) -> None:
    step = 0.7 / len(models)
    for at, model in enumerate(models):
        colour, shift = COLOURS[at % len(COLOURS)], (at - (len(models) - 1) / 2) * step
        for row, shown in enumerate(group):
            moved = shown.compared.differences[at]
            axes.plot([moved.low, moved.high], [row + shift] * 2, color=colour, linewidth=1.5)
            face = colour if moved.measurable else "white"
            label = {"label": literal(model)} if row == 0 else {}
            axes.plot([moved.value], [row + shift], "o", color=colour, markerfacecolor=face, markersize=6, **label)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(range(len(group)), ["\n".join(textwrap.wrap(literal(one.name(several)), 26)) for one in group])
    axes.set_ylim(len(group) - 0.5, -0.5)
