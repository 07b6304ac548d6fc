"""Taggers: parts of speech by HanTa, spaCy or the user's own function, and lists of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from labclip.packages import require

Tagger = Callable[[list[str]], Sequence[str]]
AnyTagger = str | Tagger | None

FAMILIES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "colours": (
        ("red", "maroon"), ("orange",), ("yellow", "gold", "golden"), ("green",), ("blue", "turquoise", "teal"),
        ("purple", "violet", "lavender"), ("pink",), ("brown", "tan", "beige"), ("white", "cream"), ("black",),
        ("gray", "grey", "silver"),
    ),
    "sizes": (("small", "little", "tiny"), ("big", "large", "huge", "giant", "enormous")),
    "materials": (
        ("wooden", "wood"), ("metal", "metallic", "steel", "iron"), ("plastic",), ("glass",), ("brick",),
        ("stone", "rock"), ("leather",), ("concrete", "cement"),
    ),
    "ages": (("young", "younger"), ("old", "older", "elderly")),
    "numbers": (("two",), ("three",), ("four",), ("five",), ("six",), ("seven",), ("eight",)),
}  # fmt: skip
"""Modifiers that exclude each other. The words of one group may be said of the same object: none is a foil for another,
and the first of a group is the one that foils use. Numbers are in ascending order: three objects are also two."""

POSITIONS = frozenset(
    (
        "left", "right", "top", "bottom", "front", "back", "rear", "side", "sides", "middle", "center", "centre",
        "corner", "edge", "end", "inside", "outside", "foreground", "background", "distance", "next", "close", "near",
        "far", "other", "upper", "lower", "opposite",
    )
)  # fmt: skip
"""Words of where something is, which a shuffle leaves in their place: "to the cup of a red right" says nothing."""

COLOURS = frozenset(word for group in FAMILIES["colours"] for word in group)

# BNC C5 (HanTa), Penn Treebank (spaCy, NLTK) and Universal Dependencies, by how their tags begin.
_NOUN = ("NN", "NP", "NOUN", "PROPN")
_ADJECTIVE = ("AJ", "JJ", "ADJ")

# HanTa's time grows with the cube of a word's length, and only the ending decides: a web address must not stop a run.
_LONGEST = 40


def is_noun(tag: str) -> bool:
    """Whether a C5, Penn or Universal tag is a noun's, proper nouns included."""
    return tag.startswith(_NOUN)


def is_adjective(tag: str) -> bool:
    """Whether a C5, Penn or Universal tag is an adjective's, comparatives included.

    >>> [is_adjective(tag) for tag in ("AJ0", "AJC", "JJ", "JJR", "ADJ", "AT0", "ADV")]
    [True, True, True, True, True, False, False]
    """
    return tag.startswith(_ADJECTIVE)


def is_object(word: str, tag: str) -> bool:
    """Whether a word names what is in an image: a noun, but no word of position and no colour."""
    return is_noun(tag) and word not in POSITIONS and word not in COLOURS


def is_quality(word: str, tag: str) -> bool:
    """Whether a word says how an object is: an adjective or a colour, but no word of position."""
    return word in COLOURS or (is_adjective(tag) and word not in POSITIONS)


def get_tagger(tagger: AnyTagger) -> Tagger:
    """A function from the words of a caption to their tags: "hanta" or None, "spacy", or such a function as it is."""
    if callable(tagger):
        return tagger
    name = tagger or "hanta"
    if name not in _BY_NAME:
        raise ValueError(f"There is no tagger {tagger!r}. Pass {', '.join(map(repr, _BY_NAME))}, or a function.")
    return _BY_NAME[name]()


@cache
def _hanta() -> Tagger:
    """HanTa's English model, from its own folder: it would unpickle a file of that name from the current one."""
    module = require(
        "HanTa.HanoverTagger", "Nouns and adjectives are found by HanTa", 'pip install "labclip[negatives]"'
    )
    model = module.HanoverTagger(str(Path(module.__file__).with_name("morphmodel_en.pgz")))
    # A pure function of the word, and captions use few words: the same tags, sooner.
    model.analyze_forward = lru_cache(1 << 16)(model.analyze_forward)
    # HanTa looks at a word's ending, never at an empty word.
    return lambda words: model.tag_sent([word[-_LONGEST:] for word in words], taglevel=0)


@cache
def spacy_model() -> Any:
    """The small English model of spaCy: of a text its tokens, with their tags."""
    install = "pip install spacy && python -m spacy download en_core_web_sm"
    spacy = require("spacy", "Parts of speech by spaCy need it installed", install)
    try:
        return spacy.load("en_core_web_sm", exclude=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise ValueError("spaCy has no model en_core_web_sm. Type: python -m spacy download en_core_web_sm") from error


def _spacy() -> Tagger:
    """spaCy, on our words instead of its own."""
    model = spacy_model()
    document = require("spacy.tokens", "Parts of speech by spaCy need it installed", "pip install spacy").Doc
    return lambda words: [token.tag_ for token in model(document(model.vocab, words=words))]


_BY_NAME: dict[str, Callable[[], Tagger]] = {"hanta": _hanta, "spacy": _spacy}
