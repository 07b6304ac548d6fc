"""How well unseen objects follow from their concepts: whether a fitted matrix can hold on new combinations.

After arXiv:2605.31503. A *concept* is an attribute or an object name, an *object* an attribute with a name. The map
from concepts to an object's vector is learnt with the concepts' own vectors: a sum, a product, both, or an MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labclip.analysis.decomposition import Matrix, nearest, object_vectors
from labclip.analysis.scene_labels import Index, SceneLabels

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PREDICTORS = ("sum", "product", "sum+product", "mlp")
LEAST = 8
"""Objects below which none can be learnt from others."""
STEPS = 300
WIDTH = 64
"""Of the concepts' learnt vectors; the hidden layer of the MLP is four times as wide."""
_RATE, _DECAY = 3e-2, 1.0
"""Of AdamW. Chosen on planted worlds of 120 objects in which the true map is a sum, a product, or both: without the
decay a product learns its objects by heart and knows no other."""
_MOST = 2000  # swaps asked about


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
    follow to others. If even an MLP needs most objects, new ones stay hard for any map between the two sides.

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
    the objects' vectors, and `binding` compares a pair with the swapped one, where a sum cannot win by naming the bag.
    """
    wrong = [fraction for fraction in fractions if not 0 < fraction < 1]
    if wrong:
        raise ValueError(f"A fraction is {wrong[0]!r}. Pass numbers between 0 and 1, for example 0.5.")
    unknown = [name for name in predictors if name not in PREDICTORS]
    if unknown:
        raise ValueError(f"There is no predictor {unknown[0]!r}. Pass some of {', '.join(PREDICTORS)}.")
    vectors, concepts = object_vectors(features, labels)
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


def _draw(n: int, fraction: float, seed: list[int]) -> NDArray[np.bool_]:
    """Which objects are learnt from: at least 2, and not all."""
    chosen = np.random.default_rng([*seed, round(fraction * 1000)]).permutation(n)
    train = np.zeros(n, dtype=np.bool_)
    train[chosen[: min(max(2, round(fraction * n)), n - 1)]] = True
    return train


def _ask(vectors: Matrix, concepts: Index, predicted: Matrix, train: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Hits and count of unseen objects with known concepts, hits and count of unseen swaps."""
    known = [np.isin(concepts[:, side], concepts[train, side]) for side in (0, 1)]
    asked = np.flatnonzero(~train & known[0] & known[1])
    hits = int(nearest(predicted[asked], vectors, asked).sum())
    swaps = _swaps(concepts, asked)
    if not len(swaps):
        return hits, len(asked), 0, 0
    true, guess = (
        side[swaps[:, 0]] + side[swaps[:, 1]] - side[swaps[:, 2]] - side[swaps[:, 3]] for side in (vectors, predicted)
    )
    agree = (true * guess).sum(axis=1)
    return hits, len(asked), int((agree > 1e-9 * np.linalg.norm(true, axis=1)).sum()), len(swaps)


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


def _predict(
    name: str, vectors: Matrix, concepts: Index, train: NDArray[np.bool_], sizes: tuple[int, int], seed: int
) -> Matrix:
    """Learn a predictor on some objects, and predict all of them.

    Args:
        name: One of `PREDICTORS`.
        vectors: Of the objects, float64 [objects, dim], of mean 0 and values of size 1.
        concepts: Attribute and name of each object, int64 [objects, 2].
        train: Which to learn from, bool [objects].
        sizes: Number of attributes and of names.
        seed: Of the initial values.
    """
    if name == "sum":
        return _best_sum(vectors, concepts, train, sizes)
    x, y = torch.from_numpy(concepts), torch.from_numpy(vectors).float()
    known = torch.from_numpy(train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = {"product": _Product, "sum+product": _Both, "mlp": _Mlp}[name](sizes, y.shape[1])
        with torch.enable_grad():
            _learn(model, x[known], y[known])
    with torch.no_grad():
        return model(x).double().numpy()


def _best_sum(vectors: Matrix, concepts: Index, train: NDArray[np.bool_], sizes: tuple[int, int]) -> Matrix:
    """Ridge least squares for one vector an attribute and one a name: the best sum there is."""
    counts = np.concatenate([np.eye(size)[concepts[:, side]] for side, size in enumerate(sizes)], axis=1)
    x, y = counts[train], vectors[train]
    mean = y.mean(axis=0)
    return counts @ np.linalg.solve(x.T @ x + 1e-2 * np.eye(x.shape[1]), x.T @ (y - mean)) + mean


def _learn(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Least squares by AdamW with a cosine step, all objects at once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        (model(x) - y).square().mean().backward()
        optimizer.step()
        schedule.step()


class _Concepts(nn.Module):
    """A learnt vector for each attribute and each name."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        super().__init__()
        self.attribute, self.name = (nn.Embedding(size, WIDTH) for size in sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.attribute(x[:, 0]), self.name(x[:, 1])


class _Product(nn.Module):
    def __init__(self, sizes: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.concepts, self.head = _Concepts(sizes), nn.Linear(WIDTH, dim)

    def forward(self, x: Tensor) -> Tensor:
        attribute, name = self.concepts(x)
        return self.head(attribute * name)


class _Both(_Product):
    def __init__(self, sizes: tuple[int, int], dim: int) -> None:
        super().__init__(sizes, dim)
        self.added, self.added_head = _Concepts(sizes), nn.Linear(WIDTH, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        attribute, name = self.added(x)
        return super().forward(x) + self.added_head(attribute + name)


class _Mlp(nn.Module):
    def __init__(self, sizes: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.concepts = _Concepts(sizes)
        self.net = nn.Sequential(nn.Linear(2 * WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.cat(self.concepts(x), dim=1))
