"""Parts of captions, as people type them into a search: noun phrases with a wrong one each, and keywords."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from tqdm import tqdm

from labclip.data.cleaning import WORD, clean, digest
from labclip.data.items import Part
from labclip.negatives.choosing import LONGEST, ImageIndex, captions_of_images
from labclip.negatives.swapping import indefinite_article
from labclip.negatives.taggers import (
    FAMILIES,
    AnyTagger,
    Tagger,
    get_tagger,
    is_adjective,
    is_noun,
    is_object,
    is_quality,
)

_GROUPS = {
    word: (family, at) for family, groups in FAMILIES.items() for at, group in enumerate(groups) for word in group
}
_ADULTS = frozenset({"man", "woman", "lady", "guy", "gentleman", "person", "couple"})
# A colour said of people is their skin's; an age said of other nouns has no opposite that people would type.
_PEOPLE = _ADULTS | {"boy", "girl", "child", "kid", "baby", "toddler"}
_FRUIT = frozenset({"juice", "slice", "wedge", "peel", "tree", "half"})  # an orange one is a fruit
_JOINING = frozenset({"and", "or", "&", "/", ",", "-"})
_ADVERB = ("AV", "RB", "ADV")  # in C5, Penn and Universal tags
_ARTICLES = frozenset({"a", "an", "another", "one"})
_SINGULAR = {
    "men": "man", "women": "woman", "gentlemen": "gentleman", "people": "person", "children": "child", "mice": "mouse",
    "feet": "foot", "halves": "half",
}  # fmt: skip


def parts(
    captions: Iterable[str], *, image_index: ImageIndex = None, seed: int = 0, tagger: AnyTagger = None
) -> list[list[Part]]:
    """Find the noun phrases with a modifier in captions, and make a wrong one of each.

    The modifier is a colour, a size, a material, an age or a number (`FAMILIES`). In the wrong one it is replaced by
    the modifier of another noun of the caption, of the same family, or else by one of the family that no caption of
    the image has.

    >>> def tagger(words):
    ...     kinds = {"man": "NN", "hat": "NN", "shirt": "NN", "red": "JJ", "blue": "JJ"}
    ...     return [kinds.get(word, "X") for word in words]
    >>> for part in parts(["A man with a red hat and a blue shirt."], tagger=tagger)[0]:
    ...     print(*part, sep=", ")
    a red hat, a blue hat, swap
    a blue shirt, a red shirt, swap

    Args:
        captions: Captions, in English.
        image_index: Which image each caption describes, one value a caption. By default each has one of its own.
        seed: With the caption itself decides which modifier is taken where there are several.
        tagger: "hanta" (also when None), "spacy", or a function from a caption's words to as many tags, in the C5,
            Penn or Universal set.

    Returns:
        The parts of each caption, in its order; an empty list where it has none.

    Raises:
        MissingPackageError: If the tagger is not installed; it is a ModuleNotFoundError and a ValueError.
        ValueError: If captions are not strings, or `image_index` has another length.

    Source: the kinds of wrong parts are those of arXiv:2602.23906 (half-truths), restricted to what a caption excludes.
    """
    tag = get_tagger(tagger)
    captions, images = captions_of_images(captions, image_index)
    return _parts_of([_Tagged.of(caption, tag) for caption in captions], images, seed)


def keywords(captions: Iterable[str], *, tagger: AnyTagger = None) -> list[list[str]]:
    """Find the words of captions that people type as tags: nouns and adjectives.

    These are nouns, several in a row as one ("fire hydrant"), and adjectives, in lower case and each once; words of
    position are none. They say what is there, not which goes with which, so they have no negative.

    >>> def tagger(words):
    ...     kinds = {"man": "NN", "shirt": "NN", "red": "JJ"}
    ...     return [kinds.get(word, "X") for word in words]
    >>> keywords(["A man in a red shirt."], tagger=tagger)
    [['man', 'red', 'shirt']]

    Args:
        captions: Captions, in English.
        tagger: As in `parts`.

    Returns:
        The keywords of each caption, in its order.

    Raises:
        MissingPackageError: As in `parts`.
        ValueError: As in `parts`.
    """
    tag = get_tagger(tagger)
    captions, _ = captions_of_images(captions, None)
    return [_Tagged.of(caption, tag).keywords for caption in captions]


def parts_and_keywords(
    captions: Sequence[str], images: Sequence[Hashable | None], seed: int, tag: Tagger, *, progress: bool = False
) -> list[tuple[list[Part], list[str]]]:
    """The parts and the keywords of captions, each tagged once, and of each its image, None where that is not known."""
    bar = tqdm(captions, unit=" captions", disable=not progress)
    tagged = [_Tagged.of(caption, tag) for caption in bar]
    return list(zip(_parts_of(tagged, images, seed), [caption.keywords for caption in tagged], strict=True))


def _parts_of(captions: Sequence[_Tagged], images: Sequence[Hashable | None], seed: int) -> list[list[Part]]:
    own = [(number, None) if image is None else image for number, image in enumerate(images)]
    together: dict[Hashable, list[_Tagged]] = defaultdict(list)
    for caption, image in zip(captions, own, strict=True):
        together[image].append(caption)
    return [
        list(_parts(caption, together[image], random.Random(digest(f"{seed}\0{caption.caption}"))))
        for caption, image in zip(captions, own, strict=True)
    ]


class _Phrase(NamedTuple):
    """A modifier with the noun that it belongs to."""

    at: int  # position of the modifier in the caption
    modifier: str
    group: tuple[str, int]  # its family, and its group there
    rest: list[str]  # the words behind it, up to the noun
    joined: bool  # "black and white cat": the cat has another modifier of the family
    indefinite: bool  # "a very small cat"


class _Tagged(NamedTuple):
    """The words of a caption with their tags."""

    caption: str
    words: frozenset[str]  # in the singular
    modifiers: list[tuple[int, tuple[str, int]]]  # position, and family with group
    phrases: list[_Phrase]
    keywords: list[str]

    @classmethod
    def of(cls, caption: str, tag: Tagger) -> _Tagged:
        """Tag a caption."""
        words = WORD.findall(clean(caption)) if len(caption) <= LONGEST else []
        tags = tag(words) if words else []
        modifiers = [(at, _GROUPS[word]) for at, word in enumerate(words) if word in _GROUPS]
        phrases = [phrase for at, _ in modifiers if (phrase := _phrase(words, tags, at))]
        return cls(caption, frozenset(map(_singular, words)), modifiers, phrases, _keywords(words, tags))

    def may_say(self, group: tuple[str, int], noun: str) -> bool:
        """Whether the caption may say a modifier, or one of its group, of a noun in the singular."""
        if noun not in self.words:
            return False
        # The modifier of "a black train engine" may be said of the train too.
        described = {phrase.at: set(map(_singular, phrase.rest)) for phrase in self.phrases if not phrase.joined}
        return any(own == group and noun in described.get(at, {noun}) for at, own in self.modifiers)


def _phrase(words: Sequence[str], tags: Sequence[str], at: int) -> _Phrase | None:
    """The phrase that a modifier begins; None where no noun follows, or it would make no part."""
    nouns = [is_noun(tag) for tag in tags]
    end = at + 1
    while end < len(words) and not nouns[end] and _modifies(words[end], tags[end]):
        end += 1
    while end < len(words) and nouns[end] and words[end][0].isalpha():
        end += 1
    noun, (family, _) = words[end - 1], _GROUPS[words[at]]
    if end == at + 1 or not nouns[end - 1] or not _sensible(words[at], family, noun):
        return None
    start = at
    while start and (is_adjective(tags[start - 1]) or tags[start - 1].startswith(_ADVERB)):
        start -= 1
    before = words[start - 1] if start else ""
    joined = start > 1 and before in _JOINING and _modifies(words[start - 2], tags[start - 2])
    indefinite = before in _ARTICLES and _singular(noun) == noun
    return _Phrase(at, words[at], _GROUPS[words[at]], list(words[at + 1 : end]), joined, indefinite)


def _keywords(words: Sequence[str], tags: Sequence[str]) -> list[str]:
    qualities: list[str] = []
    for is_one, run in groupby(zip(words, tags, strict=True), lambda pair: is_object(*pair)):
        if is_one:
            qualities.append(" ".join(word for word, _ in run))
        else:
            qualities += [word for word, tag in run if is_quality(word, tag)]
    return list(dict.fromkeys(qualities))


def _modifies(word: str, tag: str) -> bool:
    return is_adjective(tag) or word in _GROUPS


def _parts(own: _Tagged, together: list[_Tagged], rng: random.Random) -> Iterator[Part]:
    named = {group for caption in together for _, group in caption.modifiers}
    seen = set()
    for phrase in own.phrases:
        (family, number), rest, noun = phrase.group, phrase.rest, _singular(phrase.rest[-1])
        again = (phrase.modifier, *rest) in seen
        if phrase.joined or again or any(_GROUPS.get(word, ("",))[0] == family for word in rest):
            continue
        seen.add((phrase.modifier, *rest))
        # Of the same family, and what excludes the own one: a smaller number does not.
        others = dict.fromkeys((phrase.modifier, phrase.group) for phrase in own.phrases if not phrase.joined)
        swaps = [
            word
            for word, group in others
            if group[0] == family
            and (group[1] > number if family == "numbers" else group[1] != number)
            and not any(caption.may_say(group, noun) for caption in together)
        ]
        least = max(at for name, at in named if name == family) if family == "numbers" else -1
        foils = [group[0] for at, group in enumerate(FAMILIES[family]) if at > least and (family, at) not in named]
        if wrong := swaps or foils:
            text, negative = (
                " ".join([*([indefinite_article(word)] if phrase.indefinite else []), word, *rest])
                for word in (phrase.modifier, rng.choice(wrong))
            )
            yield Part(text, negative, "swap" if swaps else "foil")


def _sensible(modifier: str, family: str, noun: str) -> bool:
    """Whether a wrong modifier of the family makes a phrase that people would type."""
    singular = _singular(noun)
    if noun == "pair" or (modifier == "orange" and singular in _FRUIT):
        return False
    if family == "ages":
        return singular in _ADULTS
    if family == "numbers":
        return singular != noun
    return family not in ("colours", "materials") or singular not in _PEOPLE


def _singular(noun: str) -> str:
    """A noun in the singular, well enough to compare nouns.

    >>> [_singular(noun) for noun in ("men", "boxes", "ladies", "glass", "dogs", "bus")]
    ['man', 'box', 'lady', 'glass', 'dog', 'bus']
    """
    if noun in _SINGULAR:
        return _SINGULAR[noun]
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("shes", "ches", "xes", "sses", "uses")):
        return noun[:-2]
    return noun if noun.endswith(("ss", "us", "is")) or len(noun) < 4 else noun.removesuffix("s")
