"""The command that says where a model loses binding, and whether a matrix can repair it."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli.files import check_names, check_outputs, check_page, refuse, write_files
from labclip.cli.group import (
    alignment_option,
    as_json_option,
    device_option,
    exif_option,
    main,
    model_option,
    note,
    open_model,
    progress,
    show,
    show_json,
    strength_option,
)


@main.command(
    example="labclip diagnose --model ViT-B-32 --out report.html",
    interrupted="Embeddings of PATH that were encoded are kept in the cache.",
)
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
@click.option("--folds", type=click.IntRange(2, 100), default=3, show_default=True, help="Of the cross-validation.")
@click.option(
    "--scenes", type=click.IntRange(1, 1_000_000), default=5000, show_default=True, help="Drawn where no PATH is given."
)
@click.option("--fit/--no-fit", default=True, help="Whether to fit matrices, to show how much one could restore.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of scenes, splits and fits.")
@device_option
@exif_option
@click.option("--no-cache", is_flag=True, help="Do not cache embeddings of PATH.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole report as one HTML page.")
@as_json_option
def diagnose(
    model: str, data: Path | None, images: Path | None, alignment: str | None, strength: float | None, folds: int,
    scenes: int, fit: bool, seed: int, device: str | None, ignore_exif: bool, no_cache: bool,
    out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Find where a model loses binding and what could repair it.

    Linear probes ask the embeddings of images and of captions apart, cosine asks them together. Matrices are fitted on
    some combinations and measured on the others, gains and costs. About a minute on two cores.
    """
    check_outputs([out], others=[one for one in (data, images) if one is not None])
    if out is not None:
        check_page(out)
    check_names(model, alignment)
    from labclip.data.scene_files import read_labelled_scenes

    labelled = None
    if data is not None:  # before the model, which may be a download
        labelled = read_labelled_scenes(data.expanduser(), None if images is None else images.expanduser())
        images = None
    from labclip.analysis import diagnose as find
    from labclip.io.opening import open_alignment

    opened = open_model(model, device, ignore_exif=ignore_exif)
    if alignment is not None:
        opened.alignment = open_alignment(alignment, opened)
    if strength is not None:
        opened.alignment = opened.alignment.at(strength)
    found = find(
        opened, labelled, images=images, scenes=scenes, fit=fit, folds=folds,
        cache=not no_cache, seed=seed, progress=progress(),
    )  # fmt: skip
    failed = write_files((out, found.write_html))
    if as_json:
        show_json(found.to_json())
    else:
        show(str(found))
    refuse(failed)
    if out is not None:
        note(f"Report: {out}")
