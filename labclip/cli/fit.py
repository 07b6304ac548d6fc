"""The command that fits a matrix on a feature folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labclip.cli import options
from labclip.cli.files import ALIGNMENT_FILES, FIGURE, PAGE, check_drawing, check_empty, check_outputs
from labclip.cli.group import main, note, progress, show, show_either
from labclip.files import check_feature_folder

if TYPE_CHECKING:
    from labclip.training import Split

_HELD_OUT = 0.05  # of the combinations: a caption with two attributes and two objects has four of them


@main.command(
    example="labclip fit features my-alignment --html report.html",
    interrupted="With --checkpoint DIR the same command goes on where it stopped, without it from scratch.",
)
@click.argument("features", type=options.FILE)
@click.argument("out", type=options.FILE)
@options.path("--validation", "FEATURES", "Held-out feature folder, of other images.")
@options.choice(
    "--split", ["images", "combinations"], "What is held out without --validation: a tenth of the images, or "
    "combinations of attribute and object, kept out of captions and negatives.", default="images",
)  # fmt: skip
@options.text("--attributes", "WORDS", "For --split combinations: words separated by commas, or a file, one per line.")
@options.text("--objects", "WORDS", "For --split combinations, likewise.")
@options.text(
    "*--retain", "[NAME=]FEATURES", "Feature folder of another domain whose retrieval must not suffer; may be given "
    "again. [default name: the folder's]",
)  # fmt: skip
@options.number("--keep", float, "Fraction of the base's R@1 to keep; with less, binding improves more.", default=0.99)
@options.text(
    "--recipe", "TEXT", "labclip, or a published one: paper, paper-sb, ...", default="labclip", show_default=True
)
@options.number("--epochs", int, "Passes over the captions. [default: the recipe's]")
@options.number("--batch-size", int, "Captions per step. [default: the recipe's]")
@options.number("--learning-rate", float, "Adam's learning rate. [default: the recipe's]")
@options.number("--negative-weight", float, "Weight of a hard negative; another caption counts 1. [default: selected]")
@options.number("--distill", float, "Weight of distillation from the base. [default: selected]")
@options.number("--identity-penalty", float, "Weight of ||A - I||^2 in the loss. [default: selected]")
@options.number("--logit-scale", float, "Factor of the cosines in the loss. [default: the recipe's]")
@options.number("--rank", int, "Rank of A - I. [default: a quarter of the dim]")
@options.number("--hard-negatives", int, "Negatives per caption and step. [default: 1]")
@options.choice("--objective", ["softmax", "sigmoid"], "CLIP's loss or SigLIP's. [default: as the base]")
@options.number("--seed", options.SEED, "Seed of split, order and negatives.", default=0)
@options.text("--device", "D", "cpu, cuda, mps. [default: cpu]")
@options.path("--checkpoint", "DIR", "Folder of checkpoints, to continue an interrupted fit.")
@options.path("--plot", "FILE", "Figure of gains and costs.")
@options.path("--html", "FILE", "Write the whole report as one HTML page.")
@options.force
@options.flag("--anyway", "Write the matrix even if the fit does not help.")
@options.as_json
def fit(
    features: Path, out: Path, validation: Path | None, split: str, attributes: str | None, objects: str | None,
    retain: tuple[str, ...], plot: Path | None, html: Path | None, force: bool, anyway: bool, as_json: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Fit a matrix on features from `labclip embed`.

    Writes the alignment folder OUT. If the fit does not help, it says why, writes nothing and exits with code 1.
    """
    others = _named(retain)
    inputs = [features, *([validation] if validation else []), *others.values()]
    check_empty(out, force, writes=ALIGNMENT_FILES, inputs=inputs)
    check_outputs(plot, html, inputs=[*inputs, out])
    check_drawing(plot, *FIGURE)
    check_drawing(html, *PAGE)
    for folder in inputs:
        check_feature_folder(folder)
    if split == "images" and (attributes or objects):
        raise ValueError("--attributes and --objects go with --split combinations.")
    if split == "combinations" and validation is not None:
        raise ValueError("--split and --validation both say what is held out. Pass one of them.")
    held_out: Path | Split | None = validation
    if split == "combinations":
        held_out = _combinations(features, attributes, objects, settings["seed"])
    from labclip.training import fit as fit_matrix

    result = fit_matrix(features, validation=held_out, retain=others, progress=progress(), **settings)
    written = result.worthwhile or anyway
    if written:
        result.alignment.save_pretrained(out)
    show_either(as_json, {"written": str(out) if written else None, **result.to_json()}, str(result))
    if plot:
        result.plot(plot)
    if html:
        result.write_html(html)
    if not written:
        note("No matrix was written. Pass --anyway to write it nevertheless.")
        raise SystemExit(1)
    (note if as_json else show)(f"{out}: {result.alignment}, strength {result.alignment.strength:g}")


def _named(retain: tuple[str, ...]) -> dict[str, Path]:
    """Folders by name."""
    found = {}
    for text in retain:
        name, equals, folder = text.partition("=")
        found[name if equals else Path(text).absolute().name] = Path(folder if equals else text)
    if "" in found or len(found) < len(retain):
        raise ValueError("Each --retain needs a name of its own. Write --retain NAME=FEATURES.")
    return found


def _combinations(features: Path, attributes: str | None, objects: str | None, seed: int) -> Split:
    """The rows of captions some of whose combinations are held out, and those to fit on."""
    if attributes is None or objects is None:
        raise ValueError("--split combinations needs --attributes and --objects, for example red,blue and cube,ball.")
    from labclip.training import find_combinations, split_combinations

    lists = options.words("--attributes", attributes), options.words("--objects", objects)
    with (features / "captions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    named = find_combinations((row["caption"] for row in rows), *lists)
    wrong = find_combinations((" | ".join(filter(None, row["negatives"])) for row in rows), *lists)
    if not any(named):
        raise ValueError(f"No caption names one of --attributes {attributes} and one of --objects {objects}.")
    return split_combinations(named, wrong, share=_HELD_OUT, seed=seed)
