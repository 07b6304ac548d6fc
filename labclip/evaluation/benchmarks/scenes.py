"""The embedded scenes: binding on seen and on held-out pairs, and its costs. They need no data."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from labclip.checks import checked_integer
from labclip.evaluation.benchmarks.parts import exact_parts, exact_search
from labclip.evaluation.questions import Classification, Question
from labclip.evaluation.scene_files import LabelledScenes, SceneEntry, labelled_scenes
from labclip.evaluation.sources import LENGTHS, Items, Sources
from labclip.evaluation.tasks import Task
from labclip.scenes import COLOURS, SHAPES
from labclip.scenes.captions import noun_phrase
from labclip.scenes.vocabulary import HELD_OUT, VALIDATION

_PAIRS = {
    suffix: {(COLOURS[colour], SHAPES[shape]) for colour, shape in np.argwhere(table)}
    for suffix, table in (("", ~(HELD_OUT | VALIDATION)), ("_heldout", HELD_OUT))
}
"""The colour-shape pairs of metrics, by the suffix of their names."""


def read(sources: Sources, *, n: int = 1000, seed: int = 0) -> Task:
    """`binding` of sentences, accuracy of their parts, search with parts, retrieval; single objects.

    `part_swap` prefers "a red cube" over the same with the other object's colour, `part_foil` over the same with a
    colour that no object has. `half_truth` prefers it over "a red cube and a blue ball" if the ball is not blue;
    `whole_truth` prefers that sentence over the part if it is. `search_map`, `search_p5` and `search_confused5` search
    for each colour-shape pair; a confused scene has its colour and its shape on different objects. Metrics of pairs
    that no fit sees end in `_heldout`.

    Retrieval is by sentences and by tags, which do not say what goes with which (`tags_t2i_r1` ...). No two scenes of
    the gallery have the same colours and the same shapes, so tags have one right image, too. `one_object_acc1` is the
    classification of one object in 120 classes.

    Args:
        sources: Where images and captions are kept.
        n: Number of scenes for each metric.
        seed: Seed of everything random.
    """
    checked_integer("n", n, least=2, most=100_000)
    questions: list[Question] = []
    for split, suffix in (("seen", ""), ("heldout", "_heldout")):
        scenes = labelled_scenes(n, seed=seed, split=split)
        questions += swapped_items(sources, scenes).question(f"binding{suffix}")
        entries = _entries_by_row(sources, scenes)
        questions += exact_parts(sources, entries, noun_phrase, COLOURS, seed, _PAIRS[suffix], suffix)
    gallery = labelled_scenes(n, seed=seed, split="all")
    entries = _entries_by_row(sources, gallery)
    questions += exact_search(sources, entries, noun_phrase, [*itertools.product(COLOURS, SHAPES)], _PAIRS, least=1)
    sentences, tags = Items(sources), Items(sources)
    for (row, entry), sentence, tag in zip(entries.items(), gallery.captions, gallery.tags, strict=True):
        words = tuple(sorted(itertools.chain(*entry.objects)))
        sentences.add(row, (sentence,), entry.location, meaning=words)
        tags.add(row, (tag,), entry.location, meaning=words)
    questions += [*sentences.gallery(), *tags.gallery("tags_")]
    sources.notes.append(LENGTHS)
    return sources.task(*questions, _one_object(sources, n, seed))


def swapped_items(sources: Sources, scenes: LabelledScenes) -> Items:
    """The caption of each scene against the same with colours swapped."""
    items = Items(sources)
    for image, *captions in zip(scenes.images, scenes.captions, scenes.swapped, strict=True):
        items.add(sources.add(image), captions, image.name)
    return items


def _entries_by_row(sources: Sources, scenes: LabelledScenes) -> dict[Any, SceneEntry]:
    """What each image shows."""
    images = zip(scenes.images, scenes.objects, strict=True)
    return {sources.add(image): SceneEntry(image.name, objects, image.name) for image, objects in images}


def _one_object(sources: Sources, n: int, seed: int) -> Classification:
    scenes = labelled_scenes(n, seed=seed, split="all", n_objects=1)
    classes = {pair: number for number, pair in enumerate(itertools.product(COLOURS, SHAPES))}
    prompts = [noun_phrase(colour, shape) for colour, shape in classes]
    rows = [sources.add(image) for image in scenes.images]
    labels = [classes[objects[0]] for objects in scenes.objects]
    texts = [[sources.caption(prompt, "a single object")] for prompt in prompts]
    return Classification(np.array(rows), np.array(labels), np.array(texts), "one_object_")
