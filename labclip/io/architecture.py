"""Whether a model is what OpenCLIP builds from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from torch import nn

from labclip.towers.openclip import text_tower, uses_quick_gelu


def config_of(clip: nn.Module, name: str) -> dict[str, Any] | None:
    """OpenCLIP's `model_cfg` of a name, as this model runs it; None where it is unknown or this is another model.

    Towers of other libraries are not built, which would download them: their `model_cfg` is not checked.
    """
    # A recorded "hf-hub:" or "local-dir:" name must not be opened.
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        return None
    if (quick_gelu := uses_quick_gelu(clip)) is not None:
        config = {key: value for key, value in config.items() if key != "quick_gelu"}
        config |= {"quick_gelu": True} if quick_gelu else {}
    # The same weights may sit in either class: force_custom_text=True moves them.
    candidates = [config, config | {"custom_text": True}, config | {"custom_text": False}]
    return next((one for one in candidates if matches(clip, one) is not False), None)


def matches(clip: nn.Module, config: Mapping[str, Any]) -> bool | None:
    """Whether OpenCLIP builds the architecture of `clip` from this `model_cfg`; None where that takes a download."""
    try:
        if "hf_model_name" in config["text_cfg"] or "timm_model_name" in config["vision_cfg"]:
            return None
        custom = config.get("custom_text", False)
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
        with torch.device("meta"):  # without memory for its weights
            built = kind(**{key: value for key, value in config.items() if key != "custom_text"})
        return _signature(built) == _signature(clip)
    except (TypeError, KeyError, ValueError, RuntimeError, AssertionError, AttributeError):
        return False  # a configuration that OpenCLIP can't build is not this model's


# What the weights' shapes do not show and the numbers depend on, of every module that has it. QuickGELU has no
# `approximate`, which GELU has.
_TRAITS = (
    "num_heads", "pool_type", "text_pool_type", "final_ln_after_pool", "output_tokens", "eos_id", "text_eos_id",
    "pad_id", "eps", "approximate",
)  # fmt: skip


def _signature(clip: nn.Module) -> tuple[Any, ...]:
    shapes = {key: tuple(value.shape) for key, value in clip.state_dict().items()}
    traits = [(key, getattr(module, key)) for module in clip.modules() for key in _TRAITS if hasattr(module, key)]
    mask = getattr(text_tower(clip), "attn_mask", None)
    return shapes, traits, mask is None, type(clip).__name__
