"""What an alignment is made of, checked: each error says what is wrong, what would be right, what to type."""

from __future__ import annotations

import math
import operator
import reprlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def is_floating(array: torch.Tensor | NDArray[Any]) -> bool:
    """Whether an array's values are floating-point numbers."""
    return array.is_floating_point() if isinstance(array, torch.Tensor) else np.issubdtype(array.dtype, np.floating)


def checked_matrix(matrix: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    """A copy of a matrix as float32 [dim, dim], contiguous, finite."""
    if not isinstance(matrix, torch.Tensor | np.ndarray):
        raise ValueError(f"The matrix is a {type(matrix).__name__}. Pass a [dim, dim] tensor or NumPy array.")
    if not is_floating(matrix):
        raise ValueError(f"The matrix is {matrix.dtype}, not floating point. Pass the float32 matrix of a fit.")
    if isinstance(matrix, np.ndarray):
        with np.errstate(over="ignore"):  # what overflows is refused below
            matrix = torch.from_numpy(matrix.astype(np.float32))
    if matrix.is_meta:
        raise ValueError("The matrix is on the meta device, so it has no values. Pass one on the CPU or a GPU.")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
        raise ValueError(f"The matrix has shape {list(matrix.shape)}, not [dim, dim]. Pass a square matrix.")
    wanted_grad = matrix.requires_grad
    matrix = matrix.detach().to(torch.float32, copy=True).contiguous()
    bad = int((~torch.isfinite(matrix)).sum())
    if bad:
        raise ValueError(f"The matrix has {bad} values that are NaN or infinite. The fit diverged: lower its step.")
    return matrix.requires_grad_(wanted_grad)


def checked_number(name: str, value: Any) -> float:
    """A finite number."""
    try:
        if isinstance(value, str | bool):
            raise TypeError
        number = float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name} is {reprlib.repr(value)}, not a number.") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, not a finite number.")
    return number


def checked_whole(name: str, value: Any, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """A whole number, also NumPy's, from `least` to `most`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        wanted = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most:,}"
        raise ValueError(f"{name} is {reprlib.repr(value)}. Pass a whole number {wanted}.")
    return number


def checked_fingerprint(fingerprint: Any, dim: int) -> torch.Tensor:
    """A copy of a unit-length embedding as float32 [dim] on the CPU."""
    if not isinstance(fingerprint, torch.Tensor | np.ndarray):
        raise ValueError(
            f"The fingerprint is a {type(fingerprint).__name__}. Pass a [dim] tensor, a normalised text embedding."
        )
    fingerprint = torch.as_tensor(fingerprint).detach().to("cpu", torch.float32, copy=True).contiguous()
    if fingerprint.shape != (dim,):
        raise ValueError(f"The fingerprint has shape {list(fingerprint.shape)}, not [{dim}], the alignment's dim.")
    if not abs(float(fingerprint.norm()) - 1.0) < 1e-2:
        raise ValueError(
            f"The fingerprint has length {float(fingerprint.norm()):g}, not 1. Pass a normalised text embedding."
        )
    return fingerprint


def described(value: Any) -> str:
    """What a value is, by type, and by dtype and shape where it has them."""
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {described(value[0]) if value else 'nothing'}"
    array = f" of {value.dtype} {list(value.shape)}" if hasattr(value, "dtype") and hasattr(value, "shape") else ""
    return f"a {type(value).__name__}{array}"


def check_device(device: str | torch.device | None) -> None:
    """Refuse with ValueError a device that can't hold a model, before anything is fetched for it."""
    try:
        (made,) = torch.nn.ParameterList([torch.empty(0, device=device)])
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"device {str(device)!r} can't be used ({first_line(error)}). "
            f"Pass 'cpu', or 'cuda' or 'mps' where this torch has it."
        ) from error
    if made.is_meta:
        raise ValueError(
            "On the meta device (device='meta', torch.device('meta'), accelerate.init_empty_weights) there are no "
            "weights to load. Load the model on another; LABCLIP(clip, alignment) wraps one that is there."
        )


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
