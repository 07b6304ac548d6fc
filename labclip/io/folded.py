"""The mark on a model that a matrix was merged into, so that no second one is applied on top of it.

It is in the config that a folder is opened with, and in the metadata of an ONNX model, which has no config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from labclip._version import __version__
from labclip.alignment import Alignment
from labclip.base import FOLDED


def mark_of(model: Any) -> dict[str, Any] | None:
    """What was merged into a model, or None: an attribute of OpenCLIP's, in the config of transformers', in ONNX's."""
    config = getattr(model, "config", None)
    for holder in (model, config, getattr(config, "text_config", None)):
        if isinstance(mark := getattr(holder, FOLDED, None), dict):
            return mark
    metadata = {entry.key: entry.value for entry in getattr(model, "metadata_props", ())}
    return json.loads(metadata[FOLDED]) if FOLDED in metadata else None


def set_mark(model: Any, mark: dict[str, Any] | None) -> None:
    """Put a mark on a model, where it lasts: on transformers' text side, whose models open alone as well."""
    config = getattr(model, "config", None)
    if mark is not None:
        setattr(model if config is None else getattr(config, "text_config", config), FOLDED, mark)


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
