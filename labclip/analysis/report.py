"""A diagnosis: every figure of it, as text for a terminal, as JSON, and as a page with its plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from labclip._version import __version__
from labclip.analysis import plots as drawing
from labclip.analysis.probes import Probed
from labclip.analysis.repair import Repair
from labclip.analysis.space import Distribution, Gap, Spectrum
from labclip.analysis.verdict import MODELS, SIDES, Verdict
from labclip.evaluation import summary
from labclip.evaluation.scores import Compared, Estimate
from labclip.report import Page, Reported, Section, Table, drawn, judged, terminal
from labclip.report.values import Value, measured_by, percent

_SHOWN = 5  # most confused pairs in a table
_SPECTRUM = {
    "distance": "distance from the identity",
    "scaled_distance": "the same at the best scale",
    "symmetric": "symmetric fraction",
    "condition": "condition",
    "rank": "effective rank",
    "change_rank": "effective rank of the change",
    "rotation": "rotation of a random direction, degrees",
    "text_angle": "rotation of a caption, degrees",
}


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
        spectrum: Spectrum of that matrix; None without a matrix.
        confused: For "attribute" and "object" the base's accuracy by pair, worst first; empty where no scene of two
            objects tells.
        seed: Seed of everything drawn.
        seconds: It took.
        notes: What was left out, and why.
        weights_sha256: Of the base's weights; "" where they are not known.
        versions: Of the packages that decide a number.
        date: On which it was measured, for example "2026-03-01".
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
    confused: Mapping[str, Mapping[tuple[str, str], Estimate]]
    seed: int
    seconds: float
    notes: Sequence[str] = ()
    weights_sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    def __repr__(self) -> str:
        return f"<Diagnosis of {self.model!r} on {self.scenes:,} scenes: {self.verdict.code}>"

    def __str__(self) -> str:
        """The verdict and a short table."""
        return terminal(_page(self, [_verdict(self, False), _reasons(self)]))

    def page(self, *, plots: bool = False) -> Page:
        """The whole report as values.

        Args:
            plots: Whether to draw the figures, which needs matplotlib.
        """
        sections = [_verdict(self, plots), _reasons(self)]
        sections += [_costs(self.repair)] if len(self.repair.models) > 1 else []
        sections += [_confusions(self, plots)] if self.confused else []
        return _page(self, sections, [_space(self, plots)])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: every figure with its interval."""
        models, unseen, pairs = self.repair.models, self.repair.unseen_pairs, self.confused.items()
        values = {one.name: plain(getattr(self, one.name)) for one in fields(self) if one.name != "repair"}
        return values | {
            "binding": _compared(self.repair.binding, models),
            "unseen_pairs": None if unseen is None else _compared(unseen, ("base", "fitted")),
            "retrieval": {one.metric: _compared(one, models) for one in self.repair.retrieval},
            "galleries": list(self.repair.galleries),
            "strengths": [alignment.strength for alignment in self.repair.fitted],
            "confused": {by: [{"names": pair} | plain(one) for pair, one in part.items()] for by, part in pairs},
            "seconds": round(self.seconds, 1),
            "version": __version__,
        }


def plain(value: Any) -> Any:
    """JSON values of a record: arrays rounded to six decimals, keys as text, None for what is not finite."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return value.round(6).tolist()
    if isinstance(value, list | tuple):
        return list(map(plain, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _compared(one: Compared, models: Sequence[str]) -> dict[str, Any]:
    """Names of models never stand beside fixed keys."""
    return {
        "models": {name: plain(estimate) for name, estimate in zip(models, one.estimates, strict=True)},
        "differences": {name: plain(moved) for name, moved in zip(models[1:], one.differences, strict=True)},
    }


def repair_sentences(repaired: Repair) -> list[str]:
    """What each matrix repairs and costs; empty where there is none."""
    told = [gain_and_cost(repaired, number) for number in range(1, len(repaired.models))]
    if (pairs := repaired.unseen_pairs) is not None:
        base, ours = pairs.estimates
        told.append(
            f"On the {base.n:,} scenes with an attribute-object pair that the fit never named, the base gets "
            f"{percent(base.value)}%. {summary.gain_sentence('With the matrix', ours, pairs.differences[0])}"
        )
    return told


def gain_and_cost(repaired: Repair, model: int) -> str:
    """What a matrix, by its number among the models, makes of binding, and what it costs."""
    costs = {summary.worded(one.metric): one.differences[model - 1] for one in repaired.retrieval}
    ours, moved = repaired.binding.estimates[model], repaired.binding.differences[model - 1]
    name = f"With {MODELS[repaired.models[model]]}"
    return f"{summary.gain_sentence(name, ours, moved)} {summary.cost_sentence(costs)}"


def _page(diagnosis: Diagnosis, sections: Sequence[Section], appendix: Sequence[Section] = ()) -> Page:
    facts = [
        ("Model", diagnosis.model),
        ("Measured on", f"{diagnosis.data}: {diagnosis.scenes:,} scenes, {diagnosis.combinations:,} combinations"),
        ("Seed", str(diagnosis.seed)),
        ("Time", f"{diagnosis.seconds:.0f} s"),
        *measured_by(diagnosis.weights_sha256, diagnosis.versions, diagnosis.date),
    ]
    lead, key = _lead(diagnosis)
    return Page(f"Where binding is lost: {diagnosis.model}", lead, sections, facts, key, appendix)


def _lead(diagnosis: Diagnosis) -> tuple[str, list[tuple[str, str]]]:
    """What was found in a sentence for everybody, and three figures."""
    base, *others = diagnosis.repair.binding.estimates
    lead = f"This model {summary.attributes(base)}. {diagnosis.verdict.headline}"
    key = [(f"{percent(base.value)}%", "of scenes right, without a matrix")]
    if not others:
        probes = [(f"{percent(one.accuracy.value)}%", f"readable from {SIDES[side]} alone")
                  for side, one in diagnosis.probes.items()]  # fmt: skip
        return lead, [*key, *probes]
    costs = {summary.worded(one.metric): one.differences[0] for one in diagnosis.repair.retrieval}
    key += [(f"{percent(others[0].value)}%", f"with {MODELS[diagnosis.repair.models[1]]}"), summary.key_cost(costs)]
    return f"{lead} {gain_and_cost(diagnosis.repair, 1)}", key


def _verdict(diagnosis: Diagnosis, plots: bool) -> Section:
    cosine = dict(zip(diagnosis.repair.models, diagnosis.repair.binding.estimates, strict=True))
    told = [(f"linear probe on {SIDES[side]}", one.accuracy, one.bag_chance) for side, one in diagnosis.probes.items()]
    told += [(f"cosine, {MODELS[name]}", estimate, 0.5) for name, estimate in cosine.items()]
    alt = f"Bars of accuracy: {', '.join(f'{name} {one.value:.3f}' for name, one, _ in told)}."
    if diagnosis.repair.unseen_pairs is not None:
        pairs = zip(("base", "fitted matrix"), diagnosis.repair.unseen_pairs.estimates, strict=True)
        told += [(f"cosine on unseen pairs, {name}", estimate, 0.5) for name, estimate in pairs]
    rows: list[list[Value]] = [[name, one.value, one.low, one.high, bag, one.n] for name, one, bag in told]
    columns = ["", "accuracy", "from", "to", "bag-of-words baseline", "n"]
    figures = []
    if plots:
        figures.append(drawn(drawing.binding(diagnosis.probes, cosine), alt))
        each = "Accuracy of the probe of each object from images and from captions, with intervals."
        figures.append(drawn(drawing.by_object(diagnosis.probes), each))
    return Section("The verdict", (), figures, [Table("Binding, with 95% intervals", columns, rows, minor=(4, 5))])


def _reasons(diagnosis: Diagnosis) -> Section:
    rules = (
        "A tie is wrong everywhere. The units of intervals are combinations; a difference counts where its paired "
        "interval excludes zero. The rules of the verdict are in labclip's documentation, on the page Diagnose."
    )
    return Section("Why", notes=[*diagnosis.verdict.reasons, *diagnosis.verdict.repair, *diagnosis.notes, rules])


def _costs(repaired: Repair) -> Section:
    tables = []
    for number, name in enumerate(repaired.models[1:]):
        rows: list[list[Value]] = []
        for one in repaired.retrieval:
            base, ours, moved = one.estimates[0], one.estimates[number + 1], one.differences[number]
            rows.append([summary.worded(one.metric), base.value, ours.value, judged(moved.value, moved.measurable)])
        tables.append(Table(f"Recall with {MODELS[name]}", ["", "base", "matrix", "difference"], rows))
    smallest, largest = min(repaired.galleries), max(repaired.galleries)
    text = (
        f"Retrieval in {len(repaired.galleries)} galleries of {smallest:,} to {largest:,} scenes, no two of the same "
        f"words, each with the matrix that was not fitted on it. Tags do not say which attribute goes with which "
        f"object. A difference in brackets is not measurable."
    )
    return Section("What it costs", [text], tables=tables)


def _confusions(diagnosis: Diagnosis, plots: bool) -> Section:
    figures, tables = [], []
    for by, pairs in diagnosis.confused.items():
        if plots:
            alt = f"A square of the accuracy of binding for each pair of {by}s."
            figures.append(drawn(drawing.confusion(pairs, by), alt))
        worst = list(pairs.items())[:_SHOWN]
        rows: list[list[Value]] = [[" and ".join(pair), one.value, one.low, one.high, one.n] for pair, one in worst]
        title = f"The most confused {by}s, of {len(pairs)} pairs"
        tables.append(Table(title, ["", "accuracy", "from", "to", "scenes"], rows))
    text = (
        "Cosine of the base, own caption against the swapped one, by what is in the scene. Of many pairs one in twenty "
        "lies outside its interval by chance."
    )
    return Section("What is confused", [text], figures, tables)


def _space(diagnosis: Diagnosis, plots: bool) -> Section:
    """What the matrix does to the space: captions and their permutations, modality gap, spectrum."""
    tables, figures, measured = [], [], diagnosis.spectrum
    if diagnosis.permutations:
        rows: list[list[Value]] = [
            [
                drawing.PERMUTED[kind],
                *(part[when].quantiles[0.5] if when in part else None for when in ("before", "after")),
            ]
            for kind, part in diagnosis.permutations.items()
        ]
        tables.append(Table("Cosine of a caption with its permutation, median", ["", "before", "after"], rows))
        if plots:
            alt = "Histograms of the cosines; see the table."
            figures.append(drawn(drawing.permutations(diagnosis.permutations), alt))
    if diagnosis.gap:
        columns = ["", "distance of the means", "linear separability"]
        rows = [[when, gap.distance, gap.separability] for when, gap in diagnosis.gap.items()]
        tables.append(Table("Modality gap, images against captions", columns, rows))
    if measured is not None:
        values = {words: getattr(measured, name) for name, words in _SPECTRUM.items()}
        large = {words: f"{value:.1e}" for words, value in values.items() if value is not None and value >= 1e6}
        tables.append(Table("The matrix", ["", "value"], [[words, value] for words, value in (values | large).items()]))
    matrix = MODELS.get(diagnosis.after, "nothing")
    text = f"Before and after {matrix}. A bag of words would have all cosines of permutations at 1."
    return Section("Appendix: the space", [text], figures, tables)
