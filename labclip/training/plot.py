"""A picture of a fit: binding against retrieval over strength, and the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labclip.packages import EVAL, require
from labclip.training.frontier import Point

_BINDING, _CHOSEN = "#1f7a5a", "#b3402f"
_RETRIEVAL = ("#3b4a6b", "#8a93a6", "#c08a3e", "#7d5ba6")


def plot(frontier: Sequence[Point], history: Sequence[dict[str, Any]], strength: float, path: str | Path | None) -> Any:
    """See `FitResult.plot`."""
    figure_module = require("matplotlib.figure", "Plots need matplotlib", EVAL)
    if not frontier:
        raise ValueError("Nothing was held out, so there is no frontier to draw. Pass validation to labclip.fit.")
    figure = figure_module.Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    strengths = [point.strength for point in frontier]
    binding = [point.binding for point in frontier]
    if None not in binding:
        left.plot(strengths, binding, color=_BINDING, linewidth=2.5, label="binding")
    for colour, name in zip(_RETRIEVAL, frontier[0].t2i_r1, strict=False):
        label = "own domain" if name == "own" else name
        left.plot(strengths, [p.t2i_r1[name] for p in frontier], color=colour, label=f"R@1 text to image, {label}")
        left.plot(
            strengths,
            [p.i2t_r1[name] for p in frontier],
            color=colour,
            linestyle=":",
            label=f"R@1 image to text, {label}",
        )
    left.axvline(strength, color=_CHOSEN, linewidth=1, linestyle="--", label="strength chosen")
    left.set(
        xlabel="strength: 0 the base, 1 as fitted", ylabel="share of held-out data", title="What it gains and costs"
    )
    epochs = [record["epoch"] for record in history]
    right.plot(epochs, [record["loss"] for record in history], color=_RETRIEVAL[0], linewidth=2)
    right.set(xlabel="epoch", ylabel="loss", title="The epochs")
    if looks := [record for record in history if "binding" in record]:
        twin = right.twinx()
        twin.plot([look["epoch"] for look in looks], [look["binding"] for look in looks], color=_BINDING, linewidth=2)
        twin.set_ylabel("binding on validation", color=_BINDING)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
