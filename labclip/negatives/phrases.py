"""Parts and keywords of captions, as people type them into a search. Each part has a wrong version."""

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

Group = tuple[str, int]  # a family of modifiers, and the index of a group in it
_GROUPS: dict[str, Group] = {
    word: (family, index) for family, groups in FAMILIES.items() for index, group in enumerate(groups) for word in group
}
_ADULTS = frozenset({"man", "woman", "lady", "guy", "gentleman", "person", "couple"})
# The colour of a person means the skin. The age of anything but an adult has no opposite that people type.
_PEOPLE = _ADULTS | {"boy", "girl", "child", "kid", "baby", "toddler"}
_FRUIT = frozenset({"juice", "slice", "wedge", "peel", "tree", "half"})  # before these, "orange" is a fruit
_CONJUNCTIONS = frozenset({"and", "or", "&", "/", ",", "-"})
_ADVERB = ("AV", "RB", "ADV")  # in C5, Penn and Universal tags
_ARTICLES = frozenset({"a", "an", "another", "one"})
_SINGULAR = {
    "men": "man", "women": "woman", "gentlemen": "gentleman", "people": "person", "children": "child", "mice": "mouse",
    "feet": "foot", "halves": "half",
}  # fmt: skip


def parts(
    captions: Iterable[str], *, image_index: ImageIndex = None, seed: int = 0, tagger: AnyTagger = None
) -> list[list[Part]]:
    """Find the noun phrases with a modifier in captions, and make a wrong version of each.

    The modifier is a colour, a size, a material, an age or a number (`FAMILIES`). The wrong version has another
    modifier of the same family: that of another noun of the caption ("swap"), or else one that no caption of the image
    has ("foil").

    >>> def tagger(words):
    ...     kinds = {"man": "NN", "hat": "NN", "shirt": "NN", "red": "JJ", "blue": "JJ"}
    ...     return [kinds.get(word, "X") for word in words]
    >>> for part in parts(["A man with a red hat and a blue shirt."], tagger=tagger)[0]:
    ...     print(*part, sep=", ")
    a red hat, a blue hat, swap
    a blue shirt, a red shirt, swap

    Args:
        captions: Captions, in English.
        image_index: The image that each caption describes, one value per caption. By default every caption has its own.
        seed: Seed of the choice among several wrong modifiers. Seed and caption alone decide it.
        tagger: "hanta" (also when None), "spacy", or a function from a caption's words to one tag per word, in the C5,
            Penn or Universal tag set.

    Returns:
        The parts of each caption, in the order of its words; an empty list if it has none.

    Raises:
        MissingPackageError: If the tagger is not installed; it is a ModuleNotFoundError and a ValueError.
        ValueError: If captions are not strings, or `image_index` has another length.

    Source: the kinds of wrong parts in arXiv:2602.23906 (half-truths), as far as a caption rules them out.
    """
    captions, images = captions_of_images(captions, image_index)
    return [parts for parts, _ in parts_and_keywords(captions, images, seed, get_tagger(tagger))]


def keywords(captions: Iterable[str], *, tagger: AnyTagger = None) -> list[list[str]]:
    """Find the words of captions that people type as tags: nouns and adjectives, without words of position.

    They are in lower case, each once, and consecutive nouns are one keyword ("fire hydrant"). Keywords do not say which
    attribute belongs to which object, so they have no negatives.

    >>> def tagger(words):
    ...     kinds = {"man": "NN", "shirt": "NN", "red": "JJ"}
    ...     return [kinds.get(word, "X") for word in words]
    >>> keywords(["A man in a red shirt."], tagger=tagger)
    [['man', 'red', 'shirt']]

    Args:
        captions: Captions, in English.
        tagger: As in `parts`.

    Returns:
        The keywords of each caption, in the order of its words.

    Raises:
        MissingPackageError: As in `parts`.
        ValueError: As in `parts`.
    """
    tag = get_tagger(tagger)
    captions, _ = captions_of_images(captions, None)
    return [_TaggedCaption.of(caption, tag).keywords for caption in captions]


def parts_and_keywords(
    captions: Sequence[str], images: Sequence[Hashable], seed: int, tag: Tagger, *, progress: bool = False
) -> list[tuple[list[Part], list[str]]]:
    """The parts and the keywords of each caption."""
    tagged = [_TaggedCaption.of(caption, tag) for caption in tqdm(captions, unit=" captions", disable=not progress)]
    captions_of_image: dict[Hashable, list[_TaggedCaption]] = defaultdict(list)
    for caption, image in zip(tagged, images, strict=True):
        captions_of_image[image].append(caption)
    rows = []
    for caption, image in zip(tagged, images, strict=True):
        rng = random.Random(digest(f"{seed}\0{caption.caption}"))
        rows.append((list(_parts(caption, captions_of_image[image], rng)), caption.keywords))
    return rows


class _Phrase(NamedTuple):
    """A modifier and the noun that it describes."""

    position: int  # of the modifier, in the caption's words
    modifier: str
    group: Group  # of the modifier
    rest: list[str]  # the words after the modifier, up to the noun
    is_joined: bool  # "black and white cat": the noun has another modifier of the family
    has_article: bool  # "a very small cat"


class _TaggedCaption(NamedTuple):
    """The phrases, modifiers and keywords found in a caption."""

    caption: str
    words: frozenset[str]  # in the singular
    modifiers: list[tuple[int, Group]]  # each modifier's position and group
    phrases: list[_Phrase]
    keywords: list[str]

    @classmethod
    def of(cls, caption: str, tag: Tagger) -> _TaggedCaption:
        """Tag a caption."""
        words = WORD.findall(clean(caption)) if len(caption) <= LONGEST else []
        tags = tag(words) if words else []
        modifiers = [(position, _GROUPS[word]) for position, word in enumerate(words) if word in _GROUPS]
        phrases = [phrase for position, _ in modifiers if (phrase := _find_phrase(words, tags, position))]
        return cls(caption, frozenset(map(_singular, words)), modifiers, phrases, _keywords(words, tags))

    def may_describe(self, noun: str, group: Group) -> bool:
        """Whether the caption may describe the noun, given in the singular, by a modifier of the group."""
        if noun not in self.words:
            return False
        # The nouns of each phrase: "a black train engine" may mean a black train too. Other modifiers fit any noun.
        nouns = {phrase.position: set(map(_singular, phrase.rest)) for phrase in self.phrases if not phrase.is_joined}
        return any(other == group and noun in nouns.get(position, {noun}) for position, other in self.modifiers)


def _find_phrase(words: Sequence[str], tags: Sequence[str], position: int) -> _Phrase | None:
    """The phrase that the modifier at `position` begins; None if no noun follows or the phrase is not useful."""
    nouns = [is_noun(tag) for tag in tags]
    end = position + 1
    while end < len(words) and not nouns[end] and _is_modifier(words[end], tags[end]):
        end += 1
    while end < len(words) and nouns[end] and words[end][0].isalpha():
        end += 1
    modifier, noun = words[position], words[end - 1]
    group = _GROUPS[modifier]
    if end == position + 1 or not nouns[end - 1] or not _is_useful(modifier, group[0], noun):
        return None
    start = position
    while start and (is_adjective(tags[start - 1]) or tags[start - 1].startswith(_ADVERB)):
        start -= 1
    before = words[start - 1] if start else ""
    is_joined = start > 1 and before in _CONJUNCTIONS and _is_modifier(words[start - 2], tags[start - 2])
    has_article = before in _ARTICLES and _singular(noun) == noun
    return _Phrase(position, modifier, group, list(words[position + 1 : end]), is_joined, has_article)


def _keywords(words: Sequence[str], tags: Sequence[str]) -> list[str]:
    keywords: list[str] = []
    for are_objects, run in groupby(zip(words, tags, strict=True), lambda pair: is_object(*pair)):
        if are_objects:
            keywords.append(" ".join(word for word, _ in run))
        else:
            keywords += [word for word, tag in run if is_quality(word, tag)]
    return list(dict.fromkeys(keywords))


def _is_modifier(word: str, tag: str) -> bool:
    return is_adjective(tag) or word in _GROUPS


def _parts(caption: _TaggedCaption, captions_of_image: list[_TaggedCaption], rng: random.Random) -> Iterator[Part]:
    """The parts of a caption, each with a negative that no caption of the image makes true."""
    used_groups = {group for other in captions_of_image for _, group in other.modifiers}
    phrases = [phrase for phrase in caption.phrases if not phrase.is_joined]
    modifiers = dict.fromkeys((phrase.modifier, phrase.group) for phrase in phrases)
    seen = set()
    for phrase in phrases:
        (family, index), rest, noun = phrase.group, phrase.rest, _singular(phrase.rest[-1])
        words = (phrase.modifier, *rest)
        if words in seen or any(_GROUPS.get(word, ("",))[0] == family for word in rest):
            continue
        seen.add(words)
        is_number = family == "numbers"  # only a larger number is wrong: three objects are also two
        swaps = [
            word
            for word, group in modifiers
            if group[0] == family
            and (group[1] > index if is_number else group[1] != index)
            and not any(other.may_describe(noun, group) for other in captions_of_image)
        ]
        first = 1 + max(i for name, i in used_groups if name == family) if is_number else 0
        foils = [group[0] for i, group in enumerate(FAMILIES[family]) if i >= first and (family, i) not in used_groups]
        if wrong_modifiers := swaps or foils:
            text, negative = (
                " ".join([*([indefinite_article(word)] if phrase.has_article else []), word, *rest])
                for word in (phrase.modifier, rng.choice(wrong_modifiers))
            )
            yield Part(text, negative, "swap" if swaps else "foil")


def _is_useful(modifier: str, family: str, noun: str) -> bool:
    """Whether people would type the noun with another modifier of the family."""
    singular = _singular(noun)
    if noun == "pair" or (modifier == "orange" and singular in _FRUIT):
        return False
    if family == "ages":
        return singular in _ADULTS
    if family == "numbers":
        return singular != noun
    return family not in ("colours", "materials") or singular not in _PEOPLE


def _singular(noun: str) -> str:
    """The singular of a noun, good enough to compare nouns.

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
