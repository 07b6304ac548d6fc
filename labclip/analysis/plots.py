"""Figures of a diagnosis. Each function returns a `matplotlib.figure.Figure`; no state is shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from labclip.analysis.probes import Probed
from labclip.analysis.space import Distribution
from labclip.analysis.verdict import MODELS, SIDES
from labclip.evaluation.scores import Estimate
from labclip.report.drawing import BLUE, GREEN, INK, ORANGE, PINK, SOFT, legend_below, new_figure

PERMUTED = {"swapped": "attributes swapped", "shuffled": "words shuffled"}
_COLOURS = {"image": BLUE, "text": ORANGE, "base": SOFT, "own": GREEN, "fitted": PINK}


def binding(probes: Mapping[str, Probed], cosine: Mapping[str, Estimate]) -> Any:
    """Bars of accuracy: the probes on "image" and "text", and the cosine of "base", "own" and "fitted"."""
    rows = [(f"linear probe on {SIDES[side]}", probed.accuracy, _COLOURS[side]) for side, probed in probes.items()]
    rows += [(f"cosine, {MODELS[name]}", estimate, _COLOURS[name]) for name, estimate in cosine.items()]
    figure, axes = new_figure(5.6, 0.9 + 0.4 * len(rows))
    for row, (_, estimate, colour) in enumerate(rows):
        axes.barh(row, estimate.value, color=colour, height=0.62)
        axes.plot([estimate.low, estimate.high], [row, row], color=INK, linewidth=1.6)
        axes.text(estimate.high + 0.012, row, f"{estimate.value:.3f}", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set(xlim=(0, 1.1), ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy, with 95% interval")
    axes.set_title("Which attribute belongs to which object", loc="left")
    baseline = float(np.mean([probed.bag_chance for probed in probes.values()]))
    axes.axvline(baseline, label=f"bag-of-words baseline: {baseline:.2f}", color=INK, linewidth=1, linestyle="--")
    legend_below(figure, axes)
    return figure


def permutations(similarity: Mapping[str, Mapping[str, Distribution]]) -> Any:
    """Histograms of the cosines of captions with their permutations, "swapped" and "shuffled", before and after."""
    figure, panels = new_figure(5.6, 0.4 + 2.2 * len(similarity), rows=len(similarity), sharex=True, squeeze=False)
    low = min(cosine.quantiles[0.05] for cosines in similarity.values() for cosine in cosines.values())
    for axes, (kind, cosines) in zip(panels[:, 0], similarity.items(), strict=True):
        for (when, cosine), colour, style in zip(cosines.items(), (SOFT, GREEN), ("--", "-"), strict=False):
            axes.stairs(100 * cosine.histogram, cosine.edges, color=colour, linewidth=1.8, linestyle=style, label=when)
            axes.stairs(100 * cosine.histogram, cosine.edges, color=colour, fill=True, alpha=0.18)
            axes.axvline(cosine.quantiles[0.5], color=colour, linewidth=1, linestyle=":")
        axes.set(xlim=(max(-1.0, low - 0.15 * (1 - low) - 0.02), 1.005), ylabel="% of captions")
        axes.set_title(PERMUTED[kind], fontsize=10)
        axes.legend(frameon=False, fontsize=9, loc="upper left", title="the matrix", title_fontsize=9)
    panels[-1, 0].set_xlabel("cosine with the caption")
    figure.suptitle("Captions and their permutations (dotted: medians)", x=0.01, ha="left", fontsize=11)
    return figure
