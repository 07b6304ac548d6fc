"""Embeddings cached by the content they belong to, so that a second run of any benchmark encodes nothing."""

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
from labclip.data.images import ImageSource, file_order, with_parquet_bytes
from labclip.features.encoder import Embeddings, Encoder, batched
from labclip.features.origin import identity_of
from labclip.metrics import UNIT
from labclip.model import LABCLIP
from labclip.towers.text import TruncationCount, counting_truncation, tokenize

_logger = logging.getLogger(__name__)

FORMAT = 5
"""Version of the cached rows, to be raised whenever the same key would mean another embedding."""

BLOCK = 2048
"""Number of captions that are encoded together. Those with a common prefix share the work."""


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
    """Embed images and captions with the base of a model: each distinct content once, unless it is in the cache.

    Returns:
        Image embeddings, float32 [len(images), dim], and text embeddings without any alignment, float32
        [len(captions), dim]. Rows have unit length and are on the CPU.

    Raises:
        ValueError: If an image can't be read or decoded. The others are in the cache for the next run.
    """
    encoder = Encoder(model, batch_size=batch_size, workers=workers)
    with Cache(None, model) if cache is None else nullcontext(cache) as opened:
        return _encode_images(encoder, opened, images, progress), _encode_captions(encoder, opened, captions, progress)


def _encode_images(encoder: Encoder, cache: Cache, images: Sequence[ImageSource], progress: bool) -> Tensor:
    """Image embeddings, float32 [n, dim], in the order of `images`."""
    keys = list(map(_image_key, images, _contents(images, encoder.workers)))
    source_of_key = dict(sorted(zip(keys, images, strict=True), key=lambda pair: file_order(pair[1])))
    rows = cache.get(list(source_of_key))
    uncached, problems = {key: source for key, source in source_of_key.items() if key not in rows}, list[str]()
    with closing(encoder.images(uncached.values())) as stream:
        bar = tqdm(stream, "images", len(uncached), unit=" images", disable=not progress or not uncached)
        for batch in batched(zip(uncached, bar, strict=True), encoder.batch_size):
            rows |= {key: image.row for key, image in batch if image.row is not None}
            # The key is made again from the encoded bytes: the file may have changed since.
            cache.put(
                (_image_key(image.source, image.digest), image.row) for _, image in batch if image.row is not None
            )
            problems += [f"{image.source} {image.problem}" for _, image in batch if image.problem]
    if problems:
        raise ValueError(
            f"{len(problems):,} of {len(images):,} images can't be used, for example {'; '.join(problems[:3])}. Repair "
            f'them, or remove them and pass on_missing="skip"; the others are in the cache.'
        )
    return torch.from_numpy(np.stack([rows[key] for key in keys]))


def _contents(images: Sequence[ImageSource], workers: int) -> list[bytes]:
    """SHA-256 of each image's bytes, or its own key if they can't be read. Crops of one file read it once."""

    def location(source: ImageSource) -> object:
        return source.key if source.file is None else (source.file, source.start, source.column)

    def content(source: ImageSource) -> bytes:
        try:
            return hashlib.sha256(source.read()).digest()
        except (OSError, ValueError):  # the encoder reports the problem
            return source.key

    distinct = sorted({location(source): source for source in images}.values(), key=file_order)
    rows = (source for source in distinct if source.column is not None)  # after the others
    with ThreadPoolExecutor(workers) as pool:
        of_files = pool.map(content, (source for source in distinct if source.column is None))
        of_rows = (hashlib.sha256(data or b"").digest() for _, data in with_parquet_bytes(rows))
        contents = dict(zip(map(location, distinct), (*of_files, *of_rows), strict=True))
    return [contents[location(source)] for source in images]


def _image_key(source: ImageSource, content: bytes) -> bytes:
    return _key(b"image", content, repr(source.box).encode())


def _encode_captions(encoder: Encoder, cache: Cache, captions: Sequence[str], progress: bool) -> Tensor:
    """Text embeddings, float32 [n, dim], in the order of `captions`."""
    # Keyed by tokens: captions with the same tokens must not differ by the rounding of separate passes.
    cut, keys = TruncationCount(), []
    with counting_truncation(cut):
        for block in batched(captions, BLOCK):
            keys += [_key(b"tokens", row.tobytes()) for row in tokenize(encoder.tokenizer, block).numpy()]
    cut.warn(stacklevel=3)
    key_of_caption = dict(zip(captions, keys, strict=True))
    caption_of_key = {key: caption for caption, key in sorted(key_of_caption.items(), reverse=True)}
    rows = cache.get(list(caption_of_key))
    uncached = sorted(caption for key, caption in caption_of_key.items() if key not in rows)
    bar = tqdm(
        encoder.texts(batched(uncached, BLOCK)), "captions", -(-len(uncached) // BLOCK), unit=" captions",
        unit_scale=BLOCK, disable=not progress or not uncached,
    )  # fmt: skip
    for block, features in bar:
        new_rows = dict(zip(map(key_of_caption.__getitem__, block), features, strict=True))
        cache.put(new_rows.items())
        rows |= new_rows
    return torch.from_numpy(np.stack([rows[key] for key in keys]))


def _key(*parts: bytes) -> bytes:
    """SHA-256 of byte strings. Each goes in with its length, so that different splits have different keys."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class Cache:
    """A cache of one base's unit-length embeddings, keyed by the SHA-256 of their content; a context manager.

    Each base has its own SQLite file: its name depends on weights, precision, device, preprocessing and tokenizer. A
    kill loses only the batch at work, and several processes may use one file. If it can't be written any more, for
    example on a full disk, a warning says so and the run continues. With `folder=True` the file is in LABCLIP_CACHE or
    the user's cache folder, with None or False in memory only.
    """

    def __init__(self, folder: str | Path | bool | None, model: LABCLIP) -> None:
        if folder is True:
            user_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            folder = Path(os.environ.get("LABCLIP_CACHE") or user_caches / "labclip").expanduser()
        self.identity = identity_of(model)
        # The fingerprint differs in its last bits from machine to machine; its tokens do not.
        facts = {key: value for key, value in self.identity.items() if key not in ("base", "fingerprint")}
        tokens = None if model.tokenizer is None else model.tokenizer([FINGERPRINT_CAPTION]).tolist()
        facts |= {"tokens": tokens, "device": model.matrix.device.type, "format": FORMAT}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        self.path = Path(folder) / f"{name}.sqlite" if folder else None
        self._is_writable = True
        _logger.info("cache of embeddings: %s", self.path or "none")
        with self._explaining_errors():
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self.path or ":memory:", timeout=60)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")  # a commit does not wait for the disk
            self._file.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Embeddings]:
        """The cached rows of some keys, float32 [dim]. A row without unit length is damaged and counts as absent."""
        rows: dict[bytes, Embeddings] = {}
        with self._explaining_errors():
            for part in batched(keys, 900):  # the oldest SQLite builds take at most 999
                query = f"SELECT key, value FROM rows WHERE key IN ({','.join('?' * len(part))})"
                rows |= {key: np.frombuffer(value, dtype="<f4") for key, value in self._file.execute(query, part)}
        return {key: row for key, row in rows.items() if abs(float(row @ row) - 1) < 3 * UNIT}

    def put(self, rows: Iterable[tuple[bytes, Embeddings]]) -> None:
        """Store unit-length embeddings, float32 [dim], by key."""
        if not self._is_writable:
            return
        values = [(key, row.astype("<f4").tobytes()) for key, row in rows]
        try:
            # Other processes wait while a transaction is open, so the model never runs inside one.
            with self._explaining_errors(), self._file:
                self._file.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", values)
        except ValueError as error:  # the run matters more than its cache
            self._is_writable = False
            warnings.warn(f"{error} Later embeddings are not cached.", stacklevel=2)

    @contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.DatabaseError) as error:
            raise ValueError(
                f"The cache {self.path} can't be used ({error}). Pass cache=DIR with a writable folder, or cache=None. "
                f"If the file is damaged, delete it."
            ) from error
