"""Choose a caption's negatives among candidates: never a true caption, and seeded by the caption alone."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from tqdm import tqdm

from labclip.checks import checked_integer
from labclip.data.cleaning import clean, comparable, digest, meaning, true_captions

Method = Callable[[str, random.Random], Iterable[str]]
"""A function that takes a caption and a `random.Random`, and returns candidates (best as a generator) or one text.

Candidates that are empty, repeat, mean the same as the caption, or are true of its image are skipped. A method that
cuts captions has an attribute `max_words`, the number of words that its candidates keep.
"""

_logger = logging.getLogger(__name__)

ImageIndex = Sequence[Hashable] | None

# A caption is given up after this many refused candidates in a row. Only a contrived text reaches it.
_PATIENCE = 10_000

LONGEST = 4_000
"""Longer captions, in characters, get no negatives. A CLIP reads far less, and tagging stays fast."""

MOST = 1_000
"""The largest number of negatives per caption. Each is a column of a file."""


def generate(
    captions: Iterable[str], method: Method, *, k: int = 1, seed: int = 0, image_index: ImageIndex = None
) -> list[Any]:
    """Make hard negatives of captions with your own method.

    >>> def mirror(caption, rng):
    ...     yield caption.replace("left", "right")
    >>> generate(["a cat left of a dog", "a cat"], mirror)
    ['a cat right of a dog', None]

    Args:
        captions: Captions.
        method: Takes a caption and a `random.Random`, and yields candidates, each a text.
        k: Number of distinct negatives per caption.
        seed: Seed of the random choices. Seed and caption alone decide the negatives; other captions do not matter.
        image_index: The image that each caption describes, one value per caption. A caption of the same image is never
            a negative.

    Returns:
        One negative per caption; None if there is no different one. For `k` above 1, a list of up to `k` negatives per
        caption.

    Raises:
        ValueError: If captions are not strings, `k` is not 1 to 1,000, or `image_index` has another length.
    """
    checked_integer("k", k, least=1, most=MOST)
    captions, images = captions_of_images(captions, image_index)
    negatives, same_meaning = negatives_of(captions, method, images, k=k, seed=seed)
    if same_meaning:
        _logger.info("left out %d negatives that mean the same as their caption", same_meaning)
    return [texts[0] if texts else None for texts in negatives] if k == 1 else negatives


def negatives_of(
    captions: Sequence[str], method: Method, images: Sequence[Hashable], *, k: int, seed: int, progress: bool = False
) -> tuple[list[list[str]], int]:
    """Up to `k` negatives for each caption, and the number of candidates refused because they mean the same."""
    max_words, negatives, same_meaning = getattr(method, "max_words", None), [], 0
    true_of_images = true_captions(images, captions, max_words)
    for caption, image in zip(tqdm(captions, unit=" captions", disable=not progress), images, strict=True):
        chosen, forms, refused = list[str](), set[str](), 0
        caption_meaning = meaning(clean(caption, max_words))
        candidates = method(caption, random.Random(digest(f"{seed}\0{caption}")))
        for candidate in [candidates] if isinstance(candidates, str) else candidates:
            form = comparable(candidate)
            if not form or form in forms or (image, form) in true_of_images:
                refused += 1
            elif meaning(candidate) == caption_meaning:
                refused += 1
                same_meaning += 1
            else:
                forms.add(form)
                chosen.append(candidate)
                refused = 0
            if len(chosen) == k or refused == _PATIENCE:
                break
        negatives.append(chosen)
    return negatives, same_meaning


def captions_of_images(captions: Iterable[str], image_index: ImageIndex) -> tuple[list[str], list[Hashable]]:
    """The captions as a list, and the image of each; ValueError if they are not strings or lengths differ."""
    if isinstance(captions, str):
        raise ValueError(f"captions is one string, {captions[:40]!r}. Pass a list of captions.")
    captions = list(captions)
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"Caption {index} is a {type(caption).__name__}, not a str. Pass captions.")
    images = [None] * len(captions) if image_index is None else list(image_index)
    if len(images) != len(captions):
        raise ValueError(f"image_index has {len(images)} values for {len(captions)} captions. Pass one per caption.")
    # A caption whose image is unknown has one of its own.
    return captions, [object() if image is None else image for image in images]
