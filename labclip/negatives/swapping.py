"""Negatives that swap two listed attributes, or replace a relation by its opposite."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from labclip.negatives.choosing import LONGEST, ImageIndex, generate

# Relations and their opposites. If a list of attributes has both of a pair, each replaces the other.
RELATIONS = {"left": "right", "above": "below", "in front of": "behind"}

Attributes = Iterable[str | tuple[str, str]] | Mapping[str, str]

_ARTICLE = re.compile(r"(?<![\w'’-])(an?)\s+$", re.IGNORECASE)
# Exceptions to the rule that "an" precedes a vowel letter: "an hour", "a unit".
_ARTICLE_EXCEPTIONS = re.compile(
    r"hour|honest|honou?r|heir|8|11\b|18\b|one\b|once\b|e(?:u|we)|u(?:ni(?![nmd])|s[aeu]|t[ie]|k|ri|fo|-)",
    re.IGNORECASE,
)

# The text between attributes that describe the same object: "red, white and blue".
_JOINED = re.compile(r"(?:[\s,/&+]|\b(?:and|or|an?|the)\b)*", re.IGNORECASE)


class _Mention(NamedTuple):
    """An attribute in a caption."""

    start: int  # characters of the caption
    end: int
    text: str
    key: str  # lower case, single spaces
    run: int  # equal for attributes with only commas, "and" and the like between them


_Edit = tuple[_Mention, str, _Mention | None]
"""The mention to replace, its new text, and the mention that the new text comes from, if the caption has it."""


class Swapper:
    """The method of `swap`: swaps two attributes, or reverses a relation.

    Args:
        attributes: As in `swap`.
    """

    def __init__(self, attributes: Attributes) -> None:
        words, self._opposites = _parse_attributes(attributes)
        self._pattern = phrase_pattern({*words, *self._opposites})

    def __call__(self, caption: str, rng: random.Random) -> Iterator[str]:
        """Yield each swap and each reversal once, in random order; nothing if the caption is longer than `LONGEST`."""
        mentions = [] if len(caption) > LONGEST else list(_mentions(self._pattern, caption))
        attributes = [mention for mention in mentions if mention.key not in self._opposites]
        changes: list[list[_Edit]] = [
            [(first, second.text, second), (second, first.text, first)]
            for first, second in itertools.combinations(attributes, 2)
            if first.key != second.key and first.run != second.run
        ]
        # Reverse all mentions together, so that "on the left ..., on the right ..." stays a sentence.
        relations = [mention for mention in mentions if mention.key in self._opposites]
        for pair in sorted({tuple(sorted((mention.key, self._opposites[mention.key]))) for mention in relations}):
            changes.append(
                [(mention, self._opposites[mention.key], None) for mention in relations if mention.key in pair]
            )
        rng.shuffle(changes)
        return (_rewrite(caption, change) for change in changes)


def phrase_pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds whole phrases in any case. Longer ones come first: "light blue" is not "blue"."""
    ordered = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    alternatives = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in ordered)
    return re.compile(rf"(?<!\w)(?<!\w-)(?:{alternatives})(?!\w|-\w)", re.IGNORECASE)


def swap(
    captions: Iterable[str], attributes: Attributes, *, k: int = 1, seed: int = 0, image_index: ImageIndex = None
) -> list[Any]:
    """Make hard negatives by swapping two of the listed attributes in a caption.

    Attributes are found as whole words in any case, longer phrases first. Capitals and articles are adapted. Attributes
    of the same object ("red, white and blue") are not swapped with each other, because that changes nothing. Words with
    an opposite are replaced by it instead, so one of them in a caption is enough.

    >>> colours = ["red", "orange", "light blue", "blue"]
    >>> swap(["An orange cube and a light blue ball.", "A red cube."], colours)
    ['A light blue cube and an orange ball.', None]
    >>> swap(["A cat left of a dog.", "a lamp above a bed"], {"left": "right", "above": "below"})
    ['A cat right of a dog.', 'a lamp below a bed']

    Args:
        captions: Captions in any form. Punctuation and case stay.
        attributes: A list of words or phrases, any two of which may be swapped, and of pairs `(word, opposite)`; or a
            mapping from words to opposites. Two plain words that are opposites in `RELATIONS`, such as "left of" and
            "right of", count as a pair. List only words of one kind: swapping a colour and a shape makes no sentence.
        k: As in `generate`.
        seed: As in `generate`.
        image_index: As in `generate`.

    Returns:
        As in `generate`.

    Raises:
        ValueError: As in `generate`, and if there are neither two attributes nor a pair, or a word has two opposites.

    Source: arXiv:2502.03566 (LABCLIP), which swaps the two colours or textures of its CLEVR and PUG captions.
    """
    return generate(captions, Swapper(attributes), k=k, seed=seed, image_index=image_index)


def _mentions(pattern: re.Pattern[str], caption: str) -> Iterator[_Mention]:
    """The attributes of a caption, in order."""
    end = run = 0
    for match in pattern.finditer(caption):
        run += not _JOINED.fullmatch(caption, end, match.start())
        end = match.end()
        yield _Mention(match.start(), end, match[0], _key(match[0]), run)


def _parse_attributes(attributes: Attributes) -> tuple[set[str], dict[str, str]]:
    """The words that may be swapped, and the opposite of each other word."""
    if isinstance(attributes, str):
        raise ValueError(f"attributes is one string, {attributes!r}. Pass a list of words.")
    items = list(attributes.items() if isinstance(attributes, Mapping) else attributes)
    words = {_key(item) for item in items if isinstance(item, str)}
    pairs = [(_key(word), _key(other)) for word, other in (item for item in items if not isinstance(item, str))]
    if "" in words.union(*pairs):
        raise ValueError("An attribute is empty. Leave it out.")
    for (relation, other), word in itertools.product(RELATIONS.items(), sorted(words)):
        opposite = re.sub(rf"\b{relation}\b", other, word)
        if opposite != word and opposite in words:
            pairs.append((word, opposite))
    opposites: dict[str, str] = {}
    for word, other in [*pairs, *((other, word) for word, other in pairs)]:
        if word == other or opposites.setdefault(word, other) != other:
            raise ValueError(
                f"{word!r} has the opposites {opposites.get(word, word)!r} and {other!r}. Pass one other word."
            )
    if len(words - opposites.keys()) < 2 and not opposites:
        raise ValueError(f"swap needs two different attributes or a pair of opposites, but got {sorted(words)}.")
    return words - opposites.keys(), opposites


def _key(text: str) -> str:
    return " ".join(text.lower().split())


def _rewrite(caption: str, change: list[_Edit]) -> str:
    """Apply edits to a caption, and adapt the articles before them."""
    pieces, end = [], 0  # `end`: the caption is copied up to here
    for slot, text, origin in change:
        article = _ARTICLE.search(caption, 0, slot.start)
        if article:
            article_of_text = _ARTICLE.search(caption, 0, origin.start) if origin else None
            new_article = article_of_text[1].lower() if article_of_text else indefinite_article(text)
            if article[1][0].isupper():  # the replaced word decides between "An" and "AN"
                is_upper = slot.text.isupper() and len(slot.text) > 1
                new_article = new_article.upper() if is_upper else new_article.capitalize()
            pieces += [caption[end : article.start(1)], new_article]
            end = article.end(1)
        pieces += [caption[end : slot.start], _match_case(text, slot.text)]
        end = slot.end
    return "".join([*pieces, caption[end:]])


def indefinite_article(word: str) -> str:
    """The indefinite article before a word.

    >>> [indefinite_article(word) for word in ("red", "orange", "hour", "unit")]
    ['a', 'an', 'an', 'a']
    """
    has_vowel = word[0].lower() in "aeiou"
    return "an" if has_vowel != bool(_ARTICLE_EXCEPTIONS.match(word)) else "a"


def _match_case(text: str, slot: str) -> str:
    """The text in the case of `slot`; unchanged if either has mixed case ("iPhone")."""
    cases = (str.lower, str.capitalize, str.upper)
    case = next((case for case in cases if case(slot) == slot), None)
    if case is None or not any(case(text) == text for case in cases):
        return text
    converted = case(text)
    return converted if converted.lower() == text.lower() else text
