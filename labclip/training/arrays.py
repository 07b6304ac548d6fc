"""The call of `fit` with arrays, as up to labclip 0.1: kept for one release, with a warning that says what to type."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from labclip.features.features import Features
from labclip.training.combinations import Split

_FIELDS = {
    "image_features": "images", "text_features": "texts", "negative_features": "negatives",
    "image_index": "image_index", "negative_image_features": "negative_images",
    "base": "base", "fingerprint": "fingerprint", "probe": "fingerprint",
}  # fmt: skip
_PARTS = ("images", "texts", "negatives", "image_index")

Fit = TypeVar("Fit", bound=Callable[..., Any])


def takes_arrays(fit: Fit) -> Fit:
    """A `fit` that also takes image, text and negative embeddings in place of features."""

    @functools.wraps(fit)
    def call(*args: Any, **named: Any) -> Any:
        takes_features = isinstance(args[0], Features | str | Path) if args else not _FIELDS.keys() & named.keys()
        if takes_features:
            return fit(*args, **named)
        given = dict(zip(_PARTS[:3], args, strict=False))
        given |= {_FIELDS[name]: named.pop(name) for name in _FIELDS if name in named}
        typed = [_typed(given)]
        validation = named.get("validation")
        if validation is not None and not isinstance(validation, Features | Split | str | Path):
            parts = _parts("validation", validation, _PARTS)
            typed.append(f"validation={_typed(parts)}")
            named["validation"] = Features.from_arrays(**parts)
        if retain := named.pop("retain", None):
            sets = {str(n): _parts(f"retain[{n - 1}]", pair, ("images", "texts", "image_index"))
                    for n, pair in enumerate(retain, 1)}  # fmt: skip
            typed.append(f"retain={{{', '.join(f'{name!r}: {_typed(one)}' for name, one in sets.items())}}}")
            named["retain"] = {name: Features.from_arrays(**one) for name, one in sets.items()}
        warnings.warn(
            f"labclip.fit takes features; arrays in their place will be an error. Type: labclip.fit("
            f"{', '.join(typed)}{', ...' if named.keys() - {'validation', 'retain'} else ''})",
            DeprecationWarning,
            stacklevel=2,
        )
        return fit(Features.from_arrays(**given), *args[3:], **named)

    return call  # type: ignore[return-value]


def _parts(name: str, given: Any, fields: Sequence[str]) -> dict[str, Any]:
    if not isinstance(given, Sequence) or not 2 <= len(given) <= len(fields):
        raise ValueError(f"{name} is not ({', '.join(fields)}). Pass labclip.Features.from_arrays(...).")
    return dict(zip(fields, given, strict=False))


def _typed(parts: dict[str, Any]) -> str:
    return f"labclip.Features.from_arrays({', '.join(f'{name}=...' for name, one in parts.items() if one is not None)})"
