"""CLIP that binds attributes to objects: one small matrix on the text side. Names load on first use."""

from importlib import import_module
from typing import Any

from labclip._version import __version__ as __version__

_HOME = {
    "LABCLIP": "labclip.model",
    "Alignment": "labclip.alignment",
    "Base": "labclip.alignment",
    "create_model_and_transforms": "labclip.io.names",
    "evaluate": "labclip.evaluation",
    "fit": "labclip.training",
    "get_tokenizer": "labclip.io.names",
    "list_pretrained": "labclip.io.names",
}
_PACKAGES = ("analysis", "evaluation", "features", "negatives", "scenes", "training")
__all__ = [*_HOME, *_PACKAGES]
_OPENCLIP = ("add_model_config", "create_model", "create_model_from_pretrained", "list_models", "tokenize")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"labclip.{name}")
    if name in _OPENCLIP:
        raise AttributeError(f"{name!r} is OpenCLIP's, not labclip's. Type: import open_clip; open_clip.{name}(...)")
    if name not in _HOME:
        raise AttributeError(f"module 'labclip' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
