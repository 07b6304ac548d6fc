"""Embeddings as a fit reads them: arrays, tensors or memory-mapped files, checked once, read a batch at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

_BLOCK_BYTES = 64 << 20
_UNIT = 1e-3  # beyond this a row is not unit-length: float16 storage rounds by less


class Rows:
    """Embeddings, [n, dim] or [n, k, dim], read as unit-length float32.

    Memory-mapped files are read through, not held: what was read is given back to the system now and then, so that
    resident memory does not grow with the file.
    """

    def __init__(self, name: str, values: Any, *, ndim: tuple[int, ...] = (2,)) -> None:
        """Take embeddings, reading only their shape.

        Args:
            name: How messages call them.
            values: A floating-point array, tensor or memory map.
            ndim: The numbers of axes that are allowed.

        Raises:
            ValueError: If they are something else, or empty.
        """
        if isinstance(values, np.ndarray):
            floating = np.issubdtype(values.dtype, np.floating)
        elif isinstance(values, torch.Tensor):
            values = values.detach()
            floating = values.is_floating_point()
        else:
            raise ValueError(f"{name} is a {type(values).__name__}. Pass embeddings as an array or a tensor.")
        if not floating:
            raise ValueError(f"{name} has dtype {values.dtype}, not a floating-point one. Pass embeddings.")
        if values.ndim not in ndim or 0 in values.shape:
            wanted = " or ".join({2: "[n, dim]", 3: "[n, k, dim]"}[axes] for axes in ndim)
            raise ValueError(f"{name} has shape {list(values.shape)}, not {wanted}.")
        self.name = name
        self._values = values
        self._map = _memory_map(values)
        self._unread = 0
        self._scale = True
        self._resident: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self._values.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, dim] or [n, k, dim]."""
        return tuple(int(size) for size in self._values.shape)

    @property
    def is_mapped(self) -> bool:
        """Whether they lie in a file."""
        return self._map is not None

    def check(self) -> None:
        """Read everything once, block by block.

        Raises:
            ValueError: If a row is not finite or all zeros; the first such row is named.
        """
        self._scale = False
        per_row = int(np.prod(self.shape[1:])) * 4
        block = max(1, _BLOCK_BYTES // per_row)
        for start in range(0, len(self), block):
            length = self._raw(slice(start, start + block)).norm(dim=-1)
            for bad, why in ((~torch.isfinite(length), "is not finite"), (length == 0, "is all zeros")):
                if bool(bad.any()):
                    row = start + int(bad.nonzero()[0, 0])
                    raise ValueError(f"{self.name}: row {row} {why}. Embed it again, or leave it out.")
            self._scale |= bool(((length - 1).abs() > _UNIT).any())

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Unit-length rows, float32 [len(index), ...], on the device they live on.

        Args:
            index: Row numbers, int64, or pairs of row and k, [n, 2], for embeddings of three axes.
        """
        if self._resident is not None:
            index = index.to(self._resident.device)
            rows = self._resident[index] if index.ndim == 1 else self._resident[index[:, 0], index[:, 1]]
        elif index.ndim == 1:
            rows = self._raw(index)
        else:
            rows = self._raw((index[:, 0], index[:, 1]))
        return F.normalize(rows, dim=-1) if self._scale else rows

    def move(self, device: torch.device) -> None:
        """Hold all rows on a device from now on."""
        if isinstance(self._values, np.ndarray):
            self._resident = torch.from_numpy(np.ascontiguousarray(self._values)).to(device, torch.float32)
        else:
            self._resident = self._values.to(device, torch.float32)

    def sample(self, count: int = 64) -> bytes:
        """The bytes of some rows from first to last, by which a checkpoint knows its data."""
        rows = torch.linspace(0, len(self) - 1, min(count, len(self)), dtype=torch.float64).long()
        return self._raw(rows).numpy().tobytes()

    def _raw(self, index: Any) -> torch.Tensor:
        if isinstance(self._values, torch.Tensor):
            return self._values[index].to("cpu", torch.float32)
        where = tuple(part.numpy() for part in index) if isinstance(index, tuple) else index
        where = where.numpy() if isinstance(where, torch.Tensor) else where
        rows = torch.from_numpy(np.array(self._values[where], dtype=np.float32))
        if self._map is not None:
            self._unread += rows.numel() * 4
            if self._unread > _BLOCK_BYTES:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._unread = 0
        return rows


def _memory_map(values: Any) -> mmap.mmap | None:
    """The map under an array, however it was sliced; None for arrays in memory and where pages can't be given back."""
    while isinstance(values, np.ndarray):
        values = values.base
    if isinstance(values, memoryview):
        values = values.obj
    return values if isinstance(values, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None


@dataclass(frozen=True)
class Data:
    """What one fit reads: images, captions, whose caption each is, and their negatives.

    Attributes:
        images: [n_images, dim].
        texts: [n_texts, dim].
        negatives: [n_texts, dim] or [n_texts, k, dim], or None.
        image_index: Int64 [n_texts].
        captions: The captions this part holds, int64; others of the arrays belong to another part.
        valid: Which negatives are not their caption itself, bool [n_texts, k]; None without negatives.
    """

    images: Rows
    texts: Rows
    negatives: Rows | None
    image_index: torch.Tensor
    captions: torch.Tensor
    valid: torch.Tensor | None = None

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.images.shape[-1]

    @property
    def k(self) -> int:
        """Negatives a caption has."""
        return 0 if self.negatives is None else 1 if len(self.negatives.shape) == 2 else self.negatives.shape[1]

    def part(self, captions: torch.Tensor) -> Data:
        """The same arrays with other captions."""
        return replace(self, captions=captions)

    def each(self) -> Iterator[Rows]:
        """The arrays there are."""
        yield self.images
        yield self.texts
        if self.negatives is not None:
            yield self.negatives

    def negative(self, captions: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """One negative of each caption, unit-length [n, dim]; `which` of the k, int64 [n]."""
        assert self.negatives is not None
        two_axes = len(self.negatives.shape) == 2
        return self.negatives.take(captions if two_axes else torch.stack([captions, which], dim=1))


def read_data(
    image_features: Any, text_features: Any, negative_features: Any = None, image_index: Any = None, *, what: str = ""
) -> Data:
    """Check embeddings that belong together, and read them all once.

    Args:
        image_features: [n_images, dim].
        text_features: [n_texts, dim].
        negative_features: [n_texts, dim] or [n_texts, k, dim], or None.
        image_index: Whose caption each text is, [n_texts]; None where text i is the caption of image i.
        what: Put before the names in messages.

    Returns:
        All captions.

    Raises:
        ValueError: If shapes or dims do not belong together, an index is out of range, or a row is not finite or zero.
    """
    images, texts = Rows(f"{what}image_features", image_features), Rows(f"{what}text_features", text_features)
    negatives = None
    if negative_features is not None:
        negatives = Rows(f"{what}negative_features", negative_features, ndim=(2, 3))
        if len(negatives) != len(texts):
            raise ValueError(
                f"{negatives.name} has {len(negatives)} rows for {len(texts)} captions. Pass one row a caption; where "
                f"a caption has no negative, repeat the caption's own row."
            )
    for rows in (texts, negatives):
        if rows is not None and rows.shape[-1] != images.shape[-1]:
            raise ValueError(
                f"{images.name} has dim {images.shape[-1]} but {rows.name} has dim {rows.shape[-1]}. Embed both with "
                f"one model."
            )
    data = Data(images, texts, negatives, _index(images, texts, image_index, what), torch.arange(len(texts)))
    for rows in data.each():
        rows.check()
    return data if negatives is None else replace(data, valid=_valid(texts, negatives))


def _valid(texts: Rows, negatives: Rows) -> torch.Tensor:
    """Which negatives differ from their caption: bool [n_texts, k]."""
    blocks = torch.split(torch.arange(len(texts)), max(1, _BLOCK_BYTES // (4 * negatives.shape[-1])))
    return torch.cat(
        [different(texts.take(block)[:, None], negatives.take(block).view(len(block), -1, texts.shape[-1]))
         for block in blocks]
    )  # fmt: skip


def different(texts: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Which unit-length negatives are not their caption itself, to rounding: bool, the shape of both without dim."""
    return (texts - negatives).abs().amax(dim=-1) > 1e-5


def _index(images: Rows, texts: Rows, image_index: Any, what: str) -> torch.Tensor:
    if image_index is None:
        if len(images) != len(texts):
            raise ValueError(
                f"There are {len(images)} images and {len(texts)} captions. Pass {what}image_index, which says whose "
                f"caption each is."
            )
        return torch.arange(len(texts))
    index = image_index if isinstance(image_index, torch.Tensor) else torch.from_numpy(np.array(image_index))
    if index.is_floating_point() or index.dtype == torch.bool or index.shape != (len(texts),):
        raise ValueError(
            f"{what}image_index has dtype {index.dtype} and shape {list(index.shape)}. Pass {len(texts)} whole "
            f"numbers, the image's row for each caption."
        )
    index = index.detach().cpu().long()
    if bool(((index < 0) | (index >= len(images))).any()):
        bad = int(((index < 0) | (index >= len(images))).nonzero()[0])
        raise ValueError(
            f"{what}image_index[{bad}] is {int(index[bad])}, but there are {len(images)} images: 0 to "
            f"{len(images) - 1}."
        )
    return index
