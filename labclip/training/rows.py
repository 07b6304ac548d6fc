"""Features as a fit reads them: checked once, then a batch at a time, from memory or from memory-mapped files."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from labclip.data.items import Kind
from labclip.features.features import Features, block_of
from labclip.metrics import UNIT

_BLOCK = 32_768  # rows at a time
_TINY = 1e-12  # shorter rows can't be brought to unit length
_HASHES, _DIRECTIONS = 3, 8  # hashes a row, random directions a hash
_CELL = 0.02  # along a direction unit-length rows spread by 1; a copy in float16 moves by some 3e-4
_SAME = 1e-3  # unit-length rows nearer than this, in length of their difference, are one
_COMPARED = 4096  # rows at a time


class Rows:
    """Embeddings, [n, dim], read as unit-length float32 when they are taken.

    They are of one array or of several, one below the other, so that a row number tells a row of any of them. A row
    that counts, bool [n * k], and is not finite or all zeros, is an error.

    Args:
        name: How messages call the array.
        values: [n, dim], or [n, k, dim] whose rows are [n * k, dim]; any scale.
        there: Which rows count; by default all.
    """

    def __init__(self, name: str, values: Any, there: torch.Tensor | None = None) -> None:
        self._arrays = [values.reshape(-1, values.shape[-1]) if values.ndim == 3 else values]
        self._unit, self._device = [True], torch.device("cpu")
        longest = 0.0
        for index in torch.split(torch.arange(len(self)), _BLOCK):
            length = self.take(index).norm(dim=-1)
            if there is not None:
                length = length.where(there[index], 1.0)
            for bad, why in ((~torch.isfinite(length), "is not finite"), (length < _TINY, "is all zeros")):
                if bool(bad.any()):
                    row = int(index[bad][0]) * len(values) // len(self)
                    raise ValueError(f"{name}: row {row} {why}. Embed it again, or leave it out.")
            longest = max(longest, float((length - 1).abs().max()))
        self._unit = [longest <= UNIT]

    def __add__(self, below: Rows) -> Rows:
        rows = copy.copy(self)
        vars(rows).pop("same", None)
        rows._arrays, rows._unit = self._arrays + below._arrays, self._unit + below._unit
        return rows

    def __len__(self) -> int:
        return sum(map(len, self._arrays))

    @property
    def dim(self) -> int:
        """The embedding dimension."""
        return int(self._arrays[0].shape[-1])

    @cached_property
    def same(self) -> torch.Tensor:
        """A number for each row, the same for rows that are the same, int64 [n]: that of the first of them."""
        return _first_same(self.take, len(self))

    def digest(self) -> bytes:
        """Tells these rows from others."""
        digest = hashlib.blake2b(str(len(self)).encode())
        for index in torch.split(torch.arange(len(self)), _BLOCK):
            digest.update(self.take(index).contiguous().numpy().data)
        return digest.digest()

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers, int64 [m]: unit-length float32 [m, dim], on the device they are held on."""
        parts, places, start = [], [], 0
        for array, unit in zip(self._arrays, self._unit, strict=True):
            places.append(((index >= start) & (index < start + len(array))).nonzero().flatten())
            rows = block_of(array, (index[places[-1]] - start).numpy()).to(self._device)
            parts.append(rows if unit else F.normalize(rows, dim=-1))
            start += len(array)
        if len(parts) == 1:
            return parts[0]
        rows, order = torch.cat(parts), torch.cat(places)
        return rows if bool((order[1:] > order[:-1]).all()) else rows[order.argsort().to(rows.device)]

    def move(self, device: torch.device) -> None:
        """Hold all rows on a device from now on."""
        self._arrays = [block_of(array, slice(None)).to(device) for array in self._arrays]
        self._device = device


@dataclass(frozen=True)
class Data:
    """Features that were checked, and the captions of one side of a split, parts and keywords among them.

    Attributes:
        images: Embeddings of the images, then an image of each negative, k a caption, where there are any.
        texts: Embeddings of the captions, n_texts of them, then k negatives of each.
        image_index: The image of each caption, int64 [n_texts].
        has_negative: Which negatives there are, bool [n_texts, k]; k is 0 where there are none.
        has_negative_image: Which of those have an image of their own, bool [n_texts, k].
        captions: The captions of this side, int64; others belong to another side.
        kind: The `Kind` of each text, int8 [n_texts].
    """

    images: Rows
    texts: Rows
    image_index: torch.Tensor
    has_negative: torch.Tensor
    has_negative_image: torch.Tensor
    captions: torch.Tensor
    kind: torch.Tensor

    def only(self, kind: Kind) -> Data:
        """This side's texts of one kind."""
        return replace(self, captions=self.captions[self.kind[self.captions] == kind])

    @property
    def words(self) -> str:
        """In words what this side has: "900 captions, 400 parts, 300 lists of keywords of 300 images"."""
        counts = torch.bincount(self.kind[self.captions], minlength=len(Kind)).tolist()
        names = ("captions", "parts", "lists of keywords")
        texts = ", ".join(f"{count:,} {name}" for count, name in zip(counts, names, strict=True) if count)
        return f"{texts} of {len(self.images_used):,} images"

    @property
    def k(self) -> int:
        """Negatives a caption has."""
        return self.has_negative.shape[1]

    @property
    def images_used(self) -> torch.Tensor:
        """The images of this side's captions, int64, in order."""
        return torch.unique(self.image_index[self.captions])

    @property
    def n_with_negative(self) -> int:
        """This side's captions that have a negative, on which binding is measured."""
        return int(self.has_negative[self.captions].any(dim=1).sum())

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """This side in memory: its images [n, dim], its captions [m, dim], and the image of each, int64 [m]."""
        index = torch.unique(self.image_index[self.captions], return_inverse=True)[1]
        return self.images.take(self.images_used).cpu(), self.texts.take(self.captions).cpu(), index

    @cached_property
    def negative_rows(self) -> torch.Tensor:
        """The row in `texts` of each negative, int64 [n_texts, k]; the caption's own where there is none."""
        own = torch.arange(len(self.image_index))
        return _below(own, self.has_negative, len(own))

    @cached_property
    def negative_image_rows(self) -> torch.Tensor:
        """The row in `images` of each negative's image, int64 [n_texts, k]; the caption's own where there is none."""
        return _below(self.image_index, self.has_negative_image, len(self.images) - self.has_negative.numel())


def _below(own: torch.Tensor, there: torch.Tensor, start: int) -> torch.Tensor:
    """Row numbers from `start` on, [n, k], where something is there, else those of [n]."""
    return torch.where(there, start + torch.arange(there.numel()).view(there.shape), own[:, None])


def read_data(features: Features, name: str = "features") -> Data:
    """Read all embeddings once, and refuse rows that are not finite or all zeros; `name` is what messages call them."""
    images, texts = Rows(f"{name}.images", features.images), Rows(f"{name}.texts", features.texts)
    has_negative = has_image = torch.zeros(len(texts), 0, dtype=torch.bool)
    if features.negatives is not None:
        has_negative = torch.from_numpy(np.array(features.has_negative))
        has_image = torch.zeros_like(has_negative)
        texts += Rows(f"{name}.negatives", features.negatives, has_negative.flatten())
    if features.negative_images is not None:
        has_image = has_negative & torch.from_numpy(np.array(features.has_negative_image))
        images += Rows(f"{name}.negative_images", features.negative_images, has_image.flatten())
    index = torch.from_numpy(np.array(features.image_index))
    kind = torch.from_numpy(np.array(features.kinds))
    return Data(images, texts, index, has_negative, has_image, torch.arange(len(index)), kind)


def same_images(images: torch.Tensor) -> torch.Tensor:
    """For each image the first row with the same embedding, int64 [n].

    Args:
        images: Embeddings, float32 [n, dim], any scale.
    """
    return _first_same(lambda rows: F.normalize(images[rows], dim=-1), len(images))


def _first_same(take: Callable[[torch.Tensor], torch.Tensor], n: int) -> torch.Tensor:
    """For each of n rows the first row that is the same, its own where there is none before it: int64 [n].

    `take` gives unit-length rows of some numbers, float32 [m, dim]. They are compared where they share a hash, of the
    row's places along random directions, rounded to cells: a copy in float16 falls into another cell for one hash in
    ten, so for all three in one row of a thousand.
    """
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(take(torch.arange(1)).shape[1], _HASHES * _DIRECTIONS, generator=draw)
    mixing = torch.randint(-(2**62), 2**62, (_HASHES * _DIRECTIONS,), generator=draw) | 1
    first, hashes = torch.arange(n), []
    for rows in torch.split(first, _COMPARED):
        cells = (take(rows).cpu() @ directions / _CELL).floor().long()
        hashes.append((cells * mixing).view(len(rows), _HASHES, _DIRECTIONS).sum(dim=-1))
    for column in torch.cat(hashes).T:
        order = column.argsort(stable=True)
        begins = torch.ones(n, dtype=torch.bool)
        begins[1:] = column[order][1:] != column[order][:-1]
        heads = order[begins][begins.cumsum(0) - 1]
        asked = ~begins & (first[order] != first[heads])  # an earlier hash may have told
        for rows, head in zip(order[asked].split(_COMPARED), heads[asked].split(_COMPARED), strict=True):
            same = ((take(rows) - take(head)).norm(dim=-1) < _SAME).cpu()
            first[rows[same]] = torch.minimum(first[rows[same]], head[same])
    while not torch.equal(first, first[first]):
        first = first[first]
    return first
