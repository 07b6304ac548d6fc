"""The command that shows the finding and its repair."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli import options
from labclip.cli.files import write
from labclip.cli.group import main, note, progress, show, show_either


@main.command(example="labclip demo --out figures")
@click.option("--out", default=Path(), type=options.FILE, help="Folder of the figure. [default: .]")
@options.number("--seed", options.SEED, "Seed of the scenes.", default=0)
@options.as_json
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Reproduce the failure and the fix, offline, in a minute.

    Renders scenes that no training used, measures the embedded base and LABCLIP on them, scores a few captions and
    their swapped versions with both, and writes a figure.
    """
    note("Loading the embedded model ...")
    from labclip.demo import draw, run
    from labclip.files import make_folder

    make_folder(out)  # before the work, so that a wrong one costs nothing
    path = out / "labclip-demo.png"
    result = run(seed=seed, progress=progress())
    show_either(as_json, result.results, str(result))
    write(path, lambda part: draw(result, part))
    (note if as_json else show)(f"\nFigure: {path}")
