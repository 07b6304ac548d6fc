"""What a matrix does to the space: similarity of permuted captions, modality gap, spectrum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labclip import metrics
from labclip.alignment import Alignment
from labclip.analysis.scenes import Matrix, Rows, features_of
from labclip.checks import checked_matrix

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_FOLDS = 5


@dataclass(frozen=True)
class Distribution:
    """Cosines of n pairs.

    Attributes:
        values: Each cosine, float32 [n].
        quantiles: For each of `QUANTILES` the cosine below which that share lies.
        edges: Of the histogram, [bins + 1], from -1 to 1.
        histogram: Share of the pairs in each bin, [bins]; sums to 1.
    """

    values: Rows
    quantiles: Mapping[float, float]
    edges: Matrix
    histogram: Matrix

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the single cosines."""
        return {
            "n": len(self.values),
            "quantiles": {f"{share:g}": round(value, 6) for share, value in self.quantiles.items()},
            "edges": self.edges.round(6).tolist(),
            "histogram": self.histogram.round(6).tolist(),
        }


def permutation_similarity(
    captions: Any, permuted: Any, matrix: Any = None, *, bins: int = 100
) -> dict[str, Distribution]:
    """Cosines between captions and their permutations, in the base's text space and after the matrix.

    A bag of words would have them all at 1. Images play no part.

    Args:
        captions: The base's own text embeddings, [n, dim], any scale.
        permuted: Those of the same words in another order, [n, dim].
        matrix: An `Alignment` or [dim, dim]; None measures the base alone.
        bins: Of the histogram.

    Returns:
        "before", and "after" where there is a matrix.

    Raises:
        ValueError: If the features or the matrix do not fit together.

    Source: arXiv:2502.03566, the figure of caption and permutation similarity.

    Example:
        >>> import numpy as np
        >>> texts = np.eye(3, dtype=np.float32)
        >>> permutation_similarity(texts, texts)["before"].quantiles[0.5]
        1.0
    """
    own = features_of(captions, "Captions")
    other = features_of(permuted, "Permuted captions", rows=len(own), dim=own.shape[1])
    both = _before_and_after(matrix, own, other)
    return {when: _distribution((one * two).sum(axis=1), bins) for when, (one, two) in both}


def _distribution(values: Rows, bins: int) -> Distribution:
    inside = np.clip(values, -1, 1)  # rounding takes the cosine of equal rows past 1, where no bin is
    counts, edges = np.histogram(inside, bins=np.linspace(-1, 1, bins + 1))
    quantiles = dict(zip(QUANTILES, np.quantile(inside, QUANTILES).tolist(), strict=True))
    return Distribution(inside, quantiles, edges, counts / len(inside))


@dataclass(frozen=True)
class Gap:
    """Of n images and n captions.

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
    """Measure the gap in the base, and after the matrix: how far images and captions lie apart, and how surely.

    An image and its caption are in one fold, so that no pair is in both training and test.

    Args:
        images: Image embeddings, [n, dim], any scale.
        captions: The base's own text embeddings of the same scenes, [n, dim].
        matrix: An `Alignment` or [dim, dim]; None measures the base alone.
        seed: Of the folds.

    Returns:
        "before", and "after" where there is a matrix.

    Raises:
        ValueError: If the features or the matrix do not fit together, or there are too few of them.

    Source: distance: arXiv:2203.02053; separability: arXiv:2502.03566 and its reviews, which ask whether a matrix
    widens the gap.

    Example:
        >>> import numpy as np
        >>> points = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
        >>> gap = modality_gap(points, points)["before"]
        >>> gap.distance, gap.separability <= 0.5  # a tie is wrong
        (0.0, True)
    """
    image_rows = features_of(images, "Image features")
    texts = features_of(captions, "Text features", rows=len(image_rows), dim=image_rows.shape[1])
    if len(image_rows) < 2 * _FOLDS:
        raise ValueError(
            f"There are {len(image_rows)} images, too few to tell from captions. Pass {2 * _FOLDS} or more."
        )
    return {when: _gap(image_rows, moved, seed) for when, (moved,) in _before_and_after(matrix, texts)}


def _gap(images: Rows, texts: Rows, seed: int) -> Gap:
    n, correct = len(images), 0
    fold = np.random.default_rng([seed, 0x6A9]).permutation(n) % _FOLDS
    for number in range(_FOLDS):
        test = fold == number
        learnt, asked = (torch.from_numpy(np.concatenate([images[rows], texts[rows]])) for rows in (~test, test))
        sides = [torch.arange(2).repeat_interleave(len(part) // 2) for part in (learnt, asked)]
        correct += int(metrics.linear_probe(learnt, sides[0], asked, sides[1]).sum())
    distance = metrics.modality_gap(torch.from_numpy(images), torch.from_numpy(texts))
    return Gap(distance, correct / (2 * n), n)


@dataclass(frozen=True)
class Spectrum:
    """Of a matrix A, [dim, dim].

    Attributes:
        singular_values: Descending, [dim].
        distance: ||A - I||_F. It predicts what large galleries lose (a third party's 21 matrices: r = -.989), where
            the scale of A is fixed; under a cosine that scale is free.
        scaled_distance: The least ||cA - I||_F over scales c: what of the distance a cosine can see.
        symmetric: Share of ||A||_F^2 in the symmetric part, (A + A') / 2: 1 if symmetric, .5 if random.
        condition: Largest singular value over the smallest; infinite for a singular matrix.
        rank: Effective rank of A: exp of the entropy of its normalised singular values; dim for the identity.
        change_rank: The same of A - I; 0 for the identity.
        rotation: Angle in degrees by which A turns a direction drawn at random: the cosine is trace(Q) / dim for the
            rotation Q of its polar form.
        text_angle: Mean angle in degrees between text embeddings before and after A, where texts were given.
    """

    singular_values: Matrix
    distance: float
    scaled_distance: float
    symmetric: float
    condition: float
    rank: float
    change_rank: float
    rotation: float
    text_angle: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an infinite condition is None."""
        condition = self.condition if np.isfinite(self.condition) else None
        return vars(self) | {"condition": condition, "singular_values": self.singular_values.round(6).tolist()}


def spectrum(matrix: Any, texts: Any = None) -> Spectrum:
    """What a matrix does to the space: its distance from the identity, its spectrum, the angles it rotates by.

    Args:
        matrix: An `Alignment` (as it is applied, strength included) or [dim, dim].
        texts: The base's own text embeddings, [n, dim], any scale, to measure the angle on.

    Raises:
        ValueError: If the matrix is not square and finite, or the texts have another dim.

    Source: effective rank: Roy and Vetterli, EUSIPCO 2007.

    Example:
        >>> import numpy as np
        >>> found = spectrum(np.array([[0.0, -1.0], [1.0, 0.0]], dtype=np.float32))  # a rotation by 90 degrees
        >>> round(found.rotation), found.distance, round(found.change_rank, 6)
        (90, 2.0, 2.0)
    """
    a = _matrix_of(matrix)
    left, values, right = (part.numpy() for part in torch.linalg.svd(torch.from_numpy(a)))
    square = float((a**2).sum())
    change = a - np.eye(len(a))
    angle = None
    if texts is not None:
        rows = features_of(texts, "Text features", dim=len(a)).astype(np.float64)
        moved = rows @ a.T
        cosine = (rows * moved).sum(axis=1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(moved, axis=1))
        angle = float(_degrees(cosine).mean())
    # ||cA - I||^2 = c^2 ||A||^2 - 2c tr A + dim is least at c = tr A / ||A||^2
    gained = max(0.0, float(np.trace(a))) ** 2 / square if square else 0.0
    return Spectrum(
        singular_values=values,
        distance=float(np.linalg.norm(change)),
        scaled_distance=max(0.0, len(a) - gained) ** 0.5,
        symmetric=float((((a + a.T) / 2) ** 2).sum() / square) if square else 1.0,
        condition=float(values[0] / values[-1]) if values[-1] > 0 else float("inf"),
        rank=_effective_rank(values),
        change_rank=_effective_rank(torch.linalg.svdvals(torch.from_numpy(change)).numpy()),
        rotation=float(_degrees(np.trace(left @ right) / len(a))),
        text_angle=angle,
    )


def _degrees(cosine: Any) -> Any:
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _effective_rank(values: NDArray[Any]) -> float:
    """How many singular values carry a matrix: exp of the entropy of their shares; 0 where all are 0."""
    share = values[values > 0] / max(values.sum(), np.finfo(float).tiny)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def _matrix_of(matrix: Any, dim: int | None = None) -> Matrix:
    """An `Alignment`, as it is applied, or a plain matrix, as float64 [dim, dim]."""
    square = checked_matrix(matrix.matrix if isinstance(matrix, Alignment) else matrix).detach().cpu()
    if dim is not None and len(square) != dim:
        raise ValueError(f"The matrix is {len(square)} x {len(square)}, but the features have dim {dim}.")
    return square.double().numpy()


def _before_and_after(matrix: Any, *texts: Rows) -> Iterator[tuple[str, Sequence[Rows]]]:
    """Unit-length text embeddings, float32 [n, dim] each, and the same after the matrix where there is one."""
    yield "before", texts
    if matrix is not None:
        square = _matrix_of(matrix, texts[0].shape[1])
        products = [rows @ square.T for rows in texts]
        yield "after", [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in products]
