"""Exact negatives: two of the listed attributes swapped, or a relation replaced by its opposite."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from labclip.negatives.choosing import LONGEST, ImageIndex, generate

# Relations and their opposites. Where a list of attributes names both of two, each stands for the other.
RELATIONS = {"left": "right", "above": "below", "in front of": "behind"}

Attributes = Iterable[str | tuple[str, str]] | Mapping[str, str]

_ARTICLE = re.compile(r"(?<![\w'’-])(an?)\s+$", re.IGNORECASE)
# Words whose first sound is not what their first letter says; before the others "an" goes with a vowel letter.
_SOUNDS_OTHERWISE = re.compile(
    r"hour|honest|honou?r|heir|8|11\b|18\b|one\b|once\b|e(?:u|we)|u(?:ni(?![nmd])|s[aeu]|t[ie]|k|ri|fo|-)",
    re.IGNORECASE,
)

# What may stand between "red", "white" and "blue" where all three are said of one object.
_JOINED = re.compile(r"(?:[\s,/&+]|\b(?:and|or|an?|the)\b)*", re.IGNORECASE)


class _Mention(NamedTuple):
    """A place where a caption names an attribute."""

    start: int
    end: int
    text: str
    key: str
    run: int  # mentions with only commas and "and" between share it


_Edit = tuple[_Mention, str, _Mention | None]
"""A mention, the attribute that takes its place, and where that stood, if it stood in the caption."""


class Swapper:
    """The method of `swap`: two attributes swapped, or a relation reversed.

    Args:
        attributes: As `swap` takes them.
    """

    def __init__(self, attributes: Attributes) -> None:
        words, self._opposites = _parse(attributes)
        self._pattern = phrase_pattern({*words, *self._opposites})

    def __call__(self, caption: str, rng: random.Random) -> Iterator[str]:
        """Every swap of two different attributes and reversal of a relation, each once; none of a text too long."""
        mentions = [] if len(caption) > LONGEST else list(_mentions(self._pattern, caption))
        swapped = [mention for mention in mentions if mention.key not in self._opposites]
        changes: list[list[_Edit]] = [
            [(first, second.text, second), (second, first.text, first)]
            for first, second in itertools.combinations(swapped, 2)
            if first.key != second.key and first.run != second.run
        ]
        # All mentions of a relation at once: "on the left ..., on the right ..." stays a sentence.
        relations = [mention for mention in mentions if mention.key in self._opposites]
        for pair in sorted({tuple(sorted((mention.key, self._opposites[mention.key]))) for mention in relations}):
            changes.append(
                [(mention, self._opposites[mention.key], None) for mention in relations if mention.key in pair]
            )
        rng.shuffle(changes)
        return (_rewrite(caption, change) for change in changes)


def phrase_pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds whole phrases in any case, the longest first: "light blue" is not "blue"."""
    ordered = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    either = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in ordered)
    return re.compile(rf"(?<!\w)(?<!\w-)(?:{either})(?!\w|-\w)", re.IGNORECASE)


def swap(
    captions: Iterable[str], attributes: Attributes, *, k: int = 1, seed: int = 0, image_index: ImageIndex = None
) -> list[Any]:
    """Make hard negatives by swapping two of the listed attributes in a caption.

    Attributes are found as whole words in any case, longer phrases first; what takes a word's place takes its capital
    too, and "a" or "an" goes with the word. Attributes said of one object, "red, white and blue", are not swapped
    with one another: that says the same. Pairs of opposites need no second mention: a caption that names one of
    them, or both, has each replaced by the other.

    >>> colours = ["red", "orange", "light blue", "blue"]
    >>> swap(["An orange cube and a light blue ball.", "A red cube."], colours)
    ['A light blue cube and an orange ball.', None]
    >>> swap(["A cat left of a dog.", "a lamp above a bed"], {"left": "right", "above": "below"})
    ['A cat right of a dog.', 'a lamp below a bed']

    Args:
        captions: Captions in any form; their punctuation and case stay.
        attributes: Words or phrases, any two of which may be swapped; pairs `(word, opposite)` among them, or a
            mapping of pairs alone. Of plain words that are opposites in `RELATIONS`, "left" and "right" or "left of"
            and "right of", each stands for the other as if given as a pair. List only words of one kind: a colour and
            a shape swapped make no sentence.
        k: As in `generate`.
        seed: As in `generate`.
        image_index: As in `generate`.

    Returns:
        One negative a caption, None where the caption names no two different attributes. For `k` above 1 a list of
        them a caption: `k`, or as many as exist.

    Raises:
        ValueError: As in `generate`, and if there are no two attributes, or a word has two opposites.

    Source: arXiv:2502.03566 (LABCLIP), its negatives for CLEVR and PUG, where the two colours or textures are swapped.
    """
    return generate(captions, Swapper(attributes), k=k, seed=seed, image_index=image_index)


def _mentions(pattern: re.Pattern[str], caption: str) -> Iterator[_Mention]:
    end = run = 0
    for match in pattern.finditer(caption):
        run += not _JOINED.fullmatch(caption, end, match.start())
        end = match.end()
        yield _Mention(match.start(), end, match[0], _key(match[0]), run)


def _parse(attributes: Attributes) -> tuple[set[str], dict[str, str]]:
    """The words to swap, and each opposite's opposite."""
    if isinstance(attributes, str):
        raise ValueError(f"attributes is one string, {attributes!r}. Pass a list of words.")
    given = list(attributes.items() if isinstance(attributes, Mapping) else attributes)
    words = {_key(item) for item in given if isinstance(item, str)}
    pairs = [(_key(first), _key(other)) for first, other in (item for item in given if not isinstance(item, str))]
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
                f"{word!r} has the opposites {opposites.get(word, word)!r} and {other!r}. Name one other word."
            )
    if len(words - opposites.keys()) < 2 and not opposites:
        raise ValueError(f"swap needs two different attributes or a pair of opposites, but got {sorted(words)}.")
    return words - opposites.keys(), opposites


def _key(text: str) -> str:
    return " ".join(text.lower().split())


def _rewrite(caption: str, change: list[_Edit]) -> str:
    """The caption with each slot filled, and the articles before the slots to match."""
    parts, done = [], 0
    for slot, text, origin in change:
        article = _ARTICLE.search(caption, 0, slot.start)
        if article:
            given = _ARTICLE.search(caption, 0, origin.start) if origin else None
            word = given[1].lower() if given else indefinite_article(text)
            if article[1][0].isupper():  # the noun decides between "An" and "AN"
                word = word.upper() if slot.text.isupper() and len(slot.text) > 1 else word.capitalize()
            parts += [caption[done : article.start(1)], word]
            done = article.end(1)
        parts += [caption[done : slot.start], _like(text, slot.text)]
        done = slot.end
    return "".join([*parts, caption[done:]])


def indefinite_article(word: str) -> str:
    """The indefinite article before a word.

    >>> [indefinite_article(word) for word in ("red", "orange", "hour", "unit")]
    ['a', 'an', 'an', 'a']
    """
    vowel = word[0].lower() in "aeiou"
    return "an" if vowel != bool(_SOUNDS_OTHERWISE.match(word)) else "a"


def _like(text: str, slot: str) -> str:
    """A text in the case of another; as it is where either mixes cases ("iPhone")."""
    forms = (str.lower, str.capitalize, str.upper)
    form = next((form for form in forms if form(slot) == slot), None)
    if form is None or not any(form(text) == text for form in forms):
        return text
    made = form(text)
    return made if made.lower() == text.lower() else text
