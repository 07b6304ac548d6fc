"""Features as a fit reads them: checked once, then a batch at a time, from memory or from memory-mapped files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from labclip.features.features import Features
from labclip.metrics import UNIT
from labclip.training.duplicates import hashes_of

_BLOCK_BYTES = 64 << 20
_TINY = 1e-12  # shorter rows can't be brought to unit length


class Rows:
    """Embeddings, [n, dim] or [n, k, dim] of any scale, read as unit-length float32 when they are taken.

    Attributes:
        name: How messages call them.
        present: Which rows stand for something, bool [n] or [n, k].
        digest: Tells these embeddings from others; empty unless `check` was asked for it.
        hashes: Of each row, by which equal ones are found, int64 [n or n * k, 3]; empty unless `check` was asked for
            them.
    """

    def __init__(self, name: str, values: Any, present: NDArray[np.bool_] | None = None) -> None:
        self.name = name
        self.shape = tuple(int(size) for size in values.shape)
        self.present = torch.from_numpy(np.ones(self.shape[:-1], dtype=bool) if present is None else np.array(present))
        self.digest = ""
        self.hashes = torch.empty(0, 3, dtype=torch.int64)
        self._values: Any = values.detach() if isinstance(values, torch.Tensor) else values
        self._device = torch.device("cpu")
        self._scale = False

    def __len__(self) -> int:
        return self.shape[0]

    def check(self, *, digest: bool = False, hashes: bool = False) -> None:
        """Read everything once, block by block; a present row that is not finite or all zeros is an error."""
        block = max(1, _BLOCK_BYTES // (int(np.prod(self.shape[1:])) * 4))
        found, scale, parts = hashlib.blake2b(repr(self.shape).encode(), digest_size=16), False, [self.hashes]
        for index in torch.split(torch.arange(len(self)), block):
            rows = self.take(index)
            length = torch.where(self.present[index], rows.norm(dim=-1), 1.0)
            for bad, why in ((~torch.isfinite(length), "is not finite"), (length < _TINY, "is all zeros")):
                if bool(bad.any()):
                    row = int(index[bad.nonzero()[0, 0]])
                    raise ValueError(f"{self.name}: row {row} {why}. Embed it again, or leave it out.")
            scale |= bool(((length - 1).abs() > UNIT).any())
            if digest:
                found.update(rows.contiguous().view(-1).view(torch.uint8).numpy().data)
            if hashes:
                parts.append(hashes_of(rows.flatten(0, -2)))
        self.digest = found.hexdigest() if digest else ""
        self.hashes, self._scale = torch.cat(parts), scale

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Rows, unit-length once `check` has seen all of them, float32 [len(index), ...], on the device they are on.

        Args:
            index: Row numbers, int64, or pairs of row and k, [n, 2], for embeddings of three axes.
        """
        where = index.unbind(1) if index.ndim == 2 else (index,)
        if isinstance(self._values, torch.Tensor):
            rows = self._values[tuple(part.to(self._values.device) for part in where)].to(self._device, torch.float32)
        else:
            rows = torch.from_numpy(np.asarray(self._values[tuple(part.numpy() for part in where)], dtype=np.float32))
        return F.normalize(rows, dim=-1) if self._scale else rows

    def move(self, device: torch.device) -> None:
        """Hold all rows on a device from now on."""
        values = self._values
        values = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values, dtype=np.float32))
        self._values, self._device = values.to(device, torch.float32), device


@dataclass(frozen=True)
class Data:
    """Features whose parts were found to belong together, and the captions of one side of a split.

    Attributes:
        images: [n_images, dim].
        texts: [n_texts, dim].
        image_index: The image of each caption, int64 [n_texts].
        captions: The captions this part holds, int64; others of the arrays belong to another part.
        negatives: [n_texts, k, dim], or None.
        negative_images: An image of each negative, the shape of `negatives`, or None.
    """

    images: Rows
    texts: Rows
    image_index: torch.Tensor
    captions: torch.Tensor
    negatives: Rows | None = None
    negative_images: Rows | None = None

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.images.shape[-1]

    @property
    def k(self) -> int:
        """Negatives a caption has."""
        return 0 if self.negatives is None else self.negatives.shape[1]

    @property
    def images_used(self) -> torch.Tensor:
        """The images of this part's captions, int64, in order."""
        return torch.unique(self.image_index[self.captions])

    @property
    def arrays(self) -> list[Rows]:
        """The arrays there are."""
        every = (self.images, self.texts, self.negatives, self.negative_images)
        return [rows for rows in every if rows is not None]

    def negative(self, captions: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Negative `which` [n] of each caption [n], unit-length [n, dim]; the caption itself where there is none."""
        return _taken(self.negatives, captions, which, self.texts, captions)

    def negative_image(self, captions: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """The image of such a negative, unit-length [n, dim]; the caption's own where there is none."""
        return _taken(self.negative_images, captions, which, self.images, self.image_index[captions])


def _taken(
    rows: Rows | None, captions: torch.Tensor, which: torch.Tensor, others: Rows, own: torch.Tensor
) -> torch.Tensor:
    """Rows of captions and k; `others` at `own` where they are not present."""
    assert rows is not None
    found = rows.take(torch.stack([captions, which], dim=1))
    absent = (~rows.present[captions, which]).nonzero().flatten()
    if len(absent):
        found[absent.to(found.device)] = others.take(own[absent])
    return found


def read_data(features: Features, name: str = "features", *, digest: bool = False, hashes: bool = False) -> Data:
    """Read all embeddings once, and refuse rows that are not finite or all zeros.

    Args:
        features: Embeddings of any scale.
        name: What messages call them.
        digest: Whether to set the digests of the arrays.
        hashes: Whether to hash all rows, to find equal ones.
    """
    images, texts = Rows(f"{name}.images", features.images), Rows(f"{name}.texts", features.texts)
    negatives = others = None
    if features.negatives is not None:
        negatives = Rows(f"{name}.negatives", features.negatives, features.has_negative)
    if features.negative_images is not None:
        others = Rows(f"{name}.negative_images", features.negative_images, features.has_negative_image)
    index = torch.from_numpy(np.array(features.image_index))
    data = Data(images, texts, index, torch.arange(len(texts)), negatives, others)
    for rows in data.arrays:
        rows.check(digest=digest, hashes=hashes)
    return data
