"""The commands negatives and embed: they add hard negatives to captions, and write feature folders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labclip.cli import options
from labclip.cli.files import check_inputs
from labclip.cli.group import main, note, open_model, progress, show, show_either
from labclip.files import check_embed_target

if TYPE_CHECKING:
    from labclip.features import Features


@main.command(example="labclip negatives captions.csv with-negatives.csv --method shuffle --clean")
@click.argument("source", metavar="IN", type=options.FILE)
@click.argument("out", type=options.FILE)
@options.choice("--method", ["swap", "shuffle", "parts"], "How to make them.", required=True)
@options.text("--attributes", "WORDS", "For swap: words separated by commas, opposites as left/right; or a file.")
@options.number("--k", int, "Negatives per caption.", default=1)
@options.number("--seed", options.SEED, "Seed of the random choices.", default=0)
@options.column
@options.text("--image-column", "NAME", "Column that identifies the image of a caption. [default: as in embed]")
@options.text("--tagger", "NAME", "For shuffle and parts: hanta or spacy. [default: hanta]")
@options.flag("--clean", "Clean the captions too, which otherwise differ from negatives by their full stop.")
@options.flag("--force", "Overwrite OUT, which may be IN itself.")
@options.as_json
def negatives(
    source: Path, out: Path, method: str, attributes: str | None, tagger: str | None, as_json: bool, **settings: Any
) -> None:
    """Add hard negatives to captions.

    Rows and columns stay. A column `negative` is added (with --k also `negative_2` and so on); a cell is empty if there
    is no different caption. IN is a tsv, csv, jsonl, json, parquet or txt file, OUT a tsv, csv, jsonl or parquet file.

    swap: two attributes of a caption are swapped, or a relation is replaced by its opposite. shuffle, as in the paper:
    the caption is cleaned, then its nouns are permuted, and its adjectives. parts: phrases such as "a red shirt", each
    with a wrong version, and keywords. The columns are `parts`, `part_negatives`, `part_kinds` and `keywords`, each a
    list.
    """
    if (method == "swap") != (attributes is not None):
        raise ValueError(
            "--method swap needs --attributes, such as red,blue,left/right or a file; the others take none."
        )
    if method == "swap" and tagger is not None:
        raise ValueError("--tagger goes with the methods shuffle and parts.")
    check_inputs(source)
    from labclip.negatives import Shuffler, Swapper, add, add_parts

    if method == "parts":
        if settings.pop("k") != 1 or settings.pop("clean"):
            raise ValueError("--k and --clean go with the methods swap and shuffle.")
        counts = add_parts(source, out, tagger=tagger, progress=progress(), **settings)
    else:
        maker: Shuffler | Swapper = Shuffler(tagger)
        if attributes is not None:
            pairs = (word.split("/") for word in options.words("--attributes", attributes))
            maker = Swapper([(pair[0], pair[1]) if len(pair) == 2 else "/".join(pair) for pair in pairs])
        counts = add(source, out, maker, progress=progress(), **settings)
    noun, without = "parts" if method == "parts" else "negatives", counts.captions - counts.with_negative
    left_out = f"; {counts.same_meaning} that mean the same left out" if counts.same_meaning else ""
    line = f"{out}: {counts.negatives} {noun} for {counts.with_negative} captions, none for {without}{left_out}"
    show_either(as_json, {"out": str(out), **asdict(counts)}, line)


def _verify(context: click.Context, _: click.Parameter, is_set: bool) -> None:
    """Check the folder OUT and exit; the other options are ignored."""
    if not is_set or context.resilient_parsing:
        return
    from labclip.features import Features

    Features.load(context.params["out"], verify=True)
    show(f"{context.params['out']}: no byte has changed")
    context.exit()


@main.command(
    example="labclip embed --model ViT-B-32 --captions captions.csv --images photos features",
    interrupted="Embeddings are kept, and the same command continues from there.",
)
@click.argument("out", type=options.FILE, is_eager=True)
@options.model
@options.text(
    "*--captions", "FILE", "csv, tsv, jsonl, json, parquet, WebDataset tar, a pattern or a folder of these; may be "
    "given again.", required=True,
)  # fmt: skip
@options.text("--images", "DIR", "Folder or URL that image paths are relative to. [default: the folder of FILE]")
@options.column
@options.text(
    "--image-column", "NAME", "Column of the images. [default: image, filename, filepath, image_path or file_name]"
)
@options.text(
    "*--negative-column negative_columns", "NAME", "Column of hard negatives; may be given again. [default: all that "
    "exist of negative, negative_2, ..., negatives, neg_caption and negative_caption]",
)  # fmt: skip
@options.text(
    "*--negative-images", "COLUMN", "Column of images that the negatives describe; may be given again, for the next "
    "column of negatives.",
)  # fmt: skip
@options.text("*--split", "NAME", "Use only rows with this value in the column `split`.")
@click.option(
    "--clean/--as-is", default=None, help="Clean captions and negatives (lower case, little punctuation, 40 words), or "
    "leave them as they are. [default: as they are, but stop if raw captions have cleaned, shuffled negatives]",
)  # fmt: skip
@options.flag("--parts", 'Make parts of captions ("a red shirt") and keywords for the fit, for rows without them.')
@options.choice("--on-error", ["raise", "skip"], "Stop at a row that can't be used, or leave it out.", default="raise")
@options.batch_size
@options.workers
@options.engine
@options.ignore_exif
@options.device
@options.precision
@options.flag("--force", "Start from scratch if OUT has other features.")
@options.flag("--verify", "Only check every byte of the finished folder OUT.", expose_value=False, callback=_verify)
@options.as_json
def embed(
    out: Path, model: str, captions: tuple[str, ...], device: str | None, precision: str, ignore_exif: bool,
    as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Embed images and captions for `labclip fit`.

    Writes the feature folder OUT. An interrupted run continues when started again. Each image is encoded once, however
    many captions it has.
    """
    from labclip.data.items import read_items
    from labclip.data.rows import find_inputs

    check_embed_target(out, force=settings["force"])
    check_inputs(settings["images"])
    settings = {name: value for name, value in settings.items() if value != ()}  # () is an option not given
    names = ("column", "image_column", "negative_columns", "negative_images", "images", "clean")
    columns = {name: settings[name] for name in names if name in settings}
    next(read_items(find_inputs(captions)[:1], **columns), None)  # errors before torch and a model are loaded
    from labclip.features import embed as embed_folder

    base = open_model(model, device, precision, ignore_exif=ignore_exif)
    features = embed_folder(base, captions, out, progress=progress(), **settings)
    manifest = features.manifest
    value = {"folder": str(out), "base": manifest["base"], **manifest["counts"], "skipped": manifest["skipped"]}
    show_either(as_json, value, describe_features(features, out))


def describe_features(features: Features, folder: Path) -> str:
    """Note what was left out of a feature folder, and return a line on what it holds."""
    counts, skipped = features.manifest["counts"], features.manifest["skipped"]
    for item in skipped[:5]:
        name = f" ({item['image']})" if item["image"] else ""
        note(f"Left out: {item['where']}{name} {item['reason']}")
    if len(skipped) > 5:
        note(f"Left out: {len(skipped) - 5} more, all listed in {folder / 'manifest.json'}")
    if counts.get("true_negatives"):
        note(f"Not counted: {counts['true_negatives']:,} negatives that equal a caption of their image")
    nouns = {"parts": "parts", "keywords": "lists of keywords"}
    phrases = "".join(f"{counts[kind]:,} {noun}, " for kind, noun in nouns.items() if counts.get(kind))
    return (
        f"{folder}: {counts['images']:,} images, {counts['captions']:,} captions, "
        f"{counts['captions_with_negative']:,} of them with negatives, {phrases}{len(skipped):,} items left out; "
        f"embedded by {features.base or 'a base without a name'}"
    )
