"""What embeddings were made from: the base by name, hash of its weights and fingerprint, the inputs by their hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labclip.alignment import FINGERPRINT_COSINE, Base
from labclip.images import image_dtype
from labclip.model import LABCLIP
from labclip.openclip import embed_dim, fingerprint_of


def weights_sha256(clip: nn.Module) -> str:
    """SHA-256 of a model's floating-point weights: name, dtype, shape, bytes of each, in the order of names."""
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
            "config": json.loads(json.dumps(dict(config))) if isinstance(config, Mapping) else None,
            # A function's address differs from run to run.
            "transform": re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model.preprocess)),
        },
    }


def precision_of(model: LABCLIP) -> str:
    """The dtype that the image tower computes in, for example "float32"."""
    return str(image_dtype(model.clip.visual)).removeprefix("torch.")


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
    """In words the first thing in which two runs differ, or None.

    Names of inputs do not count, nor do the fingerprint's last digits, nor keys that only `old` has.
    """
    for key, value in new.items():
        recorded = old.get(key)
        if key == "inputs":
            if [one["sha256"] for one in recorded or ()] != [one["sha256"] for one in value]:
                return "the captions file has changed since this run started"
        elif key == "base":
            if (base := base_in(old)) is not None and not base.matches(base_in(new)):
                return f"its base is {base}, not {base_in(new)}"
        elif key != "fingerprint" and recorded != value:
            return f"its {key} is {recorded!r}, not {value!r}"
    return None


def base_in(manifest: Mapping[str, Any]) -> Base | None:
    """The base that a manifest records."""
    return None if manifest["base"] is None else Base(**manifest["base"])


def check_same_model(manifest: Mapping[str, Any], folder: Path, base: LABCLIP | Base) -> None:
    """Refuse features of another base than a model, or than its record, of which only the names can be compared.

    The weights' hash decides. In another precision a base has another hash, and of arrays none is known: then the
    fingerprint does, which tells text towers apart.

    Raises:
        ValueError: If they are another base's; both are named. If `base` is neither a model nor a record.
    """
    if not isinstance(base, LABCLIP | Base):
        raise ValueError(
            f"base is a {type(base).__name__}. Pass a model or a Base: LABCLIP.from_pretrained(NAME), or "
            f"labclip.Base(model, pretrained, ...)."
        )
    recorded, model = base_in(manifest), None if isinstance(base, Base) else base
    given = base if isinstance(base, Base) else base.alignment.base
    remedy = "Embed again with that model, or pass the base they were made with."
    if recorded is not None and not recorded.matches(given):
        raise ValueError(f"The features of {folder} are of {recorded}, not of {given}. {remedy}")
    if model is None or (found := weights_sha256(model.clip)) == manifest["weights_sha256"]:
        return
    if manifest["precision"] != precision_of(model) and manifest["dim"] == embed_dim(model.clip):
        known = manifest["fingerprint"]
        if known is None and manifest["weights_sha256"] is None:
            return  # nothing is known that could contradict
        if known is not None and model.tokenizer is not None:
            cosine = float(fingerprint_of(model.clip, model.tokenizer) @ torch.tensor(known))
            if cosine >= FINGERPRINT_COSINE:
                return
    raise ValueError(
        f"The features of {folder} were made by {recorded or 'a base'} with weights of SHA-256 "
        f"{(manifest['weights_sha256'] or 'unknown')[:16]}..., but {given or 'the base'} given has {found[:16]}.... "
        f"{remedy}"
    )
