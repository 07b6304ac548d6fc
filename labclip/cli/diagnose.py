"""The command that says where a model loses binding, and whether a matrix can repair it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labclip.cli.group import (
    alignment_option,
    as_json_option,
    check_page,
    chosen_device,
    device_option,
    main,
    model_option,
    strength_option,
)

if TYPE_CHECKING:
    from labclip.model import LABCLIP


@main.command()
@model_option
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Labelled images: the files of CLEVR, CLEVR2D or PUG. [default: scenes drawn here, nothing is downloaded]",
)
@click.option(
    "--images", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the images. [default: that of PATH]"
)
@alignment_option
@strength_option
@click.option("--folds", type=click.IntRange(2), default=3, show_default=True, help="Of the cross-validation.")
@click.option("--scenes", type=click.IntRange(1), default=5000, show_default=True, help="Drawn where no PATH is given.")
@click.option("--fit/--no-fit", default=True, help="Whether to fit matrices, to show how much one could restore.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of scenes, splits and fits.")
@device_option
@click.option("--no-cache", is_flag=True, help="Do not cache embeddings of PATH.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole report as one HTML page.")
@as_json_option
def diagnose(
    model: str, data: Path | None, images: Path | None, alignment: str | None, strength: float | None, folds: int,
    scenes: int, fit: bool, seed: int, device: str | None, no_cache: bool, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Find where a model loses binding and what could repair it.

    Linear probes ask the embeddings of images and of captions apart, cosine asks them together. Matrices are fitted on
    some combinations and measured on the others, gains and costs. About a minute on two cores.
    """
    if out is not None:
        check_page(out)
    from labclip.analysis import diagnose as find

    found = find(
        _opened(model, alignment, strength, device), data, images=images, scenes=scenes, fit=fit, folds=folds,
        cache=not no_cache, seed=seed,
    )  # fmt: skip
    if out is not None:
        found.write_html(out)
    click.echo(json.dumps(found.to_json()) if as_json else str(found))
    if out is not None:
        click.echo(f"Report: {out}", err=True)


def _opened(model: str, alignment: str | None, strength: float | None, device: str | None) -> LABCLIP:
    """The base, with its own matrix, another one, or none."""
    from labclip.io.opening import open_alignment
    from labclip.model import LABCLIP

    opened = LABCLIP.from_pretrained(model, device=chosen_device(device))
    if alignment is not None:
        opened.alignment = open_alignment(alignment, opened)
    if strength is not None:
        opened.alignment = opened.alignment.at(strength)
    return opened
