"""The commands list and info: which matrices are known, and what is known of one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import click

from labclip.cli import options
from labclip.cli.group import main, show_either
from labclip.packages import EMBEDDED

_SAME = 0.005
"""A difference that two decimals do not show: neither a gain nor a cost."""
_USE = (
    "Captions that say which attribute belongs to which object, in search, ranking, filtering or tagging. Only text "
    "embeddings change: your image index stays valid."
)
_AVOID = (
    'Negation in a caption ("no", "without"): pass it as encode_query(parts, without=...). Captions of a single object '
    "have nothing to bind. Attribute-object pairs unseen in the fit gain less. Zero-shot classification may get worse."
)
_SELECTED = "validation: held out of the fit, but the strength was selected on it: a little too good."


@main.command("list", example="labclip list")
@options.as_json
def list_command(as_json: bool) -> None:
    """List the matrices known by name."""
    from labclip.io.published import find_entry, list_pretrained

    columns = ("name", "alignment", "base", "dim", "source")
    rows: list[tuple[Any, ...]] = [(EMBEDDED, "scenes", "embedded, 12 colours x 10 shapes", 256, "in this package")]
    for name in list_pretrained():
        if entry := find_entry(name):
            base = f"{entry.model} ({entry.pretrained})"
            rows.append((name, entry.alignment, base, entry.embed_dim, "Hugging Face Hub, or the authors' repository"))
    lines = "\n".join("{:15}{:11}{:34}{:<5}{}".format(*row) for row in (columns, *rows))
    show_either(as_json, [dict(zip(columns, row, strict=True)) for row in rows], lines)


@main.command(example="labclip info ViT-B-32")
@click.argument("name", type=options.NAME)
@options.as_json
def info(name: str, as_json: bool) -> None:
    """Say what a matrix gains and costs, and when to use it.

    NAME is a name of `labclip list`, a folder, or a Hub repository org/name. The figures are those recorded with the
    matrix, fractions of 1; nothing is measured now.
    """
    facts = _facts(name)
    figures = [*_figures(facts, "results"), *_figures(facts, "reported")]
    model = f"--model {shlex.quote(name)}" if facts["base"] else f"--model MODEL --alignment {shlex.quote(name)}"
    loaded = f"Alignment.from_pretrained({name!r})"
    facts |= {
        "gains": [row for row in figures if row["gain"] >= _SAME],
        "losses": [row for row in figures if row["gain"] <= -_SAME],
        "use": _USE,
        "avoid": _AVOID,
        "measure": f"labclip evaluate sugarcrepe coco zero-shot {model}",
        "load": f"LABCLIP.from_pretrained({name!r})" if facts["base"] else f"LABCLIP(clip, {loaded})",
    }
    show_either(as_json, facts, "" if as_json else _text(facts, figures))


def _facts(name: str) -> dict[str, Any]:
    """The metadata of a matrix, under what was looked up or computed of it."""
    from labclip.io.published import find_entry

    if entry := find_entry(name):
        base, dim, strength = f"{entry.model} ({entry.pretrained})", entry.embed_dim, 1.0
        more = {"alignment": entry.alignment, "url": entry.url, "matrix_sha256": entry.matrix_sha256}
        metadata = entry.metadata
    else:
        from labclip.alignment import Alignment
        from labclip.io.folder import matrix_sha256

        found = Alignment.from_pretrained(name)
        base, dim, strength = str(found.base or ""), found.dim, found.strength
        more, metadata = {"matrix_sha256": matrix_sha256(found.fitted)}, found.metadata
    return {**metadata, "name": name, "base": base or None, "dim": dim, "strength": strength, **more}


def _figures(facts: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Every number of base and LABCLIP under a key of the metadata, and how much better LABCLIP's is."""
    from labclip.io.card import checked_results
    from labclip.report.values import LOWER_IS_BETTER

    for benchmark, (base, ours) in checked_results(facts.get(key), key).items():
        for metric, before in base.items():
            after = ours.get(metric)
            if metric.endswith("_blind"):  # a control, neither a gain nor a cost
                continue
            if isinstance(before, int | float) and isinstance(after, int | float):
                gain = before - after if metric.startswith(LOWER_IS_BETTER) else after - before
                row = {"benchmark": benchmark, "metric": metric, "base": before, "labclip": after, "gain": gain}
                yield row | {"from": key}


def _text(facts: Mapping[str, Any], figures: list[dict[str, Any]]) -> str:
    """One screen for somebody who has not seen the matrix before."""
    from labclip.io.card import CONVERT, COSINE_COLUMNS, COSINES, COSINES_OF, cosine_rows
    from labclip.report import Page, Section, Table, terminal

    sections = []
    columns = ("benchmark", "metric", "base", "LABCLIP", "better by")
    for key, title, digits, note in (
        ("results", "Figures measured by labclip", 3, _SELECTED if "validation" in facts.get("results", ()) else ""),
        ("reported", "Figures published, not measured by labclip", 2, str(facts.get("reported_source", ""))),
    ):
        rows = [
            [row["benchmark"], _words(row), *(f"{row[side]:.{digits}f}" for side in ("base", "labclip")),
             f"{row['gain']:+.{digits}f}"]
            for row in figures if row["from"] == key and round(row["base"], digits) != round(row["labclip"], digits)
        ]  # fmt: skip
        if rows:
            table = Table("Fractions of 1; --json has those that are alike too", columns, rows, words=(0, 1))
            sections.append(Section(title, tables=[table], notes=[note] if note else []))
    if pairs := cosine_rows(facts):
        sections.append(Section(COSINES, tables=[Table(COSINES_OF, COSINE_COLUMNS, pairs, (0, 1))], notes=[CONVERT]))
    fitted = [str(facts.get("data") or "not recorded")]
    fitted += [f"{key} {facts[key]}" for key in ("recipe", "seed") if facts.get(key) is not None]
    costs = facts.get("costs")
    told = {
        "Figures": "" if figures else "No figure of this matrix is recorded.",
        "Fitted on": "; ".join(fitted),
        "Verdict": facts.get("verdict"),
        "Costs reported of the method": " ".join(map(str, costs)) if isinstance(costs, list) else costs,
        "Use it for": facts["use"],
        "Not for": facts["avoid"],
        "Source": facts.get("source"),
        "Base": facts.get("base_weights"),
        "Licence": facts.get("license"),
    }
    base, dim = facts["base"] or "a base that is not recorded", facts["dim"]
    lead = f"A matrix on the text embeddings of {base}, {dim} x {dim}, used at strength {facts['strength']:g}."
    page = Page(facts["name"], lead, sections, [(label, str(text)) for label, text in told.items() if text])
    # What is to be typed, which no line break may cut.
    return f"{terminal(page)}\n\nMeasure it: {facts['measure']}\nLoad it: {facts['load']}"


def _words(row: Mapping[str, Any]) -> str:
    """A metric in words."""
    from labclip.io.published import REPORTED

    for one in REPORTED if row["from"] == "reported" else ():
        if (one.benchmark, one.metric) == (row["benchmark"], row["metric"]):
            return one.words
    from labclip.evaluation.summary import worded  # loads torch, which the published ones do without

    return worded(row["metric"])
