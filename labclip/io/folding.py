"""The matrix merged into a model's own text projection: a plain model, the same numbers, no overhead.

Works on OpenCLIP models, OpenAI's `clip` and transformers' models with a text projection. With the projection
text = hidden @ P, aligned = text @ A.T = hidden @ (P @ A.T); a bias is mapped too.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labclip.alignment import Alignment, checked_alignment
from labclip.files import CARD
from labclip.io import to_onnx, to_openai, to_transformers
from labclip.io.card import folded_card
from labclip.io.folder import replacing
from labclip.io.hub import DEFAULT
from labclip.io.names import form_of, load_alignment, name_of
from labclip.io.saving import config_for, write_folded
from labclip.io.text_sides import (
    check_fits,
    check_merged,
    mark_of,
    new_mark,
    of_openclip,
    of_transformers,
    projection_of,
    sample_features,
    set_mark,
)
from labclip.model import LABCLIP
from labclip.towers.openclip import default_tokenizer, embed_dim

TARGETS = ("same", "openclip", "transformers", "openai", "onnx")


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
    """Merge an alignment into a copy of a model: a plain model that gives the same numbers.

    The product is made in float64 and stored in the dtype of the projection: below float32 that rounding is the
    model's own. The copy is marked with the matrix's hash and strength, so that no second one is merged into it.

    Args:
        model: The base the alignment was fitted on, of OpenCLIP, OpenAI's `clip` or transformers, a pipeline or
            SentenceTransformer of the latter, a `LABCLIP`, an ONNX text tower; or a name that `LABCLIP.from_pretrained`
            takes, a folder of transformers, an ONNX file. It stays as it is.
        alignment: What to merge, or its name; None is the LABCLIP's own. A fitted logit scale is merged as well, by
            strength.
        to: The library whose form to give: "same" is that of the model. From an OpenCLIP model "transformers" gives a
            `CLIPModel`, "openai" a state dict for OpenAI's `clip`, "onnx" the text tower as an `onnx.ModelProto`.
        folder: Where to write it, as that library opens it, with tokenizer and image processor; None writes nothing.
        config: The architecture of an OpenCLIP model that you loaded, for its folder: as `LABCLIP.save_pretrained`
            takes it.
        strength: 0 is the base exactly, 1 the matrix as fitted; None is what the alignment was saved with.
        force: Whether a model that the alignment was not fitted on, or that is folded already, is a warning only.

    Returns:
        A copy of the model, of its class, or in the form of another library; where it had no text projection one is
        added.

    Raises:
        ValueError: If there is no alignment, no text projection is found, or it has another dim; if dim, activation or
            fingerprint show that the alignment was fitted on another model, or the model is folded already; if the
            other library has no form for it.

    Example:
        >>> import labclip
        >>> type(labclip.fold("scenes")).__name__
        'CLIP'
    """
    if to not in TARGETS:
        raise ValueError(f"to is {to!r}. Pass one of {', '.join(TARGETS)}.")
    source = {"model": name_of(model), "alignment": name_of(alignment)}
    if isinstance(model, str | Path):
        model, alignment = _opened(model, alignment, force=force)
    if isinstance(alignment, str | Path):
        alignment = load_alignment(alignment, DEFAULT)
    check = alignment is not None  # what a LABCLIP holds was checked when it was put in
    if isinstance(model, LABCLIP) and alignment is None:
        alignment = model.alignment
    alignment = checked_alignment(alignment)
    alignment = alignment if strength is None else alignment.at(strength)
    if (inside := _clip_inside(model)) is not None:
        if to != "same" or folder is not None:
            raise ValueError(f"A {type(model).__name__} is folded into its own class. Leave out to and folder.")
        folded = _merged(inside, alignment, model.tokenizer, source, force=force)
        if isinstance(model, nn.Module):
            return copy.deepcopy(model, {id(inside): folded})
        model = copy.copy(model)
        model.model = folded
        return model
    if type(model).__name__ == "ModelProto" and to in ("same", "onnx"):
        appended = to_onnx.append(model, alignment, source, guard=partial(_guarded, force=force))
        if folder is not None:
            to_onnx.write(appended, folder)
            _write_card(alignment, "onnx", folder)
        return appended
    if not isinstance(model, nn.Module):
        raise ValueError(f"A {type(model).__name__} is not a model. Pass one of OpenCLIP, OpenAI or transformers.")
    return _fold_module(model, alignment, source, to=to, folder=folder, config=config, check=check, force=force)


def _opened(name: str | Path, alignment: Any, *, force: bool) -> tuple[Any, Any]:
    """What a name means: a model, and the alignment that it does not have itself."""
    form = form_of(name)
    if form is None:
        model = LABCLIP.from_pretrained(name, alignment=None if force else alignment)
    if alignment is None and (form or model.alignment.at(1.0).is_identity):
        raise ValueError(f"{name} has no matrix to merge. Pass alignment=NAME, or a folder or repository for NAME.")
    if form is not None:
        return (to_transformers if form == "transformers" else to_onnx).load(name), alignment
    return model, alignment if force else None


def _fold_module(
    model: nn.Module,
    alignment: Alignment,
    source: Mapping[str, str | None],
    *,
    to: str,
    folder: str | Path | None,
    config: str | Mapping[str, Any] | None,
    check: bool,
    force: bool,
) -> Any:
    """Fold a LABCLIP or a plain module, put it into the form of a library, and write it."""
    clip: Any = model
    tokenizer, known = None, None
    if isinstance(model, LABCLIP):
        clip, tokenizer, known = model.clip, model.tokenizer, model.openclip_config
    kind = "openclip" if of_openclip(clip) else "transformers" if of_transformers(clip) else "openai"
    if kind == "openai" and (held := next(filter(of_transformers, clip.modules()), None)) is not None:
        # Wrappers pass attributes on, so the projection is found, but not what the guard compares.
        raise ValueError(
            f"A {type(clip).__name__} is a wrapper around a {type(held).__name__}. Fold that before it is wrapped, or "
            f"after peft's merge_and_unload()."
        )
    target = kind if to == "same" else to
    if target != kind and kind != "openclip":
        raise ValueError(f"A {type(clip).__name__} can't be put into the form of {to}. Leave out `to`.")
    folded = _merged(clip, alignment, tokenizer, source, check=check, force=force)
    tokenizer = tokenizer or default_tokenizer(alignment.base)
    if target == "transformers":
        folded = folded if kind == target else to_transformers.convert(folded)
        write = partial(to_transformers.write, folded, clip, tokenizer)
    elif target == "onnx":
        folded = to_onnx.export(folded)
        write = partial(to_onnx.write, folded)
    elif target == "openai":
        folded = to_openai.state_of(folded) if to == target else folded
        write = partial(to_openai.write, folded)
    elif folder is not None:
        write = partial(write_folded, folded, config_for(clip, alignment.base, known, config), tokenizer)
    if folder is not None:
        write(folder)
        _write_card(alignment, target, folder)
    return folded


def _write_card(alignment: Alignment, target: str, folder: str | Path) -> None:
    with replacing(folder) as scratch:
        (scratch / CARD).write_text(folded_card(alignment, target), encoding="utf-8", newline="\n")


def _merged(
    clip: nn.Module,
    alignment: Alignment,
    tokenizer: Any,
    source: Mapping[str, str | None],
    *,
    check: bool = True,
    force: bool = False,
) -> Any:
    """A copy of a model with the matrix in its text projection, and the mark of it."""
    folded: Any = copy.deepcopy(clip)
    if alignment.strength == 0.0 or (alignment.is_identity and alignment.logit_scale is None):
        return folded
    owner, name = projection_of(folded)
    if isinstance(getattr(owner, name), nn.Sequential):
        owner = getattr(owner, name)
        name = str(len(owner) - 1)
    dim = _dim_of(folded, getattr(owner, name))
    if dim != alignment.dim:
        raise ValueError(
            f"Alignment has dim {alignment.dim} but the model's text projection gives {dim}. Load one for it."
        )
    if check:
        _guarded(lambda: check_fits(clip, alignment, tokenizer), force)
    before = sample_features(folded) if of_transformers(folded) else None
    _map_projection(owner, name, alignment.matrix.detach().cpu().double())
    if alignment.logit_scale is not None and isinstance(getattr(folded, "logit_scale", None), torch.Tensor):
        fitted = torch.tensor(alignment.logit_scale, dtype=torch.float64)
        _map(folded.logit_scale, lambda own: torch.lerp(own, fitted, alignment.strength))
    if before is not None:
        check_merged(folded, before, alignment)
    set_mark(folded, new_mark(alignment, source, mark_of(clip)))
    return folded


def _dim_of(model: nn.Module, projection: Any) -> int:
    """Length of the embeddings that a projection gives; ValueError if it is neither a linear map nor missing."""
    if isinstance(projection, nn.Linear):
        return projection.out_features
    if isinstance(projection, torch.Tensor):
        return int(projection.shape[1])
    if not isinstance(projection, nn.Identity | None):
        raise ValueError(f"Cannot fold into a text projection of type {type(projection).__name__}.")
    return embed_dim(model)


def _guarded(check: Callable[[], None], force: bool) -> None:
    """Refuse with ValueError what a check refuses; with `force`, warn."""
    try:
        check()
    except ValueError as error:
        if not force:
            raise
        warnings.warn(f"Folded all the same: {error}", stacklevel=5)


def _clip_inside(model: Any) -> Any | None:
    """The model of transformers inside a pipeline or a SentenceTransformer; None for anything else."""
    if isinstance(model, nn.Module):
        if not hasattr(model, "tokenize"):
            return None
        return next((module for module in model.modules() if module is not model and of_transformers(module)), None)
    inside = getattr(model, "model", None)
    return inside if of_transformers(inside) and hasattr(model, "tokenizer") else None


def _map_projection(owner: Any, name: str, matrix: torch.Tensor) -> None:
    """Apply a matrix, float64 [dim, dim] on the CPU, to what a text projection gives; add one where there is none."""
    projection = getattr(owner, name)
    if projection is None or isinstance(projection, nn.Identity):
        setattr(owner, name, _added(matrix, next(owner.parameters()), as_linear=name == "proj"))
    elif isinstance(projection, nn.Linear):
        _map(projection.weight, lambda weight: matrix @ weight)
        if projection.bias is not None:
            _map(projection.bias, lambda bias: matrix @ bias)
    else:
        _map(projection, lambda weight: weight @ matrix.T)


def _added(matrix: torch.Tensor, reference: torch.Tensor, *, as_linear: bool) -> nn.Linear | nn.Parameter:
    """A projection where there was none, of the kind OpenCLIP itself makes there, so that its configuration fits."""
    weight = matrix.to(reference.device, reference.dtype)
    if not as_linear:
        return nn.Parameter(weight.T.contiguous(), requires_grad=reference.requires_grad)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=reference.requires_grad)
    return linear


def _map(parameter: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace a parameter's values by a function of them in float64: on the CPU, since not every device has it."""
    with torch.no_grad():
        parameter.copy_(function(parameter.detach().cpu().double()).to(parameter.dtype))
