"""Labels and embeddings of scenes, and folds that do not leak."""

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
        attribute: Attribute of each object, as an index into `attributes`, int64 like `scene`.
        object: Name of each object, as an index into `objects`, int64 like `scene`.
        combination: Number of each scene's combination, int64 [n]. Scenes with the same attributes and the same objects
            share it, whichever attribute an object has; so do a scene and its swapped version.
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
        """For each object the accuracy of the bag-of-words baseline, which guesses among the scene's attributes.

        This is the fraction of the scene's objects that have this object's attribute: 1 / n if all differ.
        """
        cell = self.scene * len(self.attributes) + self.attribute
        return np.bincount(cell)[cell] / self.counts[self.scene]


def labels_of(scenes: Sequence[Sequence[tuple[str, str]]]) -> SceneLabels:
    """Turn the objects of scenes, as words, into `SceneLabels`.

    Args:
        scenes: For each scene its objects as (attribute, object name), in the order in which the caption names them.

    Raises:
        ValueError: If there is no scene, if a scene is empty, or if there are fewer than two attributes or objects.

    Example:
        >>> labels = labels_of([(("red", "cube"), ("blue", "ball")), (("blue", "cube"), ("red", "ball"))])
        >>> labels.attributes, labels.objects
        (('blue', 'red'), ('ball', 'cube'))
        >>> labels.combination  # the second scene is the first with swapped attributes
        array([0, 0])
    """
    if not len(scenes) or not all(map(len, scenes)):
        raise ValueError("There are no scenes, or one is empty. Pass a tuple of (attribute, object) for each object.")
    attributes, objects = (tuple(sorted({pair[side] for scene in scenes for pair in scene})) for side in (0, 1))
    for kind, names in (("attribute", attributes), ("object", objects)):
        if len(names) < 2:
            raise ValueError(f"All scenes have the same {kind}, {names[0]!r}. Pass scenes with at least two {kind}s.")
    rows = [
        (scene, attributes.index(attribute), objects.index(name))
        for scene, pairs in enumerate(scenes)
        for attribute, name in pairs
    ]
    scene, attribute, name = np.array(rows, dtype=np.int64).T
    combinations = group_numbers([combination(pairs) for pairs in scenes])
    return SceneLabels(len(scenes), attributes, objects, scene, attribute, name, combinations)


def folds_of(labels: SceneLabels, folds: int, seed: int = 0) -> Index:
    """Assign scenes to folds, so that all scenes of a combination are in one fold.

    Args:
        labels: Labels of the scenes.
        folds: Number of folds, at least 2.
        seed: Seed of the assignment.

    Returns:
        The fold of each scene, int64 [n]. The numbers of combinations of two folds differ by one at most.

    Raises:
        ValueError: If there are fewer combinations than folds.

    Source: arXiv:2502.03566, which splits by unordered combination.
    """
    if not 2 <= folds <= labels.combinations:
        raise ValueError(
            f"There are {labels.combinations} different combinations of attributes and objects, which does not work "
            f"with folds={folds!r}. Pass 2 folds or more, and scenes of at least as many combinations."
        )
    order = np.random.default_rng([seed, 0xF01D]).permutation(labels.combinations)
    fold = np.empty(labels.combinations, dtype=np.int64)
    fold[order] = np.arange(labels.combinations) % folds
    return fold[labels.combination]


def features_of(features: Any, name: str, rows: int | None = None) -> Tensor:
    """Embeddings, a float tensor or array [rows, dim] of any scale, as unit-length float32 on the CPU."""
    unit = unit_length(torch.as_tensor(features).detach().cpu(), name)
    if rows is not None and len(unit) != rows:
        raise ValueError(f"{name} have {len(unit)} rows, but there are {rows} scenes. Pass one row per scene.")
    return unit


@dataclass(frozen=True, eq=False)
class SceneFeatures:
    """Unit-length embeddings of n scenes by the base, float32 [n, dim] each. A diagnosis needs nothing else.

    The kinds of text are "captions"; "swapped", captions with two attributes swapped; "shuffled", captions with their
    words in another order; and "tags", which list objects and attributes without saying which belong together.
    """

    labels: SceneLabels
    images: Tensor
    texts: Mapping[str, Tensor]  # by kind
    present: Mapping[str, Mask]  # which scenes have a "swapped" or "shuffled" caption; the others have their own there
    name: str = "embeddings"  # the data in words
    notes: Sequence[str] = ()  # an example of the captions, and what was left out
    weights_sha256: str = ""  # of the base; "" if unknown


def embed_scenes(
    model: LABCLIP, labelled: LabelledScenes, *, seed: int = 0, cache: str | Path | bool | None = None,
    progress: bool = True,
) -> SceneFeatures:  # fmt: skip
    """Encode labelled images and their captions with the base; arguments as in `diagnose`."""
    labels, captions = labels_of(labelled.objects), list(labelled.captions)
    kinds: dict[str, Sequence[str | None]] = {
        "captions": captions,
        "swapped": labelled.swapped,
        "shuffled": shuffled_words(captions, seed),
        # Objects, then attributes, both in alphabetical order: "cube sphere blue red".
        "tags": [
            " ".join([*sorted(name for _, name in objects), *sorted(attribute for attribute, _ in objects)])
            for objects in labelled.objects
        ],
    }
    filled = {
        kind: [text or caption for text, caption in zip(texts, captions, strict=True)] for kind, texts in kinds.items()
    }
    present = {kind: np.array(filled[kind]) != np.array(captions) for kind in ("swapped", "shuffled")}
    if not present["swapped"].any():
        raise ValueError(
            f"No caption of {labelled.name} can have two attributes swapped, so binding can't be measured. Pass scenes "
            f"of two or more objects with different attributes."
        )
    all_texts = [text for texts in filled.values() for text in texts]
    with Cache(cache, model) as opened_cache:
        images, features = encode(model, labelled.images, all_texts, cache=opened_cache, progress=progress)
    first = int(present["swapped"].argmax())
    notes = [f"A caption and its swapped version: {captions[first]!r}, {filled['swapped'][first]!r}.", *labelled.notes]
    texts = dict(zip(filled, features.reshape(len(filled), labels.n, -1), strict=True))
    return SceneFeatures(labels, images, texts, present, labelled.name, notes, opened_cache.identity["weights_sha256"])


def shuffled_words(captions: Sequence[str], seed: int = 0) -> list[str | None]:
    """Put the words of each caption in another random order; None if they have no other order.

    Args:
        captions: Any text; words are separated by white space.
        seed: Seed of the orders.

    Example:
        >>> shuffled_words(["a red cube", "cube"], seed=0)
        ['red a cube', None]
    """
    rng = np.random.default_rng([seed, 0x5F1E])
    shuffled: list[str | None] = []
    for caption in captions:
        words = permuted = caption.split()
        while permuted == words and len(set(words)) > 1:
            permuted = [words[index] for index in rng.permutation(len(words))]
        shuffled.append(None if permuted == words else " ".join(permuted))
    return shuffled
