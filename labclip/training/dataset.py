"""What one fit reads: features whose parts were found to belong together, and the captions of one side of a split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from labclip.features.features import Features
from labclip.training.rows import Rows


@dataclass(frozen=True)
class Data:
    """Features, read a batch at a time.

    Attributes:
        images: [n_images, dim].
        texts: [n_texts, dim].
        negatives: [n_texts, k, dim], or None.
        image_index: The image of each caption, int64 [n_texts].
        captions: The captions this part holds, int64; others of the arrays belong to another part.
        valid: Which negatives there are, bool [n_texts, k]; None without negatives.
        negative_images: An image of each negative, the shape of `negatives`, or None.
        paired: Which of these there are, bool [n_texts, k]; None without them.
    """

    images: Rows
    texts: Rows
    negatives: Rows | None
    image_index: torch.Tensor
    captions: torch.Tensor
    valid: torch.Tensor | None = None
    negative_images: Rows | None = None
    paired: torch.Tensor | None = None

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.images.shape[-1]

    @property
    def k(self) -> int:
        """Negatives a caption has."""
        return 0 if self.negatives is None else self.negatives.shape[1]

    def part(self, captions: torch.Tensor) -> Data:
        """The same arrays with other captions."""
        return replace(self, captions=captions)

    def images_used(self) -> torch.Tensor:
        """The images of this part's captions, int64, in order."""
        return torch.unique(self.image_index[self.captions])

    def each(self) -> Iterator[Rows]:
        """The arrays there are."""
        yield from (
            rows for rows in (self.images, self.texts, self.negatives, self.negative_images) if rows is not None
        )

    def negative(self, captions: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """One negative of each caption, unit-length [n, dim]; the caption itself where there is none.

        Args:
            captions: Row numbers, int64 [n].
            which: Which of the k, int64 [n].
        """
        assert self.negatives is not None
        assert self.valid is not None
        return _taken(self.negatives, self.valid, self.texts, captions, captions, which)

    def negative_image(self, captions: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """The image of one negative of each caption, unit-length [n, dim]; the caption's own where there is none."""
        assert self.negative_images is not None
        assert self.paired is not None
        own = self.image_index[captions]
        return _taken(self.negative_images, self.paired, self.images, own, captions, which)


def _taken(
    rows: Rows, present: torch.Tensor, others: Rows, own: torch.Tensor, captions: torch.Tensor, which: torch.Tensor
) -> torch.Tensor:
    """Rows of captions and k; `others` at `own` where they are not present."""
    found = rows.take(torch.stack([captions, which], dim=1))
    absent = (~present[captions, which]).nonzero().flatten()
    if len(absent):
        found[absent.to(found.device)] = others.take(own[absent])
    return found


def read_data(features: Features, name: str = "features", *, digest: bool = False, hashes: bool = False) -> Data:
    """Check features, and read them all once.

    Args:
        features: Embeddings of any scale.
        name: What messages call them.
        digest: Whether to set the digests of the arrays.
        hashes: Whether to hash the images, to find equal ones.

    Returns:
        All captions.

    Raises:
        ValueError: If shapes or dims do not belong together, an index is out of range, or a row is not finite or zero.
    """
    images, texts = Rows(f"{name}.images", features.images), Rows(f"{name}.texts", features.texts)
    negatives, valid = _with_flags(features, name, "negatives", "has_negative", texts)
    others, paired = _with_flags(features, name, "negative_images", "has_negative_image", texts)
    if others is not None and (negatives is None or others.shape[:2] != negatives.shape[:2]):
        shape = "no negatives" if negatives is None else f"negatives of shape {list(negatives.shape)}"
        raise ValueError(f"{others.name} has shape {list(others.shape)} for {shape}. Pass one image for each negative.")
    for rows in (texts, negatives, others):
        if rows is not None and rows.shape[-1] != images.shape[-1]:
            raise ValueError(
                f"{images.name} has dim {images.shape[-1]} but {rows.name} has dim {rows.shape[-1]}. Embed both with "
                f"one model."
            )
    index = _index(features.image_index, f"{name}.image_index", len(texts), len(images))
    images.check(digest=digest, hashes=hashes)
    for part, present in ((texts, None), (negatives, valid), (others, paired)):
        if part is not None:
            part.check(present, digest=digest)
    return Data(images, texts, negatives, index, torch.arange(len(texts)), valid, others, paired)


def _with_flags(
    features: Features, name: str, field: str, flags: str, texts: Rows
) -> tuple[Rows | None, torch.Tensor | None]:
    """Embeddings of negatives, [n, k, dim], and which there are, bool [n, k]."""
    values, present = getattr(features, field), getattr(features, flags)
    if values is None:
        return None, None
    rows = Rows(f"{name}.{field}", values, axes=3)
    if len(rows) != len(texts):
        raise ValueError(f"{rows.name} has {len(rows)} rows for {len(texts)} captions. Pass one row for each caption.")
    found = _array(present)
    if found.dtype != bool or found.shape != rows.shape[:2]:
        raise ValueError(
            f"{name}.{flags} has dtype {found.dtype} and shape {list(found.shape)}. Pass bool {list(rows.shape[:2])}, "
            f"whether there is such a negative; labclip.Features.from_arrays fills it in."
        )
    return rows, torch.from_numpy(found)


def _index(values: Any, name: str, texts: int, images: int) -> torch.Tensor:
    found = _array(values)
    if not np.issubdtype(found.dtype, np.integer) or found.shape != (texts,):
        raise ValueError(
            f"{name} has dtype {found.dtype} and shape {list(found.shape)}. Pass {texts} whole numbers, the image's "
            f"row for each caption."
        )
    index = torch.from_numpy(found.astype(np.int64))
    if len(bad := ((index < 0) | (index >= images)).nonzero()):
        row = int(bad[0])
        raise ValueError(f"{name}[{row}] is {int(index[row])}, but there are {images} images: 0 to {images - 1}.")
    return index


def _array(values: Any) -> Any:
    """A copy as an array; one of another dtype where the values have no common shape."""
    try:
        return np.array(values.numpy(force=True) if isinstance(values, torch.Tensor) else values)
    except ValueError:
        return np.array(["ragged"])
