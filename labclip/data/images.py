"""Where the bytes of an image are, and how they become pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from labclip.packages import open_parquet
from labclip.towers.pixels import BROKEN, eight_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[float, float, float, float]


@cache
def formats() -> list[str]:
    """The image formats that Pillow reads by itself. EPS is left out: Pillow runs Ghostscript for it."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


@dataclass(eq=False, slots=True)
class ImageSource:
    """Where the bytes of one image are: its own file, a range of bytes in a tar, a row of a Parquet file, or memory."""

    name: str  # shown to users: the path written in the table, or the name in the archive
    file: Path | None = None  # the image file, tar or Parquet file; None for an image in memory or known by name only
    key: bytes = b""  # identifies the image; by default a hash of `data`, or else of the file and the position in it
    start: int | None = None  # first byte in a tar, or row in a Parquet file, from 0
    size: int | None = None  # number of bytes in a tar
    column: str | None = None  # column of a Parquet file
    data: bytes | NDArray[np.uint8] | None = None  # bytes of an image file, or pixels, uint8 [height, width, 3]
    location: str = ""  # the table row that names the image, for messages: "captions.csv line 7"
    box: Box | None = None  # crop applied before preprocessing: left, top, width, height, in pixels

    def __post_init__(self) -> None:
        if not self.key:
            position = f"{self.start} {self.column} {self.file or self.name}".encode("utf-8", "surrogatepass")
            content = b"file\0" + position if self.data is None else b"data\0" + self.read()
            self.key = hashlib.blake2b(repr(self.box).encode() + content, digest_size=16).digest()

    def __str__(self) -> str:
        return f"{self.name} ({self.location})" if self.location else self.name

    def read(self) -> bytes:
        """The bytes of the image file, or the shape and pixels of an image in memory."""
        if isinstance(self.data, bytes):
            return self.data
        if self.data is not None:
            return str(self.data.shape).encode() + self.data.tobytes()
        if self.file is None:
            raise ValueError("its file is not known")
        if self.column is not None:
            return next(with_parquet_bytes([self]))[1] or b""
        if self.start is None:
            return self.file.read_bytes()
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)

    def decode(self, data: bytes) -> Image.Image:
        """Decode the bytes from `read` to 8-bit pixels, cropped to `box`. The EXIF orientation is not applied.

        Raises ValueError if the image is damaged or the box covers no pixel of it. The message completes a sentence
        that begins with the image's name.
        """
        if isinstance(self.data, np.ndarray):
            image = Image.fromarray(self.data)
        else:
            try:
                opened = Image.open(io.BytesIO(data), formats=formats())
                opened.load()
            except BROKEN as error:
                problem = "is not a complete image"
                if isinstance(error, UnidentifiedImageError):
                    problem += " or its format is not supported; convert HEIC, SVG or PDF to PNG"
                raise ValueError(reason(problem, error)) from error
            image = eight_bits(opened)
        if self.box is None:
            return image
        left, top, width, height = self.box
        box = round(left), round(top), round(left + width), round(top + height)
        if max(box[0], 0) >= min(box[2], image.width) or max(box[1], 0) >= min(box[3], image.height):
            raise ValueError(f"has the box {self.box}, which covers no pixel of its {image.width} x {image.height}")
        return image.crop(box)


def reason(problem: str, error: BaseException) -> str:
    """`problem` with the error's message in brackets, without parts that differ from run to run."""
    message = getattr(error, "strerror", None) or str(error)
    if isinstance(error, FileNotFoundError):  # remote file systems put only the path in the message
        message = "No such file or directory"
    # Pillow's message contains the memory address of the buffer.
    return f"{problem} ({message.split(' <_io.BytesIO')[0] or type(error).__name__})"


def file_order(source: ImageSource) -> tuple[str, int]:
    """Sort key with which `with_parquet_bytes` reads each row once. Images outside Parquet files come first."""
    return ("", 0) if source.column is None else (str(source.file), source.start or 0)


def with_parquet_bytes(sources: Iterable[ImageSource]) -> Iterator[tuple[ImageSource, bytes | None]]:
    """Each image with its bytes if it is in a Parquet file, else with None.

    Images should come in the order of rows: going back to an earlier row reads that row group again.
    """
    streams: dict[tuple[Path | None, str], tuple[int, Iterator[tuple[int, bytes]]]] = {}
    for source in sources:
        if source.column is None:
            yield source, None
            continue
        key, start = (source.file, source.column), source.start or 0
        row, cells = streams.pop(key, (start + 1, iter(())))
        if row > start:
            cells = _parquet_cells(*key, start)
        streams[key] = start + 1, cells
        yield source, next((data for row, data in cells if row == start), b"")


def _parquet_cells(path: Any, column: str, row: int) -> Iterator[tuple[int, bytes]]:
    """Row number and bytes of each image of a column, from the start of the row group that contains `row`."""
    end = 0
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):
            number, end = end, end + file.metadata.row_group(group).num_rows
            if row >= end:
                continue
            for batch in file.iter_batches(batch_size=32, row_groups=[group], columns=[column]):
                for cell in batch.column(0).to_pylist():
                    data = cell.get("bytes") if isinstance(cell, dict) else cell
                    yield number, data if isinstance(data, bytes) else b""
                    number += 1
