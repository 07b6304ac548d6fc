"""Captions with their negatives from and to files."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from labclip.data.formats import kind_of, open_sink, open_source, writable
from labclip.data.tables import Source
from labclip.negatives.choosing import Method, TrueCaptions, check_k, choose
from labclip.negatives.cleaning import clean as clean_caption
from labclip.negatives.cleaning import comparable

_CAPTION = ("caption", "title")
_IMAGE = ("image", "filepath", "image_path", "filename", "file_name", "image_id", "url")
_NEGATIVE = re.compile(r"negative(_\d+)?|negatives|neg_caption|negative_caption")
_LISTS = ("negatives", "neg_caption")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captioned:
    """A caption, its hard negatives, and the image it is true of.

    Attributes:
        caption: The caption; empty where the file has none.
        negatives: Its negatives, distinct, often none.
        image: Path, name or number of the image as the file has it, or None.
    """

    caption: str
    negatives: tuple[str, ...] = ()
    image: str | None = None


@dataclass(frozen=True)
class Counts:
    """What `add_negatives` wrote: rows, rows with a negative, and negatives."""

    captions: int
    with_negative: int
    negatives: int


def read(
    path: str | Path,
    *,
    column: str | None = None,
    negative_column: str | None = None,
    image_column: str | None = None,
    clean: bool = False,
) -> Iterator[Captioned]:
    """Read captions with their negatives: NegCLIP's TSV, what `labclip negatives` writes, or one's own.

    The file is gone through twice, first for the captions of each image: a negative equal to its caption, or to
    another true caption of the same image, is left out, and so is one that repeats. Equal is what differs only in
    case, punctuation or "a" and "an".

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.jsonl"
    ...     _ = path.write_text('{"image": "1.jpg", "caption": "a dog on a bed", "negative": "a bed on a dog"}')
    ...     list(read(path))
    [Captioned(caption='a dog on a bed', negatives=('a bed on a dog',), image='1.jpg')]

    Args:
        path: A .tsv, .csv, .jsonl, .parquet or .txt file. Of txt each line is a caption.
        column: The captions' column. [default: caption or title]
        negative_column: The negatives' column, one text a cell or a list of them (in text files a list written as
            Python or JSON write it). [default: all of negative, negative_2 ..., negatives, neg_caption,
            negative_caption that there are]
        image_column: The column that says which image is described. [default: the first there is of image, filepath,
            image_path, filename, file_name, image_id, url]
        clean: Whether to clean captions and negatives alike as ARO does, to 40 words. Shuffled negatives are cleaned;
            beside an uncleaned caption, a fit can learn to tell the two by their full stop.

    Returns:
        One `Captioned` a row, in the file's order, as the file is read.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingPackageError: If it is Parquet and pyarrow is not installed.
        ValueError: If it is empty, malformed or of another format, or has no such column; with the line.
    """
    source = open_source(Path(path))
    caption, image = _caption_column(source, column), _image_column(source, image_column)
    if negative_column is None:
        negatives = [name for name in source.columns if _NEGATIVE.fullmatch(name)]
    else:
        negatives = [_known(source, negative_column, "negative_column= in Python")]
    _, true_captions = _look_through(source, caption, image, 40 if clean else None)
    return _read(source, caption, negatives, image, true_captions, clean)


def _read(
    source: Source, caption: str, negatives: list[str], image: str | None, true_captions: TrueCaptions, clean: bool
) -> Iterator[Captioned]:
    wanted = list(dict.fromkeys([caption, *negatives, *([image] if image else [])]))
    dropped = 0
    for batch in source.batches(wanted, whole=False):
        for row, place in zip(batch.rows, batch.places, strict=True):
            where = f"{source.path}, {place}"
            text, shown = _caption(row, caption, where) or "", _image(row, image, where)
            found = [item for name in negatives for item in _negatives(row.get(name), name, where)]
            if clean:
                text, found = clean_caption(text, 40), [clean_caption(item, 40) for item in found]
            kept = {comparable(item): item for item in reversed(found)}
            kept.pop(comparable(text), None)
            if shown is not None:
                kept = {key: item for key, item in kept.items() if not true_captions.hold(shown, key)}
            dropped += len(found) - len(kept)
            yield Captioned(text, tuple(reversed(kept.values())), shown)
    if dropped:
        _logger.info("%s: left out %d negatives that repeat or are true of their image", source.path, dropped)


def add_negatives(
    path: Path,
    out: Path,
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
    """Write a file's rows and columns with the columns `negative`, `negative_2` ... `negative_k` added.

    Rows are streamed; in memory stay a batch of them and eight bytes a caption that has an image. `out` appears whole
    or not at all.

    Args:
        path: As `read` takes it.
        out: A .tsv, .csv, .jsonl or .parquet file.
        method: A `Shuffler` or `Swapper`.
        k: Negatives a caption, distinct; cells beyond those that exist stay empty.
        seed: Seed of the choice.
        column: The captions' column, as `read` finds it.
        image_column: The images' column, as `read` finds it. A true caption of the same image is no negative.
        clean: Whether to write the captions cleaned as ARO does, to as many words as negatives keep.
        force: Whether to overwrite `out`, which may be `path` itself.
        progress: Whether to show a bar on stderr.

    Raises:
        FileNotFoundError: If there is no such file, or no folder to write to.
        ValueError: If the input is malformed, lacks the column, or has one called `negative`; if `out` exists.
    """
    check_k(k)
    source = open_source(path)
    target = _target(path, out, force=force)
    caption, image = _caption_column(source, column), _image_column(source, image_column)
    names = ["negative", *(f"negative_{number}" for number in range(2, k + 1))]
    _refuse(names, [dict.fromkeys(source.columns)], [str(path)])
    count, true_captions = _look_through(source, caption, image, method.max_words)
    wanted = [caption, *([image] if image and image != caption else [])]
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with_negative = total = 0
    try:
        with (
            closing(open_sink(part, target, source, names)) as sink,
            tqdm(total=count, unit=" captions", disable=not progress) as bar,
        ):
            for batch in source.batches(wanted, whole=True):
                places = [f"{source.path}, {place}" for place in batch.places]
                _refuse(names, batch.rows, places)
                texts = [_caption(row, caption, place) for row, place in zip(batch.rows, places, strict=True)]
                images = [_image(row, image, place) for row, place in zip(batch.rows, places, strict=True)]
                found = [
                    choose(method, text or "", k=k, seed=seed, image=shown, true_captions=true_captions)
                    for text, shown in zip(texts, images, strict=True)
                ]
                added = {
                    name: [negatives[number] if number < len(negatives) else None for negatives in found]
                    for number, name in enumerate(names)
                }
                cleaned = [text and clean_caption(text, method.max_words) for text in texts]
                sink.write(batch, {caption: cleaned} if clean else {}, added)
                with_negative += sum(map(bool, found))
                total += sum(map(len, found))
                bar.update(len(texts))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return Counts(count, with_negative, total)


def _look_through(source: Source, caption: str, image: str | None, max_words: int | None) -> tuple[int, TrueCaptions]:
    """Count the rows and gather what is true of each image, so that a flaw is found before anything is written."""
    true_captions, count = TrueCaptions(), 0
    wanted = [caption, *([image] if image and image != caption else [])]
    # The bar appears only where this takes long enough to wonder.
    with tqdm(unit=" captions", desc=f"Looking through {source.path.name}", delay=5, leave=False) as bar:
        for batch in source.batches(wanted, whole=False):
            for row, place in zip(batch.rows, batch.places, strict=True):
                where = f"{source.path}, {place}"
                text, shown = _caption(row, caption, where), _image(row, image, where)
                if text and shown is not None:
                    true_captions.add(shown, text, max_words)
            count += len(batch.rows)
            bar.update(len(batch.rows))
    if not count:
        raise ValueError(f"{source.path} holds no captions.")
    return count, true_captions


def _target(path: Path, out: Path, *, force: bool) -> Path:
    """Where to write, with links followed, once it is sure that nothing is lost."""
    kind_of(out, writable())
    target = out.resolve()
    if target.is_dir():
        raise ValueError(f"{out} is a folder. Name a file in it.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {out.parent} to write {out.name} to.")
    if target.exists() and not force:
        which = "is the input itself" if target.samefile(path) else "exists already"
        raise ValueError(f"{out} {which}. Name another file, or pass --force to overwrite it.")
    return target


def _known(source: Source, name: str, how: str) -> str:
    if name not in source.columns:
        raise ValueError(f"{source.path} has no column {name!r}. It has {', '.join(source.columns)}. ({how})")
    return name


def _caption_column(source: Source, name: str | None) -> str:
    if name is not None:
        return _known(source, name, "--column, column= in Python")
    found = next((known for known in _CAPTION if known in source.columns), None)
    if found is None:
        raise ValueError(
            f"{source.path} has no column 'caption' or 'title'. It has {', '.join(source.columns) or 'none'}. "
            "Name one with --column (column= in Python)."
        )
    return found


def _image_column(source: Source, name: str | None) -> str | None:
    if name is not None:
        return _known(source, name, "--image-column, image_column= in Python")
    return next((known for known in _IMAGE if known in source.named), None)


def _refuse(names: list[str], rows: list[dict[str, Any]], places: list[str]) -> None:
    """Raise where a row already has a column that is to be added."""
    for row, where in zip(rows, places, strict=True):
        if clash := [name for name in names if name in row]:
            raise ValueError(f"{where}: there is a column {clash[0]!r} already. Rename it, or start without it.")


def _caption(row: dict[str, Any], name: str, where: str) -> str | None:
    if name not in row:
        raise ValueError(f"{where}: no {name!r}. It has {', '.join(row)}.")
    value = row[name]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: the {name} is a {type(value).__name__}, not text.")
    return value


def _image(row: dict[str, Any], name: str | None, where: str) -> str | None:
    value = row.get(name) if name else None
    if value is None or value == "":
        return None
    if not isinstance(value, str | int):
        raise ValueError(f"{where}: the {name} is a {type(value).__name__}, not the name or number of an image.")
    return str(value)


def _negatives(cell: Any, name: str, where: str) -> list[str]:
    """The negatives in a cell: a text, a list of them, or a list written out as NegCLIP does."""
    if isinstance(cell, str) and cell.startswith("["):
        items = _written_out(cell)
        # "[sic] a dog" is a text, except where lists are what stands there.
        cell = [cell] if items is None and name not in _LISTS else items
    elif not cell:
        return []
    items = [cell] if isinstance(cell, str) else cell
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"{where}: the {name} is neither a text nor a list of texts.")
    return [item for item in items if item.strip()]


def _written_out(cell: str) -> Any:
    """A list as Python or JSON write it; None for any other text."""
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd escapes in somebody's captions
                return parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
