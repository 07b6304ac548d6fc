"""The matrix: fitted on frozen, cached embeddings in seconds.

As published, with three differences that help on unseen pairs. The change to the identity has low
rank, so that pairs must share what is learnt of them. Hard negatives go both ways: an image meets its caption with the
colours swapped, and a caption meets an image of that swapped scene. The step size falls along a cosine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from labclip.scenes.vocabulary import SHAPES
from labclip.training.fitting import unit_scale


@dataclass(frozen=True)
class Fitting:
    """Settings of one fit.

    Attributes:
        rank: Rank of the change to the identity; 16 is too little, 64 gains nothing, a full matrix loses unseen pairs.
        steps: Optimiser steps; unseen pairs gain from more, up to here.
        batch_size: Scenes a step; as many scenes with the colours swapped come with them.
        learning_rate: Of Adam, at the start; falls to a hundredth.
        spread: Standard deviation of the two factors at the start.
        seed: Of factors, order, and the choice of captions and swapped scenes.
    """

    rank: int = 32
    steps: int = 8000
    batch_size: int = 128
    learning_rate: float = 3e-2
    spread: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Features:
    """Unit-length embeddings of n scenes; k captions each.

    Attributes:
        images: [n, dim].
        captions: [n, k, dim].
        swapped: The same captions with the colours swapped, [n, k, dim].
        tags: Captions that do not bind, [n, dim].
    """

    images: Tensor
    captions: Tensor
    swapped: Tensor
    tags: Tensor


class SwappedScenes:
    """Finds, for a scene, others that show it with the colours swapped.

    Args:
        colours: Colour of each object, [n, 2].
        shapes: Shape of each object, [n, 2].
    """

    def __init__(self, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> None:
        content, swapped = _content(colours, shapes), _content(colours[:, ::-1], shapes)
        order = np.argsort(content, kind="stable")
        self._order = torch.from_numpy(order)
        self._first = torch.from_numpy(np.searchsorted(content[order], swapped, "left"))
        self._count = torch.from_numpy(np.searchsorted(content[order], swapped, "right")) - self._first
        assert bool((self._count > 0).all()), "with some ten scenes a content, each has a swapped one"

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """One swapped scene for each row, at random: int64 [len(rows)]."""
        share = torch.rand(len(rows), generator=generator)
        return self._order[self._first[rows] + (share * self._count[rows]).long()]


def _content(colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for what a scene shows, whichever object is on the left: int64 [n]."""
    pairs = np.sort(colours * len(SHAPES) + shapes, axis=1)
    return np.asarray(pairs[:, 0] * 1000 + pairs[:, 1])


def fit(features: Features, swapped: SwappedScenes, settings: Fitting) -> tuple[Tensor, float]:
    """Fit the matrix.

    Args:
        features: Of the scenes to learn from.
        swapped: Over the same scenes.
        settings: See `Fitting`.

    Returns:
        The matrix, float32 [dim, dim], scaled so that unit-length captions keep unit length on average (a cosine does
        not see the scale, but a blend with the identity does), and the fitted log-temperature.

    Source: arXiv:2502.03566 for the objective and the optimiser.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    n, k, dim = features.captions.shape
    eye = torch.eye(dim)
    left = (settings.spread * torch.randn(dim, settings.rank, generator=generator)).requires_grad_()
    right = (settings.spread * torch.randn(settings.rank, dim, generator=generator)).requires_grad_()
    log_scale = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([left, right, log_scale], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.01 + 0.99 * (1 + math.cos(math.pi * step / settings.steps)) / 2
    )
    target = torch.arange(2 * settings.batch_size)
    batches = n // settings.batch_size
    order = torch.empty(0)
    for step in range(settings.steps):
        if step % batches == 0:
            order = torch.randperm(n, generator=generator)
        rows = order[step % batches * settings.batch_size :][: settings.batch_size]
        which = torch.randint(k, (len(rows),), generator=generator)
        image = torch.cat([features.images[rows], features.images[swapped.draw(rows, generator)]])
        text = torch.cat([features.captions[rows, which], features.swapped[rows, which]])  # [2 batch, dim]
        text = F.normalize(text + text @ right.T @ left.T, dim=-1)
        logits = log_scale.exp() * image @ text.T
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    matrix = (eye + left @ right).detach()
    return unit_scale(matrix, features.captions.flatten(0, 1)), log_scale.item()
