"""OpenCLIP models of the architecture that other libraries hold too: OpenAI's, at any size."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from labclip.io.architecture import matches
from labclip.openclip import text_tower, uses_quick_gelu

VOCABULARY = 49408
"""Tokens of CLIP's vocabulary; the last ends a caption."""


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
