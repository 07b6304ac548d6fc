"""The embedding space before and after a matrix: similarity of permuted captions, modality gap, and spectrum."""

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
    """The distribution of the cosines of n pairs.

    Attributes:
        n: Number of pairs.
        quantiles: The cosine at each of the `QUANTILES`.
        edges: Edges of the histogram, [bins + 1], from -1 to 1.
        histogram: Fraction of the pairs in each bin, [bins]; the sum is 1.
    """

    n: int
    quantiles: Mapping[float, float]
    edges: NDArray[np.float64]
    histogram: NDArray[np.float64]


def permutation_similarity(captions: Any, permuted: Any, matrix: Any = None) -> dict[str, Distribution]:
    """Measure the cosines between captions and their permutations, in the base's text space and after the matrix.

    For a bag of words all of them are 1. Images are not used.

    Args:
        captions: The base's own text embeddings, [n, dim], any scale.
        permuted: Embeddings of the same words in another order, [n, dim].
        matrix: An `Alignment` or [dim, dim]; None measures the base alone.

    Returns:
        "before", and "after" if there is a matrix.

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
    captions = features_of(captions, "Captions")
    permuted = features_of(permuted, "Permuted captions", len(captions))
    distributions = {}
    for when, first, second in _before_and_after(matrix, captions, permuted):
        cosines = (first * second).sum(dim=1).clamp(-1, 1).numpy()  # by rounding they may pass 1, the last edge
        counts, edges = np.histogram(cosines, bins=np.linspace(-1, 1, _BINS + 1))
        quantiles = dict(zip(QUANTILES, np.quantile(cosines, QUANTILES).tolist(), strict=True))
        distributions[when] = Distribution(len(cosines), quantiles, edges, counts / len(cosines))
    return distributions


@dataclass(frozen=True)
class Gap:
    """The modality gap of n images and n captions.

    Attributes:
        distance: Distance between the mean image and the mean caption, means of unit-length embeddings: 0 to 2.
        separability: Cross-validated accuracy of a linear classifier that tells images from captions: .5 if their
            distributions are the same, 1 if a hyperplane separates them.
        n: Number of images, and of captions.
    """

    distance: float
    separability: float
    n: int


def modality_gap(images: Any, captions: Any, matrix: Any = None, *, seed: int = 0) -> dict[str, Gap]:
    """Measure the modality gap, how far images and captions are apart, of the base and after the matrix.

    An image and its caption are in one fold, so that no pair is in both training and test.

    Args:
        images: Image embeddings, [n, dim], any scale.
        captions: The base's own text embeddings of the same scenes, [n, dim].
        matrix: An `Alignment` or [dim, dim]; None measures the base alone.
        seed: Seed of the folds.

    Returns:
        "before", and "after" if there is a matrix.

    Raises:
        ValueError: If the features do not fit together, or there are too few of them.
        RuntimeError: If the embeddings and the matrix have different dims.

    Source: arXiv:2203.02053 (distance); arXiv:2502.03566 and its reviews, which ask whether a matrix widens the gap
    (separability).

    Example:
        >>> import numpy as np
        >>> points = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
        >>> gap = modality_gap(points, points)["before"]
        >>> gap.distance, gap.separability <= 0.5  # a tie is wrong
        (0.0, True)
    """
    images = features_of(images, "Image features")
    captions, n = features_of(captions, "Text features", len(images)), len(images)
    if n < 2 * _FOLDS:
        raise ValueError(f"There are {n} images, too few to tell from captions. Pass {2 * _FOLDS} or more.")
    fold = torch.from_numpy(np.random.default_rng([seed, 0x6A9]).permutation(n) % _FOLDS)
    gaps = {}
    for when, texts in _before_and_after(matrix, captions):
        correct = 0
        for number in range(_FOLDS):
            train, test = (torch.cat([images[rows], texts[rows]]) for rows in (fold != number, fold == number))
            train_side, test_side = (torch.arange(2).repeat_interleave(len(rows) // 2) for rows in (train, test))
            correct += int(metrics.linear_probe(train, train_side, test, test_side).sum())
        gaps[when] = Gap(metrics.modality_gap(images, texts), correct / (2 * n), n)
    return gaps


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of a matrix A, [dim, dim], and the angles by which it rotates.

    Attributes:
        singular_values: Singular values of A, descending, [dim].
        distance: ||A - I||_F. It predicts the loss on large galleries (others report r = -.989 for 21 matrices) if the
            scale of A is fixed, which cosines do not depend on.
        rank: Effective rank of A: exp of the entropy of its normalised singular values; dim for the identity.
        change_rank: Effective rank of A - I; 0 for the identity.
        rotation: Angle in degrees by which A rotates a random direction: its cosine is trace(Q) / dim, where Q is the
            rotation of A's polar form.
        text_angle: Mean angle in degrees between text embeddings before and after A; None without texts.
    """

    singular_values: NDArray[np.float64]
    distance: float
    rank: float
    change_rank: float
    rotation: float
    text_angle: float | None = None


def spectrum(matrix: Any, texts: Any = None) -> Spectrum:
    """Measure a matrix: its distance from the identity, its spectrum, and the angles by which it rotates.

    Args:
        matrix: An `Alignment` (at its strength) or [dim, dim].
        texts: The base's own text embeddings, [n, dim], any scale, for the text angle.

    Raises:
        ValueError: If the matrix is not square and finite, or the texts have another dim.

    Source: effective rank: Roy and Vetterli, EUSIPCO 2007.

    Example:
        >>> import numpy as np
        >>> turn = spectrum(np.array([[0.0, -1.0], [1.0, 0.0]], dtype=np.float32))  # 90 degrees
        >>> round(turn.rotation), turn.distance, round(turn.change_rank, 6)
        (90, 2.0, 2.0)
    """
    a = _matrix_of(matrix).numpy()
    left, values, right = np.linalg.svd(a)
    change, angle = a - np.eye(len(a)), None
    if texts is not None:
        rows = features_of(texts, "Text features").double().numpy()
        aligned = rows @ a.T
        cosine = (rows * aligned).sum(axis=1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(aligned, axis=1))
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
    """An `Alignment` at its strength, or a plain matrix, as float64 [dim, dim] on the CPU."""
    return checked_matrix(matrix.matrix if isinstance(matrix, Alignment) else matrix).detach().cpu().double()


def _before_and_after(matrix: Any, *texts: Tensor) -> Iterator[tuple[Any, ...]]:
    """("before", *texts), then with a matrix ("after", *texts) with aligned unit-length texts."""
    yield "before", *texts
    if matrix is not None:
        square = _matrix_of(matrix)
        yield "after", *(F.normalize(rows.double() @ square.T, dim=1).float() for rows in texts)
