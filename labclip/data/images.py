"""Where an image's bytes are and how they become pixels; the distinct images and captions of a benchmark."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from labclip.packages import open_parquet
from labclip.towers.pixels import BROKEN, eight_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[float, float, float, float]


@cache
def formats() -> list[str]:
    """Every format that Pillow reads by itself; for EPS it would run Ghostscript on the file."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


@dataclass(eq=False, slots=True)
class ImageSource:
    """Where the bytes of one image are: a file of its own, bytes in a tar, a row of a Parquet file, or memory."""

    name: str  # for people: its path as the table has it, or its name in the archive
    file: Path | None = None  # its own, or the tar or Parquet file that it is in; None of one in memory, or only named
    key: bytes = b""  # equal for one image; by default a hash of what `data` holds, else of path and position in it
    start: int | None = None  # in a tar its first byte, in a Parquet file its row from 0
    size: int | None = None  # in a tar its bytes
    column: str | None = None  # in a Parquet file
    data: bytes | NDArray[np.uint8] | None = None  # of an image file, or pixels, uint8 [height, width, 3]
    location: str = ""  # the row that names it, for messages: "captions.csv line 7"
    box: Box | None = None  # crop to this before preprocessing: left, top, width, height, in pixels

    def __post_init__(self) -> None:
        if not self.key:
            where = f"{self.start} {self.column} {self.file or self.name}".encode("utf-8", "surrogatepass")
            held = b"file\0" + where if self.data is None else b"data\0" + self.read()
            self.key = hashlib.blake2b(repr(self.box).encode() + held, digest_size=16).digest()

    def __str__(self) -> str:
        return f"{self.name} ({self.location})" if self.location else self.name

    def read(self) -> bytes:
        """The bytes that decide the image: those of its file, or its shape and pixels."""
        if isinstance(self.data, bytes):
            return self.data
        if self.data is not None:
            return str(self.data.shape).encode() + self.data.tobytes()
        if self.file is None:
            raise ValueError("no file of it is known")
        if self.column is not None:
            with ParquetImages() as tables:
                return tables.read(self)
        if self.start is None:
            return self.file.read_bytes()
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)

    def decode(self, data: bytes) -> Image.Image:
        """The image from what `read` gave, in 8 bits, cropped; it lies as it is stored.

        ValueError, which follows the image's name, if the bytes are no whole image, or the box has no pixel in it.
        """
        if isinstance(self.data, np.ndarray):
            image = Image.fromarray(self.data)
        else:
            try:
                opened = Image.open(io.BytesIO(data), formats=formats())
                opened.load()
            except BROKEN as error:
                unknown = " of a format that is read; convert HEIC, SVG or PDF to PNG"
                what = f"is not a whole image{unknown if isinstance(error, UnidentifiedImageError) else ''}"
                raise ValueError(reason(what, error)) from error
            image = eight_bits(opened)
        if self.box is None:
            return image
        left, top, width, height = self.box
        box = round(left), round(top), round(left + width), round(top + height)
        if max(box[0], 0) >= min(box[2], image.width) or max(box[1], 0) >= min(box[3], image.height):
            raise ValueError(f"has the box {self.box}, which has no pixel in its {image.width} x {image.height}")
        return image.crop(box)


def reason(what: str, error: BaseException) -> str:
    """What is wrong with one file, in the words of what was raised; equal from run to run."""
    message = getattr(error, "strerror", None) or str(error)
    if isinstance(error, FileNotFoundError):  # a remote file system's says the path alone
        message = "No such file or directory"
    # Pillow names the buffer by its address, which would differ from run to run.
    return f"{what} ({message.split(' <_io.BytesIO')[0] or type(error).__name__})"


def file_order(source: ImageSource) -> tuple[str, int]:
    """A key to sort images by, so that `ParquetImages` reads each row once; those in no Parquet file come first."""
    return ("", 0) if source.column is None else (str(source.file), source.start or 0)


class ParquetImages:
    """Reads images out of Parquet files, forwards and a few rows in memory at a time; a context manager."""

    def __init__(self) -> None:
        self._open: dict[tuple[Path, str], tuple[int, Generator[tuple[int, bytes], None, None]]] = {}

    def __enter__(self) -> ParquetImages:
        return self

    def __exit__(self, *_: object) -> None:
        for _row, cells in self._open.values():
            cells.close()

    def read(self, source: ImageSource) -> bytes:
        """The bytes of an image; going back in a file reads a group of its rows again."""
        assert source.file is not None
        assert source.column is not None
        assert source.start is not None
        key = source.file, source.column
        row, cells = self._open.pop(key, (0, None))
        if cells is None or row > source.start:
            cells = _parquet_cells(*key, source.start)
        self._open[key] = source.start + 1, cells
        return next(data for row, data in cells if row == source.start)


def _parquet_cells(path: Path, column: str, row: int) -> Generator[tuple[int, bytes], None, None]:
    """The images of a column, each with its row, from the group of rows that `row` is in."""
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
