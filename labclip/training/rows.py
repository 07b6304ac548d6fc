"""Embeddings as a fit reads them: arrays, tensors or memory-mapped files, checked once, read a batch at a time."""

from __future__ import annotations

import hashlib
import itertools
import os
import weakref
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from labclip.training.duplicates import hashes_of

_BLOCK_BYTES = 64 << 20
_TINY = 1e-12  # shorter rows can't be brought to unit length
_UNIT = 1e-3  # beyond this a row is not unit-length: float16 storage rounds by less
_AXES = {2: "[n, dim]", 3: "[n, k, dim]"}


class Rows:
    """Embeddings, [n, dim] or [n, k, dim], read as unit-length float32.

    A memory-mapped file is read by position instead of through its map, whose pages would count as this process's
    memory, two megabytes for every row that is looked at.

    Attributes:
        name: How messages call them.
        digest: Tells these embeddings from others; empty before `check`.
        hashes: Of each row, by which equal ones are found, int64 [n, 3]; empty unless `check` was asked for them.
    """

    def __init__(self, name: str, values: Any, *, axes: int = 2) -> None:
        """Take embeddings, reading only their shape.

        Args:
            name: How messages call them.
            values: A floating-point array, tensor or memory map.
            axes: How many there are to be, 2 or 3.

        Raises:
            ValueError: If they are something else, or empty.
        """
        if isinstance(values, torch.Tensor):
            values = values.detach()
            floating = values.is_floating_point()
        elif isinstance(values, np.ndarray):
            floating = np.issubdtype(values.dtype, np.floating)
        else:
            raise ValueError(f"{name} is a {type(values).__name__}. Pass embeddings as an array or a tensor.")
        if not floating:
            raise ValueError(f"{name} has dtype {values.dtype}, not a floating-point one. Pass embeddings.")
        if values.ndim != axes or 0 in values.shape:
            raise ValueError(f"{name} has shape {list(values.shape)}, not {_AXES[axes]}.")
        self.name = name
        self.digest = ""
        self.hashes = torch.empty(0, 3, dtype=torch.int64)
        self._values: Any = values
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

    def check(self, present: torch.Tensor | None = None, *, digest: bool = False, hashes: bool = False) -> None:
        """Read everything once, block by block.

        Args:
            present: Which of [n, k] rows stand for something, bool; None is all.
            digest: Whether to set `digest`.
            hashes: Whether to set `hashes`.

        Raises:
            ValueError: If a row is not finite or all zeros; the first such row is named.
        """
        self._scale = False
        block = max(1, _BLOCK_BYTES // (int(np.prod(self.shape[1:])) * 4))
        found = hashlib.blake2b(repr(self.shape).encode(), digest_size=16)
        parts = []
        for index in torch.split(torch.arange(len(self)), block):
            rows = self._raw(index)
            length = rows.norm(dim=-1)
            if present is not None:
                length = torch.where(present[index], length, 1.0)
            for bad, why in ((~torch.isfinite(length), "is not finite"), (length < _TINY, "is all zeros")):
                if bool(bad.any()):
                    row = int(index[bad.nonzero()[0, 0]])
                    raise ValueError(f"{self.name}: row {row} {why}. Embed it again, or leave it out.")
            self._scale |= bool(((length - 1).abs() > _UNIT).any())
            if digest:
                found.update(rows.contiguous().view(-1).view(torch.uint8).numpy().data)
            if hashes:
                parts.append(hashes_of(rows))
        self.digest = found.hexdigest() if digest else ""
        self.hashes = torch.cat(parts) if hashes else self.hashes

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
        # Another file of that name may have taken the place of the one that is mapped.
        return file if file.read(some).tobytes() == np.asarray(values[some]).tobytes() else None

    def read(self, index: NDArray[Any] | tuple[NDArray[Any], ...]) -> NDArray[Any]:
        """Rows, or pairs of row and k of an array of three axes."""
        if isinstance(index, tuple):
            flat, shape = index[0] * self._shape[1] + index[1], self._shape[2:]
        else:
            flat, shape = index, self._shape[1:]
        out = np.empty((len(flat), *shape), self._dtype)
        size, memory = int(out.dtype.itemsize * np.prod(shape)), memoryview(out.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
        if not len(flat):
            return out
        cuts = np.flatnonzero(np.diff(flat) != 1) + 1  # neighbours in the file are read at once
        for start, stop in itertools.pairwise([0, *cuts.tolist(), len(flat)]):
            place, part = self._offset + int(flat[start]) * size, memory[start * size : stop * size]
            while part:
                count = os.preadv(self._descriptor, [part], place)
                if not count:
                    raise ValueError("A memory-mapped file of embeddings became shorter while it was read.")
                part, place = part[count:], place + count
        return out
