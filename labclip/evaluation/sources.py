"""The files of a benchmark on the user's disk: all that is missing is told at once, with where to get it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from labclip.data.images import Box, Captions, Images
from labclip.evaluation.tasks import Question, Task


@dataclass(frozen=True)
class Benchmark:
    """One benchmark as the table knows it.

    Attributes:
        name: As the command line takes it.
        title: For tables.
        measures: "binding", "retrieval" or "classification": which side of the trade its metrics are on.
        wants: The files, in words, relative to `--data` and `--images`.
        source: Where people get them.
        licence: Under which terms.
        paper: Where it is defined.
        read: Files -> task; its keyword arguments are the benchmark's options.
        headline: The metrics that stand for it in a short table.
    """

    name: str
    title: str
    measures: str
    wants: str
    source: str
    licence: str
    paper: str
    read: Callable[..., Task]
    headline: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The reader's options with their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.read).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }


@dataclass
class Sources:
    """Where a benchmark's files lie, and what of it was found.

    Args:
        data: File or folder of the questions; None for a benchmark that needs none.
        images: Folder that paths of pictures are relative to; None is the folder of `data`.
        on_missing: "raise", or "skip" to leave out pictures that are not there, with a note.
        hint: What the benchmark wants and where people get it, for messages.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If `images` is no folder.
    """

    data: Path | None
    images: Path | None = None
    on_missing: str = "raise"
    hint: str = ""
    pictures: Images = field(default_factory=Images)
    captions: Captions = field(default_factory=Captions)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in (self.data, self.images):
            if path is not None and not path.exists():
                raise FileNotFoundError(f"There is no {path}. {self.hint}")
        if self.images is not None and not self.images.is_dir():
            raise ValueError(f"--images is {self.images}, which is no folder. {self.hint}")

    @cached_property
    def folder(self) -> Path:
        """The folder of the questions."""
        if self.data is None:
            raise FileNotFoundError(f"No data was given. Pass --data PATH. {self.hint}")
        return self.data if self.data.is_dir() else self.data.parent

    def files(self, *names: str) -> list[Path]:
        """Files of the data folder, or the one file that `data` is.

        Args:
            names: Relative to the folder.

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

    def where(self, name: Any, place: str) -> Path:
        """The path of a picture.

        Args:
            name: Path relative to the folder of images, or an absolute one in it.
            place: File and position, for the message.

        Raises:
            ValueError: If the name is no path inside the folder.
        """
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"{place}: the picture's name is {name!r}. Every item must name its picture.")
        folder, path = self.images or self.folder, PurePath(name)
        # A name from a file that somebody else wrote must not open what lies elsewhere.
        inside = not path.is_absolute() or folder.absolute() in path.parents
        if ".." in path.parts or not path.parts or not inside:
            raise ValueError(
                f"{place}: the picture's name {name!r} leads out of {folder}. Pass --images DIR with the folder that "
                f"all pictures are in."
            )
        return folder / path

    def picture(self, name: Any, place: str, *, box: Box | None = None) -> int | None:
        """The row of a picture, or None where its file is missing.

        Args:
            name: Path relative to the folder of images.
            place: File and position, for the message.
            box: Crop to this: left, top, width, height, in pixels.

        Raises:
            ValueError: If the name is no path inside the folder.
        """
        return self.pictures.file(self.where(name, place), box)

    def settle(self) -> None:
        """Say which pictures are missing, once everything is read.

        Raises:
            FileNotFoundError: If there are some and `on_missing` is "raise", or none was found.
        """
        missing, found = self.pictures.missing, self.pictures.sources
        if missing:
            said = (
                f"{len(missing):,} of {len(missing) + len(found):,} pictures are missing, for example "
                f"{', '.join(map(str, missing[:3]))}"
            )
            if not found and self.on_missing == "skip":
                raise FileNotFoundError(
                    f"All {len(missing):,} pictures are missing, for example {missing[0]}: nothing is left to measure. "
                    f"Pass --images DIR with the folder that they are in. {self.hint}"
                )
            if self.on_missing == "raise":
                raise FileNotFoundError(
                    f"{said}. Pass --images DIR with the folder that they are in, or --on-missing skip to leave their "
                    f"items out. {self.hint}"
                )
            self.notes.insert(0, f"{said}; their items are left out.")

    def task(self, *questions: Question) -> Task:
        """The task, once everything is read.

        Raises:
            FileNotFoundError: If pictures are missing and `on_missing` is "raise".
            ValueError: If there is no item.
        """
        self.settle()
        if not self.pictures.sources or not questions:
            lacks = "no item"
            if self.pictures.sources:
                lacks = "no question: no item has a negative, and retrieval needs at least two images"
            raise ValueError(f"{self.data or 'The benchmark'} has {lacks}. {self.hint}")
        return Task(self.pictures.sources, self.captions.captions, questions, self.notes)


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: If it is no JSON; file, line and column are named.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be read.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: byte {error.start}.") from error


def fields(item: Any, names: Sequence[str], place: str) -> list[Any]:
    """Values of a JSON object.

    Raises:
        ValueError: If it is no object, or has not all of them.
    """
    if not isinstance(item, dict):
        raise ValueError(f"{place} is a {type(item).__name__}, not an object with {', '.join(names)}.")
    lacking = [name for name in names if name not in item]
    if lacking:
        raise ValueError(f"{place} has no {', '.join(lacking)}; it has {', '.join(map(str, item)) or 'nothing'}.")
    return [item[name] for name in names]
