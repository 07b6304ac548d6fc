"""The command that shows the finding and its repair."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli.files import check_outputs, refuse, write_files
from labclip.cli.group import as_json_option, main, note, progress, show, show_json


@main.command(example="labclip demo --out figures")
@click.option("--out", default=Path(), type=click.Path(path_type=Path), help="Folder of the figure. [default: .]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the scenes.")
@as_json_option
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Show the finding and its repair, offline, in a minute.

    Renders scenes that no training used, measures the embedded base and LABCLIP on them, scores a few captions and
    their swapped versions with both, and writes a figure.
    """
    note("Loading the embedded model ...")
    from labclip.demo import draw, run
    from labclip.files import make_folder

    make_folder(out)  # before the work, so that a wrong one costs nothing
    path = out / "labclip-demo.png"
    check_outputs([path])
    shown = run(seed=seed, progress=progress())
    failed = write_files((path, lambda part: draw(shown, part)))
    if as_json:
        show_json(shown.results)
    else:
        show(str(shown) if failed else f"{shown}\n\nFigure: {path}")
    refuse(failed)
