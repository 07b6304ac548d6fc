"""The embedding space before and after a matrix: similarity of permuted captions, modality gap, spectrum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from labclip import metrics
from labclip.alignment import Alignment, checked_matrix
from labclip.analysis.scenes import features_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BINS = 100
_FOLDS = 5


@dataclass(frozen=True)
class Distribution:
    """Cosines of n pairs.

    Attributes:
        n: Pairs.
        quantiles: For each of `QUANTILES` the cosine below which that fraction lies.
        edges: Edges of the histogram, [bins + 1], from -1 to 1.
        histogram: Fraction of the pairs in each bin, [bins]; sums to 1.
    """

    n: int
    quantiles: Mapping[float, float]
    edges: NDArray[np.float64]
    histogram: NDArray[np.float64]


def permutation_similarity(captions: Any, permuted: Any, matrix: Any = None) -> dict[str, Distribution]:
    """Cosines between captions and their permutations, in the base's text space and after the matrix.

    A bag of words would have them all at 1. Images play no part.

    Args:
        captions: The base's own text embeddings, [n, dim], any scale.
        permuted: Embeddings of the same words in another order, [n, dim].
        matrix: An `Alignment` or [dim, dim]; None measures the base alone.

    Returns:
        "before", and "after" where there is a matrix.

    Raises:
        ValueError: If the features do not fit together, or the matrix is not square and finite.
        RuntimeError: If the embeddings and the matrix have different dims.

    Source: arXiv:2502.03566, the figure of caption and permutation similarity.

    Example:
        >>> import numpy as np
        >>> texts = np.eye(3, dtype=np.float32)
        >>> permutation_similarity(texts, texts)["before"].quantiles[0.5]
        1.0
    """
    own = features_of(captions, "Captions")
    other = features_of(permuted, "Permuted captions", len(own))
    measured = {}
    for when, before, after in _before_and_after(matrix, own, other):
        cosines = (before * after).sum(dim=1).clamp(-1, 1).numpy()  # rounding takes equal rows past 1, where no bin is
        counts, edges = np.histogram(cosines, bins=np.linspace(-1, 1, _BINS + 1))
        quantiles = dict(zip(QUANTILES, np.quantile(cosines, QUANTILES).tolist(), strict=True))
        measured[when] = Distribution(len(cosines), quantiles, edges, counts / len(cosines))
    return measured


@dataclass(frozen=True)
class Gap:
    """The modality gap of n images and n captions.

    Attributes:
        distance: Between the mean image and the mean caption, both of unit-length embeddings: 0 to 2.
        separability: Cross-validated accuracy of a linear classifier that tells an image from a caption: .5 where their
            distributions are the same, 1 where a hyperplane separates them.
        n: Images, and captions.
    """

    distance: float
    separability: float
    n: int


def modality_gap(images: Any, captions: Any, matrix: Any = None, *, seed: int = 0) -> dict[str, Gap]:
    """Measure the modality gap of the base, and after the matrix: how far images and captions lie apart.

    An image and its caption are in one fold, so that no pair is in both training and test.

    Args:
        images: Image embeddings, [n, dim], any scale.
        captions: The base's own text embeddings of the same scenes, [n, dim].
        matrix: An `Alignment` or [dim, dim]; None measures the base alone.
        seed: Seed of the folds.

    Returns:
        "before", and "after" where there is a matrix.

    Raises:
        ValueError: If the features do not fit together, or there are too few of them.
        RuntimeError: If the embeddings and the matrix have different dims.

    Source: distance: arXiv:2203.02053; separability: arXiv:2502.03566 and its reviews, which ask whether a matrix
    widens the gap.

    Example:
        >>> import numpy as np
        >>> points = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
        >>> gap = modality_gap(points, points)["before"]
        >>> gap.distance, gap.separability <= 0.5  # a tie is wrong
        (0.0, True)
    """
    seen = features_of(images, "Image features")
    texts, n = features_of(captions, "Text features", len(seen)), len(seen)
    if n < 2 * _FOLDS:
        raise ValueError(f"There are {n} images, too few to tell from captions. Pass {2 * _FOLDS} or more.")
    fold = torch.from_numpy(np.random.default_rng([seed, 0x6A9]).permutation(n) % _FOLDS)
    measured = {}
    for when, moved in _before_and_after(matrix, texts):
        correct = 0
        for number in range(_FOLDS):
            train, test = (torch.cat([seen[rows], moved[rows]]) for rows in (fold != number, fold == number))
            of_train, of_test = (torch.arange(2).repeat_interleave(len(part) // 2) for part in (train, test))
            correct += int(metrics.linear_probe(train, of_train, test, of_test).sum())
        measured[when] = Gap(metrics.modality_gap(seen, moved), correct / (2 * n), n)
    return measured


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of a matrix A, [dim, dim], and the angles it rotates by.

    Attributes:
        singular_values: Descending, [dim].
        distance: ||A - I||_F. It predicts what large galleries lose (a third party's 21 matrices: r = -.989), where
            the scale of A is fixed; under a cosine that scale is free.
        rank: Effective rank of A: exp of the entropy of its normalised singular values; dim for the identity.
        change_rank: The same of A - I; 0 for the identity.
        rotation: Angle in degrees by which A turns a direction drawn at random: the cosine is trace(Q) / dim for the
            rotation Q of its polar form.
        text_angle: Mean angle in degrees between text embeddings before and after A, where texts were given.
    """

    singular_values: NDArray[np.float64]
    distance: float
    rank: float
    change_rank: float
    rotation: float
    text_angle: float | None = None


def spectrum(matrix: Any, texts: Any = None) -> Spectrum:
    """Measure a matrix: its distance from the identity, its spectrum, the angles it rotates by.

    Args:
        matrix: An `Alignment` (as it is applied, strength included) or [dim, dim].
        texts: The base's own text embeddings, [n, dim], any scale, to measure the angle on.

    Raises:
        ValueError: If the matrix is not square and finite, or the texts have another dim.

    Source: effective rank: Roy and Vetterli, EUSIPCO 2007.

    Example:
        >>> import numpy as np
        >>> found = spectrum(np.array([[0.0, -1.0], [1.0, 0.0]], dtype=np.float32))  # 90 degrees
        >>> round(found.rotation), found.distance, round(found.change_rank, 6)
        (90, 2.0, 2.0)
    """
    a = _matrix_of(matrix).numpy()
    left, values, right = np.linalg.svd(a)
    change, angle = a - np.eye(len(a)), None
    if texts is not None:
        rows = features_of(texts, "Text features").double().numpy()
        moved = rows @ a.T
        cosine = (rows * moved).sum(axis=1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(moved, axis=1))
        angle = float(_degrees(cosine).mean())
    return Spectrum(
        singular_values=values,
        distance=float(np.linalg.norm(change)),
        rank=_effective_rank(values),
        change_rank=_effective_rank(np.linalg.svd(change, compute_uv=False)),
        rotation=float(_degrees(np.trace(left @ right) / len(a))),
        text_angle=angle,
    )


def _degrees(cosine: Any) -> Any:
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _effective_rank(values: NDArray[Any]) -> float:
    fraction = values[values > 0] / max(values.sum(), np.finfo(float).tiny)
    return float(np.exp(-(fraction * np.log(fraction)).sum())) if len(fraction) else 0.0


def _matrix_of(matrix: Any) -> Tensor:
    """An `Alignment`, as it is applied, or a plain matrix, as float64 [dim, dim] on the CPU."""
    return checked_matrix(matrix.matrix if isinstance(matrix, Alignment) else matrix).detach().cpu().double()


def _before_and_after(matrix: Any, *texts: Tensor) -> Iterator[tuple[Any, ...]]:
    """Unit-length text embeddings behind "before", and behind "after" what the matrix makes of them if there is one."""
    yield "before", *texts
    if matrix is not None:
        square = _matrix_of(matrix)
        yield "after", *(F.normalize(rows.double() @ square.T, dim=1).float() for rows in texts)
