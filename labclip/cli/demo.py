"""The command that shows the finding and its repair."""

from __future__ import annotations

import json
from pathlib import Path

import click

from labclip.cli.group import as_json_option, main


@main.command()
@click.option("--out", default=Path(), type=click.Path(path_type=Path), help="Folder of the figure. [default: .]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the scenes.")
@as_json_option
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Show the finding and its repair, offline, in a minute.

    Renders scenes that no training used, measures the embedded base and LABCLIP on them, scores a few captions and
    their swapped versions with both, and writes a figure.
    """
    click.echo("Loading the embedded model ...", err=True)
    from labclip.paths import make_folder
    from labclip.scenes import demo as scenes_demo
    from labclip.scenes import figure

    make_folder(out)  # before the work, so that a wrong one costs nothing
    shown = scenes_demo.run(seed=seed, say=lambda step: click.echo(f"{step} ...", err=True))
    path = figure.draw(shown, out / "labclip-demo.png")
    click.echo(json.dumps(shown.results) if as_json else f"{shown}\n\nFigure: {path}")
