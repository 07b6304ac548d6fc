"""Files of stored embeddings, aligned one by one, and the engines that share them out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from labclip.alignment import Alignment
from labclip.packages import connected_ray
from labclip.stored.formats import FORMATS, Rows, copied
from labclip.stored.output import UnwritableError, writing
from labclip.stored.places import Shard, version_of

_SHOWN = 5  # rows that a message names


@dataclass(frozen=True)
class Work:
    """What is done to each shard: read in blocks, multiplied in float32, written in its own dtype.

    It can be sent to another process.

    Attributes:
        alignment: The alignment, at its strength.
        normalize: Whether to write unit-length rows.
        column: The name of the column or tensor.
        scratch: A folder on the disk of the target for files that are not whole yet; None where the target is remote:
            then a temporary one is taken, and the file is uploaded when it is whole.
    """

    alignment: Alignment
    normalize: bool
    column: str | None
    scratch: str | None

    def __call__(self, shard: Shard, seen: Callable[[int], Any]) -> dict[str, Any]:
        """Align a shard and give its record; `seen` is told of each block's bytes.

        Raises:
            ValueError: If it can't be read or aligned; the message goes on after its name.
            UnwritableError: If its target can't be written.
        """
        source, version = shard.source, version_of(shard.source)
        rows = _Aligner(self.alignment, self.normalize, seen)
        kind = copied if shard.copied else FORMATS[PurePosixPath(source.root).suffix.lower()]
        with writing(shard.target, self.scratch, shard.name) as out:
            try:
                with source.fs.open(source.root, "rb") as file:
                    kind(file, out, rows, self.column)
            except UnwritableError:
                raise
            except OSError as error:
                raise ValueError(f"can't be read ({error.strerror or error})") from error
            rows.check()
        return {
            "name": shard.name,
            "rows": None if shard.copied else rows.count,
            "bytes": out.size,
            "sha256": out.sha256(),
            "source_bytes": source.fs.size(source.root),
            "version": version,
        }


class _Aligner:
    """Blocks of rows into aligned ones, and what is wrong with some."""

    def __init__(self, alignment: Alignment, normalize: bool, seen: Callable[[int], Any]) -> None:
        self.count = 0
        self._memory = torch.empty(0, 0), torch.empty(0, 0)  # of one block after the other
        self._alignment, self._normalize, self._seen = alignment, normalize, seen
        self._not_finite: list[int] = []
        self._large: list[int] = []
        self._dtype = np.dtype(np.float32)

    def __call__(self, rows: Rows) -> Rows:
        dim = self._alignment.dim
        if rows.shape[1] != dim:
            base = self._alignment.base
            fitted_on = f", fitted on {base}" if base else ""
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
            torch.mm(single, self._alignment.matrix.T, out=aligned)
            self._look(single, aligned)
            if self._normalize:
                aligned = F.normalize(aligned, dim=-1)
            found: Rows = aligned.to(native.dtype, copy=True).numpy().astype(rows.dtype, copy=False)
        self.count += len(rows)
        self._seen(rows.nbytes)
        return found

    def _look(self, single: torch.Tensor, aligned: torch.Tensor) -> None:
        """Keep the numbers of rows that are not finite, or that would not be."""
        most = torch.finfo(torch.float32).max ** 0.5 / aligned.shape[1]  # whose length can be computed
        if not self._normalize:
            most = float(np.finfo(self._dtype).max)
        low, high = aligned.aminmax()  # of one that is not finite no row is
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
            option = "" if self._normalize else ". Pass normalize=True, or store float32"
            raise ValueError(
                f"has rows that aligned are too large for {self._dtype}: {self._named(self._large)}{option}"
            )

    def _named(self, rows: list[int]) -> str:
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        return f"{', '.join(f'{row:,}' for row in rows[:_SHOWN])}{more} (from 0, of {self.count:,})"


Outcome = tuple[Shard, dict[str, Any] | str]
"""A shard with its record, or with what is wrong with it."""

Engine = Callable[[Work, Sequence[Shard], Callable[[int], Any]], Iterable[Outcome]]
"""What aligns shards; the last argument is told of bytes that are done.

UnwritableError if a target can't be written, which ends the run.
"""


def in_turn(work: Work, shards: Sequence[Shard], seen: Callable[[int], Any]) -> Iterator[Outcome]:
    """Align shards one after the other in this process, whose threads each product uses."""
    for shard in shards:
        try:
            yield shard, work(shard, seen)
        except ValueError as error:
            yield shard, str(error)


def over_ray(work: Work, shards: Sequence[Shard], seen: Callable[[int], Any]) -> Iterator[Outcome]:
    """Align shards with Ray Data, a task for each, on the cluster of RAY_ADDRESS or else on this machine."""
    connected_ray()
    from ray import data

    data.DataContext.get_current().enable_progress_bars = False

    def align(row: dict[str, Any]) -> dict[str, Any]:
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size

        found: dict[str, Any] = {"record": None, "problem": None, "unwritable": None}
        try:
            found["record"] = json.dumps(work(shards[row["item"]], count))
        except UnwritableError as error:
            found["unwritable"] = str(error)
        except ValueError as error:
            found["problem"] = str(error)
        return {"item": row["item"], "bytes": done, **found}

    if not shards:
        return
    rows = [{"item": number} for number in range(len(shards))]
    for row in data.from_items(rows, override_num_blocks=len(rows)).map(align).iter_rows():
        if row["unwritable"]:
            raise UnwritableError(row["unwritable"])
        seen(row["bytes"])
        yield shards[row["item"]], row["problem"] or json.loads(row["record"])


ENGINES: dict[str, Engine] = {"local": in_turn, "ray": over_ray}
"""Engines by their names; the first is the default."""
