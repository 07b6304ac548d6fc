"""The command that says where a model loses binding, and whether a matrix can repair it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labclip.cli.group import (
    alignment_option,
    as_json_option,
    base_option,
    check_page,
    chosen_device,
    device_option,
    main,
    strength_option,
)

if TYPE_CHECKING:
    from labclip.data.scene_files import LabelledScenes
    from labclip.model import LABCLIP


@main.command()
@base_option
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Labelled pictures: the files of CLEVR, CLEVR2D or PUG. [default: scenes drawn here, nothing is downloaded]",
)
@click.option(
    "--images", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the pictures. [default: that of PATH]"
)
@alignment_option
@strength_option
@click.option("--folds", type=click.IntRange(2), default=3, show_default=True, help="Of the cross-validation.")
@click.option("--scenes", type=click.IntRange(1), default=5000, show_default=True, help="Drawn where no PATH is given.")
@click.option("--fit/--no-fit", default=True, help="Whether to fit matrices, to see what one could win back.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of scenes, splits and fits.")
@device_option
@click.option("--no-cache", is_flag=True, help="Keep no embeddings of PATH. [default: the user's cache, as `evaluate`]")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole report as one HTML page.")
@as_json_option
def diagnose(
    model: str, data: Path | None, images: Path | None, alignment: str | None, strength: float | None, folds: int,
    scenes: int, fit: bool, seed: int, device: str | None, no_cache: bool, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Say where a model loses which attribute belongs to which object, and whether a matrix can repair it.

    Linear probes ask the pictures' and the captions' embeddings apart, cosine asks them together. Matrices are fitted
    on some combinations and measured on the others, gains and costs. About a minute on two cores.
    """
    if images is not None and data is None:
        raise ValueError("--images is the folder of the pictures of --data PATH. Pass that too, or leave both out.")
    if out is not None:
        check_page(out)
    opened = _opened(model, alignment, strength, device)
    from labclip.analysis.diagnosis import diagnose as examine
    from labclip.analysis.report import terminal, write_page
    from labclip.encode.cache import Cache, default_cache

    labelled = None if data is None else _labelled(data, images)
    kept = None if no_cache or data is None else default_cache()
    with Cache(kept, opened) as cache:
        found = examine(opened, labelled, seed=seed, fit=fit, folds=folds, scenes=scenes, cache=cache)
    if out is not None:
        write_page(found, out)
    click.echo(json.dumps(found.as_json()) if as_json else terminal(found))
    if out is not None:
        click.echo(f"Report: {out}", err=True)


def _opened(model: str, alignment: str | None, strength: float | None, device: str | None) -> LABCLIP:
    """The base, with its own matrix, another one, or none."""
    from labclip.io.opening import open_alignment, open_base

    opened = open_base(model, device=chosen_device(device))
    if alignment is not None:
        opened.alignment = open_alignment(alignment, opened)
    if strength is not None:
        opened.alignment = opened.alignment.at(strength)
    return opened


def _labelled(data: Path, images: Path | None) -> LabelledScenes:
    from labclip.data.scene_files import read_labelled_scenes

    return read_labelled_scenes(data, images)
