"""Search as people type it: the parts of a table's captions, such as "a red shirt", as queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from labclip.data.cleaning import clean
from labclip.evaluation.benchmarks.captions import own_rows
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import LENGTHS, Items, Sources
from labclip.evaluation.tasks import Choice, Search, Task
from labclip.negatives import Part, parts

LEAST = 3
"""Images that must have a phrase for it to be a query."""


class _Phrase(NamedTuple):
    """A part of an image's captions: its words, the one that is wrong in a wrong phrase, and those by their kind."""

    text: str
    words: tuple[str, ...]
    modifier: str
    location: str
    wrong: dict[str, str]


_Phrases = dict[int, dict[tuple[str, ...], _Phrase]]
"""Those of each image, by their words."""


def _words(text: str) -> tuple[str, ...]:
    """The words of a phrase, without its article."""
    first, *rest = text.split()
    return tuple(rest if first in ("a", "an") else (first, *rest))


def read(sources: Sources, *, column: str = "", image_column: str = "", seed: int = 0, tagger: str = "hanta") -> Task:
    """`part_swap`, `part_foil`: a part of a caption beats a wrong one; `half_truth`, `whole_truth`; and search.

    A part is a noun with a colour, size, material, age or number. `part_swap` prefers it to the same noun with the
    modifier of another noun of the caption, `part_foil` to one with a modifier that no caption of the image has.
    `half_truth` prefers "a red hat" to "a red hat and a blue shirt" where nothing is blue, `whole_truth` prefers "a red
    hat and a white shirt" to the part where the shirt is white. `search_map`, `search_p5` and `search_confused5` search
    among all images for each phrase that three of them have: right are those with a caption that has it as a part,
    confused are those whose captions have its words, but its modifier with another noun. What no caption says counts as
    absent.

    Args:
        sources: The files: a table of images and captions as in `csv`; its negatives are not read.
        column: The captions'; this and `image_column` as in `csv`.
        image_column: The images'.
        seed: Seed of which wrong modifier is taken where there are several.
        tagger: "hanta" or "spacy", which find the parts.
    """
    table = own_rows(sources, column, image_column, ())
    rows = [(row, text, location) for row, text, _, location in table if row is not None]
    phrases = _phrases(rows, seed, tagger)
    if rows and not phrases:
        lacks = "no caption has a part, a noun with a colour, size, material, age or number"
        raise ValueError(f"{sources.data}: {lacks}. {sources.hint}")
    words_of: dict[int, set[str]] = defaultdict(set)
    for row, text, _ in rows:
        words_of[row].update(clean(text).replace(",", " ").split())
    sources.notes.append(LENGTHS)
    return sources.task(*_choices(sources, phrases), *_search(sources, phrases, words_of))


def _phrases(rows: Sequence[tuple[int, str, str]], seed: int, tagger: str) -> _Phrases:
    def parts_of(captions: Sequence[tuple[int, str]]) -> list[list[Part]]:
        return parts([text for _, text in captions], image_index=[row for row, _ in captions], seed=seed, tagger=tagger)

    phrases: _Phrases = defaultdict(dict)
    for (row, _, location), several in zip(rows, parts_of([(row, text) for row, text, _ in rows]), strict=True):
        for part in several:
            words, others = _words(part.text), _words(part.negative)
            modifier = next(word for word, other in zip(words, others, strict=True) if word != other)
            phrase = phrases[row].setdefault(words, _Phrase(part.text, words, modifier, location, {}))
            phrase.wrong.setdefault(part.kind, part.negative)
    # As a caption of its own a phrase has no other noun to take a modifier from: its wrong one is a foil.
    alone = [(row, phrase) for row, several in phrases.items() for phrase in several.values()]
    beside = [(row, text) for row, text, _ in rows if row in phrases]
    foils = parts_of([*beside, *((row, phrase.text) for row, phrase in alone)])[len(beside) :]
    for (_, phrase), several in zip(alone, foils, strict=True):
        phrase.wrong.update({part.kind: part.negative for part in several if part.text == phrase.text})
    return phrases


def _choices(sources: Sources, phrases: _Phrases) -> list[Choice]:
    """Each phrase of an image against its wrong ones, and with the image's next phrase of another noun."""
    items = Items(sources)
    for row, several in phrases.items():
        for index, phrase in enumerate(several.values()):
            for kind, wrong in phrase.wrong.items():
                items.add(row, (phrase.text, wrong), phrase.location, **{f"part_{kind}": 0})
            following = islice(cycle(several.values()), index + 1, index + len(several))
            other = next(
                (after for after in following if after.words[-1] != phrase.words[-1] and "foil" in after.wrong), None
            )
            if other is not None:
                half, whole = (f"{phrase.text} and {second}" for second in (other.wrong["foil"], other.text))
                items.add(row, (phrase.text, half), phrase.location, half_truth=0)
                items.add(row, (whole, phrase.text), phrase.location, whole_truth=0)
    return items.question(items.metrics("part_swap", "part_foil", "half_truth", "whole_truth"))


def _search(sources: Sources, phrases: _Phrases, words_of: Mapping[int, set[str]]) -> list[Search]:
    """A query for each phrase that enough images have, among all images."""
    gallery = list(words_of)
    saying: dict[str, set[int]] = defaultdict(set)
    having: dict[tuple[str, ...], list[int]] = defaultdict(list)
    bound: dict[str, list[tuple[int, str]]] = defaultdict(list)  # of each modifier the images and the nouns
    first: dict[tuple[str, ...], _Phrase] = {}
    for index, row in enumerate(gallery):
        for word in words_of[row]:
            saying[word].add(index)
        for words, phrase in phrases.get(row, {}).items():
            having[words].append(index)
            bound[phrase.modifier].append((index, words[-1]))
            first.setdefault(words, phrase)
    queries = [words for words, images in having.items() if len(images) >= LEAST]
    sources.notes.append(f"Search: {len(queries):,} phrases that at least {LEAST} of {len(gallery):,} images have.")
    if not queries:
        return []
    right, confused = np.zeros((2, len(queries), len(gallery)), dtype=np.bool_)
    for number, words in enumerate(queries):
        right[number, having[words]] = True
        elsewhere = {index for index, noun in bound[first[words].modifier] if noun != words[-1]}
        confused[number, list(elsewhere.intersection(*(saying[word] for word in words)))] = True
    rows = np.array([sources.caption(first[words].text, first[words].location) for words in queries])
    return [Search(np.array(gallery), rows, right, confused & ~right, {"": everything(len(queries))})]
