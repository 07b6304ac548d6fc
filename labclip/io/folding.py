"""Merge a matrix into a model's own text projection: a plain model with the same outputs, and no overhead.

A model of OpenCLIP, OpenAI's `clip` or transformers computes text = hidden @ P. Since aligned = text @ A.T =
hidden @ (P @ A.T), its projection becomes P @ A.T; a bias is mapped too. In ONNX, the product is appended.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labclip._version import __version__
from labclip.alignment import Alignment, checked_alignment
from labclip.base import FINGERPRINT_CAPTION
from labclip.checks import check_choice
from labclip.files import CARD, is_alignment_folder
from labclip.io import to_onnx, to_openai, to_transformers
from labclip.io.card import folded_card
from labclip.io.folder import matrix_sha256, replacing
from labclip.io.hub import DEFAULT
from labclip.io.names import form_of, load_alignment, name_of
from labclip.io.saving import saved_config, write_openclip
from labclip.io.text_sides import check_features, is_openclip, is_transformers, mark_of, set_mark
from labclip.model import LABCLIP
from labclip.towers.openclip import check_fits, default_tokenizer, embed_dim, uses_quick_gelu

TARGETS = ("same", "openclip", "transformers", "openai", "onnx")
_FORMS = {"transformers": to_transformers, "openai": to_openai, "onnx": to_onnx}
# Attribute paths of the last linear map of the text side; the first that a model has is used.
_PROJECTION_PATHS = (
    "text_projection",  # OpenCLIP CLIP (Parameter [width, dim]), OpenAI clip, transformers CLIPModel (Linear)
    "text.text_projection",  # OpenCLIP CustomTextCLIP and CoCa
    "text.proj",  # OpenCLIP with a Hugging Face text tower
    "text_model.head",  # transformers SiglipModel
)


def fold(
    model: Any,
    alignment: Alignment | str | Path | None = None,
    *,
    to: str = "same",
    folder: str | Path | None = None,
    config: str | Mapping[str, Any] | None = None,
    strength: float | None = None,
    force: bool = False,
) -> Any:
    """Merge an alignment into a copy of a model: a plain model with the same outputs.

    The product is computed in float64, and rounded to the projection's dtype as the model's other weights are. The copy
    records the matrix's hash and strength, so that no second matrix is merged into it.

    Args:
        model: The base that the alignment was fitted on: a model of OpenCLIP, of OpenAI's `clip` or of transformers, a
            pipeline or SentenceTransformer with a transformers model, a `LABCLIP`, or an ONNX text tower. Also a name
            that `LABCLIP.from_pretrained` takes, a folder of transformers, or an ONNX file. It is not changed.
        alignment: The alignment to merge, or its name; None is the LABCLIP's own. Its fitted logit scale is merged too,
            interpolated by strength.
        to: The library that is to open the result; "same" is the model's own. For an OpenCLIP model, "transformers"
            gives a `CLIPModel`, "openai" a state dict for OpenAI's `clip`, "onnx" the text tower as an
            `onnx.ModelProto`.
        folder: A folder for the result with its tokenizer and image processor, as that library opens it, or None.
        config: The architecture of an OpenCLIP model that you loaded yourself, as `LABCLIP.save_pretrained` needs it.
        strength: 0 is the base exactly, 1 the matrix as fitted; None keeps the alignment's own strength.
        force: Whether to warn instead of raise if the alignment was fitted on another model, or this one is folded.

    Returns:
        A copy of the model, of its class or in the form of another library. If it had no text projection, one is added.

    Raises:
        ValueError: If there is no alignment or no text projection; if dim, activation or fingerprint show that the
            alignment was fitted on another model; if the model is folded already; if the other library can't hold it.

    Example:
        >>> import labclip
        >>> type(labclip.fold("scenes")).__name__
        'CLIP'
    """
    check_choice("to", to, TARGETS)
    if folder is not None and is_alignment_folder(Path(folder)) and form_of(Path(folder)) is None:
        raise ValueError(f"{folder} holds an alignment, which would be overwritten or applied twice. Pass another.")
    names = {"model": name_of(model), "alignment": name_of(alignment)}
    if isinstance(model, str | Path):
        model, alignment = _open_model(model, alignment, force=force)
    if isinstance(alignment, str | Path):
        alignment = load_alignment(alignment, DEFAULT)
    if (wrapped := _wrapped_model(model)) is not None:
        if to != "same" or folder is not None:
            raise ValueError(f"A {type(model).__name__} is folded into its own class. Leave out to and folder.")
        folded = fold(wrapped, alignment, strength=strength, force=force)
        if isinstance(model, nn.Module):
            return copy.deepcopy(model, {id(wrapped): folded})
        model = copy.copy(model)
        model.model = folded
        return model
    clip, tokenizer, openclip_config, check = model, None, None, True
    if isinstance(model, LABCLIP):
        clip, tokenizer, openclip_config = model.clip, model.tokenizer, model.openclip_config
        check = alignment is not None  # the LABCLIP has checked its own
        alignment = alignment if check else model.alignment
    alignment = checked_alignment(alignment)
    alignment = alignment if strength is None else alignment.at(strength)
    tokenizer = tokenizer or default_tokenizer(alignment.base)
    library = _library_of(clip)
    target = library if to == "same" else to
    if target != library and library != "openclip":
        raise ValueError(f"A {type(clip).__name__} can't be put into the form of {to}. Leave out `to`.")
    folded = _merge_copy(clip, library, alignment, names, tokenizer, check=check, force=force)
    if target != library or to == "openai":
        mark = mark_of(folded)
        folded = _FORMS[target].convert(folded)
        if mark is not None and target != "openai":
            set_mark(folded, mark)
    if folder is not None:
        with replacing(folder) as scratch:
            if target == "openclip":
                write_openclip(folded, saved_config(clip, alignment.base, openclip_config, config), tokenizer, scratch)
            elif target == "transformers":
                to_transformers.write(folded, clip, tokenizer, scratch)
            else:
                _FORMS[target].write(folded, scratch)
            (scratch / CARD).write_text(folded_card(alignment, target), encoding="utf-8", newline="\n")
    return folded


def _merge_copy(
    model: Any, library: str, alignment: Alignment, names: dict[str, Any], tokenizer: Any, *, check: bool, force: bool
) -> Any:
    """A copy of a model of `library` with the matrix merged into it and a mark that records it and `names`."""
    folded = copy.deepcopy(model)
    projection = None if library == "onnx" else _find_projection(folded, alignment.dim)
    if alignment.strength == 0.0 or (alignment.is_identity and alignment.logit_scale is None):
        return folded
    if check:
        try:
            _check_fits(model, library, alignment, tokenizer)
        except ValueError as error:
            if not force:
                raise
            warnings.warn(f"Folded in spite of this: {error}", stacklevel=3)
    if projection is None:
        to_onnx.append(folded, alignment)
    else:
        _merge(folded, *projection, alignment)
    before = mark_of(model)
    mark = {
        "matrix_sha256": matrix_sha256(alignment.fitted), "strength": alignment.strength,
        "base": None if alignment.base is None else vars(alignment.base), **names,
        "labclip_version": __version__, **({} if before is None else {"onto": before}),
    }  # fmt: skip
    set_mark(folded, mark)
    return folded


def _open_model(name: str | Path, alignment: Any, *, force: bool) -> tuple[Any, Any]:
    """Open the model that a name means. Also returns the alignment, or None if the model is a LABCLIP that has it."""
    form = form_of(name)
    if form is None:
        model = LABCLIP.from_pretrained(name, alignment=None if force else alignment)
    if alignment is None and (form or model.alignment.at(1.0).is_identity):
        raise ValueError(f"{name} has no matrix to merge. Pass alignment=NAME, or a folder or repository for NAME.")
    if form is not None:
        return _FORMS[form].load(name), alignment
    return model, alignment if force else None


def _wrapped_model(model: Any) -> Any | None:
    """The transformers model in a pipeline or a SentenceTransformer; None for anything else."""
    if isinstance(model, nn.Module):
        return next(filter(is_transformers, model.modules()), None) if hasattr(model, "tokenize") else None
    wrapped = getattr(model, "model", None)
    return wrapped if is_transformers(wrapped) and hasattr(model, "tokenizer") else None


def _library_of(model: Any) -> str:
    """The library of a model, by the name that `fold` uses for its target."""
    if type(model).__name__ == "ModelProto":
        return "onnx"
    if not isinstance(model, nn.Module):
        raise ValueError(f"A {type(model).__name__} is not a model. Pass one of OpenCLIP, OpenAI or transformers.")
    if is_openclip(model):
        return "openclip"
    if is_transformers(model):
        return "transformers"
    if (wrapped := next(filter(is_transformers, model.modules()), None)) is not None:
        # The wrapper forwards attributes, so its projection would be found, but the base could not be checked.
        raise ValueError(
            f"A {type(model).__name__} is a wrapper around a {type(wrapped).__name__}. Fold that before it is wrapped, "
            f"or after peft's merge_and_unload()."
        )
    return "openai"


@torch.no_grad()
def _check_fits(model: Any, library: str, alignment: Alignment, tokenizer: Any) -> None:
    """Raise ValueError if an alignment was not fitted on a model of `library`; see `check_fits`.

    The fingerprint is compared only if a tokenizer is known.
    """
    has_fingerprint, features = alignment.fingerprint is not None, None
    if library == "transformers":
        quick_gelu = to_transformers.quick_gelu_of(model)
        features = to_transformers.caption_features(model) if has_fingerprint else None
    elif library == "onnx":
        quick_gelu = to_onnx.quick_gelu_of(model)
        features = to_onnx.caption_features(model, alignment) if has_fingerprint else None
        if quick_gelu is None and alignment.base is not None:
            gelu = "QuickGELU" if alignment.base.quick_gelu else "GELU"
            warnings.warn(
                f"The ONNX file does not show whether it runs {gelu}, as {alignment.base} does: make sure of it.",
                stacklevel=4,
            )
    else:
        quick_gelu = uses_quick_gelu(model)
        if has_fingerprint and tokenizer is not None:
            features = model.encode_text(tokenizer([FINGERPRINT_CAPTION]).to(next(model.parameters()).device))
    fingerprint = None if features is None else nn.functional.normalize(features[0].float(), dim=0).cpu()
    check_fits(alignment, mark_of(model), quick_gelu, fingerprint)


def _find_projection(model: Any, dim: int) -> tuple[Any, str]:
    """The module whose attribute is the last linear map of the text side, and the attribute's name."""
    is_text_model = is_transformers(model) and model.config.model_type.endswith("text_model")
    paths = [*_PROJECTION_PATHS, "head"] if is_text_model else _PROJECTION_PATHS
    for path in paths:
        *parents, name = path.split(".")
        owner: Any = model
        for parent in parents:
            owner = getattr(owner, parent, None)
        if isinstance(owner, nn.Module) and hasattr(owner, name):
            break
    else:
        raise ValueError(
            f"Found no text projection in a {type(model).__name__} (looked for {', '.join(paths)}). "
            f"Wrap it instead: LABCLIP(model, alignment)."
        )
    projection = getattr(owner, name)
    if isinstance(projection, nn.Sequential):
        owner, name, projection = projection, str(len(projection) - 1), projection[-1]
    if not isinstance(projection, torch.Tensor | nn.Linear | nn.Identity | None):
        raise ValueError(f"Cannot fold into a text projection of type {type(projection).__name__}.")
    model_dim = projection.out_features if isinstance(projection, nn.Linear) else embed_dim(model)
    if model_dim != dim:
        raise ValueError(f"Alignment has dim {dim} but the model's text projection gives {model_dim}. Load one for it.")
    return owner, name


def _merge(model: Any, owner: Any, name: str, alignment: Alignment) -> None:
    """Merge the matrix into the text projection `owner.name` in place, and the fitted logit scale by strength.

    A model of transformers is run before and after: ValueError if its features are not the aligned ones.
    """
    matrix = alignment.matrix.detach().cpu().double()
    before = to_transformers.sample_features(model) if is_transformers(model) else None
    projection = getattr(owner, name)
    if projection is None or isinstance(projection, nn.Identity):
        # Add the kind of projection that OpenCLIP makes from the folder's configuration.
        reference = next(owner.parameters())
        weight = matrix.to(reference.device, reference.dtype)
        if name == "proj":
            projection = nn.Linear(alignment.dim, alignment.dim, bias=False, device="meta")
            projection.weight = nn.Parameter(weight, requires_grad=reference.requires_grad)
        else:
            projection = nn.Parameter(weight.T.contiguous(), requires_grad=reference.requires_grad)
        setattr(owner, name, projection)
    elif isinstance(projection, nn.Linear):
        _map(projection.weight, lambda weight: matrix @ weight)
        if projection.bias is not None:
            _map(projection.bias, lambda bias: matrix @ bias)
    else:
        _map(projection, lambda weight: weight @ matrix.T)
    if alignment.logit_scale is not None and isinstance(getattr(model, "logit_scale", None), torch.Tensor):
        fitted_scale = torch.tensor(alignment.logit_scale, dtype=torch.float64)
        _map(model.logit_scale, lambda base_scale: torch.lerp(base_scale, fitted_scale, alignment.strength))
    if before is not None:
        check_features(
            to_transformers.sample_features(model), before @ matrix.T,
            f"With the matrix merged into it, this {type(model).__name__} does not give the aligned features: its text "
            f"projection is not its last step",
            "Apply the alignment to its features instead: alignment(text_features).",
            dtype=next(model.parameters()).dtype,
        )  # fmt: skip


def _map(parameter: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace a parameter's values by a function of them, in float64 on the CPU, as not every device has float64."""
    if not parameter.is_floating_point():
        raise ValueError(f"The text projection has weights of {parameter.dtype}. Fold before you quantise.")
    with torch.no_grad():
        parameter.copy_(function(parameter.detach().cpu().double()).to(parameter.dtype))
