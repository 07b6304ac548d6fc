"""Load models: resolve a name to a base and an alignment, build the base, and wrap it. All commands use this module."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from labclip.alignment import Alignment, checked_alignment, with_record
from labclip.base import FOLDED, Base, describe_mark
from labclip.checks import check_device
from labclip.io import published
from labclip.io.hub import DEFAULT, Access, published_alignment, weights_file
from labclip.io.names import Source, load_alignment, named_base, resolve
from labclip.io.published import Published
from labclip.io.saving import matching_config
from labclip.model import LABCLIP
from labclip.packages import EMBEDDED
from labclip.towers.openclip import (
    build,
    check_base,
    fingerprint_of,
    folder_tokenizer,
    known_config,
    read_openclip_config,
    text_tower,
    tokenizer_of,
)
from labclip.towers.text import Tokenizer

_logger = logging.getLogger(__name__)

_TRANSFORM = {"mean", "std", "interpolation", "resize_mode"}  # keys of a tag's configuration that set its preprocessing

_Loaded = tuple[Any, Any, Any, Tokenizer | None, dict[str, Any]]
"""Model, preprocess_train, preprocess_val, tokenizer, `open_clip_config.json`."""


def load_model(
    name_or_path: str | Path, access: Access, alignment: Alignment | str | Path | None, base: nn.Module | None,
    strength: float | None, device: str | torch.device | None, precision: str,
) -> LABCLIP:  # fmt: skip
    """Load a model; see `LABCLIP.from_pretrained`."""
    check_device(device)
    source = resolve(name_or_path, access)
    alignment = _select_alignment(source, alignment, access, strength)
    if base is not None:
        recorded = alignment.base
        if recorded and known_config(recorded.model) and matching_config(base, recorded.model) is None:
            raise ValueError(
                f"The alignment was fitted on {recorded}, but this {type(base).__name__} has another architecture than "
                f"{recorded.model}. Pass that base, or load an alignment fitted on yours."
            )
        model = LABCLIP(base, alignment)
        return model if device is None else model.to(device)
    model = _load(source, alignment, access, precision=precision, device=device)[0]
    _logger.info("%s: %s on %s, %s", name_or_path, model.alignment, model.matrix.device, precision)
    return model


def open_alignment(name: Alignment | str | Path, model: LABCLIP) -> Alignment:
    """Load another alignment for a loaded model, and check that it was fitted on its base; used for `--alignment`.

    `name` is what `Alignment.from_pretrained` takes, a published alignment of this base such as "cc3m", or an
    `Alignment`.
    """
    base = model.alignment.base
    alignment = _select_alignment(Source(str(base or "this model"), base=base), name, DEFAULT)
    check_same_base(alignment, base)
    check_base(model.clip, alignment, model.tokenizer)
    return alignment


def _select_alignment(
    source: Source, choice: Alignment | str | Path | None, access: Access, strength: float | None = None
) -> Alignment:
    """The alignment that the user chose, else that of the source, else the identity; at `strength`, if it is given."""
    if choice is None:
        if (alignment := source.alignment(access)) is None:
            if source.folder is not None:
                alignment = Alignment.identity(read_openclip_config(source.folder)["model_cfg"].get("embed_dim"))
            else:
                assert source.base is not None
                alignment = with_record(Alignment.identity(source.base.embed_dim), base=source.base)
    elif not isinstance(choice, str | Path):
        alignment = checked_alignment(choice)
    elif entry := _published_for(source.base, choice):
        alignment = published_alignment(entry, access)
    else:  # the revision belongs to the model's repository, not to the alignment's
        alignment = load_alignment(choice, replace(access, revision=None))
    return alignment if strength is None else alignment.at(strength)


def _published_for(base: Base | None, alignment: str | Path | None = None) -> Published | None:
    """The published matrix of a base with this name, or, without a name, the first of the base."""
    entries = [entry for entry in published.PUBLISHED if base is not None and entry.base.matches(base)]
    return next((entry for entry in entries if alignment in (None, entry.alignment)), None)


def _load(source: Source, alignment: Alignment, access: Access, **openclip: Any) -> tuple[LABCLIP, Any]:
    """Load the base of a source and wrap it with an alignment. Returns the model and preprocess_train."""
    base = source.base
    check_same_base(alignment, base)
    if source.folder is not None:
        clip, train, val, tokenizer, config = _load_folder(source.folder, **openclip)
    else:
        clip, train, val, tokenizer, config = _load_named(_checked_base(source), access, **openclip)
    if base is not None and alignment.base is not None and alignment.fingerprint is None:
        # These weights are known to be the base's: the tag's own, or those of the folder's alignment. So the alignment
        # can get their fingerprint, by which other weights are refused.
        fingerprint = None if source.saved_alignment is None else source.saved_alignment.fingerprint
        if source.folder is None and tokenizer is not None and not Path(base.pretrained).is_file():
            fingerprint = fingerprint_of(clip, tokenizer)
        alignment = with_record(alignment, fingerprint=fingerprint)
    model = LABCLIP(clip, alignment, preprocess=val, tokenizer=tokenizer)
    model.openclip_config = config
    if (mark := getattr(clip, FOLDED, None)) is not None:
        warnings.warn(
            f"{source.folder} holds a folded model ({describe_mark(mark)}). It opens with the identity: its text "
            f"features are already aligned, and aligned=False and strength change nothing. For the base, load "
            f"{mark.get('model') or 'the model that it was folded from'}.",
            stacklevel=4,
        )
    return model, train


def _load_named(base: Base, access: Access, **openclip: Any) -> _Loaded:
    """Load an OpenCLIP architecture with the weights of a tag or a file."""
    for key, value in open_clip.get_pretrained_cfg(base.model, base.pretrained).items():
        if key in _TRANSFORM:
            openclip.setdefault(f"image_{key}", value)
    openclip |= {"force_quick_gelu": True} if base.quick_gelu else {}
    clip, train, val = build(base.model, weights_file(base, access), **openclip)
    model_cfg = open_clip.get_model_config(base.model) | ({"quick_gelu": True} if base.quick_gelu else {})
    config = {"model_cfg": model_cfg, "preprocess_cfg": dict(clip.visual.preprocess_cfg)}
    return clip, train, val, tokenizer_of(base.model, model_cfg), config


def _load_folder(folder: Path, **openclip: Any) -> _Loaded:
    """Load the OpenCLIP model of a folder, with its mark if it is folded."""
    config = read_openclip_config(folder)
    clip, train, val = build(f"local-dir:{folder}", None, **openclip)
    tokenizer: Tokenizer | None = folder_tokenizer(folder)
    vocabulary = getattr(text_tower(clip), "vocab_size", None)
    if isinstance(tokenizer, open_clip.SimpleTokenizer) and vocabulary not in (None, tokenizer.vocab_size):
        tokenizer = None  # CLIP's tokenizer would give wrong token ids to a model with another vocabulary
    if FOLDED in config:
        setattr(clip, FOLDED, config[FOLDED])
    return clip, train, val, tokenizer, config


def check_same_base(alignment: Alignment, wanted: Base | None) -> None:
    """Raise ValueError if an alignment records another base than `wanted`, and both are known."""
    base = alignment.base
    if base is None or wanted is None or base.matches(wanted):
        return
    # A weights file may hold the weights of any tag; the fingerprint decides.
    if Path(wanted.pretrained).is_file() and base.matches(replace(wanted, pretrained=base.pretrained)):
        return
    activation = {True: "QuickGELU", False: "GELU"}
    raise ValueError(
        f"The alignment was fitted on {base} with {activation[base.quick_gelu]}, but the base is {wanted} with "
        f"{activation[wanted.quick_gelu]}. Load the base it was fitted on, or fit a matrix for this one."
    )


def _checked_base(source: Source) -> Base:
    """The base of a source; ValueError if it is unknown, or its record, read from a file, is not a tag of OpenCLIP."""
    base, remedy = source.base, "Pass base=, an OpenCLIP model that you loaded."
    if base is None:
        raise ValueError(f"{source.name} holds an alignment that does not record its base. {remedy}")
    # A record read from a file must not make OpenCLIP open paths or repositories.
    is_known = known_config(base.model) and open_clip.get_pretrained_cfg(base.model, base.pretrained)
    if source.saved_alignment is not None and not is_known:
        raise ValueError(f"{source.name} was fitted on {base}, whose weights OpenCLIP does not know by name. {remedy}")
    return base


def create_model_and_transforms(
    model_name: str | Path,
    pretrained: str | None = None,
    *,
    alignment: Alignment | str | Path | None = None,
    strength: float | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    cache_dir: str | None = None,
    **openclip: Any,
) -> tuple[LABCLIP, Any, Any]:
    """Load a model as OpenCLIP's function of this name does, with its text side aligned.

    Args:
        model_name: OpenCLIP architecture. Without `pretrained`, what `LABCLIP.from_pretrained` takes: "scenes", a
            folder, "local-dir:PATH", "hf-hub:org/name".
        pretrained: OpenCLIP tag, or a weights file of that architecture.
        alignment: The name, folder or repository of an alignment, or an `Alignment`; by default the known matrix of
            this base.
        strength: 0 is the base model exactly, 1 the matrix as fitted; None keeps the alignment's own strength.
        precision: OpenCLIP's precision of the base.
        device: Device of the model.
        jit: Must be False; `torch.jit.script(model)` scripts a folded copy.
        cache_dir: Where downloads are cached; None uses the Hub's own cache.
        **openclip: Other arguments of `open_clip.create_model_and_transforms`.

    Returns:
        (model, preprocess_train, preprocess_val). Unlike OpenCLIP's, the model is in evaluation mode and frozen; to
        train the base, type `model.clip.train().requires_grad_()`.

    Raises:
        ValueError: If no known matrix was fitted on this base; the message lists the bases that have one.

    Example:
        >>> model, _, preprocess = create_model_and_transforms("scenes")
    """
    if jit or not openclip.pop("load_weights", True):
        raise ValueError(
            "jit=True and load_weights=False are not supported. Leave them out: torch.jit.script(model) scripts the "
            "folded model, and no matrix fits random weights."
        )
    check_device(device)
    access = Access(cache_dir=cache_dir)
    if not _is_architecture(model_name) and not pretrained:
        source = resolve(model_name, access)
    elif not pretrained or str(model_name).partition(":")[0] in ("local-dir", "hf-hub", EMBEDDED):
        raise ValueError(
            f"{model_name} with pretrained={pretrained!r}: an architecture needs the tag of its weights, for example "
            f'"ViT-B-32", pretrained="openai", since no matrix fits random ones; "scenes", a folder or a repository '
            f"takes no tag."
        )
    else:
        base = named_base(str(model_name), pretrained, force_quick_gelu=openclip.get("force_quick_gelu", False))
        source = Source(str(base), entry=_published_for(base), base=base)
    if alignment is None and source.saved_alignment is None and source.entry is None:
        bases = dict.fromkeys(f'"{entry.model}", pretrained="{entry.pretrained}"' for entry in published.PUBLISHED)
        raise ValueError(
            f"No known matrix was fitted on {source.name}. These bases have one: {'; '.join(bases)}. Pass alignment= "
            f"(a folder, a repository 'org/name', or an Alignment), or fit a matrix on your own captions."
        )
    alignment = _select_alignment(source, alignment, access, strength)
    model, preprocess_train = _load(source, alignment, access, precision=precision, device=device, **openclip)
    return model, preprocess_train, model.preprocess


def _is_architecture(name: str | Path) -> bool:
    return isinstance(name, str) and name.replace("/", "-") in open_clip.list_models()


def get_tokenizer(model_name: str | Path, **kwargs: Any) -> Any:
    """Get a tokenizer as OpenCLIP's function of this name does; labclip's names work too.

    Args:
        model_name: What `create_model_and_transforms` takes.
        **kwargs: Other arguments of `open_clip.get_tokenizer`.

    Returns:
        A function: captions -> token ids, int64 [n, context_length].

    Raises:
        ValueError: If no model has that name (`open_clip.get_tokenizer` would return CLIP's tokenizer), or its
            tokenizer needs `transformers`, which is not installed.
        FileNotFoundError: If a folder or repository does not exist.

    Example:
        >>> get_tokenizer("scenes")(["a red cube"]).shape
        torch.Size([1, 16])
    """
    if _is_architecture(model_name):
        return tokenizer_of(str(model_name).replace("/", "-"), **kwargs)
    source = resolve(model_name, DEFAULT)
    if source.folder is not None:
        return folder_tokenizer(source.folder, **kwargs)
    return get_tokenizer(_checked_base(source).model, **kwargs)
