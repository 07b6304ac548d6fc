"""The OpenCLIP configuration of a loaded model, for saving one that came without: looked up, or read off it.

Whatever is found is proved: a model built from it must have the same weights' names, shapes, heads, pooling,
activations and epsilons.
"""

from __future__ import annotations

from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from labclip.openclip import embed_dim, text_tower, uses_quick_gelu


def config_of(clip: nn.Module, name: str | None = None) -> dict[str, Any] | None:
    """The `model_cfg` that OpenCLIP builds this very architecture from, or None where none could be proved right.

    Args:
        clip: An OpenCLIP model.
        name: An architecture to try first.
    """
    for candidate in _candidates(clip, name):
        if matches(clip, candidate):
            return candidate
    return None


def matches(clip: nn.Module, config: dict[str, Any]) -> bool:
    """Whether OpenCLIP builds the architecture of `clip` from this `model_cfg`."""
    try:
        return _signature(_build_empty(config)) == _signature(clip)
    except (TypeError, KeyError, ValueError, RuntimeError, AssertionError, AttributeError):
        return False  # a configuration that OpenCLIP can't build is not this model's


def same_architecture(clip: nn.Module, name: str) -> bool | None:
    """Whether a model is of an architecture OpenCLIP has by name; None where that can't be told without a download."""
    config = _registered(name)
    if config is None or "hf_model_name" in config["text_cfg"] or "timm_model_name" in config["vision_cfg"]:
        return None
    activation = {} if uses_quick_gelu(clip) is None else {"quick_gelu": uses_quick_gelu(clip)}
    # The same weights may sit in either class: force_custom_text=True moves them.
    return any(matches(clip, config | activation | {"custom_text": custom}) for custom in (False, True))


def _registered(name: str) -> dict[str, Any] | None:
    """OpenCLIP's own configuration of a name. A recorded "hf-hub:" or "local-dir:" name must not lead anywhere."""
    return open_clip.get_model_config(name) if name in open_clip.list_models() else None


def _build_empty(config: dict[str, Any]) -> nn.Module:
    """A model without memory for its weights. Never downloads: Hugging Face towers are not built."""
    custom = config.get("custom_text", False)
    config = {key: value for key, value in config.items() if key != "custom_text"}
    if "hf_model_name" in config["text_cfg"] or "timm_model_name" in config["vision_cfg"]:
        raise ValueError("towers of other libraries are not rebuilt")
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.device("meta"):
        return kind(**config)


# What the weights' shapes do not show and the numbers depend on, of every module that has it. QuickGELU is told from
# GELU by having no `approximate`.
_TRAITS = (
    "num_heads", "pool_type", "text_pool_type", "final_ln_after_pool", "output_tokens", "eos_id", "text_eos_id",
    "pad_id", "eps", "approximate",
)  # fmt: skip


def _signature(clip: nn.Module) -> tuple[Any, ...]:
    shapes = {key: tuple(value.shape) for key, value in clip.state_dict().items()}
    traits = [(key, getattr(module, key)) for module in clip.modules() for key in _TRAITS if hasattr(module, key)]
    mask = getattr(text_tower(clip), "attn_mask", None)
    return shapes, traits, mask is None, type(clip).__name__


def _candidates(clip: nn.Module, name: str | None) -> list[dict[str, Any]]:
    """Configurations to try: the named one, what can be read off, all that OpenCLIP knows.

    What is read off doesn't say which tokenizer goes with it, so it comes last where that isn't the ordinary one.
    """
    known = _known(clip, open_clip.list_models())
    own = _read_off(clip)
    if own is not None:
        ordinary = own["text_cfg"]["vocab_size"] == open_clip.CLIPTextCfg.vocab_size
        known = [own, *known] if ordinary else [*known, own]
    return (_known(clip, [name]) if name else []) + known


def _known(clip: nn.Module, names: list[str]) -> list[dict[str, Any]]:
    """OpenCLIP's configurations of these names, without those that can't be this model's."""
    dim, context = embed_dim(clip), getattr(text_tower(clip), "context_length", 77)
    activation = {"quick_gelu": True} if uses_quick_gelu(clip) else {}
    configs = [config for name in names if (config := _registered(name)) is not None]
    return [
        config | activation
        for config in configs
        if config["embed_dim"] == dim and config["text_cfg"].get("context_length", 77) == context
    ]


def _read_off(clip: nn.Module) -> dict[str, Any] | None:
    vision, text = _vision_cfg(clip), _text_cfg(clip)
    if vision is None or text is None:
        return None
    config: dict[str, Any] = {"embed_dim": embed_dim(clip), "vision_cfg": vision, "text_cfg": text}
    if uses_quick_gelu(clip):
        config["quick_gelu"] = True
    if isinstance(clip, open_clip.CustomTextCLIP):
        config["custom_text"] = True
    if getattr(clip, "logit_bias", None) is not None:
        config["init_logit_bias"] = 0.0
    if isinstance(scale := clip.logit_scale, torch.Tensor) and scale.ndim:
        config["nonscalar_logit_scale"] = True
    return config


def _vision_cfg(clip: nn.Module) -> dict[str, Any] | None:
    visual: Any = getattr(clip, "visual", None)
    size = getattr(visual, "image_size", None)
    size = size[0] if isinstance(size, tuple | list) and len(set(size)) == 1 else size
    if type(visual) is ModifiedResNet:
        width = visual.conv1.out_channels * 2
        return {
            "layers": [len(getattr(visual, f"layer{stage}")) for stage in (1, 2, 3, 4)],
            "width": width,
            "head_width": width * 32 // visual.attnpool.num_heads,
            "image_size": size,
        }
    if type(visual) is not VisionTransformer:
        return None
    block = visual.transformer.resblocks[0]
    width = visual.conv1.out_channels
    config = {
        "layers": len(visual.transformer.resblocks),
        "width": width,
        "head_width": width // block.attn.num_heads,
        "mlp_ratio": block.mlp.c_fc.out_features / width,
        "patch_size": visual.conv1.kernel_size[0],
        "image_size": size,
        "pool_type": visual.pool_type,
        "final_ln_after_pool": visual.final_ln_after_pool,
        **_block_kwargs(block),
    }
    if isinstance(visual.ln_pre, nn.Identity):
        config["no_ln_pre"] = True
    return config


def _text_cfg(clip: nn.Module) -> dict[str, Any] | None:
    tower: Any = text_tower(clip)
    if type(tower) not in (open_clip.CLIP, TextTransformer):
        return None
    block = tower.transformer.resblocks[0]
    width = tower.ln_final.normalized_shape[0]
    config = {
        "context_length": tower.context_length,
        "vocab_size": tower.token_embedding.num_embeddings,
        "width": width,
        "heads": block.attn.num_heads,
        "layers": len(tower.transformer.resblocks),
        "mlp_ratio": block.mlp.c_fc.out_features / width,
        "pool_type": getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax")),
        **_block_kwargs(block),
    }
    if (eos := getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))) is not None:
        config["eos_id"] = eos
    if tower.attn_mask is None:
        config["no_causal_mask"] = True
    if getattr(tower, "cls_emb", None) is not None:
        config["embed_cls"] = True
    if tower.text_projection is None:
        config["proj_type"] = "none"
    elif isinstance(tower.text_projection, nn.Linear):
        config["proj_bias"] = True
    return config


def _block_kwargs(block: Any) -> dict[str, Any]:
    """What is unusual about the norms and the activation of a transformer block, as OpenCLIP's config says it."""
    config: dict[str, Any] = {}
    if (eps := getattr(block.ln_1, "eps", 1e-5)) != 1e-5:  # torch's default
        config["norm_kwargs"] = {"eps": eps}
    if (approximate := getattr(block.mlp.gelu, "approximate", "none")) != "none":
        config["act_kwargs"] = {"approximate": approximate}
    return config
