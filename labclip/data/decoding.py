"""Pictures read and decoded in threads, a bounded number ahead of the model."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from labclip.data.rows import open_parquet


class ImageRow(NamedTuple):
    """A picture to be encoded; `place` says where its first row is."""

    id: int
    name: str
    place: str
    source: int
    start: int | None
    size: int | None


# What Pillow raises for bytes that are no whole picture; its readers of rare formats raise most of these.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
# What is wrong with one file. Any other failure to read (too many open files, a file server gone) is the machine's,
# and must not leave out picture after picture.
_UNREADABLE = {ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, ENAMETOOLONG, ELOOP, EINVAL}


@cache
def formats() -> list[str]:
    """Every format that Pillow reads by itself; for EPS it would run Ghostscript on the file."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as the model takes it, [3, height, width], with the SHA-256 of its bytes; or what is wrong with it."""

    item: ImageRow
    pixels: torch.Tensor | None
    digest: bytes = b""
    problem: str = ""


def decoders(workers: int | None) -> int:
    """How many threads decode: those asked for, else one a processor, at most 16."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers or min(available, 16)


@contextmanager
def decoding(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that read and decode; what is not begun when they are left is not done."""
    threads = torch.get_num_threads()
    # One thread each inside torch, as DataLoader does it: else every worker starts a team as large as the machine.
    pool = ThreadPoolExecutor(workers, "labclip-decode", torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # what the workers set would be the default of threads started later


class Pictures:
    """Reads pictures from files of their own, from tars and from Parquet files.

    Threads, not processes: Pillow decodes and resizes without holding Python's lock.

    Args:
        inputs: The files of captions, by `ImageRow.source`.
        roots: For each, the folder that its paths are relative to.
        image_columns: In Parquet files the columns that may hold the pictures, the first of them that is there.
        preprocess: PIL image -> tensor [3, height, width].
        pool: The threads, as of `decoding`.
        workers: How many they are.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        roots: Sequence[Path],
        image_columns: Sequence[str],
        preprocess: Callable[[Any], torch.Tensor],
        pool: ThreadPoolExecutor,
        workers: int,
    ) -> None:
        self._inputs, self._roots, self._preprocess = inputs, roots, preprocess
        self._tables = [_Table(path, image_columns) for path in inputs]
        self._pool, self._workers = pool, workers

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        for table in self._tables:
            table.close()

    def batches(self, items: Iterable[ImageRow], size: int) -> Iterator[list[Decoded]]:
        """Decode in order, `size` pictures a batch, the next two batches being decoded meanwhile."""
        waiting: deque[Future[Decoded]] = deque()
        batch: list[Decoded] = []
        for item in items:
            waiting.append(self._submit(item))
            if len(waiting) >= 2 * size + self._workers:
                batch.append(waiting.popleft().result())
                if len(batch) == size:
                    yield batch
                    batch = []
        while waiting:
            batch.append(waiting.popleft().result())
            if len(batch) == size or not waiting:
                yield batch
                batch = []

    def _submit(self, item: ImageRow) -> Future[Decoded]:
        # A Parquet file is read in order, so here and not by whichever thread comes first.
        held = self._tables[item.source].read(item.start) if item.size == -1 and item.start is not None else None
        return self._pool.submit(self._decode, item, held)

    def _decode(self, item: ImageRow, held: bytes | None) -> Decoded:
        try:
            data = self._read(item) if held is None else held
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
            if isinstance(error, OSError) and error.errno not in _UNREADABLE:
                raise
            return Decoded(item, None, problem=reason("can't be read", error))
        try:
            picture: Image.Image = Image.open(io.BytesIO(data), formats=formats())
            picture.load()
        except BROKEN as error:
            return Decoded(item, None, problem=reason("is no whole picture", error))
        return Decoded(item, self._preprocess(picture), hashlib.sha256(data).digest())

    def _read(self, item: ImageRow) -> bytes:
        if item.start is None:
            return (self._roots[item.source] / item.name).read_bytes()
        assert item.size is not None
        with self._inputs[item.source].open("rb") as file:
            file.seek(item.start)
            return file.read(item.size)


def reason(what: str, error: BaseException) -> str:
    """What is wrong with one file, in the words of what was raised; equal from run to run."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # Pillow names the buffer by its address, which would differ from run to run.
    return f"{what} ({said.split(' <_io.BytesIO')[0] or type(error).__name__})"


class _Table:
    """The pictures in a Parquet file's rows, read forwards, a few rows in memory at a time."""

    _ROWS = 32

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path, self._columns = path, columns
        self._file: Any = None
        self._rows: Iterator[tuple[int, bytes]] = iter(())

    def read(self, row: int) -> bytes:
        """The bytes of a row; rows must be asked for in ascending order."""
        if self._file is None:
            self._file = open_parquet(self._path)
            self._rows = self._from(row)
        return next(data for number, data in self._rows if number == row)

    def _from(self, row: int) -> Iterator[tuple[int, bytes]]:
        column = next(name for name in self._columns if name in self._file.schema_arrow.names)
        number = 0
        groups: list[int] = []
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if groups or number + rows > row:
                groups.append(group)
            else:
                number += rows
        for batch in self._file.iter_batches(batch_size=self._ROWS, row_groups=groups, columns=[column]):
            for value in batch.column(0):
                cell = value.as_py()
                data = cell.get("bytes") if isinstance(cell, dict) else cell
                yield number, data if isinstance(data, bytes) else b""
                number += 1

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
