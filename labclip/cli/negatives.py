"""The command that writes hard negatives beside captions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labclip.cli import options
from labclip.cli.group import main, progress, show_either

if TYPE_CHECKING:
    from labclip.negatives import Method


@main.command(example="labclip negatives captions.csv with-negatives.csv --method shuffle --clean")
@click.argument("source", metavar="IN", type=options.FILE)
@click.argument("out", type=options.FILE)
@options.choice("--method", ["swap", "shuffle", "parts"], "How to make them.", required=True)
@options.text("--attributes", "WORDS", "For swap: words with commas between, opposites as left/right; or a file.")
@options.number("--k", int, "Negatives per caption.", default=1)
@options.number("--seed", options.SEED, "Seed of the choice.", default=0)
@options.column
@options.text("--image-column", "NAME", "Column that says which captions share an image. [default: as in embed]")
@options.text("--tagger", "NAME", "For shuffle and parts: hanta or spacy. [default: hanta]")
@options.flag("--clean", "Also clean the captions, so that negatives do not differ by their lack of a full stop.")
@options.flag("--force", "Overwrite OUT, which may be IN itself.")
@options.as_json
def negatives(
    source: Path, out: Path, method: str, attributes: str | None, tagger: str | None, as_json: bool, **settings: Any
) -> None:
    """Add hard negatives to captions.

    Rows and columns stay; a column `negative` is added, empty where no different caption exists, and for more than one
    `negative_2` and so on. IN is a tsv, csv, jsonl, json, parquet or txt file, OUT a tsv, csv, jsonl or parquet file.

    swap: two attributes of a caption are swapped, or a relation is replaced by its opposite. shuffle, as in the paper:
    the caption is cleaned, then its nouns are permuted, and its adjectives. parts: phrases such as "a red shirt", each
    with a wrong one, and keywords, in the columns `parts`, `part_negatives`, `part_kinds` and `keywords`, each a list.
    """
    from labclip.negatives import add, add_parts

    if method == "parts":
        if attributes is not None or settings.pop("k") != 1 or settings.pop("clean"):
            raise ValueError("--attributes, --k and --clean go with the methods swap and shuffle.")
        counts = add_parts(source, out, tagger=tagger, progress=progress(), **settings)
        without = counts.captions - counts.with_negative
        said = f"{out}: {counts.negatives} parts of {counts.with_negative} captions, none of {without}"
        show_either(as_json, {"out": str(out), **asdict(counts)}, said)
        return
    counts = add(source, out, _method(method, attributes, tagger), progress=progress(), **settings)
    without = counts.captions - counts.with_negative
    same = f"; {counts.same_meaning} that mean the same left out" if counts.same_meaning else ""
    said = f"{out}: {counts.negatives} negatives for {counts.with_negative} captions, none for {without}{same}"
    show_either(as_json, {"out": str(out), **asdict(counts)}, said)


def _method(name: str, attributes: str | None, tagger: str | None) -> Method:
    from labclip.negatives import Shuffler, Swapper

    if (attributes if name == "shuffle" else tagger) is not None:
        raise ValueError("--attributes goes with --method swap, and --tagger goes with the methods shuffle and parts.")
    if name == "shuffle":
        return Shuffler(tagger)
    if attributes is None:
        raise ValueError("--method swap needs --attributes, for example red,green,blue,left/right or a file.")
    pairs = ((word, *word.partition("/")) for word in options.words("--attributes", attributes))
    return Swapper([(one, other) if slash else word for word, one, slash, other in pairs])
