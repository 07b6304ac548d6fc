"""Choosing a caption's negatives among the candidates: seeded by the caption alone, never a true caption."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from labclip.checks import checked_integer
from labclip.data.cleaning import clean, comparable, comparable_forms, digest, meaning, true_captions

Method = Callable[[str, random.Random], Iterable[str]]
"""A way to make negatives: from a caption and a `random.Random` to candidates, best lazily; or to one text.

Candidates that are empty, repeat, mean the same as the caption, or are true of its image, are skipped. A method that
cuts captions has an attribute `max_words`: the words that its candidates keep.
"""

_logger = logging.getLogger(__name__)

ImageIndex = Sequence[Hashable] | None

# Candidates in a row that may all be refused before a caption is given up: it would take a text made to be so.
_PATIENCE = 10_000

LONGEST = 4_000
"""Characters of a caption of which negatives are made: far beyond what a CLIP reads, and quickly tagged."""

MOST = 1_000
"""Negatives a caption; each is a column."""


def generate(
    captions: Iterable[str], method: Method, *, k: int = 1, seed: int = 0, image_index: ImageIndex = None
) -> list[Any]:
    """Make hard negatives of captions by a method of your own.

    >>> def mirror(caption, rng):
    ...     yield caption.replace("left", "right")
    >>> generate(["a cat left of a dog", "a cat"], mirror)
    ['a cat right of a dog', None]

    Args:
        captions: Captions.
        method: From a caption and a `random.Random` to candidates, each a text.
        k: Number of distinct negatives per caption.
        seed: With the caption itself decides its negatives, whatever stands before or after it.
        image_index: Which image each caption describes, one value a caption. A negative that is another true caption
            of the same image is not made.

    Returns:
        One negative a caption, None where no different one exists. For `k` above 1 a list of them a caption: `k`, or
        as many as exist.

    Raises:
        ValueError: If captions are not strings, `k` is not 1 to 1,000, or `image_index` has another length.
    """
    checked_integer("k", k, least=1, most=MOST)
    captions, images = captions_of_images(captions, image_index)
    negatives, same_meaning = negatives_of(captions, method, images, k=k, seed=seed)
    if same_meaning:
        _logger.info("left out %d negatives that mean the same as their caption", same_meaning)
    return [several[0] if several else None for several in negatives] if k == 1 else negatives


def negatives_of(
    captions: Sequence[str],
    method: Method,
    images: Sequence[Hashable | None],
    *,
    k: int,
    seed: int,
    progress: bool = False,
) -> tuple[list[list[str]], int]:
    """Up to `k` negatives of each caption, and how many candidates were left out as they mean the same."""
    words, negatives, same_meaning = getattr(method, "max_words", None), [], 0
    known = true_captions(images, captions, words)
    for caption, image in zip(tqdm(captions, unit=" captions", disable=not progress), images, strict=True):
        chosen, refused = list[str](), 0
        seen, own = comparable_forms(caption, words), meaning(clean(caption, words))
        for candidate in _candidates(method, caption, seed):
            key = comparable(candidate)
            if not key or key in seen or (image, key) in known:
                refused += 1
            elif meaning(candidate) == own:
                refused += 1
                same_meaning += 1
            else:
                seen.add(key)
                chosen.append(candidate)
                refused = 0
            if len(chosen) == k or refused == _PATIENCE:
                break
        negatives.append(chosen)
    return negatives, same_meaning


def _candidates(method: Method, caption: str, seed: int) -> Iterator[str]:
    made = method(caption, random.Random(digest(f"{seed}\0{caption}")))
    yield from [made] if isinstance(made, str) else made


def captions_of_images(captions: Iterable[str], image_index: ImageIndex) -> tuple[list[str], list[Hashable | None]]:
    """Captions as a list, and the image of each, None where that is not known; ValueError if they do not fit."""
    if isinstance(captions, str):
        raise ValueError(f"captions is one string, {captions[:40]!r}. Pass a list of captions.")
    captions = list(captions)
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"Caption {index} is a {type(caption).__name__}, not a str. Pass captions.")
    images: list[Hashable | None] = [None] * len(captions) if image_index is None else list(image_index)
    if len(images) != len(captions):
        raise ValueError(f"image_index names {len(images)} images for {len(captions)} captions. Pass one a caption.")
    return captions, images
