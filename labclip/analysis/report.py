"""A diagnosis: every figure of it, as text for a terminal, as JSON, and as a page with its plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from labclip._version import __version__
from labclip.analysis import plots
from labclip.analysis.confusion import Pair
from labclip.analysis.plots import MODELS, PERMUTED, SIDES
from labclip.analysis.probes import Probed
from labclip.analysis.repair import Repair
from labclip.analysis.space import Distribution, Gap, Spectrum
from labclip.analysis.verdict import BINDS, FEW, KEPT, Verdict
from labclip.evaluation import summary
from labclip.evaluation.scores import Compared, Estimate
from labclip.report import Figure, Page, Reported, Section, Table, drawn, judged, terminal
from labclip.report.example import ShownItem
from labclip.report.values import Value, measured_by, percent

_SHOWN = 5  # most confused pairs in a table
_WHERE = {
    "nothing": "There is little to repair.",
    "alignment": "Both of its encoders know it; only their alignment loses it.",
    "image": "Its image encoder has lost it, and no matrix can restore that.",
    "text": "Its text encoder has lost it, and no matrix can restore that.",
    "both": "Both of its encoders have lost it, and no matrix can restore that.",
    "unclear": "This is too little data for a verdict.",
}
_MATRIX = {"own": "its own matrix", "fitted": "a matrix fitted here"}
_AFTER = {"own": "the model's own matrix", "fitted": "a matrix fitted here, on scenes not in its fit", "": "nothing"}


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Reported):
    """Everything that was measured, and the verdict.

    Attributes:
        model: The base in words.
        data: What it was measured on.
        scenes: How many.
        combinations: Different ones among them.
        verdict: Where binding is lost, in words.
        probes: "image" and "text".
        repair: Binding and retrieval of base, own and fitted matrix.
        after: Which matrix "after" is about in what follows, which explains the verdict and decides nothing in it:
            "own", "fitted" (the first fold's, on scenes it was not fitted on) or "".
        gap: Modality gap "before", and "after" where there is a matrix; empty for too few scenes.
        permutations: For "swapped" and "shuffled" the similarity to the caption before and after.
        spectrum: Of that matrix; None where there is none.
        confused: For "attribute" and "object" the pairs by the base's accuracy, worst first; empty where no scene
            of two objects tells.
        seed: Of everything drawn.
        seconds: It took.
        notes: What was left out, and why.
        weights_sha256: Of the base's weights; "" where they are not known.
        versions: Of the packages that decide a number.
        date: On which it was measured, for example "2026-03-01".
        example: A scene with its image, for a page; None of embeddings.
    """

    model: str
    data: str
    scenes: int
    combinations: int
    verdict: Verdict
    probes: Mapping[str, Probed]
    repair: Repair
    after: str
    gap: Mapping[str, Gap]
    permutations: Mapping[str, Mapping[str, Distribution]]
    spectrum: Spectrum | None
    confused: Mapping[str, Sequence[Pair]]
    seed: int
    seconds: float
    notes: Sequence[str] = ()
    weights_sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    example: ShownItem | None = None

    def __repr__(self) -> str:
        return f"<Diagnosis of {self.model!r} on {self.scenes:,} scenes: {self.verdict.code}>"

    def __str__(self) -> str:
        """The verdict and a short table."""
        return terminal(_page(self, [_verdict(self, lambda draw, alt: []), _reasons(self)]))

    def page(self, *, plots: bool = False) -> Page:
        """The whole report as values.

        Args:
            plots: Whether to draw the figures, which needs matplotlib.
        """

        def figure(draw: Callable[[], Any], alt: str) -> list[Figure]:
            return [drawn(draw(), alt)] if plots else []

        def built(parts: _Parts) -> list[Section]:
            return [section for part in parts for section in [part(self, figure)] if section is not None]

        first = [self.example.section()] if plots and self.example is not None else []
        return _page(self, [*first, *built(_SECTIONS)], built(_APPENDIX))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: every figure with its interval."""
        models, unseen = self.repair.models, self.repair.unseen_pairs
        as_they_are = {key: getattr(self, key) for key in ("model", "data", "scenes", "combinations", "after", "seed")}
        return as_they_are | {
            "verdict": asdict(self.verdict),
            "probes": {side: _probed(one) for side, one in self.probes.items()},
            "binding": _compared(self.repair.binding, models),
            "unseen_pairs": None if unseen is None else _compared(unseen, ("base", "fitted")),
            "retrieval": {one.metric: _compared(one, models) for one in self.repair.retrieval},
            "galleries": list(self.repair.galleries),
            "strengths": [alignment.strength for alignment in self.repair.fitted],
            "gap": {when: asdict(gap) for when, gap in self.gap.items()},
            "permutations": {
                kind: {when: one.to_json() for when, one in part.items()} for kind, part in self.permutations.items()
            },
            "spectrum": self.spectrum and self.spectrum.to_json(),
            "confused": {by: [asdict(pair) for pair in pairs] for by, pairs in self.confused.items()},
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
            "weights_sha256": self.weights_sha256,
            "versions": dict(self.versions),
            "date": self.date,
            "version": __version__,
        }


_Draw = Callable[[Callable[[], Any], str], list[Figure]]
"""Takes what draws a figure, and what it shows in words; gives the figure, or none where none is asked for."""


def _probed(one: Probed) -> dict[str, Any]:
    kept = {key: getattr(one, key) for key in ("bag_chance", "left_out", "folds", "learnt", "dim")}
    by_object = {name: asdict(estimate) for name, estimate in one.by_object.items()}
    return asdict(one.accuracy) | kept | {"by_object": by_object}


def _compared(one: Compared, models: Sequence[str]) -> dict[str, Any]:
    """Names of models never stand beside fixed keys."""
    return {
        "models": {name: asdict(estimate) for name, estimate in zip(models, one.estimates, strict=True)},
        "differences": {name: asdict(moved) for name, moved in zip(models[1:], one.differences, strict=True)},
    }


def _page(found: Diagnosis, sections: Sequence[Section], appendix: Sequence[Section] = ()) -> Page:
    facts = [
        ("Model", found.model),
        ("Measured on", f"{found.data}: {found.scenes:,} scenes, {found.combinations:,} combinations"),
        ("Seed", str(found.seed)),
        ("Time", f"{found.seconds:.0f} s"),
        *measured_by(found.weights_sha256, found.versions, found.date),
    ]
    lead, key = _lead(found)
    return Page(f"Where binding is lost: {found.model}", lead, sections, facts, key, appendix)


def _lead(found: Diagnosis) -> tuple[str, list[tuple[str, str]]]:
    """What was found in a sentence for everybody, and three figures."""
    base, *others = found.repair.binding.estimates
    lead = f"This model {summary.attributes(base)}. {_WHERE[found.verdict.code]}"
    key = [(f"{percent(base.value)}%", "of scenes right, without a matrix")]
    if not others:
        probes = [(f"{percent(one.accuracy.value)}%", f"readable from {SIDES[side]} alone")
                  for side, one in found.probes.items()]  # fmt: skip
        return lead, [*key, *probes]
    costs = {summary.worded(one.metric): one.differences[0] for one in found.repair.retrieval}
    words = f"with {_MATRIX[found.after]}"
    gained = summary.gained(words.capitalize(), others[0], found.repair.binding.differences[0])
    key += [(f"{percent(others[0].value)}%", words), summary.key_cost(costs)]
    return f"{lead} {gained} {summary.paid(costs)}", key


def _verdict(found: Diagnosis, figure: _Draw) -> Section:
    cosine = dict(zip(found.repair.models, found.repair.binding.estimates, strict=True))
    told = [(f"linear probe on {SIDES[side]}", one.accuracy, one.bag_chance) for side, one in found.probes.items()]
    told += [(f"cosine, {MODELS[name]}", estimate, 0.5) for name, estimate in cosine.items()]
    said = ", ".join(f"{name} {one.value:.3f}" for name, one, _ in told)
    if found.repair.unseen_pairs is not None:
        names = ("base", "fitted matrix")
        pairs = zip(names, found.repair.unseen_pairs.estimates, strict=True)
        told += [(f"cosine on unseen pairs, {name}", estimate, 0.5) for name, estimate in pairs]
    rows = [_row(name, estimate, bag, estimate.n) for name, estimate, bag in told]
    columns = ["", "accuracy", "from", "to", "bag-of-words baseline", "n"]
    return Section(
        "The verdict",
        [found.verdict.headline],
        figure(lambda: plots.binding(found.probes, cosine), f"Bars of accuracy: {said}."),
        [Table("Binding, with 95% intervals", columns, rows, minor=(4, 5))],
    )


def _reasons(found: Diagnosis, figure: _Draw | None = None) -> Section:
    return Section("Why", notes=[*found.verdict.reasons, *found.verdict.repair, *found.notes])


def _row(name: str, one: Estimate | Pair, *more: Value) -> list[Value]:
    value = one.value if isinstance(one, Estimate) else one.accuracy
    return [name, value, one.low, one.high, *more]


def _costs(found: Diagnosis, figure: _Draw) -> Section | None:
    models, retrieval = found.repair.models, found.repair.retrieval
    if len(models) == 1:
        return None
    tables = []
    for place, name in enumerate(models[1:]):
        rows: list[list[Value]] = []
        for one in retrieval:
            values, moved = (one.estimates[0].value, one.estimates[1 + place].value), one.differences[place]
            rows.append([summary.worded(one.metric), *values, judged(moved.value, moved.measurable)])
        tables.append(Table(f"Recall, {MODELS[name]}", ["", "base", "matrix", "difference"], rows))
    sizes = sorted(set(found.repair.galleries))
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    text = (
        f"Retrieval in {len(found.repair.galleries)} galleries of {size} scenes, no two of the same words, each with "
        f"the matrix that was not fitted on it. Tags name objects and attributes without saying which goes with which; "
        f"they are not in the fit. A difference in brackets is not measurable."
    )
    drawing = figure(lambda: plots.retrieval(retrieval, models), "Recall at 1 of each model; see the table.")
    return Section("What it costs", [text], drawing, tables)


def _probes(found: Diagnosis, figure: _Draw) -> Section:
    image = found.probes["image"]
    text = (
        f"For each object a logistic regression reads its attribute from the embedding of the whole scene, images and "
        f"captions apart, in {image.folds} folds: a combination is in one of them, whichever attribute goes with which "
        f"object. Chance is {image.accuracy.chance:.3f}; the bag-of-words baseline, which knows the attributes but not "
        f"whose they are, has {image.bag_chance:.3f}."
    )
    alt = "Accuracy of the probe of each object from images and from captions, with intervals."
    return Section("What each side knows", [text], figure(lambda: plots.by_object(found.probes), alt))


def _confusions(found: Diagnosis, figure: _Draw) -> Section | None:
    if not found.confused:
        return None
    drawings, tables = [], []
    for by, pairs in found.confused.items():
        alt = f"A square of the accuracy of binding for each pair of {by}s."
        drawings += figure(lambda pairs=pairs, by=by: plots.confusion(pairs, by), alt)  # type: ignore[misc]
        rows = [_row(" and ".join(pair.names), pair, pair.n) for pair in pairs[:_SHOWN]]
        title = f"The most confused {by}s, of {len(pairs)} pairs"
        tables.append(Table(title, ["", "accuracy", "from", "to", "scenes"], rows))
    text = (
        "Cosine of the base, own caption against the swapped one, by what is in the scene. Of many pairs one in twenty "
        "lies outside its interval by chance."
    )
    return Section("What is confused", [text], drawings, tables)


def _permutations(found: Diagnosis, figure: _Draw) -> Section | None:
    if not found.permutations:
        return None
    text = (
        f"Cosines between captions and their permutations in the text space, before and after "
        f"{_AFTER[found.after]}. A bag of words would have all of them at 1."
    )
    rows: list[list[Value]] = [
        [PERMUTED[kind], *(part[when].quantiles[0.5] if when in part else None for when in ("before", "after"))]
        for kind, part in found.permutations.items()
    ]
    table = Table("Median cosine with the caption", ["", "before", "after"], rows)
    drawing = figure(lambda: plots.permutations(found.permutations), "Histograms of the cosines; see the table.")
    return Section("Appendix: captions and their permutations", [text], drawing, [table])


def _gap(found: Diagnosis, figure: _Draw) -> Section | None:
    if not found.gap:
        return None
    rows: list[list[Value]] = [[when, gap.distance, gap.separability] for when, gap in found.gap.items()]
    table = Table("Images against captions", ["", "distance of the means", "linear separability"], rows)
    drawing = figure(lambda: plots.gap(found.gap), "Bars of the two measures of the gap; see the table.")
    return Section("Appendix: modality gap", figures=drawing, tables=[table])


def _matrix(found: Diagnosis, figure: _Draw) -> Section | None:
    one = found.spectrum
    if one is None:
        return None
    rows: list[list[Value]] = [
        ["distance from the identity", one.distance],
        ["the same at the best scale", one.scaled_distance],
        ["symmetric share", one.symmetric],
        ["condition", one.condition if one.condition < 1e6 else f"{one.condition:.1e}"],
        ["effective rank", one.rank],
        ["effective rank of the change", one.change_rank],
        ["rotation of a random direction, degrees", one.rotation],
        ["rotation of a caption, degrees", one.text_angle],
    ]
    table = Table(f"Of {_AFTER[found.after]}", ["", "value"], rows)
    drawing = figure(lambda: plots.spectrum(one), "Singular values, falling.")
    return Section("Appendix: the matrix", figures=drawing, tables=[table])


def _rules(found: Diagnosis, figure: _Draw) -> Section:
    return Section(
        "Appendix: rules of the verdict",
        notes=[
            f"Cosine binds where its whole interval is at least {BINDS}: then there is little to repair.",
            f"A side has kept binding where its probe's whole interval is above {KEPT:.0%} of the way from the "
            f"bag-of-words baseline to always right. It has lost binding where the whole interval is below, the probe "
            f"learnt from at least as many scenes as an embedding has dimensions, and more do not help.",
            "Both kept it and cosine does not bind: only the alignment loses it.",
            f"An interval that spans a threshold, or fewer than {FEW} combinations: can't tell.",
            "Scenes of a combination are one unit; a difference counts where its paired interval excludes zero.",
            f"A fitted matrix is measured on unseen combinations, in {found.probes['image'].folds} folds; it is "
            f"fitted in fewer steps than `labclip fit` takes, so read it as what is at least possible.",
            "A tie is wrong everywhere.",
        ],
    )


_Parts = Sequence[Callable[[Diagnosis, _Draw], Section | None]]
_SECTIONS: _Parts = (_verdict, _reasons, _costs, _probes, _confusions)
_APPENDIX: _Parts = (_permutations, _gap, _matrix, _rules)
