"""A folded model as a state dict for OpenAI's `clip.load`."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn

from labclip.io.architecture import openai_weights, plain_config
from labclip.io.folder import replacing
from labclip.io.text_sides import of_openclip

WEIGHTS = "model.pt"
_HOLDS = (
    "it has attention heads 64 wide, MLPs 4 times as wide as their input, QuickGELU, a causal text tower over CLIP's "
    "vocabulary and projections without a bias"
)
_TRANSFORM = {
    "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest",
}  # fmt: skip


def state_of(clip: Any) -> OrderedDict[str, torch.Tensor]:
    """The weights by OpenAI's names; ValueError if that format can't hold the model.

    It knows no number of heads, no activation and no image transform: heads are 64 wide, the activation is QuickGELU,
    images are resized by their shorter side and normalised by OpenAI's mean.
    """
    weights = clip.state_dict()
    if of_openclip(clip):
        if not _is_openais(plain_config(clip)):
            raise ValueError(_refused(clip, _HOLDS))
        transform = getattr(clip.visual, "preprocess_cfg", None) or {}
        for key, value in _TRANSFORM.items():
            if (found := transform.get(key, value)) != value and tuple(found) != value:
                raise ValueError(_refused(clip, f"its image transform has {key} {value!r}, not {found!r}"))
        weights = openai_weights(clip)
    return OrderedDict((key, value.detach().cpu().contiguous().clone()) for key, value in weights.items())


def _is_openais(config: dict[str, Any] | None) -> bool:
    if config is None or "pool_type" in (text := config["text_cfg"]) or not config["quick_gelu"]:
        return False
    vision = config["vision_cfg"]
    heads = {text["width"] // text["heads"], vision["head_width"]}
    return heads == {64} and {text["mlp_ratio"], vision.get("mlp_ratio", 4.0)} == {4.0}


def write(state: OrderedDict[str, torch.Tensor], folder: str | Path) -> None:
    """Write `model.pt`, which `clip.load("FOLDER/model.pt")` opens; it rounds the weights to half precision.

    It is a TorchScript archive of the weights alone, as OpenAI's own files are: for a plain state dict, `clip.load`
    first tries to read an archive from the same open file, and then finds itself at the end of it.
    """
    tree = nn.Module()
    for key, value in state.items():
        *path, name = key.split(".")
        holder = tree
        for step in path:
            if not hasattr(holder, step):
                holder.add_module(step, nn.Module())
            holder = getattr(holder, step)
        holder.register_buffer(name, value)
    with replacing(folder) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer torch would rather have torch.export
        script = torch.jit.script(tree)
        torch.jit.save(script, str(scratch / WEIGHTS))


def _refused(clip: Any, reason: str) -> str:
    return f"OpenAI's clip can't hold this {type(clip).__name__}: {reason}. Fold it into openclip or transformers."
