"""Write models: base and alignment as one folder, or a folded model as a plain OpenCLIP folder."""

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
from labclip.towers.openclip import fingerprint_of, known_config, text_tower, tokenizer_of, uses_quick_gelu

UNVERIFIED = "base_weights"
"""Key of the metadata that says that the weights in the folder are not verified to be those of the recorded base."""

# Tokenizers with other settings (lower case, whitespace, context length) give other tokens for at least one of these.
_TOKENIZER_TESTS = [FINGERPRINT_CAPTION, "Two Dogs, one cat -- and  a bird!", "a very " * 100 + "long caption"]


def save_model(model: LABCLIP, folder: str | Path, *, config: str | Mapping[str, Any] | None = None) -> None:
    """Write the base as an OpenCLIP folder, with the alignment's three files in it; see `LABCLIP.save_pretrained`.

    Warns if the base is not verified to be the recorded one, because the user loaded it or trained it further.
    """
    openclip_config = saved_config(model.clip, model.alignment.base, model.openclip_config, config)
    alignment = _with_verified_fingerprint(model)
    with replacing(folder) as scratch:
        write(alignment, scratch)
        write_openclip(model.clip, openclip_config, model.tokenizer, scratch)


def _with_verified_fingerprint(model: LABCLIP) -> Alignment:
    """The model's alignment, with its fingerprint if it is verified to be the recorded base, or none is recorded.

    Otherwise it gets no fingerprint, since that of another model would make this model pass as the base.
    """
    alignment, recorded = model.alignment, model.alignment.fingerprint
    fingerprint = None if model.tokenizer is None else fingerprint_of(model.clip, model.tokenizer)
    if fingerprint is None and recorded is not None:
        return alignment  # it can't be compared here, but when the folder is opened
    metadata = {key: value for key, value in alignment.metadata.items() if key != UNVERIFIED}
    is_same = fingerprint is not None and recorded is not None and float(fingerprint @ recorded) >= FINGERPRINT_COSINE
    if alignment.base is None or is_same:
        return with_record(alignment, fingerprint=fingerprint, metadata=metadata)
    warnings.warn(
        f"Nothing shows that this model has the weights of {alignment.base}, on which the matrix was fitted. The "
        f"folder is saved without a fingerprint and says that they are not verified. If they are the base's, load them "
        f"by name: LABCLIP.from_pretrained(NAME), or labclip.create_model_and_transforms(MODEL, TAG).",
        stacklevel=4,
    )
    note = f"loaded by the user or trained further; not verified to be those of {alignment.base}"
    return with_record(alignment, fingerprint=None, metadata=metadata | {UNVERIFIED: note})


def saved_config(
    clip: Any, base: Base | None, loaded_config: dict[str, Any] | None, config: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """The `open_clip_config.json` of a model.

    It is made from `config`, a `model_cfg` or architecture that the user passed, else it is the `loaded_config` that
    the model was loaded with, else it is made from the base's architecture. ValueError if none fits the model.
    """
    if config is None and loaded_config is not None and matches(clip, loaded_config["model_cfg"]) is not False:
        return loaded_config
    name = config or (base.model if base else "")
    if isinstance(name, Mapping):
        model_cfg = dict(name) if matches(clip, name) is not False else None
    else:
        model_cfg = matching_config(clip, name)
    if model_cfg is None:
        problem = "is not known, as labclip did not load it" if config is None else f"is not config={config!r:.200}"
        raise ValueError(
            f"The OpenCLIP configuration of this {type(clip).__name__} {problem}. Pass config=, the name of its "
            f'architecture from open_clip.list_models(), for example save_pretrained(FOLDER, config="ViT-B-32"), or '
            f"the model_cfg that it was made from."
        )
    return {"model_cfg": model_cfg, "preprocess_cfg": dict(getattr(clip.visual, "preprocess_cfg", None) or {})}


def write_openclip(clip: nn.Module, config: dict[str, Any], tokenizer: Any, folder: Path) -> None:
    """Write the files of an OpenCLIP folder: config, weights, and the tokenizer's files if it has any.

    `config` is the `open_clip_config.json` of the model or, if it is folded, of its base.
    """
    config = copy.deepcopy(config)
    tower, text_cfg = text_tower(clip), config["model_cfg"]["text_cfg"]
    if "hf_model_name" in text_cfg and isinstance(getattr(tower, "proj", None), nn.Linear):
        text_cfg["hf_proj_type"] = "linear"  # a fold may have added it; OpenCLIP's default has two layers
    elif text_cfg.get("proj_type") == "none" and getattr(tower, "text_projection", None) is not None:
        text_cfg |= {"proj_type": "linear", "proj_bias": False}
    if tokenizer is not None and not isinstance(tokenizer, open_clip.SimpleTokenizer):
        if not hasattr(tokenizer, "save_pretrained"):
            raise ValueError(
                f"A {type(tokenizer).__name__} cannot be saved, and the folder would open with a wrong one."
            )
        # Any name makes OpenCLIP look for the tokenizer's files in the folder.
        text_cfg.setdefault("hf_tokenizer_name", "local")
        tokenizer.save_pretrained(str(folder))
    config = {key: value for key, value in config.items() if key != FOLDED}
    if (mark := mark_of(clip)) is not None:
        config[FOLDED] = mark
    (folder / OPENCLIP_CONFIG).write_bytes((json.dumps(config, indent=2, default=list) + "\n").encode())
    state = {key: value.detach().cpu().contiguous().clone() for key, value in clip.state_dict().items()}
    save_file(state, folder / OPENCLIP_WEIGHTS, metadata={"format": "pt"})
    if tokenizer is not None:
        reopened = tokenizer_of(f"local-dir:{folder}", config["model_cfg"])
        if not torch.equal(reopened(_TOKENIZER_TESTS), tokenizer(_TOKENIZER_TESTS)):
            raise ValueError(
                f"The folder would open with another tokenizer than this {type(tokenizer).__name__}, whose settings "
                f"can't be saved in the configuration. Pass the model's own tokenizer: open_clip.get_tokenizer(NAME)."
            )


def matching_config(clip: nn.Module, name: str) -> dict[str, Any] | None:
    """OpenCLIP's `model_cfg` of an architecture, with the model's activation; None if unknown or not the model's own.

    Towers of other libraries are not built, as this would download them, so their `model_cfg` is not checked.
    """
    if (config := known_config(name)) is None:
        return None
    if (quick_gelu := uses_quick_gelu(clip)) is not None:
        config = {key: value for key, value in config.items() if key != "quick_gelu"}
        config |= {"quick_gelu": True} if quick_gelu else {}
    # OpenCLIP has two classes for the same weights, of which force_custom_text=True selects one.
    candidates = [config, config | {"custom_text": True}, config | {"custom_text": False}]
    return next((candidate for candidate in candidates if matches(clip, candidate) is not False), None)


def matches(clip: nn.Module, config: Mapping[str, Any]) -> bool | None:
    """Whether OpenCLIP builds the architecture of `clip` from this `model_cfg`; None if it would download a tower."""
    try:
        if "hf_model_name" in config["text_cfg"] or "timm_model_name" in config["vision_cfg"]:
            return None
        custom = config.get("custom_text", False)
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
        with torch.device("meta"):  # allocates no memory for the weights
            built = kind(**{key: value for key, value in config.items() if key != "custom_text"})
        return _signature(built) == _signature(clip)
    except (TypeError, KeyError, ValueError, RuntimeError, AssertionError, AttributeError):
        return False  # OpenCLIP can't build this configuration, so the model was not built from it


# Settings of modules that change the output, but not the shapes of the weights. GELU has `approximate`, QuickGELU not.
_SETTINGS = (
    "num_heads", "pool_type", "text_pool_type", "final_ln_after_pool", "output_tokens", "eos_id", "text_eos_id",
    "pad_id", "eps", "approximate",
)  # fmt: skip


def _signature(clip: nn.Module) -> tuple[Any, ...]:
    """The class, the weights' shapes and the settings of a model: all that determines its output besides weights."""
    shapes = {key: tuple(value.shape) for key, value in clip.state_dict().items()}
    settings = [(key, getattr(module, key)) for module in clip.modules() for key in _SETTINGS if hasattr(module, key)]
    mask = getattr(text_tower(clip), "attn_mask", None)
    return shapes, settings, mask is None, type(clip).__name__
