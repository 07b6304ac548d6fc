"""Pictures and captions of a task to unit-length embeddings, each once, and none that the cache knows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from labclip.data.decoding import BROKEN, decoders, decoding, reason
from labclip.data.images import Picture
from labclip.encode.cache import Cache, key_of
from labclip.features.encoding import checked, counting_cut, embed_pixels, evaluating, warn_of_cut
from labclip.model import LABCLIP
from labclip.text import tokenize

BLOCK = 2048
"""Captions encoded together; those alike in their beginnings share the work."""


def encode(
    model: LABCLIP,
    pictures: Sequence[Picture],
    captions: Sequence[str],
    *,
    cache: Cache | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Embed pictures and captions with a base.

    Args:
        model: The base, wrapped; its device and precision are used, its matrix is not.
        pictures: Distinct pictures.
        captions: Distinct captions.
        cache: Embeddings of earlier runs; None keeps none.
        batch_size: Pictures in one pass of the model.
        workers: Threads that read and decode; by default one a processor, at most 16.
        progress: Whether to show bars on stderr.

    Returns:
        Pictures, float32 [len(pictures), dim], and the base's own captions, float32 [len(captions), dim], both of unit
        length, on the CPU.

    Raises:
        ValueError: If a picture can't be read or decoded (what could be is kept for the next run), or an embedding is
            not finite.
    """
    with (
        Cache(None, model) if cache is None else nullcontext(cache) as known,
        evaluating(model),
        decoding(decoders(workers)) as pool,
    ):
        images = _Images(model, known, pool, batch_size, progress).encode(pictures)
        return images, _encode_captions(model, known, captions, progress)


class _Images:
    """Reads pictures by content, and decodes and encodes those that the cache does not know."""

    def __init__(self, model: LABCLIP, cache: Cache, pool: ThreadPoolExecutor, batch_size: int, progress: bool) -> None:
        assert model.preprocess is not None  # the cache has looked
        self._model, self._cache, self._pool = model, cache, pool
        self._size, self._hidden = batch_size, not progress
        self._preprocess = model.preprocess
        self._broken: list[str] = []

    def encode(self, pictures: Sequence[Picture]) -> Tensor:
        """float32 [n, dim]."""
        keys = self._keys(pictures)
        known = self._cache.get([key for key in dict.fromkeys(keys) if key])
        todo = {key: place for place, key in enumerate(keys) if key and key not in known}
        waiting: list[tuple[bytes, Tensor]] = []
        with tqdm(total=len(todo), desc="images", unit=" images", disable=self._hidden or not todo) as bar:
            for key, pixels in self._decoded([(key, pictures[place]) for key, place in todo.items()]):
                bar.update(1)
                if pixels is not None:
                    waiting.append((key, pixels))
                if len(waiting) == self._size:
                    known |= self._run(waiting, pictures, todo)
                    waiting = []
            if waiting:
                known |= self._run(waiting, pictures, todo)
        if self._broken:
            raise ValueError(
                f"{len(self._broken):,} of {len(pictures):,} pictures can't be used, for example "
                f"{'; '.join(self._broken[:3])}. Mend them, or take them away and pass --on-missing skip; the others "
                f"are encoded and kept."
            )
        return torch.from_numpy(np.stack([known[key] for key in keys]))

    def _keys(self, pictures: Sequence[Picture]) -> list[bytes]:
        """What each picture is by content, empty for one that can't be read. A file is read once for all its crops."""
        files = {one.source: one for one in pictures if isinstance(one.source, Path)}
        hashed = dict(zip(files, self._pool.map(self._hash, files.values()), strict=True))
        keys = []
        for one in pictures:
            content = hashed[one.source] if isinstance(one.source, Path) else key_of(one.read())
            keys.append(key_of(b"image", content, repr(one.box).encode()) if content else b"")
        return keys

    def _hash(self, picture: Picture) -> bytes:
        try:
            return key_of(picture.read())
        except OSError as error:
            self._broken.append(f"{picture.name} {reason('cannot be read', error)}")
            return b""

    def _decoded(self, todo: Sequence[tuple[bytes, Picture]]) -> Iterator[tuple[bytes, Tensor | None]]:
        """Decode in order, a bounded number ahead of the model."""
        waiting: deque[tuple[bytes, Future[Tensor | None]]] = deque()
        for key, picture in todo:
            waiting.append((key, self._pool.submit(self._decode, key, picture)))
            if len(waiting) > 3 * self._size:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()

    def _decode(self, key: bytes, picture: Picture) -> Tensor | None:
        try:
            data = picture.read()
            if key != key_of(b"image", key_of(data), repr(picture.box).encode()):
                raise ValueError("changed while it was read")
            return self._preprocess(picture.decode(data))
        except BROKEN as error:
            self._broken.append(f"{picture.name} {reason('is no whole picture', error)}")
            return None

    def _run(
        self, batch: Sequence[tuple[bytes, Tensor]], pictures: Sequence[Picture], places: dict[bytes, int]
    ) -> dict[bytes, Any]:
        features = embed_pixels(self._model, [pixels for _, pixels in batch])
        rows = checked(features, [pictures[places[key]].name for key, _ in batch])
        self._cache.put((key, row) for (key, _), row in zip(batch, rows, strict=True))
        return {key: row for (key, _), row in zip(batch, rows, strict=True)}


@torch.no_grad()
def _encode_captions(model: LABCLIP, cache: Cache, captions: Sequence[str], progress: bool) -> Tensor:
    """float32 [n, dim], in the order of `captions`."""
    keys = {caption: key_of(b"text", caption.encode("utf-8", "surrogatepass")) for caption in captions}
    known = cache.get(list(keys.values()))
    todo = sorted(caption for caption, key in keys.items() if key not in known)
    # Captions of the same tokens get the same bits: in passes of their own, rounding would decide between them.
    tokens = dict(zip(todo, _tokens_of(model, todo), strict=True))
    read = cache.get(list(dict.fromkeys(tokens.values())))
    first = {key: caption for caption, key in reversed(tokens.items()) if key not in read}
    distinct = sorted(first.values())
    cache.put((), ((keys[caption], key) for caption, key in tokens.items() if key in read))
    with tqdm(total=len(distinct), desc="captions", unit=" captions", disable=not (progress and distinct)) as bar:
        for start in range(0, len(distinct), BLOCK):
            block = distinct[start : start + BLOCK]
            with counting_cut({"cut": 0, "cut_warning": ""}):  # told already
                features = model.encode_text(block, normalize=False, aligned=False)
            rows = checked(F.normalize(features.float(), dim=-1), [repr(caption) for caption in block])
            fresh = {tokens[caption]: row for caption, row in zip(block, rows, strict=True)}
            cache.put(fresh.items(), ((keys[caption], key) for caption, key in tokens.items() if key in fresh))
            read |= fresh
            bar.update(len(block))
    known |= {keys[caption]: read[key] for caption, key in tokens.items()}
    return torch.from_numpy(np.stack([known[keys[caption]] for caption in captions]))


def _tokens_of(model: LABCLIP, captions: list[str]) -> list[bytes]:
    """A key of each caption's tokens. Those that are cut at the context length are told once."""
    assert model.tokenizer is not None  # the cache has looked
    state: dict[str, Any] = {"cut": 0, "cut_warning": "", "encoded": len(captions)}
    keys = []
    for start in range(0, len(captions), BLOCK):
        with counting_cut(state):
            tokens = tokenize(model.tokenizer, captions[start : start + BLOCK])
        keys += [key_of(b"tokens", row.tobytes()) for row in tokens.numpy()]
    warn_of_cut(state, "captions")
    return keys
