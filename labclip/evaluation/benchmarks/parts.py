"""Search as people type it: parts, such as "a red shirt", of a table's captions or of scenes with known objects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from labclip.data.cleaning import clean
from labclip.evaluation.benchmarks.captions import own_rows
from labclip.evaluation.questions import NONE, Choice, Search
from labclip.evaluation.scene_files import Object, SceneEntry
from labclip.evaluation.scores import Groups, one_group
from labclip.evaluation.sources import LENGTHS, Items, Sources
from labclip.evaluation.tasks import Task
from labclip.negatives import Part, parts

LEAST = 3
"""Images that must have a phrase for it to be a query."""

Scenes = Mapping[int, SceneEntry]
"""What each image shows, by its row."""

Say = Callable[[str, str], str]
"""An attribute and an object in words."""

Pairs = Container[Object]

_Query = tuple[str, Collection[int], Collection[int]]
"""Its text, and indices of the images that are right and of those that have its words."""

_CHOICES = ("part_swap", "part_foil", "half_truth", "whole_truth")


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
    return items.question(items.metrics(*_CHOICES))


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
    asked: list[_Query] = []
    for words in queries:
        elsewhere = {index for index, noun in bound[first[words].modifier] if noun != words[-1]}
        confused = elsewhere.intersection(*(saying[word] for word in words))
        asked.append((first[words].text, having[words], confused))
    return _among(sources, gallery, asked, {"": one_group(len(queries))})


def exact_parts(
    sources: Sources, scenes: Scenes, say: Say, attributes: Sequence[str], seed: int, asked: Pairs, ending: str = ""
) -> list[Choice]:
    """The choices of `read` where every object is known: a wrong text is never true of its image.

    They are of the parts that are `asked`, each part of an image once. A foil is drawn from the `attributes` that no
    object of the image has. The metrics' names have the `ending`.
    """
    rng, items, left_out = np.random.default_rng([seed, 0xF011]), Items(sources), Counter[str]()
    for row, scene in scenes.items():
        objects = list(dict.fromkeys(scene.objects))
        present = {attribute for attribute, _ in objects}
        absent = [attribute for attribute in attributes if attribute not in present]
        for index, (attribute, name) in enumerate(objects):
            foil = absent[rng.integers(len(absent))] if absent else ""
            if (attribute, name) not in asked:
                continue
            others = [other for other in objects[index + 1 :] + objects[:index] if other[1] != name]
            swap = next((swap for swap, _ in others if (swap, name) not in objects), "")
            other, second = others[0] if others and foil else ("", "")
            part = say(attribute, name)
            texts = {
                "part_swap": (part, say(swap, name)) if swap else None,
                "part_foil": (part, say(foil, name)) if foil else None,
                "half_truth": (part, f"{part} and {say(foil, second)}") if other else None,
                "whole_truth": (f"{part} and {say(other, second)}", part) if other else None,
            }
            for metric, two in texts.items():
                if two is None:
                    left_out[metric] += 1
                else:
                    items.add(row, two, scene.location, **{f"{metric}{ending}": 0})
    if left_out:
        counts = ", ".join(f"{count:,} of {metric}" for metric, count in left_out.items())
        sources.notes.append(
            f"Left out of images with every attribute or one kind of object, for want of a wrong text: {counts}."
        )
    return items.question(items.metrics(*(f"{metric}{ending}" for metric in _CHOICES)))


def exact_search(
    sources: Sources, scenes: Scenes, say: Say, pairs: Sequence[Object], endings: Mapping[str, Pairs], least: int
) -> list[Search]:
    """The search of `read` where every object is known: a query for each of the pairs that `least` images show.

    Metrics with one of the `endings` are the mean over its pairs.
    """
    showing: dict[Object, set[int]] = defaultdict(set)  # indices of images; also of an attribute or a name alone
    for index, scene in enumerate(scenes.values()):
        for attribute, name in scene.objects:
            for words in ((attribute, name), (attribute, ""), ("", name)):
                showing[words].add(index)
    if few := sum(0 < len(showing[pair]) < least for pair in pairs):
        sources.notes.append(f"Search: {few:,} pairs that fewer than {least} images show are no queries.")
    asked = [pair for pair in pairs if len(showing[pair]) >= least]
    queries = [(say(*pair), showing[pair], showing[pair[0], ""] & showing["", pair[1]]) for pair in asked]
    groups = {ending: np.array([0 if pair in of else NONE for pair in asked]) for ending, of in endings.items()}
    return _among(sources, list(scenes), queries, groups)


def _among(
    sources: Sources, gallery: Sequence[int], queries: Sequence[_Query], groups: Mapping[str, Groups]
) -> list[Search]:
    if not queries:
        return []
    right, confused = np.zeros((2, len(queries), len(gallery)), dtype=np.bool_)
    for number, (_, own, having) in enumerate(queries):
        right[number, list(own)] = True
        confused[number, list(having)] = True
    rows = np.array([sources.caption(text, "a query") for text, *_ in queries])
    return [Search(np.array(gallery), rows, right, confused & ~right, groups)]
