"""The embedded scenes: binding on seen and on held-out pairs, and what it costs; needs no data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from labclip.checks import checked_whole
from labclip.data.scene_files import LabelledScenes, labelled_scenes
from labclip.evaluation.sources import LENGTHS, Items, Sources
from labclip.evaluation.tasks import NONE, Choice, Classification, Question, Retrieval, Search, Task
from labclip.scenes import COLOURS, SHAPES, Scenes, sample
from labclip.scenes.captions import noun_phrase
from labclip.scenes.vocabulary import HELD_OUT, VALIDATION


def read(sources: Sources, *, n: int = 1000, seed: int = 0) -> Task:
    """`binding` of sentences, accuracy of their parts, search with parts, retrieval; single objects.

    `part_swap` prefers "a red cube" over the same with the other object's colour, `part_foil` over a colour that no
    object has. `half_truth` prefers it over "a red cube and a blue ball" where the ball is not blue, `whole_truth`
    prefers that sentence to the part where it is. `search_map`, `search_p5` and `search_confused5` search for each
    colour-shape pair; confused are scenes with colour and shape on different objects. Those of pairs that no fit sees
    end in `_heldout`.

    Retrieval is by sentences and by tags, among scenes no two of which have the same colours and the same shapes: tags,
    which do not say what goes with which (`tags_t2i_r1` ...), have one right image too. `one_object_acc1` names one
    object of 120.

    Args:
        sources: Where images and captions are kept.
        n: Scenes for each metric.
        seed: Seed of everything drawn.
    """
    checked_whole("n", n, least=2, most=100_000)
    questions: list[Question] = []
    for split, ending in (("seen", ""), ("heldout", "_heldout")):
        scenes = labelled_scenes(n, seed=seed, split=split)
        items = swapped_items(sources, scenes)
        questions += items.question(f"binding{ending}")
        questions += _parts(sources, scenes, items.image, seed, ending)
    gallery_of = sample(n, seed=seed, split="all")
    names = [f"scene {number} of split all, seed {seed}" for number in range(n)]
    shown = [sources.image_in_memory(image, name) for image, name in zip(gallery_of.images, names, strict=True)]
    questions += [_search(sources, gallery_of.objects, shown), *_retrieval(sources, gallery_of, shown, names)]
    sources.notes.append(LENGTHS)
    return sources.task(*questions, _one_object(sources, n, seed))


def swapped_items(sources: Sources, scenes: LabelledScenes) -> Items:
    """The caption of each scene against the one with colours swapped."""
    items = Items(sources)
    for image, *captions in zip(scenes.images, scenes.captions, scenes.swapped, strict=True):
        items.add(sources.add(image), captions, image.name)
    return items


def _parts(sources: Sources, scenes: LabelledScenes, rows: list[int], seed: int, ending: str) -> list[Choice]:
    """Each object alone against what is wrong; of unseen pairs only their own objects."""
    rng, items = np.random.default_rng([seed, 0xF011]), Items(sources)
    names = [f"{name}{ending}" for name in ("part_swap", "part_foil", "half_truth", "whole_truth")]
    for row, image, objects in zip(rows, scenes.images, scenes.objects, strict=True):
        absent = [colour for colour in COLOURS if colour not in {colour for colour, _ in objects}]
        for (colour, shape), (other_colour, other_shape) in (objects, objects[::-1]):
            foil, part = absent[rng.integers(len(absent))], noun_phrase(colour, shape)
            if ending and not HELD_OUT[COLOURS.index(colour), SHAPES.index(shape)]:
                continue
            half, whole = (f"{part} and {noun_phrase(one, other_shape)}" for one in (foil, other_colour))
            wrong = noun_phrase(other_colour, shape), noun_phrase(foil, shape)
            for name, texts in zip(
                names, ((part, wrong[0]), (part, wrong[1]), (part, half), (whole, part)), strict=True
            ):
                items.add(row, texts, image.name, **{name: 0})
    return items.question(items.metrics(*names))


def _search(sources: Sources, scenes: Sequence[tuple[tuple[str, str], ...]], rows: list[int]) -> Search:
    shown = [set(objects) for objects in scenes]
    words = [({colour for colour, _ in objects}, {shape for _, shape in objects}) for objects in scenes]
    pairs = [pair for pair in itertools.product(COLOURS, SHAPES) if any(pair in one for one in shown)]
    right = np.array([[pair in one for one in shown] for pair in pairs])
    named = np.array([[pair[0] in colours and pair[1] in shapes for colours, shapes in words] for pair in pairs])
    unseen, never = (
        np.array([table[COLOURS.index(colour), SHAPES.index(shape)] for colour, shape in pairs])
        for table in (HELD_OUT, HELD_OUT | VALIDATION)
    )
    queries = [sources.caption(noun_phrase(*pair), "a query") for pair in pairs]
    groups = {"": np.where(never, NONE, 0), "_heldout": np.where(unseen, 0, NONE)}
    return Search(np.array(rows), np.array(queries), right, named & ~right, groups)


def _retrieval(sources: Sources, scenes: Scenes, rows: list[int], names: list[str]) -> list[Retrieval]:
    sentences, tags = Items(sources), Items(sources)
    for number, (row, name, objects) in enumerate(zip(rows, names, scenes.objects, strict=True)):
        words = tuple(sorted(word for one in objects for word in one))
        for items, texts in ((sentences, scenes.captions), (tags, scenes.tags)):
            items.add(row, (texts[number],), name, meaning=words)
    return [*sentences.gallery(), *tags.gallery("tags_")]


def _one_object(sources: Sources, n: int, seed: int) -> Classification:
    scenes = labelled_scenes(n, seed=seed, split="all", n_objects=1)
    classes = {one: number for number, one in enumerate(itertools.product(COLOURS, SHAPES))}
    prompts = [noun_phrase(colour, shape) for colour, shape in classes]
    rows = [sources.add(image) for image in scenes.images]
    labels = [classes[objects[0]] for objects in scenes.objects]
    texts = [[sources.caption(prompt, "a single object")] for prompt in prompts]
    return Classification(np.array(rows), np.array(labels), np.array(texts), "one_object_")
