"""What a fit returns."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labclip.alignment import Alignment
from labclip.report import Page, Reported, Section, Table, drawn
from labclip.report.values import Value
from labclip.training.frontier import Point, at_strength
from labclip.training.plot import plot

_EVERY = 0.25  # strengths in the table
_ROWS = (("binding", "binding"), ("R@1 text to image", "t2i_r1"), ("R@1 image to text", "i2t_r1"))
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
    """

    alignment: Alignment
    history: list[dict[str, Any]]
    frontier: list[Point]
    advice: list[str]
    worthwhile: bool

    def __repr__(self) -> str:
        base = self.alignment.base or f"dim {self.alignment.dim}"
        return f"FitResult({base}, {self._gain()}, worthwhile={self.worthwhile})"

    @property
    def results(self) -> dict[str, Any]:
        """The base beside the matrix at its strength, by metric.

        Example:
            {"validation": {"base": {"binding": 0.62, ...}, "labclip": {...}}, "retain": {"flickr": {...}}}
        """
        return measured(self.frontier, self.alignment.strength)

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
        return plot(self.frontier, self.history, self.alignment.strength, path)

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
                asdict(point) | {"retain": {name: _named(both) for name, both in point.retain.items()}}
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
        results = self.results
        sets = {"validation": results["validation"]} if "validation" in results else {}
        sets |= {f"retain {name}": both for name, both in results["retain"].items()}
        rows: list[Sequence[Value]] = [
            (name, shown, both["base"][metric], both["labclip"][metric])
            for name, both in sets.items()
            for shown, metric in _ROWS
            if metric in both["base"]
        ]
        tables = [
            Table("Held-out data; a tie counts as wrong.", ("data", "metric", "base", "LABCLIP"), rows, (0, 1), 1)
        ]
        if "validation" in sets:
            points = [p for p in self.frontier if p.strength == self.alignment.strength or p.strength % _EVERY == 0]
            heads = ("strength", "||A - I||", *(shown for shown, _ in _ROWS))
            strengths = [(f"{p.strength:g}", p.distance, p.binding, p.t2i_r1, p.i2t_r1) for p in points]
            tables.append(Table("Other strengths, on the validation data.", heads, strengths))
        figures = [drawn(self.plot(), "Binding and R@1 over strength, and the loss by epoch.")] if plots else []
        return Section("What it gains and costs", figures=figures, tables=tables)


def measured(points: Sequence[Point], strength: float) -> dict[str, Any]:
    """The base beside the matrix at its strength; see `FitResult.results`."""
    if not points:
        return {"retain": {}}
    sides = {"base": at_strength(points, 0), "labclip": at_strength(points, strength)}
    retain = {
        name: {side: _named(point.retain[name]) for side, point in sides.items()} for name in sides["base"].retain
    }
    own = {
        side: {metric: value for _, metric in _ROWS if (value := getattr(point, metric)) is not None}
        for side, point in sides.items()
    }
    return ({"validation": own} if own["base"] else {}) | {"retain": retain}


def _named(both: tuple[float, float]) -> dict[str, float]:
    return dict(zip(("t2i_r1", "i2t_r1"), both, strict=True))
