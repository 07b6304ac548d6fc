"""COCO-Order and Flickr30k-Order of ARO: does a model mind the order of a caption's words (arXiv:2210.01936)."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from labclip.data.cleaning import clean, comparable, words_of
from labclip.data.entries import one_of
from labclip.data.located import check_caption
from labclip.evaluation.benchmarks.retrieval import captioned
from labclip.evaluation.items import Items
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task
from labclip.negatives.taggers import Tagger, get_tagger, is_adjective, is_noun, spacy_model
from labclip.packages import MissingPackageError

MAX_WORDS = 30
"""Words that a caption keeps."""

_DRAWS = 20  # of one shuffle, before it is given up as one that can only say the same

Shuffle = Callable[[list[str], Sequence[str], random.Random], list[str]]


def read(
    form: dict[str, Any],
    sources: Sources,
    *,
    protocol: str = "paper",
    split: str = "test",
    seed: int = 0,
    tagger: str = "",
) -> Task:
    """`accuracy`: the caption beats its four shuffles.

    Args:
        form: Of the captions, as `retrieval` has it.
        sources: The files.
        protocol: "paper": one draw of each shuffle, as in ARO's code (dataset_zoo/perturbations.py and
            dataset_zoo/aro_datasets.py); one that equals its caption is never preferred to it. "labclip": such a
            shuffle is drawn again.
        split: Of the captions.
        seed: Of the shuffles; the originals have none.
        tagger: "hanta" or "spacy"; "" takes spaCy with protocol=paper, as ARO's code, and HanTa with protocol=labclip.
    """
    paper = one_of("protocol", protocol, ("paper", "labclip")) == "paper"
    tagger = tagger or ("spacy" if paper else "hanta")
    images = captioned(form, sources, split)
    tag = _tag(tagger, paper)
    items, equal, without = Items(sources), Counter[str](), 0
    for one in images:
        for raw in one.captions:
            check_caption(raw, one.location)
            own, shuffled = shuffles_of(raw, tag, seed, draws=1 if paper else _DRAWS)
            equal.update(name for name, text in zip(SHUFFLES, shuffled, strict=True) if text is None)
            others = [text for text in dict.fromkeys(shuffled) if text is not None]
            without += not others
            if others or paper:
                items.add(one.row, (own, *others), one.location)
    if said := ", ".join(f"{count:,} of {name}" for name, count in equal.items()):
        then = "count as right, as in ARO's code" if paper else "are left out"
        sources.notes.append(f"Shuffles equal to their caption {then}: {said}.")
    if without:
        sources.notes.append(f"{without:,} captions with no other order {'are right' if paper else 'are left out'}.")
    sources.notes.append(
        f"Shuffled with seed {seed}, parts of speech by {tagger}. "
        + ("As ARO's code, but for the seed." if paper and tagger == "spacy" else
           "Not as ARO's code, which takes spaCy's parts of speech and draws no shuffle again.")
    )  # fmt: skip
    return sources.task(*items.question("accuracy", right_first=True), *items.gallery())


Tagged = tuple[list[str], Sequence[str]]
"""The words of a caption and their tags."""


def _tag(tagger: str, paper: bool) -> Callable[[str], Tagged]:
    """From a caption to its words and their tags."""
    if not (paper and tagger == "spacy"):
        return partial(tag_words, get_tagger(tagger))
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
    own, plain = clean(caption, MAX_WORDS), words_of(caption)
    tagged = tag(caption)
    found: list[str | None] = []
    for name, (shuffle, by_tag) in SHUFFLES.items():
        rng = random.Random(f"{seed} {name} {caption}")
        words, tags = tagged if by_tag else (plain, ())
        drawn = (clean(" ".join(shuffle(list(words), tags, rng)), MAX_WORDS) for _ in range(draws))
        # A single draw may say the same in other words; drawn again is what says the same at all.
        same = (lambda text: text == own) if draws == 1 else (lambda text: comparable(text) == comparable(own))
        found.append(next((text for text in drawn if not same(text)), None))
    return own, found


def _among(*kinds: Callable[[str], bool]) -> Shuffle:
    """Words of each kind are permuted among themselves."""

    def shuffle(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
        for kind in kinds:
            slots = [slot for slot, tag in enumerate(tags) if kind(tag)]
            for slot, word in zip(slots, rng.sample([words[slot] for slot in slots], len(slots)), strict=True):
                words[slot] = word
        return words

    return shuffle


def _within_trigrams(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    """The words of each three that follow one another."""
    return list(itertools.chain.from_iterable(rng.sample(three, len(three)) for three in _trigrams(words)))


def _trigrams_whole(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    """Threes of words, each kept as it is."""
    threes = _trigrams(words)
    return list(itertools.chain.from_iterable(rng.sample(threes, len(threes))))


def _trigrams(words: list[str]) -> list[list[str]]:
    return [words[start : start + 3] for start in range(0, len(words), 3)]


SHUFFLES: dict[str, tuple[Shuffle, bool]] = {
    "shuffle_nouns_and_adj": (_among(is_noun, is_adjective), True),
    "shuffle_allbut_nouns_and_adj": (_among(lambda tag: not is_noun(tag) and not is_adjective(tag)), True),
    "shuffle_within_trigrams": (_within_trigrams, False),
    "shuffle_trigrams": (_trigrams_whole, False),
}
"""By the names that ARO gives them, and whether they need tags."""
