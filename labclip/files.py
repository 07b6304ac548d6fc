"""Files: the names of those in the folders of labclip and OpenCLIP, JSON, and paths checked before the work.

Imports no torch, so that the command line may use it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labclip.checks import suggestion
from labclip.packages import require

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
"""The files of an alignment folder."""

OPENCLIP_CONFIG, OPENCLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WEIGHT_FILES = (OPENCLIP_WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""OpenCLIP's names of a weights file; the first that exists is taken."""

MANIFEST, UNFINISHED = "manifest.json", "unfinished.sqlite"
"""The record of a feature folder, and of one that is not finished."""

_PART = ".labclip-"


def path_of(path: str | Path) -> Any:
    """A path, or of a URL such as s3://bucket/photos what reads like one; ValueError if fsspec can't open it."""
    if "://" not in str(path) or str(path).startswith("file://"):
        return Path(str(path).removeprefix("file://"))
    remote = require("upath", f"To read {path}, labclip needs universal-pathlib", "pip install universal-pathlib")
    from fsspec.core import url_to_fs

    try:
        url_to_fs(str(path))
    except (ImportError, ValueError) as error:
        raise ValueError(f"{path} can't be opened ({error}). Pass a path, or a URL that fsspec knows.") from error
    return remote.UPath(path)


def weights_in(folder: Path) -> Path | None:
    """The weights file of an OpenCLIP folder."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def is_alignment_folder(folder: Path) -> bool:
    """Whether a folder holds the files of an alignment."""
    return all((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def check_embed_target(folder: Path) -> None:
    """Refuse with ValueError a folder for features that holds something else, such as photos; hidden files are none."""
    if not folder.is_dir() or any((folder / name).exists() for name in (MANIFEST, UNFINISHED)):
        return
    if held := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        raise ValueError(
            f"{folder} is no feature folder: it holds {held[0]}, and no {MANIFEST}. Pass another folder, or "
            f"force=True to write beside what is there."
        )


def check_feature_folder(folder: Path) -> None:
    """Refuse a path that is no folder of features, FileNotFoundError, or no finished one, ValueError."""
    if (folder / MANIFEST).is_file():
        return
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder} is not finished. Run the same labclip.embed again: it goes on from there.")
    raise FileNotFoundError(f"There is no folder {folder} of features: no {MANIFEST} in it. labclip.embed makes one.")


def sha256_of(path: Path, *, start: int = 0) -> str:
    """SHA-256 of a file's bytes from `start` on, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def check_file(path: Path) -> None:
    """Refuse a path that no file can be written to: FileNotFoundError if its folder does not exist, else ValueError."""
    folder = path.absolute().parent
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Pass the path of a file in it.")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Make it: mkdir -p {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"{path} is not writable. Pass a path that is.")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes the place of `path` when the block ends, whole or not at all.

    What is no plain file, such as /dev/stdout, is written as it is. Errors as in `check_file`, and OSError.
    """
    check_file(path)
    if (path.exists() and not path.is_file()) or path.absolute().as_posix().startswith("/dev/"):
        yield path
        return
    target = Path(os.path.realpath(path))  # a link stays one
    # Another thread or process may write the same file; a thread's number is no other one's on a machine.
    part = target.with_name(f"{_PART}{threading.get_native_id()}-{target.name}")
    try:
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        part.unlink(missing_ok=True)


def remove_partial_files(folder: Path, names: Container[str]) -> None:
    """Remove what `atomic_file` left of files of a folder where its process was killed; one that lives then fails."""
    for part in folder.glob(f"{_PART}*-*"):
        if part.name.removeprefix(_PART).partition("-")[2] in names:
            part.unlink(missing_ok=True)


def check_folder(folder: Path, *, needs: int = 0) -> None:
    """Refuse a folder that is a file or has less than `needs` bytes free, ValueError, or can't be written, OSError."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file. Pass the path of a folder.")
    with tempfile.TemporaryFile(dir=there):
        free = shutil.disk_usage(there).free
    if free < needs:
        raise ValueError(f"{folder} is to hold {needs:,} bytes, but {free:,} are free. Pass another folder.")


def make_folder(folder: Path) -> None:
    """Make a folder that files can be written in; errors as in `check_folder`."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)


def read_json(path: str | Path, *, remedy: str = "") -> Any:
    """The value of a JSON file, UTF-8; ValueError names the file, the line and the column, and ends with `remedy`."""
    try:
        return json.loads(path_of(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. {remedy}".rstrip()) from error


def known_benchmarks() -> dict[str, dict[str, Any]]:
    """The entries of benchmarks.json, by benchmark."""
    path = Path(__file__).parent / "evaluation" / "benchmarks" / "benchmarks.json"
    return {entry["name"]: entry for entry in read_json(path)}


def check_benchmark(name: str) -> None:
    """Refuse with ValueError a name that no benchmark has."""
    known = known_benchmarks()
    if name not in known:
        raise ValueError(f"There is no benchmark {name!r}.{suggestion(name, known)} Benchmarks: {', '.join(known)}.")


def read_json_object(path: str | Path, *, remedy: str = "") -> dict[str, Any]:
    """The object of a JSON file: `read_json`, and ValueError if the value is not an object."""
    value = read_json(path, remedy=remedy)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object. {remedy}".rstrip())
    return value
