"""The paper's negatives: nouns among the noun slots, adjectives among the adjective slots."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from labclip.data.cleaning import WORD, clean
from labclip.negatives.choosing import LONGEST, ImageIndex, generate
from labclip.negatives.taggers import AnyTagger, get_tagger, is_object, is_quality


class Shuffler:
    """The method of `shuffle`: other arrangements of a caption's nouns and adjectives.

    Args:
        tagger: "hanta" (also when None), "spacy", or a function from words to tags.
        max_words: Words of the cleaned caption that are kept, or None for all.
    """

    def __init__(self, tagger: AnyTagger = None, max_words: int | None = 40) -> None:
        self._tagger, self.max_words = get_tagger(tagger), max_words

    def __call__(self, caption: str, rng: random.Random) -> Iterator[str]:
        """Every other arrangement of the cleaned caption's nouns and adjectives, each once; none of a text too long."""
        text = clean(caption, self.max_words)
        if len(text) > LONGEST:
            return
        words, gaps = WORD.findall(text), WORD.split(text)
        if not words:
            return
        tags = self._tagger(words)
        nouns = [index for index, (word, tag) in enumerate(zip(words, tags, strict=True)) if is_object(word, tag)]
        adjectives = [index for index, (word, tag) in enumerate(zip(words, tags, strict=True)) if is_quality(word, tag)]
        for moved in _arrangements([words[i] for i in nouns], [words[i] for i in adjectives], rng):
            for index, word in zip(nouns + adjectives, moved, strict=True):
                words[index] = word
            yield "".join(itertools.chain.from_iterable(zip(gaps, [*words, ""], strict=True)))


def shuffle(
    captions: Iterable[str], *, k: int = 1, seed: int = 0, tagger: AnyTagger = None, image_index: ImageIndex = None
) -> list[Any]:
    """Make the paper's hard negatives: nouns swapped with nouns, adjectives with adjectives.

    The caption is cleaned as ARO does (`clean`, 40 words), its parts of speech are tagged, and its nouns are permuted
    among the noun slots, its adjectives and colours among the adjective slots; words of position stay.
    What means the same as the caption (`labclip.data.cleaning.meaning`) is left out. A negative therefore is in lower
    case and without a full stop: encode the *cleaned* caption beside it, else a fit can learn to tell the two by their
    full stop.

    >>> def tagger(words):
    ...     tags = {"cube": "NN", "sphere": "NN", "red": "JJ", "blue": "JJ"}
    ...     return [tags.get(word, "X") for word in words]
    >>> shuffle(["A red cube.", "A red cube and a blue sphere."], tagger=tagger)
    [None, 'a blue cube and a red sphere']
    >>> shuffle(["A red cube and a blue sphere."], k=2, tagger=tagger)
    [['a blue cube and a red sphere', 'a red sphere and a blue cube']]

    Args:
        captions: Captions, in English for the taggers that come with a name.
        k: As in `generate`.
        seed: As in `generate`.
        image_index: As in `generate`.
        tagger: "hanta" (also when None), "spacy", or a function from a caption's words to as many tags, in the C5,
            Penn or Universal set.

    Returns:
        One negative a caption, None where no different one exists. For `k` above 1 a list of them a caption: `k`, or
        as many as exist.

    Raises:
        MissingPackageError: If the tagger is not installed; it is a ModuleNotFoundError and a ValueError.
        ValueError: As in `generate`.

    Source: arXiv:2502.03566 (LABCLIP), its COCO negatives, after ARO's noun and adjective shuffle (arXiv:2210.01936).
    """
    return generate(captions, Shuffler(tagger), k=k, seed=seed, image_index=image_index)


def _arrangements(nouns: list[str], adjectives: list[str], rng: random.Random) -> Iterator[tuple[str, ...]]:
    """Every arrangement but the given one, once each, drawn at random."""
    total = _distinct(nouns) * _distinct(adjectives)
    seen = {(*nouns, *adjectives)}
    nouns, adjectives = list(nouns), list(adjectives)
    while len(seen) < total:
        rng.shuffle(nouns)
        rng.shuffle(adjectives)
        if (moved := (*nouns, *adjectives)) not in seen:
            seen.add(moved)
            yield moved


def _distinct(words: list[str]) -> int:
    """Number of distinct arrangements of words that may repeat."""
    return math.factorial(len(words)) // math.prod(map(math.factorial, Counter(words).values()))
