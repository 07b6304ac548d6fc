"""Embeddings as a fit reads them: arrays, tensors or memory-mapped files, checked once, read a batch at a time."""

from __future__ import annotations

import hashlib
import itertools
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

_BLOCK_BYTES = 64 << 20
_TINY = 1e-12  # shorter rows can't be brought to unit length
_UNIT = 1e-3  # beyond this a row is not unit-length: float16 storage rounds by less


class Rows:
    """Embeddings, [n, dim] or [n, k, dim], read as unit-length float32.

    A memory-mapped file is read by position instead of through its map, whose pages would count as this process's
    memory, two megabytes for every row that is looked at.
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
        self.digest = ""
        self._file = _File.under(values)
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
        return self._file is not None

    def check(self, *, digest: bool = False) -> None:
        """Read everything once, block by block.

        Args:
            digest: Whether to set `digest`, which tells these embeddings from others.

        Raises:
            ValueError: If a row is not finite or all zeros; the first such row is named.
        """
        self._scale = False
        block = max(1, _BLOCK_BYTES // (int(np.prod(self.shape[1:])) * 4))
        found = hashlib.blake2b(repr(self.shape).encode(), digest_size=16)
        for start in range(0, len(self), block):
            rows = self._raw(torch.arange(start, min(start + block, len(self))))
            length = rows.norm(dim=-1)
            for bad, why in ((~torch.isfinite(length), "is not finite"), (length < _TINY, "is all zeros")):
                if bool(bad.any()):
                    row = start + int(bad.nonzero()[0, 0])
                    raise ValueError(f"{self.name}: row {row} {why}. Embed it again, or leave it out.")
            self._scale |= bool(((length - 1).abs() > _UNIT).any())
            if digest:
                found.update(rows.contiguous().view(-1).view(torch.uint8).numpy().data)
        self.digest = found.hexdigest() if digest else ""

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
            self._resident = torch.from_numpy(np.array(self._values, dtype=np.float32)).to(device)
        else:
            self._resident = self._values.to(device, torch.float32)

    def _raw(self, index: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Rows as they are, float32 on the CPU."""
        if isinstance(self._values, torch.Tensor):
            return self._values[index].to("cpu", torch.float32)
        where = tuple(part.numpy() for part in index) if isinstance(index, tuple) else index.numpy()
        if self._file is not None:
            return torch.from_numpy(self._file.read(where).astype(np.float32, copy=False))
        return torch.from_numpy(np.array(self._values[where], dtype=np.float32))


class _File:
    """The file under a read-only memory map, read by position."""

    def __init__(self, descriptor: int, offset: int, values: NDArray[Any]) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._dtype = values.dtype
        self._shape = values.shape

    @classmethod
    def under(cls, values: Any) -> _File | None:
        """The file an array is a contiguous part of; None for other arrays."""
        root = values
        while isinstance(root, np.ndarray) and isinstance(root.base, np.ndarray):
            root = root.base
        if not isinstance(root, np.memmap) or root.mode != "r" or root.filename is None or not hasattr(os, "preadv"):
            return None
        if not values.flags.c_contiguous:
            return None
        first, begin = (array.__array_interface__["data"][0] for array in (values, root))
        descriptor = os.open(root.filename, os.O_RDONLY)
        file = cls(descriptor, root.offset + first - begin, values)
        weakref.finalize(file, os.close, descriptor)
        some = np.array([0, len(values) - 1])
        # Another file of that name has taken the place of the one that is mapped.
        return file if file.read(some).tobytes() == np.asarray(values[some]).tobytes() else None

    def read(self, index: NDArray[Any] | tuple[NDArray[Any], ...]) -> NDArray[Any]:
        """Rows, or pairs of row and k of an array of three axes."""
        if isinstance(index, tuple):
            flat, shape = index[0] * self._shape[1] + index[1], self._shape[2:]
        else:
            flat, shape = index, self._shape[1:]
        out = np.empty((len(flat), *shape), self._dtype)
        size, memory = int(out.dtype.itemsize * np.prod(shape)), memoryview(out.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
        cuts = np.flatnonzero(np.diff(flat) != 1) + 1  # neighbours in the file are read at once
        for start, stop in itertools.pairwise([0, *cuts.tolist(), len(flat)]):
            place, part = self._offset + int(flat[start]) * size, memory[start * size : stop * size]
            while part:
                count = os.preadv(self._descriptor, [part], place)
                if not count:
                    raise ValueError("A memory-mapped file of embeddings became shorter while it was read.")
                part, place = part[count:], place + count
        return out


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
        negative_images: A picture of each negative, the shape of `negatives`, or None.
        paired: Which of these are not the caption's own image, bool [n_texts, k]; None without them.
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
        if self.negative_images is not None:
            yield self.negative_images

    def negative(self, captions: torch.Tensor, which: torch.Tensor, *, image: bool = False) -> torch.Tensor:
        """One negative of each caption, or its picture, unit-length [n, dim]; `which` of the k, int64 [n]."""
        rows = self.negative_images if image else self.negatives
        assert rows is not None
        return rows.take(captions if len(rows.shape) == 2 else torch.stack([captions, which], dim=1))


def read_data(
    image_features: Any, text_features: Any, negative_features: Any = None, image_index: Any = None, *,
    negative_image_features: Any = None, what: str = "", digest: bool = False, compare: bool = True,
) -> Data:  # fmt: skip
    """Check embeddings that belong together, and read them all once.

    Args:
        image_features: [n_images, dim].
        text_features: [n_texts, dim].
        negative_features: [n_texts, dim] or [n_texts, k, dim], or None.
        image_index: Whose caption each text is, [n_texts]; None where text i is the caption of image i.
        negative_image_features: A picture of each negative, of the shape of `negative_features`, or None.
        what: Put before the names in messages.
        digest: Whether to set the digests of the arrays.
        compare: Whether to look which negatives are their caption itself, a pass over the data; without, all count.

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
    pictures = None
    if negative_image_features is not None:
        pictures = Rows(f"{what}negative_image_features", negative_image_features, ndim=(2, 3))
        if negatives is None or pictures.shape[:-1] != negatives.shape[:-1]:
            shape = "no negatives" if negatives is None else f"negatives of shape {list(negatives.shape)}"
            raise ValueError(
                f"{pictures.name} has shape {list(pictures.shape)} for {shape}. Pass one picture a negative; where a "
                f"negative has none, the row of the caption's own image."
            )
    for rows in (texts, negatives, pictures):
        if rows is not None and rows.shape[-1] != images.shape[-1]:
            raise ValueError(
                f"{images.name} has dim {images.shape[-1]} but {rows.name} has dim {rows.shape[-1]}. Embed both with "
                f"one model."
            )
    index = _index(images, texts, image_index, what)
    data = Data(images, texts, negatives, index, torch.arange(len(texts)), negative_images=pictures)
    for rows in data.each():
        rows.check(digest=digest)
    if negatives is not None:
        every = torch.ones(len(texts), data.k, dtype=torch.bool)
        data = replace(data, valid=_differ(texts, data.captions, negatives) if compare else every)
    return data if pictures is None else replace(data, paired=_differ(images, index, pictures))


def _differ(own: Rows, index: torch.Tensor, others: Rows) -> torch.Tensor:
    """Which of each caption's k `others` differ from its row of `own`: bool [n_texts, k]."""
    size = max(1, _BLOCK_BYTES // (4 * int(np.prod(others.shape[1:]))))
    return torch.cat(
        [different(own.take(index[block])[:, None], others.take(block).view(len(block), -1, own.shape[-1]))
         for block in torch.split(torch.arange(len(index)), size)]
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
    found = image_index.numpy(force=True) if isinstance(image_index, torch.Tensor) else image_index
    try:
        found = np.array(found)
    except ValueError:
        found = np.array(["ragged"])
    if not np.issubdtype(found.dtype, np.integer) or found.shape != (len(texts),):
        raise ValueError(
            f"{what}image_index has dtype {found.dtype} and shape {list(found.shape)}. Pass {len(texts)} whole "
            f"numbers, the image's row for each caption."
        )
    index = torch.from_numpy(found.astype(np.int64))
    if bool(((index < 0) | (index >= len(images))).any()):
        bad = int(((index < 0) | (index >= len(images))).nonzero()[0])
        raise ValueError(
            f"{what}image_index[{bad}] is {int(index[bad])}, but there are {len(images)} images: 0 to "
            f"{len(images) - 1}."
        )
    return index
