"""The command that says where a model loses binding, and whether a matrix can repair it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labclip.cli import options
from labclip.cli.files import PAGE, check_drawing, check_names, check_outputs, write
from labclip.cli.group import main, note, open_model, progress, show_either


@main.command(
    example="labclip diagnose --model ViT-B-32 --out report.html",
    interrupted="Embeddings of PATH that were encoded are kept in the cache.",
)
@options.model
@options.path("--data", "PATH", "Labelled images: the files of CLEVR, CLEVR2D or PUG. [default: scenes drawn here]")
@options.path("--images", "DIR", "Folder of the images. [default: that of PATH]")
@options.alignment
@options.strength
@options.number("--folds", click.IntRange(2, 100), "Folds of the cross-validation.", default=3)
@options.number("--scenes", click.IntRange(1, 1_000_000), "Scenes drawn where no PATH is given.", default=5000)
@click.option("--fit/--no-fit", default=True, help="Whether to fit matrices, to show how much one could restore.")
@options.number("--seed", options.SEED, "Seed of scenes, splits and fits.", default=0)
@options.device
@options.ignore_exif
@options.no_cache
@options.path("--out", "FILE", "Write the whole report as one HTML page.")
@options.as_json
def diagnose(
    model: str, data: Path | None, images: Path | None, alignment: str | None, strength: float | None,
    device: str | None, ignore_exif: bool, no_cache: bool, out: Path | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Find where a model loses binding and what could repair it.

    Linear probes read images and captions separately, the cosine compares them. Matrices are fitted on some
    combinations, and their gains and costs are measured on the others. About a minute on two cores.
    """
    check_outputs(out, inputs=filter(None, [data, images]))
    check_drawing(out, *PAGE)
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
    found = find(opened, labelled, images=images, cache=not no_cache, progress=progress(), **settings)
    show_either(as_json, found.to_json(), str(found))
    write(out, found.write_html)
    if out is not None:
        note(f"Report: {out}")
