"""The commands demo and sample: the failure and the fix on rendered scenes, and such scenes to try on."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli import options
from labclip.cli.files import write
from labclip.cli.group import main, note, progress, show, show_either
from labclip.files import check_folder


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


@main.command(example="labclip sample scenes-data")
@click.argument("folder", metavar="DIR", type=options.FILE)
@options.number("--n", click.IntRange(1, 100_000), "Number of scenes.", default=1000)
@options.number("--seed", options.SEED, "Seed of the scenes.", default=0)
def sample(folder: Path, n: int, seed: int) -> None:
    """Write rendered scenes with captions, to try other commands on.

    DIR gets the images and captions.csv, with the columns image, caption and negative (the colours swapped).
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty. Pass a folder that is, or a new one.")
    from labclip import scenes

    table = scenes.sample(n, seed=seed).save(folder)
    show(
        f"{table}: {n:,} images, each with a caption and a negative. Type next:\n"
        f"  labclip embed --model scenes --captions {table} features\n"
        f"  labclip fit features my-alignment\n"
        f"  labclip evaluate csv --model scenes --alignment my-alignment --data {table}"
    )
