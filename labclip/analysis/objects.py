"""How well scenes are a sum of one vector an object, and how well unseen objects follow from their concepts.

After arXiv:2605.31503. A *concept* is an attribute or an object name, an *object* an attribute with a name. The first
says whether a linear probe can read scenes; the second whether a fitted matrix can generalise to unseen combinations.
The map from concepts to an object's vector is learnt with the concepts' own vectors: a sum, a product, both, or an MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labclip.analysis.scenes import Index, Mask, Matrix, SceneLabels, features_of, folds_of
from labclip.metrics import TIE

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PREDICTORS = ("sum", "product", "sum+product", "mlp")
LEAST = 8
"""Objects below which none can be learnt from others."""
STEPS = 300
WIDTH = 64
"""Of the concepts' learnt vectors; the hidden layer of the MLP is four times as wide."""
_RATE, _DECAY = 3e-2, 1.0
"""Of AdamW. Chosen on planted worlds of 120 objects in which the true map is a sum, a product, or both: without the
decay a product memorises its objects and predicts no other."""
_RIDGE = 1.0
"""Added to each object's count of scenes: an object seen in one scene is pulled half way to the mean."""
_MOST = 2000  # swaps asked about


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
        features: One side's embeddings, [n, dim], any scale; the mean of the fitted ones is subtracted.
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
    objects = _object_counts(labels)
    table = objects.reshape(labels.n, len(labels.attributes), len(labels.objects))
    bag = np.concatenate([table.sum(axis=2), table.sum(axis=1)], axis=1)
    vectors, concepts = (_solve(counts[~test], centred[~test]) for counts in (objects, bag))
    contents, which = np.unique(objects[test], axis=0, return_inverse=True)
    return Decomposition(
        r2=1 - float(((centred[test] - objects[test] @ vectors) ** 2).sum()) / variance,
        bag_r2=1 - float(((centred[test] - bag[test] @ concepts) ** 2).sum()) / variance,
        retrieval=float(_nearest(centred[test], contents @ vectors, which.reshape(-1)).mean()),
        candidates=len(contents),
        swapped=_swapped(labels, test, centred, vectors),
        n=int(test.sum()),
    )


def _object_vectors(features: Any, labels: SceneLabels) -> tuple[Matrix, Index]:
    """A vector of each object that occurs, float64 [objects, dim], by ridge least squares over all scenes.

    Around the mean scene; and each one's (attribute, object name), int64 [objects, 2].
    """
    rows = features_of(features, "Features", rows=labels.n).astype(np.float64)
    counts = _object_counts(labels)
    present = np.flatnonzero(counts.sum(axis=0))
    vectors = _solve(counts[:, present], rows - rows.mean(axis=0))
    return vectors, np.stack(np.divmod(present, len(labels.objects)), axis=1)


def _nearest(rows: Matrix, candidates: Matrix, own: Index) -> Mask:
    """Whether each row's own candidate, int64 [n], has strictly its highest cosine; any scales."""
    rows, candidates = (
        side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (rows, candidates)
    )
    cosine = rows @ candidates.T
    return (cosine >= cosine[np.arange(len(cosine)), own][:, None] - TIE).sum(axis=1) == 1


def _object_counts(labels: SceneLabels) -> Matrix:
    """How often each object is in each scene: float64 [n, attributes * names]."""
    width = len(labels.attributes) * len(labels.objects)
    cell = labels.scene * width + labels.pair
    return np.bincount(cell, minlength=labels.n * width).reshape(labels.n, width).astype(np.float64)


def _solve(counts: Matrix, targets: Matrix, ridge: float = _RIDGE) -> Matrix:
    """Ridge least squares: the vectors whose sums are nearest to the targets, [columns, dim]."""
    x = torch.from_numpy(counts)
    products = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(products, x.T @ torch.from_numpy(targets)).numpy()


def _swapped(labels: SceneLabels, test: Mask, centred: Matrix, vectors: Matrix) -> float | None:
    """Share of scenes of two objects nearer to their own sum than to the swapped one."""
    two = ((labels.counts == 2) & test)[labels.scene]
    scene, width = labels.scene[two][::2], len(labels.objects)
    (a, b), (o, p) = labels.attribute[two].reshape(-1, 2).T, labels.object[two].reshape(-1, 2).T
    sums = (vectors[x * width + o] + vectors[y * width + p] for x, y in ((a, b), (b, a)))
    right, wrong = (((centred[scene] - side) ** 2).sum(axis=1) for side in sums)
    differ = (a != b) & (o != p)
    return float((right < wrong - 1e-12)[differ].mean()) if differ.any() else None


@dataclass(frozen=True)
class Complexity:
    """How well the vectors of unseen objects are predicted from their concepts.

    Attributes:
        predictor: "sum", "product", "sum+product" or "mlp".
        fraction: Share of the objects learnt from.
        accuracy: Share of unseen objects, both of whose concepts were learnt with others, whose prediction is nearer to
            their own vector than to any other object's.
        objects: How many were asked about, over all draws.
        candidates: Vectors to choose from, so that chance is 1 / candidates.
        binding: Share of unseen (a, o) + (b, p) that predictions tell from the swapped (b, o) + (a, p), all four
            unseen; chance .5, a tie is wrong, so that a sum, which cannot bind, has 0.
        swaps: How many were asked about; `binding` is None where there are none.
    """

    predictor: str
    fraction: float
    accuracy: float | None
    objects: int
    candidates: int
    binding: float | None
    swaps: int


def complexity(
    features: Any,
    labels: SceneLabels,
    *,
    fractions: Sequence[float] = FRACTIONS,
    predictors: Sequence[str] = PREDICTORS,
    draws: int = 3,
    seed: int = 0,
) -> list[Complexity]:
    """How simple the map from concepts to objects is: which predictor, learnt on some objects, knows the others.

    Few examples that suffice for a sum or a product mean a simple map, which a matrix fitted on some combinations can
    follow to others. If even an MLP needs most objects, unseen ones stay hard for any map between the two sides.

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
    the objects' vectors, and `binding` compares a pair with the swapped one, where a sum fails, as it cannot bind.
    """
    if wrong := [fraction for fraction in fractions if not 0 < fraction < 1]:
        raise ValueError(f"A fraction is {wrong[0]!r}. Pass numbers between 0 and 1, for example 0.5.")
    if unknown := [name for name in predictors if name not in PREDICTORS]:
        raise ValueError(f"There is no predictor {unknown[0]!r}. Pass some of {', '.join(PREDICTORS)}.")
    vectors, concepts = _object_vectors(features, labels)
    if len(vectors) < LEAST:
        raise ValueError(
            f"There are {len(vectors)} objects, too few to learn from some and ask about others. Pass {LEAST}."
        )
    vectors = _rotated(vectors)
    sizes = (len(labels.attributes), len(labels.objects))
    found = []
    for fraction in fractions:
        trained = [_draw(len(vectors), fraction, [seed, draw]) for draw in range(draws)]
        for name in predictors:
            asked = [
                _ask(vectors, concepts, _predict(name, vectors, concepts, train, sizes, seed), train)
                for train in trained
            ]
            hits, objects, told, swaps = (sum(part) for part in zip(*asked, strict=True))
            accuracy, binding = (right / n if n else None for right, n in ((hits, objects), (told, swaps)))
            found.append(Complexity(name, fraction, accuracy, objects, len(vectors), binding, swaps))
    return found


def _rotated(vectors: Matrix) -> Matrix:
    """The same vectors in as few dimensions as there are of them: angles and distances stay, learning gets faster."""
    left, values, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    scaled = left * values
    return scaled / max(float(np.sqrt((scaled**2).mean())), 1e-12)


def _draw(n: int, fraction: float, seed: list[int]) -> Mask:
    """Which objects are learnt from: at least 2, and not all."""
    chosen = np.random.default_rng([*seed, round(fraction * 1000)]).permutation(n)
    return np.isin(np.arange(n), chosen[: min(max(2, round(fraction * n)), n - 1)])


def _ask(vectors: Matrix, concepts: Index, predicted: Matrix, train: Mask) -> tuple[int, int, int, int]:
    """Hits and count of unseen objects with known concepts, hits and count of unseen swaps."""
    known = [np.isin(concepts[:, side], concepts[train, side]) for side in (0, 1)]
    asked = np.flatnonzero(~train & known[0] & known[1])
    hits = int(_nearest(predicted[asked], vectors, asked).sum())
    one, other, *crossed = _swaps(concepts, asked).T
    true, guess = (side[one] + side[other] - side[crossed[0]] - side[crossed[1]] for side in (vectors, predicted))
    told = (true * guess).sum(axis=1) > 1e-9 * np.linalg.norm(true, axis=1)
    return hits, len(asked), int(told.sum()), len(told)


def _swaps(concepts: Index, asked: Index) -> Index:
    """Rows of (a, o), (b, p), (b, o), (a, p), objects all asked about, each four once: [swaps, 4], at most `_MOST`."""
    row = {(int(a), int(o)): number for number, (a, o) in zip(asked.tolist(), concepts[asked].tolist(), strict=True)}
    found = [
        (one, other, row[b, o], row[a, p])
        for (a, o), one in row.items()
        for (b, p), other in row.items()
        if a < b and o < p and (b, o) in row and (a, p) in row
    ]
    step = max(1, -(-len(found) // _MOST))
    return np.array(found[::step], dtype=np.int64).reshape(-1, 4)


def _predict(name: str, vectors: Matrix, concepts: Index, train: Mask, sizes: tuple[int, int], seed: int) -> Matrix:
    """Learn a predictor by least squares on the vectors of some objects, [objects, dim], and predict all of them."""
    if name == "sum":  # the best one there is
        counts = np.concatenate([np.eye(size)[concepts[:, side]] for side, size in enumerate(sizes)], axis=1)
        mean = vectors[train].mean(axis=0)
        return counts @ _solve(counts[train], vectors[train] - mean, ridge=1e-2) + mean
    x, y, known = torch.from_numpy(concepts), torch.from_numpy(vectors).float(), torch.from_numpy(train)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = _Predictor(name, sizes, y.shape[1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            (model(x[known]) - y[known]).square().mean().backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return model(x).double().numpy()


class _Predictor(nn.Module):
    """A learnt vector for each attribute and each name, and what makes an object's vector of the two."""

    def __init__(self, kind: str, sizes: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.kind = kind
        self.tables = nn.ModuleList(nn.Embedding(size, WIDTH) for size in sizes)
        self.head: nn.Module
        if kind == "mlp":
            self.head = nn.Sequential(nn.Linear(2 * WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, dim))
        else:
            self.head = nn.Linear(WIDTH, dim)
        if kind == "sum+product":
            self.added = nn.ModuleList(nn.Embedding(size, WIDTH) for size in sizes)
            self.added_head = nn.Linear(WIDTH, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        attribute, name = (table(column) for table, column in zip(self.tables, x.T, strict=True))
        if self.kind == "mlp":
            return self.head(torch.cat([attribute, name], dim=1))
        if self.kind == "product":
            return self.head(attribute * name)
        attribute_added, name_added = (table(column) for table, column in zip(self.added, x.T, strict=True))
        return self.head(attribute * name) + self.added_head(attribute_added + name_added)
