"""COCO-Order and Flickr30k-Order of ARO: is a model sensitive to the order of a caption's words (arXiv:2210.01936)?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from labclip.checks import check_choice
from labclip.data.cleaning import WORD, clean, comparable
from labclip.evaluation.benchmarks.captions import read_captions
from labclip.evaluation.benchmarks.forms import Form
from labclip.evaluation.sources import Items, Sources
from labclip.evaluation.tasks import Task
from labclip.negatives.taggers import Tagger, get_tagger, is_adjective, is_noun, spacy_model
from labclip.packages import MissingPackageError

MAX_WORDS = 30
"""Number of words that a caption keeps."""

_DRAWS = 20  # of one shuffle, until one differs from the caption

Tagged = tuple[list[str], Sequence[str]]
"""The words of a caption and their tags."""


def read(
    form: Form, sources: Sources, *, protocol: str = "paper", split: str = "test", seed: int = 0, tagger: str = ""
) -> Task:
    """`accuracy`: the caption beats its four shuffles.

    Args:
        form: The form of the captions, as in `captions`.
        sources: The files.
        protocol: "paper": one draw of each shuffle, as in ARO's code (dataset_zoo/perturbations.py and
            dataset_zoo/aro_datasets.py); a shuffle equal to its caption never wins. "labclip": such a shuffle is drawn
            again.
        split: Split of the captions.
        seed: Seed of the shuffles; the original shuffles have none.
        tagger: "hanta" or "spacy". "" takes spaCy with protocol=paper, as ARO's code does, and HanTa with
            protocol=labclip.
    """
    check_choice("The option protocol", protocol, ("paper", "labclip"))
    paper = protocol == "paper"
    tagger = tagger or ("spacy" if paper else "hanta")
    as_aro = paper and tagger == "spacy"
    rows = read_captions(form, sources, split)
    tag = _spacy() if as_aro else partial(tag_words, get_tagger(tagger))
    items, equal, without = Items(sources), Counter[str](), 0
    for row in rows:
        caption, shuffled = shuffles_of(row.caption, tag, seed, draws=1 if paper else _DRAWS)
        equal.update(name for name, text in zip(SHUFFLES, shuffled, strict=True) if text is None)
        negatives = [text for text in dict.fromkeys(shuffled) if text is not None]
        without += not negatives
        if negatives or paper:
            items.add(row.image, (caption, *negatives), row.location)
    if counts := ", ".join(f"{count:,} of {name}" for name, count in equal.items()):
        rule = "count as right, as in ARO's code" if paper else "are left out"
        sources.notes.append(f"Shuffles equal to their caption {rule}: {counts}.")
    if without:
        sources.notes.append(f"{without:,} captions with no other order {'are right' if paper else 'are left out'}.")
    comparison = "Not as ARO's code, which takes spaCy's parts of speech and draws no shuffle again."
    if as_aro:
        comparison = "As ARO's code, but for the seed."
    sources.notes.append(f"Shuffled with seed {seed}, parts of speech by {tagger}. {comparison}")
    return sources.task(*items.question("accuracy", right_first=True), *items.gallery())


def _spacy() -> Callable[[str], Tagged]:
    """A function from a caption to spaCy's words and tags."""
    try:
        model = spacy_model()
    except MissingPackageError as error:
        raise MissingPackageError(f"{error}; or pass options={{'protocol': 'labclip'}}, which needs none.") from None

    def tag(caption: str) -> Tagged:
        tokens = list(model(caption))
        return [token.text for token in tokens], [token.tag_ for token in tokens]

    return tag


def tag_words(tagger: Tagger, caption: str) -> Tagged:
    """The words of a caption, and the tags of their lower-case forms."""
    words = WORD.findall(caption)
    return words, tagger([word.lower() for word in words]) if words else []


def shuffles_of(
    caption: str, tag: Callable[[str], Tagged], seed: int, *, draws: int = _DRAWS
) -> tuple[str, list[str | None]]:
    """The cleaned caption, and its four shuffles.

    The original words are shuffled; then caption and shuffle are both cleaned and cut. Seed and caption decide the
    draws. A shuffle is None if no draw differs from the caption.
    """
    cleaned, tagged = clean(caption, MAX_WORDS), tag(caption)
    negatives: list[str | None] = []
    for name, shuffle in SHUFFLES.items():
        rng = random.Random(f"{seed} {name} {caption}")
        words, tags = (WORD.findall(caption), ()) if name.endswith("trigrams") else tagged
        texts = (clean(" ".join(shuffle(list(words), tags, rng)), MAX_WORDS) for _ in range(draws))
        # A single draw must only differ as a string; one of several must also have other words or another order.
        form = str if draws == 1 else comparable
        negatives.append(next((text for text in texts if form(text) != form(cleaned)), None))
    return cleaned, negatives


def _permute(words: list[str], slots: Sequence[int], rng: random.Random) -> None:
    """Permute the words in these slots among themselves, in place."""
    for slot, word in zip(slots, rng.sample([words[slot] for slot in slots], len(slots)), strict=True):
        words[slot] = word


def _nouns_and_adjectives(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    for is_kind in (is_noun, is_adjective):
        _permute(words, [slot for slot, tag in enumerate(tags) if is_kind(tag)], rng)
    return words


def _other_words(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    _permute(words, [slot for slot, tag in enumerate(tags) if not is_noun(tag) and not is_adjective(tag)], rng)
    return words


def _within_trigrams(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    for start in range(0, len(words), 3):
        _permute(words, range(len(words))[start : start + 3], rng)
    return words


def _trigrams(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
    trigrams = [words[start : start + 3] for start in range(0, len(words), 3)]
    return [word for trigram in rng.sample(trigrams, len(trigrams)) for word in trigram]


SHUFFLES: dict[str, Callable[[list[str], Sequence[str], random.Random], list[str]]] = {
    "shuffle_nouns_and_adj": _nouns_and_adjectives,
    "shuffle_allbut_nouns_and_adj": _other_words,
    "shuffle_within_trigrams": _within_trigrams,
    "shuffle_trigrams": _trigrams,
}
"""The shuffles under ARO's names."""
