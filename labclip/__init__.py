"""CLIP that binds attributes to objects: one small matrix on the text side. Names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labclip._version import __version__ as __version__

if TYPE_CHECKING:
    from labclip import analysis, evaluation, features, metrics, negatives, scenes, training
    from labclip.alignment import Alignment, compose
    from labclip.analysis import diagnose
    from labclip.base import Base
    from labclip.evaluation.evaluate import evaluate
    from labclip.features import Features, embed
    from labclip.io.folding import fold
    from labclip.io.opening import create_model_and_transforms, get_tokenizer
    from labclip.io.published import list_pretrained
    from labclip.model import LABCLIP
    from labclip.stored import transform
    from labclip.training import fit

__all__ = [
    "LABCLIP", "Alignment", "Base", "Features", "analysis", "compose", "create_model_and_transforms", "diagnose",
    "embed", "evaluate", "evaluation", "features", "fit", "fold", "get_tokenizer", "list_pretrained", "metrics",
    "negatives", "scenes", "training", "transform",
]  # fmt: skip
_MODULE_OF = {
    "Alignment": "alignment", "Base": "base", "Features": "features", "LABCLIP": "model", "compose": "alignment",
    "create_model_and_transforms": "io.opening", "diagnose": "analysis", "embed": "features", "evaluate": "evaluation",
    "fit": "training", "fold": "io.folding", "get_tokenizer": "io.opening", "list_pretrained": "io.published",
    "transform": "stored",
}  # fmt: skip
_OPENCLIP = ("add_model_config", "create_model", "create_model_from_pretrained", "list_models", "tokenize")


def __getattr__(name: str) -> Any:
    if name in _OPENCLIP:
        raise AttributeError(f"{name!r} is OpenCLIP's, not labclip's. Type: import open_clip; open_clip.{name}(...)")
    if name not in __all__:
        raise AttributeError(f"module 'labclip' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f"labclip.{_MODULE_OF.get(name, name)}")
    return getattr(module, name) if name in _MODULE_OF else module


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
