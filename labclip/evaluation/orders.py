"""Captions with their words in another order, as ARO's order tests have them (arXiv:2210.01936)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

from labclip.data.cleaning import clean, comparable, words_of
from labclip.negatives.taggers import Tagger, is_adjective, is_noun

MAX_WORDS = 30
"""Words that a caption keeps."""

_DRAWS = 20  # of one shuffle, before it is given up as one that can only say the same

Shuffle = Callable[[list[str], Sequence[str], random.Random], list[str]]


def options(caption: str, tagger: Tagger, seed: int) -> tuple[str, list[str | None]]:
    """The cleaned caption, and its four shuffles.

    Words are tagged in lower case, and shuffled as the caption has them; then both are cleaned and cut.

    Args:
        caption: As the file has it.
        tagger: From words to tags.
        seed: With the caption itself decides the draws.

    Returns:
        The caption, and one text a shuffle in the order of `SHUFFLES`; None where no draw said anything else.
    """
    own = clean(caption, MAX_WORDS)
    words = words_of(caption)
    tags = tagger([word.lower() for word in words]) if words else []
    found: list[str | None] = []
    for name, shuffle in SHUFFLES.items():
        rng = random.Random(f"{seed} {name} {caption}")
        drawn = (clean(" ".join(shuffle(list(words), tags, rng)), MAX_WORDS) for _ in range(_DRAWS))
        found.append(next((text for text in drawn if comparable(text) != comparable(own)), None))
    return own, found


def _nouns_and_adjectives(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    """Nouns among the nouns, adjectives among the adjectives."""
    for kind in (is_noun, is_adjective):
        _permute(words, [place for place, tag in enumerate(tags) if kind(tag)], rng)
    return words


def _all_but_nouns_and_adjectives(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    """All other words among themselves."""
    _permute(words, [place for place, tag in enumerate(tags) if not is_noun(tag) and not is_adjective(tag)], rng)
    return words


def _within_trigrams(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    """The words of each three that follow one another."""
    return list(itertools.chain.from_iterable(rng.sample(three, len(three)) for three in _trigrams(words)))


def _trigrams_whole(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    """Threes of words, each kept as it is."""
    threes = _trigrams(words)
    return list(itertools.chain.from_iterable(rng.sample(threes, len(threes))))


SHUFFLES: dict[str, Shuffle] = {
    "shuffle_nouns_and_adj": _nouns_and_adjectives,
    "shuffle_allbut_nouns_and_adj": _all_but_nouns_and_adjectives,
    "shuffle_within_trigrams": _within_trigrams,
    "shuffle_trigrams": _trigrams_whole,
}
"""By the names that ARO gives them."""


def _trigrams(words: list[str]) -> list[list[str]]:
    return [words[start : start + 3] for start in range(0, len(words), 3)]


def _permute(words: list[str], places: list[int], rng: random.Random) -> None:
    """Permute the words at some places among these."""
    for place, word in zip(places, rng.sample([words[place] for place in places], len(places)), strict=True):
        words[place] = word
