"""COCO-Order and Flickr30k-Order of ARO: does a model mind the order of a caption's words (arXiv:2210.01936)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from labclip.data.cleaning import clean, comparable, words_of
from labclip.evaluation.benchmarks.captions import captioned
from labclip.evaluation.benchmarks.forms import Form, one_of
from labclip.evaluation.sources import Items, Sources
from labclip.evaluation.tasks import Task
from labclip.negatives.taggers import Tagger, get_tagger, is_adjective, is_noun, spacy_model
from labclip.packages import MissingPackageError

MAX_WORDS = 30
"""Words that a caption keeps."""

_DRAWS = 20  # of one shuffle, before it is given up as one that can only say the same

Tagged = tuple[list[str], Sequence[str]]
"""The words of a caption and their tags."""


def read(
    form: Form,
    sources: Sources,
    *,
    protocol: str = "paper",
    split: str = "test",
    seed: int = 0,
    tagger: str = "",
) -> Task:
    """`accuracy`: the caption beats its four shuffles.

    Args:
        form: Of the captions, as `captions` has it.
        sources: The files.
        protocol: "paper": one draw of each shuffle, as in ARO's code (dataset_zoo/perturbations.py and
            dataset_zoo/aro_datasets.py); one that equals its caption is never preferred to it. "labclip": such a
            shuffle is drawn again.
        split: Of the captions.
        seed: Seed of the shuffles; the originals have none.
        tagger: "hanta" or "spacy"; "" takes spaCy with protocol=paper, as ARO's code, and HanTa with protocol=labclip.
    """
    paper = one_of("protocol", protocol, ("paper", "labclip")) == "paper"
    tagger = tagger or ("spacy" if paper else "hanta")
    rows = captioned(form, sources, split)
    tag = _spacy() if paper and tagger == "spacy" else partial(tag_words, get_tagger(tagger))
    items, equal, without = Items(sources), Counter[str](), 0
    for row, raw, _, location in rows:
        own, shuffled = shuffles_of(raw, tag, seed, draws=1 if paper else _DRAWS)
        equal.update(name for name, text in zip(SHUFFLES, shuffled, strict=True) if text is None)
        others = [text for text in dict.fromkeys(shuffled) if text is not None]
        without += not others
        if others or paper:
            items.add(row, (own, *others), location)
    if counts := ", ".join(f"{count:,} of {name}" for name, count in equal.items()):
        then = "count as right, as in ARO's code" if paper else "are left out"
        sources.notes.append(f"Shuffles equal to their caption {then}: {counts}.")
    if without:
        sources.notes.append(f"{without:,} captions with no other order {'are right' if paper else 'are left out'}.")
    as_aro = "Not as ARO's code, which takes spaCy's parts of speech and draws no shuffle again."
    if paper and tagger == "spacy":
        as_aro = "As ARO's code, but for the seed."
    sources.notes.append(f"Shuffled with seed {seed}, parts of speech by {tagger}. {as_aro}")
    return sources.task(*items.question("accuracy", right_first=True), *items.gallery())


def _spacy() -> Callable[[str], Tagged]:
    """A tagger: a caption to spaCy's words and tags."""
    try:
        model = spacy_model()
    except MissingPackageError as error:
        raise MissingPackageError(f"{error}; or pass options={{'protocol': 'labclip'}}, which needs none.") from None

    def tag(caption: str) -> Tagged:
        tokens = list(model(caption))
        return [token.text for token in tokens], [token.tag_ for token in tokens]

    return tag


def tag_words(tagger: Tagger, caption: str) -> Tagged:
    """The words of a caption as it has them, and their tags in lower case."""
    words = words_of(caption)
    return words, tagger([word.lower() for word in words]) if words else []


def shuffles_of(
    caption: str, tag: Callable[[str], Tagged], seed: int, *, draws: int = _DRAWS
) -> tuple[str, list[str | None]]:
    """The cleaned caption, and its four shuffles.

    Words are shuffled as the caption has them; then both are cleaned and cut. The seed and the caption itself decide
    the draws; None where none of them said anything else.
    """
    own, tagged = clean(caption, MAX_WORDS), tag(caption)
    negatives: list[str | None] = []
    for name, shuffle in SHUFFLES.items():
        rng = random.Random(f"{seed} {name} {caption}")
        words, tags = (words_of(caption), ()) if name.endswith("trigrams") else tagged
        drawn = (clean(" ".join(shuffle(list(words), tags, rng)), MAX_WORDS) for _ in range(draws))
        # A single draw may say the same in other words; drawn again is what says the same at all.
        same = (lambda text: text == own) if draws == 1 else (lambda text: comparable(text) == comparable(own))
        negatives.append(next((text for text in drawn if not same(text)), None))
    return own, negatives


def _within(words: list[str], slots: Sequence[int], rng: random.Random) -> None:
    """Permute the words in some slots among themselves."""
    for slot, word in zip(slots, rng.sample([words[slot] for slot in slots], len(slots)), strict=True):
        words[slot] = word


def _nouns_and_adjectives(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    for kind in (is_noun, is_adjective):
        _within(words, [slot for slot, tag in enumerate(tags) if kind(tag)], rng)
    return words


def _all_but_these(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    _within(words, [slot for slot, tag in enumerate(tags) if not is_noun(tag) and not is_adjective(tag)], rng)
    return words


def _within_trigrams(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    """The words of each three that follow one another."""
    for start in range(0, len(words), 3):
        _within(words, range(len(words))[start : start + 3], rng)
    return words


def _trigrams(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    """Threes of words, each kept as it is."""
    threes = [words[start : start + 3] for start in range(0, len(words), 3)]
    return [word for three in rng.sample(threes, len(threes)) for word in three]


SHUFFLES: dict[str, Callable[[list[str], Sequence[str], random.Random], list[str]]] = {
    "shuffle_nouns_and_adj": _nouns_and_adjectives,
    "shuffle_allbut_nouns_and_adj": _all_but_these,
    "shuffle_within_trigrams": _within_trigrams,
    "shuffle_trigrams": _trigrams,
}
"""By the names that ARO gives them."""
