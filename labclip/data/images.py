"""Pictures and captions that a benchmark asks about, each kept once."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labclip.data.decoding import formats

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture to encode.

    Attributes:
        source: A file, a file's bytes, or pixels, uint8 [height, width, 3].
        name: For messages.
        box: Crop to this before preprocessing: left, top, width, height, in pixels. None is the whole picture.
    """

    source: Path | bytes | NDArray[np.uint8]
    name: str
    box: Box | None = None

    def read(self) -> bytes:
        """The bytes that decide the picture: those of its file, or its pixels'."""
        if isinstance(self.source, Path):
            return self.source.read_bytes()
        if isinstance(self.source, bytes):
            return self.source
        return str(self.source.shape).encode() + self.source.tobytes()

    def decode(self, data: bytes) -> Image:
        """The picture from what `read` gave, cropped.

        Raises:
            ValueError: If the box has no pixel in the picture, or a pixel more than 8 bits, of which OpenCLIP's
                preprocessing makes white.
            OSError: If the bytes are no picture.
        """
        from PIL import Image

        if isinstance(self.source, np.ndarray):
            image = Image.fromarray(self.source)
        else:
            image = Image.open(io.BytesIO(data), formats=formats())
            image.load()
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"its pixels are of mode {image.mode}, which would all be cut to white; save it in 8 bits")
        if self.box is None:
            return image
        left, top, width, height = self.box
        corners = max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height)
        if corners[0] >= corners[2] or corners[1] >= corners[3]:
            raise ValueError(f"the box {self.box} lies outside its {image.width} x {image.height} pixels")
        whole = round(left), round(top), round(left + width), round(top + height)
        if whole[0] >= whole[2] or whole[1] >= whole[3]:
            raise ValueError(f"the box {self.box} is less than a pixel")
        return image.crop(whole)


@dataclass
class Pictures:
    """Collects distinct pictures; a file that is not there is remembered, not raised, so that all are told at once."""

    pictures: list[Picture] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    _row: dict[Hashable, int] = field(default_factory=dict)
    _names: dict[Path, frozenset[str]] = field(default_factory=dict)

    def file(self, path: Path, box: Box | None = None) -> int | None:
        """The row of a file's picture, or None where there is no such file."""
        return self._add((path, box), lambda: Picture(path, str(path), box) if self.exists(path) else None, path)

    def held(self, source: bytes | NDArray[np.uint8], name: str) -> int:
        """The row of a picture in memory; its content tells it from others."""
        picture = Picture(source, name)
        row = self._add(hashlib.sha256(picture.read()).digest(), lambda: picture, None)
        assert row is not None
        return row

    def _add(self, key: Hashable, make: Callable[[], Picture | None], path: Path | None) -> int | None:
        if key not in self._row:
            made = make()
            self._row[key] = -1 if made is None else len(self.pictures)
            if made is None:
                assert path is not None
                self.missing.append(path)
            else:
                self.pictures.append(made)
        row = self._row[key]
        return None if row < 0 else row

    def exists(self, path: Path) -> bool:
        """Whether there is such a file; whatever it is called, this is no error."""
        # A folder is listed once: a look at each of a hundred thousand files takes minutes on a file server.
        if path.parent not in self._names:
            try:
                self._names[path.parent] = frozenset(os.listdir(path.parent))
            except (OSError, ValueError):
                self._names[path.parent] = frozenset()
        return path.name in self._names[path.parent]


@dataclass
class Captions:
    """Collects distinct captions."""

    captions: list[str] = field(default_factory=list)
    _row: dict[str, int] = field(default_factory=dict)

    def row(self, caption: Any, place: str) -> int:
        """The row of a caption.

        Args:
            caption: Text as the model shall get it.
            place: File and position, for the message.

        Raises:
            ValueError: If it is no text, or empty.
        """
        self.check(caption, place)
        if caption not in self._row:
            self._row[caption] = len(self.captions)
            self.captions.append(caption)
        return self._row[caption]

    @staticmethod
    def check(caption: Any, place: str) -> None:
        """Raise ValueError for a caption that is no text, or empty."""
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{place}: the caption is {caption!r}. Every caption must be a text that is not empty.")
        try:
            caption.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{place}: the caption {caption[:40]!r} is no valid Unicode. Correct it.") from None
