"""`Features`: unit-length or raw embeddings of images, captions and their negatives, with whose caption each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labclip.alignment import Base

if TYPE_CHECKING:
    from labclip.model import LABCLIP

_BLOCK = 4096  # captions compared at once
_SAME = 1e-5  # unit-length rows nearer than this in every number are one row


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Embeddings of images and their captions, in memory or memory-mapped: what `embed` returns and `fit` takes.

    Attributes:
        images: The base's image embeddings, [n_images, dim], any scale; from a folder unit-length float32.
        texts: The base's own text embeddings of the captions (no alignment applied), [n_texts, dim].
        image_index: The row of each caption's image, int64 [n_texts].
        negatives: Text embeddings of each caption's hard negatives, [n_texts, k, dim], or None. Where `has_negative` is
            False the row stands for nothing.
        has_negative: Which negatives there are, bool [n_texts, k]; None if `negatives` is.
        negative_images: Image embeddings of what the negatives describe, [n_texts, k, dim], or None.
        has_negative_image: Which of them there are, bool [n_texts, k]; None if `negative_images` is.
        base: The OpenCLIP model they are of, or None where its name is not known.
        fingerprint: The base's own unit-length text embedding of `labclip.alignment.FINGERPRINT_CAPTION`, [dim], which
            tells bases of one name apart; or None.
        folder: Where they lie, or None; `images.jsonl` and `captions.jsonl` there say what each row is.
        manifest: What they were made from and what was left out, plain JSON values; empty for arrays.
    """

    images: Any
    texts: Any
    image_index: Any
    negatives: Any = None
    has_negative: Any = None
    negative_images: Any = None
    has_negative_image: Any = None
    base: Base | None = None
    fingerprint: Any = None
    folder: Path | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path, *, base: LABCLIP | Base | None = None) -> Features:
        """Open a feature folder; see `labclip.features.folder.load`."""
        from labclip.features.folder import load

        return load(folder, base=base)

    @classmethod
    def from_arrays(
        cls, *, images: Any, texts: Any, negatives: Any = None, image_index: Any = None, has_negative: Any = None,
        negative_images: Any = None, base: Base | None = None, fingerprint: Any = None,
    ) -> Features:  # fmt: skip
        """Take embeddings that are already computed.

        Args:
            images: [n_images, dim], floating point, any scale; an array, tensor or memory map.
            texts: [n_texts, dim].
            negatives: [n_texts, dim] or [n_texts, k, dim], or None.
            image_index: The row of each caption's image, whole numbers [n_texts]; None where text i describes image i.
            has_negative: Which negatives there are, bool [n_texts] or [n_texts, k]; None takes a row equal to its
                caption's own as absent.
            negative_images: An image of each negative, the shape of `negatives`; one equal to the caption's own image
                is absent.
            base: The model they are of.
            fingerprint: The base's text embedding that tells bases apart, [dim].
        """
        import torch

        index = np.arange(len(texts)) if image_index is None else image_index
        negatives, negative_images = _three(negatives), _three(negative_images)
        there = None
        if negatives is not None:
            there = _differs(texts, negatives) if has_negative is None else np.asarray(has_negative, dtype=bool)
            there = there.reshape(len(texts), -1)
        images_there = None
        if negative_images is not None:
            rows = images[torch.as_tensor(index)] if isinstance(images, torch.Tensor) else images[np.asarray(index)]
            images_there = _differs(rows, negative_images)
        return cls(
            images, texts, index, negatives, there, negative_images, images_there, base=base, fingerprint=fingerprint
        )

    def __len__(self) -> int:
        """Captions."""
        return len(self.texts)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.images.shape[-1])

    def __repr__(self) -> str:
        k = 0 if self.negatives is None else self.negatives.shape[1]
        of = f", base={str(self.base)!r}" if self.base is not None else ""
        return f"Features({len(self.images):,} images, {len(self):,} texts, {k} negatives each, dim={self.dim}{of})"


def _three(rows: Any) -> Any:
    return rows[:, None] if rows is not None and rows.ndim == 2 else rows


def _differs(own: Any, others: Any) -> Any:
    """Which of [n, k, dim] others differ from their own row [n, dim], both brought to unit length: bool [n, k]."""
    found = []
    for start in range(0, len(own), _BLOCK):
        mine = np.asarray(own[start : start + _BLOCK], dtype=np.float32)[:, None]
        theirs = np.asarray(others[start : start + _BLOCK], dtype=np.float32)
        mine, theirs = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (mine, theirs))
        found.append(np.abs(mine - theirs).max(axis=-1) > _SAME)
    return np.concatenate(found)
