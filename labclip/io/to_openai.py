"""Convert a folded model to a state dict for OpenAI's `clip.load`."""

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
from labclip.io.text_sides import VOCABULARY, check_form, is_openclip
from labclip.towers.openclip import SkipInitialisation, text_tower

WEIGHTS = "model.pt"
_TRANSFORM = {
    "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest",
}  # fmt: skip


def openai_weights(clip: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of an OpenCLIP model with OpenAI's names: OpenCLIP's without the prefix "text."."""
    tower: Any = text_tower(clip)
    if tower.token_embedding.num_embeddings != VOCABULARY:
        raise ValueError("another vocabulary than CLIP's")
    has_prefix = tower is not clip
    return {key.removeprefix("text.") if has_prefix else key: value for key, value in clip.state_dict().items()}


def convert(clip: Any) -> OrderedDict[str, torch.Tensor]:
    """The weights of a model with OpenAI's names; ValueError if `clip.load` would build another model from them.

    It always builds heads of width 64 and QuickGELU; it resizes images by their shorter side and normalises them with
    OpenAI's mean.
    """
    if not is_openclip(clip):
        return OrderedDict((key, value.detach().cpu().clone()) for key, value in clip.state_dict().items())
    transform = getattr(clip.visual, "preprocess_cfg", None) or {}
    try:
        for key, expected in _TRANSFORM.items():
            if (value := transform.get(key, expected)) != expected and tuple(value) != expected:
                raise ValueError(f"the model's image transform has {key} {value!r}, not {expected!r}")
        weights = ((key, value.detach().cpu().contiguous().clone()) for key, value in openai_weights(clip).items())
        state = OrderedDict(weights)
        with SkipInitialisation():
            rebuilt = build_model_from_openai_state_dict(OrderedDict(state)).float()  # this has rounded the weights
        rebuilt.load_state_dict(state)
        check_form(
            clip, "OpenAI's clip", lambda tokens: rebuilt.encode_text(tokens.cpu()),
            lambda pixels: rebuilt.encode_image(pixels.cpu().float()),
        )  # fmt: skip
    except Exception as error:  # for another architecture, OpenCLIP's builder raises errors of many types
        raise ValueError(
            f"OpenAI's clip can't hold this {type(clip).__name__} ({first_line(error).rstrip('.:')}): it has attention "
            f"heads of width 64, MLPs 4 times as wide as their input, QuickGELU, a causal text tower with CLIP's "
            f"vocabulary, projections without a bias, and OpenAI's image transform. Fold it into openclip or "
            f"transformers."
        ) from error
    return state


def write(model: nn.Module | Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write `model.pt` for `clip.load("FOLDER/model.pt")`, which rounds the weights to half precision.

    The file is a TorchScript archive, like OpenAI's own, but with weights only. `clip.load` fails on a plain state
    dict: it first tries to read an archive from the open file, and then does not go back to its beginning.
    """
    root = nn.Module()
    for key, value in (convert(model) if isinstance(model, nn.Module) else model).items():
        *path, name = key.split(".")
        module = root
        for child in path:
            if not hasattr(module, child):
                module.add_module(child, nn.Module())
            module = getattr(module, child)
        module.register_buffer(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer torch recommends torch.export
        script = torch.jit.script(root)
        torch.jit.save(script, str(folder / WEIGHTS))
