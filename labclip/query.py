"""A query put together from parts: what must be there, and what must not."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from labclip.alignment import is_floating
from labclip.checks import described

Array = TypeVar("Array", torch.Tensor, NDArray[np.floating[Any]])


def compose(parts: Array, without: Array | None = None, weight: float = 0.5) -> Array:
    """Put a query together from embeddings of its parts: one vector, for any index of image embeddings.

    The sum of the parts' unit-length embeddings, minus `weight` times the sum of those of `without`, of unit length
    again. A CLIP reads "A without B", as a caption, as A and B; the difference of their embeddings leaves B out.

    Args:
        parts: Aligned text embeddings of what must be there, [..., k, dim], any scale: a floating-point tensor or NumPy
            array.
        without: Embeddings of what must not be there, [..., j, dim]; None is nothing.
        weight: Factor of the sum of `without`.

    Returns:
        Unit-length, [..., dim], of the dtype and device of `parts`; computed in float32.

    Raises:
        ValueError: If there is no part, the two differ in type or dim, are no floats, or cancel out.

    Example:
        >>> compose(np.array([[3.0, 0.0], [0.0, 1.0]])).round(3)
        array([0.707, 0.707])
        >>> compose(np.array([[3.0, 0.0]]), without=np.array([[0.0, 1.0]])).round(3)
        array([ 0.894, -0.447])
    """
    kind = torch.Tensor if isinstance(parts, torch.Tensor) else np.ndarray
    for given in (parts,) if without is None else (parts, without):
        if not isinstance(given, kind) or not is_floating(given):
            raise ValueError(
                f"The embeddings are {described(given)}. Pass tensors, or NumPy arrays, of floats, [k, dim]; for "
                f"captions call model.encode_query."
            )
    if isinstance(parts, np.ndarray):
        left_out = None if without is None else torch.from_numpy(without.astype(np.float32))
        query = compose(torch.from_numpy(parts.astype(np.float32)), left_out, weight)
        return query.numpy().astype(parts.dtype, copy=False)
    if parts.ndim < 2 or parts.shape[-2] == 0:
        raise ValueError(f"parts have shape {list(parts.shape)}. Pass the embeddings of one part or more, [k, dim].")
    query = F.normalize(parts.float(), dim=-1).sum(dim=-2)
    if without is not None:
        if without.ndim < 2 or without.shape[-1] != parts.shape[-1]:
            raise ValueError(
                f"without has shape {list(without.shape)} and parts {list(parts.shape)}. Pass embeddings of one model."
            )
        query = query - weight * F.normalize(without.float(), dim=-1).sum(dim=-2)
    length = query.norm(dim=-1, keepdim=True)
    if bool((length < 1e-6).any()):
        raise ValueError("The parts and what is left out cancel: nothing is asked for. Pass a smaller weight.")
    return (query / length).to(parts.dtype)
