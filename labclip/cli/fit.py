"""The command that fits a matrix on a feature folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from labclip.cli.group import as_json_option, check_empty, main


@main.command()
@click.argument("features", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--validation", type=click.Path(path_type=Path), metavar="FEATURES", help="Held-out feature folder.")
@click.option(
    "--retain",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FEATURES",
    help="Feature folder of another domain whose retrieval must not suffer; may be given again.",
)
@click.option(
    "--recipe", default="labclip", show_default=True, help="labclip, or a published one: paper, paper-sb, ..."
)
@click.option("--epochs", type=int, help="Passes over the captions. [default: the recipe's]")
@click.option("--batch-size", type=int, help="Captions a step. [default: the recipe's]")
@click.option("--learning-rate", type=float, help="Of Adam. [default: the recipe's]")
@click.option("--identity-penalty", type=float, help="Times ||A - I||^2. [default: validation chooses]")
@click.option("--rank", type=int, help="Rank of A - I. [default: a quarter of the dim]")
@click.option("--hard-negatives", type=int, help="Negatives a caption a step. [default: 1]")
@click.option(
    "--objective", type=click.Choice(["softmax", "sigmoid"]), help="CLIP's loss or SigLIP's. [default: as the base]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of split, order and negatives.")
@click.option("--device", metavar="D", help="cpu, cuda, mps. [default: cpu]")
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="Keeps the fit, to go on if killed.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Picture of gains and costs.")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@click.option("--anyway", is_flag=True, help="Write the matrix even where the fit was not worth it.")
@as_json_option
def fit(
    features: Path, out: Path, validation: Path | None, retain: tuple[Path, ...], plot: Path | None, force: bool,
    anyway: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Fit a matrix on FEATURES, which `labclip embed` makes, and write the alignment folder OUT.

    Where the fit was not worth it, it says why and writes nothing, with exit code 1.
    """
    import labclip

    own = labclip.features.Features.load(features)
    others = [labclip.features.Features.load(folder) for folder in (*([validation] if validation else []), *retain)]
    for other in others:
        if other.manifest["weights_sha256"] != own.manifest["weights_sha256"]:
            raise ValueError(f"{other.folder} is of {other.base}, but {features} is of {own.base}: other weights.")
    check_empty(out, force)
    if plot is not None:
        _check_plot(plot, settings["recipe"])
    held = others.pop(0) if validation else None
    result = labclip.fit(
        own.images, own.texts, own.negatives, image_index=own.image_index,
        validation=held and (held.images, held.texts, held.negatives, held.image_index),
        retain=[(other.images, other.texts, other.image_index) for other in others],
        base=own.base, fingerprint=_fingerprint(own.manifest), **settings,
    )  # fmt: skip
    written = result.worthwhile or anyway
    if written:
        result.alignment.save_pretrained(out)
    if plot is not None:
        result.plot(plot)
    if as_json:
        facts = {"strength": result.alignment.strength, "written": str(out) if written else None}
        frontier = [point.as_json() for point in result.frontier]
        click.echo(json.dumps({**facts, "advice": result.advice, **result.alignment.metadata, "frontier": frontier}))
    else:
        _report(result)
    if not written:
        click.echo("No matrix was written. Pass --anyway to write it nevertheless.", err=True)
        raise SystemExit(1)
    click.echo(f"{out}: {result.alignment}, strength {result.alignment.strength:g}", err=as_json)


def _check_plot(plot: Path, recipe: str) -> None:
    """Refuse a picture that can't be drawn before the fit, not after it."""
    from labclip.packages import EVAL, require

    backend = require("matplotlib.backend_bases", "Plots need matplotlib", EVAL)
    endings = sorted(backend.FigureCanvasBase.get_supported_filetypes())
    if plot.suffix.removeprefix(".") not in endings:
        raise ValueError(f"--plot is {plot}. End it with one of {', '.join(endings)}.")
    if not plot.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {plot.absolute().parent} for the picture.")
    if recipe != "labclip":
        raise ValueError(f"Recipe {recipe!r} holds nothing out, so there is nothing to draw. Leave --plot out.")


def _fingerprint(manifest: dict[str, Any]) -> Any:
    import numpy as np

    return np.asarray(manifest["fingerprint"], dtype=np.float32) if manifest["fingerprint"] else None


def _report(result: Any) -> None:
    from labclip.cli.info import print_results

    if "results" in result.alignment.metadata:
        print_results(result.alignment.metadata["results"])
    for sentence in result.advice:
        click.echo(sentence)
