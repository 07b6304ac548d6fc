"""How alike a caption is to the same words in another order, before and after the matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.analysis.arrays import aligned, features_of, matrix_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Distribution:
    """Cosines of n pairs.

    Attributes:
        values: Each cosine, float32 [n].
        quantiles: For each of `QUANTILES` the cosine below which that share lies.
        edges: Of the histogram, [bins + 1], from -1 to 1.
        histogram: Share of the pairs in each bin, [bins]; sums to 1.
    """

    values: NDArray[np.float32]
    quantiles: Mapping[float, float]
    edges: NDArray[np.float64]
    histogram: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the single cosines."""
        return {
            "n": len(self.values),
            "quantiles": {f"{share:g}": round(value, 6) for share, value in self.quantiles.items()},
            "edges": [round(edge, 6) for edge in self.edges.tolist()],
            "histogram": [round(share, 6) for share in self.histogram.tolist()],
        }


def shuffled_words(captions: Sequence[str], seed: int = 0) -> list[str | None]:
    """The words of each caption in another order; None where there is no other one.

    Args:
        captions: Any text; words are what white space parts.
        seed: Of the draws.

    Example:
        >>> shuffled_words(["a red cube", "cube"], seed=0)
        ['red a cube', None]
    """
    rng = np.random.default_rng([seed, 0x5F1E])
    shuffled: list[str | None] = []
    for caption in captions:
        words = caption.split()
        if len(set(words)) < 2:
            shuffled.append(None)
            continue
        drawn = words
        while drawn == words:
            drawn = [words[place] for place in rng.permutation(len(words))]
        shuffled.append(" ".join(drawn))
    return shuffled


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
    found = {"before": _distribution((own * other).sum(axis=1), bins)}
    if matrix is not None:
        square = matrix_of(matrix, own.shape[1])
        found["after"] = _distribution((aligned(own, square) * aligned(other, square)).sum(axis=1), bins)
    return found


def _distribution(values: NDArray[np.float32], bins: int) -> Distribution:
    edges = np.linspace(-1, 1, bins + 1)
    # Rounding takes the cosine of equal rows past 1, where no bin is.
    inside = np.clip(values, -1, 1)
    counts, _ = np.histogram(inside, bins=edges)
    quantiles = dict(zip(QUANTILES, np.quantile(inside, QUANTILES).tolist(), strict=True))
    return Distribution(inside, quantiles, edges, counts / len(inside))
