"""The files of a source: which are aligned, which are copied, and what is refused by its name or its record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labclip.base import Base
from labclip.files import MANIFEST, read_json_object
from labclip.stored.formats import FORMATS, LEFT_ALONE, OF_IMAGES

AnyPath = Any
"""A `Path`, or a `UPath` of a URL."""

_TEXTS, _IMAGES, _METADATA = "text_emb", "img_emb", "metadata"  # the folders of clip-retrieval


@dataclass(frozen=True)
class Shard:
    """A file that is read, and where it is written.

    Attributes:
        name: Its path in the folder, or the name of a single file.
        source: Where it is.
        target: Where it goes.
        copied: Whether it holds no embeddings.
    """

    name: str
    source: AnyPath
    target: AnyPath
    copied: bool = False

    @property
    def version(self) -> str:
        """What changes when the source is written again."""
        if isinstance(self.source, Path):
            stat = self.source.stat()
            return f"{stat.st_size} {stat.st_mtime_ns}"
        return str(self.source.fs.checksum(self.source.path))


def manifest_path(path: AnyPath, *, is_folder: bool) -> AnyPath:
    """The manifest of a result: in a folder, beside a file. Readers of folders skip names that begin with "_"."""
    return path / "_labclip.json" if is_folder else path.with_name(f"_{path.name}.labclip.json")


def find_shards(source: AnyPath, target: AnyPath, base: Base | None) -> list[Shard]:
    """The files of a source.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it holds no stored text embeddings, or those of another base than the alignment's.
    """
    if source.is_dir():
        shards = list(_shards_of_folder(source, target))
        if all(shard.copied for shard in shards):
            raise ValueError(
                f"{source} holds no stored embeddings: no file that ends in {', '.join(FORMATS)}, and no {_TEXTS} of "
                f"clip-retrieval."
            )
    elif source.is_file():
        if source.suffix.lower() not in FORMATS:
            raise ValueError(
                f"{source} ends in {source.suffix!r}. Stored embeddings are read from {', '.join(FORMATS)}."
            )
        if target.suffix.lower() != source.suffix.lower():
            raise ValueError(f"{target} does not end in {source.suffix}. The format is kept: end its name so.")
        shards = [Shard(source.name, source, target)]
        _check_base(source, base)
    else:
        raise FileNotFoundError(f"There is no {source}. Pass a file or folder of stored text embeddings.")
    inside = OF_IMAGES.match(source.parent.name)
    paths = [source, *(shard.source for shard in shards if not shard.copied)]
    if of_images := [path for path in paths if OF_IMAGES.match(path.name)]:
        raise ValueError(f"{of_images[0]} holds image embeddings by its name. {LEFT_ALONE}. Pass the text embeddings.")
    if inside and inside[3]:  # not in a folder "images", which may hold anything
        raise ValueError(f"{source} holds image embeddings by its folder. {LEFT_ALONE}. Pass the text embeddings.")
    return shards


def _shards_of_folder(source: AnyPath, target: AnyPath) -> Iterator[Shard]:
    if _recorded_features(source):
        raise ValueError(f"{source} is a feature folder. {LEFT_ALONE}. Pass {source}/text_features.npy.")
    texts = source / _TEXTS if any((source / name).is_dir() for name in (_TEXTS, _IMAGES)) else source
    for path in _files(texts):
        if path.suffix.lower() in FORMATS and not path.name.startswith(("_", ".")):
            name = path.name if texts == source else f"{_TEXTS}/{path.name}"
            yield Shard(name, path, target / name)
    for path in _files(source / _METADATA) if texts != source else ():
        name = f"{_METADATA}/{path.name}"
        yield Shard(name, path, target / name, copied=True)


def _files(folder: AnyPath) -> list[AnyPath]:
    """The files that lie directly in a folder, by their names."""
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _check_base(file: AnyPath, base: Base | None) -> None:
    """Refuse with ValueError a file of a feature folder that records another base."""
    recorded = _recorded_features(file.parent).get("base")
    if recorded and base is not None and not Base(**recorded).matches(base):
        raise ValueError(
            f"{file} holds embeddings of {Base(**recorded)}, as its {MANIFEST} says, but the alignment was fitted on "
            f"{base}. Pass the one of their base."
        )


def _recorded_features(folder: AnyPath) -> dict[str, Any]:
    """The manifest of a folder that `embed` made; empty of another."""
    path = folder / MANIFEST
    found = read_json_object(path) if path.is_file() else {}
    return found if found.get("library_name") == "labclip" and "images_sha256" in found else {}
