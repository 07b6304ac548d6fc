"""Scenes with what is in them, as labels and as embeddings, and splits of them that do not leak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip.evaluation.scene_files import LabelledScenes, combination
from labclip.evaluation.sources import group_numbers
from labclip.features.cache import Cache, encode
from labclip.metrics import unit_length
from labclip.model import LABCLIP

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SceneLabels:
    """The objects of n scenes with their attributes; scenes may have different numbers of objects.

    Attributes:
        n: Number of scenes.
        attributes: Names of attributes, sorted.
        objects: Names of objects, sorted.
        scene: Scene of each object, int64 [objects of all scenes], ascending.
        attribute: Index into `attributes`.
        object: Index of its name into `objects`.
        combination: For each scene a number shared by all scenes of the same attributes and the same objects, whichever
            goes with which, int64 [n]: a scene and the same with attributes swapped share it.
    """

    n: int
    attributes: tuple[str, ...]
    objects: tuple[str, ...]
    scene: Index
    attribute: Index
    object: Index
    combination: Index

    @property
    def combinations(self) -> int:
        """Number of distinct combinations."""
        return int(self.combination.max()) + 1

    @property
    def counts(self) -> Index:
        """Objects in each scene, int64 [n]."""
        return np.bincount(self.scene, minlength=self.n)

    def bag_chance(self) -> NDArray[np.float64]:
        """For each object, the accuracy of the bag-of-words baseline, which knows the attributes but not whose.

        That is the fraction of the scene's objects that have this object's attribute: 1 / n where all differ.
        """
        cell = self.scene * len(self.attributes) + self.attribute
        return np.bincount(cell)[cell] / self.counts[self.scene]


def labels_of(scenes: Sequence[Sequence[tuple[str, str]]]) -> SceneLabels:
    """Turn the objects of scenes, as words, into `SceneLabels`.

    Args:
        scenes: Per scene its objects as (attribute, object name), in the order in which they are mentioned.

    Raises:
        ValueError: If there is no scene, a scene is empty, or there are fewer than two attributes or objects.

    Example:
        >>> labels = labels_of([(("red", "cube"), ("blue", "ball")), (("blue", "cube"), ("red", "ball"))])
        >>> labels.attributes, labels.objects
        (('blue', 'red'), ('ball', 'cube'))
        >>> labels.combination  # the second scene is the first one with attributes swapped
        array([0, 0])
    """
    if not len(scenes) or not all(map(len, scenes)):
        raise ValueError("There are no scenes, or one is empty. Pass for each a tuple of (attribute, object).")
    attributes, objects = (tuple(sorted({pair[side] for scene in scenes for pair in scene})) for side in (0, 1))
    for what, known in (("attribute", attributes), ("object", objects)):
        if len(known) < 2:
            raise ValueError(f"All scenes hold the same {what}, {known[0]!r}. Pass scenes with at least two {what}s.")
    rows = [
        (scene, attributes.index(attribute), objects.index(name))
        for scene, pairs in enumerate(scenes)
        for attribute, name in pairs
    ]
    scene, attribute, name = np.array(rows, dtype=np.int64).T
    together = group_numbers([combination(pairs) for pairs in scenes])
    return SceneLabels(len(scenes), attributes, objects, scene, attribute, name, together)


def folds_of(labels: SceneLabels, folds: int, seed: int = 0) -> Index:
    """Deal scenes into folds so that all scenes of a combination are in one fold.

    Args:
        labels: Labels of the scenes.
        folds: At least 2.
        seed: Seed of the draw.

    Returns:
        The fold of each scene, int64 [n]; folds hold nearly as many combinations each.

    Raises:
        ValueError: If there are fewer combinations than folds.

    Source: arXiv:2502.03566, which splits by unordered combination.
    """
    if not 2 <= folds <= labels.combinations:
        raise ValueError(
            f"There are {labels.combinations} different combinations of attributes and objects, which can't be dealt "
            f"into folds={folds!r}. Pass 2 folds or more, and scenes of at least as many combinations."
        )
    order = np.random.default_rng([seed, 0xF01D]).permutation(labels.combinations)
    fold = np.empty(labels.combinations, dtype=np.int64)
    fold[order] = np.arange(labels.combinations) % folds
    return fold[labels.combination]


def features_of(features: Any, what: str, rows: int | None = None) -> Tensor:
    """Embeddings [n, dim] of any scale, a float tensor or array, as unit-length float32 on the CPU; `rows` of them."""
    unit = unit_length(torch.as_tensor(features).detach().cpu(), what)
    if rows is not None and len(unit) != rows:
        raise ValueError(f"{what} have {len(unit)} rows, but there are {rows} scenes. Pass one row a scene.")
    return unit


@dataclass(frozen=True, eq=False)
class SceneFeatures:
    """Unit-length embeddings of n scenes by the base, float32 [n, dim] each: all that a diagnosis looks at.

    Attributes:
        labels: What is in the scenes.
        images: Of the images.
        texts: Of the "captions"; of these "swapped", with two attributes swapped, and "shuffled", with the words in
            another order; and of "tags", which name objects and attributes without saying which goes with which.
        there: Whether a scene has a "swapped" and a "shuffled" caption, bool [n]; without, its row is the caption's.
        name: The data in words.
        notes: What was left out, which captions were asked about.
        weights_sha256: Of the base's weights; "" where they are not known.
    """

    labels: SceneLabels
    images: Tensor
    texts: Mapping[str, Tensor]
    there: Mapping[str, Mask]
    name: str = "embeddings"
    notes: Sequence[str] = ()
    weights_sha256: str = ""


def embed_scenes(
    model: LABCLIP,
    labelled: LabelledScenes,
    *,
    seed: int = 0,
    cache: str | Path | bool | None = None,
    progress: bool = True,
) -> SceneFeatures:
    """Encode labelled images and their captions by the base, each caption once; arguments as in `diagnose`."""
    labels, captions = labels_of(labelled.objects), list(labelled.captions)
    kinds: dict[str, Sequence[str | None]] = {
        "captions": captions,
        "swapped": labelled.swapped,
        "shuffled": shuffled_words(captions, seed),
        # Objects, then attributes, each in the order of the alphabet: "cube sphere blue red".
        "tags": [
            " ".join([*sorted(name for _, name in objects), *sorted(attribute for attribute, _ in objects)])
            for objects in labelled.objects
        ],
    }
    asked = {kind: [text or own for text, own in zip(texts, captions, strict=True)] for kind, texts in kinds.items()}
    there = {kind: np.array(asked[kind]) != np.array(captions) for kind in ("swapped", "shuffled")}
    if not there["swapped"].any():
        raise ValueError(
            f"No caption of {labelled.name} can have two attributes swapped, so binding can't be measured. Pass scenes "
            f"of two or more objects with different attributes."
        )
    every = [text for several in asked.values() for text in several]
    with Cache(cache, model) as known:
        images, features = encode(model, labelled.images, every, cache=known, progress=progress)
    first = int(there["swapped"].argmax())
    notes = [f"Captions are such as {captions[first]!r} against {asked['swapped'][first]!r}.", *labelled.notes]
    texts = dict(zip(asked, features.reshape(len(asked), labels.n, -1), strict=True))
    return SceneFeatures(labels, images, texts, there, labelled.name, notes, known.identity["weights_sha256"])


def shuffled_words(captions: Sequence[str], seed: int = 0) -> list[str | None]:
    """The words of each caption in another order; None where there is no other one.

    Args:
        captions: Any text; words are separated by white space.
        seed: Seed of the draws.

    Example:
        >>> shuffled_words(["a red cube", "cube"], seed=0)
        ['red a cube', None]
    """
    rng = np.random.default_rng([seed, 0x5F1E])
    shuffled: list[str | None] = []
    for caption in captions:
        words = drawn = caption.split()
        while drawn == words and len(set(words)) > 1:
            drawn = [words[index] for index in rng.permutation(len(words))]
        shuffled.append(None if drawn == words else " ".join(drawn))
    return shuffled
