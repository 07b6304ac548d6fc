"""`Diagnosis`: all measurements of a diagnosis, as values, as JSON, and as a page with plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from labclip._version import __version__
from labclip.analysis import plots as drawing
from labclip.analysis.probes import Probed
from labclip.analysis.repair import Repair
from labclip.analysis.space import Distribution, Gap, Spectrum
from labclip.analysis.verdict import MODELS, SIDES, Verdict
from labclip.evaluation import summary
from labclip.evaluation.report import Report, compared_table
from labclip.evaluation.scores import Compared, Estimate
from labclip.report import Figure, Page, Reported, Section, Table
from labclip.report.values import Value, gain_sentence, metric_words, percent, version_facts

_MAX_PAIRS = 5  # confused pairs in a table
_SPECTRUM = {
    "distance": "distance from the identity",
    "rank": "effective rank",
    "change_rank": "effective rank of the change",
    "rotation": "rotation of a random direction, degrees",
    "text_angle": "rotation of a caption, degrees",
}
_RULES = (
    "A tie is wrong everywhere. The units of intervals are combinations; a difference counts if its paired interval "
    "excludes zero. The rules of the verdict are in labclip's documentation, on the page Diagnose."
)


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Reported):
    """The result of `diagnose`: all measurements, and the verdict.

    Attributes:
        model: The name of the base.
        data: The name of the data.
        scenes: Number of scenes; for a table of captions, number of images.
        verdict: Where binding is lost, in words.
        seed: Seed of all random choices.
        date: Date of the diagnosis, for example "2026-03-01".
        combinations: Number of distinct combinations of attributes and objects.
        probes: Probes of "image" and "text"; empty for a table of captions.
        repair: Binding and retrieval of base, own and fitted matrix; None for a table of captions.
        after: The matrix that "after" means in the next three: "own", "fitted" (that of the first fold, on scenes it
            was not fitted on), or "" without a matrix. The verdict does not depend on them.
        gap: Modality gap "before", and "after" if there is a matrix; empty for too few scenes.
        permutations: For "swapped" and "shuffled", the similarity to the caption before and after.
        spectrum: Spectrum of this matrix; None without a matrix.
        confused: For "attribute" and "object", the base's accuracy by pair, the lowest first; empty without scenes of
            two objects.
        evaluated: Parts and search as measured by `labclip.evaluate`, for "base" and "own"; for a table of captions
            also retrieval. None for labelled images in memory.
        seconds: Duration of the diagnosis.
        notes: What was left out, and why.
        weights_sha256: SHA-256 of the base's weights; "" if unknown.
        versions: Versions of the packages on which the numbers depend.
    """

    model: str
    data: str
    scenes: int
    verdict: Verdict
    seed: int
    date: str
    combinations: int = 0
    probes: Mapping[str, Probed] = field(default_factory=dict)
    repair: Repair | None = None
    after: str = ""
    gap: Mapping[str, Gap] = field(default_factory=dict)
    permutations: Mapping[str, Mapping[str, Distribution]] = field(default_factory=dict)
    spectrum: Spectrum | None = None
    confused: Mapping[str, Mapping[tuple[str, str], Estimate]] = field(default_factory=dict)
    evaluated: Report | None = None
    seconds: float = 0
    notes: Sequence[str] = ()
    weights_sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Diagnosis of {self.model!r} on {self.scenes:,} scenes: {self.verdict.code}>"

    def page(self) -> Page:
        """The whole report as values."""
        sections = [] if self.repair is None else [_binding_section(self, self.repair)]
        if self.evaluated is not None:
            titles = [result.benchmark.title for result in self.evaluated.results]
            sections += [section for section in self.evaluated.page().sections if section.heading in titles]
        notes = [*self.verdict.reasons, *self.verdict.repair, *self.notes]
        sections.append(Section("Why", notes=[*notes, _RULES] if self.repair else notes))
        if self.repair is not None and len(self.repair.models) > 1:
            sections.append(_costs_section(self.repair))
        sections += [_confusions_section(self)] if self.confused else []
        sections += [_space_section(self)] if self.gap or self.spectrum else []
        size = (
            f"{self.scenes:,} scenes, {self.combinations:,} combinations" if self.repair else f"{self.scenes:,} images"
        )
        facts = [
            ("Model", self.model),
            ("Measured on", f"{self.data}: {size}"),
            ("Seed", str(self.seed)),
            ("Time", f"{self.seconds:.0f} s"),
            *version_facts(self.weights_sha256, self.versions, self.date),
        ]
        return Page(f"Where binding is lost: {self.model}", self._lead(), sections, facts)

    def _lead(self) -> str:
        if self.repair is None:
            assert self.evaluated is not None  # captions
            return self.evaluated.page().lead
        lead = f"This model {summary.binding_phrase(self.repair.binding.estimates[0])}. {self.verdict.headline}"
        return f"{lead} {_gain_and_cost(self.repair, 1)}" if len(self.repair.models) > 1 else lead

    def to_json(self) -> dict[str, Any]:
        """All figures with their intervals as plain JSON values; `benchmarks` as in `labclip.evaluate`."""
        names = [entry.name for entry in fields(self) if entry.name not in ("repair", "evaluated")]
        values = {name: to_plain(getattr(self, name)) for name in names}
        values["confused"] = {
            by: [{"names": pair} | to_plain(estimate) for pair, estimate in estimates.items()]
            for by, estimates in self.confused.items()
        }
        values["seconds"] = round(self.seconds, 1)
        if self.repair is not None:
            models, unseen = self.repair.models, self.repair.unseen_pairs
            values |= {
                "binding": _compared_json(self.repair.binding, models),
                "unseen_pairs": None if unseen is None else _compared_json(unseen, ("base", "fitted")),
                "retrieval": {metric.metric: _compared_json(metric, models) for metric in self.repair.retrieval},
                "galleries": list(self.repair.galleries),
                "strengths": [alignment.strength for alignment in self.repair.fitted],
            }
        benchmarks = {} if self.evaluated is None else self.evaluated.to_json()["benchmarks"]
        return values | {"benchmarks": benchmarks, "version": __version__}


def to_plain(value: Any) -> Any:
    """A record as JSON values: arrays rounded to six decimals, keys as text, None for numbers that are not finite."""
    if is_dataclass(value):
        return {entry.name: to_plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return value.round(6).tolist()
    if isinstance(value, list | tuple):
        return list(map(to_plain, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _compared_json(compared: Compared, models: Sequence[str]) -> dict[str, Any]:
    """The estimate of each model, and its difference from the base, by the models' names."""
    estimates, differences = map(to_plain, (compared.estimates, compared.differences))
    return {
        "models": dict(zip(models, estimates, strict=True)),
        "differences": dict(zip(models[1:], differences, strict=True)),
    }


def repair_sentences(repaired: Repair) -> list[str]:
    """The gain and cost of each matrix, a sentence each; empty without a matrix."""
    sentences = [_gain_and_cost(repaired, model) for model in range(1, len(repaired.models))]
    if (pairs := repaired.unseen_pairs) is not None:
        (base, aligned), (difference,) = pairs.estimates, pairs.differences
        sentences.append(
            f"On the {base.n:,} scenes with an attribute-object pair that the fit never named, the base gets "
            f"{percent(base.value)}%. {gain_sentence('With the matrix it is', aligned.value, difference.measured)}"
        )
    return sentences


def search_sentences(evaluated: Report | None) -> list[str]:
    """The result of the search, in a sentence or two; empty without a search."""
    metrics = {} if evaluated is None else {metric.metric: metric for metric in evaluated.results[0].compared}
    if (confused := metrics.get("search_confused5")) is None:
        return []
    base, *aligned = confused.estimates
    sentence = f"In a search for a part, {percent(base.value)}% of the top five have its words on other objects."
    for estimate, difference in zip(aligned, confused.differences, strict=True):
        sentence += " " + gain_sentence(f"With {MODELS['own']} it is", estimate.value, difference.measured)
    return [sentence]


def _gain_and_cost(repaired: Repair, model: int) -> str:
    """The gain and cost of a matrix, given by its index in `Repair.models`."""
    aligned, difference = repaired.binding.estimates[model], repaired.binding.differences[model - 1]
    gain = gain_sentence(f"Binding with {MODELS[repaired.models[model]]} is", aligned.value, difference.measured)
    costs = {metric_words(metric.metric): metric.differences[model - 1] for metric in repaired.retrieval}
    return f"{gain} {summary.cost_sentence(costs)}"


def _binding_section(diagnosis: Diagnosis, repaired: Repair) -> Section:
    cosine = dict(zip(repaired.models, repaired.binding.estimates, strict=True))
    bars = [
        (f"linear probe on {SIDES[side]}", probed.accuracy, probed.bag_chance)
        for side, probed in diagnosis.probes.items()
    ]
    bars += [(f"cosine, {MODELS[name]}", estimate, 0.5) for name, estimate in cosine.items()]
    figure = Figure(partial(drawing.binding, diagnosis.probes, cosine), "Bars of accuracy; see the table.")
    if repaired.unseen_pairs is not None:
        pairs = zip(("base", "fitted matrix"), repaired.unseen_pairs.estimates, strict=True)
        bars += [(f"cosine on unseen pairs, {name}", estimate, 0.5) for name, estimate in pairs]
    rows: list[list[Value]] = [
        [name, estimate.value, estimate.low, estimate.high, bag, estimate.n] for name, estimate, bag in bars
    ]
    columns = ["", "accuracy", "from", "to", "bag-of-words baseline", "n"]
    return Section("The verdict", (), [figure], [Table("Binding, with 95% intervals", columns, rows, minor=(4, 5))])


def _costs_section(repaired: Repair) -> Section:
    table = compared_table("Recall", repaired.models, [("", metric) for metric in repaired.retrieval])
    smallest, largest = min(repaired.galleries), max(repaired.galleries)
    text = (
        f"Retrieval in {len(repaired.galleries)} galleries of {smallest:,} to {largest:,} scenes, each with the matrix "
        f"that was not fitted on it. No two scenes have the same words. Tags do not say which attribute goes with "
        f"which object."
    )
    return Section("What it costs", [text], tables=[table])


def _confusions_section(diagnosis: Diagnosis) -> Section:
    tables = []
    for by, pairs in diagnosis.confused.items():
        worst = list(pairs.items())[:_MAX_PAIRS]
        rows: list[list[Value]] = [
            [" and ".join(pair), estimate.value, estimate.low, estimate.high, estimate.n] for pair, estimate in worst
        ]
        title = f"The most confused {by}s, of {len(pairs)} pairs"
        tables.append(Table(title, ["", "accuracy", "from", "to", "scenes"], rows))
    text = (
        "How often the base's cosine prefers the own caption to the swapped one, by pair. One pair in twenty is "
        "outside its interval by chance."
    )
    return Section("What is confused", [text], tables=tables)


def _space_section(diagnosis: Diagnosis) -> Section:
    """The embedding space before and after: captions and their permutations, modality gap, and spectrum."""
    tables, figures, spectrum = [], [], diagnosis.spectrum
    if diagnosis.permutations:
        rows: list[list[Value]] = []
        for kind, cosines in diagnosis.permutations.items():
            medians = (cosines[when].quantiles[0.5] if when in cosines else None for when in ("before", "after"))
            rows.append([drawing.PERMUTED[kind], *medians])
        tables.append(Table("Cosine of a caption with its permutation, median", ["", "before", "after"], rows))
        draw = partial(drawing.permutations, diagnosis.permutations)
        figures.append(Figure(draw, "Histograms of the cosines; see the table."))
    if diagnosis.gap:
        columns = ["", "distance of the means", "linear separability"]
        rows = [[when, gap.distance, gap.separability] for when, gap in diagnosis.gap.items()]
        tables.append(Table("Modality gap, images against captions", columns, rows))
    if spectrum is not None:
        rows = [[words, getattr(spectrum, name)] for name, words in _SPECTRUM.items()]
        tables.append(Table("The matrix", ["", "value"], rows))
    matrix = f"Before and after {MODELS[diagnosis.after]}. " if diagnosis.after else ""
    text = f"{matrix}For a bag of words, all cosines of permutations are 1."
    return Section("The space", [text], figures, tables)
