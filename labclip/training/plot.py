"""A figure of a fit: binding against retrieval over strength, and the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labclip.messages import typed
from labclip.packages import EVAL, require
from labclip.training.frontier import Point

_BINDING, _SELECTED = "#1f7a5a", "#b3402f"
_RETRIEVAL = ("#3b4a6b", "#8a93a6", "#c08a3e", "#7d5ba6")


def plot(frontier: Sequence[Point], history: Sequence[dict[str, Any]], strength: float, path: str | Path | None) -> Any:
    """See `FitResult.plot`."""
    figure_module = require("matplotlib.figure", "Plots need matplotlib", EVAL)
    if not frontier:
        raise ValueError(
            f"Nothing was held out, so there is no frontier to draw. Pass {typed('validation', '--validation')}."
        )
    figure = figure_module.Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    strengths = [point.strength for point in frontier]
    if frontier[0].binding is not None:
        left.plot(strengths, [p.binding for p in frontier], color=_BINDING, linewidth=2.5, label="binding")
    curves = {name: [point.retain[name] for point in frontier] for name in frontier[0].retain}
    if frontier[0].t2i_r1 is not None:
        curves = {"own domain": [(p.t2i_r1, p.i2t_r1) for p in frontier], **curves}  # type: ignore[misc]
    for colour, (name, recalls) in zip(_RETRIEVAL, curves.items(), strict=False):
        for style, way, curve in zip("-:", ("text to image", "image to text"), zip(*recalls, strict=True), strict=True):
            left.plot(strengths, curve, color=colour, linestyle=style, label=f"R@1 {way}, {name}")
    left.axvline(strength, color=_SELECTED, linewidth=1, linestyle="--", label="strength selected")
    left.set(
        xlabel="strength: 0 the base, 1 as fitted", ylabel="accuracy on held-out data", title="What it gains and costs"
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
