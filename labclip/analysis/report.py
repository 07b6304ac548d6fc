"""A diagnosis as text for a terminal, as JSON, and as a page with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labclip import report as pages
from labclip._version import __version__
from labclip.analysis.details import Details
from labclip.analysis.plots import MODELS
from labclip.analysis.verdict import BINDS, FEW, KEPT, spoken
from labclip.evaluation.scores import Compared, Estimate
from labclip.report import Cell, Figure, Page, Section, Table
from labclip.report.values import Value

if TYPE_CHECKING:
    from labclip.analysis.diagnosis import Diagnosis

_SIDES = {"image": "pictures", "text": "captions"}
_SHOWN = 5  # most confused pairs in a table


def terminal(found: Diagnosis, *, width: int = 100) -> str:
    """The verdict and a short table, as lines of at most `width` characters."""
    return pages.terminal(_page(found, [_verdict(found)]), width=width)


def write_page(found: Diagnosis, path: str | Path) -> Path:
    """The whole report as a self-contained HTML page, written whole or not at all.

    Raises:
        FileNotFoundError: If the folder does not exist.
        MissingPackageError: If jinja2 or matplotlib is missing.
    """
    return pages.write(page(found), path)


def page(found: Diagnosis, *, plots: bool = True) -> Page:
    """The whole report as values.

    Args:
        found: What was measured.
        plots: Whether to draw the figures, which needs matplotlib.
    """
    from labclip.analysis.pictures import Pictures

    drawn = Pictures(found) if plots else None
    sections = [_verdict(found), *_costs(found), _probes(found), *_confusions(found), *_details(found.details)]
    if drawn is not None:
        sections = [_with(section, drawn.of(section.heading)) for section in sections]
    return _page(found, [*sections, _rules(found)])


def as_json(found: Diagnosis) -> dict[str, Any]:
    """Plain JSON values: every figure with its interval."""
    details = found.details
    return {
        "model": found.model,
        "data": found.data,
        "scenes": found.scenes,
        "combinations": found.combinations,
        "verdict": found.verdict.as_json(),
        "probes": {
            side: {
                **probed.accuracy.as_json(),
                "bag_chance": probed.bag_chance,
                "by_object": {name: estimate.as_json() for name, estimate in probed.by_object.items()},
                "left_out": probed.left_out,
                "folds": probed.folds,
                "learnt": probed.learnt,
                "dim": probed.dim,
            }
            for side, probed in found.probes.items()
        },
        "binding": _compared(found.repair.binding, found.repair.models),
        "new_pairs": found.repair.new_pairs and _compared(found.repair.new_pairs, ("base", "fitted")),
        "retrieval": {one.metric: _compared(one, found.repair.models) for one in found.repair.retrieval},
        "galleries": list(found.repair.galleries),
        "strengths": [alignment.strength for alignment in found.repair.fitted],
        "after": details.after,
        "gap": {when: gap.as_json() for when, gap in details.gap.items()},
        "permutations": {
            kind: {when: one.as_json() for when, one in part.items()} for kind, part in details.permutations.items()
        },
        "spectrum": details.spectrum and details.spectrum.as_json(),
        "confused": {by: [pair.as_json() for pair in pairs] for by, pairs in details.confused.items()},
        "decomposition": {side: one.as_json() for side, one in details.decomposition.items()},
        "complexity": {side: [one.as_json() for one in part] for side, part in details.complexity.items()},
        "seed": found.seed,
        "seconds": round(found.seconds, 1),
        "notes": list(found.notes),
        "version": __version__,
    }


def _compared(one: Compared, models: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {name: estimate.as_json() for name, estimate in zip(models, one.estimates, strict=True)}
    values["differences"] = {
        name: difference.as_json() for name, difference in zip(models[1:], one.differences, strict=True)
    }
    return values


def _page(found: Diagnosis, sections: Sequence[Section]) -> Page:
    facts = [
        ("Model", found.model),
        ("Measured on", f"{found.data}: {found.scenes:,} scenes, {found.combinations:,} combinations"),
        ("Seed", str(found.seed)),
        ("Time", f"{found.seconds:.0f} s"),
    ]
    return Page(f"Where binding is lost: {found.model}", found.verdict.headline, sections, facts)


def _verdict(found: Diagnosis) -> Section:
    mended = found.repair
    rows: list[list[Value]] = [
        _row(f"linear probe on {_SIDES[side]}", probed.accuracy, probed.bag_chance)
        for side, probed in found.probes.items()
    ]
    rows += [
        _row(f"cosine, {MODELS[name]}", estimate, 0.5)
        for name, estimate in zip(mended.models, mended.binding.estimates, strict=True)
    ]
    if mended.new_pairs is not None:
        rows += [
            _row(f"cosine on new pairs, {name}", estimate, 0.5)
            for name, estimate in zip(("base", "fitted matrix"), mended.new_pairs.estimates, strict=True)
        ]
    caption = "Binding, with 95% intervals; `knows the words` is one who knows them but not which goes with which"
    columns = ["", "share right", "from", "to", "knows the words", "n"]
    table = Table(caption.replace("`", ""), columns, rows)
    return Section(
        "The verdict", [*found.verdict.reasons, *found.verdict.repair], tables=[table], notes=found.notes
    )  # fmt: skip


def _row(name: str, estimate: Estimate, bag: float) -> list[Value]:
    return [name, estimate.value, estimate.low, estimate.high, bag, estimate.n]


def _costs(found: Diagnosis) -> list[Section]:
    models, rows = found.repair.models, []
    if len(models) == 1:
        return []
    for one in found.repair.retrieval:
        row: list[Value] = [spoken(one.metric), one.estimates[0].value]
        for estimate, difference in zip(one.estimates[1:], one.differences, strict=True):
            mark = "none" if not difference.measurable else "bad" if difference.value < 0 else "good"
            row += [estimate.value, Cell(f"{difference.value:+.3f}", mark)]  # type: ignore[arg-type]
        rows.append(row)
    columns = ["", "base"] + [part for name in models[1:] for part in (MODELS[name], "difference")]
    sizes = sorted(set(found.repair.galleries))
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    table = Table("Share found first", columns, rows)
    text = (
        f"Retrieval in {len(found.repair.galleries)} galleries of {size} scenes, no two of the same words, each with "
        f"the matrix that was not fitted on it. Tags name objects and attributes without saying which goes with which; "
        f"they are not in the fit. A greyed difference is not measurable."
    )
    return [Section("What it costs", [text], tables=[table])]


def _probes(found: Diagnosis) -> Section:
    image = found.probes["image"]
    text = (
        f"For each object a logistic regression reads its attribute from the embedding of the whole scene, pictures "
        f"and captions apart, in {image.folds} folds: a combination and its exchanged twin are always in one. Chance "
        f"is {image.accuracy.chance:.3f}; who knows which attributes are there but not whose is right in "
        f"{image.bag_chance:.3f} of cases."
    )
    return Section("What each side knows", [text])


def _confusions(found: Diagnosis) -> list[Section]:
    confused = found.details.confused
    if not confused:
        return []
    tables = [
        Table(
            f"The most confused {by}s, of {len(pairs)} pairs",
            ["", "share right", "from", "to", "scenes"],
            [[" and ".join(pair.names), pair.accuracy, pair.low, pair.high, pair.n] for pair in pairs[:_SHOWN]],
        )
        for by, pairs in confused.items()
    ]
    text = (
        "Cosine of the base, own caption against the exchanged one, by what is in the scene. Of many pairs one in "
        "twenty lies outside its interval by chance."
    )
    return [Section("What is confused", [text], tables=tables)]


def _details(details: Details) -> list[Section]:
    after = {"own": "the model's own matrix", "fitted": "a matrix fitted here, on scenes it did not see", "": "nothing"}
    sections = []
    if details.permutations:
        text = (
            f"Cosines between captions and their permutations in the text space, before and after "
            f"{after[details.after]}. A bag of words would have all of them at 1."
        )
        sections.append(Section("Captions and their permutations", [text]))
    if details.gap:
        rows: list[list[Value]] = [[when, gap.distance, gap.separability] for when, gap in details.gap.items()]
        table = Table("Modality gap", ["", "distance of the means", "told apart by a plane"], rows)
        sections.append(Section("Modality gap", tables=[table]))
    if details.spectrum is not None:
        one = details.spectrum
        facts: list[list[Value]] = [
            ["distance from the identity", one.distance],
            ["the same at the best scale", one.scaled_distance],
            ["share that is symmetric", one.symmetric],
            ["condition", one.condition if one.condition < 1e6 else f"{one.condition:.1e}"],
            ["effective rank", one.rank],
            ["effective rank of the change", one.change_rank],
            ["turn of a random direction, degrees", one.rotation],
            ["turn of a caption, degrees", one.text_angle],
        ]
        sections.append(Section("The matrix", tables=[Table(f"Of {after[details.after]}", ["", "value"], facts)]))
    return [*sections, _objects(details)]


def _objects(details: Details) -> Section:
    rows: list[list[Value]] = [
        [_SIDES[side], one.r2, one.bag_r2, one.retrieval, one.candidates, one.exchanged, one.n]
        for side, one in details.decomposition.items()
    ]
    columns = ["", "R²", "R², bag", "contents found", "of", "twins told apart", "scenes"]
    tables = [Table("Held-out scenes as a sum of one vector an object; bag: one a concept", columns, rows)]
    if details.complexity:
        lines: list[list[Value]] = [
            [_SIDES[side], one.predictor, one.fraction, one.accuracy, one.objects, one.binding, one.twins]
            for side, part in details.complexity.items()
            for one in part
        ]
        columns = ["", "predictor", "learnt from", "objects named", "n", "twins told apart", "n of twins"]
        tables.append(Table("Objects never learnt from, predicted from their concepts", columns, lines, words=(0, 1)))
    text = (
        "If scenes are sums of objects, a linear probe can read them. If a simple map of concepts (a product) gives "
        "objects never learnt from, a matrix fitted on some combinations can hold on others; if not even an MLP does, "
        "new combinations stay hard for any map. Twins are two objects against the same two with attributes exchanged: "
        "a sum of concepts can't tell them apart, so it has 0 (a tie is wrong; a coin has .5). After arXiv:2605.31503."
    )
    return Section("Objects and concepts", [text], tables=tables)


def _rules(found: Diagnosis) -> Section:
    return Section(
        "By which rules",
        notes=[
            f"Cosine binds where its whole interval is at least {BINDS}: then there is little to repair.",
            f"A side has kept binding where its probe's whole interval is above {KEPT:.0%} of the way from one who "
            f"knows the words to always right; lost it where the whole interval is below, it learnt from at least as "
            f"many things as an embedding has numbers, and more scenes do not help.",
            "Both kept it and cosine does not bind: only the alignment loses it.",
            f"An interval that spans a threshold, or fewer than {FEW} combinations: can't tell.",
            "Intervals resample combinations; a difference counts where its paired interval leaves zero out.",
            f"A fitted matrix is measured on combinations it never saw, in {found.probes['image'].folds} folds; it is "
            f"fitted in fewer steps than `labclip fit` takes, so read it as what is at least possible.",
            "A tie is wrong everywhere.",
        ],
    )


def _with(section: Section, figures: Sequence[Figure]) -> Section:
    return Section(section.heading, section.paragraphs, figures, section.tables, section.notes)
