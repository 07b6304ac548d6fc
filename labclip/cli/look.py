"""Commands that show: demo, list, info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labclip.cli.group import as_json_option, main

if TYPE_CHECKING:
    from labclip.io.published import Published


@main.command()
@click.option("--out", default=Path(), type=click.Path(path_type=Path), help="Folder for the picture. [default: .]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which fresh scenes to draw.")
@as_json_option
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Show the finding and its repair on the embedded model, in under a minute, offline.

    Renders scenes no training saw, measures the base against LABCLIP, scores a few captions and their swapped twins
    with both, and writes a picture.
    """
    click.echo("Loading the embedded model ...", err=True)
    from labclip.io.folder import make_folder
    from labclip.scenes import demo as demonstration

    make_folder(out)  # before the work, so that a wrong one costs nothing
    shown = demonstration.run(seed=seed, say=lambda step: click.echo(f"{step} ...", err=True))
    picture = demonstration.draw(shown, out / "labclip-demo.png")
    if as_json:
        click.echo(json.dumps(shown.results))
        return
    click.echo(demonstration.report(shown))
    click.echo(f"\nPicture: {picture}")


@main.command("list")
@as_json_option
def list_command(as_json: bool) -> None:
    """List the matrices that are known by name."""
    from labclip.io.published import find_entry, list_pretrained
    from labclip.packages import EMBEDDED

    rows = [(EMBEDDED, "scenes", "embedded, 12 colours x 10 shapes", 256, "in this package")]
    for name in list_pretrained():
        if entry := find_entry(name):
            base = f"{entry.model} ({entry.pretrained})"
            rows.append((name, entry.alignment, base, entry.embed_dim, "the Hub, else the authors' repository"))
    columns = ("name", "alignment", "base", "dim", "source")
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
        return
    table = [columns, *[tuple(map(str, row)) for row in rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@main.command()
@click.argument("name")
@as_json_option
def info(name: str, as_json: bool) -> None:
    """Say what a matrix is, where it comes from, what it gains and costs.

    NAME is a name of `labclip list`, a folder, or a Hub repository org/name.
    """
    from labclip.io.card import checked_results
    from labclip.io.published import find_entry

    known, metadata = _published_facts(entry) if (entry := find_entry(name)) else _loaded_facts(name)
    # What was looked up or computed stands over what the record says of itself.
    facts = known | {key: value for key, value in metadata.items() if key not in {"name", *known}}
    for key in ("results", "reported"):
        checked_results(facts.get(key), key)
    if as_json:
        click.echo(json.dumps({"name": name, **facts}))
        return
    results, reported = facts.pop("results", None), facts.pop("reported", None)
    for key, value in facts.items():
        if isinstance(value, list):
            click.echo(f"{key}:")
            for line in value:
                click.echo(f"  - {line}")
        elif value is not None:
            click.echo(f"{key}: {value}")
    for title, table in (("measured", results), ("reported, not measured by labclip", reported)):
        if table:
            click.echo(f"{title}:")
            print_results(table)
    if not results:
        click.echo("measured: nothing yet by labclip for this matrix")


def _published_facts(entry: Published) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a published matrix, and its metadata."""
    return {
        "base": f"{entry.model} ({entry.pretrained})",
        "alignment": entry.alignment,
        "dim": entry.embed_dim,
        "url": entry.url,
        "matrix_sha256": entry.matrix_sha256,
    }, entry.metadata


def _loaded_facts(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of the matrix of a folder or repository, and its metadata."""
    from labclip.alignment import Alignment
    from labclip.io.folder import matrix_sha256

    alignment = Alignment.from_pretrained(name)
    return {
        "base": str(alignment.base) if alignment.base else None,
        "dim": alignment.dim,
        "strength": alignment.strength,
        "matrix_sha256": matrix_sha256(alignment.fitted),
    }, alignment.metadata


def print_results(results: Any) -> None:
    """The table of base and LABCLIP, a line a figure."""
    from labclip.io.card import checked_results

    rows = [
        (f"{benchmark} {metric}", base.get(metric), aligned.get(metric))
        for benchmark, (base, aligned) in checked_results(results).items()
        for metric in dict.fromkeys([*base, *aligned])
    ]
    width = max((len(row[0]) for row in rows), default=0)
    click.echo(f"  {'':{width}}     base  LABCLIP")
    for name, *values in rows:
        values = ["" if value is None else value for value in values]
        cells = "  ".join(f"{value:7.3f}" if isinstance(value, float) else f"{value:>7}" for value in values)
        click.echo(f"  {name:{width}}  {cells}")
