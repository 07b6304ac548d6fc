"""The mark on a model that a matrix was merged into, so that no second one is applied on top of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from labclip._version import __version__
from labclip.alignment import Alignment

FOLDED = "labclip_folded"
"""The attribute of a folded model, the key in its config, and the key in its weights' metadata."""


def mark_of(model: Any) -> dict[str, Any] | None:
    """What was merged into a model, or None: an attribute of OpenCLIP's, in the config of transformers', in ONNX's."""
    config = getattr(model, "config", None)
    for holder in (model, config, getattr(config, "text_config", None)):
        if isinstance(mark := getattr(holder, FOLDED, None), dict):
            return mark
    return read_mark({one.key: one.value for one in getattr(model, "metadata_props", ())})  # an ONNX model's


def set_mark(model: Any, mark: dict[str, Any] | None) -> None:
    """Put a mark on a model, where it lasts: on transformers' text side, whose models open alone as well."""
    config = getattr(model, "config", None)
    if mark is not None:
        setattr(model if config is None else getattr(config, "text_config", config), FOLDED, mark)


def read_mark(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The mark in a config, or in safetensors metadata, where it is JSON; None if there is none."""
    mark = (config or {}).get(FOLDED)
    try:
        mark = json.loads(mark) if isinstance(mark, str) else mark
    except ValueError:
        return None
    return mark if isinstance(mark, dict) else None


def as_metadata(mark: dict[str, Any] | None) -> dict[str, str]:
    """The mark as safetensors metadata, which is text only."""
    return {"format": "pt"} | ({} if mark is None else {FOLDED: json.dumps(mark)})


def new_mark(
    alignment: Alignment, sha256: str, source: Mapping[str, Any], onto: dict[str, Any] | None
) -> dict[str, Any]:
    """The record of a fold: matrix, strength, base, the names that were given, and an earlier fold that it lies on."""
    return {
        "matrix_sha256": sha256,
        "strength": alignment.strength,
        "base": None if alignment.base is None else vars(alignment.base),
        **source,
        "labclip_version": __version__,
    } | ({} if onto is None else {"onto": onto})


def described_mark(mark: Mapping[str, Any]) -> str:
    """A mark in words."""
    base, name = mark.get("base"), mark.get("alignment") or f"SHA-256 {str(mark.get('matrix_sha256'))[:12]}..."
    fitted_on = f", fitted on {base.get('model')} ({base.get('pretrained')})" if isinstance(base, dict) else ""
    return f"{name} at strength {mark.get('strength')}{fitted_on}"


def check_unfolded(model: Any, alignment: Alignment) -> None:
    """Refuse with ValueError a model that a matrix was merged into, unless the alignment changes nothing."""
    if (mark := mark_of(model)) is not None and not alignment.is_identity:
        named = f", {mark['model']}" if mark.get("model") else ""
        raise ValueError(
            f"This {type(model).__name__} has a matrix merged into it already ({described_mark(mark)}): another would "
            f"be applied on top of it. Load the model that it was folded from{named}."
        )
