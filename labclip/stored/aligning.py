"""One file of stored embeddings, aligned: read in blocks, named when it is whole."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from labclip.base import Base
from labclip.files import whole_file
from labclip.stored.formats import FORMATS, Rows, copied
from labclip.stored.places import Place, Shard

_SHOWN = 5  # rows that a message names


@dataclass(frozen=True)
class Work:
    """What is done to each shard: read in blocks, multiplied in float32, written in its own dtype.

    It can be sent to another process.

    Attributes:
        matrix: The matrix that is applied, float32 [dim, dim], on the CPU.
        base: What it was fitted on, for messages.
        normalize: Whether to write unit-length rows.
        column: The name of the column or tensor.
    """

    matrix: torch.Tensor
    base: Base | None
    normalize: bool
    column: str | None

    def __call__(self, shard: Shard, seen: Callable[[int], Any]) -> dict[str, Any]:
        """Align a shard and give its record; `seen` is told of each block's bytes.

        Raises:
            ValueError: If it can't be read or aligned; the message goes on after its name.
            OSError: If its target can't be written.
        """
        version, rows = shard.source.version, _Rows(self, seen)
        size, sha256 = 0, hashlib.sha256()
        with whole_at(shard.target) as part, part.open("wb") as file:
            for data in self._contents(shard, rows):
                file.write(data)
                sha256.update(data)
                size += len(data)
            rows.check()
        return {
            "name": shard.name,
            "rows": None if shard.copied else rows.count,
            "bytes": size,
            "sha256": sha256.hexdigest(),
            "source_bytes": shard.source.fs.size(shard.source.root),
            "source_version": version,
        }

    def _contents(self, shard: Shard, rows: _Rows) -> Iterator[Any]:
        """The bytes of the target. What fails while they are read is a ValueError, what fails outside is not."""
        kind = copied if shard.copied else FORMATS[PurePosixPath(shard.source.root).suffix.lower()]
        try:
            with shard.source.fs.open(shard.source.root, "rb") as file:
                yield from kind(file, rows, self.column)
        except OSError as error:
            raise ValueError(f"can't be read ({error.strerror or error})") from error


@contextmanager
def whole_at(target: Place) -> Iterator[Path]:
    """A path to write to: the target has the file when the block ends, whole or not at all."""
    if target.is_local:
        Path(target.root).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(Path(target.root)) as part:
            yield part
    else:
        with tempfile.TemporaryDirectory(prefix="labclip-") as folder:
            yield Path(folder, "part")
            target.fs.put_file(f"{folder}/part", target.root)


class _Rows:
    """Aligns blocks of rows, counts them, and keeps the numbers of those that can't be."""

    def __init__(self, work: Work, seen: Callable[[int], Any]) -> None:
        self.count = 0
        self._work, self._seen = work, seen
        self._memory = torch.empty(0, 0), torch.empty(0, 0)  # of one block after the other
        self._not_finite: list[int] = []
        self._large: list[int] = []
        self._dtype = np.dtype(np.float32)

    def __call__(self, rows: Rows) -> Rows:
        dim = len(self._work.matrix)
        if rows.shape[1] != dim:
            fitted_on = f", fitted on {self._work.base}" if self._work.base else ""
            raise ValueError(
                f"holds embeddings of {rows.shape[1]} numbers, but the alignment has dim {dim}{fitted_on}. Pass "
                f"the one of their base"
            )
        self._dtype = rows.dtype
        if not len(rows):
            return rows
        native = torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))
        with torch.inference_mode():
            if len(self._memory[0]) < len(native):
                self._memory = torch.empty(len(native), dim), torch.empty(len(native), dim)
            single, aligned = (one[: len(native)] for one in self._memory)
            single.copy_(native)
            torch.mm(single, self._work.matrix.T, out=aligned)
            self._look(single, aligned)
            if self._work.normalize:
                aligned = F.normalize(aligned, dim=-1)
            found: Rows = aligned.to(native.dtype, copy=True).numpy().astype(rows.dtype, copy=False)
        self.count += len(rows)
        self._seen(rows.nbytes)
        return found

    def _look(self, single: torch.Tensor, aligned: torch.Tensor) -> None:
        """Keep the numbers of rows that are not finite, or that would not be."""
        most = torch.finfo(torch.float32).max ** 0.5 / aligned.shape[1]  # whose length can be computed
        if not self._work.normalize:
            most = float(np.finfo(self._dtype).max)
        low, high = aligned.aminmax()  # a row that is not finite makes both NaN
        if low >= -most and high <= most:
            return
        finite = single.isfinite().all(dim=1)
        large = finite & ~(aligned.abs().amax(dim=1) <= most)
        self._not_finite += (self.count + (~finite).nonzero().ravel()).tolist()
        self._large += (self.count + large.nonzero().ravel()).tolist()

    def check(self) -> None:
        """Refuse with ValueError rows that are not finite, or not after the product."""
        if self._not_finite:
            raise ValueError(f"has rows that are not finite (NaN or infinite): {self._named(self._not_finite)}")
        if self._large:
            option = "" if self._work.normalize else ". Pass normalize=True, or store float32"
            raise ValueError(
                f"has rows that aligned are too large for {self._dtype}: {self._named(self._large)}{option}"
            )

    def _named(self, rows: list[int]) -> str:
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        return f"{', '.join(f'{row:,}' for row in rows[:_SHOWN])}{more} (from 0, of {self.count:,})"
