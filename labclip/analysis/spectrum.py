"""What a matrix does to the space: its distance from the identity, its spectrum, how far it turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.analysis.arrays import features_of, matrix_of


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

    singular_values: NDArray[np.float64]
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
        values = {key: value for key, value in vars(self).items() if key != "singular_values"}
        values["condition"] = self.condition if np.isfinite(self.condition) else None
        return {**values, "singular_values": [round(value, 6) for value in self.singular_values.tolist()]}


def spectrum(matrix: Any, texts: Any = None) -> Spectrum:
    """Describe a matrix.

    Args:
        matrix: An `Alignment` (as it is applied, strength included) or [dim, dim].
        texts: The base's own text embeddings, [n, dim], any scale, to measure the angle on.

    Raises:
        ValueError: If the matrix is not square and finite, or the texts have another dim.

    Source: effective rank: Roy and Vetterli, EUSIPCO 2007.

    Example:
        >>> import numpy as np
        >>> found = spectrum(np.array([[0.0, -1.0], [1.0, 0.0]], dtype=np.float32))  # a quarter turn
        >>> round(found.rotation), found.distance, round(found.change_rank, 6)
        (90, 2.0, 2.0)
    """
    a = matrix_of(matrix)
    left, values, right = np.linalg.svd(a)
    square = float((a**2).sum())
    change = a - np.eye(len(a))
    angle = None
    if texts is not None:
        rows = features_of(texts, "Text features", dim=len(a)).astype(np.float64)
        moved = rows @ a.T
        cosine = (rows * moved).sum(axis=1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(moved, axis=1))
        angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
    return Spectrum(
        singular_values=values,
        distance=float(np.linalg.norm(change)),
        # ||cA - I||^2 = c^2 ||A||^2 - 2c tr A + dim is least at c = tr A / ||A||^2
        scaled_distance=float(np.sqrt(max(0.0, len(a) - max(0.0, np.trace(a)) ** 2 / square)))
        if square
        else len(a) ** 0.5,
        symmetric=float((((a + a.T) / 2) ** 2).sum() / square) if square else 1.0,
        condition=float(values[0] / values[-1]) if values[-1] > 0 else float("inf"),
        rank=effective_rank(values),
        change_rank=effective_rank(np.linalg.svd(change, compute_uv=False)),
        rotation=float(np.degrees(np.arccos(np.clip(np.trace(left @ right) / len(a), -1, 1)))),
        text_angle=angle,
    )


def effective_rank(values: NDArray[Any]) -> float:
    """How many singular values carry a matrix: exp of the entropy of their shares; 0 where all are 0."""
    total = values.sum()
    if total <= 0:
        return 0.0
    share = values[values > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))
