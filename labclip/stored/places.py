"""Where stored embeddings lie: local folders, and by URL (s3://, gs://, ...) whatever fsspec opens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from labclip.base import Base
from labclip.files import MANIFEST, file_system
from labclip.stored.formats import FORMATS, LEFT_ALONE, OF_IMAGES

_TEXTS, _IMAGES, _METADATA = "text_emb", "img_emb", "metadata"  # the folders of clip-retrieval


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

    @property
    def version(self) -> str:
        """What changes when the file is written again."""
        try:
            return f"{self.fs.checksum(self.root):x}"
        except (OSError, TypeError, ValueError):
            return ""

    def record(self, *, is_folder: bool) -> str:
        """The path of its manifest: in a folder, beside a file. Readers of folders skip names with "_"."""
        if is_folder:
            return f"{self.root}/_labclip.json"
        return str(PurePosixPath(self.root).with_name(f"_{self.name}.labclip.json"))


def place_of(path: str | Path) -> Place:
    """A path, or a URL that fsspec knows; errors as of `file_system`."""
    return Place(*file_system(path), str(path))


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


def find_shards(source: Place, target: Place, base: Base | None) -> tuple[list[Shard], bool]:
    """The files of a source, and whether it is a folder.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it holds no stored text embeddings, or those of another base than the alignment's.
    """
    fs = source.fs
    _refuse_images(source.name, source.shown)
    if fs.isfile(source.root):
        ending, wanted = (PurePosixPath(place.root).suffix.lower() for place in (source, target))
        if ending not in FORMATS:
            raise ValueError(
                f"{source.shown} ends in {ending!r}. Stored embeddings are read from {', '.join(FORMATS)}."
            )
        if wanted != ending:
            raise ValueError(f"{target.shown} does not end in {ending}. The format is kept: end its name so.")
        _check_folder_of(source, base)
        return [Shard(source.name, source, target)], False
    if not fs.isdir(source.root):
        raise FileNotFoundError(f"There is no {source.shown}. Pass a file or folder of stored text embeddings.")
    if _feature_manifest(fs, source.root):
        raise ValueError(f"{source.shown} is a feature folder. {LEFT_ALONE}. Pass {source.shown}/text_features.npy.")

    def shard(name: str, *, copied: bool = False) -> Shard:
        read, written = (Place(one.fs, f"{one.root}/{name}", one.shown) for one in (source, target))
        return Shard(name, read, written, copied)

    if fs.isdir(f"{source.root}/{_TEXTS}"):
        shards = [shard(f"{_TEXTS}/{name}") for name in _names(source, _TEXTS) if _known(name)]
        if fs.isdir(f"{source.root}/{_METADATA}"):
            shards += [shard(f"{_METADATA}/{name}", copied=True) for name in _names(source, _METADATA)]
    else:
        if fs.isdir(f"{source.root}/{_IMAGES}"):
            _refuse_images(_IMAGES, source.shown)
        shards = [shard(name) for name in _names(source) if _known(name)]
    if all(one.copied for one in shards):
        raise ValueError(
            f"{source.shown} holds no stored embeddings: no file that ends in {', '.join(FORMATS)}, and no {_TEXTS} of "
            f"clip-retrieval."
        )
    for one in shards:
        _refuse_images(PurePosixPath(one.name).name, f"{source.shown}: {one.name}")
    return shards, True


def _refuse_images(name: str, shown: str) -> None:
    """Refuse with ValueError what is called image embeddings."""
    if OF_IMAGES.match(name):
        raise ValueError(f"{shown} holds image embeddings by its name. {LEFT_ALONE}. Pass the text embeddings.")


def _check_folder_of(source: Place, base: Base | None) -> None:
    """Refuse with ValueError what the folder of a file says are image embeddings, or of another base."""
    folder = PurePosixPath(source.root).parent
    found = OF_IMAGES.match(folder.name)
    if found and found[3]:  # not of a folder "images", which may hold anything
        raise ValueError(
            f"{source.shown} holds image embeddings by its folder. {LEFT_ALONE}. Pass the text embeddings."
        )
    recorded = _feature_manifest(source.fs, str(folder)).get("base")
    if recorded and base is not None and not Base(**recorded).matches(base):
        raise ValueError(
            f"{source.shown} holds embeddings of {Base(**recorded)}, as its {MANIFEST} says, but the alignment was "
            f"fitted on {base}. Pass the one of their base."
        )


def _feature_manifest(fs: Any, folder: str) -> Mapping[str, Any]:
    """The manifest of a folder that `embed` made; empty of another."""
    found = read_record(fs, f"{folder}/{MANIFEST}") or {}
    return found if found.get("library_name") == "labclip" and "images_sha256" in found else {}


def _known(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in FORMATS and not name.startswith(("_", "."))


def _names(place: Place, folder: str = "") -> list[str]:
    """The files that lie directly in a folder of a place, numbers in order."""
    path = f"{place.root}/{folder}" if folder else place.root
    found = [PurePosixPath(one["name"]).name for one in place.fs.ls(path, detail=True) if one["type"] == "file"]
    return sorted(found, key=lambda name: [int(one) if one.isdecimal() else one for one in re.split(r"(\d+)", name)])


def aligned_by(source: Place, shards: Sequence[Shard]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The manifests that say that a source, or one of its files, is aligned already, with their paths."""
    holders = {source.record(is_folder=is_folder): "" for is_folder in (True, False)}
    parts = PurePosixPath(source.root)
    holders |= {f"{folder}/_labclip.json": str(parts.relative_to(folder)) for folder in list(parts.parents)[:2]}
    beside = {shard.source.record(is_folder=False) for shard in shards}
    for inside in {str(PurePosixPath(path).parent) for path in beside} if source.fs.isdir(source.root) else ():
        holders |= {path: "" for path in source.fs.ls(inside, detail=False) if path in beside}
    for path, name in holders.items():
        found = read_record(source.fs, path) or {}
        names = [shard["name"] for shard in found.get("shards", ())]
        if found and (not name or any(one == name or one.startswith(f"{name}/") for one in names)):
            yield path, found


def read_record(fs: Any, path: str) -> dict[str, Any] | None:
    """A JSON object, or None where there is none."""
    try:
        found = json.loads(fs.cat_file(path))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
