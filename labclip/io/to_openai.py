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
_HEAD_WIDTH = 64


def state_of(clip: Any) -> OrderedDict[str, torch.Tensor]:
    """The weights by OpenAI's names; ValueError if that format can't hold the model.

    It knows no number of heads, no activation and no image transform: heads are 64 wide, the activation is QuickGELU,
    images are resized by their shorter side and normalised by OpenAI's mean.
    """
    weights = clip.state_dict()
    if of_openclip(clip):
        if (config := plain_config(clip)) is None:
            raise ValueError(_refused(clip, "its towers, projections or vocabulary are others than OpenAI's"))
        text, vision = config["text_cfg"], config["vision_cfg"]
        widths = {text["width"] // text["heads"], vision["head_width"]}
        if widths != {_HEAD_WIDTH}:
            raise ValueError(_refused(clip, f"its attention heads are {max(widths - {_HEAD_WIDTH})} wide, not 64"))
        if not config["quick_gelu"]:
            raise ValueError(_refused(clip, "it runs GELU, not QuickGELU"))
        if {text["mlp_ratio"], vision.get("mlp_ratio", 4.0)} != {4.0} or "pool_type" in text:
            raise ValueError(_refused(clip, "its MLPs are not 4 times as wide, or it pools by another token"))
        if reason := _other_transform(getattr(clip.visual, "preprocess_cfg", None) or {}):
            raise ValueError(_refused(clip, reason))
        weights = openai_weights(clip)
    return OrderedDict((key, value.detach().cpu().contiguous().clone()) for key, value in weights.items())


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


def _other_transform(config: dict[str, Any]) -> str | None:
    """Why an image transform is not the one that OpenAI's `clip` makes, or None."""
    expected = {
        "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest",
    }  # fmt: skip
    for key, value in expected.items():
        found = config.get(key, value)
        if (tuple(found) if isinstance(found, list | tuple) else found) != value:
            return f"its image transform has {key} {found!r}, not {value!r}"
    return None


def _refused(clip: Any, reason: str) -> str:
    return (
        f"OpenAI's clip can't hold this {type(clip).__name__}: {reason}. Fold it into another form: openclip, or "
        f"transformers."
    )
