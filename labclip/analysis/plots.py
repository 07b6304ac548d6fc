"""Figures of what was measured: matplotlib objects, no state shared between them.

Each function returns a `matplotlib.figure.Figure`: `figure.savefig("probes.png")`, or
`labclip.report.drawn(figure, alt)` for the bytes of a page. Colours are Okabe and Ito's, which people of every kind of
colour vision tell apart, and nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labclip.analysis.concepts import Complexity
from labclip.analysis.confusion import Pair, matrix_of_pairs
from labclip.analysis.gap import Gap
from labclip.analysis.permutations import Distribution
from labclip.analysis.probes import Probed
from labclip.analysis.spectrum import Spectrum
from labclip.analysis.verdict import spoken
from labclip.evaluation.scores import Compared, Estimate
from labclip.packages import EVAL, require

INK, SOFT, GRID = "#1b1f27", "#5c6473", "#d9dde4"
BLUE, ORANGE, GREEN, PINK, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
_SIDES = {"image": (BLUE, "o"), "text": (ORANGE, "s")}
_MODELS = {"base": (SOFT, "o"), "own": (GREEN, "D"), "fitted": (PINK, "^")}
MODELS = {"base": "base", "own": "its own matrix", "fitted": "matrix fitted on other combinations"}
_PREDICTORS = {"sum": (SKY, "o"), "product": (ORANGE, "s"), "sum+product": (GREEN, "D"), "mlp": (BLUE, "^")}


def binding(probes: Mapping[str, Probed], cosine: Mapping[str, Estimate]) -> Any:
    """What each side knows, beside what cosine makes of it.

    Args:
        probes: "image", "text".
        cosine: Accuracy on exchanged captions of "base", "own", "fitted".
    """
    rows: list[tuple[str, Estimate, str]] = [
        (f"linear probe on {'pictures' if side == 'image' else 'captions'}", probed.accuracy, _SIDES[side][0])
        for side, probed in probes.items()
    ]
    rows += [(f"cosine, {MODELS[name]}", estimate, _MODELS[name][0]) for name, estimate in cosine.items()]
    figure, axes = _figure(7.6, 0.9 + 0.46 * len(rows))
    for place, (_, estimate, colour) in enumerate(rows):
        axes.barh(place, estimate.value, color=colour, height=0.62)
        _interval(axes, estimate, place)
        axes.text(estimate.high + 0.012, place, f"{estimate.value:.3f}", va="center", fontsize=9, color=INK)
    chance = float(np.mean([probed.bag_chance for probed in probes.values()]))
    axes.axvline(chance, color=INK, linewidth=1, linestyle="--")
    axes.text(chance, -0.68, f"knows the words, not whose: {chance:.2f}", ha="center", fontsize=8,
              color=INK, backgroundcolor="white")  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set(xlim=(0, 1.1), ylim=(len(rows) - 0.5, -1), xlabel="share right, with 95% interval")
    axes.set_title("Which attribute belongs to which object", loc="left")
    return figure


def by_object(probes: Mapping[str, Probed]) -> Any:
    """Accuracy of each object's probe, from either side.

    Args:
        probes: "image", "text".
    """
    names = sorted({name for probed in probes.values() for name in probed.by_object})
    figure, axes = _figure(7.6, 1.4 + 0.32 * len(names))
    for shift, (side, probed) in enumerate(probes.items()):
        colour, marker = _SIDES[side]
        for name, estimate in probed.by_object.items():
            place = names.index(name) + 0.24 * (shift - 0.5)
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2)
            axes.plot(estimate.value, place, marker, color=colour, markersize=6)
        axes.plot([], [], marker, color=colour, label="pictures" if side == "image" else "captions")
    chance = float(np.mean([probed.bag_chance for probed in probes.values()]))
    axes.axvline(chance, color=INK, linewidth=1, linestyle="--", label="knows the words, not whose")
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set(xlim=(0, 1.02), ylim=(len(names) - 0.4, -0.6), xlabel="share of attributes read right, with 95% interval")
    axes.set_title("Linear probes, object by object", loc="left")
    _legend(figure, axes)
    return figure


def permutations(found: Mapping[str, Mapping[str, Distribution]]) -> Any:
    """Distribution of the similarity between captions and their permutations.

    Args:
        found: For "exchanged" and "shuffled" the distributions "before" and "after".
    """
    titles = {"exchanged": "attributes exchanged", "shuffled": "words shuffled"}
    figure, panels = _figure(7.6, 3.4, columns=len(found))
    panels = np.atleast_1d(panels)
    everything = [one for part in found.values() for one in part.values()]
    low = min(one.quantiles[0.05] for one in everything)
    low = max(-1.0, low - 0.15 * (1 - low) - 0.02)
    for axes, (kind, part) in zip(panels, found.items(), strict=True):
        for (when, one), colour, line in zip(part.items(), (SOFT, GREEN), ("--", "-"), strict=False):
            axes.stairs(100 * one.histogram, one.edges, color=colour, linewidth=1.8, linestyle=line, label=when)
            axes.stairs(100 * one.histogram, one.edges, color=colour, fill=True, alpha=0.18)
            axes.axvline(one.quantiles[0.5], color=colour, linewidth=1, linestyle=":")
        axes.set(xlim=(low, 1.005), xlabel="cosine with the caption", title=titles[kind])
        axes.legend(frameon=False, fontsize=9, loc="upper left", title="the matrix", title_fontsize=9)
    panels[0].set_ylabel("share of the captions, %")
    figure.suptitle("Captions and their permutations (dotted: medians)", x=0.01, ha="left", fontsize=11)
    return figure


def gap(found: Mapping[str, Gap]) -> Any:
    """Modality gap before and after.

    Args:
        found: "before", and "after" where there is a matrix.
    """
    figure, panels = _figure(7.6, 2.5, columns=2)
    names = list(found)
    rows = (
        ([one.distance for one in found.values()], "distance of the means (0 to 2)", (0, None)),
        ([one.separability for one in found.values()], "told apart by a plane, share right", (0, 1.08)),
    )
    for axes, (values, label, limits) in zip(panels, rows, strict=True):
        bars = axes.barh(range(len(names)), values, color=[SOFT, GREEN][: len(names)], height=0.55)
        axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=4, fontsize=9)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        axes.set_xlim(*((0, 1.25 * max(values) + 1e-9) if limits[1] is None else limits))
    panels[1].axvline(0.5, color=INK, linewidth=1, linestyle="--")
    figure.suptitle("Modality gap: pictures against captions (dashed: a coin)", x=0.01, ha="left", fontsize=11)
    return figure


def spectrum(found: Spectrum) -> Any:
    """Singular values of the matrix."""
    figure, axes = _figure(7.6, 3.2)
    values = found.singular_values
    positive = values > 0
    axes.plot(np.arange(1, len(values) + 1)[positive], values[positive], color=GREEN, linewidth=2, label="the matrix")
    axes.axhline(1, color=INK, linewidth=1, linestyle="--", label="identity")
    axes.set_yscale("log")
    axes.set(xlim=(1, max(2, len(values))), xlabel="number, from the largest", ylabel="singular value")
    axes.set_title(
        f"Spectrum: effective rank {found.rank:.0f} of {len(values)}; distance from the identity {found.distance:.1f}",
        loc="left", fontsize=11,
    )  # fmt: skip
    axes.legend(frameon=False, fontsize=9)
    return figure


def confusion(pairs: Sequence[Pair], what: str) -> Any:
    """Accuracy of binding by pair, as a square.

    Args:
        pairs: As `confusions` gives them.
        what: "attribute" or "object".
    """
    names, square = matrix_of_pairs(pairs)
    size = min(9.0, 2.6 + 0.42 * len(names))
    figure, axes = _figure(size + 0.9, size, grid=False)
    axes.set_facecolor(GRID)  # two that never met
    image = axes.imshow(square, vmin=0, vmax=1, cmap="PuOr")
    ticks = [_short(name) for name in names]
    axes.set_xticks(range(len(names)), ticks, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), ticks, fontsize=8)
    if len(names) <= 16:
        for (row, column), value in np.ndenumerate(square):
            if np.isfinite(value):
                shade = "white" if abs(value - 0.5) > 0.35 else INK
                axes.text(column, row, f"{value:.2f}"[-3:] if value < 1 else "1", ha="center", va="center",
                          fontsize=7, color=shade)  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share bound right (a coin: .5)", fontsize=9)
    axes.set_title(f"Binding by pair of {what}s, base", loc="left", fontsize=11)
    return figure


def retrieval(found: Sequence[Compared], models: Sequence[str]) -> Any:
    """R@1 of each model.

    Args:
        found: A metric each.
        models: Their names, in the order of the estimates.
    """
    figure, axes = _figure(7.6, 1.5 + 0.5 * len(found))
    for place, one in enumerate(found):
        for shift, (name, estimate) in enumerate(zip(models, one.estimates, strict=True)):
            colour, marker = _MODELS[name]
            y = place + 0.24 * (shift - (len(models) - 1) / 2)
            axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2)
            axes.plot(estimate.value, y, marker, color=colour, markersize=6)
    for name in models:
        axes.plot([], [], _MODELS[name][1], color=_MODELS[name][0], label=MODELS[name])
    lowest = min(estimate.low for one in found for estimate in one.estimates)
    axes.set_yticks(range(len(found)), [spoken(one.metric) for one in found])
    axes.set(
        xlim=(max(0, lowest - 0.05), 1.005), ylim=(len(found) - 0.4, -0.6), xlabel="share found first, 95% interval"
    )
    axes.set_title("Retrieval", loc="left")
    _legend(figure, axes)
    return figure


def concepts(found: Mapping[str, Sequence[Complexity]]) -> Any:
    """What predicts objects never learnt from, over the share learnt from.

    Args:
        found: "image" and "text".
    """
    figure, panels = _figure(7.6, 5.6, columns=2, rows=2)
    for column, (side, points) in enumerate(found.items()):
        for row, key in enumerate(("accuracy", "binding")):
            axes = panels[row][column]
            for name, (colour, marker) in _PREDICTORS.items():
                line = [point for point in points if point.predictor == name and getattr(point, key) is not None]
                x, y = [one.fraction for one in line], [getattr(one, key) for one in line]
                label = "MLP" if name == "mlp" else name
                axes.plot(x, y, marker + "-", color=colour, markersize=5, linewidth=1.6, label=label)
            chance = 1 / points[0].candidates if key == "accuracy" else 0.5
            axes.axhline(chance, color=INK, linewidth=1, linestyle="--")
            axes.set(ylim=(-0.04, 1.04), xlabel="share of objects learnt from", xlim=(0, 1))
        panels[0][column].set_title("pictures" if side == "image" else "captions", fontsize=10)
    panels[0][0].set_ylabel("unseen objects named right")
    panels[1][0].set_ylabel("unseen twins told apart")
    figure.suptitle("Objects predicted from their concepts (dashed: chance)", x=0.01, ha="left", fontsize=11)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return figure


def _figure(width: float, height: float, *, columns: int = 1, rows: int = 1, grid: bool = True) -> tuple[Any, Any]:
    """An empty figure in the house's looks, and its axes."""
    module = require("matplotlib.figure", "Plots need matplotlib", EVAL)
    figure = module.Figure(figsize=(width, height), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns)
    for axes in np.atleast_1d(panels).flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
        axes.tick_params(colors=INK, labelsize=9, length=0)
        axes.title.set_fontsize(11)
        axes.set_axisbelow(True)
        if grid:
            axes.grid(axis="x" if rows == columns == 1 else "both", color=GRID, linewidth=0.6)
    return figure, panels


def _interval(axes: Any, estimate: Estimate, place: float) -> None:
    axes.plot([estimate.low, estimate.high], [place, place], color=INK, linewidth=1.6)


def _legend(figure: Any, axes: Any) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=9)


def _short(name: str) -> str:
    """A label that fits, whoever wrote it; a dollar would start a formula."""
    plain = name.replace("$", r"\$").replace("\n", " ")
    return plain if len(plain) <= 24 else plain[:23] + "…"
