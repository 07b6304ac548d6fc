"""The matrix merged into a model's own text projection: a plain model, the same numbers, no overhead.

Works on OpenCLIP models, OpenAI's `clip` and transformers' CLIP and SigLIP, recognised by where they keep the
projection. With the projection text = hidden @ P, aligned = text @ A.T = hidden @ (P @ A.T); a bias is mapped too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from labclip.alignment import Alignment, checked_alignment
from labclip.model import LABCLIP
from labclip.openclip import check_base

# Where a module keeps its last linear map on the text side, by attribute path, first match wins.
_PLACES = (
    "text_projection",  # OpenCLIP CLIP (Parameter [width, dim]), OpenAI clip, transformers CLIPModel (Linear)
    "text.text_projection",  # OpenCLIP CustomTextCLIP and CoCa
    "text.proj",  # OpenCLIP with a Hugging Face text tower
    "text_model.head",  # transformers SiglipModel
)


def fold(model: nn.Module, alignment: Alignment | None = None) -> nn.Module:
    """Merge an alignment into a copy of a model: a plain model that gives the same numbers.

    The product is made in float64 and stored in the dtype of the projection: below float32 that rounding is the
    model's own, and a warning in the documentation says so.

    Args:
        model: The base the alignment was fitted on, of OpenCLIP, OpenAI's `clip` or transformers (`CLIPModel`,
            `SiglipModel`), or a `LABCLIP`. It stays as it is.
        alignment: What to merge; None is the LABCLIP's own. A fitted logit scale is merged as well, by strength.

    Returns:
        A copy of the model, of the class of the base; where it had no text projection one is added.

    Raises:
        ValueError: If there is no alignment, no text projection is found, or it has another dim; for a LABCLIP, if
            the alignment was fitted on another base.

    Example:
        >>> import labclip
        >>> type(labclip.fold(labclip.LABCLIP.from_pretrained("scenes"))).__name__
        'CLIP'
    """
    if isinstance(model, LABCLIP):
        if alignment is not None:
            check_base(model.clip, alignment, model.tokenizer)
        alignment = alignment or model.alignment
        model = model.clip
    alignment = checked_alignment(alignment)
    folded = copy.deepcopy(model)
    if alignment.strength == 0.0 or (alignment.is_identity and alignment.logit_scale is None):
        return folded
    owner, name = _projection(folded)
    projection = getattr(owner, name)
    if isinstance(projection, nn.Sequential):
        owner, name = projection, str(len(projection) - 1)
        projection = projection[-1]
    matrix = alignment.matrix.detach().cpu().double()
    if projection is None or isinstance(projection, nn.Identity):
        _check(_width(owner), alignment)
        setattr(owner, name, _added(matrix, next(owner.parameters()), as_linear=name == "proj"))
    elif isinstance(projection, nn.Linear):
        _check(projection.out_features, alignment)
        _map(projection.weight, lambda weight: matrix @ weight)
        if projection.bias is not None:
            _map(projection.bias, lambda bias: matrix @ bias)
    elif isinstance(projection, torch.Tensor):
        _check(projection.shape[1], alignment)
        _map(projection, lambda weight: weight @ matrix.T)
    else:
        raise ValueError(f"Cannot fold into a text projection of type {type(projection).__name__}.")
    _fold_logit_scale(folded, alignment)
    return folded


def _projection(model: nn.Module) -> tuple[Any, str]:
    for place in _PLACES:
        *path, name = place.split(".")
        owner: Any = model
        for step in path:
            owner = getattr(owner, step, None)
        if isinstance(owner, nn.Module) and hasattr(owner, name):
            return owner, name
    raise ValueError(
        f"Found no text projection in a {type(model).__name__} (looked for {', '.join(_PLACES)}). "
        f"Wrap it instead: LABCLIP(model, alignment)."
    )


def _width(tower: Any) -> int | None:
    """Length of what a text tower without a projection gives; None where it does not say."""
    if isinstance(norm := getattr(tower, "ln_final", None), nn.LayerNorm):
        return norm.normalized_shape[0]
    return getattr(tower, "output_dim", None)


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


def _check(dim: int | None, alignment: Alignment) -> None:
    if dim is not None and dim != alignment.dim:
        raise ValueError(
            f"Alignment has dim {alignment.dim} but the model's text projection gives {dim}. Load one for it."
        )


def _fold_logit_scale(model: Any, alignment: Alignment) -> None:
    if alignment.logit_scale is None or not isinstance(getattr(model, "logit_scale", None), torch.Tensor):
        return
    fitted = torch.tensor(alignment.logit_scale, dtype=torch.float64)
    _map(model.logit_scale, lambda own: torch.lerp(own, fitted, alignment.strength))
