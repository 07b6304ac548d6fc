"""Embeddings kept by what they are of, so that a second run of any benchmark encodes nothing again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from labclip.base import FINGERPRINT_CAPTION
from labclip.data.images import ImageSource, ParquetImages, file_order
from labclip.features.encoder import Embeddings, Encoder, batched
from labclip.features.origin import identity_of, tokenizer_and_preprocess
from labclip.metrics import UNIT
from labclip.model import LABCLIP
from labclip.towers.text import TruncationCount, counting_truncation, tokenize

_logger = logging.getLogger(__name__)

FORMAT = 5
"""Raised whenever equal keys would mean other embeddings."""

BLOCK = 2048
"""Captions encoded together; those with a common prefix share the work."""


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
    """Embed images and captions with a base, each content once, and none that the cache knows.

    Returns:
        Images, float32 [len(images), dim], and the base's own captions, float32 [len(captions), dim], both of unit
        length, on the CPU.

    Raises:
        ValueError: If an image can't be read or decoded: what could be is kept for the next run.
    """
    encoder = Encoder(model, batch_size=batch_size, workers=workers)
    with Cache(None, model) if cache is None else nullcontext(cache) as known:
        return _encode_images(encoder, known, images, progress), _encode_captions(encoder, known, captions, progress)


def _encode_images(encoder: Encoder, cache: Cache, images: Sequence[ImageSource], progress: bool) -> Tensor:
    """float32 [n, dim], in the order of `images`."""
    keys = list(map(_image_key, images, _contents(images, encoder.workers)))
    source_of = dict(sorted(zip(keys, images, strict=True), key=lambda pair: file_order(pair[1])))
    known = cache.get(list(source_of))
    todo, problems = {key: source for key, source in source_of.items() if key not in known}, list[str]()
    with closing(encoder.images(todo.values())) as stream:
        bar = tqdm(stream, "images", len(todo), unit=" images", disable=not progress or not todo)
        for batch in batched(zip(todo, bar, strict=True), encoder.batch_size):
            known |= {key: image.row for key, image in batch if image.row is not None}
            # By the bytes that were encoded: the file may have changed since its key was made.
            cache.put(
                (_image_key(image.source, image.digest), image.row) for _, image in batch if image.row is not None
            )
            problems += [f"{image.source} {image.problem}" for _, image in batch if image.problem]
    if problems:
        raise ValueError(
            f"{len(problems):,} of {len(images):,} images can't be used, for example {'; '.join(problems[:3])}. Repair "
            f'them, or take them away and pass on_missing="skip"; the others are kept.'
        )
    return torch.from_numpy(np.stack([known[key] for key in keys]))


def _contents(images: Sequence[ImageSource], workers: int) -> list[bytes]:
    """SHA-256 of each image's bytes; its own key where they can't be read. A file is read once for all its crops."""

    def location(source: ImageSource) -> object:
        return source.key if source.file is None else (source.file, source.start, source.column)

    def content(source: ImageSource) -> bytes:
        try:
            return hashlib.sha256(source.read() if source.column is None else tables.read(source)).digest()
        except (OSError, ValueError):  # the encoder says what is wrong
            return source.key

    distinct = sorted({location(source): source for source in images}.values(), key=file_order)
    with ThreadPoolExecutor(workers) as pool, ParquetImages() as tables:
        of_files = pool.map(content, (source for source in distinct if source.column is None))
        of_tables = (content(source) for source in distinct if source.column is not None)  # in order, so by one thread
        contents = dict(zip(map(location, distinct), (*of_files, *of_tables), strict=True))
    return [contents[location(source)] for source in images]


def _image_key(source: ImageSource, content: bytes) -> bytes:
    return _key_of(b"image", content, repr(source.box).encode())


def _encode_captions(encoder: Encoder, cache: Cache, captions: Sequence[str], progress: bool) -> Tensor:
    """float32 [n, dim], in the order of `captions`."""
    # By their tokens: in passes of their own, rounding would decide between captions that read alike.
    cut, keys = TruncationCount(), []
    with counting_truncation(cut):
        for block in batched(captions, BLOCK):
            keys += [_key_of(b"tokens", row.tobytes()) for row in tokenize(encoder.tokenizer, block).numpy()]
    cut.warn(stacklevel=3)
    key_for = dict(zip(captions, keys, strict=True))
    first = {key: caption for caption, key in sorted(key_for.items(), reverse=True)}
    known = cache.get(list(first))
    todo = sorted(caption for key, caption in first.items() if key not in known)
    bar = tqdm(
        encoder.texts(batched(todo, BLOCK)), "captions", -(-len(todo) // BLOCK), unit=" captions", unit_scale=BLOCK,
        disable=not progress or not todo,
    )  # fmt: skip
    for block, rows in bar:
        fresh = dict(zip(map(key_for.__getitem__, block), rows, strict=True))
        cache.put(fresh.items())
        known |= fresh
    return torch.from_numpy(np.stack([known[key] for key in keys]))


def _key_of(*parts: bytes) -> bytes:
    """SHA-256 of some bytes, each with its length, so that no two lists share one."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class Cache:
    """Unit-length embeddings of one base by the SHA-256 of their content; a context manager.

    The name of its file depends on what it is of: weights, precision, device, preprocessing, tokenizer. A kill costs
    what was being encoded; several processes may use it at once. Where it can't be written any more, as on a full disk,
    a warning says so, and the run goes on. It is in a folder, that of LABCLIP_CACHE or the user's own for True, or in
    memory alone.
    """

    def __init__(self, where: str | Path | bool | None, model: LABCLIP) -> None:
        if where is True:
            caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            where = Path(os.environ.get("LABCLIP_CACHE") or caches / "labclip").expanduser()
        folder = Path(where) if where else None
        self.identity = identity_of(model)
        # The fingerprint's embedding differs in its last bits from machine to machine; its tokens do not.
        facts = {key: value for key, value in self.identity.items() if key not in ("base", "fingerprint")}
        tokens = tokenizer_and_preprocess(model)[0]([FINGERPRINT_CAPTION]).tolist()
        facts |= {"tokens": tokens, "device": model.matrix.device.type, "format": FORMAT}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        self.path = None if folder is None else folder / f"{name}.sqlite"
        self._kept = True
        _logger.info("cache of embeddings: %s", self.path or "none")
        with self._named():
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self.path or ":memory:", timeout=60)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")  # a commit is then a write, and no wait for the disk
            self._file.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Embeddings]:
        """What is there of some keys: key -> float32 [dim]. A row that is not of unit length is damaged: not there."""
        rows: dict[bytes, Embeddings] = {}
        with self._named():
            for part in batched(keys, 900):  # SQLite takes 999 in its oldest builds
                query = f"SELECT key, value FROM rows WHERE key IN ({','.join('?' * len(part))})"
                rows |= {key: np.frombuffer(value, dtype="<f4") for key, value in self._file.execute(query, part)}
        return {key: row for key, row in rows.items() if abs(float(row @ row) - 1) < 3 * UNIT}

    def put(self, rows: Iterable[tuple[bytes, Embeddings]]) -> None:
        """Keep embeddings, float32 [dim] of unit length, by key."""
        if not self._kept:
            return
        lines = [(key, row.astype("<f4").tobytes()) for key, row in rows]
        try:
            # Another process waits for as long as this is open: never while the model works.
            with self._named(), self._file:
                self._file.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", lines)
        except ValueError as error:  # what was encoded counts more than that it is kept
            self._kept = False
            warnings.warn(f"{error} What follows is not kept.", stacklevel=2)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.DatabaseError) as error:
            raise ValueError(
                f"The cache {self.path} can't be used ({error}). Pass cache=DIR with a folder that you may write, or "
                f"cache=None; delete that file if it is damaged."
            ) from error
