"""The command that fits a matrix on a feature folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from labclip.cli.group import ALIGNMENT_FILES, as_json_option, check_empty, main

_PATH = click.Path(path_type=Path)


@main.command()
@click.argument("features", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--validation", type=_PATH, metavar="FEATURES", help="Held-out feature folder, of other images.")
@click.option(
    "--retain", multiple=True, metavar="[NAME=]FEATURES",
    help="Feature folder of another domain whose retrieval must not suffer; may be given again. "
    "[default name: the folder's]",
)  # fmt: skip
@click.option(
    "--recipe", default="labclip", show_default=True, help="labclip, or a published one: paper, paper-sb, ..."
)
@click.option("--epochs", type=int, help="Passes over the captions. [default: the recipe's]")
@click.option("--batch-size", type=int, help="Captions per step. [default: the recipe's]")
@click.option("--learning-rate", type=float, help="Adam's learning rate. [default: the recipe's]")
@click.option("--identity-penalty", type=float, help="Times ||A - I||^2. [default: validation selects]")
@click.option("--rank", type=int, help="Rank of A - I. [default: a quarter of the dim]")
@click.option("--hard-negatives", type=int, help="Negatives per caption and step. [default: 1]")
@click.option(
    "--objective", type=click.Choice(["softmax", "sigmoid"]), help="CLIP's loss or SigLIP's. [default: as the base]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of split, order and negatives.")
@click.option("--device", metavar="D", help="cpu, cuda, mps. [default: cpu]")
@click.option("--checkpoint", type=_PATH, metavar="DIR", help="Folder of checkpoints, to continue an interrupted fit.")
@click.option("--plot", type=_PATH, metavar="FILE", help="Figure of gains and costs.")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@click.option("--anyway", is_flag=True, help="Write the matrix even if the fit does not help.")
@as_json_option
def fit(
    features: Path, out: Path, validation: Path | None, retain: tuple[str, ...], plot: Path | None, force: bool,
    anyway: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Fit a matrix on features from `labclip embed`.

    Writes the alignment folder OUT. If the fit does not help, it says why, writes nothing and exits with code 1.
    """
    from labclip.features import Features
    from labclip.training import fit as fit_matrix

    others = _named(retain)
    inputs = [features, *([validation] if validation else []), *others.values()]
    check_empty(out, force, writes=ALIGNMENT_FILES, inputs=inputs)
    if plot is not None:
        _check_plot(plot, settings["recipe"], validation)
    result = fit_matrix(
        Features.load(features), validation=None if validation is None else Features.load(validation),
        retain={name: Features.load(folder) for name, folder in others.items()}, **settings,
    )  # fmt: skip
    written = result.worthwhile or anyway
    if written:
        result.alignment.save_pretrained(out)
    if plot is not None:
        result.plot(plot)
    if as_json:
        click.echo(json.dumps({"written": str(out) if written else None, **result.to_json()}))
    else:
        click.echo(str(result))
    if not written:
        click.echo("No matrix was written. Pass --anyway to write it nevertheless.", err=True)
        raise SystemExit(1)
    click.echo(f"{out}: {result.alignment}, strength {result.alignment.strength:g}", err=as_json)


def _named(retain: tuple[str, ...]) -> dict[str, Path]:
    """Folders by name; one that exists as it is written is no NAME=FEATURES."""
    found: dict[str, Path] = {}
    for text in retain:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).exists():
            name, folder = Path(text).absolute().name, text
        if not name or not folder or name in found:
            why = "is named as another is" if name in found else "lacks a name or a folder"
            raise ValueError(f"--retain {text} {why}. Write --retain NAME=FEATURES, each with a name of its own.")
        found[name] = Path(folder)
    return found


def _check_plot(plot: Path, recipe: str, validation: Path | None) -> None:
    """Refuse a figure that can't be drawn before the fit, not after it."""
    from labclip.packages import EVAL, require

    backend = require("matplotlib.backend_bases", "Plots need matplotlib", EVAL)
    endings = sorted(backend.FigureCanvasBase.get_supported_filetypes())
    if plot.suffix.removeprefix(".") not in endings:
        raise ValueError(f"--plot is {plot}. End it with one of {', '.join(endings)}.")
    if not plot.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {plot.absolute().parent} for the figure.")
    if recipe.startswith("paper") and validation is None:
        raise ValueError(f"Recipe {recipe!r} holds nothing out, so there is nothing to draw. Pass --validation.")
