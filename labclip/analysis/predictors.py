"""Maps from two concepts to an object's vector, learnt with the concepts' own vectors: sum, product, both, MLP."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PREDICTORS = ("sum", "product", "sum+product", "mlp")
STEPS = 300
WIDTH = 64
"""Of the concepts' learnt vectors; the hidden layer of the MLP is four times as wide."""
_RATE, _DECAY = 3e-2, 1.0
"""Of AdamW. Chosen on planted worlds of 120 objects in which the true map is a sum, a product, or both: without the
decay a product learns its objects by heart and knows no other. Eight wide or 64, the vectors then tell the same."""

Map = Callable[[Tensor], Tensor]


def predict(
    name: str,
    vectors: NDArray[np.float64],
    concepts: NDArray[np.int64],
    train: NDArray[np.bool_],
    sizes: tuple[int, int],
    *,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Learn a predictor on some objects, and predict all of them.

    Args:
        name: One of `PREDICTORS`.
        vectors: Of the objects, float64 [objects, dim], of mean 0 and values of size 1.
        concepts: Attribute and name of each object, int64 [objects, 2].
        train: Which to learn from, bool [objects].
        sizes: Number of attributes and of names.
        seed: Of the initial values.

    Returns:
        Predictions, float64 [objects, dim].
    """
    if name == "sum":
        return _sum(vectors, concepts, train, sizes)
    x, y = torch.from_numpy(concepts), torch.from_numpy(vectors).float()
    known = torch.from_numpy(train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = {"product": _Product, "sum+product": _Both, "mlp": _Mlp}[name](sizes, y.shape[1])
        with torch.enable_grad():
            _learn(model, x[known], y[known])
    with torch.no_grad():
        return model(x).double().numpy()


def _sum(
    vectors: NDArray[np.float64], concepts: NDArray[np.int64], train: NDArray[np.bool_], sizes: tuple[int, int]
) -> NDArray[np.float64]:
    """Ridge least squares for one vector an attribute and one a name: the best sum there is."""
    counts = np.zeros((len(concepts), sum(sizes)))
    rows = np.arange(len(concepts))
    counts[rows, concepts[:, 0]] = 1
    counts[rows, sizes[0] + concepts[:, 1]] = 1
    x, y = counts[train], vectors[train]
    mean = y.mean(axis=0)
    weights = np.linalg.solve(x.T @ x + 1e-2 * np.eye(x.shape[1]), x.T @ (y - mean))
    return counts @ weights + mean


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


class _Both(nn.Module):
    def __init__(self, sizes: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.product, self.added = _Product(sizes, dim), _Concepts(sizes)
        self.head = nn.Linear(WIDTH, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        attribute, name = self.added(x)
        return self.product(x) + self.head(attribute + name)


class _Mlp(nn.Module):
    def __init__(self, sizes: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.concepts = _Concepts(sizes)
        self.net = nn.Sequential(nn.Linear(2 * WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.cat(self.concepts(x), dim=1))
