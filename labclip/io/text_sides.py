"""Shared by all forms of a folded model: its library, the mark of a fold, the check of its features."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import torch

from labclip.base import FOLDED

VOCABULARY = 49408
"""Tokens of CLIP's vocabulary; the last ends a caption."""


def of_transformers(model: Any) -> bool:
    """Whether a module is a model of transformers."""
    # By name: sentence-transformers' modules have a config too, and importing transformers takes seconds.
    return any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__)


def of_openclip(model: Any) -> bool:
    """Whether a module has OpenCLIP's `encode_text`, which OpenAI's `clip` has without `normalize`."""
    encode = getattr(model, "encode_text", None)
    return callable(encode) and "normalize" in inspect.signature(encode).parameters


def mark_of(model: Any) -> dict[str, Any] | None:
    """The mark of a fold, or None: an attribute of an OpenCLIP model, in the config of transformers' or of ONNX's."""
    config = getattr(model, "config", None)
    for holder in (model, config, getattr(config, "text_config", None)):
        if isinstance(mark := getattr(holder, FOLDED, None), dict):
            return mark
    metadata = {entry.key: entry.value for entry in getattr(model, "metadata_props", ())}
    return json.loads(metadata[FOLDED]) if FOLDED in metadata else None


def set_mark(model: Any, mark: dict[str, Any]) -> None:
    """Put a mark on a model, where it lasts: on transformers' text side, whose models open alone as well."""
    if hasattr(model, "metadata_props"):  # ONNX
        kept = [entry for entry in model.metadata_props if entry.key != FOLDED]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key=FOLDED, value=json.dumps(mark))
    else:
        config = getattr(model, "config", model)
        setattr(getattr(config, "text_config", config), FOLDED, mark)


def check_features(
    features: torch.Tensor, exact: torch.Tensor, problem: str, remedy: str, *, dtype: torch.dtype = torch.float32
) -> None:
    """Refuse with ValueError features that are others than rounding in a dtype makes of the exact ones."""
    error = float((features - exact).abs().max() / exact.abs().max())
    if not error <= (1e-4 if dtype in (torch.float32, torch.float64) else 5e-2):
        raise ValueError(f"{problem} (relative error {error:.2g}). {remedy}")


@torch.no_grad()
def check_form(
    clip: Any, library: str, text: Callable[[torch.Tensor], Any], image: Callable[[torch.Tensor], Any] | None = None
) -> None:
    """Refuse with ValueError another form of an OpenCLIP model whose features of some tokens or pixels are others.

    `text` and `image` give the form's unnormalised features of what OpenCLIP's `encode_text` and `encode_image` take.
    """
    weight = next(value for value in clip.visual.parameters() if value.ndim > 1)
    device, dtype = weight.device, weight.dtype
    tokens = torch.zeros(1, getattr(clip, "context_length", None) or clip.text.context_length, dtype=torch.int64)
    tokens[0, :5] = torch.tensor([1, 5, 3, 2, VOCABULARY - 1])
    pairs = [("text", text, clip.encode_text, tokens.to(device))]
    if image is not None:
        size = clip.visual.image_size
        height, width = size if isinstance(size, tuple) else (size, size)
        pixels = torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width)  # in half it overflows
        pairs.append(("image", image, clip.encode_image, pixels.to(device, dtype)))
    for side, ours, theirs, inputs in pairs:
        exact = theirs(inputs, normalize=False).cpu().float()
        problem = f"{library} gives other {side} features for this {type(clip).__name__}"
        check_features(ours(inputs).cpu().float(), exact, problem, "Fold into another form.", dtype=dtype)
