"""The embedded world: binding on seen and on held-out pairs, and what it costs; needs no data."""

from __future__ import annotations

import itertools

import numpy as np

from labclip.checks import checked_whole
from labclip.data.images import ImageSource
from labclip.data.scene_files import labelled_scenes
from labclip.evaluation.items import Items, gallery
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Choice, Classification, Retrieval, Task
from labclip.scenes import COLOURS, SHAPES, sample


def read(sources: Sources, *, n: int = 1000, seed: int = 0) -> Task:
    """`binding` on pairs that a fit may see, `binding_heldout` on unseen pairs; retrieval; single objects.

    Retrieval is by sentences and by tags, among scenes no two of which have the same colours and the same shapes: tags,
    which do not say what goes with which (`tags_t2i_r1` ...), have one right image too. `one_object_acc1` names one
    object of 120.

    Args:
        sources: Where images and captions are kept.
        n: Scenes for each metric.
        seed: Of everything drawn.
    """
    checked_whole("n", n, least=2, most=100_000)
    binding = [
        *_binding(sources, n, seed, "seen", "binding"),
        *_binding(sources, n, seed, "heldout", "binding_heldout"),
    ]
    return sources.task(*binding, *_retrieval(sources, n, seed), _one_object(sources, n, seed))


def _binding(sources: Sources, n: int, seed: int, split: str, metric: str) -> list[Choice]:
    items = Items(sources)
    scenes = labelled_scenes(n, seed=seed, split=split)
    for image, *captions in zip(scenes.images, scenes.captions, scenes.swapped, strict=True):
        items.add(_row(sources, image), captions, image.name)
    return items.question(metric)


def _retrieval(sources: Sources, n: int, seed: int) -> list[Retrieval]:
    scenes = sample(n, seed=seed, split="all")
    said: list[list[tuple[int, int, tuple[str, ...]]]] = [[], []]
    for number, objects in enumerate(scenes.objects):
        name = f"scene {number} of split all, seed {seed}"
        row = sources.image_in_memory(scenes.images[number], name)
        words = tuple(sorted(word for one in objects for word in one))
        for pairs, texts in zip(said, (scenes.captions, scenes.tags), strict=True):
            pairs.append((row, sources.caption(texts[number], name), words))
    return [*gallery(sources, said[0]), *gallery(sources, said[1], "tags_")]


def _one_object(sources: Sources, n: int, seed: int) -> Classification:
    scenes = labelled_scenes(n, seed=seed, split="all", n_objects=1)
    classes = {one: number for number, one in enumerate(itertools.product(COLOURS, SHAPES))}
    prompts = [f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}" for colour, shape in classes]
    rows = [_row(sources, image) for image in scenes.images]
    labels = [classes[objects[0]] for objects in scenes.objects]
    texts = [[sources.caption(prompt, "a single object")] for prompt in prompts]
    return Classification(np.array(rows), np.array(labels), np.array(texts), "one_object_")


def _row(sources: Sources, image: ImageSource) -> int:
    assert isinstance(image.data, np.ndarray)
    return sources.image_in_memory(image.data, image.name)
