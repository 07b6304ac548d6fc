"""How scenes are made of objects, and objects of concepts: what foretells whether a matrix holds on new combinations.

After arXiv:2605.31503. A *concept* is an attribute or an object name, an *object* an attribute with a name. Pure
functions of one side's embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.analysis.inputs import features_of
from labclip.analysis.labels import Index, Labels, folds_of
from labclip.analysis.predictors import PREDICTORS, predict
from labclip.metrics import TIE

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_RIDGE = 1.0
"""Added to each object's count of scenes: an object seen in one scene is pulled half way to the mean."""
_QUADS = 2000


@dataclass(frozen=True)
class Decomposition:
    """How well scenes are a sum of one vector an object, on scenes whose combination was not fitted.

    Attributes:
        r2: Share of the variance of scene embeddings that the sum explains; below 0 is worse than the mean.
        bag_r2: The same with one vector an attribute and one an object name, which cannot bind.
        retrieval: Share of scenes whose own contents' sum is nearest among the sums of all held-out contents.
        candidates: Held-out contents, so that chance is 1 / candidates.
        exchanged: Share of scenes nearer to their own contents' sum than to that of their contents with the attributes
            exchanged; chance .5, a tie is wrong. None where no scene has two things that an exchange changes.
        n: Scenes.
    """

    r2: float
    bag_r2: float
    retrieval: float
    candidates: int
    exchanged: float | None
    n: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Complexity:
    """How well the vectors of objects never learnt from are predicted from their concepts.

    Attributes:
        predictor: "sum", "product", "sum+product" or "mlp".
        fraction: Share of the objects learnt from.
        accuracy: Share of unseen objects, both of whose concepts were learnt with others, whose prediction is nearer to
            their own vector than to any other object's.
        objects: How many were asked about, over all draws.
        candidates: Vectors to choose from, so that chance is 1 / candidates.
        binding: Share of unseen twins (a, o) + (b, p) against (b, o) + (a, p), all four unseen, that predictions tell
            apart the right way; chance .5, a tie is wrong, so that a sum, which cannot bind, has 0.
        twins: How many were asked about; `binding` is None where there are none.
    """

    predictor: str
    fraction: float
    accuracy: float | None
    objects: int
    candidates: int
    binding: float | None
    twins: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def decompose(features: Any, labels: Labels, *, folds: int = 3, seed: int = 0) -> Decomposition:
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
    mean = rows[~test].mean(axis=0)
    centred = rows - mean
    objects, bag = object_counts(labels), _concept_counts(labels)
    explained, bagged = (counts[test] @ _solve(counts[~test], centred[~test]) for counts in (objects, bag))
    variance = float((centred[test] ** 2).sum())
    if variance == 0:
        raise ValueError("All scenes have the same embedding, so there is nothing to decompose. Pass those of a model.")
    vectors = _solve(objects[~test], centred[~test])
    contents, which = np.unique(objects[test], axis=0, return_inverse=True)
    sums = contents @ vectors
    cosine = _unit(centred[test]) @ _unit(sums).T
    own = cosine[np.arange(len(cosine)), which.reshape(-1)]
    return Decomposition(
        r2=1 - float(((centred[test] - explained) ** 2).sum()) / variance,
        bag_r2=1 - float(((centred[test] - bagged) ** 2).sum()) / variance,
        retrieval=float(((cosine >= own[:, None] - TIE).sum(axis=1) == 1).mean()),
        candidates=len(contents),
        exchanged=_exchanged(labels, test, centred, vectors),
        n=int(test.sum()),
    )


def object_vectors(features: Any, labels: Labels) -> tuple[NDArray[np.float64], Index]:
    """One vector for each object that occurs, by ridge least squares over all scenes.

    Args:
        features: One side's embeddings, [n, dim], any scale.
        labels: Of the n scenes.

    Returns:
        Vectors, float64 [objects, dim], around the mean scene, and each one's (attribute, object name), int64
        [objects, 2].
    """
    rows = features_of(features, "Features", rows=labels.n).astype(np.float64)
    counts = object_counts(labels)
    present = np.flatnonzero(counts.sum(axis=0))
    vectors = _solve(counts[:, present], rows - rows.mean(axis=0))
    return vectors, np.stack(np.divmod(present, len(labels.objects)), axis=1)


def complexity(
    features: Any,
    labels: Labels,
    *,
    fractions: Sequence[float] = FRACTIONS,
    predictors: Sequence[str] = PREDICTORS,
    draws: int = 3,
    seed: int = 0,
) -> list[Complexity]:
    """How simple the map from concepts to objects is: which predictor, learnt on some objects, knows the others.

    The concepts' own vectors are learnt together with the predictor. Few examples that suffice for a sum or a product
    mean a simple map, which a matrix fitted on some combinations can follow to others. If even an MLP needs most
    objects, new ones stay hard for any map between the two sides.

    Args:
        features: One side's embeddings, [n, dim], any scale.
        labels: Of the n scenes.
        fractions: Shares of the objects to learn from, each between 0 and 1.
        predictors: Among "sum" (a vector an attribute plus one a name), "product" (their elementwise product, mapped
            linearly), "sum+product", "mlp" (one hidden layer on both).
        draws: Random object-level splits of each fraction.
        seed: Of the splits and of what is learnt.

    Returns:
        For each predictor and fraction a `Complexity`.

    Raises:
        ValueError: If features and labels do not fit together, a fraction or predictor is none, or there are fewer
            than 8 objects.

    Source: arXiv:2605.31503, object-level split. There the predictions are whole scenes read by probes; here they are
    the objects' vectors, and `binding` compares twins, where a sum cannot win by naming the right bag.
    """
    wrong = [fraction for fraction in fractions if not 0 < fraction < 1]
    if wrong:
        raise ValueError(f"A fraction is {wrong[0]!r}. Pass numbers between 0 and 1, for example 0.5.")
    unknown = [name for name in predictors if name not in PREDICTORS]
    if unknown:
        raise ValueError(f"There is no predictor {unknown[0]!r}. Pass some of {', '.join(PREDICTORS)}.")
    vectors, concepts = object_vectors(features, labels)
    if len(vectors) < 8:
        raise ValueError(f"There are {len(vectors)} objects, too few to learn from some and ask about others. Pass 8.")
    vectors = _rotated(vectors)
    sizes = (len(labels.attributes), len(labels.objects))
    found = []
    for fraction in fractions:
        trained = [_draw(len(vectors), fraction, [seed, draw]) for draw in range(draws)]
        for name in predictors:
            tried = [
                _try(vectors, concepts, predict(name, vectors, concepts, train, sizes, seed=seed), train)
                for train in trained
            ]
            found.append(_summed(name, fraction, len(vectors), tried))
    return found


def object_counts(labels: Labels) -> NDArray[np.float64]:
    """How often each object is in each scene: float64 [n, attributes * names]."""
    width = len(labels.attributes) * len(labels.objects)
    cell = labels.scene * width + labels.attribute * len(labels.objects) + labels.object
    return np.bincount(cell, minlength=labels.n * width).reshape(labels.n, width).astype(np.float64)


def _concept_counts(labels: Labels) -> NDArray[np.float64]:
    """How often each attribute and each name is in each scene: float64 [n, attributes + names]."""
    table = object_counts(labels).reshape(labels.n, len(labels.attributes), len(labels.objects))
    return np.concatenate([table.sum(axis=2), table.sum(axis=1)], axis=1)


def _solve(counts: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge least squares: the vectors whose sums are nearest to the targets, [columns, dim]."""
    return np.asarray(np.linalg.solve(counts.T @ counts + _RIDGE * np.eye(counts.shape[1]), counts.T @ targets))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _exchanged(
    labels: Labels, test: NDArray[np.bool_], centred: NDArray[np.float64], vectors: NDArray[np.float64]
) -> float | None:
    """Share of two-thing scenes nearer to their own sum than to the exchanged one."""
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


def _rotated(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same vectors in as few dimensions as there are of them: angles and distances stay, learning gets faster."""
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    scaled = left * values
    return scaled / max(float(np.sqrt((scaled**2).mean())), 1e-12)


def _draw(n: int, fraction: float, seed: list[int]) -> NDArray[np.bool_]:
    """Which objects are learnt from: at least 2, and not all."""
    chosen = np.random.default_rng([*seed, round(fraction * 1000)]).permutation(n)
    train = np.zeros(n, dtype=np.bool_)
    train[chosen[: min(max(2, round(fraction * n)), n - 1)]] = True
    return train


_Tried = tuple[int, int, int, int]


def _try(
    vectors: NDArray[np.float64], concepts: Index, predicted: NDArray[np.float64], train: NDArray[np.bool_]
) -> _Tried:
    """Hits and count of unseen objects with known concepts, hits and count of unseen twins."""
    known = [np.isin(concepts[:, side], concepts[train, side]) for side in (0, 1)]
    asked = np.flatnonzero(~train & known[0] & known[1])
    cosine = _unit(predicted[asked]) @ _unit(vectors).T
    own = cosine[np.arange(len(asked)), asked]
    hits = int(((cosine >= own[:, None] - TIE).sum(axis=1) == 1).sum())
    twins = _twins(concepts, asked)
    if not len(twins):
        return hits, len(asked), 0, 0
    true, guess = (
        side[twins[:, 0]] + side[twins[:, 1]] - side[twins[:, 2]] - side[twins[:, 3]] for side in (vectors, predicted)
    )
    agree = (true * guess).sum(axis=1)
    return hits, len(asked), int((agree > 1e-9 * np.linalg.norm(true, axis=1)).sum()), len(twins)


def _twins(concepts: Index, asked: Index) -> Index:
    """Rows (a, o), (b, p), (b, o), (a, p) of objects all asked about, each twin once: [twins, 4], at most `_QUADS`."""
    row = {(int(a), int(o)): number for number, (a, o) in zip(asked.tolist(), concepts[asked].tolist(), strict=True)}
    found = [
        (one, other, row[b, o], row[a, p])
        for (a, o), one in row.items()
        for (b, p), other in row.items()
        if a < b and o < p and (b, o) in row and (a, p) in row
    ]
    step = max(1, -(-len(found) // _QUADS))
    return np.array(found[::step], dtype=np.int64).reshape(-1, 4)


def _summed(name: str, fraction: float, candidates: int, tried: Sequence[_Tried]) -> Complexity:
    hits, objects, told, twins = (sum(part) for part in zip(*tried, strict=True))
    accuracy, binding = (right / n if n else None for right, n in ((hits, objects), (told, twins)))
    return Complexity(name, fraction, accuracy, objects, candidates, binding, twins)
