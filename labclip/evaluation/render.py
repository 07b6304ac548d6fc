"""A report as a page of tables and one figure: gains, and costs beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labclip.evaluation import summary
from labclip.evaluation.scores import DIFFERING, Difference
from labclip.messages import printable, typed
from labclip.packages import EVAL, require
from labclip.report import Figure, drawn
from labclip.report.values import Page, Section, Table, Value, judged

if TYPE_CHECKING:
    from labclip.evaluation.report import Report, Result

_HOW = "Fractions of 1; a tie is wrong. Intervals are 95%, of resampling, exact where all are right or none."
# The rule of three: what 0 of n leaves possible at 95%.
_HOW_DIFFERENT = (
    " Differences are paired, on the same items; one is measurable where its interval excludes zero and the models "
    f"differ on at least {DIFFERING} of the units that are resampled, as a rule images. One that is not may still be "
    "as large as the far end of its interval, or, where no item differs, as 3/n."
)
_MANY = 20

_COLOURS = ("#1f7a5a", "#3b4a6b", "#c08a3e", "#7d5ba6", "#b3402f", "#5f8ea3")
_ROW, _BETWEEN, _MARGINS = 0.3, 0.5, 1.1  # inches


def page(report: Report, *, plots: bool = False) -> Page:
    """The report as values: where there are several benchmarks a short table first, then each by itself."""
    several = len(report.results) > 1
    chosen = summary.headline(report) if several else summary.metrics(report.results[0])
    readings = _readings(report, chosen, several)
    sections = []
    if plots and readings:
        sections.append(Section("Gains beside costs", figures=[_figure(report, chosen)]))
    if several:
        told = readings if len(readings) > 1 else []
        sections.append(Section("In short", told, tables=_tables(report, chosen, short=True)))
    sections += [_long(report, result, several) for result in report.results]
    if lacking := summary.unmeasured(report):
        sections.append(Section("Not measured", notes=lacking))
    match len(readings):
        case 0:
            title, wanted = f"{report.base}, measured", typed("alignments=A", "--alignment A")
            lead = f"Only the base was measured. Pass `{wanted}` to see what a matrix gains and what it costs."
        case 1:
            title, lead = f"What an alignment gains and costs: {report.base}", readings[0]
        case count:
            title = f"What an alignment gains and costs: {report.base}"
            lead = f"{count} alignments and their base on the same items."
    return Page(title, lead, sections, _facts(report))


def _readings(report: Report, chosen: Sequence[summary.Shown], several: bool) -> list[str]:
    """One for each model but the base."""
    return [f"{model}: {summary.reading(chosen, at, several=several)}." for at, model in enumerate(report.models[1:])]


def _long(report: Report, result: Result, several: bool) -> Section:
    """Every metric of one benchmark."""
    every = summary.metrics(result)
    # One benchmark, one alignment: it is the lead already.
    paragraphs = _readings(report, every, False) if several or len(report.models) > 2 else []
    size = f"{result.images:,} images, {result.captions:,} captions."
    size += f" Defined in {result.benchmark.paper}." if result.benchmark.paper else ""
    notes = [*result.notes, *_few(result), size]
    return Section(result.benchmark.title, paragraphs, tables=_tables(report, every, short=False), notes=notes)


def _few(result: Result) -> list[str]:
    """Which metrics would be told apart, had the models differed on more items."""
    names = [
        one.metric
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
    tables = []
    for side in dict.fromkeys(one.side for one in chosen):
        words = summary.SIDES.get(side, side)
        if models > 1 and side in summary.SIDES:
            words = f"What it is for: {words}" if side == "binding" else f"What it may cost: {words}"
        rows = [row for one in chosen if one.side == side for row in _rows(report, one, short=short)]
        grouped = columns.index("model") if models > 2 else 0
        tables.append(Table(words[0].upper() + words[1:], columns, rows, words=wordy, grouped=grouped))
    return tables


def _rows(report: Report, one: summary.Shown, *, short: bool) -> list[list[Value]]:
    """One metric: one row, or where there are several alignments one a model."""
    compared, base = one.compared, one.compared.estimates[0]
    head: list[Value] = [*([one.benchmark.title] if short else []), compared.metric, base.n, base.chance]
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
        told = f"matrix {str(one['matrix_sha256'])[:16]}, strength {one['strength']:g}{unknown}"
        matrices.append((str(one["name"]), told))
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


def _figure(report: Report, chosen: Sequence[summary.Shown]) -> Figure:
    """Metrics with one bar a model beside the base, hollow where the difference is not measurable."""
    module = require("matplotlib.figure", "Plots need matplotlib", EVAL)
    found = {one.side for one in chosen}
    groups = {key: [one for one in chosen if one.side == key] for key in summary.SIDES if key in found}
    models = report.models[1:]
    rows = [len(group) * max(1.0, 0.6 * len(models)) for group in groups.values()]
    height = _ROW * sum(rows) + _BETWEEN * len(rows) + _MARGINS
    figure = module.Figure(figsize=(9, height), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (key, group) in zip(panels, groups.items(), strict=True):
        _panel(axes, group, models, several=len(report.results) > 1)
        axes.set_title(summary.SIDES.get(key, key), loc="left", fontsize=10)
    panels[-1].set_xlabel("difference to the base, fractions of 1; hollow: not measurable", fontsize=9)
    if len(models) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    told = "; ".join(f"{model}: {summary.reading(chosen, place)}" for place, model in enumerate(models))
    caption = "Differences to the base with 95% intervals, all on one scale."
    return drawn(figure, f"Differences to the base by metric. {told}.", caption)


def _panel(axes: Any, group: Sequence[summary.Shown], models: Sequence[str], *, several: bool) -> None:
    step = 0.7 / len(models)
    for place, model in enumerate(models):
        colour = _COLOURS[place % len(_COLOURS)]
        shift = (place - (len(models) - 1) / 2) * step
        for row, one in enumerate(group):
            difference = one.compared.differences[place]
            axes.plot([difference.low, difference.high], [row + shift] * 2, color=colour, linewidth=1.5)
            face = colour if difference.measurable else "white"
            label = {"label": _literal(model)} if row == 0 else {}
            axes.plot([difference.value], [row + shift], "o", color=colour, markerfacecolor=face, markersize=6, **label)
    axes.axvline(0, color="#5c6473", linewidth=0.8)
    named = [f"{one.benchmark.title}: {one.compared.metric}" if several else one.compared.metric for one in group]
    axes.set_yticks(range(len(group)), list(map(_literal, named)), fontsize=9)
    axes.set_ylim(len(group) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="x", color="#e3e6eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _literal(text: str) -> str:
    """A name in which matplotlib finds no formula."""
    return printable(text).replace("$", r"\$")
