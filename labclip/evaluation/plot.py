"""A picture of a report: differences to the base with their intervals, gains above, costs below, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labclip.evaluation import sides
from labclip.evaluation.report import Report
from labclip.packages import EVAL, require
from labclip.report import Figure, drawn
from labclip.report.values import cleaned

_COLOURS = ("#1f7a5a", "#3b4a6b", "#c08a3e", "#7d5ba6", "#b3402f", "#5f8ea3")
_ROW, _BETWEEN, _MARGINS = 0.3, 0.5, 1.1  # inches


def differences(report: Report, chosen: Sequence[sides.Shown]) -> Figure:
    """Draw metrics, each with one bar a model; hollow where the difference is not measurable.

    Args:
        report: What was measured, with at least one model beside the base.
        chosen: The metrics to show.
    """
    module = require("matplotlib.figure", "Plots need matplotlib", EVAL)
    groups = {key: [one for one in chosen if one.side == key] for key in dict.fromkeys(one.side for one in chosen)}
    models = report.models[1:]
    rows = [len(group) * max(1.0, 0.6 * len(models)) for group in groups.values()]
    height = _ROW * sum(rows) + _BETWEEN * len(rows) + _MARGINS
    figure = module.Figure(figsize=(9, height), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (key, group) in zip(panels, groups.items(), strict=True):
        _panel(axes, group, models, several=len(report.results) > 1)
        axes.set_title(sides.SIDES.get(key, key), loc="left", fontsize=10)
    panels[-1].set_xlabel("difference to the base, fractions of 1; hollow: not measurable", fontsize=9)
    if len(models) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    told = "; ".join(
        f"{model}: {sides.reading(chosen, place, name=lambda one: one.compared.metric)}"
        for place, model in enumerate(models)
    )
    caption = "Differences to the base with 95% intervals, all on one scale."
    return drawn(figure, f"Differences to the base by metric. {told}.", caption)


def _panel(axes: Any, group: Sequence[sides.Shown], models: Sequence[str], *, several: bool) -> None:
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
    return cleaned(text).replace("$", r"\$")
