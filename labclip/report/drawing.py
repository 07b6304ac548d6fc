"""Figures in one style: an empty one to draw on, names as plain text, and the finished figure as bytes for a page.

The colours are Okabe and Ito's, which are safe for colour-blind readers; no information is in the colour alone.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from labclip.packages import EVAL, require
from labclip.report.values import one_line

INK, SOFT, GRID = "#1b1f27", "#5c6473", "#d9dde4"
BLUE, ORANGE, GREEN, PINK, SKY = COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"


def new_figure(width: float, height: float, *, rows: int = 1, **further: Any) -> tuple[Any, Any]:
    """A `matplotlib.figure.Figure` of a size in inches, and its axes: one, or an array [rows].

    A figure wider than 5.6 inches can't be read on a phone. `further` are arguments of matplotlib's `subplots`.
    """
    module = require("matplotlib.figure", "Plots need matplotlib", EVAL)
    figure = module.Figure(figsize=(width, height), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, **further)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
        axes.tick_params(colors=INK, labelsize=9, length=0)
        axes.title.set_fontsize(11)
        axes.set_axisbelow(True)
        axes.grid(axis="x" if rows == 1 else "both", color=GRID, linewidth=0.6)
    return figure, panels


def legend_below(figure: Any, axes: Any, columns: int = 3) -> None:
    """Draw the legend of these axes below the figure."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns, frameon=False, fontsize=9)


def plain_label(text: str, most: int = 1000) -> str:
    """A name on one line of at most `most` characters, in which matplotlib finds no formula."""
    label = one_line(text)
    label = label if len(label) <= most else label[: most - 1] + "…"
    return label.replace("$", r"\$")


def as_svg(figure: Any) -> bytes:
    """A `matplotlib.figure.Figure` as an SVG file; equal figures give equal bytes."""
    matplotlib, buffer = require("matplotlib", "Plots need matplotlib", EVAL), BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "labclip", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
