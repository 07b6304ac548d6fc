"""The result of a fit: the matrix, its gains and costs, and in plain words whether it is worth using."""

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
from labclip.report.drawing import BLUE, GREEN, ORANGE, PINK, SKY, SOFT, legend_below, new_figure, plain_label
from labclip.report.values import gain_sentence, matrix_words, percent, version_facts
from labclip.training.change import Change
from labclip.training.frontier import ENOUGH, Point, at_strength, divergence_limit, kept

_FEW = 200  # with fewer held-out captions the gain is uncertain by 7 percent or more
_ALREADY_BINDS = 0.95


@dataclass(frozen=True, repr=False, eq=False)
class FitResult(Reported):
    """The result of `fit`: a fitted matrix with its gains and costs.

    Attributes:
        alignment: The matrix at the selected strength.
        history: A record of each epoch: epoch, loss, logit_scale, distance (||A - I||_F before scaling).
        frontier: Gains and costs of each strength from 0 to 1.25 on the held-out data; empty if nothing is held out.
        advice: Reasons for caution before using the matrix, a sentence each; empty if there are none.
        worthwhile: Whether the matrix improves binding by more than chance explains, at no measurable cost; True if
            that was not measured.
        change: How many held-out captions became right or wrong, with its paired test; None without negatives.
        weights_sha256: SHA-256 of the base's weights; "" if unknown.
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
        sides = self._sides
        binding = "{:.3f} -> {:.3f}".format(*(point.shares[0] for point in sides)) if sides else "not measured"
        return (
            f"FitResult({base}, strength {self.alignment.strength:g}, binding {binding}, worthwhile={self.worthwhile})"
        )

    @property
    def results(self) -> dict[str, Any]:
        """For each set, "validation" or "retain NAME", the metrics of the base and of the matrix at its strength.

        Example:
            {"validation": {"base": {"binding": 0.62, ...}, "labclip": {...}}, "retain flickr": {...}}
        """
        return dict(self.alignment.metadata.get("results", {}))

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw binding against retrieval over strength: a matplotlib figure. Needs the extra `eval`.

        Args:
            path: Where to save the figure; the ending sets the format.

        Raises:
            MissingPackageError: If matplotlib is missing.
            ValueError: If nothing was held out, so that there is no frontier.
        """
        if not self.frontier:
            raise ValueError("Nothing was held out, so there is no frontier to draw. Pass validation=FEATURES.")
        figure, axes = new_figure(5, 3.9)  # small enough to be read on a phone
        strengths = [point.strength for point in self.frontier]
        if self.frontier[0].shares:
            for style, name, index in (("-", "binding", 0), ("--", "binding, grounded", 2)):
                curve = [point.shares[index] for point in self.frontier]
                axes.plot(strengths, curve, color=GREEN, linewidth=2.5, linestyle=style, label=name)
        for colour, name in zip(itertools.cycle((BLUE, ORANGE, PINK, SKY)), self.frontier[0].recalls, strict=False):
            recalls = zip(*(point.recalls[name] for point in self.frontier), strict=True)
            for style, direction, recall in zip("-:", ("text to image", "image to text"), recalls, strict=True):
                label = plain_label(f"R@1 {direction}, {name}", 40)  # a legend has no room for more
                axes.plot(strengths, recall, color=colour, linestyle=style, label=label)
        axes.axvline(self.alignment.strength, color=SOFT, linestyle="--", linewidth=1, label="strength selected")
        axes.set(xlabel="strength: 0 the base, 1 as fitted", ylabel="accuracy on held-out data")
        legend_below(figure, axes, columns=2)
        if path is not None:
            with atomic_file(Path(path)) as temporary:
                figure.savefig(temporary, dpi=150)
        return figure

    def page(self) -> Page:
        """The whole report as values, with a figure if something was held out."""
        record = self.alignment.metadata
        sections = cosine_sections(record)
        if self.frontier:
            caption = f"Held-out data, at strength {self.alignment.strength:g}; a tie counts as wrong."
            table = figures_table(figures({"results": self.results}), caption)
            figure = Figure(self.plot, "Binding and R@1 over strength.")
            sections = [Section("What it gains and costs", (), [figure], [table]), self._strengths(), *sections]
        if self.advice:
            sections.append(Section("Advice", self.advice))
        settings = {name: record[name] for name in ("recipe", "keep", "objective", "seed")}
        settings |= {name: record["settings"][name] for name in ("epochs", "batch_size", "learning_rate", "rank")}
        settings |= record["loss_weights"]
        facts = [
            ("LABCLIP", matrix_words(matrix_sha256(self.alignment.fitted), self.alignment.strength)),
            ("Data", record["data"]),
            ("Held out", record["held_out"]),
            ("Settings", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())),
            *version_facts(self.weights_sha256, record["versions"], self.date),
        ]
        title = f"Fit on {self.alignment.base}" if self.alignment.base else "Fit"
        return Page(title, self._lead(), sections, facts)

    def to_json(self) -> dict[str, Any]:
        """The whole result as plain JSON values."""
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

    @property
    def _sides(self) -> list[Point]:
        """The points of the base and of the matrix at its strength; empty if binding was not measured."""
        sides = [at_strength(self.frontier, at) for at in (0, self.alignment.strength)] if self.frontier else []
        return sides if sides and sides[0].shares else []

    def _lead(self) -> str:
        sides = self._sides
        if not sides:
            return f"Binding was not measured. The strength is {self.alignment.strength:g}."
        (before, _, base_grounded), (after, _, grounded) = (point.shares for point in sides)
        parts = whole = ""
        if sides[0].binding is not None and sides[0].parts:
            percents = [percent(point.parts[0]) for point in sides if point.parts]
            parts = " For parts it is {}%, with the matrix {}%.".format(*percents)
        if sides[0].whole_truth is not None:
            percents = [percent(point.whole_truth or 0.0) for point in sides]
            whole = " Captions beat parts of their image in {}% of pairs, with the matrix in {}%.".format(*percents)
        base_recalls, recalls = (itertools.chain(*point.recalls.values()) for point in sides)
        losses = [1 - new / old for old, new in zip(base_recalls, recalls, strict=True) if old]
        lost = percent(max(0.0, *losses)) if losses else "0"
        gain = gain_sentence("With the matrix it is", after, after - before, [grounded - base_grounded])
        return (
            f"This model tells {'a part' if sides[0].binding is None else 'a caption'} from its negative in "
            f"{percent(before)}% of held-out pairs (chance 50%). {gain}{parts} It costs "
            f"{'nothing' if lost == '0' else f'at most {lost}%'} in search (R@1) there.{whole} "
            f"{self.alignment.metadata['verdict']}."
        )

    def _strengths(self) -> Section:
        """The section with the figures of other strengths, by which one is selected."""
        keep = float(self.alignment.metadata["keep"])
        kept_points = kept(self.frontier, keep)
        rows = [
            (f"{p.strength:g}", p.binding, p.grounded, *((*p.parts[::2], p.whole_truth) if p.parts else ()),
             *p.recalls.get("validation", (None, None)), p.smoothed_binding,
             f"{p.most_lost[0] + 0.0:.1%} ± {p.most_lost[1]:.1%}", p.divergence, "yes" if p in kept_points else "no")
            for p in self.frontier if p.strength == self.alignment.strength or p.strength % 0.25 == 0
        ]  # fmt: skip
        parts = ("parts", "parts grounded", "whole truth") if self.frontier[0].parts else ()
        caption = (
            f"Held-out data. Grounded: the image prefers the caption by more than the mean image does. The last four "
            f"columns decide. A strength is kept if it loses at most {percent(1 - keep)}% of R@1 (smoothed, on the "
            f"dataset with the largest loss), and its divergence is at most {divergence_limit(keep):.2f} or R@1 rises. "
            f"Of those kept, one near the best smoothed grounded binding is selected"
            f"{'; it is the mean over captions, parts and whole truth' if parts else ''}."
        )
        heads = ("strength", "binding", "grounded", *parts, "t2i R@1", "i2t R@1", "smoothed", "R@1 lost", "divergence")
        return Section("Other strengths", tables=[Table(caption, (*heads, "kept"), rows)])


def results_at(points: Sequence[Point], strength: float) -> dict[str, Any]:
    """For each set, the metrics of the base and of the matrix at a strength, as in `FitResult.results`."""
    sides = {"base": at_strength(points, 0), "labclip": at_strength(points, strength)}
    return {name: {side: _metrics(point, name) for side, point in sides.items()} for name in points[0].recalls}


def _metrics(point: Point, name: str) -> dict[str, float]:
    """The metrics of one set. Other sets than the held-out data have R@1 only."""
    recalls = dict(zip(("t2i_r1", "i2t_r1"), point.recalls[name], strict=True))
    if name != "validation":
        return recalls
    metrics = {"binding": point.binding, "binding_blind": point.blind, "binding_grounded": point.grounded, **recalls}
    metrics |= zip(("part_binding", "part_binding_blind", "part_binding_grounded"), point.parts or (), strict=False)
    metrics |= {f"keywords_{metric}": value for metric, value in zip(recalls, point.keywords or (), strict=False)}
    metrics["whole_truth"] = point.whole_truth
    return {metric: value for metric, value in metrics.items() if value is not None}


def advice(
    points: Sequence[Point], strength: float, change: Change | None, small_sets: Mapping[str, int], leaked: int
) -> list[str]:
    """Reasons for caution before using a matrix at a strength, a sentence each; `points` are its frontier.

    `small_sets` maps the sets with too few images for `keep` to their number of images. `leaked` is the number of
    held-out captions that are negatives of the fit.
    """
    if not points or "validation" not in points[0].recalls:
        return ["Nothing was held out, so the gains and costs of this matrix are not known. Evaluate it."]
    sentences = []
    if change is None:
        sentences.append("The held-out data has no negatives, so binding was not measured. Evaluate the matrix.")
    elif change.captions < _FEW:
        sentences.append(
            f"Only {change.captions} {change.counted} with a negative were held out, so the gain is uncertain by about "
            f"{2 * change.error:.2f}. Fit on more data, or pass validation=FEATURES."
        )
    if small_sets:
        counts = ", ".join(f"{images} of {name}" for name, images in small_sets.items())
        sentences.append(
            f"R@1 was measured on few images ({counts}), so more of it may be lost than keep allows. Hold out {ENOUGH} "
            f"or more of each."
        )
    if strength == 0:
        binds = "binds better and " if change else ""
        sentences.append(f"No strength {binds}keeps enough R@1. Keep the base, or pass for example keep=0.97.")
    elif change and not change.is_gain:
        sentences.append("Binding is not measurably better than the base's. Fit on more captions, or keep the base.")
    base, aligned = at_strength(points, 0), at_strength(points, strength)
    (before, _, base_grounded), (after, _, grounded) = (point.shares or (0.0,) * 3 for point in (base, aligned))
    if before >= _ALREADY_BINDS:
        sentences.append(f"The base already binds {before:.3f} of the held-out pairs. There is little to repair.")
    if 0 < after - before > 2 * (grounded - base_grounded):
        sentences.append(
            "Most of the gain comes from text alone, not from the image. Fit with the default recipe, or make better "
            "negatives."
        )
    if base.parts and aligned.parts:
        for name, old, new in (
            ("captions", base.grounded, aligned.grounded),
            ("parts", base.parts[2], aligned.parts[2]),
        ):
            if (new or 0.0) < (old or 0.0):
                sentences.append(f"Grounded binding of {name} falls from {old:.3f} to {new:.3f}.")
    if leaked and change is not None:
        sentences.append(
            f"{leaked:,} of the held-out captions are also negatives of the fit, because captions repeat too often. So "
            f"binding of new captions was not measured. To hold out combinations instead, use "
            f"labclip.training.split_combinations."
        )
    return sentences


def judge(change: Change | None, strength: float) -> tuple[bool, str]:
    """Whether a matrix at a strength is worth using, and the verdict in words for its record."""
    worthwhile = strength != 0 and (change is None or change.is_gain)
    if change is None:
        return worthwhile, "Binding was not measured" if worthwhile else "No strength keeps enough R@1: not worth using"
    return worthwhile, f"{change.words} at strength {strength:g}: {'' if worthwhile else 'not '}worth using"
