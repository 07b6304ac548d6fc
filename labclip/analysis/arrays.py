"""Embeddings and matrices as checked NumPy arrays: finite, of one dim, and as many rows as there are labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labclip.alignment import Alignment
from labclip.checks import checked_matrix, described
from labclip.metrics import unit_length

Rows = NDArray[np.float32]


def features_of(features: Any, what: str, *, rows: int | None = None, dim: int | None = None) -> Rows:
    """Embeddings as unit-length float32 [n, dim] on the CPU.

    Args:
        features: Tensor or NumPy array, [n, dim], floating point, any scale.
        what: What they are, for messages, for example "Image features".
        rows: How many there must be.
        dim: What dim they must have.

    Raises:
        ValueError: If they are no such matrix, are not finite, or have other rows or another dim than they must.
    """
    if isinstance(features, np.ndarray) and np.issubdtype(features.dtype, np.floating):
        features = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    if not isinstance(features, torch.Tensor):
        raise ValueError(f"{what} are {described(features)}. Pass embeddings, a float tensor or array [n, dim].")
    if features.ndim == 2 and not len(features):
        raise ValueError(f"{what} are empty, {list(features.shape)}. Pass at least one row.")
    unit = unit_length(features.detach().cpu(), what)
    if rows is not None and len(unit) != rows:
        raise ValueError(f"{what} have {len(unit)} rows, but there are {rows} scenes. Pass one row a scene.")
    if dim is not None and unit.shape[1] != dim:
        raise ValueError(f"{what} have dim {unit.shape[1]}, not {dim}. Embed images and captions with one model.")
    return unit.numpy()


def matrix_of(matrix: Any, dim: int | None = None) -> NDArray[np.float64]:
    """The matrix of an `Alignment`, or a plain one, as float64 [dim, dim].

    Raises:
        ValueError: If it is not square and finite, or of another dim than it must be.
    """
    square = checked_matrix(matrix.matrix if isinstance(matrix, Alignment) else matrix).detach().cpu()
    if dim is not None and len(square) != dim:
        raise ValueError(f"The matrix is {len(square)} x {len(square)}, but the features have dim {dim}.")
    return square.double().numpy()


def aligned(text: Rows, matrix: NDArray[np.float64]) -> Rows:
    """Text embeddings after the matrix, unit-length: float32 [n, dim] to float32 [n, dim]."""
    moved = text @ matrix.T
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)
