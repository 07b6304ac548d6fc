"""Bases loaded and wrapped: by OpenCLIP's name and tag, from a folder, or as the user loaded them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from labclip.alignment import Alignment, with_record
from labclip.base import FOLDED, Base, described_mark
from labclip.checks import first_line
from labclip.files import CONFIG, WEIGHT_FILES, is_alignment_folder, weights_in
from labclip.io.architecture import config_of
from labclip.io.bases import build
from labclip.io.folder import load, read_config
from labclip.io.hub import Access, base_weights
from labclip.model import LABCLIP
from labclip.packages import MissingPackageError
from labclip.towers.openclip import (
    fingerprint_of,
    folder_tokenizer,
    read_openclip_config,
    text_tower,
    tokenizer_of,
)
from labclip.towers.text import Tokenizer

# What a tag's configuration says about preprocessing, by the argument of OpenCLIP that overrides it.
_TRANSFORM_KEYS = {key: f"image_{key}" for key in ("mean", "std", "interpolation", "resize_mode")}


def load_named(
    wanted: Base, alignment: Alignment, access: Access, *, precision: str, device: Any, **openclip: Any
) -> tuple[LABCLIP, Any]:
    """Load an OpenCLIP architecture with the weights of a tag, or of a file, and wrap it; also preprocess_train."""
    check_same_base(alignment, wanted)
    if wanted.model not in open_clip.list_models():
        raise ValueError(
            f"This OpenCLIP has no architecture {wanted.model!r}, the base of the alignment. "
            f"Load it yourself and pass base=, or register it: open_clip.add_model_config(FILE)."
        )
    tag_config = open_clip.get_pretrained_cfg(wanted.model, wanted.pretrained)
    for key, argument in _TRANSFORM_KEYS.items():
        if key in tag_config:
            openclip.setdefault(argument, tag_config[key])
    if wanted.quick_gelu:
        openclip["force_quick_gelu"] = True
    clip, train, val = build(wanted.model, weights_of(wanted, access), precision=precision, device=device, **openclip)
    model_cfg = open_clip.get_model_config(wanted.model) | ({"quick_gelu": True} if wanted.quick_gelu else {})
    tokenizer = tokenizer_of(wanted.model, model_cfg)
    if tag_config and alignment.base is not None and alignment.fingerprint is None:
        # The tag's own weights: from here on others are recognised as others.
        alignment = with_record(alignment, fingerprint=fingerprint_of(clip, tokenizer))
    model = LABCLIP(clip, alignment, preprocess=val, tokenizer=tokenizer)
    if not set(openclip) - {"force_quick_gelu", "output_dict", "aug_cfg", "weights_only", *_TRANSFORM_KEYS.values()}:
        model.openclip_config = {"model_cfg": model_cfg, "preprocess_cfg": dict(clip.visual.preprocess_cfg)}
    return model, train


def load_folder(
    folder: Path, alignment: Alignment, *, precision: str, device: Any, **openclip: Any
) -> tuple[LABCLIP, Any]:
    """Load the OpenCLIP model of a folder and wrap it; also preprocess_train."""
    if is_alignment_folder(folder) and (recorded := read_config(folder / CONFIG)["base"]) is not None:
        check_same_base(alignment, recorded)
        if alignment.base is not None and alignment.fingerprint is None:
            # What the folder's own matrix knows of the base.
            alignment = with_record(alignment, fingerprint=load(folder).fingerprint)
    config = read_openclip_config(folder)
    weights = weights_in(folder)
    assert weights is not None
    clip, train, val = build(f"local-dir:{folder}", weights, precision=precision, device=device, **openclip)
    try:
        tokenizer: Tokenizer | None = folder_tokenizer(folder)
    except MissingPackageError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: its tokenizer can't be made ({first_line(error)}).") from error
    vocabulary = getattr(text_tower(clip), "vocab_size", None)
    if isinstance(tokenizer, open_clip.SimpleTokenizer) and vocabulary not in (None, tokenizer.vocab_size):
        tokenizer = None  # the ordinary one would give wrong tokens to a model with another vocabulary
    if isinstance(mark := config.get(FOLDED), dict):
        setattr(clip, FOLDED, mark)
    model = LABCLIP(clip, alignment, preprocess=val, tokenizer=tokenizer)
    if isinstance(mark, dict):
        warnings.warn(
            f"{folder} holds a folded model ({described_mark(mark)}). It opens with the identity: its text features "
            f"are aligned already, aligned=False and strength change nothing. For the base, load "
            f"{mark.get('model') or 'the model that it was folded from'}.",
            stacklevel=5,
        )
    model.openclip_config = config
    return model, train


def wrap_loaded(clip: nn.Module, alignment: Alignment, device: str | torch.device | None) -> LABCLIP:
    """Wrap a base the user loaded, after checking what can be checked of it."""
    base = alignment.base
    if base is not None and base.model in open_clip.list_models() and config_of(clip, base.model) is None:
        raise ValueError(
            f"The alignment was fitted on {base}, but the weights of this {type(clip).__name__} are not those of a "
            f"{base.model}. Pass that base, or load the alignment that fits yours."
        )
    model = LABCLIP(clip, alignment)
    return model if device is None else model.to(device)


def check_same_base(alignment: Alignment, wanted: Base) -> None:
    """Refuse with ValueError an alignment recorded for another architecture, tag or activation."""
    base = alignment.base
    if base is None or base.matches(wanted):
        return
    # A weights file may hold those of any tag; the fingerprint decides.
    if Path(wanted.pretrained).is_file() and base.matches(replace(wanted, pretrained=base.pretrained)):
        return
    activation = {True: "QuickGELU", False: "GELU"}
    raise ValueError(
        f"The alignment was fitted on {base} with {activation[base.quick_gelu]}, but the base is {wanted} with "
        f"{activation[wanted.quick_gelu]}. Load the base it was fitted on, or fit a matrix for this one."
    )


def weights_of(base: Base, access: Access) -> Path:
    """The file with the weights of a tag, from the cache or fetched; of no tag, the file that is named."""
    config = open_clip.get_pretrained_cfg(base.model, base.pretrained)
    if not config:
        return Path(base.pretrained)
    repository, _, file = config["hf_hub"].rpartition("/")
    return base_weights(repository, [file] if file else WEIGHT_FILES, replace(access, revision=None))
