"""The commands list and info: which matrices are known, and what is known of one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from labclip.cli import options
from labclip.cli.files import check_names
from labclip.cli.group import main, show_either
from labclip.packages import EMBEDDED

if TYPE_CHECKING:
    from labclip.io.published import Published
    from labclip.report import Table


@main.command("list", example="labclip list")
@options.as_json
def list_command(as_json: bool) -> None:
    """List the matrices known by name."""
    from labclip.io.published import find_entry, list_pretrained

    rows = [(EMBEDDED, "scenes", "embedded, 12 colours x 10 shapes", 256, "in this package")]
    for name in list_pretrained():
        if entry := find_entry(name):
            base = f"{entry.model} ({entry.pretrained})"
            rows.append((name, entry.alignment, base, entry.embed_dim, "Hugging Face Hub, or the authors' repository"))
    columns = ("name", "alignment", "base", "dim", "source")
    widths = [max(len(str(row[column])) for row in (columns, *rows)) for column in range(len(columns))]
    padded = (map(str.ljust, map(str, row), widths) for row in (columns, *rows))
    listed = [dict(zip(columns, row, strict=True)) for row in rows]
    show_either(as_json, listed, "\n".join("  ".join(cells).rstrip() for cells in padded))


_SAME = 0.005
"""A difference that two decimals do not show: neither a gain nor a cost."""
_SHOWN = 5  # rows of a table
_CLASSES = "zero-shot classification"
_SIDES = {"binding": "sugarcrepe", "retrieval": "coco", _CLASSES: "zero-shot"}
"""What a matrix may gain or cost, and a benchmark of it that everybody can get."""
_FROM = {"results": "measured by labclip", "reported": "published, not measured by labclip"}
"""Keys of the metadata with figures, and who they are from."""
_USE = (
    "Captions that say which attribute belongs to which object, in search, ranking, filtering or tagging. Only text "
    "embeddings change: an index of images stays valid."
)
_AVOID = (
    'Negation ("no", "without"), which it does not help, and captions of a single object, which have nothing to bind. '
    "Attribute-object pairs unseen in the fit gain less."
)


@main.command(example="labclip info ViT-B-32")
@click.argument("name")
@options.as_json
def info(name: str, as_json: bool) -> None:
    """Say what a matrix gains and costs, and when to use it.

    NAME is a name of `labclip list`, a folder, or a Hub repository org/name. The figures are those recorded with the
    matrix, fractions of 1; nothing is measured now.
    """
    from labclip.io.published import find_entry

    known, metadata = _published_facts(entry) if (entry := find_entry(name)) else _loaded_facts(name)
    # What was looked up or computed comes before what the record says.
    facts = {**metadata, "name": name, **known}
    facts |= _weighed(facts)
    show_either(as_json, facts, "" if as_json else _text(facts))


def _published_facts(entry: Published) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the table says of a published matrix, and its metadata."""
    return {
        "base": f"{entry.model} ({entry.pretrained})",
        "alignment": entry.alignment,
        "dim": entry.embed_dim,
        "strength": 1.0,
        "url": entry.url,
        "matrix_sha256": entry.matrix_sha256,
    }, entry.metadata


def _loaded_facts(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the matrix of a folder or repository is, and its metadata."""
    check_names(name)
    from labclip.alignment import Alignment
    from labclip.io.folder import matrix_sha256

    alignment = Alignment.from_pretrained(name)
    return {
        "base": str(alignment.base) if alignment.base else None,
        "dim": alignment.dim,
        "strength": alignment.strength,
        "matrix_sha256": matrix_sha256(alignment.fitted),
    }, alignment.metadata


def _weighed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the record's figures say: gains, losses, what was not measured, and what to type."""
    rows = _figures(facts)
    gains, losses = ([row for row, gain in rows if sign * gain >= _SAME] for sign in (1, -1))
    measured, better, worse = (
        {_side(row["metric"]) for row in part}
        for part in ([row for row, _ in rows if row["from"] == "results"], gains, losses)
    )
    lacking = [side for side in _SIDES if side not in measured]
    name, quoted, known = facts["name"], shlex.quote(facts["name"]), facts["base"]
    benchmarks = [EMBEDDED] if str(known).startswith(EMBEDDED) else [_SIDES[side] for side in lacking]
    model = f"--model {quoted}" if known else f"--model MODEL --alignment {quoted}"
    load = f"LABCLIP.from_pretrained({name!r})" if known else f"LABCLIP(clip, Alignment.from_pretrained({name!r}))"
    useless = "binding" in measured - better
    return {
        "gains": gains,
        "losses": losses,
        "not_measured": lacking,
        "measure": f"labclip evaluate {' '.join(benchmarks)} {model}" if lacking else None,
        "use": "Not known: binding was measured, and no figure is better than the base's." if useless else _USE,
        "avoid": _AVOID if _CLASSES in measured - worse else f"{_AVOID} {_CLASSES.capitalize()} may get worse.",
        "load": load,
    }


def _figures(facts: Mapping[str, Any]) -> list[tuple[dict[str, Any], float]]:
    """Every figure that is a number for base and LABCLIP, and how much better LABCLIP's is."""
    from labclip.io.card import checked_results

    found = []
    for key in _FROM:
        for benchmark, (base, ours) in checked_results(facts.get(key), key).items():
            for metric, before in base.items():
                after = ours.get(metric)
                if isinstance(before, int | float) and isinstance(after, int | float):
                    row = {"benchmark": benchmark, "metric": metric, "base": before, "labclip": after, "from": key}
                    found.append((row, before - after if metric == "modality_gap" else after - before))
    return found


def _side(metric: str) -> str:
    """Which of `_SIDES` a metric is of, by its name; the modality gap is of none."""
    if re.fullmatch(r"(.+_)?(t2i|i2t)_r\d+", metric):
        return "retrieval"
    if re.fullmatch(r"(.+_)?(acc\d+|mean_per_class)|single_object", metric):
        return _CLASSES
    return "" if metric == "modality_gap" else "binding"


def _text(facts: Mapping[str, Any]) -> str:
    """One screen for somebody who has not seen the matrix before."""
    from labclip.report import Page, Section, terminal

    sections = []
    held_out = "On images held out of the fit, by which the strength was selected: a little flattering."
    notes = {
        "results": [held_out] if "validation" in (facts.get("results") or {}) else [],
        "reported": [str(facts["reported_source"])] if facts.get("reported_source") else [],
    }
    for key, source in _FROM.items():
        for label, side in (("Gains", "gains"), ("Costs", "losses")):
            if rows := [row for row in facts[side] if row["from"] == key]:
                more = f"{len(rows) - _SHOWN} more: labclip info {shlex.quote(facts['name'])} --json"
                said = [more] * (len(rows) > _SHOWN) + notes[key]
                sections.append(Section(f"{label}, {source}", tables=[_table(rows[:_SHOWN])], notes=said))
            elif facts.get(key) and key == "results":
                sections.append(Section(f"{label}, {source}", ["None in the figures recorded."]))
    fitted = [str(facts.get("data") or "not recorded")]
    fitted += [f"{key} {facts[key]}" for key in ("recipe", "seed") if facts.get(key) is not None]
    costs, lacking = facts.get("costs"), ", ".join(facts["not_measured"])
    told = {
        "Fitted on": "; ".join(fitted),
        "Verdict": facts.get("verdict"),
        "Gains": "" if facts.get("results") or facts.get("reported") else "No figure of this matrix is recorded.",
        "Costs reported of the method": " ".join(map(str, costs)) if isinstance(costs, list) else costs,
        "Not measured by labclip": lacking,
        "Use it for": facts["use"],
        "Not for": facts["avoid"],
        "Source": facts.get("source"),
        "Base": facts.get("base_weights"),
        "Licence": facts.get("license"),
    }
    base, dim = facts["base"] or "a base that is not recorded", facts["dim"]
    lead = f"A matrix on the text embeddings of {base}, {dim} x {dim}, used at strength {facts['strength']:g}."
    page = Page(facts["name"], lead, sections, [(label, str(text)) for label, text in told.items() if text])
    typed = [f"Measure it: {facts['measure']}"] * bool(lacking) + [f"Load it: {facts['load']}"]
    return "\n".join([terminal(page), "", *typed])  # which no line break may cut


def _table(rows: list[dict[str, Any]]) -> Table:
    """Base beside LABCLIP, with as many decimals as are known."""
    from labclip.report import Table

    cells = [
        [_words(row), *(f"{row[side]:.{3 if row['from'] == 'results' else 2}f}" for side in ("base", "labclip"))]
        for row in rows
    ]
    return Table("Fractions of 1", ("", "base", "LABCLIP"), cells)


def _words(row: Mapping[str, Any]) -> str:
    """A metric in words."""
    from labclip.io.published import REPORTED

    benchmark, metric = row["benchmark"], row["metric"]
    for one in REPORTED:
        if row["from"] == "reported" and (one.benchmark, one.metric) == (benchmark, metric):
            return one.words
    from labclip.evaluation.summary import worded  # loads torch, which the published ones do without

    return f"{worded(metric)} ({'held out' if benchmark == 'validation' else benchmark})"
