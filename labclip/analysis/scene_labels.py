"""Which attribute each object of each scene has, and splits of scenes that do not leak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labclip.data.scene_files import combination
from labclip.evaluation.items import numbered

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SceneLabels:
    """What is in n scenes, object by object; scenes may hold different numbers of objects.

    Attributes:
        n: Scenes.
        attributes: Their names, sorted.
        objects: Names of objects, sorted.
        scene: Scene of each object, int64 [objects of all scenes], ascending.
        place: Its place among the objects of its scene, from 0.
        attribute: Index into `attributes`.
        object: Index of its name into `objects`.
        combination: For each scene a number shared by all scenes of the same attributes and the same objects, whichever
            goes with which, int64 [n]: a scene and the same with attributes swapped share it.
    """

    n: int
    attributes: tuple[str, ...]
    objects: tuple[str, ...]
    scene: Index
    place: Index
    attribute: Index
    object: Index
    combination: Index

    @property
    def combinations(self) -> int:
        """Different combinations."""
        return int(self.combination.max()) + 1

    @property
    def counts(self) -> Index:
        """Objects in each scene, int64 [n]."""
        return np.bincount(self.scene, minlength=self.n)

    @property
    def pair(self) -> Index:
        """Number of each object's attribute-object pair, below `len(attributes) * len(objects)`."""
        return self.attribute * len(self.objects) + self.object

    def where(self, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether each object's scene is kept: bool [n] to bool [objects of all scenes]."""
        return keep[self.scene]

    def bag_chance(self) -> NDArray[np.float64]:
        """For each object, the accuracy of the bag-of-words baseline, which knows the attributes but not whose.

        That is the share of the scene's objects that have this object's attribute: 1 / n where all differ.
        """
        cell = self.scene * len(self.attributes) + self.attribute
        alike = np.bincount(cell, minlength=self.n * len(self.attributes))[cell]
        return alike / self.counts[self.scene]


def labels_of(scenes: Sequence[Sequence[tuple[str, str]]]) -> SceneLabels:
    """Read labels.

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
    if not len(scenes):
        raise ValueError("There are no scenes. Pass at least some, each a tuple of (attribute, object).")
    for number, row in enumerate(scenes):
        if not row or any(isinstance(one, str) or len(one) != 2 for one in row):
            raise ValueError(f"Scene {number} holds {row!r}. Pass (attribute, object) of at least one object.")
    attributes = tuple(sorted({attribute for row in scenes for attribute, _ in row}))
    objects = tuple(sorted({name for row in scenes for _, name in row}))
    for what, known in (("attribute", attributes), ("object", objects)):
        if len(known) < 2:
            raise ValueError(
                f"All scenes hold the same {what}, {known[0]!r}, so there is nothing to distinguish. Pass scenes "
                f"with at least two {what}s."
            )
    to_attribute, to_object = ({name: i for i, name in enumerate(known)} for known in (attributes, objects))
    rows = [
        (scene, place, to_attribute[attribute], to_object[name])
        for scene, row in enumerate(scenes)
        for place, (attribute, name) in enumerate(row)
    ]
    scene, place, attribute, name = np.array(rows, dtype=np.int64).T
    together = numbered([combination(row) for row in scenes])
    return SceneLabels(len(scenes), attributes, objects, scene, place, attribute, name, together)


def folds_of(labels: SceneLabels, folds: int, seed: int = 0) -> Index:
    """Deal scenes into folds so that all scenes of a combination lie in one: nothing leaks to the other side.

    Args:
        labels: Of the scenes.
        folds: At least 2.
        seed: Of the draw.

    Returns:
        The fold of each scene, int64 [n]; folds hold nearly as many combinations each.

    Raises:
        ValueError: If there are fewer combinations than folds.

    Source: arXiv:2502.03566, which splits by unordered combination.
    """
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or folds < 2:
        raise ValueError(f"folds is {folds!r}. Pass a whole number from 2, for example folds=3.")
    if labels.combinations < folds:
        raise ValueError(
            f"There are {labels.combinations} different combinations of attributes and objects, too few for {folds} "
            f"folds that share none. Pass scenes with more combinations, or fewer folds."
        )
    order = np.random.default_rng([seed, 0xF01D]).permutation(labels.combinations)
    fold = np.empty(labels.combinations, dtype=np.int64)
    fold[order] = np.arange(labels.combinations) % folds
    return fold[labels.combination]
