"""The command fit: fits a matrix on a feature folder, or on a captions file, which it embeds first."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labclip.cli import options
from labclip.cli.embed import describe_features
from labclip.cli.files import ALIGNMENT_FILES, check_empty, check_inputs, check_outputs
from labclip.cli.group import main, note, open_model, progress, show, show_either
from labclip.files import MANIFEST, UNFINISHED, check_embed_target, check_feature_folder, check_folder
from labclip.packages import MissingPackageError

if TYPE_CHECKING:
    from labclip.data import Item
    from labclip.training import Split

_HELD_OUT = 0.05  # fraction of the combinations; a caption with two attributes and two objects has four
_FIRST_ROWS = 200  # rows of a captions file that are read before a model is loaded
_MIN_PARTS = 0.01  # fraction of these rows with parts; in English about a third of the captions have some


@main.command(
    example="labclip fit captions.csv my-alignment --model ViT-B-32 --images photos",
    interrupted="Embeddings are kept. The fit continues with --checkpoint DIR, and starts from scratch without it.",
)
@click.argument("features", metavar="DATA", type=options.FILE)
@click.argument("out", type=options.FILE)
@options.text("--model", "M", f"With a captions file, the base. {options.MODEL}", type=options.NAME)
@options.text("--images", "DIR", "With a captions file: folder or URL that image paths are relative to. [default: the "
              "folder of the file]")  # fmt: skip
@options.flag("--no-parts", 'With a captions file: make no parts ("a red shirt") and keywords of the captions.')
@options.path("--validation", "FEATURES", "Held-out feature folder, of other images.")
@options.choice(
    "--split", ["images", "combinations"], "What is held out without --validation: a tenth of the images, or "
    "combinations of attribute and object, kept out of captions and negatives.", default="images",
)  # fmt: skip
@options.text("--attributes", "WORDS", "For --split combinations: words separated by commas, or a file, one per line.")
@options.text("--objects", "WORDS", "For --split combinations, in the form of --attributes.")
@options.text(
    "*--retain", "[NAME=]FEATURES", "Feature folder of another domain whose retrieval must not suffer; may be given "
    "again. [default name: the folder's]",
)  # fmt: skip
@options.number(
    "--keep",
    click.FloatRange(0, 1, min_open=True),
    "Fraction of the base's R@1 to keep; with less, binding improves more.",
    default=0.99,
)
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
@options.choice("--objective", ["softmax", "sigmoid"], "CLIP's loss or SigLIP's. [default: the base's]")
@options.number("--seed", options.SEED, "Seed of split, order and negatives.", default=0)
@options.text("--device", "D", "cpu, cuda, mps. [default: cpu; to embed, cuda if available]")
@options.path("--checkpoint", "DIR", "Folder of checkpoints, to continue an interrupted fit.")
@options.path("--plot", "FILE", "Figure of gains and costs.")
@options.path("--html", "FILE", "Write the whole report as one HTML page.")
@options.force
@options.flag("--anyway", "Write the matrix even if the fit does not help.")
@options.as_json
def fit(
    features: Path, out: Path, model: str | None, images: str | None, no_parts: bool, validation: Path | None,
    split: str, attributes: str | None, objects: str | None, retain: tuple[str, ...], plot: Path | None,
    html: Path | None, force: bool, anyway: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Fit a matrix on a captions file or a feature folder.

    DATA is a captions file as in `labclip embed --captions`, or a feature folder. A captions file is embedded first,
    into the folder OUT-features, which is kept; parts and keywords are made if the file has none and their tagger is
    installed. Writes the alignment folder OUT. If the fit does not help, it says why, writes nothing and exits with
    code 1.
    """
    is_embedded = any((features / name).exists() for name in (MANIFEST, UNFINISHED))
    retained, checkpoint = _by_name(retain), settings["checkpoint"]
    other_folders = [*([validation] if validation else []), *retained.values()]
    inputs = [features, *other_folders, *([checkpoint] if checkpoint else [])]
    check_empty(out, force, writes=ALIGNMENT_FILES, inputs=inputs)
    check_outputs(page=html, figure=plot, inputs=[*inputs, out])
    if is_embedded and (model or images or no_parts):
        raise ValueError(f"{features} is a feature folder. Leave out --model, --images and --no-parts.")
    if not is_embedded and not model:
        raise ValueError(
            f"{features} is not a feature folder. If it is a captions file, also pass the base that embeds it, for "
            f"example --model ViT-B-32."
        )
    for folder in [*([features] if is_embedded else []), *other_folders]:
        check_feature_folder(folder)
    if checkpoint:
        check_folder(checkpoint)
    words = _combination_words(split, attributes, objects, validation)
    if model:
        features = _embed(features, out, model, images, parts=not no_parts, others=other_folders, settings=settings)
    held_out = validation if words is None else _hold_out_combinations(features, *words, settings["seed"])
    from labclip.training import fit as fit_matrix

    result = fit_matrix(features, validation=held_out, retain=retained, progress=progress(), **settings)
    is_written = result.worthwhile or anyway
    if is_written:
        result.alignment.save_pretrained(out)
    value = {"written": str(out) if is_written else None, "features": str(features), **result.to_json()}
    show_either(as_json, value, str(result))
    if plot:
        result.plot(plot)
    if html:
        result.write_html(html)
    if not is_written:
        note("No matrix was written. Pass --anyway to write it nevertheless.")
        raise SystemExit(1)
    (note if as_json else show)(f"{out}: {result.alignment}, strength {result.alignment.strength:g}")


def _embed(
    captions: Path, out: Path, model: str, images: str | None, *, parts: bool, others: Iterable[Path],
    settings: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Embed a captions file into the folder OUT-features, unless this is done already; return the folder."""
    folder = (out if out.name else out.absolute()).with_name(f"{out.absolute().name}-features")
    check_inputs(images)
    command = ["labclip", "embed", "--model", model, "--captions", str(captions), str(folder)]
    command += ["--images", images] if images else []
    fit_command = shlex.join(["labclip", "fit", str(folder), str(out)])
    from labclip.data import read_items

    with _advise_embed(command, fit_command):
        check_embed_target(folder)
        items = read_items(str(captions), images=images)
        first_items = list(islice(items, _FIRST_ROWS))
    parts = _makes_parts(captions, first_items, items, parts=parts, settings=settings)
    note(f"The features are kept in {folder}. To fit again with other settings: labclip fit {folder} OUT")
    from labclip.features import Features, embed

    base = open_model(model, settings["device"])
    for other in others:
        Features.load(other, base=base)
    with _advise_embed([*command, *(["--parts"] if parts else [])], fit_command):
        features = embed(base, str(captions), folder, images=images, parts=parts, progress=progress())
    note(describe_features(features, folder))
    return folder


@contextmanager
def _advise_embed(command: Sequence[str], fit_command: str) -> Iterator[None]:
    """Add to an error that advises options of `labclip embed` how to use them, as `labclip fit` has few of them."""
    try:
        yield
    except ValueError as error:
        message = options.with_options(str(error), "embed", main.commands)
        if message != options.with_options(str(error), "fit", main.commands) or "--force" in message:
            message += f" To embed with other options, type: {shlex.join(command)} OPTIONS, then: {fit_command}"
        raise ValueError(message) from error


def _makes_parts(
    captions: Path, first_items: Sequence[Item], rest: Iterator[Item], *, parts: bool, settings: Mapping[str, Any]
) -> bool:
    """Whether to make parts of a captions file, which is noted. ValueError if a fit would have nothing to learn."""
    from labclip.negatives.files import with_parts
    from labclip.training.recipes import CHANGES, settings_of

    recipe = settings_of(settings["recipe"], **{name: settings[name] for name in CHANGES})
    if parts := parts and not recipe.published:
        try:
            count, n_rows = sum(bool(item.parts) for item in with_parts(first_items)), len(first_items)
            parts = count >= _MIN_PARTS * n_rows
            reason = f'{count} of the first {n_rows} rows have a part ("a red shirt"). Parts need English captions.'
        except MissingPackageError as error:
            parts, reason = False, str(error)
        note("Parts and keywords are made of captions that have none (--no-parts leaves them out)." if parts
             else f"No parts and keywords are made: {reason}")  # fmt: skip
    if recipe.hard_negatives and not any(any(item.negatives) for item in first_items):
        advice = f"To make some: labclip negatives {captions} OUT --method shuffle --clean"
        if not parts and not any(item.parts or any(item.negatives) for item in chain(first_items, rest)):
            raise ValueError(f"{captions} has no negatives and no parts, so a fit has nothing to learn. {advice}")
        note(f"{captions} has no negatives in its first {len(first_items)} rows. {advice}")
    return parts


def _by_name(retain: tuple[str, ...]) -> dict[str, Path]:
    """The folders of --retain by name."""
    folders = {}
    for text in retain:
        name, equals, folder = text.partition("=")
        folders[name if equals else Path(text).absolute().name] = Path(folder if equals else text)
    if "" in folders or len(folders) < len(retain):
        raise ValueError("Each --retain needs a name of its own. Write --retain NAME=FEATURES.")
    return folders


def _combination_words(
    split: str, attributes: str | None, objects: str | None, validation: Path | None
) -> tuple[list[str], list[str]] | None:
    """The attributes and objects whose combinations are held out; None if images are held out."""
    if split == "images" and (attributes or objects):
        raise ValueError("--attributes and --objects go with --split combinations.")
    if split == "images":
        return None
    if validation is not None:
        raise ValueError("--split and --validation both say what is held out. Pass one of them.")
    if attributes is None or objects is None:
        raise ValueError("--split combinations needs --attributes and --objects, for example red,blue and cube,ball.")
    return options.words("--attributes", attributes), options.words("--objects", objects)


def _hold_out_combinations(features: Path, attributes: list[str], objects: list[str], seed: int) -> Split:
    """Split the rows of a feature folder so that some combinations are held out."""
    from labclip.training import find_combinations, split_combinations

    with (features / "captions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    captions = find_combinations((row["caption"] for row in rows), attributes, objects)
    negatives = find_combinations((" | ".join(filter(None, row["negatives"])) for row in rows), attributes, objects)
    if not any(captions):
        words = f"--attributes {','.join(attributes)} and one of --objects {','.join(objects)}"
        raise ValueError(f"No caption has one of {words}.")
    return split_combinations(captions, negatives, share=_HELD_OUT, seed=seed)
