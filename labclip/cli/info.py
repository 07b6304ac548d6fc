"""The commands list and info: which matrices are known, and what is known of one."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from labclip.cli.files import check_names
from labclip.cli.group import as_json_option, main, show, show_json
from labclip.packages import EMBEDDED

if TYPE_CHECKING:
    from labclip.io.published import Published


@main.command("list", example="labclip list")
@as_json_option
def list_command(as_json: bool) -> None:
    """List the matrices known by name."""
    from labclip.io.published import find_entry, list_pretrained

    rows = [(EMBEDDED, "scenes", "embedded, 12 colours x 10 shapes", 256, "in this package")]
    for name in list_pretrained():
        if entry := find_entry(name):
            base = f"{entry.model} ({entry.pretrained})"
            rows.append((name, entry.alignment, base, entry.embed_dim, "Hugging Face Hub, or the authors' repository"))
    columns = ("name", "alignment", "base", "dim", "source")
    if as_json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    table = [columns, *[tuple(map(str, row)) for row in rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    for row in table:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


_SAME = 0.005
"""A difference that two decimals do not show: neither a gain nor a cost."""
_SHOWN = 5
_WIDTH, _LABEL = 100, 11
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
@as_json_option
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
    if as_json:
        show_json(facts)
    else:
        show("\n".join(_lines(facts)))


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


def _lines(facts: Mapping[str, Any]) -> list[str]:
    """One screen for somebody who has not seen the matrix before."""
    base = facts["base"] or "a base that is not recorded"
    size = f"{facts['dim']} x {facts['dim']}"
    lines = [
        f"{facts['name']}: a matrix on the text embeddings of {base}, {size}, used at strength {facts['strength']:g}",
        "",
        *_labelled("Fitted on", _fitted_on(facts)),
    ]
    for key, source in _FROM.items():
        for label, side in (("Gains", "gains"), ("Costs", "losses")):
            if rows := [row for row in facts[side] if row["from"] == key]:
                lines += ["", *_table(f"{label}, {source}", rows, facts["name"])]
            elif facts.get(key):
                lines += ["", f"{label}, {source}: none in the figures recorded"] if key == "results" else []
    if "validation" in (facts.get("results") or {}):
        lines += _labelled(
            "", "On images held out of the fit, by which the strength was selected: a little flattering."
        )
    if facts.get("verdict"):
        lines += ["", *_labelled("Verdict", f"{facts['verdict']}.")]
    if facts.get("reported"):
        lines += _labelled("", str(facts.get("reported_source", "")))
    if not (facts.get("results") or facts.get("reported")):
        lines += ["", *_labelled("Gains", "No figure of this matrix is recorded.")]
    if costs := facts.get("costs"):
        told = " ".join(map(str, costs)) if isinstance(costs, list) else costs
        lines += ["", *_labelled("Costs", f"Reported of the method, not of this matrix: {told}")]
    if facts["not_measured"]:
        lacking = (
            f"labclip did not measure {', '.join(facts['not_measured'])}. This does, and names the files it needs:"
        )
        lines += ["", *_labelled("Measure it", lacking), f"{'':{_LABEL}}{facts['measure']}"]
    lines += ["", *_labelled("Use it for", facts["use"]), *_labelled("Not for", facts["avoid"])]
    lines += ["", f"{'Load it':{_LABEL}}{facts['load']}"]
    for label, key in (("Source", "source"), ("Base", "base_weights"), ("Licence", "license")):
        lines += _labelled(label, str(facts[key])) if facts.get(key) else []
    return lines


def _fitted_on(facts: Mapping[str, Any]) -> str:
    """The data and the recipe that a record names."""
    parts = [str(facts.get("data") or "not recorded")]
    parts += [f"{key} {facts[key]}" for key in ("recipe", "seed") if facts.get(key) is not None]
    return "; ".join(parts)


def _table(title: str, rows: list[dict[str, Any]], name: str) -> list[str]:
    """Base beside LABCLIP, the first rows."""
    lines = [f"{title:{_WIDTH - 18}}     base  LABCLIP"]
    for row in rows[:_SHOWN]:
        decimals = 3 if row["from"] == "results" else 2  # as published
        cells = "".join(f"{row[side]:9.{decimals}f}" for side in ("base", "labclip"))
        lines.append(f"  {_words(row):{_WIDTH - 20}}{cells}")
    more = len(rows) - _SHOWN
    return [*lines, f"  and {more} more: labclip info {shlex.quote(name)} --json"] if more > 0 else lines


def _words(row: Mapping[str, Any]) -> str:
    """A metric in words."""
    from labclip.io.published import REPORTED

    benchmark, metric = row["benchmark"], row["metric"]
    for one in REPORTED:
        if row["from"] == "reported" and (one.benchmark, one.metric) == (benchmark, metric):
            return one.words
    from labclip.evaluation.summary import worded  # loads torch, which the published ones do without

    return f"{worded(metric)} ({'held out' if benchmark == 'validation' else benchmark})"


def _labelled(label: str, text: str) -> list[str]:
    """A paragraph beside its label."""
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent=f"{label:{_LABEL}}", subsequent_indent=" " * _LABEL,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
