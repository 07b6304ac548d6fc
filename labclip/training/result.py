"""What a fit returns: the matrix, what it gains and costs, and whether it was worth it in plain words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labclip.alignment import Alignment
from labclip.files import atomic_file
from labclip.io.card import cosine_sections, figures, figures_table
from labclip.io.folder import matrix_sha256
from labclip.report import Figure, Page, Reported, Section, Table
from labclip.report.drawing import BLUE, GREEN, ORANGE, PINK, SKY, SOFT, empty, legend_below, literal
from labclip.report.values import gain_sentence, matrix_in_words, measured_by, percent
from labclip.training.change import Change
from labclip.training.frontier import ENOUGH, Point, at_strength, kept, most_divergence

Results = Mapping[str, Mapping[str, Mapping[str, float]]]
_FEW = 200  # below this many held-out captions a gain is known to some 7 percent at best
_BINDS = 0.95
_RECORDED = ("recipe", "keep", "objective", "seed")
_SETTINGS = ("epochs", "batch_size", "learning_rate", "rank")


@dataclass(frozen=True, repr=False, eq=False)
class FitResult(Reported):
    """What `fit` returns: a fitted matrix, what it gains and what it costs.

    Attributes:
        alignment: The matrix, at the strength selected on the frontier.
        history: A record of each epoch: epoch, loss, logit_scale, distance (||A - I||_F before scaling).
        frontier: What each strength from 0 to 1.25 does on the held-out data; empty where nothing is held out.
        advice: Reasons for caution before using the matrix, a sentence each; empty if there are none.
        worthwhile: Whether the matrix improves binding by more than chance explains, at no measurable cost; True if
            that was not measured.
        change: How many held-out captions became right and wrong, and the paired test of it; None without negatives.
        weights_sha256: Of the base's weights; "" where they are not known.
        date: Date of the fit, for example "2026-03-01".
    """

    alignment: Alignment
    history: list[dict[str, Any]]
    frontier: list[Point]
    advice: list[str]
    worthwhile: bool
    change: Change | None = None
    weights_sha256: str = ""
    date: str = ""

    def __repr__(self) -> str:
        base = self.alignment.base or f"dim {self.alignment.dim}"
        known = _bound(self.results)
        binding = "{:.3f} -> {:.3f}".format(*known[0]) if known else "not measured"
        return (
            f"FitResult({base}, strength {self.alignment.strength:g}, binding {binding}, worthwhile={self.worthwhile})"
        )

    @property
    def results(self) -> dict[str, Any]:
        """By set, "validation" or "retain NAME", the base beside the matrix at its strength, by metric.

        Example:
            {"validation": {"base": {"binding": 0.62, ...}, "labclip": {...}}, "retain flickr": {...}}
        """
        return dict(self.alignment.metadata.get("results", {}))

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw binding against retrieval over strength: a matplotlib figure. Needs the extra `eval`.

        Args:
            path: Where to save the figure; its ending says the format.

        Raises:
            MissingPackageError: If matplotlib is missing.
            ValueError: If nothing was held out, so that there is no frontier.
        """
        if not self.frontier:
            raise ValueError("Nothing was held out, so there is no frontier to draw. Pass validation=FEATURES.")
        figure, axes = empty(5, 3.9)  # small enough to be read on a phone
        strengths = [point.strength for point in self.frontier]
        if self.frontier[0].shares:
            for style, name, at in (("-", "binding", 0), ("--", "binding, grounded", 2)):
                bound = [point.shares[at] for point in self.frontier]
                axes.plot(strengths, bound, color=GREEN, linewidth=2.5, linestyle=style, label=name)
        for colour, name in zip(itertools.cycle((BLUE, ORANGE, PINK, SKY)), self.frontier[0].recalls, strict=False):
            recalls = zip(*(point.recalls[name] for point in self.frontier), strict=True)
            for style, way, curve in zip("-:", ("text to image", "image to text"), recalls, strict=True):
                label = literal(f"R@1 {way}, {name}", 40)  # a legend has no room for more
                axes.plot(strengths, curve, color=colour, linestyle=style, label=label)
        axes.axvline(self.alignment.strength, color=SOFT, linestyle="--", linewidth=1, label="strength selected")
        axes.set(xlabel="strength: 0 the base, 1 as fitted", ylabel="accuracy on held-out data")
        legend_below(figure, axes, columns=2)
        if path is not None:
            with atomic_file(Path(path)) as part:
                figure.savefig(part, dpi=150)
        return figure

    def page(self) -> Page:
        """The whole report as values, with a figure where something was held out."""
        of = f" on {self.alignment.base}" if self.alignment.base else ""
        sections = cosine_sections(self.alignment.metadata)
        if self.frontier:
            caption = f"Held-out data, at strength {self.alignment.strength:g}; a tie counts as wrong."
            table = figures_table(figures({"results": self.results}), caption)
            figure = Figure(self.plot, "Binding and R@1 over strength.")
            sections = [Section("What it gains and costs", (), [figure], [table]), self._strengths(), *sections]
        if self.advice:
            sections.append(Section("Advice", self.advice))
        known = self.alignment.metadata
        settings = {name: known[name] for name in _RECORDED} | {name: known["settings"][name] for name in _SETTINGS}
        settings |= known["loss_weights"]
        facts = [
            ("LABCLIP", matrix_in_words(matrix_sha256(self.alignment.fitted), self.alignment.strength)),
            ("Data", known["data"]),
            ("Held out", known["held_out"]),
            ("Settings", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())),
            *measured_by(self.weights_sha256, known["versions"], self.date),
        ]
        return Page(f"Fit{of}", self._lead(), sections, facts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.alignment.metadata,
            "base": str(self.alignment.base) if self.alignment.base else None,
            "strength": self.alignment.strength,
            "advice": self.advice,
            "results": self.results,
            "frontier": [asdict(point) for point in self.frontier],
            "history": self.history,
            "weights_sha256": self.weights_sha256,
            "date": self.date,
        }

    def _lead(self) -> str:
        results, strength = self.results, self.alignment.strength
        if not (bindings := _bound(results)):
            return f"Not measured: strength {strength:g}, binding not measured."
        (before, after), *controls = bindings
        base, ours = results["validation"].values()
        what, parts, whole = "a part", "", ""
        if "binding" in base:
            what = "a caption"
            if "part_binding" in base:
                both = percent(base["part_binding"]), percent(ours["part_binding"])
                parts = " For parts it is {}%, with the matrix {}%.".format(*both)
        if "whole_truth" in base:
            both = percent(base["whole_truth"]), percent(ours["whole_truth"])
            whole = " Captions beat parts of their image in {}% of pairs, with the matrix in {}%.".format(*both)
        needs = [grounded - theirs for theirs, grounded in controls]
        sides = [(of_set["base"], of_set["labclip"]) for of_set in results.values()]
        shares = [1 - ours[way] / base[way] for base, ours in sides for way in ("t2i_r1", "i2t_r1") if base[way]]
        lost = percent(max(0.0, *shares)) if shares else "0"
        return (
            f"This model tells {what} from its negative in {percent(before)}% of held-out pairs (chance 50%). "
            f"{gain_sentence('With the matrix it is', after, after - before, needs)}{parts} It costs "
            f"{'nothing' if lost == '0' else f'at most {lost}%'} in search (R@1) there.{whole} "
            f"{self.alignment.metadata['verdict']}."
        )

    def _strengths(self) -> Section:
        """What other strengths do: the figures that select one."""
        keep = float(self.alignment.metadata["keep"])
        within = kept(self.frontier, keep)
        rows = [
            (f"{p.strength:g}", p.binding, p.grounded, *((*p.parts[::2], p.whole_truth) if p.parts else ()),
             *p.recalls.get("validation", (None, None)), p.smoothed_binding,
             f"{p.most_lost[0] + 0.0:.1%} ± {p.most_lost[1]:.1%}", p.divergence, "yes" if p in within else "no")
            for p in self.frontier if p.strength == self.alignment.strength or p.strength % 0.25 == 0
        ]  # fmt: skip
        parts = ("parts", "parts grounded", "whole truth") if self.frontier[0].parts else ()
        caption = (
            f"Held-out data; grounded: preferred by more than the mean image prefers it. The last four columns select. "
            f"A strength is kept if it loses at most {percent(1 - keep)}% of R@1 (smoothed, on the dataset where the "
            f"loss is largest), at a divergence of at most {most_divergence(keep):.2f}, or any if R@1 rises. Of those "
            f"kept, one near the best smoothed grounded binding is taken"
            f"{'; it is the mean over captions, parts and whole truth' if parts else ''}."
        )
        heads = ("strength", "binding", "grounded", *parts, "t2i R@1", "i2t R@1", "smoothed", "R@1 lost", "divergence")
        return Section("Other strengths", tables=[Table(caption, (*heads, "kept"), rows)])


def _bound(results: Results) -> list[tuple[float, float]]:
    """Base and matrix in binding, then in grounded binding: of captions, of parts where captions have no negative."""
    base, ours = results.get("validation", {"base": {}, "labclip": {}}).values()
    what = "binding" if "binding" in base else "part_binding"
    return [(base[name], ours[name]) for name in (what, f"{what}_grounded") if name in base]


def measured(points: Sequence[Point], strength: float) -> dict[str, Any]:
    """By set the base beside the matrix at a strength, by metric."""
    if not points:
        return {}
    sides = {"base": at_strength(points, 0), "labclip": at_strength(points, strength)}
    return {name: {side: _metrics(point, name) for side, point in sides.items()} for name in points[0].recalls}


def _metrics(point: Point, name: str) -> dict[str, float]:
    """The metrics of a set; only the held-out data have more than R@1."""
    recalls = dict(zip(("t2i_r1", "i2t_r1"), point.recalls[name], strict=True))
    if name != "validation":
        return recalls
    known = {"binding": point.binding, "binding_blind": point.blind, "binding_grounded": point.grounded, **recalls}
    known |= zip(("part_binding", "part_binding_blind", "part_binding_grounded"), point.parts or (), strict=False)
    known |= {f"keywords_{way}": value for way, value in zip(recalls, point.keywords or (), strict=False)}
    known["whole_truth"] = point.whole_truth
    return {metric: value for metric, value in known.items() if value is not None}


def advice(
    results: Results, strength: float, change: Change | None, few: Mapping[str, int], leaked: int
) -> tuple[list[str], bool]:
    """What speaks against using a matrix at a strength, a sentence each, and whether it is worth using.

    `few` has the images of the sets that are small for `keep`; `leaked` held-out captions are negatives of the fit.
    """
    if "validation" not in results:
        return ["Nothing was held out, so nothing is known of what this matrix gains and costs. Evaluate it."], True
    sentences = []
    if change is None:
        sentences.append("The held-out data has no negatives, so binding was not measured. Evaluate the matrix.")
    elif change.captions < _FEW:
        sentences.append(
            f"Only {change.captions} {change.counted} with a negative were held out: what they gain is known to about "
            f"{2 * change.error:.2f}. Fit on more data, or pass validation=FEATURES."
        )
    if few:
        small = ", ".join(f"{images} of {name}" for name, images in few.items())
        sentences.append(
            f"R@1 was measured on few images ({small}), so the loss of R@1 may well be greater than keep "
            f"allows. Hold out {ENOUGH} or more of each."
        )
    if strength == 0:
        binds = "binds better and " if change else ""
        sentences.append(
            f"No strength {binds}keeps what retrieval needs: keep the base as it is, or pass, for example, keep=0.97."
        )
    elif change and not change.is_gain:
        sentences.append("Binding is not measurably better than the base's. Fit on more captions, or keep the base.")
    (before, after), (blind, grounded) = [*_bound(results), (0.0, 0.0), (0.0, 0.0)][:2]
    if before >= _BINDS:
        sentences.append(f"The base already binds {before:.3f} of the held-out pairs. There is little to repair.")
    if 0 < after - before > 2 * (grounded - blind):
        sentences.append(
            "Text alone tells most of what is gained: fit with the default recipe, or make better negatives."
        )
    base, ours = results["validation"].values()
    for name, metric in (("captions", "binding_grounded"), ("parts", "part_binding_grounded")):
        if "part_binding" in base and ours.get(metric, 0) < base.get(metric, 0):
            sentences.append(f"Grounded binding of {name} falls from {base[metric]:.3f} to {ours[metric]:.3f}.")
    if leaked and change is not None:
        sentences.append(
            f"{leaked:,} of the held-out captions are also negatives of the fit, for captions repeat too often to hold "
            f"some out of both: binding of new captions was not measured. "
            f"labclip.training.split_combinations holds combinations out."
        )
    return sentences, strength != 0 and (change is None or change.is_gain)


def verdict(change: Change | None, strength: float, *, worthwhile: bool) -> str:
    """What the held-out data say of a matrix at a strength, for its record: the counts, the test and the verdict."""
    if change is None:
        return "Binding was not measured" if worthwhile else "No strength keeps what retrieval needs: not worth using"
    return f"{change.words} at strength {strength:g}: {'' if worthwhile else 'not '}worth using"
