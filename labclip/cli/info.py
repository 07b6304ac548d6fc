"""The commands list and info: which matrices are known, and what is known of one."""

from __future__ import annotations

from typing import Any

import click

from labclip.cli import options
from labclip.cli.group import main, show_either
from labclip.packages import EMBEDDED


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
    from labclip.io.card import record, record_of, record_page
    from labclip.io.published import find_entry
    from labclip.report import terminal

    if entry := find_entry(name):
        facts = record(name, entry.base, entry.embed_dim, 1.0, entry.metadata)
        facts |= {"alignment": entry.alignment, "url": entry.url, "matrix_sha256": entry.matrix_sha256}
    else:
        from labclip.alignment import Alignment
        from labclip.io.folder import matrix_sha256

        alignment = Alignment.from_pretrained(name)
        facts = record_of(alignment, name) | {"matrix_sha256": matrix_sha256(alignment.fitted)}
    show_either(as_json, facts, "" if as_json else terminal(record_page(facts)))
