"""The files of a data set on the user's disk: everything missing is reported at once, with where to get it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.data.images import Box, ImageSource


@dataclass
class DataFiles:
    """Where the files of a data set are, and what was found in them: distinct images and captions, missing images.

    Args:
        data: File or folder of the questions; None for a data set that needs none.
        images: Folder that paths of images are relative to; None is the folder of `data`.
        on_missing: "raise", or "skip" to leave out images that are not there, with a note.
        hint: What the data set needs and where people get it, for messages.
    """

    data: Path | None
    images: Path | None = None
    on_missing: str = "raise"
    hint: str = ""
    image_sources: list[ImageSource] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._image_rows: dict[bytes, int | None] = {}
        self._caption_rows: dict[str, int] = {}
        self._names: dict[Path, frozenset[str]] = {}
        self._ways: dict[tuple[str, ...], str] = {}
        if self.data is not None and not self.data.exists():
            raise FileNotFoundError(f"There is no {self.data}. {self.hint}")
        if self.images is not None and not self.images.is_dir():
            raise FileNotFoundError(f"There is no folder of images {self.images}. {self.hint}")

    @cached_property
    def folder(self) -> Path:
        """The folder of the questions; FileNotFoundError if no data was given."""
        if self.data is None:
            raise FileNotFoundError(f"No data was given. Pass data=PATH. {self.hint}")
        return self.data if self.data.is_dir() else self.data.parent

    def files(self, *names: str) -> list[Path]:
        """Files of the data folder, or the one file that `data` is; FileNotFoundError names all that are missing."""
        if self.data is not None and self.data.is_file() and len(names) == 1:
            return [self.data]
        paths = [self.folder / name for name in names]
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} files are missing: {', '.join(missing)}. {self.hint}"
            )
        return paths

    def either(self, *names: str) -> Path:
        """The first of several files of the data folder that is there, or the one file that `data` is."""
        if self.data is not None and self.data.is_file():
            return self.data
        for name in names:
            if (path := self.folder / name).is_file():
                return path
        raise FileNotFoundError(f"{self.folder} has no {' and no '.join(names)}. {self.hint}")

    def path_of(self, name: Any, location: str) -> Path:
        """The path of an image; ValueError if the name is no path inside the folder of images."""
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"{location}: the image's name is {name!r}. Every item must name its image.")
        folder = self.images or self.folder
        if leads_out(folder.absolute(), name):
            raise ValueError(
                f"{location}: the image's name {name!r} leads out of {folder}. "
                f"Pass images=DIR with the folder that all images are in."
            )
        return folder / name

    def image(
        self, name: Any, location: str, ways: Sequence[str] = ("{path}",), *, box: Box | None = None
    ) -> int | None:
        """The row of an image, or None where its file is missing; see `ImageSource` for its box.

        `ways` are how people's folders have the images: from the name in the file to the path. `{path}` is the name
        itself, `{name}` the name without its folders, `{rest}` without the first of them. The first way that finds an
        image is taken for all that follow.
        """
        self.path_of(name, location)
        words = {"path": name, "name": PurePosixPath(name).name, "rest": name.partition("/")[2] or name}
        if (way := self._ways.get(tuple(ways))) is None:
            paths = ((way, self.path_of(way.format(**words), location)) for way in ways)
            way = next((way for way, path in paths if self.exists(path)), None)
            if way is not None:
                self._ways[tuple(ways)] = way
        return self.file(self.path_of((way or ways[0]).format(**words), location), box)

    def file(self, path: Path, box: Box | None = None) -> int | None:
        """The row of a file's image, or None where there is no such file."""
        source = ImageSource(str(path), path, box=box)
        if source.key not in self._image_rows and not self.exists(path):
            self._image_rows[source.key] = None
            self.missing.append(path)
        return self.add(source)

    def image_in_memory(self, data: bytes | NDArray[np.uint8], name: str) -> int:
        """The row of an image that is a file's bytes, or pixels, uint8 [height, width, 3]; by its content."""
        row = self.add(ImageSource(name, data=data))
        assert row is not None
        return row

    def add(self, source: ImageSource) -> int | None:
        """The row of an image; None of a file that was found missing."""
        if source.key not in self._image_rows:
            self._image_rows[source.key] = len(self.image_sources)
            self.image_sources.append(source)
        return self._image_rows[source.key]

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        # A folder is listed once: a look at each of a hundred thousand files takes minutes on a file server.
        if path.parent not in self._names:
            self._names[path.parent] = frozenset(os.listdir(path.parent) if path.parent.is_dir() else ())
        return path.name in self._names[path.parent]

    def caption(self, caption: Any, location: str) -> int:
        """The row of a caption; ValueError if it is no text, or empty."""
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{location}: the caption is {caption!r}. Every caption must be a text that is not empty.")
        if caption not in self._caption_rows:
            self._caption_rows[caption] = len(self.captions)
            self.captions.append(caption)
        return self._caption_rows[caption]

    def settle(self) -> None:
        """Note missing images, once all is read; FileNotFoundError if `on_missing` is "raise", or none is there."""
        if not self.missing:
            return
        missing, count = len(self.missing), len(self.image_sources)
        examples = ", ".join(map(str, self.missing[:3]))
        told = f"{missing:,} of {missing + count:,} images are missing, for example {examples}"
        if self.on_missing == "raise" or not count:
            skip = ', or on_missing="skip" to leave their items out' if count else ""
            raise FileNotFoundError(f"{told}. Pass images=DIR with the folder that they are in{skip}. {self.hint}")
        self.notes.insert(0, f"{told}; their items are left out.")


def leads_out(folder: PurePath, name: str) -> bool:
    """Whether a name in a file that somebody else wrote would open what lies outside an absolute folder."""
    return ".." in type(folder)(name).parts or folder not in (folder / name).parents
