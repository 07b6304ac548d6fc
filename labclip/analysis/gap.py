"""The modality gap: how far apart images and captions lie, and how surely a plane tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from labclip import metrics
from labclip.analysis.arrays import Rows, aligned, features_of, matrix_of
from labclip.analysis.probes import class_scores

_FOLDS = 5


@dataclass(frozen=True)
class Gap:
    """Of n images and n captions.

    Attributes:
        distance: Between the mean image and the mean caption, both of unit-length embeddings: 0 to 2.
        separability: Cross-validated accuracy of a linear classifier that tells an image from a caption: .5 where the
            two lie in one cloud, 1 where a plane parts them.
        n: Images, and captions.
    """

    distance: float
    separability: float
    n: int


def modality_gap(images: Any, captions: Any, matrix: Any = None, *, seed: int = 0) -> dict[str, Gap]:
    """Measure the gap in the base, and after the matrix.

    An image and its caption are in one fold, so that a pair never stands on both sides.

    Args:
        images: Image embeddings, [n, dim], any scale.
        captions: The base's own text embeddings of the same scenes, [n, dim].
        matrix: An `Alignment` or [dim, dim]; None measures the base alone.
        seed: Of the folds.

    Returns:
        "before", and "after" where there is a matrix.

    Raises:
        ValueError: If the features or the matrix do not fit together, or there are too few of them.
        MissingPackageError: If scikit-learn is missing.

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
    found = {"before": _gap(image_rows, texts, seed)}
    if matrix is not None:
        found["after"] = _gap(image_rows, aligned(texts, matrix_of(matrix, image_rows.shape[1])), seed)
    return found


def _gap(images: Rows, texts: Rows, seed: int) -> Gap:
    n = len(images)
    fold = np.random.default_rng([seed, 0x6A9]).permutation(n) % _FOLDS
    correct = 0
    for number in range(_FOLDS):
        test = fold == number
        sides = np.repeat(np.array([0, 1], dtype=np.int64), int((~test).sum()))
        learnt, asked = (np.concatenate([images[rows], texts[rows]]) for rows in (~test, test))
        _, scores = class_scores(learnt, sides, asked, strength=1.0)
        text = scores[:, 1] - scores[:, 0]
        half = int(test.sum())
        correct += int((text[:half] < 0).sum()) + int((text[half:] > 0).sum())
    distance = metrics.modality_gap(torch.from_numpy(images), torch.from_numpy(texts))
    return Gap(distance, correct / (2 * n), n)
