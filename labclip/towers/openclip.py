"""Build OpenCLIP models, and read their dim, activation, fingerprint and tokenizer."""

from __future__ import annotations

import copy
import pickle
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import create_model_and_transforms, get_tokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import nn
from torch.overrides import TorchFunctionMode

from labclip.alignment import Alignment
from labclip.base import FINGERPRINT_CAPTION, FINGERPRINT_COSINE, FOLDED, PRECISIONS, Base, describe_mark
from labclip.checks import check_choice
from labclip.files import OPENCLIP_CONFIG, read_json_object
from labclip.packages import EMBEDDED, MissingPackageError, embedded_folder
from labclip.towers.images import as_shown
from labclip.towers.text import Tokenizer, encode_captions


def text_tower(clip: nn.Module) -> nn.Module:
    """The module with the text tower's layers: `clip.text` if it exists, else the model itself."""
    tower = getattr(clip, "text", None)
    return tower if isinstance(tower, nn.Module) else clip


def embed_dim(clip: nn.Module) -> int:
    """The embedding dimension of an OpenCLIP model; ValueError if it can't be found, as in other models."""
    tower: Any = text_tower(clip)
    projection = getattr(tower, "text_projection", None)
    if isinstance(projection, nn.Linear):
        return projection.out_features
    if isinstance(projection, torch.Tensor):
        return int(projection.shape[1])
    for module, name in ((tower, "output_dim"), (getattr(clip, "visual", None), "output_dim"), (clip, "embed_dim")):
        if isinstance(dim := getattr(module, name, None), int):
            return dim
    if hasattr(tower, "ln_final"):
        return int(tower.ln_final.normalized_shape[0])
    raise ValueError(f"A {type(clip).__name__} has no embedding dimension. Pass an OpenCLIP model.")


def uses_quick_gelu(clip: nn.Module) -> bool | None:
    """Whether the text tower uses QuickGELU; None if it is not one of OpenCLIP's own."""
    tower: Any = text_tower(clip)
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if blocks is None:
        return None
    return any(type(module).__name__ == "QuickGELU" for module in blocks.modules())


@torch.no_grad()
def fingerprint_of(clip: nn.Module, tokenizer: Tokenizer) -> torch.Tensor:
    """A base's unit-length text embedding of `FINGERPRINT_CAPTION`, float32 [dim], on the CPU."""
    device = next(clip.parameters()).device
    with torch.autocast(device.type, enabled=False):
        features = encode_captions(clip, tokenizer, [FINGERPRINT_CAPTION], device)
    return nn.functional.normalize(features[0].float(), dim=0).cpu()


def check_base(clip: nn.Module, alignment: Alignment, tokenizer: Tokenizer | None) -> None:
    """Check the dim of an OpenCLIP model, and call `check_fits`; without a tokenizer it compares no fingerprint."""
    dim = embed_dim(clip)
    if dim != alignment.dim:
        raise ValueError(
            f"Alignment has dim {alignment.dim}{_fitted_on(alignment)} but this {type(clip).__name__} embeds in "
            f"{dim}. Load one fitted for it: labclip.list_pretrained() names the known ones."
        )
    fingerprint = None
    if alignment.fingerprint is not None and tokenizer is not None and not next(clip.parameters()).is_meta:
        fingerprint = fingerprint_of(clip, tokenizer)
    check_fits(alignment, getattr(clip, FOLDED, None), uses_quick_gelu(clip), fingerprint)


def check_fits(
    alignment: Alignment, mark: Mapping[str, Any] | None, quick_gelu: bool | None, fingerprint: torch.Tensor | None
) -> None:
    """Raise ValueError if an alignment was not fitted on a model, or the model has a matrix merged into it already.

    The model is described by its mark of a fold, by whether it uses QuickGELU, and by its unit-length embedding of
    `FINGERPRINT_CAPTION`, [dim]; each is None if the model has none or it is not known.
    """
    base, activations = alignment.base, {True: "QuickGELU", False: "GELU"}
    if mark is not None and not alignment.is_identity:
        folded_from = f", {mark['model']}" if mark.get("model") else ""
        raise ValueError(
            f"This model has a matrix merged into it already ({describe_mark(mark)}): another would be applied on top "
            f"of it. Load the model that it was folded from{folded_from}."
        )
    if base is not None and quick_gelu is not None and quick_gelu != base.quick_gelu:
        raise ValueError(
            f"The alignment was fitted on {base}, which runs {activations[base.quick_gelu]}, but this model runs "
            f"{activations[quick_gelu]}: its embeddings differ. Create it with force_quick_gelu={base.quick_gelu}, or "
            f"in a library other than OpenCLIP with that activation."
        )
    if alignment.fingerprint is None or fingerprint is None:
        return
    if not (cosine := float(fingerprint @ alignment.fingerprint)) >= FINGERPRINT_COSINE:
        raise ValueError(
            f"This model is not the one the alignment was fitted on{_fitted_on(alignment)}: its embedding of "
            f"{FINGERPRINT_CAPTION!r} has cosine {cosine:.3f} with the recorded one, below {FINGERPRINT_COSINE}. Load "
            f"the recorded base, or fit a matrix for this model."
        )


def _fitted_on(alignment: Alignment) -> str:
    return f" ({alignment.base})" if alignment.base else ""


def read_openclip_config(folder: Path) -> dict[str, Any]:
    """The contents of a folder's `open_clip_config.json`; ValueError if it is not JSON or has no `model_cfg`."""
    path = folder / OPENCLIP_CONFIG
    config = read_json_object(path, remedy="Fetch or save the folder again.")
    if not isinstance(config.get("model_cfg"), dict):
        raise ValueError(f"{path} has no model_cfg, so it is not the config of an OpenCLIP model.")
    return config


def tokenizer_of(name: str, config: dict[str, Any] | None = None, **kwargs: Any) -> Tokenizer:
    """The tokenizer of an architecture or of "local-dir:PATH"; `config` is its `model_cfg`, if already read."""
    text_cfg = (config or open_clip.get_model_config(name) or {}).get("text_cfg", {})
    shared = getattr(open_clip.tokenizer, "_tokenizer", None)
    special = kwargs or "siglip" in name.lower() or {"hf_tokenizer_name", "tokenizer_kwargs"} & set(text_cfg)
    if special or not isinstance(shared, open_clip.SimpleTokenizer):
        try:
            return get_tokenizer(name, **kwargs)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"The tokenizer of {name} needs {error.name}. Type: pip install {error.name}", name=error.name
            ) from error
    # A copy, since building the vocabulary takes a fifth of a second, longer than loading a small model's weights.
    tokenizer = copy.copy(shared)
    tokenizer.context_length = text_cfg.get("context_length", shared.context_length)
    return tokenizer


def folder_tokenizer(folder: Path, **kwargs: Any) -> Tokenizer:
    """The tokenizer of an OpenCLIP folder."""
    return tokenizer_of(f"local-dir:{folder}", read_openclip_config(folder)["model_cfg"], **kwargs)


def default_tokenizer(base: Base | None) -> Tokenizer | None:
    """The tokenizer of a recorded base; None if the base is unknown or its tokenizer would have to be downloaded."""
    if base is None:
        return None
    if base.model == EMBEDDED:
        return folder_tokenizer(embedded_folder())
    config = known_config(base.model)
    return None if config is None or "hf_tokenizer_name" in config["text_cfg"] else tokenizer_of(base.model, config)


def known_config(name: str) -> dict[str, Any] | None:
    """OpenCLIP's `model_cfg` of one of its own names, else None. A recorded "hf-hub:..." is never looked up."""
    return open_clip.get_model_config(name) if name in open_clip.list_models() else None


def default_preprocess(clip: Any) -> Callable[[Any], torch.Tensor] | None:
    """The image transform of a model's own configuration, turning images by EXIF; None if it has no configuration."""
    config = getattr(getattr(clip, "visual", None), "preprocess_cfg", None)
    if not config:
        return None
    transform: Callable[[Any], torch.Tensor] = as_shown(image_transform_v2(PreprocessCfg(**config), is_train=False))
    return transform


def build(
    name: str,
    weights: Path | None,
    *,
    precision: str = "fp32",
    device: str | torch.device | None = None,
    **openclip: Any,
) -> tuple[Any, Any, Any]:
    """Make an OpenCLIP model and load its weights, without the random initialisation that they would overwrite.

    `name` is an architecture or "local-dir:PATH"; `weights` is None for a folder, which has its own. `openclip` are
    other arguments of `open_clip.create_model_and_transforms`. Returns the model, in evaluation mode and frozen,
    preprocess_train, and preprocess_val, which turns images by EXIF.
    """
    check_choice("precision", precision, PRECISIONS)
    pretrained = None if weights is None else str(weights)
    try:
        with SkipInitialisation():
            clip, train, val = create_model_and_transforms(
                name, pretrained, precision=precision, device=device or "cpu", **(openclip | {"weights_only": True})
            )
    except ImportError:
        raise
    except Exception as error:  # OpenCLIP, torch and safetensors raise a dozen types
        reason = textwrap.shorten(str(error), 300) or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            # Torch's message advises weights_only=False, which would run the file's code, so it is not shown.
            reason = "the weights are a pickle of more than tensors; none of its code was run"
        raise ValueError(
            f"OpenCLIP can't load {pretrained or name} ({reason}). Download it again, or pass the name of its model."
        ) from None
    return clip.eval().requires_grad_(False), train, as_shown(val)


class SkipInitialisation(TorchFunctionMode):
    """In this thread, random initialisers do nothing; constants such as masks are still written."""

    _skipped = frozenset(
        {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_, nn.init.normal_, nn.init.uniform_}
        | {nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_}
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._skipped:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
