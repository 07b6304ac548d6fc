"""What a feature folder was made from: the base by name and by the hash of its weights, the inputs by theirs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labclip.alignment import FINGERPRINT_COSINE, Base
from labclip.images import image_dtype as image_dtype_of
from labclip.model import LABCLIP
from labclip.openclip import embed_dim, fingerprint_of


def weights_sha256(clip: nn.Module) -> str:
    """SHA-256 of a model's floating-point weights: name, dtype, shape and bytes of each, in the order of their names.

    Args:
        clip: An OpenCLIP model.

    Returns:
        The hash, hexadecimal. Weights in another precision have another.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(clip.state_dict().items()):
        if isinstance(weight, torch.Tensor) and weight.is_floating_point():
            digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identity_of(model: LABCLIP) -> dict[str, Any]:
    """What tells a base and its preprocessing apart from others, as plain JSON values.

    Raises:
        ValueError: If the model has no tokenizer or no preprocess.
    """
    if model.tokenizer is None or model.preprocess is None:
        lacks = "tokenizer" if model.tokenizer is None else "preprocess"
        raise ValueError(f"The model has no {lacks}. Pass LABCLIP(clip, alignment, {lacks}=...).")
    base = model.alignment.base
    config = getattr(model.clip.visual, "preprocess_cfg", None)
    return {
        "base": None if base is None else vars(base),
        "dim": embed_dim(model.clip),
        "weights_sha256": weights_sha256(model.clip),
        "precision": precision_of(model),
        "fingerprint": [float(value) for value in fingerprint_of(model.clip, model.tokenizer)],
        "preprocess": {
            "config": {key: _plain(value) for key, value in config.items()} if isinstance(config, Mapping) else None,
            # A function's address differs from run to run.
            "transform": re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model.preprocess)),
        },
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def precision_of(model: LABCLIP) -> str:
    """The dtype that the image tower computes in, for example "float32"."""
    return str(image_dtype(model)).removeprefix("torch.")


def image_dtype(model: LABCLIP) -> torch.dtype:
    """The dtype that images are to have for the model."""
    return image_dtype_of(model.clip.visual)


def describe_inputs(inputs: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file; a name is as given, where that was relative, and never says where it lay."""
    described = []
    for path in inputs:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(2**20):
                digest.update(data)
        name = path.name if path.is_absolute() else path.as_posix()
        described.append({"name": name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()})
    return described


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """In words the first difference of two runs; names of inputs and the fingerprint's last digits do not count."""
    for key in new:
        if key == "fingerprint":
            continue
        one, other = old.get(key), new[key]
        if key == "inputs":
            one, other = ([entry.get("sha256") for entry in entries or ()] for entries in (one, other))
            if one != other:
                return "its captions are not those of this file now: their SHA-256 differs"
        elif key == "base":
            if not same_base(_base(one), _base(other)):
                return f"its base is {_base(one)}, not {_base(other)}"
        elif one != other:
            return f"its {key} is {one!r}, not {other!r}"
    return None


def _base(recorded: Any) -> Base | None:
    return None if recorded is None else Base(**recorded)


def same_base(one: Base | None, other: Base | None) -> bool:
    """Whether two records mean one base, by OpenCLIP's rules for names; unknown is not contradicted by any."""
    return one is None or other is None or one.matches(other)


def check_same_model(manifest: Mapping[str, Any], folder: Path, base: LABCLIP | Base) -> None:
    """Refuse features of another base.

    The weights' hash tells. A base in another precision has another hash; then the embedding of the fingerprint's
    caption does, which tells text towers apart.

    Raises:
        ValueError: If they are another base's; both are named.
    """
    recorded = _base(manifest["base"])
    given = base if isinstance(base, Base) else base.alignment.base
    remedy = "Embed again with that model, or pass the base they were made with."
    if not same_base(recorded, given):
        raise ValueError(f"The features of {folder} are of {recorded}, not of {given}. {remedy}")
    if isinstance(base, Base):
        return
    found = weights_sha256(base.clip)
    if found == manifest["weights_sha256"]:
        return
    dim = embed_dim(base.clip)
    other_precision = precision_of(base) != manifest["precision"] and dim == manifest["dim"]
    if other_precision and base.tokenizer is not None:
        cosine = float(fingerprint_of(base.clip, base.tokenizer) @ torch.tensor(manifest["fingerprint"]))
        if cosine >= FINGERPRINT_COSINE:
            return
    raise ValueError(
        f"The features of {folder} were made by {recorded or 'a base'} with weights of SHA-256 "
        f"{manifest['weights_sha256'][:16]}..., but {given or 'the base'} given has {found[:16]}.... {remedy}"
    )
