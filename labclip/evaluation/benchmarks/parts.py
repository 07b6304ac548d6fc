"""Search as people type it: parts, such as "a red shirt", of a table's captions or of scenes with known objects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from labclip.data.cleaning import clean
from labclip.evaluation.benchmarks.captions import read_table
from labclip.evaluation.questions import NONE, Question, Search
from labclip.evaluation.scene_files import Object, SceneEntry
from labclip.evaluation.scores import Groups, one_group
from labclip.evaluation.sources import LENGTHS, Items, Sources
from labclip.evaluation.tasks import Task
from labclip.negatives import Part, parts

MIN_IMAGES = 3
"""Number of images that must have a phrase for it to be a query."""

Scenes = Mapping[int, SceneEntry]
"""What each image shows, by its row."""

Say = Callable[[str, str], str]
"""Makes a phrase of an attribute and an object."""

Pairs = Container[Object]

_CHOICES = ("part_swap", "part_foil", "half_truth", "whole_truth")


class _Query(NamedTuple):
    """A query, with the indices of the images that answer it and of those that have its words."""

    text: str
    right: Collection[int]
    with_words: Collection[int]


class _Phrase(NamedTuple):
    """A part of an image's captions."""

    text: str
    words: tuple[str, ...]  # without the article
    modifier: str  # the word that a wrong phrase replaces
    location: str
    wrong: dict[str, str]  # by kind, "swap" or "foil"


_Phrases = dict[int, dict[tuple[str, ...], _Phrase]]
"""The phrases of each image, by their words."""


def _words(text: str) -> tuple[str, ...]:
    """The words of a phrase, without its article."""
    first, *rest = text.split()
    return tuple(rest if first in ("a", "an") else (first, *rest))


def read(sources: Sources, *, column: str = "", image_column: str = "", seed: int = 0, tagger: str = "hanta") -> Task:
    """`part_swap`, `part_foil`: a part of a caption beats a wrong one; `half_truth`, `whole_truth`; and search.

    A part is a noun with a colour, size, material, age or number. `part_swap` prefers it over the same noun with the
    modifier of another noun of the caption, `part_foil` over one with a modifier that no caption of the image has.
    `half_truth` prefers "a red hat" over "a red hat and a blue shirt" if nothing is blue; `whole_truth` prefers "a red
    hat and a white shirt" over "a red hat" if the shirt is white. `search_map`, `search_p5` and `search_confused5`
    search among all images for each phrase that at least three images have. Right are the images with this part in a
    caption. Confused are images whose captions have its words, but its modifier with another noun. What the captions
    don't mention counts as absent.

    Args:
        sources: The files: a table of images and captions as in `csv`. Its negatives are not read.
        column: Column of the captions; this and `image_column` as in `csv`.
        image_column: Column of the images.
        seed: Seed that selects one wrong modifier where several are possible.
        tagger: "hanta" or "spacy", which find the parts.
    """
    table = read_table(sources, column=column, image_column=image_column, negative_columns=(), clean=False)
    rows = [(row.image, row.caption, row.location) for row in table if row.image is not None]
    phrases = _find_phrases(rows, seed, tagger)
    if rows and not phrases:
        reason = "no caption has a part, a noun with a colour, size, material, age or number"
        raise ValueError(f"{sources.data}: {reason}. {sources.hint}")
    words_of: dict[int, set[str]] = defaultdict(set)
    for image, caption, _ in rows:
        words_of[image].update(clean(caption).replace(",", " ").split())
    sources.notes.append(LENGTHS)
    return sources.task(*_choices(sources, phrases), *_search(sources, phrases, words_of))


def _find_phrases(rows: Sequence[tuple[int, str, str]], seed: int, tagger: str) -> _Phrases:
    """The phrases in captions; `rows` are image, caption and location."""

    def parts_of(captions: Sequence[tuple[int, str]]) -> list[list[Part]]:
        return parts([text for _, text in captions], image_index=[row for row, _ in captions], seed=seed, tagger=tagger)

    phrases: _Phrases = defaultdict(dict)
    captions = [(image, caption) for image, caption, _ in rows]
    for (image, _, location), parts_of_caption in zip(rows, parts_of(captions), strict=True):
        for part in parts_of_caption:
            words, wrong_words = _words(part.text), _words(part.negative)
            modifier = next(word for word, wrong in zip(words, wrong_words, strict=True) if word != wrong)
            phrase = phrases[image].setdefault(words, _Phrase(part.text, words, modifier, location, {}))
            phrase.wrong.setdefault(part.kind, part.negative)
    # A phrase that is a caption of its own has no other noun to take a modifier from, so its negative is a foil. The
    # captions of its image are passed too, so that no foil is true according to one of them.
    known = [(image, caption) for image, caption in captions if image in phrases]
    alone = [(image, phrase) for image, by_words in phrases.items() for phrase in by_words.values()]
    foils = parts_of([*known, *((image, phrase.text) for image, phrase in alone)])[len(known) :]
    for (_, phrase), parts_of_phrase in zip(alone, foils, strict=True):
        phrase.wrong.update({part.kind: part.negative for part in parts_of_phrase if part.text == phrase.text})
    return phrases


def _choices(sources: Sources, phrases: _Phrases) -> list[Question]:
    """Each phrase of an image against its wrong versions, and together with the image's next phrase of another noun."""
    items = Items(sources)
    for image, by_words in phrases.items():
        image_phrases = list(by_words.values())
        for index, phrase in enumerate(image_phrases):
            following = image_phrases[index + 1 :] + image_phrases[:index]
            others = (other for other in following if other.words[-1] != phrase.words[-1] and "foil" in other.wrong)
            second = next(((other.text, other.wrong["foil"]) for other in others), None)
            _add_choices(items, image, phrase.location, phrase.text, phrase.wrong, second)
    return items.question(items.metrics(*_CHOICES))


def _add_choices(
    items: Items, image: int, location: str, part: str, wrong: Mapping[str, str], second: tuple[str, str] | None,
    suffix: str = "",
) -> Collection[str]:  # fmt: skip
    """Add the choices of a part, and return their metrics; `wrong` are its wrong versions by kind.

    `second` is another part of the image and a wrong version of it; None if there is none.
    """
    choices = {f"part_{kind}": (part, text) for kind, text in wrong.items()}
    if second is not None:
        right, false = second
        choices |= {"half_truth": (part, f"{part} and {false}"), "whole_truth": (f"{part} and {right}", part)}
    for metric, options in choices.items():
        items.add(image, options, location, **{f"{metric}{suffix}": 0})
    return choices


def _search(sources: Sources, phrases: _Phrases, words_of: Mapping[int, set[str]]) -> list[Search]:
    """A query for each phrase that enough images have, among all images; `words_of` are the words of their captions."""
    gallery = list(words_of)
    with_word: dict[str, set[int]] = defaultdict(set)  # indices of images
    with_phrase: dict[tuple[str, ...], list[int]] = defaultdict(list)
    with_modifier: dict[str, list[tuple[int, str]]] = defaultdict(list)  # and the noun that it belongs to
    phrase_of: dict[tuple[str, ...], _Phrase] = {}
    for index, row in enumerate(gallery):
        for word in words_of[row]:
            with_word[word].add(index)
        for words, phrase in phrases.get(row, {}).items():
            with_phrase[words].append(index)
            with_modifier[phrase.modifier].append((index, words[-1]))
            phrase_of.setdefault(words, phrase)
    queries = []
    for words, right in with_phrase.items():
        if len(right) >= MIN_IMAGES:
            phrase = phrase_of[words]
            confused = {index for index, noun in with_modifier[phrase.modifier] if noun != words[-1]}
            queries.append(_Query(phrase.text, right, confused.intersection(*(with_word[word] for word in words))))
    count = f"{MIN_IMAGES} of {len(gallery):,}"
    sources.notes.append(f"Search: {len(queries):,} phrases that at least {count} images have.")
    return _search_question(sources, gallery, queries, {"": one_group(len(queries))})


def exact_parts(
    sources: Sources, scenes: Scenes, say: Say, attributes: Sequence[str], seed: int, pairs: Pairs, suffix: str = ""
) -> list[Question]:
    """The choices of `read` for scenes in which every object is known: a wrong text is never true of its image.

    They are about the parts in `pairs`; each part of an image counts once. A foil is drawn from the `attributes` that
    no object of the image has. The metrics' names get the `suffix`.
    """
    rng, items, left_out = np.random.default_rng([seed, 0xF011]), Items(sources), Counter[str]()
    for row, scene in scenes.items():
        objects = list(dict.fromkeys(scene.objects))
        present = {attribute for attribute, _ in objects}
        absent = [attribute for attribute in attributes if attribute not in present]
        for index, (attribute, name) in enumerate(objects):
            foil = absent[rng.integers(len(absent))] if absent else ""
            if (attribute, name) not in pairs:
                continue
            others = [pair for pair in objects[index + 1 :] + objects[:index] if pair[1] != name]
            swapped = next((other for other, _ in others if (other, name) not in objects), "")
            wrong = {kind: say(other, name) for kind, other in (("swap", swapped), ("foil", foil)) if other}
            second = (say(*others[0]), say(foil, others[0][1])) if others and foil else None
            added = _add_choices(items, row, scene.location, say(attribute, name), wrong, second, suffix)
            left_out.update(metric for metric in _CHOICES if metric not in added)
    if left_out:
        counts = ", ".join(f"{count:,} of {metric}" for metric, count in left_out.items())
        sources.notes.append(
            f"Left out because no wrong text exists (images with every attribute or with one kind of object): {counts}."
        )
    return items.question(items.metrics(*(f"{metric}{suffix}" for metric in _CHOICES)))


def exact_search(
    sources: Sources, scenes: Scenes, say: Say, pairs: Sequence[Object], pairs_of: Mapping[str, Pairs], least: int
) -> list[Search]:
    """The search of `read` for scenes in which every object is known: a query for each pair that `least` images show.

    `pairs_of` has for each suffix of the metrics' names the pairs that these metrics average.
    """
    showing: dict[Object, set[int]] = defaultdict(set)  # indices of images, also for an attribute or a name alone
    for index, scene in enumerate(scenes.values()):
        for attribute, name in scene.objects:
            for words in ((attribute, name), (attribute, ""), ("", name)):
                showing[words].add(index)
    if few := sum(0 < len(showing[pair]) < least for pair in pairs):
        sources.notes.append(f"Search: {few:,} pairs that fewer than {least} images show are no queries.")
    pairs = [pair for pair in pairs if len(showing[pair]) >= least]
    queries = [_Query(say(*pair), showing[pair], showing[pair[0], ""] & showing["", pair[1]]) for pair in pairs]
    groups = {suffix: np.array([0 if pair in kept else NONE for pair in pairs]) for suffix, kept in pairs_of.items()}
    return _search_question(sources, list(scenes), queries, groups)


def _search_question(
    sources: Sources, gallery: Sequence[int], queries: Sequence[_Query], groups: Mapping[str, Groups]
) -> list[Search]:
    if not queries:
        return []
    right, confused = np.zeros((2, len(queries), len(gallery)), dtype=np.bool_)
    for number, query in enumerate(queries):
        right[number, list(query.right)] = True
        confused[number, list(query.with_words)] = True
    rows = np.array([sources.caption(query.text, "a query") for query in queries])
    return [Search(np.array(gallery), rows, right, confused & ~right, groups)]
