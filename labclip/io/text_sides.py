"""What all forms of a folded model share: which library it is of, the mark of a fold, and checks of its features."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import torch

from labclip.base import FOLDED

VOCABULARY = 49408
"""The size of CLIP's vocabulary; its last token ends a caption."""


def is_transformers(model: Any) -> bool:
    """Whether a module is a model of transformers."""
    # By the name of the class, since importing transformers takes seconds.
    return any(base.__name__ == "PreTrainedModel" for base in type(model).__mro__)


def is_openclip(model: Any) -> bool:
    """Whether a module has OpenCLIP's `encode_text(text, normalize)`; that of OpenAI's `clip` has no `normalize`."""
    encode = getattr(model, "encode_text", None)
    return callable(encode) and "normalize" in inspect.signature(encode).parameters


def mark_of(model: Any) -> dict[str, Any] | None:
    """The record of the matrix that was merged into a model, or None: an attribute, or in its config or metadata."""
    config = getattr(model, "config", None)
    for owner in (model, config, getattr(config, "text_config", None)):
        if isinstance(mark := getattr(owner, FOLDED, None), dict):
            return mark
    metadata = {entry.key: entry.value for entry in getattr(model, "metadata_props", ())}
    return json.loads(metadata[FOLDED]) if FOLDED in metadata else None


def set_mark(model: Any, mark: dict[str, Any]) -> None:
    """Record in a model the matrix that was merged into it."""
    if hasattr(model, "metadata_props"):  # ONNX
        other_entries = [entry for entry in model.metadata_props if entry.key != FOLDED]
        del model.metadata_props[:]
        model.metadata_props.extend(other_entries)
        model.metadata_props.add(key=FOLDED, value=json.dumps(mark))
    else:  # transformers can open the text side alone, so the mark is in its config
        config = getattr(model, "config", model)
        setattr(getattr(config, "text_config", config), FOLDED, mark)


def check_features(
    features: torch.Tensor, exact: torch.Tensor, problem: str, remedy: str, *, dtype: torch.dtype = torch.float32
) -> None:
    """Raise ValueError if features differ from the exact ones by more than the rounding of a dtype."""
    error = float((features - exact).abs().max() / exact.abs().max())
    if not error <= (1e-4 if dtype in (torch.float32, torch.float64) else 5e-2):
        raise ValueError(f"{problem} (relative error {error:.2g}). {remedy}")


@torch.no_grad()
def check_form(
    clip: Any, library: str, text: Callable[[torch.Tensor], Any], image: Callable[[torch.Tensor], Any] | None = None
) -> None:
    """Raise ValueError if an OpenCLIP model, converted for another library, gives other features for test inputs.

    `text` and `image` are the converted model's functions from token ids and pixels to unnormalised features.
    """
    weight = next(value for value in clip.visual.parameters() if value.ndim > 1)
    device, dtype = weight.device, weight.dtype
    tokens = torch.zeros(1, getattr(clip, "context_length", None) or clip.text.context_length, dtype=torch.int64)
    tokens[0, :5] = torch.tensor([1, 5, 3, 2, VOCABULARY - 1])
    comparisons = [("text", text, clip.encode_text, tokens.to(device))]
    if image is not None:
        size = clip.visual.image_size
        height, width = size if isinstance(size, tuple) else (size, size)
        pixels = torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width)  # linspace overflows in float16
        comparisons.append(("image", image, clip.encode_image, pixels.to(device, dtype)))
    for side, encode, encode_openclip, inputs in comparisons:
        exact = encode_openclip(inputs, normalize=False).cpu().float()
        problem = f"{library} gives other {side} features for this {type(clip).__name__}"
        check_features(encode(inputs).cpu().float(), exact, problem, "Fold into another form.", dtype=dtype)
