"""Where stored embeddings lie: local folders, and by URL (s3://, gs://, ...) whatever fsspec opens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from labclip.files import file_system
from labclip.stored.formats import FORMATS, LEFT_ALONE, OF_IMAGES

TEXTS, IMAGES, METADATA = "text_emb", "img_emb", "metadata"
"""The folders of clip-retrieval."""

RECORD, UNFINISHED, FACTS = ".json", ".unfinished", "run.json"
"""Endings of what is kept about a place: its manifest, and the folder of an unfinished run, with the facts of it."""


@dataclass(frozen=True)
class Place:
    """A file or folder that may not exist yet.

    Attributes:
        fs: The file system of fsspec.
        root: The path in it, with "/" between its parts.
        shown: As the user typed it.
    """

    fs: Any
    root: str
    shown: str

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disks."""
        return "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self.root).name

    def beside(self, ending: str, *, is_folder: bool) -> str:
        """The path of what is kept about it: in a folder, beside a file. Readers of folders skip names with "_"."""
        if is_folder:
            return f"{self.root}/_labclip{ending}"
        return str(PurePosixPath(self.root).with_name(f"_{self.name}.labclip{ending}"))


def place_of(path: str | Path) -> Place:
    """A path, or a URL that fsspec knows; errors as of `file_system`."""
    return Place(*file_system(path), str(path))


def version_of(place: Place) -> str:
    """What changes when a file is written again."""
    try:
        return f"{place.fs.checksum(place.root):x}"
    except (OSError, TypeError, ValueError):
        return ""


@dataclass(frozen=True)
class Shard:
    """A file that is read, and where it is written.

    Attributes:
        name: Its path in the folder; of a single file its name.
        source: Where it is.
        target: Where it goes.
        copied: Whether it holds no embeddings.
    """

    name: str
    source: Place
    target: Place
    copied: bool = False


def find_shards(source: Place, target: Place) -> tuple[list[Shard], bool]:
    """The files of a source, and whether it is a folder.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it holds no stored text embeddings.
    """
    fs = source.fs
    _refuse_images(source.name, source.shown)
    if fs.isfile(source.root):
        _check_endings(source, target)
        return [Shard(source.name, source, target)], False
    if not fs.isdir(source.root):
        raise FileNotFoundError(f"There is no {source.shown}. Pass a file or folder of stored text embeddings.")
    names = _names(source, "")
    if fs.isdir(f"{source.root}/{TEXTS}"):
        shards = [_shard(f"{TEXTS}/{name}", source, target) for name in _names(source, TEXTS) if _known(name)]
        if fs.isdir(f"{source.root}/{METADATA}"):
            beside = _names(source, METADATA)
            shards += [_shard(f"{METADATA}/{name}", source, target, copied=True) for name in beside]
    else:
        if fs.isdir(f"{source.root}/{IMAGES}"):
            _refuse_images(IMAGES, source.shown)
        shards = [_shard(name, source, target) for name in names if _known(name)]
    if all(shard.copied for shard in shards):
        raise ValueError(
            f"{source.shown} holds no stored embeddings: no file that ends in {', '.join(FORMATS)}, and no {TEXTS} of "
            f"clip-retrieval."
        )
    for shard in shards:
        _refuse_images(PurePosixPath(shard.name).name, f"{source.shown}: {shard.name}")
    return shards, True


def _refuse_images(name: str, shown: str) -> None:
    """Refuse with ValueError what is called image embeddings."""
    if OF_IMAGES.match(name):
        raise ValueError(f"{shown} holds image embeddings by its name. {LEFT_ALONE}. Pass the text embeddings.")


def _check_endings(source: Place, target: Place) -> None:
    ending, wanted = (PurePosixPath(place.root).suffix.lower() for place in (source, target))
    if ending not in FORMATS:
        raise ValueError(f"{source.shown} ends in {ending!r}. Stored embeddings are read from {', '.join(FORMATS)}.")
    if wanted != ending:
        raise ValueError(f"{target.shown} does not end in {ending}. The format is kept: end its name so.")


def _known(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in FORMATS and not name.startswith(("_", "."))


def _names(place: Place, folder: str) -> list[str]:
    """The files that lie directly in a folder of a place, numbers in order."""
    path = f"{place.root}/{folder}" if folder else place.root
    found = [PurePosixPath(one["name"]).name for one in place.fs.ls(path, detail=True) if one["type"] == "file"]
    return sorted(found, key=lambda name: [int(one) if one.isdecimal() else one for one in re.split(r"(\d+)", name)])


def _shard(name: str, source: Place, target: Place, *, copied: bool = False) -> Shard:
    read, written = (Place(one.fs, f"{one.root}/{name}", one.shown) for one in (source, target))
    return Shard(name, read, written, copied)


def holders(place: Place, shards: Sequence[Shard]) -> Iterator[tuple[str, str]]:
    """Where a record may be that says that a place, or one of its shards, is aligned: path, and its name in there."""
    for is_folder in (True, False):
        yield place.beside(RECORD, is_folder=is_folder), ""
        yield f"{place.beside(UNFINISHED, is_folder=is_folder)}/{FACTS}", ""
    parts = PurePosixPath(place.root)
    for folder in list(parts.parents)[:2]:
        yield f"{folder}/_labclip{RECORD}", str(parts.relative_to(folder))
    beside = {shard.source.beside(RECORD, is_folder=False) for shard in shards}
    for inside in {str(PurePosixPath(path).parent) for path in beside} if place.fs.isdir(place.root) else ():
        yield from ((path, "") for path in place.fs.ls(inside, detail=False) if path in beside)
