"""Embeddings kept by what they are of, so that a second run of any benchmark encodes nothing again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip.base import FINGERPRINT_CAPTION
from labclip.data.images import ImageSource, ParquetImages, file_order, reason
from labclip.encode.encoder import Encoder, batched
from labclip.encode.fingerprint import identity_of, tokenizer_and_preprocess
from labclip.metrics import UNIT
from labclip.model import LABCLIP
from labclip.towers.text import Tokenizer, TruncationCount, counting_truncation, tokenize

_logger = logging.getLogger(__name__)

FORMAT = 5
"""Raised whenever equal keys would mean other embeddings."""

BLOCK = 2048
"""Captions encoded together; those with a common prefix share the work."""

_ASKED = 900  # keys in one question to SQLite, which takes 999 in its oldest builds


def default_cache() -> Path:
    """The folder of embeddings: LABCLIP_CACHE, or `labclip` in the user's folder for caches."""
    if folder := os.environ.get("LABCLIP_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labclip"


def key_of(*parts: bytes) -> bytes:
    """SHA-256 of some bytes, each with its length, so that no two lists share one."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def encode(
    model: LABCLIP,
    images: Sequence[ImageSource],
    captions: Sequence[str],
    *,
    cache: Cache | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Embed distinct images and captions with a base, each content once, and none that the cache knows.

    Returns:
        Images, float32 [len(images), dim], and the base's own captions, float32 [len(captions), dim], both of unit
        length, on the CPU.

    Raises:
        ValueError: If an image can't be read or decoded (what could be is kept for the next run), or an embedding is
            not finite.
    """
    encoder = Encoder(model, batch_size=batch_size, workers=workers, progress=progress)
    with Cache(None, model) if cache is None else nullcontext(cache) as known:
        return _encode_images(encoder, known, images), _encode_captions(encoder, known, captions)


def _encode_images(encoder: Encoder, cache: Cache, images: Sequence[ImageSource]) -> Tensor:
    """float32 [n, dim], in the order of `images`."""
    contents, problems = _contents(images, encoder.workers)
    keys = [_image_key(one, content) for one, content in zip(images, contents, strict=True)]
    known = cache.get(list(dict.fromkeys(key for key, content in zip(keys, contents, strict=True) if content)))
    todo = {key: one for key, content, one in zip(keys, contents, images, strict=True) if content and key not in known}
    todo = dict(sorted(todo.items(), key=lambda pair: file_order(pair[1])))
    with closing(encoder.images(todo.values(), total=len(todo))) as stream:
        for batch in batched(zip(todo, stream, strict=True), encoder.batch_size):
            fresh = {}
            for key, one in batch:
                if one.row is None:
                    problems.append(f"{one.source} {one.problem}")
                elif key != _image_key(one.source, one.digest):
                    problems.append(f"{one.source} changed while it was read")
                else:
                    fresh[key] = one.row
            cache.put(fresh.items())
            known |= fresh
    if problems:
        raise ValueError(
            f"{len(problems):,} of {len(images):,} images can't be used, for example {'; '.join(problems[:3])}. Repair "
            f'them, or take them away and pass on_missing="skip"; the others are encoded and kept.'
        )
    return torch.from_numpy(np.stack([known[key] for key in keys]))


def _contents(images: Sequence[ImageSource], workers: int) -> tuple[list[bytes], list[str]]:
    """SHA-256 of each image's bytes, empty where they can't be read, and why. A file is read once for all its crops."""

    def digest(source: ImageSource, read: Callable[[ImageSource], bytes] = ImageSource.read) -> bytes | str:
        try:
            return hashlib.sha256(read(source)).digest()
        except (OSError, ValueError) as error:
            return f"{source} " + reason("can't be read", error)

    def place(source: ImageSource) -> object:
        return source.key if source.file is None else (source.file, source.start, source.column)

    distinct = sorted({place(one): one for one in images}.values(), key=file_order)
    in_tables = [one for one in distinct if one.column is not None]
    others = distinct[: len(distinct) - len(in_tables)]
    with ThreadPoolExecutor(workers) as pool, ParquetImages() as tables:
        found = dict(zip(map(place, others), pool.map(digest, others), strict=True))
        found |= {place(one): digest(one, tables.read) for one in in_tables}
    contents = [content if isinstance(content := found[place(one)], bytes) else b"" for one in images]
    return contents, [problem for problem in found.values() if isinstance(problem, str)]


def _image_key(source: ImageSource, content: bytes) -> bytes:
    return key_of(b"image", content, repr(source.box).encode())


def _encode_captions(encoder: Encoder, cache: Cache, captions: Sequence[str]) -> Tensor:
    """float32 [n, dim], in the order of `captions`."""
    keys = {caption: key_of(b"text", caption.encode("utf-8", "surrogatepass")) for caption in captions}
    known = cache.get(list(keys.values()))
    todo = sorted(caption for caption, key in keys.items() if key not in known)
    # Captions of the same tokens get the same bits: in passes of their own, rounding would decide between them.
    tokens = dict(zip(todo, _tokens_of(encoder.tokenizer, todo), strict=True))
    read = cache.get(list(dict.fromkeys(tokens.values())))
    first = {key: caption for caption, key in reversed(tokens.items()) if key not in read}
    distinct = sorted(first.values())
    cache.put((), ((keys[caption], key) for caption, key in tokens.items() if key in read))
    with encoder.bar("captions", len(distinct)) as bar:
        for block in batched(distinct, BLOCK):
            fresh = dict(zip((tokens[caption] for caption in block), encoder.texts(block), strict=True))
            cache.put(fresh.items(), ((keys[caption], key) for caption, key in tokens.items() if key in fresh))
            read |= fresh
            bar.update(len(block))
    known |= {keys[caption]: read[key] for caption, key in tokens.items()}
    return torch.from_numpy(np.stack([known[keys[caption]] for caption in captions]))


def _tokens_of(tokenizer: Tokenizer, captions: list[str]) -> list[bytes]:
    """A key of each caption's tokens. One warning counts those that are cut at the context length."""
    cut, keys = TruncationCount(), []
    with counting_truncation(cut):
        for block in batched(captions, BLOCK):
            keys += [key_of(b"tokens", row.tobytes()) for row in tokenize(tokenizer, block).numpy()]
    cut.warn(stacklevel=4)
    return keys


class Cache:
    """Unit-length embeddings of one base by the SHA-256 of their content; a context manager.

    Its name depends on what it is of: weights, precision, device, preprocessing, tokenizer. A kill costs what was
    being encoded; several processes may use it at once. Where it can't be written any more, as on a full disk, a
    warning says so, and the run goes on.

    Args:
        folder: Where the file lies; made if need be. None keeps nothing.
        model: The base.

    Raises:
        ValueError: If the file is damaged or can't be opened, or the folder is a file or can't be made.
    """

    def __init__(self, folder: Path | None, model: LABCLIP) -> None:
        self.identity = identity_of(model)
        self.path = None if folder is None else folder / f"{_name(self.identity, model)}.sqlite"
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"The cache {folder} can't be made ({error.strerror}). {_writable()}.") from error
        self._kept = True
        _logger.info("cache of embeddings: %s", self.path or "none")
        try:
            self._file = sqlite3.connect(":memory:" if self.path is None else self.path, timeout=60)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")  # a commit is then a write, and no wait for the disk
            for table in ("rows", "same"):
                columns = "key BLOB PRIMARY KEY, value BLOB"
                self._file.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """What is there of some keys: key -> float32 [dim]. A row that is not of unit length is damaged: not there."""
        try:
            row_of = {**dict(zip(keys, keys, strict=True)), **dict(self._select("same", keys))}
            rows = dict(self._select("rows", list({*keys, *row_of.values()})))
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error
        found = {key: np.frombuffer(rows.get(key) or rows.get(row_of[key], b""), dtype="<f4") for key in keys}
        return {key: row for key, row in found.items() if abs(float(row @ row) - 1) < 3 * UNIT}

    def _select(self, table: str, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        for start in range(0, len(keys), _ASKED):
            part = keys[start : start + _ASKED]
            query = f"SELECT key, value FROM {table} WHERE key IN ({','.join('?' * len(part))})"
            yield from self._file.execute(query, part)

    def put(self, rows: Iterable[tuple[bytes, NDArray[np.float32]]], same: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Keep embeddings, float32 [dim] of unit length, by key; and keys, each with that of a row that is its too."""
        if not self._kept:
            return
        lines = {"rows": [(key, row.astype("<f4").tobytes()) for key, row in rows], "same": list(same)}
        try:
            # Another process waits for as long as this is open: never while the model works.
            with self._file:
                for table, pairs in lines.items():
                    self._file.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", pairs)
        except sqlite3.OperationalError as error:
            # What was encoded counts more than that it is kept.
            self._kept = False
            warnings.warn(f"The cache {self.path} can't be written ({error}); what follows is not kept.", stacklevel=2)
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.DatabaseError) -> ValueError:
        # An OperationalError is of the machine: a folder that may not be written, a full disk, a lock.
        of_machine = isinstance(error, sqlite3.OperationalError)
        remedy = _writable() if of_machine else "Delete that file, or pass cache=None"
        return ValueError(f"The cache {self.path} can't be used ({error}). {remedy}.")


def _writable() -> str:
    return "Pass cache=DIR with a folder that you may write, or cache=None"


def _name(identity: dict[str, Any], model: LABCLIP) -> str:
    # The fingerprint's embedding differs in its last bits from machine to machine; its tokens do not.
    facts = {key: value for key, value in identity.items() if key not in ("base", "fingerprint")}
    tokens = tokenizer_and_preprocess(model)[0]([FINGERPRINT_CAPTION]).tolist()
    facts |= {"tokens": tokens, "device": model.matrix.device.type, "format": FORMAT}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
