"""A folded model as a state dict for OpenAI's `clip.load`."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import build_model_from_openai_state_dict
from torch import nn

from labclip.checks import first_line
from labclip.io.text_sides import VOCABULARY, check_form, of_openclip
from labclip.towers.openclip import SkipInitialisation, text_tower

WEIGHTS = "model.pt"
_TRANSFORM = {
    "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest",
}  # fmt: skip


def openai_weights(clip: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of an OpenCLIP model by OpenAI's names, which are OpenCLIP's but for a prefix."""
    tower: Any = text_tower(clip)
    if tower.token_embedding.num_embeddings != VOCABULARY:
        raise ValueError("another vocabulary than CLIP's")
    moved = tower is not clip
    return {key.removeprefix("text.") if moved else key: value for key, value in clip.state_dict().items()}


def state_of(clip: Any) -> OrderedDict[str, torch.Tensor]:
    """The weights by OpenAI's names; ValueError if that format can't hold the model.

    It knows no number of heads, no activation and no image transform: heads are 64 wide, the activation is QuickGELU,
    images are resized by their shorter side and normalised by OpenAI's mean.
    """
    if not of_openclip(clip):
        return OrderedDict((key, value.detach().cpu().clone()) for key, value in clip.state_dict().items())
    transform = getattr(clip.visual, "preprocess_cfg", None) or {}
    try:
        for key, value in _TRANSFORM.items():
            if (size := transform.get(key, value)) != value and tuple(size) != value:
                raise ValueError(f"its image transform has {key} {value!r}, not {size!r}")
        weights = ((key, value.detach().cpu().contiguous().clone()) for key, value in openai_weights(clip).items())
        state = OrderedDict(weights)
        with SkipInitialisation():
            opened = build_model_from_openai_state_dict(OrderedDict(state)).float()  # which rounds the weights
        opened.load_state_dict(state)
        check_form(
            clip, "OpenAI's clip", lambda tokens: opened.encode_text(tokens.cpu()),
            lambda pixels: opened.encode_image(pixels.cpu().float()),
        )  # fmt: skip
    except Exception as error:  # OpenCLIP's reader of this format raises whatever another architecture makes of it
        raise ValueError(
            f"OpenAI's clip can't hold this {type(clip).__name__} ({first_line(error).rstrip('.:')}): it has attention "
            f"heads 64 wide, MLPs 4 times as wide as their input, QuickGELU, a causal text tower over CLIP's "
            f"vocabulary, projections without a bias, and OpenAI's image transform. Fold it into openclip or "
            f"transformers."
        ) from error
    return state


def write(model: nn.Module | Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write `model.pt`, which `clip.load("FOLDER/model.pt")` opens; it rounds the weights to half precision.

    It is a TorchScript archive of the weights alone, as OpenAI's own files are: for a plain state dict, `clip.load`
    first tries to read an archive from the same open file, and then finds itself at the end of it.
    """
    tree = nn.Module()
    for key, value in (state_of(model) if isinstance(model, nn.Module) else model).items():
        *path, name = key.split(".")
        holder = tree
        for step in path:
            if not hasattr(holder, step):
                holder.add_module(step, nn.Module())
            holder = getattr(holder, step)
        holder.register_buffer(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer torch would rather have torch.export
        script = torch.jit.script(tree)
        torch.jit.save(script, str(folder / WEIGHTS))
