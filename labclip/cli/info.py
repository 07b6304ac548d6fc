"""The commands list and info: which matrices are known, and what is known of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from labclip.cli.group import as_json_option, main, show, show_json

if TYPE_CHECKING:
    from labclip.io.published import Published


@main.command("list", example="labclip list")
@as_json_option
def list_command(as_json: bool) -> None:
    """List the matrices known by name."""
    from labclip.io.published import find_entry, list_pretrained
    from labclip.packages import EMBEDDED

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


@main.command(example="labclip info ViT-B-32")
@click.argument("name")
@as_json_option
def info(name: str, as_json: bool) -> None:
    """Show what a matrix is, its source, its gains and costs.

    NAME is a name of `labclip list`, a folder, or a Hub repository org/name.
    """
    from labclip.io.card import checked_results
    from labclip.io.published import find_entry

    known, metadata = _published_facts(entry) if (entry := find_entry(name)) else _loaded_facts(name)
    # What was looked up or computed comes before what the record says.
    facts = known | {key: value for key, value in metadata.items() if key not in {"name", *known}}
    tables = {key: checked_results(facts.get(key), key) for key in ("results", "reported")}
    if as_json:
        show_json({"name": name, **facts})
        return
    for key, value in facts.items():
        if key in tables or value is None:
            continue
        if isinstance(value, list):
            show("\n  - ".join([f"{key}:", *map(str, value)]))
        elif isinstance(value, dict):
            show(f"{key}: {', '.join(f'{name} {one}' for name, one in value.items())}")
        else:
            show(f"{key}: {value}")
    _print_results("measured by labclip", tables["results"])
    _print_results("reported by others, not measured by labclip", tables["reported"])
    if not tables["results"]:
        show("measured by labclip: nothing yet. `labclip evaluate` measures it.")


def _published_facts(entry: Published) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the table says of a published matrix, and its metadata."""
    return {
        "base": f"{entry.model} ({entry.pretrained})",
        "alignment": entry.alignment,
        "dim": entry.embed_dim,
        "url": entry.url,
        "matrix_sha256": entry.matrix_sha256,
    }, entry.metadata


def _loaded_facts(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the matrix of a folder or repository is, and its metadata."""
    from labclip.alignment import Alignment
    from labclip.io.folder import matrix_sha256

    alignment = Alignment.from_pretrained(name)
    return {
        "base": str(alignment.base) if alignment.base else None,
        "dim": alignment.dim,
        "strength": alignment.strength,
        "matrix_sha256": matrix_sha256(alignment.fitted),
    }, alignment.metadata


def _print_results(title: str, results: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Print base and LABCLIP, one metric a line, where there are some."""
    rows = [
        (f"{benchmark} {metric}", base.get(metric), aligned.get(metric))
        for benchmark, (base, aligned) in results.items()
        for metric in dict.fromkeys([*base, *aligned])
    ]
    if not rows:
        return
    width = max(len(row[0]) for row in rows)
    show(f"{title}:\n  {'':{width}}     base  LABCLIP")
    for name, *values in rows:
        values = ["" if value is None else value for value in values]
        cells = "  ".join(f"{value:7.3f}" if isinstance(value, float) else f"{value:>7}" for value in values)
        show(f"  {name:{width}}  {cells}")
