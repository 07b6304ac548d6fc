"""Figures of what was measured: each function returns a `matplotlib.figure.Figure`, no state is shared between them.

`figure.savefig("probes.png")` writes one; `labclip.report.drawn(figure, alt)` gives the bytes for a page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labclip.analysis.confusion import Pair
from labclip.analysis.probes import Probed
from labclip.analysis.space import Distribution, Gap, Spectrum
from labclip.evaluation.scores import Compared, Estimate
from labclip.evaluation.summary import worded
from labclip.report.drawing import BLUE, GREEN, GRID, INK, ORANGE, PINK, SOFT, empty, legend_below, literal

PERMUTED = {"swapped": "attributes swapped", "shuffled": "words shuffled"}
SIDES = {"image": "images", "text": "captions"}
MODELS = {"base": "base", "own": "its own matrix", "fitted": "matrix fitted here"}
_LOOKS = {
    "image": (BLUE, "o"), "text": (ORANGE, "s"),
    "base": (SOFT, "o"), "own": (GREEN, "D"), "fitted": (PINK, "^"),
}  # fmt: skip
_DASHED = {"color": INK, "linewidth": 1, "linestyle": "--"}
_NAME = 24  # characters of a label


def binding(probes: Mapping[str, Probed], cosine: Mapping[str, Estimate]) -> Any:
    """What each side ("image", "text") knows, beside what cosine makes of it by "base", "own" and "fitted"."""
    rows = [(f"linear probe on {SIDES[side]}", one.accuracy, _LOOKS[side][0]) for side, one in probes.items()]
    rows += [(f"cosine, {MODELS[name]}", estimate, _LOOKS[name][0]) for name, estimate in cosine.items()]
    figure, axes = empty(5.6, 0.9 + 0.4 * len(rows))
    for place, (_, estimate, colour) in enumerate(rows):
        axes.barh(place, estimate.value, color=colour, height=0.62)
        axes.plot([estimate.low, estimate.high], [place, place], color=INK, linewidth=1.6)
        axes.text(estimate.high + 0.012, place, f"{estimate.value:.3f}", va="center", fontsize=9, color=INK)
    bag = _bag(probes)
    axes.axvline(bag, **_DASHED)
    axes.text(bag, -0.68, f"bag-of-words baseline: {bag:.2f}", ha="center", fontsize=8,
              color=INK, backgroundcolor="white")  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set(xlim=(0, 1.1), ylim=(len(rows) - 0.5, -1), xlabel="accuracy, with 95% interval")
    axes.set_title("Which attribute belongs to which object", loc="left")
    return figure


def by_object(probes: Mapping[str, Probed]) -> Any:
    """Accuracy of each object's probe, from "image" and from "text"."""
    names = sorted({name for probed in probes.values() for name in probed.by_object})
    figure, axes = empty(5.6, 1.3 + 0.26 * len(names))
    found = {side: [probed.by_object.get(name) for name in names] for side, probed in probes.items()}
    _dots(axes, [literal(name, _NAME) for name in names], found, SIDES)
    axes.axvline(_bag(probes), label="bag-of-words baseline", **_DASHED)
    axes.set(xlim=(0, 1.02), xlabel="accuracy, with 95% interval")
    axes.set_title("Linear probes, object by object", loc="left")
    legend_below(figure, axes)
    return figure


def retrieval(found: Sequence[Compared], models: Sequence[str]) -> Any:
    """R@1 of each model, a metric each; `models` in the order of the estimates."""
    figure, axes = empty(5.6, 1.2 + 0.5 * len(found))
    by_model = {name: [one.estimates[place] for one in found] for place, name in enumerate(models)}
    _dots(axes, ["\n".join(textwrap.wrap(worded(one.metric), _NAME)) for one in found], by_model, MODELS)
    lowest = min(estimate.low for one in found for estimate in one.estimates)
    axes.set(xlim=(max(0, lowest - 0.05), 1.005), xlabel="R@1, with 95% interval")
    axes.set_title("Retrieval", loc="left")
    legend_below(figure, axes)
    return figure


def _dots(
    axes: Any, rows: Sequence[str], found: Mapping[str, Sequence[Estimate | None]], labels: Mapping[str, str]
) -> None:
    """A row each with a dot and its interval for each of a few series."""
    for number, (name, estimates) in enumerate(found.items()):
        colour, marker = _LOOKS[name]
        for row, estimate in enumerate(estimates):
            if estimate is not None:
                place = row + 0.24 * (number - (len(found) - 1) / 2)
                axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2)
                axes.plot(estimate.value, place, marker, color=colour, markersize=6)
        axes.plot([], [], marker, color=colour, label=labels[name])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)


def permutations(found: Mapping[str, Mapping[str, Distribution]]) -> Any:
    """Similarity between captions and their permutations, "swapped" and "shuffled", "before" and "after" the matrix."""
    figure, panels = empty(5.6, 0.4 + 2.2 * len(found), rows=len(found), sharex=True)
    panels = np.atleast_1d(panels)
    low = min(one.quantiles[0.05] for part in found.values() for one in part.values())
    low = max(-1.0, low - 0.15 * (1 - low) - 0.02)
    for axes, (kind, part) in zip(panels, found.items(), strict=True):
        for (when, one), colour, line in zip(part.items(), (SOFT, GREEN), ("--", "-"), strict=False):
            axes.stairs(100 * one.histogram, one.edges, color=colour, linewidth=1.8, linestyle=line, label=when)
            axes.stairs(100 * one.histogram, one.edges, color=colour, fill=True, alpha=0.18)
            axes.axvline(one.quantiles[0.5], color=colour, linewidth=1, linestyle=":")
        axes.set(xlim=(low, 1.005), ylabel="% of captions")
        axes.set_title(PERMUTED[kind], fontsize=10)
        axes.legend(frameon=False, fontsize=9, loc="upper left", title="the matrix", title_fontsize=9)
    panels[-1].set_xlabel("cosine with the caption")
    figure.suptitle("Captions and their permutations (dotted: medians)", x=0.01, ha="left", fontsize=11)
    return figure


def gap(found: Mapping[str, Gap]) -> Any:
    """Modality gap "before", and "after" where there is a matrix."""
    figure, panels = empty(5.6, 2.2, columns=2)
    names, distances = list(found), [one.distance for one in found.values()]
    rows = (
        (distances, "distance of the means (0 to 2)", 1.25 * max(distances) + 1e-9),
        ([one.separability for one in found.values()], "linear separability, accuracy", 1.08),
    )
    for axes, (values, label, most) in zip(panels, rows, strict=True):
        bars = axes.barh(range(len(names)), values, color=[SOFT, GREEN][: len(names)], height=0.55)
        axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=4, fontsize=9)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel=label, xlim=(0, most), ylim=(len(names) - 0.5, -0.5))
    panels[1].axvline(0.5, **_DASHED)
    figure.suptitle("Modality gap: images against captions (dashed: chance)", x=0.01, ha="left", fontsize=11)
    return figure


def spectrum(found: Spectrum) -> Any:
    """Singular values of the matrix."""
    figure, axes = empty(5.6, 2.8)
    values = found.singular_values
    positive = values > 0
    axes.plot(np.arange(1, len(values) + 1)[positive], values[positive], color=GREEN, linewidth=2, label="the matrix")
    axes.axhline(1, label="identity", **_DASHED)
    axes.set_yscale("log")
    axes.set(xlim=(1, max(2, len(values))), xlabel="number, from the largest", ylabel="singular value")
    axes.set_title(
        f"Spectrum: effective rank {found.rank:.0f} of {len(values)}; distance from the identity {found.distance:.1f}",
        loc="left", fontsize=11,
    )  # fmt: skip
    axes.legend(frameon=False, fontsize=9)
    return figure


def confusion(pairs: Sequence[Pair], what: str) -> Any:
    """Accuracy of binding by pair of "attribute" or "object", as `confusions` gives them, as a square."""
    names = sorted({name for pair in pairs for name in pair.names})
    square = np.full((len(names), len(names)), np.nan)
    for pair in pairs:
        one, other = map(names.index, pair.names)
        square[one, other] = square[other, one] = pair.accuracy
    size = min(4.8, 2.4 + 0.24 * len(names))
    figure, axes = empty(size + 0.8, size, grid=False)
    axes.set_facecolor(GRID)  # two that never met
    image = axes.imshow(square, vmin=0, vmax=1, cmap="PuOr")
    ticks = [literal(name, _NAME) for name in names]
    axes.set_xticks(range(len(names)), ticks, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), ticks, fontsize=8)
    if len(names) <= 16:
        for (row, column), value in np.ndenumerate(square):
            if np.isfinite(value):
                shade = "white" if abs(value - 0.5) > 0.35 else INK
                axes.text(column, row, f"{value:.2f}"[-3:] if value < 1 else "1", ha="center", va="center",
                          fontsize=7, color=shade)  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("accuracy of binding (chance .5)", fontsize=9)
    axes.set_title(f"Binding by pair of {what}s, base", loc="left", fontsize=11)
    return figure


def _bag(probes: Mapping[str, Probed]) -> float:
    """The bag-of-words baseline."""
    return float(np.mean([probed.bag_chance for probed in probes.values()]))
