"""What a fit returns: the matrix, what it gains and costs, and whether it was worth it in plain words."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labclip.alignment import Alignment
from labclip.messages import typed
from labclip.packages import EVAL, require
from labclip.report import Page, Reported, Section, Table, drawn
from labclip.report.values import Value
from labclip.training.change import ALPHA, Change
from labclip.training.frontier import HeldOut, Point, at_strength

_EVERY = 0.25  # strengths in the table
_SHOWN = {"binding": "binding", "t2i_r1": "R@1 text to image", "i2t_r1": "R@1 image to text"}
_FEW = 200  # below this many held-out captions a gain is known to some 7 percent at best
_BINDS = 0.95
_BINDING, _SELECTED = "#1f7a5a", "#b3402f"
_COLOURS = ("#3b4a6b", "#8a93a6", "#c08a3e", "#7d5ba6")
_RECORDED = ("recipe", "identity_penalty", "objective", "seed", "data")


@dataclass(frozen=True, repr=False, eq=False)
class FitResult(Reported):
    """A fitted matrix, what it gains and what it costs.

    Attributes:
        alignment: The matrix, at the strength selected on the frontier.
        history: A record of each epoch: epoch, loss, logit_scale, distance (||A - I||_F before scaling); and after some
            epochs, where the recipe looks at validation, binding and score of the point that would be selected.
        frontier: What each strength from 0 to 1.25 does on the held-out data; empty where nothing is held out.
        advice: What a user should know before using the matrix, a sentence each; empty if nothing speaks against it.
        worthwhile: Whether the matrix binds better than its base by more than chance explains, at no measurable cost;
            True where that was not measured.
        change: Which held-out captions became right and which wrong, with the paired test of it; None without negatives.
    """

    alignment: Alignment
    history: list[dict[str, Any]]
    frontier: list[Point]
    advice: list[str]
    worthwhile: bool
    change: Change | None = None

    def __repr__(self) -> str:
        base = self.alignment.base or f"dim {self.alignment.dim}"
        return f"FitResult({base}, {self._gain()}, worthwhile={self.worthwhile})"

    @property
    def results(self) -> dict[str, Any]:
        """The base beside the matrix at its strength, by metric.

        Example:
            {"validation": {"base": {"binding": 0.62, ...}, "labclip": {...}}, "retain": {"flickr": {...}}}
        """
        sets = measured(self.frontier, self.alignment.strength)
        own = {"validation": sets.pop("validation")} if "validation" in sets else {}
        return own | {"retain": {name.removeprefix("retain "): both for name, both in sets.items()}}

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw binding against retrieval over strength, and the epochs. Needs the extra `eval`.

        Args:
            path: Where to save the figure; its ending says the format.

        Returns:
            The matplotlib figure.

        Raises:
            MissingPackageError: If matplotlib is missing.
            ValueError: If nothing was held out, so that there is no frontier.
        """
        figure_module = require("matplotlib.figure", "Plots need matplotlib", EVAL)
        if not self.frontier:
            raise ValueError(
                f"Nothing was held out, so there is no frontier to draw. Pass {typed('validation', '--validation')}."
            )
        figure = figure_module.Figure(figsize=(10, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        strengths = [point.strength for point in self.frontier]
        if self.frontier[0].binding is not None:
            left.plot(strengths, [p.binding for p in self.frontier], color=_BINDING, linewidth=2.5, label="binding")
        for colour, name in zip(_COLOURS, self.frontier[0].recalls, strict=False):
            recalls = [point.recalls[name] for point in self.frontier]
            for style, way, curve in zip("-:", [*_SHOWN.values()][1:], zip(*recalls, strict=True), strict=True):
                left.plot(strengths, curve, color=colour, linestyle=style, label=f"{way}, {name}")
        left.axvline(self.alignment.strength, color=_SELECTED, linestyle="--", label="strength selected")
        left.set(xlabel="strength: 0 the base, 1 as fitted", ylabel="accuracy on held-out data")
        right.plot([record["epoch"] for record in self.history], [record["loss"] for record in self.history])
        right.set(xlabel="epoch", ylabel="loss")
        if looks := {record["epoch"]: record["binding"] for record in self.history if "binding" in record}:
            twin = right.twinx()
            twin.plot([*looks], [*looks.values()], color=_BINDING, linewidth=2)
            twin.set_ylabel("binding on validation", color=_BINDING)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def page(self, *, plots: bool = False) -> Page:
        """The whole report as values; the figure is left out where matplotlib is missing or nothing was held out."""
        of = f" on {self.alignment.base}" if self.alignment.base else ""
        lead = "Worth using" if self.worthwhile else "Not worth using"
        lead = lead if self.frontier and self.frontier[0].binding is not None else "Not measured"
        sections = [self._trade(plots and importlib.util.find_spec("matplotlib") is not None)] if self.frontier else []
        if self.advice:
            sections.append(Section("Advice", self.advice))
        facts = [(name.replace("_", " ").capitalize(), f"{self.alignment.metadata[name]}") for name in _RECORDED]
        return Page(f"Fit{of}", f"{lead}: {self._gain()}.", sections, facts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. Names of `retain` stand below "retain" alone."""
        return {
            **self.alignment.metadata,
            "base": str(self.alignment.base) if self.alignment.base else None,
            "strength": self.alignment.strength,
            "worthwhile": self.worthwhile,
            "advice": self.advice,
            "results": self.results,
            "frontier": [
                asdict(point) | {"retain": {name: _by_metric(both) for name, both in point.retain.items()}}
                for point in self.frontier
            ],
            "history": self.history,
        }

    def _gain(self) -> str:
        strength = f"strength {self.alignment.strength:g}"
        if not self.frontier or self.frontier[0].binding is None:
            return f"{strength}, binding not measured"
        before, after = (at_strength(self.frontier, at).binding for at in (0, self.alignment.strength))
        return f"{strength}, binding {before:.3f} -> {after:.3f}"

    def _trade(self, plots: bool) -> Section:
        """What was gained and paid."""
        rows: list[Sequence[Value]] = [
            (name, shown, both["base"][metric], both["labclip"][metric])
            for name, both in measured(self.frontier, self.alignment.strength).items()
            for metric, shown in _SHOWN.items()
            if metric in both["base"]
        ]
        tables = [
            Table("Held-out data; a tie counts as wrong.", ("data", "metric", "base", "LABCLIP"), rows, (0, 1), 1)
        ]
        if self.frontier[0].t2i_r1 is not None:
            points = [p for p in self.frontier if p.strength == self.alignment.strength or p.strength % _EVERY == 0]
            heads = ("strength", "||A - I||", *_SHOWN.values())
            strengths = [(f"{p.strength:g}", p.distance, p.binding, p.t2i_r1, p.i2t_r1) for p in points]
            tables.append(Table("Other strengths, on the validation data.", heads, strengths))
        figures = [drawn(self.plot(), "Binding and R@1 over strength, and the loss by epoch.")] if plots else []
        return Section("What it gains and costs", figures=figures, tables=tables)


def measured(points: Sequence[Point], strength: float) -> dict[str, Any]:
    """By set, "validation" or "retain NAME", the base beside the matrix at a strength, by metric."""
    found: dict[str, Any] = {}
    for side, at in (("base", 0), ("labclip", strength)) if points else ():
        point = at_strength(points, at)
        for name, both in point.recalls.items():
            binding = {"binding": point.binding} if name == "validation" and point.binding is not None else {}
            found.setdefault(name, {})[side] = binding | _by_metric(both)
    return found


def _by_metric(both: tuple[float, float]) -> dict[str, float | None]:
    return dict(zip(("t2i_r1", "i2t_r1"), both, strict=True))


def advice(
    points: Sequence[Point], strength: float, own: HeldOut | None, change: Change | None, *, leaked: int = 0
) -> tuple[list[str], bool]:
    """What speaks against using a matrix at a strength, a sentence each, and whether it is worth using."""
    if own is None:
        return ["Nothing was held out, so nothing is known of what this matrix gains and costs. Evaluate it."], True
    if change is None:
        return ["The held-out data has no negatives, so binding was not measured. Evaluate the matrix."], True
    before = at_strength(points, 0).binding
    assert before is not None
    told = []
    if strength == 0:
        told.append("No strength binds better without costing retrieval: keep the base as it is.")
    elif not change.is_gain:
        worse = change.became_wrong > change.became_right and change.p < ALPHA
        why = "so it binds worse. Keep" if worse else "which chance may explain. Fit on more captions, or keep"
        told.append(f"{change.words}, {why} the base.")
    elif change.captions < _FEW:
        told.append(
            f"{change.words}. So few show a gain, but its size only to about {2 * change.error:.2f}. Fit on more data, "
            f"or pass {typed('validation', '--validation')}."
        )
    if before >= _BINDS:
        told.append(f"The base already binds {before:.3f} of the held-out pairs. There is little to repair.")
    if leaked:
        told.append(
            f"{leaked:,} of the held-out captions are also negatives of the fit, for captions repeat too often to hold "
            f"some out of both: binding of new captions was not measured. "
            f"{typed('labclip.training.split_combinations', '--split combinations')} holds combinations out."
        )
    return told, strength != 0 and change.is_gain
