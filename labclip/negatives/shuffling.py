"""The paper's negatives: nouns and adjectives shuffled, each among the positions of its kind."""

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
    """The method of `shuffle`: rearranges a caption's nouns and adjectives.

    Args:
        tagger: As in `shuffle`.
        max_words: Number of words of the cleaned caption to keep; None keeps all.
    """

    def __init__(self, tagger: AnyTagger = None, max_words: int | None = 40) -> None:
        self._tagger, self.max_words = get_tagger(tagger), max_words

    def __call__(self, caption: str, rng: random.Random) -> Iterator[str]:
        """Yield each different arrangement of the cleaned caption once; nothing if it is longer than `LONGEST`."""
        text = clean(caption, self.max_words)
        words, gaps = WORD.findall(text), WORD.split(text)
        if not words or len(text) > LONGEST:
            return
        tags = self._tagger(words)
        nouns = [index for index, (word, tag) in enumerate(zip(words, tags, strict=True)) if is_object(word, tag)]
        adjectives = [index for index, (word, tag) in enumerate(zip(words, tags, strict=True)) if is_quality(word, tag)]
        for arranged in _arrangements([words[i] for i in nouns], [words[i] for i in adjectives], rng):
            for index, word in zip(nouns + adjectives, arranged, strict=True):
                words[index] = word
            yield "".join(itertools.chain.from_iterable(zip(gaps, [*words, ""], strict=True)))


def shuffle(
    captions: Iterable[str], *, k: int = 1, seed: int = 0, tagger: AnyTagger = None, image_index: ImageIndex = None
) -> list[Any]:
    """Make the paper's hard negatives: nouns swapped with nouns, adjectives with adjectives.

    The caption is cleaned as in ARO (`clean`, 40 words), and its words are tagged. Nouns are permuted among the
    positions of nouns, adjectives and colours among those of adjectives. Words of position, such as "left", stay.
    Results that mean the same as the caption (`labclip.data.cleaning.meaning`) are left out.

    A negative is in lower case and without a full stop. So encode the *cleaned* caption with it: otherwise a fit can
    learn to tell the two by the full stop.

    >>> def tagger(words):
    ...     tags = {"cube": "NN", "sphere": "NN", "red": "JJ", "blue": "JJ"}
    ...     return [tags.get(word, "X") for word in words]
    >>> shuffle(["A red cube.", "A red cube and a blue sphere."], tagger=tagger)
    [None, 'a blue cube and a red sphere']
    >>> shuffle(["A red cube and a blue sphere."], k=2, tagger=tagger)
    [['a blue cube and a red sphere', 'a red sphere and a blue cube']]

    Args:
        captions: Captions. "hanta" and "spacy" need English.
        k: As in `generate`.
        seed: As in `generate`.
        image_index: As in `generate`.
        tagger: "hanta" (also when None), "spacy", or a function from a caption's words to one tag per word, in the C5,
            Penn or Universal tag set.

    Returns:
        As in `generate`.

    Raises:
        MissingPackageError: If the tagger is not installed; it is a ModuleNotFoundError and a ValueError.
        ValueError: As in `generate`.

    Source: arXiv:2502.03566 (LABCLIP), its COCO negatives, after ARO's noun and adjective shuffle (arXiv:2210.01936).
    """
    return generate(captions, Shuffler(tagger), k=k, seed=seed, image_index=image_index)


def _arrangements(nouns: list[str], adjectives: list[str], rng: random.Random) -> Iterator[tuple[str, ...]]:
    """Every arrangement except the given one, once each, in random order."""
    total = math.prod(
        math.factorial(len(words)) // math.prod(map(math.factorial, Counter(words).values()))  # equal words count once
        for words in (nouns, adjectives)
    )
    yielded = {(*nouns, *adjectives)}
    nouns, adjectives = list(nouns), list(adjectives)
    while len(yielded) < total:
        rng.shuffle(nouns)
        rng.shuffle(adjectives)
        if (arranged := (*nouns, *adjectives)) not in yielded:
            yielded.add(arranged)
            yield arranged
