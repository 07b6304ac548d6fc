"""Which base embeddings come from: its name, the hash of its weights, and the fingerprint of its text tower."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labclip.base import FINGERPRINT_COSINE, Base
from labclip.model import LABCLIP
from labclip.towers.images import image_dtype
from labclip.towers.openclip import embed_dim, fingerprint_of


def weights_sha256(clip: nn.Module) -> str:
    """SHA-256 of a model's floating-point weights, in the order of names: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name, weight in sorted(clip.state_dict().items()):
        if isinstance(weight, torch.Tensor) and weight.is_floating_point():
            digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Origin:
    """The model that made some embeddings. A value of None is unknown and differs from nothing."""

    base: Base | None
    dim: int
    weights_sha256: str | None = None
    precision: str | None = None  # the dtype that the image tower computes in, for example "float32"
    fingerprint: Any = None  # the base's own text embedding of `FINGERPRINT_CAPTION`, [dim], any scale

    @classmethod
    def of(cls, model: LABCLIP, *, weights: bool = True) -> Origin:
        """The origin of embeddings made by `model`. `weights=False` skips their hash, which takes a second per GB."""
        fingerprint = None if model.tokenizer is None else fingerprint_of(model.clip, model.tokenizer)
        sha256 = weights_sha256(model.clip) if weights else None
        precision = str(image_dtype(model.clip.visual)).removeprefix("torch.")
        return cls(model.alignment.base, embed_dim(model.clip), sha256, precision, fingerprint)

    def differs(self, other: Origin) -> str | None:
        """Why the two are not the same model, as the end of a message; None if they can be.

        If the names agree, the hash of the weights decides. A model in another precision has another hash; then the
        fingerprint of the text tower decides.
        """
        if self.dim != other.dim:
            return f"dim {self.dim} is not {other.dim}"
        if self.base is not None and not self.base.matches(other.base):
            return "another base"
        hashes = {self.weights_sha256, other.weights_sha256}
        if None not in hashes and (len(hashes) == 1 or self.precision == other.precision):
            return None if len(hashes) == 1 else "other weights"
        if self.fingerprint is None or other.fingerprint is None:
            return None if None in hashes else "other weights"
        first, second = (torch.as_tensor(origin.fingerprint, dtype=torch.float32).cpu() for origin in (self, other))
        cosine = float(nn.functional.cosine_similarity(first, second, dim=0))
        if cosine >= FINGERPRINT_COSINE:
            return None
        return f"other weights: the fingerprints have cosine {cosine:.4f}, below {FINGERPRINT_COSINE}"

    def __str__(self) -> str:
        weights = f" with weights {self.weights_sha256[:12]}..." if self.weights_sha256 else ""
        return f"{self.base or 'a base without a name'}{weights}"


def identity_of(model: LABCLIP) -> dict[str, Any]:
    """The origin of a model's embeddings and its image preprocessing, as JSON values."""
    origin = Origin.of(model)
    config = getattr(model.clip.visual, "preprocess_cfg", None)
    return {
        **vars(origin),
        "base": None if origin.base is None else vars(origin.base),
        "fingerprint": None if origin.fingerprint is None else origin.fingerprint.tolist(),
        "preprocess": {
            "config": json.loads(json.dumps(dict(config))) if isinstance(config, Mapping) else None,
            # The memory address of a function differs from run to run.
            "transform": re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model.preprocess)),
        },
    }
