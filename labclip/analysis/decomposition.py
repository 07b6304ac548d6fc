"""How well scenes are a sum of one vector an object: what tells whether a linear probe can read them.

After arXiv:2605.31503. An *object* here is an attribute with a name. Pure functions of one side's embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.analysis.arrays import features_of
from labclip.analysis.scene_labels import Index, SceneLabels, folds_of
from labclip.metrics import TIE

Matrix = NDArray[np.float64]
_RIDGE = 1.0
"""Added to each object's count of scenes: an object seen in one scene is pulled half way to the mean."""


@dataclass(frozen=True)
class Decomposition:
    """How well scenes are a sum of one vector an object, on scenes whose combination was not fitted.

    Attributes:
        r2: Share of the variance of scene embeddings that the sum explains; below 0 is worse than the mean.
        bag_r2: The same with one vector an attribute and one an object name, which cannot bind.
        retrieval: Share of scenes whose own contents' sum is nearest among the sums of all held-out contents.
        candidates: Held-out contents, so that chance is 1 / candidates.
        swapped: Share of scenes nearer to their own contents' sum than to that of their contents with the attributes
            swapped; chance .5, a tie is wrong. None where no scene has two objects that a swap changes.
        n: Scenes.
    """

    r2: float
    bag_r2: float
    retrieval: float
    candidates: int
    swapped: float | None
    n: int


def decompose(features: Any, labels: SceneLabels, *, folds: int = 3, seed: int = 0) -> Decomposition:
    """Fit a vector for each object by least squares on scenes, and try the sums on the scenes of other combinations.

    Args:
        features: One side's embeddings, [n, dim], any scale; the mean of the fitted ones is taken off.
        labels: Of the n scenes.
        folds: Of the cross-validation by combination; the first one is held out, the others fitted.
        seed: Of the split.

    Raises:
        ValueError: If features and labels do not fit together, or there are too few combinations.

    Source: arXiv:2605.31503, additive decomposition; the comparison with a bag of concepts is ours.
    """
    rows = features_of(features, "Features", rows=labels.n).astype(np.float64)
    test = folds_of(labels, folds, seed) == 0
    centred = rows - rows[~test].mean(axis=0)
    variance = float((centred[test] ** 2).sum())
    if variance == 0:
        raise ValueError("All scenes have the same embedding, so there is nothing to decompose. Pass those of a model.")
    objects, bag = _object_counts(labels), _concept_counts(labels)
    vectors = _solve(objects[~test], centred[~test])
    bagged = bag[test] @ _solve(bag[~test], centred[~test])
    contents, which = np.unique(objects[test], axis=0, return_inverse=True)
    return Decomposition(
        r2=1 - float(((centred[test] - objects[test] @ vectors) ** 2).sum()) / variance,
        bag_r2=1 - float(((centred[test] - bagged) ** 2).sum()) / variance,
        retrieval=float(nearest(centred[test], contents @ vectors, which.reshape(-1)).mean()),
        candidates=len(contents),
        swapped=_swapped(labels, test, centred, vectors),
        n=int(test.sum()),
    )


def object_vectors(features: Any, labels: SceneLabels) -> tuple[Matrix, Index]:
    """One vector for each object that occurs, by ridge least squares over all scenes.

    Args:
        features: One side's embeddings, [n, dim], any scale.
        labels: Of the n scenes.

    Returns:
        Vectors, float64 [objects, dim], around the mean scene, and each one's (attribute, object name), int64
        [objects, 2].
    """
    rows = features_of(features, "Features", rows=labels.n).astype(np.float64)
    counts = _object_counts(labels)
    present = np.flatnonzero(counts.sum(axis=0))
    vectors = _solve(counts[:, present], rows - rows.mean(axis=0))
    return vectors, np.stack(np.divmod(present, len(labels.objects)), axis=1)


def nearest(rows: Matrix, candidates: Matrix, own: Index) -> NDArray[np.bool_]:
    """Whether each row's own candidate has strictly its highest cosine.

    Args:
        rows: Any scale, [n, dim].
        candidates: Any scale, [m, dim].
        own: Each row's candidate, int64 [n].
    """
    cosine = _unit(rows) @ _unit(candidates).T
    return (cosine >= cosine[np.arange(len(cosine)), own][:, None] - TIE).sum(axis=1) == 1


def _object_counts(labels: SceneLabels) -> Matrix:
    """How often each object is in each scene: float64 [n, attributes * names]."""
    width = len(labels.attributes) * len(labels.objects)
    cell = labels.scene * width + labels.pair
    return np.bincount(cell, minlength=labels.n * width).reshape(labels.n, width).astype(np.float64)


def _concept_counts(labels: SceneLabels) -> Matrix:
    """How often each attribute and each name is in each scene: float64 [n, attributes + names]."""
    table = _object_counts(labels).reshape(labels.n, len(labels.attributes), len(labels.objects))
    return np.concatenate([table.sum(axis=2), table.sum(axis=1)], axis=1)


def _solve(counts: Matrix, targets: Matrix) -> Matrix:
    """Ridge least squares: the vectors whose sums are nearest to the targets, [columns, dim]."""
    return np.asarray(np.linalg.solve(counts.T @ counts + _RIDGE * np.eye(counts.shape[1]), counts.T @ targets))


def _unit(rows: Matrix) -> Matrix:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _swapped(labels: SceneLabels, test: NDArray[np.bool_], centred: Matrix, vectors: Matrix) -> float | None:
    """Share of scenes of two objects nearer to their own sum than to the swapped one."""
    two = labels.where((labels.counts == 2) & test)
    (a, b), (o, p) = labels.attribute[two].reshape(-1, 2).T, labels.object[two].reshape(-1, 2).T
    differ = (a != b) & (o != p)
    if not differ.any():
        return None
    width = len(labels.objects)
    scene, a, b, o, p = (part[differ] for part in (labels.scene[two][::2], a, b, o, p))
    own, other = (vectors[x * width + o] + vectors[y * width + p] for x, y in ((a, b), (b, a)))
    right, wrong = (((centred[scene] - side) ** 2).sum(axis=1) for side in (own, other))
    return float((right < wrong - 1e-12).mean())
