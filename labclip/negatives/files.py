"""Read and write files of captions with their negatives."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from labclip.checks import checked_integer
from labclip.data.cleaning import clean as clean_caption
from labclip.data.cleaning import comparable, true_captions
from labclip.data.items import CAPTIONS, PARTS, Item, read_items
from labclip.data.rows import column_names
from labclip.data.writing import WRITABLE, write_with_columns
from labclip.files import atomic_file, check_file
from labclip.negatives.choosing import MOST, Method, negatives_of
from labclip.negatives.phrases import parts_and_keywords
from labclip.negatives.taggers import AnyTagger, get_tagger

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """What a file got: rows, rows with a negative, negatives; and candidates left out, as they mean the same."""

    captions: int
    with_negative: int
    negatives: int
    same_meaning: int = 0


def read(
    path: str | Path,
    *,
    column: str | None = None,
    negative_column: str | None = None,
    image_column: str | None = None,
    clean: bool = False,
) -> list[Item]:
    r"""Read captions with their negatives from any file of captions.

    A negative is left out if it repeats, or equals its caption or another caption of the same image. Texts that differ
    only in case, punctuation, or "a" and "an" are equal. All rows are held in memory.

    >>> _ = Path("mine.csv").write_text("image,caption,negative\n1.jpg,a dog on a bed,a bed on a dog\n")
    >>> [(item.image.name, item.captions, item.negatives) for item in read("mine.csv")]
    [('1.jpg', ('a dog on a bed',), (('a bed on a dog',),))]

    Args:
        path: A file of captions in any format that `labclip.embed` reads.
        column: The column of captions. [default: caption, title, captions, sentences or text]
        negative_column: The column of negatives, each cell a text or a list of texts. [default: all that exist of
            negative, negative_2 ..., negatives, neg_caption, negative_caption]
        image_column: The column that identifies the image. [default: as in `labclip.embed`]
        clean: Whether to clean captions and negatives as ARO does, to 40 words. Shuffled negatives are cleaned: next to
            an uncleaned caption, a fit can learn to tell the two by the full stop.

    Returns:
        One item per row, in the file's order, without the rows that have no caption.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is malformed or lacks a column.
    """
    rows = read_items(
        path, column=column, image_column=image_column, require_image=False, clean=clean,
        negative_columns=[negative_column] if negative_column else None,
    )  # fmt: skip
    items, n_dropped = [item.checked() for item in rows if not item.empty], 0
    true_of_images = true_captions(*_images_and_captions(items))
    for index, item in enumerate(items):
        kept = []
        for negatives in item.negatives:
            by_form: dict[str, str] = {}
            for text in negatives:
                if (item.image_key, form := comparable(text)) not in true_of_images:
                    by_form.setdefault(form, text)
            kept.append(tuple(by_form.values()))
            n_dropped += len(negatives) - len(by_form)
        items[index] = replace(item, negatives=tuple(kept))
    if n_dropped:
        _logger.info("%s: left out %d negatives that repeat or are true of their image", path, n_dropped)
    return items


def add(
    path: str | Path,
    out: str | Path,
    method: Method,
    *,
    k: int = 1,
    seed: int = 0,
    column: str | None = None,
    image_column: str | None = None,
    clean: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Counts:
    """Copy a file of captions and add columns of negatives: `negative`, `negative_2` and so on.

    Captions and negatives are held in memory; if another format becomes Parquet, all columns are. `out` is written
    completely or not at all.

    Args:
        path: A csv, tsv, jsonl, json, Parquet or txt file with one caption per row.
        out: A .tsv, .csv, .jsonl or .parquet file.
        method: A `Shuffler`, a `Swapper`, or your own function, as in `generate`.
        k: Number of distinct negatives per caption. If fewer exist, cells stay empty.
        seed: Seed of the random choices.
        column: The column of captions; by default as in `read`.
        image_column: The column that identifies the image (its captions are never negatives); by default as in `read`.
        clean: Whether to clean the captions too as ARO does, to the number of words that negatives keep.
        force: Whether to overwrite `out`, which may be `path` itself.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The numbers of captions and negatives.

    Raises:
        FileNotFoundError: If there is no such file, or no folder to write to.
        ValueError: If the input is malformed, lacks a column, or already has one of the added columns; if `out` exists.
    """
    path, out = Path(path), Path(out)
    checked_integer("k", k, least=1, most=MOST)
    names = ["negative", *(f"negative_{number}" for number in range(2, k + 1))]
    caption_column, captions, images = _read_captions(path, out, names, column, image_column, force=force)
    negatives, same_meaning = negatives_of(captions, method, images, k=k, seed=seed, progress=progress)
    new = {name: [texts[n] if n < len(texts) else None for texts in negatives] for n, name in enumerate(names)}
    if clean:
        max_words = getattr(method, "max_words", None)
        new |= {caption_column: [clean_caption(text, max_words) if text else None for text in captions]}
    with atomic_file(out) as part:
        write_with_columns(path, part, new)
    return Counts(len(captions), sum(map(bool, negatives)), sum(map(len, negatives)), same_meaning)


def add_parts(
    path: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    tagger: AnyTagger = None,
    column: str | None = None,
    image_column: str | None = None,
    force: bool = False,
    progress: bool = False,
) -> Counts:
    """Copy a file of captions and add columns with their parts and keywords.

    The columns are `parts`, `part_negatives` and `part_kinds`, whose lists have the same length in each row, and
    `keywords`. In csv and tsv files, lists are JSON arrays. `out` is written completely or not at all.

    Args:
        path: A csv, tsv, jsonl, json, Parquet or txt file with one caption per row.
        out: A .tsv, .csv, .jsonl or .parquet file.
        seed: Seed of the choice among several wrong modifiers.
        tagger: As in `parts`.
        column: The column of captions; by default as in `read`.
        image_column: As in `add`.
        force: Whether to overwrite `out`, which may be `path` itself.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The numbers of captions and parts; each part has one negative.

    Raises:
        FileNotFoundError: As in `add`.
        MissingPackageError: If the tagger is not installed.
        ValueError: As in `add`.
    """
    path, out, tag = Path(path), Path(out), get_tagger(tagger)
    _, captions, images = _read_captions(path, out, PARTS, column, image_column, force=force)
    rows = parts_and_keywords(captions, images, seed, tag, progress=progress)
    new: dict[str, list[Any]] = {
        name: [[part[field] for part in parts] for parts, _ in rows] for field, name in enumerate(PARTS[:3])
    }
    new["keywords"] = [words for _, words in rows]
    with atomic_file(out) as part:
        write_with_columns(path, part, new)
    return Counts(len(captions), sum(bool(parts) for parts, _ in rows), sum(len(parts) for parts, _ in rows))


def with_parts(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with parts and keywords added to those that have neither. All items are held in memory."""
    items = list(items)
    images, captions = _images_and_captions(items)
    rows = iter(parts_and_keywords(captions, images, 0, get_tagger(None)))
    for item in items:
        rows_of_item = list(islice(rows, len(item.captions)))
        if not item.parts and not item.keywords:
            parts = tuple(part for parts, _ in rows_of_item for part in parts)
            keywords = tuple(dict.fromkeys(word for _, words in rows_of_item for word in words))
            item = replace(item, parts=parts, keywords=keywords)
        yield item


def _images_and_captions(items: Sequence[Item]) -> tuple[list[bytes | str], list[str]]:
    """For every caption of the items, the key of its image, and the caption."""
    images = [item.image_key for item in items for _ in item.captions]
    return images, [caption for item in items for caption in item.captions]


def _read_captions(
    path: Path, out: Path, new_names: Sequence[str], column: str | None, image_column: str | None, *, force: bool
) -> tuple[str, list[str], list[bytes | str]]:
    """Check the paths and columns; return the column of captions, each row's caption or "", and its image's key."""
    if path.is_dir() or path.suffix.lower() == ".tar":
        raise ValueError(f"{path} is not a table. Pass one csv, tsv, jsonl, json, Parquet or txt file.")
    if out.suffix.lower() not in WRITABLE:
        raise ValueError(f"{out} ends in {out.suffix!r}. Negatives are written as {', '.join(WRITABLE)}.")
    check_file(out)
    if out.exists() and not force:
        raise ValueError(f"{out} already exists. Pass another file, or force=True to overwrite it.")
    names = column_names(path)
    for name in new_names:
        if name in names:
            raise ValueError(f"{path.name} already has a column {name!r}. Rename or remove it.")
    column = column or next((name for name in CAPTIONS if name in names), None)
    captions: list[str] = []
    images: list[bytes | str] = []
    for item in read_items(
        path, column=column, image_column=image_column, negative_columns=(), require_image=False, clean=False
    ):
        if not item.empty and len(item.checked().captions) > 1:
            raise ValueError(f"{item.location} has {len(item.captions)} captions. Write one caption per row.")
        captions.append("" if item.empty else item.captions[0])
        images.append(item.image_key)
    if not captions:
        raise ValueError(f"{path} has no captions.")
    return str(column), captions, images
