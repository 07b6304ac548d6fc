"""Captions with their negatives from and to files."""

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
    """Counts of `add`: rows, rows with a negative, negatives, and those left out because they mean the same."""

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
    r"""Read captions with their negatives, from any file of captions.

    A negative equal to its caption, or to another true caption of the same image, is left out, and so is one that
    repeats. Equal is what differs only in case, punctuation or "a" and "an". All rows are held in memory.

    >>> _ = Path("mine.csv").write_text("image,caption,negative\n1.jpg,a dog on a bed,a bed on a dog\n")
    >>> [(item.image.name, item.captions, item.negatives) for item in read("mine.csv")]
    [('1.jpg', ('a dog on a bed',), (('a bed on a dog',),))]

    Args:
        path: A file of captions, as `labclip.embed` takes it.
        column: The captions' column. [default: caption, title, captions, sentences or text]
        negative_column: The negatives' column, one text a cell or a list of them. [default: all of negative,
            negative_2 ..., negatives, neg_caption, negative_caption that there are]
        image_column: The column that says which image is described. [default: as in `labclip.embed`]
        clean: Whether to clean captions and negatives alike as ARO does, to 40 words. Shuffled negatives are cleaned;
            beside an uncleaned caption, a fit can learn to tell the two by their full stop.

    Returns:
        An item a row, in the file's order; rows without a caption are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is malformed or has no such column.
    """
    rows = read_items(
        path, column=column, image_column=image_column, require_image=False, clean=clean,
        negative_columns=[negative_column] if negative_column else None,
    )  # fmt: skip
    items, dropped = [item.checked() for item in rows if not item.empty], 0
    known = true_captions(*_texts(items))
    for index, item in enumerate(items):
        kept, own = [], set(map(comparable, item.captions))
        for negatives in item.negatives:
            wrong: dict[str, str] = {}
            for text in negatives:
                key = comparable(text)
                if key not in own and (item.image and item.image.key, key) not in known:
                    wrong.setdefault(key, text)
            kept.append(tuple(wrong.values()))
            dropped += len(negatives) - len(wrong)
        items[index] = replace(item, negatives=tuple(kept))
    if dropped:
        _logger.info("%s: left out %d negatives that repeat or are true of their image", path, dropped)
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
    """Write a file's rows and columns with its captions' negatives added: `negative`, `negative_2` and so on.

    Captions and negatives are held in memory; all columns are where another file becomes Parquet. `out` appears whole
    or not at all.

    Args:
        path: A csv, tsv, jsonl, json, Parquet or txt file with one caption a row.
        out: A .tsv, .csv, .jsonl or .parquet file.
        method: A `Shuffler`, a `Swapper`, or one's own, as `generate` takes it.
        k: Number of distinct negatives per caption; where fewer exist, cells stay empty.
        seed: Seed of the choice.
        column: The captions' column, as `read` finds it.
        image_column: The images' column, as `read` finds it. A true caption of the same image is no negative.
        clean: Whether to write the captions cleaned as ARO does, to as many words as negatives keep.
        force: Whether to overwrite `out`, which may be `path` itself.
        progress: Whether to show a bar on stderr.

    Raises:
        FileNotFoundError: If there is no such file, or no folder to write to.
        ValueError: If the input is malformed, lacks the column, or has one that is added; if `out` exists.
    """
    path, out = Path(path), Path(out)
    checked_integer("k", k, least=1, most=MOST)
    names = ["negative", *(f"negative_{number}" for number in range(2, k + 1))]
    caption, captions, images = _captions(path, out, names, column, image_column, force=force)
    negatives, same_meaning = negatives_of(captions, method, images, k=k, seed=seed, progress=progress)
    new = {name: [several[n] if n < len(several) else None for several in negatives] for n, name in enumerate(names)}
    if clean:
        words = getattr(method, "max_words", None)
        new |= {caption: [clean_caption(text, words) if text else None for text in captions]}
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
    """Write a file's rows and columns with the parts and keywords of its captions added.

    The columns are `parts`, `part_negatives` and `part_kinds`, in each row lists of one length, and `keywords`. Lists
    are JSON arrays in csv and tsv files. `out` appears whole or not at all.

    Args:
        path: A csv, tsv, jsonl, json, Parquet or txt file with one caption a row.
        out: A .tsv, .csv, .jsonl or .parquet file.
        seed: Seed of which modifier is taken where there are several.
        tagger: As in `parts`.
        column: The captions' column, as `read` finds it.
        image_column: The images' column, as `read` finds it. What a caption of the same image says is no wrong part.
        force: Whether to overwrite `out`, which may be `path` itself.
        progress: Whether to show a bar on stderr.

    Returns:
        Counts in which each part is a negative.

    Raises:
        FileNotFoundError: As in `add`.
        MissingPackageError: If the tagger is not installed.
        ValueError: If the input is malformed, lacks the column, or has one of those that are added; if `out` exists.
    """
    path, out, tag = Path(path), Path(out), get_tagger(tagger)
    _, captions, images = _captions(path, out, PARTS, column, image_column, force=force)
    phrases = parts_and_keywords(captions, images, seed, tag, progress=progress)
    new: dict[str, list[Any]] = {
        name: [[part[at] for part in parts] for parts, _ in phrases] for at, name in enumerate(PARTS[:3])
    }
    new["keywords"] = [words for _, words in phrases]
    with atomic_file(out) as part:
        write_with_columns(path, part, new)
    return Counts(len(captions), sum(bool(parts) for parts, _ in phrases), sum(len(parts) for parts, _ in phrases))


def with_parts(items: Iterable[Item], *, seed: int = 0, tagger: AnyTagger = None) -> Iterator[Item]:
    """Items with the parts and keywords of their captions; those that have some keep them. All are held in memory."""
    items = list(items)
    images, captions = _texts(items)
    phrases = iter(parts_and_keywords(captions, images, seed, get_tagger(tagger)))
    for item in items:
        own = list(islice(phrases, len(item.captions)))
        if not item.parts and not item.keywords:
            words = dict.fromkeys(word for _, several in own for word in several)
            item = replace(item, parts=tuple(part for parts, _ in own for part in parts), keywords=tuple(words))
        yield item


def _texts(items: Sequence[Item]) -> tuple[list[bytes | None], list[str]]:
    """A key for the image of each caption, None where there is none, and the captions."""
    images = [item.image.key if item.image else None for item in items for _ in item.captions]
    return images, [caption for item in items for caption in item.captions]


def _captions(
    path: Path, out: Path, names: Sequence[str], column: str | None, image_column: str | None, *, force: bool
) -> tuple[str, list[str], list[bytes | None]]:
    """The captions' column, the caption of each row, "" where it has none, and what identifies its image."""
    if path.is_dir() or path.suffix.lower() == ".tar":
        raise ValueError(f"{path} is not a table. Pass one csv, tsv, jsonl, json, Parquet or txt file.")
    if out.suffix.lower() not in WRITABLE:
        raise ValueError(f"{out} ends in {out.suffix!r}. Negatives are written as {', '.join(WRITABLE)}.")
    check_file(out)
    if out.exists() and not force:
        raise ValueError(f"{out} exists already. Name another file, or pass force=True to overwrite it.")
    known = column_names(path)
    if clash := [name for name in names if name in known]:
        raise ValueError(f"{path.name} has a column {clash[0]!r} already. Rename it, or start without it.")
    column = column or next((name for name in CAPTIONS if name in known), None)
    captions: list[str] = []
    images: list[bytes | None] = []
    for item in read_items(
        path, column=column, image_column=image_column, negative_columns=(), require_image=False, clean=False
    ):
        if not item.empty and len(item.checked().captions) > 1:
            raise ValueError(f"{item.location} has {len(item.captions)} captions. Write a row for each.")
        captions.append("" if item.empty else item.captions[0])
        images.append(item.image.key if item.image else None)
    if not captions:
        raise ValueError(f"{path} holds no captions.")
    return str(column), captions, images
