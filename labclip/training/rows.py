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

_BLOCK = 32_768  # rows read at a time
_TINY = 1e-12  # rows shorter than this can't be normalised
_HASHES, _DIRECTIONS = 3, 8  # hashes per row, random directions per hash
_CELL = 0.02  # width of a cell; along a direction unit-length rows spread by 1, a copy in float16 moves by about 3e-4
_EQUAL = 1e-3  # unit-length rows are equal if their difference is shorter than this
_COMPARED = 4096  # rows compared at a time


class Rows:
    """Embeddings, [n, dim], that are read as unit-length float32 when they are taken.

    They are one array, or several joined with `+`; row numbers then run on from one array to the next.

    Args:
        name: Name of the array in messages.
        values: [n, dim], or [n, k, dim], whose rows are [n * k, dim]; any scale.
        present: Which rows are used, bool [n * k]; by default all. Only these must be finite and not all zeros.
    """

    def __init__(self, name: str, values: Any, present: torch.Tensor | None = None) -> None:
        self._arrays = [values.reshape(-1, values.shape[-1]) if values.ndim == 3 else values]
        self._unit, self._device = [True], torch.device("cpu")
        largest_error = 0.0
        for index in torch.split(torch.arange(len(self)), _BLOCK):
            length = self.take(index).norm(dim=-1)
            if present is not None:
                length = length.where(present[index], 1.0)
            for invalid, reason in ((~torch.isfinite(length), "is not finite"), (length < _TINY, "is all zeros")):
                if bool(invalid.any()):
                    row = int(index[invalid][0]) * len(values) // len(self)
                    raise ValueError(f"{name}: row {row} {reason}. Embed it again, or leave it out.")
            largest_error = max(largest_error, float((length - 1).abs().max()))
        self._unit = [largest_error <= UNIT]

    def __add__(self, below: Rows) -> Rows:
        rows = copy.copy(self)
        vars(rows).pop("ids", None)
        rows._arrays, rows._unit = self._arrays + below._arrays, self._unit + below._unit
        return rows

    def __len__(self) -> int:
        return sum(map(len, self._arrays))

    @property
    def dim(self) -> int:
        """The embedding dimension."""
        return int(self._arrays[0].shape[-1])

    @cached_property
    def ids(self) -> torch.Tensor:
        """An id for each row, int64 [n]: the number of the first row that equals it."""
        return _first_equal(self.take, len(self))

    def digest(self) -> bytes:
        """A hash of all rows."""
        digest = hashlib.blake2b(str(len(self)).encode())
        for index in torch.split(torch.arange(len(self)), _BLOCK):
            digest.update(self.take(index).contiguous().numpy().data)
        return digest.digest()

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """The rows with these numbers, int64 [m], as unit-length float32 [m, dim], on the device that holds them."""
        parts, positions, start = [], [], 0
        for array, unit in zip(self._arrays, self._unit, strict=True):
            positions.append(((index >= start) & (index < start + len(array))).nonzero().flatten())
            rows = block_of(array, (index[positions[-1]] - start).numpy()).to(self._device)
            parts.append(rows if unit else F.normalize(rows, dim=-1))
            start += len(array)
        if len(parts) == 1:
            return parts[0]
        rows, order = torch.cat(parts), torch.cat(positions)
        return rows if bool((order[1:] > order[:-1]).all()) else rows[order.argsort().to(rows.device)]

    def move(self, device: torch.device) -> None:
        """Copy all rows to a device and take them from there."""
        self._arrays = [block_of(array, slice(None)).to(device) for array in self._arrays]
        self._device = device


@dataclass(frozen=True)
class Data:
    """Checked features, and the captions on one side of a split. Parts and keywords are among the captions."""

    images: Rows  # the images, followed by those of the negatives, k per caption, if there are any
    texts: Rows  # the captions, n_texts of them, followed by k negatives for each
    image_index: torch.Tensor  # the image of each caption, int64 [n_texts]
    has_negative: torch.Tensor  # which negatives are present, bool [n_texts, k]; k is 0 if there are none
    has_negative_image: torch.Tensor  # which of these have an image of their own, bool [n_texts, k]
    captions: torch.Tensor  # rows of the captions on this side, int64; other rows belong to the other side
    kind: torch.Tensor  # the `Kind` of each text, int8 [n_texts]

    def only(self, kind: Kind) -> Data:
        """The same data with only the captions of one kind."""
        return replace(self, captions=self.captions[self.kind[self.captions] == kind])

    @property
    def words(self) -> str:
        """The size in words, for example "900 captions, 400 parts, 300 lists of keywords of 300 images"."""
        counts = torch.bincount(self.kind[self.captions], minlength=len(Kind)).tolist()
        names = ("captions", "parts", "lists of keywords")
        texts = ", ".join(f"{count:,} {name}" for count, name in zip(counts, names, strict=True) if count)
        return f"{texts} of {len(self.images_used):,} images"

    @property
    def k(self) -> int:
        """The number of negatives per caption, absent ones included."""
        return self.has_negative.shape[1]

    @property
    def images_used(self) -> torch.Tensor:
        """Rows of the images of this side's captions, int64, sorted."""
        return torch.unique(self.image_index[self.captions])

    @property
    def n_with_negative(self) -> int:
        """The number of this side's captions with a negative. Binding is measured on these."""
        return int(self.has_negative[self.captions].any(dim=1).sum())

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """This side in memory: its images [n, dim], its captions [m, dim], and the image of each caption, int64 [m]."""
        images, index = torch.unique(self.image_index[self.captions], return_inverse=True)
        return self.images.take(images).cpu(), self.texts.take(self.captions).cpu(), index

    @cached_property
    def negative_rows(self) -> torch.Tensor:
        """The row in `texts` of each negative, int64 [n_texts, k]; the row of the caption if the negative is absent."""
        n_texts = len(self.image_index)
        return _appended_rows(torch.arange(n_texts), self.has_negative, n_texts)

    @cached_property
    def negative_image_rows(self) -> torch.Tensor:
        """The row in `images` of each negative's image, int64 [n_texts, k]; the caption's image if there is none."""
        n_images = len(self.images) - self.has_negative.numel()
        return _appended_rows(self.image_index, self.has_negative_image, n_images)


def _appended_rows(default: torch.Tensor, present: torch.Tensor, start: int) -> torch.Tensor:
    """The row numbers of n * k rows appended at `start`, int64 [n, k]; if not `present`, the `default` of n."""
    return torch.where(present, start + torch.arange(present.numel()).view(present.shape), default[:, None])


def read_data(features: Features, name: str = "features") -> Data:
    """Read all embeddings once, and refuse rows that are not finite or all zeros; messages call the features `name`."""
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
    return _first_equal(lambda rows: F.normalize(images[rows], dim=-1), len(images))


def _first_equal(take: Callable[[torch.Tensor], torch.Tensor], n: int) -> torch.Tensor:
    """For each of n rows the number of the first row that equals it, int64 [n]; its own number if no earlier row does.

    `take` returns the unit-length rows with some numbers, float32 [m, dim]. Two rows are compared only if they share
    one of three hashes. A hash rounds the row's coordinates along random directions to cells. A copy in float16 gets
    another hash with probability 0.1, so all three differ for one row in a thousand.
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
        is_head = torch.ones(n, dtype=torch.bool)
        is_head[1:] = column[order][1:] != column[order][:-1]
        heads = order[is_head][is_head.cumsum(0) - 1]
        undecided = ~is_head & (first[order] != first[heads])  # an earlier hash may have joined them
        for rows, head in zip(order[undecided].split(_COMPARED), heads[undecided].split(_COMPARED), strict=True):
            equal = ((take(rows) - take(head)).norm(dim=-1) < _EQUAL).cpu()
            first[rows[equal]] = torch.minimum(first[rows[equal]], head[equal])
    while not torch.equal(first, first[first]):
        first = first[first]
    return first
