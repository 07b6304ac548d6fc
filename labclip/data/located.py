"""The files of a data set on the user's disk: everything missing is reported at once, with where to get it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.data.images import Box, Captions, Images


@dataclass
class DataFiles:
    """Where the files of a data set are, and the distinct images and captions that were found in them.

    Args:
        data: File or folder of the questions; None for a data set that needs none.
        images: Folder that paths of images are relative to; None is the folder of `data`.
        on_missing: "raise", or "skip" to leave out images that are not there, with a note.
        hint: What the data set needs and where people get it, for messages.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If `images` is not a folder.
    """

    data: Path | None
    images: Path | None = None
    on_missing: str = "raise"
    hint: str = ""
    found: Images = field(default_factory=Images)
    captions: Captions = field(default_factory=Captions)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in (self.data, self.images):
            if path is not None and not path.exists():
                raise FileNotFoundError(f"There is no {path}. {self.hint}")
            if path is not None and not path.is_file() and not path.is_dir():
                raise ValueError(f"{path} is a pipe or a device, not a file. {self.hint}")
        if self.images is not None and not self.images.is_dir():
            raise ValueError(f"images is {self.images}, which is not a folder. {self.hint}")

    @cached_property
    def folder(self) -> Path:
        """The folder of the questions.

        Raises:
            FileNotFoundError: If no data was given.
        """
        if self.data is None:
            raise FileNotFoundError(f"No data was given. Pass data=PATH. {self.hint}")
        return self.data if self.data.is_dir() else self.data.parent

    def files(self, *names: str) -> list[Path]:
        """Files of the data folder, or the one file that `data` is.

        Raises:
            FileNotFoundError: If any is not there: all of them are named, and where to get them.
        """
        if self.data is not None and self.data.is_file() and len(names) == 1:
            return [self.data]
        paths = [self.folder / name for name in names]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} files are missing: {', '.join(missing)}. {self.hint}"
            )
        return paths

    def either(self, *names: str) -> Path:
        """The first of several files of the data folder that is there, or the one file that `data` is.

        Raises:
            FileNotFoundError: If none is there.
        """
        if self.data is not None and self.data.is_file():
            return self.data
        found = next((path for name in names if (path := self.folder / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(f"{self.folder} has no {' and no '.join(names)}. {self.hint}")
        return found

    def path_of(self, name: Any, location: str) -> Path:
        """The path of an image; arguments and errors as of `image`."""
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"{location}: the image's name is {name!r}. Every item must name its image.")
        folder = self.images or self.folder
        if leads_out(folder.absolute(), name):
            raise ValueError(
                f"{location}: the image's name {name!r} leads out of {folder}. "
                f"Pass images=DIR with the folder that all images are in."
            )
        return folder / name

    def image(self, name: Any, location: str, *, box: Box | None = None) -> int | None:
        """The row of an image, or None where its file is missing.

        Args:
            name: Path relative to the folder of images, or an absolute one in it.
            location: File and position, for the message.
            box: Crop to this: left, top, width, height, in pixels.

        Raises:
            ValueError: If the name is no path inside the folder.
        """
        return self.found.file(self.path_of(name, location), box)

    def image_in_memory(self, source: bytes | NDArray[np.uint8], name: str) -> int:
        """The row of an image that is a file's bytes, or pixels, uint8 [height, width, 3]."""
        return self.found.held(source, name)

    def image_in_cell(self, cell: Any, location: str, layout: ImageLayout) -> int | None:
        """The row of an image that a cell names, or holds as bytes, as Hugging Face data sets do."""
        if isinstance(cell, dict) and set(cell) <= {"bytes", "path"}:
            cell = cell.get("bytes") or cell.get("path")
        return self.image_in_memory(cell, location) if isinstance(cell, bytes) else layout.image(cell, location)

    def settle(self) -> None:
        """Report missing images, once everything is read.

        Raises:
            FileNotFoundError: If there are some and `on_missing` is "raise", or none was found.
        """
        missing, count = self.found.missing, len(self.found.sources)
        if not missing:
            return
        examples = ", ".join(map(str, missing[:3]))
        said = f"{len(missing):,} of {len(missing) + count:,} images are missing, for example {examples}"
        if not count and self.on_missing == "skip":
            raise FileNotFoundError(
                f"All {len(missing):,} images are missing, for example {missing[0]}: nothing is left to measure. "
                f"Pass images=DIR with the folder that they are in. {self.hint}"
            )
        if self.on_missing == "raise":
            raise FileNotFoundError(
                f'{said}. Pass images=DIR with the folder that they are in, or on_missing="skip" to leave their items '
                f"out. {self.hint}"
            )
        self.notes.insert(0, f"{said}; their items are left out.")


class ImageLayout:
    """How images lie in people's folders: the first way that finds an image is taken for all that follow.

    Args:
        files: Where the images are.
        ways: From an image's name in the file to its path: `{path}` is the name itself, `{name}` the name without its
            folders, `{rest}` without the first of them.
    """

    def __init__(self, files: DataFiles, *ways: str) -> None:
        self.files, self._ways = files, ways
        self._way: str | None = None

    def image(self, name: Any, location: str, *, box: Box | None = None) -> int | None:
        """The row of an image; arguments and errors as of `DataFiles.image`."""
        self.files.path_of(name, location)
        words = {"path": name, "name": base_name(name), "rest": name.partition("/")[2] or name}
        if self._way is None:
            exists = self.files.found.exists
            tried = (way for way in self._ways if exists(self.files.path_of(way.format(**words), location)))
            self._way = next(tried, None)
        return self.files.image((self._way or self._ways[0]).format(**words), location, box=box)


def leads_out(folder: PurePath, name: str) -> bool:
    """Whether a name in a file that somebody else wrote would open what lies outside an absolute folder.

    On Windows so do names with a root and no drive, with another drive, and of a server.
    """
    return ".." in type(folder)(name).parts or folder not in (folder / name).parents


def base_name(path: str) -> str:
    """The last part of a path in a file."""
    return PurePosixPath(path).name
