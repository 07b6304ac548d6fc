"""Which of a caption's candidates become its negatives: seeded by the caption alone, and never a true caption."""

from __future__ import annotations

import random
from array import array
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np

from labclip.negatives.cleaning import clean, comparable

# Candidates in a row that may all be refused before a caption is given up: it would take a text made to be so.
_PATIENCE = 10_000


class Method(Protocol):
    """A way to make negatives."""

    @property
    def max_words(self) -> int | None:
        """Words of a caption that its negatives keep, or None for all."""

    def candidates(self, caption: str, rng: random.Random) -> Iterator[str]:
        """All texts a caption's negatives may be drawn from, lazily, in the order `rng` gives them."""


class TrueCaptions:
    """Which captions are true of which image; eight bytes each, so that a file of many millions fits.

    Add all, then ask; captions count as equal when `comparable` says so.
    """

    def __init__(self) -> None:
        self._digests = array("Q")
        self._sorted = True

    def add(self, image: Hashable, caption: str, max_words: int | None = None) -> None:
        """Record a true caption, and how it begins where negatives keep `max_words` of it."""
        for key in {comparable(caption), comparable(clean(caption, max_words))}:
            self._digests.append(_digest(f"{image}\0{key}"))
        self._sorted = False

    def hold(self, image: Hashable, key: str) -> bool:
        """Whether a caption with this `comparable` form is true of `image`."""
        if not self._sorted:
            np.frombuffer(self._digests, dtype=np.uint64).sort()  # in place: no second copy
            self._sorted = True
        digest = _digest(f"{image}\0{key}")
        at = bisect_left(self._digests, digest)
        return at < len(self._digests) and self._digests[at] == digest


def choose(
    method: Method,
    caption: str,
    *,
    k: int,
    seed: int,
    image: Hashable | None = None,
    true_captions: TrueCaptions | None = None,
) -> list[str]:
    """Up to `k` distinct negatives of one caption.

    They depend on `seed`, `caption` and what is true of `image`, on no other caption before or after: a stream and a
    list give the same, and the first of many is the one that `k=1` gives.
    """
    chosen: list[str] = []
    seen = {comparable(caption), comparable(clean(caption, method.max_words))}
    refused = 0
    for candidate in method.candidates(caption, random.Random(_digest(f"{seed}\0{caption}"))):
        key = comparable(candidate)
        if key in seen or (image is not None and true_captions is not None and true_captions.hold(image, key)):
            refused += 1
        else:
            seen.add(key)
            chosen.append(candidate)
            refused = 0
        if len(chosen) == k or refused == _PATIENCE:
            break
    return chosen


def choose_all(
    method: Method, captions: Iterable[str], *, k: int, seed: int, image_index: Sequence[Hashable] | None
) -> list[list[str]]:
    """Up to `k` distinct negatives of each caption.

    Raises:
        ValueError: If a caption is not a string, `k` is below 1, or `image_index` has another length.
    """
    if isinstance(captions, str):
        raise ValueError(f"captions is one string, {captions[:40]!r}. Pass a list of captions.")
    captions = list(captions)
    check_k(k)
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"Caption {index} is a {type(caption).__name__}, not a str. Pass captions.")
    if image_index is None:
        return [choose(method, caption, k=k, seed=seed) for caption in captions]
    images = list(image_index)
    if len(images) != len(captions):
        raise ValueError(f"image_index names {len(images)} images for {len(captions)} captions. Pass one a caption.")
    true_captions = TrueCaptions()
    for image, caption in zip(images, captions, strict=True):
        if image is not None:
            true_captions.add(image, caption, method.max_words)
    return [
        choose(method, caption, k=k, seed=seed, image=image, true_captions=true_captions)
        for image, caption in zip(images, captions, strict=True)
    ]


def check_k(k: int) -> None:
    """Raise ValueError where `k` is no number of negatives."""
    if k < 1:
        raise ValueError(f"k is {k}, but it is the number of negatives a caption gets. Pass 1 or more.")


def first_or_none(negatives: list[list[str]]) -> list[str | None]:
    """The one negative of each caption."""
    return [found[0] if found else None for found in negatives]


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
