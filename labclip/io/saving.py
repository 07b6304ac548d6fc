"""Writing models: base and alignment as one folder, or folded into a plain OpenCLIP folder."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

from labclip.alignment import Alignment, with_record
from labclip.base import FINGERPRINT_CAPTION, FINGERPRINT_COSINE, FOLDED, Base
from labclip.files import OPENCLIP_CONFIG, OPENCLIP_WEIGHTS
from labclip.io.folder import replacing, write
from labclip.io.text_sides import mark_of
from labclip.model import LABCLIP
from labclip.towers.openclip import fingerprint_of, text_tower, tokenizer_of, uses_quick_gelu

UNVERIFIED = "base_weights"
"""Key of the metadata that says that the weights beside the matrix are not known to be its base's."""

# Tokenizers that clean, cut, or count positions otherwise give other tokens for one of these.
_TELLING = [FINGERPRINT_CAPTION, "Two Dogs, one cat -- and  a bird!", "a very " * 100 + "long caption"]


def save_model(model: LABCLIP, folder: str | Path, *, config: str | Mapping[str, Any] | None = None) -> None:
    """`LABCLIP.save_pretrained`: the base as an OpenCLIP folder, the alignment's three files in it as well.

    Warns if nothing shows that the base is the one recorded: it was given by hand, or trained on.
    """
    openclip = config_for(model.clip, model.alignment.base, model.openclip_config, config)
    alignment = _as_verified(model)
    with replacing(folder) as scratch:
        write(alignment, scratch)
        _write_openclip(model.clip, openclip, model.tokenizer, scratch)


def _as_verified(model: LABCLIP) -> Alignment:
    """The model's alignment, with a fingerprint of the model only where that is known to be the base recorded.

    A fingerprint of any other would let it pass for the base. Where no base is recorded, there is none to pass for.
    """
    alignment, known = model.alignment, model.alignment.fingerprint
    fingerprint = None if model.tokenizer is None else fingerprint_of(model.clip, model.tokenizer)
    if fingerprint is None and known is not None:
        return alignment  # what can't be compared here is compared where the folder is opened
    metadata = {key: value for key, value in alignment.metadata.items() if key != UNVERIFIED}
    same = fingerprint is not None and known is not None and float(fingerprint @ known) >= FINGERPRINT_COSINE
    if alignment.base is None or same:
        return with_record(alignment, fingerprint=fingerprint, metadata=metadata)
    warnings.warn(
        f"Nothing shows that this model has the weights of {alignment.base}, on which the matrix was fitted. The "
        f"folder is saved with no fingerprint and says that they are not verified. If they are, load them by name: "
        f"LABCLIP.from_pretrained(NAME), or labclip.create_model_and_transforms(MODEL, TAG).",
        stacklevel=4,
    )
    note = f"given by hand or trained on; not verified to be those of {alignment.base}"
    return with_record(alignment, fingerprint=None, metadata=metadata | {UNVERIFIED: note})


def write_folded(folded: nn.Module, openclip: dict[str, Any], tokenizer: Any, folder: Path) -> None:
    """Write a folded model as an OpenCLIP folder; `openclip` is the configuration of its base."""
    openclip = copy.deepcopy(openclip)
    text_cfg = openclip["model_cfg"]["text_cfg"]
    if "hf_model_name" in text_cfg:
        if isinstance(getattr(text_tower(folded), "proj", None), nn.Linear):
            text_cfg["hf_proj_type"] = "linear"  # one may have been added; OpenCLIP's default is two layers
    elif text_cfg.get("proj_type") == "none" and getattr(text_tower(folded), "text_projection", None) is not None:
        text_cfg |= {"proj_type": "linear", "proj_bias": False}
    _write_openclip(folded, openclip, tokenizer, folder)


def config_for(
    clip: Any, base: Base | None, known: dict[str, Any] | None, config: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """The `open_clip_config.json` of a model, `known` or of its base; `config` is the one that a user names."""
    if config is None and known is not None:
        return known
    name = config or (base.model if base else "")
    if isinstance(name, Mapping):
        model_cfg = dict(name) if matches(clip, name) is not False else None
    else:
        model_cfg = config_of(clip, name)
    if model_cfg is None:
        given = (
            "is not known, as labclip did not load it" if config is None else f"is another than config={config!r:.200}"
        )
        raise ValueError(
            f"The OpenCLIP configuration of this {type(clip).__name__} {given}. Pass config=, the name of its "
            f'architecture, one of open_clip.list_models(), for example save_pretrained(FOLDER, config="ViT-B-32"), or '
            f"the model_cfg that it was made from."
        )
    return {"model_cfg": model_cfg, "preprocess_cfg": dict(getattr(clip.visual, "preprocess_cfg", None) or {})}


def _write_openclip(clip: nn.Module, config: dict[str, Any], tokenizer: Any, folder: Path) -> None:
    """Write the files of an OpenCLIP folder: config, weights as safetensors, the tokenizer's files if it has any."""
    config = copy.deepcopy(config)
    if tokenizer is not None and not isinstance(tokenizer, open_clip.SimpleTokenizer):
        if not hasattr(tokenizer, "save_pretrained"):
            raise ValueError(
                f"A {type(tokenizer).__name__} cannot be saved, and the folder would open with a wrong one."
            )
        # The name alone makes OpenCLIP look for the tokenizer's files in the folder.
        config["model_cfg"]["text_cfg"].setdefault("hf_tokenizer_name", "local")
        tokenizer.save_pretrained(str(folder))
    config = {key: value for key, value in config.items() if key != FOLDED}
    if (mark := mark_of(clip)) is not None:
        config[FOLDED] = mark
    (folder / OPENCLIP_CONFIG).write_bytes((json.dumps(config, indent=2, default=list) + "\n").encode())
    state = {key: value.detach().cpu().contiguous().clone() for key, value in clip.state_dict().items()}
    save_file(state, folder / OPENCLIP_WEIGHTS, metadata={"format": "pt"})
    if tokenizer is not None:
        opened = tokenizer_of(f"local-dir:{folder}", config["model_cfg"])
        if not torch.equal(opened(_TELLING), tokenizer(_TELLING)):
            raise ValueError(
                f"The folder would open with another tokenizer than this {type(tokenizer).__name__}, whose settings "
                f"the configuration doesn't hold. Pass the one that goes with the model: open_clip.get_tokenizer(NAME)."
            )


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
    return next((candidate for candidate in candidates if matches(clip, candidate) is not False), None)


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
