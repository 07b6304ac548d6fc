"""An OpenCLIP model built from a file of weights: no random initialisation first, no code run."""

from __future__ import annotations

import pickle
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from open_clip.factory import create_model_and_transforms
from torch import nn
from torch.overrides import TorchFunctionMode

from labclip.io import PRECISIONS
from labclip.towers.images import as_shown


def build(
    name: str,
    weights: Path | None,
    *,
    precision: str = "fp32",
    device: str | torch.device | None = None,
    **openclip: Any,
) -> tuple[Any, Any, Any]:
    """Make an OpenCLIP model and load its weights, without initialising at random what is about to be overwritten.

    Args:
        name: What `open_clip.create_model_and_transforms` takes: an architecture, or "local-dir:PATH".
        weights: The file to load, strictly: every weight must be in it. None for a folder, which has its own.
        precision: One of OpenCLIP's precisions.
        device: Where to put the model; None is the CPU.
        openclip: Further arguments of `open_clip.create_model_and_transforms`.

    Returns:
        The model, in evaluation mode and frozen (no parameter asks for gradients), preprocess_train, preprocess_val,
        which turns images by their EXIF.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}. Pass one of {', '.join(PRECISIONS)}.")
    pretrained = None if weights is None else str(weights)
    try:
        with SkipInitialisation():
            clip, train, val = create_model_and_transforms(
                name, pretrained, precision=precision, device=device or "cpu", **(openclip | {"weights_only": True})
            )
    except ImportError:
        raise
    except Exception as error:  # of OpenCLIP, torch and safetensors: a dozen types
        reason = textwrap.shorten(str(error), 300) or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            # The message of torch advises weights_only=False, which would run the file's code: it is not passed on.
            reason = "the weights are not a pickle of tensors only, and none of its code was run"
        raise ValueError(
            f"OpenCLIP can't load {pretrained or name} ({reason}). Fetch it again, or name the model it is for."
        ) from None
    return clip.eval().requires_grad_(False), train, as_shown(val)


class SkipInitialisation(TorchFunctionMode):
    """Makes random initialisers do nothing in this thread; constants such as masks are still written."""

    _skipped = frozenset(
        {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_, nn.init.normal_, nn.init.uniform_}
        | {nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_}
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._skipped:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
