"""Figures of what was measured: each function returns a `matplotlib.figure.Figure`, no state is shared between them.

`figure.savefig("probes.png")` writes one; `labclip.report.drawn(figure, alt)` gives the bytes for a page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labclip.analysis.probes import Probed
from labclip.analysis.space import Distribution, Spectrum
from labclip.analysis.verdict import SIDES
from labclip.evaluation.scores import Compared, Estimate
from labclip.evaluation.summary import worded
from labclip.report.drawing import BLUE, GREEN, GRID, INK, ORANGE, PINK, SOFT, empty, legend_below, literal

PERMUTED = {"swapped": "attributes swapped", "shuffled": "words shuffled"}
MODELS = {"base": "base", "own": "its own matrix", "fitted": "matrix fitted here"}
_LOOKS = {
    "image": (BLUE, "o"), "text": (ORANGE, "s"), "base": (SOFT, "o"), "own": (GREEN, "D"), "fitted": (PINK, "^"),
}  # fmt: skip
_DASHED = {"color": INK, "linewidth": 1, "linestyle": "--"}
_NAME = 24  # characters of a label


def binding(probes: Mapping[str, Probed], cosine: Mapping[str, Estimate]) -> Any:
    """What each side ("image", "text") knows, beside what cosine makes of it by "base", "own" and "fitted"."""
    rows = [(f"linear probe on {SIDES[side]}", one.accuracy, _LOOKS[side][0]) for side, one in probes.items()]
    rows += [(f"cosine, {MODELS[name]}", estimate, _LOOKS[name][0]) for name, estimate in cosine.items()]
    figure, axes = empty(5.6, 0.9 + 0.4 * len(rows))
    for number, (_, estimate, colour) in enumerate(rows):
        axes.barh(number, estimate.value, color=colour, height=0.62)
        axes.plot([estimate.low, estimate.high], [number, number], color=INK, linewidth=1.6)
        axes.text(estimate.high + 0.012, number, f"{estimate.value:.3f}", va="center", fontsize=9, color=INK)
    axes.axvline(_bag(probes), label=f"bag-of-words baseline: {_bag(probes):.2f}", **_DASHED)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set(xlim=(0, 1.1), ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy, with 95% interval")
    axes.set_title("Which attribute belongs to which object", loc="left")
    legend_below(figure, axes)
    return figure


def by_object(probes: Mapping[str, Probed]) -> Any:
    """Accuracy of each object's probe, from "image" and from "text"."""
    names = sorted({name for probed in probes.values() for name in probed.by_object})
    series = {side: [probed.by_object.get(name) for name in names] for side, probed in probes.items()}
    figure, axes = _dots([literal(name, _NAME) for name in names], series, SIDES, 0.26)
    axes.axvline(_bag(probes), label="bag-of-words baseline", **_DASHED)
    axes.set(xlim=(0, 1.02), xlabel="accuracy, with 95% interval")
    axes.set_title("Linear probes, object by object", loc="left")
    legend_below(figure, axes)
    return figure


def retrieval(measured: Sequence[Compared], models: Sequence[str]) -> Any:
    """R@1 of each model, a metric each; `models` in the order of the estimates."""
    series = {name: [one.estimates[number] for one in measured] for number, name in enumerate(models)}
    labels = ["\n".join(textwrap.wrap(worded(one.metric), _NAME)) for one in measured]
    figure, axes = _dots(labels, series, MODELS, 0.5)
    lowest = min(estimate.low for one in measured for estimate in one.estimates)
    axes.set(xlim=(max(0, lowest - 0.05), 1.005), xlabel="R@1, with 95% interval")
    axes.set_title("Retrieval", loc="left")
    legend_below(figure, axes)
    return figure


def _dots(
    rows: Sequence[str], series: Mapping[str, Sequence[Estimate | None]], labels: Mapping[str, str], height: float
) -> tuple[Any, Any]:
    """A row each, of some inches, with a dot and its interval for each of a few series."""
    figure, axes = empty(5.6, 1.25 + height * len(rows))
    for number, (name, estimates) in enumerate(series.items()):
        colour, marker = _LOOKS[name]
        for row, estimate in enumerate(estimates):
            if estimate is not None:
                y = row + 0.24 * (number - (len(series) - 1) / 2)
                axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2)
                axes.plot(estimate.value, y, marker, color=colour, markersize=6)
        axes.plot([], [], marker, color=colour, label=labels[name])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure, axes


def permutations(measured: Mapping[str, Mapping[str, Distribution]]) -> Any:
    """Similarity between captions and their permutations, "swapped" and "shuffled", "before" and "after" the matrix."""
    figure, panels = empty(5.6, 0.4 + 2.2 * len(measured), rows=len(measured), sharex=True)
    panels = np.atleast_1d(panels)
    low = min(one.quantiles[0.05] for part in measured.values() for one in part.values())
    for axes, (kind, part) in zip(panels, measured.items(), strict=True):
        for (when, one), colour, style in zip(part.items(), (SOFT, GREEN), ("--", "-"), strict=False):
            axes.stairs(100 * one.histogram, one.edges, color=colour, linewidth=1.8, linestyle=style, label=when)
            axes.stairs(100 * one.histogram, one.edges, color=colour, fill=True, alpha=0.18)
            axes.axvline(one.quantiles[0.5], color=colour, linewidth=1, linestyle=":")
        axes.set(xlim=(max(-1.0, low - 0.15 * (1 - low) - 0.02), 1.005), ylabel="% of captions")
        axes.set_title(PERMUTED[kind], fontsize=10)
        axes.legend(frameon=False, fontsize=9, loc="upper left", title="the matrix", title_fontsize=9)
    panels[-1].set_xlabel("cosine with the caption")
    figure.suptitle("Captions and their permutations (dotted: medians)", x=0.01, ha="left", fontsize=11)
    return figure


def spectrum(measured: Spectrum) -> Any:
    """Singular values of the matrix."""
    figure, axes = empty(5.6, 2.8)
    values = measured.singular_values
    positive = values > 0
    axes.plot(np.arange(1, len(values) + 1)[positive], values[positive], color=GREEN, linewidth=2, label="the matrix")
    axes.axhline(1, label="identity", **_DASHED)
    axes.set_yscale("log")
    axes.set(xlim=(1, max(2, len(values))), xlabel="number, from the largest", ylabel="singular value")
    rank = f"effective rank {measured.rank:.0f} of {len(values)}"
    axes.set_title(f"Spectrum: {rank}; distance from the identity {measured.distance:.1f}", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    return figure


def confusion(pairs: Mapping[tuple[str, str], Estimate], what: str) -> Any:
    """Accuracy of binding by pair of "attribute" or "object", as `confusions` gives them, as a square."""
    names = sorted({name for pair in pairs for name in pair})
    square = np.full((len(names), len(names)), np.nan)
    for pair, one in pairs.items():
        row, column = map(names.index, pair)
        square[row, column] = square[column, row] = one.value
    size = min(4.8, 2.4 + 0.24 * len(names))
    figure, axes = empty(size + 0.8, size, grid=False)
    axes.set_facecolor(GRID)  # two that never met
    image = axes.imshow(square, vmin=0, vmax=1, cmap="PuOr")
    ticks = [literal(name, _NAME) for name in names]
    axes.set_xticks(range(len(names)), ticks, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), ticks, fontsize=8)
    for (row, column), value in np.ndenumerate(square) if len(names) <= 16 else ():
        if np.isfinite(value):
            shade, text = "white" if abs(value - 0.5) > 0.35 else INK, f"{value:.2f}"[-3:] if value < 1 else "1"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=shade)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("accuracy of binding (chance .5)", fontsize=9)
    axes.set_title(f"Binding by pair of {what}s, base", loc="left", fontsize=11)
    return figure


def _bag(probes: Mapping[str, Probed]) -> float:
    """The bag-of-words baseline."""
    return float(np.mean([probed.bag_chance for probed in probes.values()]))
