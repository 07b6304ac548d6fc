"""Parts of speech: HanTa's, spaCy's, or one's own as a function from words to tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from labclip.packages import require

Tagger = Callable[[list[str]], Sequence[str]]
AnyTagger = str | Tagger | None

# BNC C5 (HanTa), Penn Treebank (spaCy, NLTK) and Universal Dependencies, by how their tags begin.
_NOUN = ("NN", "NP", "NOUN", "PROPN")
_ADJECTIVE = ("AJ", "JJ", "ADJ")

# HanTa's time grows with the cube of a word's length, and only the ending decides: a web address must not stop a run.
_LONGEST = 40


def is_noun(tag: str) -> bool:
    """Whether a C5, Penn or Universal tag is a noun's, proper nouns included.

    >>> [is_noun(tag) for tag in ("NN1", "NP0", "NNS", "NNP", "NOUN", "PNP", "VVG")]
    [True, True, True, True, True, False, False]
    """
    return tag.startswith(_NOUN)


def is_adjective(tag: str) -> bool:
    """Whether a C5, Penn or Universal tag is an adjective's, comparatives included.

    >>> [is_adjective(tag) for tag in ("AJ0", "AJC", "JJ", "JJR", "ADJ", "AT0", "ADV")]
    [True, True, True, True, True, False, False]
    """
    return tag.startswith(_ADJECTIVE)


def get_tagger(tagger: AnyTagger) -> Tagger:
    """A function from the words of a caption to their tags.

    Args:
        tagger: "hanta" or None, "spacy", or such a function.

    Raises:
        MissingPackageError: If the package is not installed; it is a ModuleNotFoundError and a ValueError.
        ValueError: If the name is another one, or spaCy lacks its English model.
    """
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
