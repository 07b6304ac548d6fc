"""Whether a model is what OpenCLIP builds from a configuration, and whether it is what other libraries hold too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from labclip.towers.openclip import text_tower, uses_quick_gelu

VOCABULARY = 49408
"""Tokens of CLIP's vocabulary; the last ends a caption."""


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


def plain_config(clip: Any) -> dict[str, Any] | None:
    """OpenCLIP's `model_cfg` of a model of OpenAI's architecture, read off its layers; None if it is of another.

    That is: a vision transformer with a class token or OpenAI's ResNet, a causal text transformer over CLIP's
    vocabulary, whose last token ends a caption, projections without a bias, no bias of the logits.
    """
    tower: Any = text_tower(clip)
    if not isinstance(tower, open_clip.CLIP | TextTransformer) or not isinstance(tower.text_projection, torch.Tensor):
        return None
    if not isinstance(clip.visual, VisionTransformer | ModifiedResNet):
        return None
    if tower.token_embedding.num_embeddings != VOCABULARY:
        return None  # another tokenizer, whose captions end with a token that the layers do not tell
    text = _transformer(tower.transformer) | {
        "context_length": len(tower.positional_embedding),
        "vocab_size": VOCABULARY,
    }
    text["heads"] = text["width"] // text.pop("head_width")
    if getattr(tower, "text_pool_type", getattr(tower, "pool_type", None)) == "eos":
        text |= {"pool_type": "eos", "eos_id": VOCABULARY - 1}
    config = {
        "embed_dim": tower.text_projection.shape[1],
        "vision_cfg": _vision(clip.visual),
        "text_cfg": text,
        "quick_gelu": bool(uses_quick_gelu(clip)),
        "custom_text": tower is not clip,
    }
    return config if matches(clip, config) else None


def openai_weights(clip: nn.Module) -> dict[str, Any]:
    """The weights of a model of OpenAI's architecture by OpenAI's names, which are OpenCLIP's but for a prefix."""
    moved = text_tower(clip) is not clip
    return {key.removeprefix("text.") if moved else key: value for key, value in clip.state_dict().items()}


def _transformer(transformer: Any) -> dict[str, Any]:
    block, width = transformer.resblocks[0], transformer.width
    return {
        "layers": len(transformer.resblocks),
        "width": width,
        "head_width": width // block.attn.num_heads,
        "mlp_ratio": block.mlp.c_fc.out_features / width,
    }


def _vision(visual: Any) -> dict[str, Any]:
    size = visual.image_size
    size = size[0] if isinstance(size, tuple) and size[0] == size[1] else size
    if isinstance(visual, VisionTransformer):
        return _transformer(visual.transformer) | {"patch_size": visual.conv1.kernel_size[0], "image_size": size}
    width = visual.layer1[0].conv1.out_channels
    return {
        "layers": [len(getattr(visual, f"layer{number}")) for number in (1, 2, 3, 4)], "width": width,
        "head_width": width * 32 // visual.attnpool.num_heads, "image_size": size,
    }  # fmt: skip
