"""Files: the names of those in the folders of labclip and OpenCLIP, JSON, and paths checked before the work.

Imports no torch, so that the command line may use it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from labclip.packages import MissingPackageError, require

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
"""The files of an alignment folder."""

OPENCLIP_CONFIG, OPENCLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WEIGHT_FILES = (OPENCLIP_WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""What OpenCLIP calls a model's weights, the first that is there."""

MANIFEST, UNFINISHED = "manifest.json", "unfinished.sqlite"
"""The record of a feature folder, and of one that is not finished."""

_PART = ".labclip-"


def file_system(path: str | Path) -> tuple[Any, str]:
    """The file system of fsspec that a path or URL is on, and the path in it.

    Raises:
        ValueError: If the URL's protocol is not known.
        MissingPackageError: If its protocol needs a package that is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(str(path))
    except ImportError as error:
        raise MissingPackageError(f"{path} can't be opened: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{path} can't be opened ({error}). Pass a path, or a URL that fsspec knows.") from error
    return fs, root


def path_of(path: str | Path) -> Any:
    """A path, or of a URL such as s3://bucket/photos what reads like one; errors as of `file_system`."""
    if "://" not in str(path) or str(path).startswith("file://"):
        return Path(str(path).removeprefix("file://"))
    remote = require("upath", f"To read {path}, labclip needs universal-pathlib", "pip install universal-pathlib")
    file_system(path)
    return remote.UPath(path)


def weights_in(folder: Path) -> Path | None:
    """The weights file of an OpenCLIP folder."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def is_alignment_folder(folder: Path) -> bool:
    """Whether a folder holds the files of an alignment."""
    return all((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def check_alignment_folder(folder: Path) -> None:
    """Refuse with FileNotFoundError a path that is no folder with the files of an alignment."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass an alignment folder that labclip made.")
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{folder} is not an alignment folder: {' and '.join(missing)} missing. Make one with "
            f"alignment.save_pretrained, or convert a checkpoint: labclip convert FILE.pt FOLDER."
        )


def check_checkpoint(path: Path) -> None:
    """Refuse a path that is no file of a torch checkpoint: ValueError, or FileNotFoundError where there is nothing."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a torch checkpoint. Pass the .pt file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Pass the path of a torch checkpoint, for example matrix.pt.")


def check_embeds_into(folder: Path) -> None:
    """Refuse with ValueError a folder for features that holds something else, such as photos; hidden files are none."""
    if not folder.is_dir() or any((folder / name).exists() for name in (MANIFEST, UNFINISHED)):
        return
    if found := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ValueError(
            f"{folder} is no feature folder: it holds {found[0]}{more}, and no {MANIFEST}. Pass another folder, or "
            f"force=True to write beside what is there."
        )


def check_feature_folder(folder: Path) -> None:
    """Refuse a path that is no finished folder of features.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is a file, holds something else, or is not finished.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file. Pass the feature folder that labclip.embed made.")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Make one with labclip.embed.")
    if not (folder / MANIFEST).is_file():
        if (folder / UNFINISHED).exists():
            raise ValueError(f"{folder} is not finished. Run the same labclip.embed again: it goes on from there.")
        raise ValueError(f"{folder} is not a feature folder: it has no {MANIFEST}. labclip.embed makes one.")


def sha256_of(path: Path, *, start: int = 0) -> str:
    """SHA-256 of a file's bytes from `start` on, in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def check_file(path: Path) -> None:
    """Refuse a path that no file can be written to.

    Raises:
        FileNotFoundError: If its folder does not exist.
        OSError: If no file can have that path.
        ValueError: If it is a folder, or may not be written.
    """
    folder = path.absolute().parent
    with suppress(FileNotFoundError, NotADirectoryError):
        path.stat()  # links in a circle, a name that is too long
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Pass the path of a file in it.")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Make it: mkdir -p {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"{path} is not writable. Pass a path that is.")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes the place of `path` when the block ends, whole or not at all.

    What is no plain file, such as /dev/stdout, is written as it is.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If it is a folder, or may not be written.
        OSError: If it can't be written; what was there is then still whole.
    """
    check_file(path)
    with _named(path, "Pass a path that you may write."):
        if (not path.is_file() and path.exists()) or path.absolute().as_posix().startswith(("/dev/", "/proc/")):
            yield path
            return
        target = Path(os.path.realpath(path))  # a link stays one
        with tempfile.TemporaryDirectory(prefix=_PART, dir=target.parent) as folder:
            part = Path(folder, target.name)
            yield part
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(part, target)


def remove_parts(folder: Path, names: Container[str]) -> None:
    """Remove what `whole_file` left of files of a folder where its process was killed.

    A process that is still writing one of them then fails to finish it.
    """
    for part in folder.glob(f"{_PART}*/*"):
        if part.name in names:
            shutil.rmtree(part.parent, ignore_errors=True)


def check_folder(folder: Path, *, needs: int = 0) -> None:
    """Refuse a folder that files can't be written in, or with less than `needs` bytes free; none is made.

    Raises:
        ValueError: If it is a file, or too little is free.
        OSError: If it can't be written.
    """
    with _named(folder, "Pass a folder in which you may write."):
        if os.path.lexists(folder) and not folder.is_dir():
            what = "a file" if folder.exists() else "a link that leads nowhere"
            raise ValueError(f"{folder} is {what}. Pass the path of a folder.")
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    if free < needs:
        raise ValueError(
            f"{folder} can't hold the {needs:,} bytes that are to be written: {free:,} are free. Free some space, or "
            f"pass another folder."
        )


def make_folder(folder: Path) -> None:
    """Make a folder that files can be written in; errors as of `check_folder`."""
    check_folder(folder)
    with _named(folder, "Pass a folder in which you may write."):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _named(path: Path, remedy: str) -> Iterator[None]:
    """Make the system's errors name the path and what to do, of their kind and number, by which the cache knows its."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # it is in our words already
            raise
        raised = type(error)(f"{path} can't be written ({error.strerror}). {remedy}")
        raised.errno = error.errno
        raise raised from error


def read_json(path: str | Path, *, remedy: str = "", max_bytes: int | None = None) -> Any:
    """The value of a JSON file, UTF-8.

    `remedy` is the last sentence of every message; a file of more than `max_bytes` is refused. ValueError names the
    file, the line and the column.
    """
    file, end = path_of(path), f" {remedy}" if remedy else ""
    if file.exists() and not file.is_file():  # reading a pipe might never end
        raise ValueError(f"{path} is a folder, a pipe or a device, not a file.{end}")
    if max_bytes is not None and (size := file.stat().st_size) > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, where at most {max_bytes:,} are expected.{end}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is not JSON: it is nested too deeply.{end}") from error
    except (ValueError, MemoryError) as error:  # also of bytes that are no text, and numbers of thousands of digits
        raise ValueError(f"{path} is not JSON: {error or 'it is too large for the memory'}.{end}") from error


def read_json_object(path: str | Path, *, remedy: str = "", max_bytes: int | None = None) -> dict[str, Any]:
    """The object of a JSON file: `read_json`, and ValueError if the value is not an object."""
    value = read_json(path, remedy=remedy, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object.{f' {remedy}' if remedy else ''}")
    return value
