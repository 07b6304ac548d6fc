"""Where the bytes of an image are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ImageSource:
    """An image that a row names, or holds.

    Attributes:
        name: For people: its path as the table has it, its name in the archive, or what else identifies it.
        file: The image's own file, or the tar or Parquet file that it is in; None where only its name was asked for.
        key: 16 bytes, equal for rows of one image.
        start: In a tar its first byte, in a Parquet file its row from 0; None for a file of its own.
        size: In a tar its bytes, in a Parquet file -1.
        column: In a Parquet file its column; None for other files.
        data: The bytes, where a cell of the row held them.
        place: The row that names it, "captions.csv line 7".
    """

    name: str
    file: Path | None = field(default=None, repr=False)
    key: bytes = field(default=b"", repr=False)
    start: int | None = field(default=None, repr=False)
    size: int | None = field(default=None, repr=False)
    column: str | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False, compare=False)
    place: str = field(default="", repr=False)
