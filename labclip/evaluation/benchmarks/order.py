"""COCO-Order and Flickr30k-Order of ARO: does a model mind the order of a caption's words (arXiv:2210.01936)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

from labclip.data.cleaning import clean, comparable, words_of
from labclip.evaluation.benchmarks.karpathy import Captioned, coco, flickr30k
from labclip.evaluation.items import Items
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task
from labclip.negatives.taggers import Tagger, get_tagger, is_adjective, is_noun

MAX_WORDS = 30
"""Words that a caption keeps."""

_DRAWS = 20  # of one shuffle, before it is given up as one that can only say the same

Shuffle = Callable[[list[str], Sequence[str], random.Random], list[str]]


def read_coco(sources: Sources, *, split: str = "test", seed: int = 0, tagger: str = "hanta") -> Task:
    """`accuracy`: the caption beats its four shuffles.

    Args:
        sources: The files.
        split: "test", "val" or "restval".
        seed: Of the shuffles; the originals have none.
        tagger: "hanta" or "spacy".
    """
    return _order(sources, coco(sources, split), seed, tagger)


def read_flickr30k(sources: Sources, *, split: str = "test", seed: int = 0, tagger: str = "hanta") -> Task:
    """`accuracy`: the caption beats its four shuffles; options as of `coco-order`, splits "test" and "val"."""
    return _order(sources, flickr30k(sources, split), seed, tagger)


def _order(sources: Sources, found: list[Captioned], seed: int, tagger: str) -> Task:
    items, tag = Items(sources), get_tagger(tagger)
    lacking = dict.fromkeys(SHUFFLES, 0)
    without = 0
    for one in found:
        for raw in one.captions:
            sources.captions.check(raw, one.place)
            own, shuffled = shuffles_of(raw, tag, seed)
            for name, text in zip(SHUFFLES, shuffled, strict=True):
                lacking[name] += text is None
            others = [text for text in dict.fromkeys(shuffled) if text is not None]
            without += not others
            if others:
                items.add(one.row, (own, *others), one.place)
    said = [f"{count:,} of {name}" for name, count in lacking.items() if count]
    if said:
        sources.notes.append(f"Shuffles equal to their caption, left out: {', '.join(said)}.")
    if without:
        sources.notes.append(f"{without:,} captions with no other order are left out.")
    sources.notes.append(
        f"Shuffled with seed {seed}, parts of speech by {tagger}. ARO's code leaves a shuffle that equals its caption, "
        "of 5 to 6% of them, and counts it as right, so its figures are higher."
    )
    return sources.task(*items.question("accuracy", right_first=True), *items.gallery())


def shuffles_of(caption: str, tagger: Tagger, seed: int) -> tuple[str, list[str | None]]:
    """The cleaned caption, and its four shuffles.

    Words are tagged in lower case, and shuffled as the caption has them; then both are cleaned and cut. The seed and
    the caption itself decide the draws; None where no draw said anything else.
    """
    own = clean(caption, MAX_WORDS)
    words = words_of(caption)
    tags = tagger([word.lower() for word in words]) if words else []
    found: list[str | None] = []
    for name, shuffle in SHUFFLES.items():
        rng = random.Random(f"{seed} {name} {caption}")
        drawn = (clean(" ".join(shuffle(list(words), tags, rng)), MAX_WORDS) for _ in range(_DRAWS))
        found.append(next((text for text in drawn if comparable(text) != comparable(own)), None))
    return own, found


def _among(*kinds: Callable[[str], bool]) -> Shuffle:
    """Words of each kind change places among themselves."""

    def shuffle(words: list[str], tags: Sequence[str], rng: random.Random) -> list[str]:
        for kind in kinds:
            places = [place for place, tag in enumerate(tags) if kind(tag)]
            for place, word in zip(places, rng.sample([words[place] for place in places], len(places)), strict=True):
                words[place] = word
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


SHUFFLES: dict[str, Shuffle] = {
    "shuffle_nouns_and_adj": _among(is_noun, is_adjective),
    "shuffle_allbut_nouns_and_adj": _among(lambda tag: not is_noun(tag) and not is_adjective(tag)),
    "shuffle_within_trigrams": _within_trigrams,
    "shuffle_trigrams": _trigrams_whole,
}
"""By the names that ARO gives them."""


COCO = Benchmark(
    "coco-order", "COCO-Order", "binding", read_coco,
    wants="coco_karpathy_test.json or dataset_coco.json as data; the folder of val2014 as images",
    source="github.com/mertyg/vision-language-models-are-bows, cocodataset.org",
    licence="CC BY 4.0; images: Flickr terms of use",
    paper="arXiv:2210.01936",
    headline=("accuracy",),
)  # fmt: skip
FLICKR30K = Benchmark(
    "flickr30k-order", "Flickr30k-Order", "binding", read_flickr30k,
    wants="flickr30k_test.json or dataset_flickr30k.json as data; flickr30k-images as images",
    source="github.com/mertyg/vision-language-models-are-bows, shannon.cs.illinois.edu/DenotationGraph",
    licence="non-commercial research and education; images: Flickr terms of use",
    paper="arXiv:2210.01936",
    headline=("accuracy",),
)  # fmt: skip
