"""Captions with their negatives from and to files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from labclip.data.cleaning import TrueCaptions, comparable
from labclip.data.cleaning import clean as clean_caption
from labclip.data.columns import CAPTIONS, Columns
from labclip.data.items import WORDS, Item, Table, read_items
from labclip.data.rows import READERS, Row, column_names, find_inputs
from labclip.data.writing import WRITABLE, copy_table
from labclip.files import check_file, whole_file
from labclip.messages import printable
from labclip.negatives.choosing import Method, check_method, choose, max_words

_TABLES = [ending for ending in READERS if ending != ".tar"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """What `add` wrote: rows, rows with a negative, and negatives; and how many it left out as they mean the same."""

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
) -> Iterator[Item]:
    """Read captions with their negatives: NegCLIP's TSV, what `labclip negatives` writes, or one's own.

    The file is read twice, first for the captions of each image: a negative equal to its caption, or to
    another true caption of the same image, is left out, and so is one that repeats. Equal is what differs only in
    case, punctuation or "a" and "an".

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.jsonl"
    ...     _ = path.write_text('{"image": "1.jpg", "caption": "a dog on a bed", "negative": "a bed on a dog"}')
    ...     for item in read(path):
    ...         print(item.image.name, item.captions, item.negatives)
    1.jpg ('a dog on a bed',) (('a bed on a dog',),)

    Args:
        path: A file of captions, as `labclip.data.read_items` takes it.
        column: The captions' column. [default: caption, title, captions, sentences or text]
        negative_column: The negatives' column, one text a cell or a list of them. [default: all of negative,
            negative_2 ..., negatives, neg_caption, negative_caption that there are]
        image_column: The column that says which image is described. [default: as `labclip.data.Columns` has it]
        clean: Whether to clean captions and negatives alike as ARO does, to 40 words. Shuffled negatives are cleaned;
            beside an uncleaned caption, a fit can learn to tell the two by their full stop.

    Returns:
        An item a row, in the file's order, as the file is read; rows without a caption are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingPackageError: If it is Parquet and pyarrow is not installed.
        ValueError: If it is empty, malformed or of another format, or has no such column; with the line.
    """
    path = Path(path)
    columns = Columns(column, image_column, None if negative_column is None else (negative_column,))
    _, true_captions = _first_pass(path, columns, WORDS if clean else None)
    return _read(path, columns, true_captions, clean)


def _read(path: Path, columns: Columns, true_captions: TrueCaptions, clean: bool) -> Iterator[Item]:
    dropped = 0
    for item in map(_sound, read_items(path, columns=columns, require_image=False, clean=clean)):
        if item is None:
            continue
        kept, own = [], set(map(comparable, item.captions))
        for negatives in item.negatives:
            wrong: dict[str, str] = {}
            for text in negatives:
                said = comparable(text)
                if said not in own and not true_captions.hold(item.image and item.image.key, said):
                    wrong.setdefault(said, text)
            kept.append(tuple(wrong.values()))
            dropped += len(negatives) - len(wrong)
        yield replace(item, negatives=tuple(kept))
    if dropped:
        _logger.info("%s: left out %d negatives that repeat or are true of their image", path, dropped)


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
    """Write a file's rows and columns with the columns `negative`, `negative_2` ... `negative_k` added.

    Rows are streamed; in memory stay a batch of them and eight bytes a caption that has an image. `out` appears whole
    or not at all.

    Args:
        path: A csv, tsv, jsonl, json, Parquet or txt file with one caption a row.
        out: A .tsv, .csv, .jsonl or .parquet file.
        method: A `Shuffler`, a `Swapper`, or one's own, as `generate` takes it.
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
    path, out = Path(path), Path(out)
    check_method(method, k)
    columns, known = _columns(path, column, image_column)
    caption = str(columns.caption)
    _check_target(path, out, force=force)
    names = ["negative", *(f"negative_{number}" for number in range(2, k + 1))]
    _refuse(names, known, path.name)
    count, true_captions = _first_pass(path, columns, max_words(method), single=True)
    table = Table(path, columns, require_image=False)
    counts: Counter[str] = Counter()

    def fill(rows: Sequence[Row]) -> Mapping[str, Sequence[str | None]]:
        found, cleaned = [], []
        for where, cells in rows:
            _refuse(names, cells, f"{path.name} {where}")
            item = next(filter(None, map(_sound, table.items(0, where, cells))), None)
            text, image = (item.captions[0], item.image and item.image.key) if item else ("", None)
            found.append(choose(method, text, image, true_captions, k=k, seed=seed, counts=counts))
            assert isinstance(cells, dict)  # else it was refused
            cleaned.append(clean_caption(text, max_words(method)) if item else cells.get(caption))
        counts.update(with_negative=sum(map(bool, found)), negatives=sum(map(len, found)))
        bar.update(len(rows))
        made = {name: [one[n] if n < len(one) else None for one in found] for n, name in enumerate(names)}
        return made | ({caption: cleaned} if clean else {})

    with whole_file(out) as part, tqdm(total=count, unit=" captions", disable=not progress) as bar:
        copy_table(path, part, [*known, *names], table.wanted(), fill)
    return Counts(count, **counts)


def _columns(path: Path, column: str | None, image_column: str | None) -> tuple[Columns, list[str]]:
    """Which columns are read of a file that is to be copied, those it has, and the captions' among them."""
    inputs = find_inputs(path)
    ending = path.suffix.lower()
    if inputs != [path] or ending == ".tar":
        raise ValueError(f"{path} is not a table. Negatives are added to one file of {', '.join(_TABLES)}.")
    known = column_names(path)
    columns = Columns(column, image_column, ())
    columns.check(known, str(path))
    caption = column or next(name for name in CAPTIONS if name in known)
    return replace(columns, caption=caption), known


def _first_pass(path: Path, columns: Columns, words: int | None, *, single: bool = False) -> tuple[int, TrueCaptions]:
    """Count the rows and gather what is true of each image, so that a flaw is found before anything is written."""
    true_captions, count = TrueCaptions(), 0

    def seen() -> None:
        nonlocal count
        count += 1
        bar.update()

    with tqdm(unit=" captions", desc=printable(f"Reading {path.name}"), delay=5, leave=False) as bar:
        found = read_items(path, columns=columns, require_image=False, clean=False, seen=seen)
        for item in filter(None, map(_sound, found)):
            if single and len(item.captions) > 1:
                raise ValueError(f"{item.location} has {len(item.captions)} captions. Write a row for each.")
            for caption in item.captions:
                true_captions.add(item.image and item.image.key, caption, words)
    if not count:
        raise ValueError(f"{path} holds no captions.")
    return count, true_captions


def _sound(found: Item) -> Item | None:
    """The item, or None where a row has no caption; anything else that is wrong is an error."""
    return None if found.empty else found.checked()


def _check_target(path: Path, out: Path, *, force: bool) -> None:
    """Refuse an `out` that can't be written, or where a file would be lost."""
    if out.suffix.lower() not in WRITABLE:
        raise ValueError(f"{out} ends in {out.suffix!r}. Negatives are written as {', '.join(WRITABLE)}.")
    check_file(out)
    if out.exists() and not out.is_file():
        raise ValueError(f"{out} is a pipe or a device. Name a file.")
    if out.exists() and not force:
        which = "is the input itself" if out.samefile(path) else "exists already"
        raise ValueError(f"{out} {which}. Name another file, or pass force=True to overwrite it.")


def _refuse(names: list[str], known: Iterable[str], where: str) -> None:
    """Raise where a file or row already has a column that is to be added."""
    if clash := [name for name in names if name in known]:
        raise ValueError(f"{where} has a column {clash[0]!r} already. Rename it, or start without it.")
