"""Part-of-speech taggers (HanTa, spaCy, or the user's function), and the words that negatives are made with."""

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
"""Groups of modifiers, by family. An object has the modifiers of at most one group of a family, so those of another
group are wrong. Foils use the first word of a group. Numbers are in ascending order: three objects are also two."""

POSITIONS = frozenset(
    (
        "left", "right", "top", "bottom", "front", "back", "rear", "side", "sides", "middle", "center", "centre",
        "corner", "edge", "end", "inside", "outside", "foreground", "background", "distance", "next", "close", "near",
        "far", "other", "upper", "lower", "opposite",
    )
)  # fmt: skip
"""Words of position. A shuffle does not move them: "to the cup of a red right" is nonsense."""

COLOURS = frozenset(word for group in FAMILIES["colours"] for word in group)

# The first letters of tags in BNC C5 (HanTa), Penn Treebank (spaCy, NLTK) and Universal Dependencies.
_NOUN = ("NN", "NP", "NOUN", "PROPN")
_ADJECTIVE = ("AJ", "JJ", "ADJ")

# HanTa's time grows with the cube of a word's length, so that a web address would stop a run. It only needs the ending.
_WORD_LENGTH = 40


def is_noun(tag: str) -> bool:
    """Whether a C5, Penn or Universal tag stands for a noun or proper noun."""
    return tag.startswith(_NOUN)


def is_adjective(tag: str) -> bool:
    """Whether a C5, Penn or Universal tag stands for an adjective, comparatives included.

    >>> [is_adjective(tag) for tag in ("AJ0", "AJC", "JJ", "JJR", "ADJ", "AT0", "ADV")]
    [True, True, True, True, True, False, False]
    """
    return tag.startswith(_ADJECTIVE)


def is_object(word: str, tag: str) -> bool:
    """Whether a word names an object: a noun that is neither a word of position nor a colour."""
    return is_noun(tag) and word not in POSITIONS and word not in COLOURS


def is_quality(word: str, tag: str) -> bool:
    """Whether a word describes an object: a colour, or an adjective that is not a word of position."""
    return word in COLOURS or (is_adjective(tag) and word not in POSITIONS)


def get_tagger(tagger: AnyTagger) -> Tagger:
    """The function from a caption's words to their tags: a name ("hanta" if None) is loaded, a function returned."""
    if callable(tagger):
        return tagger
    name = tagger or "hanta"
    if name not in _LOADERS:
        raise ValueError(f"There is no tagger {tagger!r}. Pass {', '.join(map(repr, _LOADERS))}, or a function.")
    return _LOADERS[name]()


@cache
def _hanta() -> Tagger:
    """HanTa's English model. Its full path is passed: HanTa unpickles a file of that name from the current folder."""
    module = require(
        "HanTa.HanoverTagger", "To find nouns and adjectives, labclip needs HanTa", 'pip install "labclip[negatives]"'
    )
    model = module.HanoverTagger(str(Path(module.__file__).with_name("morphmodel_en.pgz")))
    # A pure function of the word. Captions repeat few words, so caching it is fast.
    model.analyze_forward = lru_cache(1 << 16)(model.analyze_forward)
    return lambda words: model.tag_sent([word[-_WORD_LENGTH:] for word in words], taglevel=0)


@cache
def spacy_model() -> Any:
    """The small English model of spaCy, a function from a text to its tagged tokens."""
    install = "pip install spacy && python -m spacy download en_core_web_sm"
    spacy = require("spacy", "To tag words with spaCy, labclip needs spacy", install)
    try:
        return spacy.load("en_core_web_sm", exclude=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise ValueError("spaCy has no model en_core_web_sm. Type: python -m spacy download en_core_web_sm") from error


def _spacy() -> Tagger:
    """Tags of spaCy for the words that labclip splits, not for its own tokens."""
    model = spacy_model()
    document = require("spacy.tokens", "To tag words with spaCy, labclip needs spacy", "pip install spacy").Doc
    return lambda words: [token.tag_ for token in model(document(model.vocab, words=words))]


_LOADERS: dict[str, Callable[[], Tagger]] = {"hanta": _hanta, "spacy": _spacy}
