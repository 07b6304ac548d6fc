"""Names of the files that labclip reads and writes, checks of paths, atomic writing, and JSON. Needs no torch."""

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
"""OpenCLIP's names for a weights file; the first that exists is loaded."""

MANIFEST, UNFINISHED = "manifest.json", "unfinished.sqlite"
"""The record of a finished feature folder, and that of an unfinished one."""

_PARTIAL = ".labclip-"


def path_of(path: str | Path) -> Any:
    """A `Path`, or for a URL such as s3://bucket/photos a `UPath`; ValueError if fsspec can't open the URL."""
    if "://" not in str(path) or str(path).startswith("file://"):
        return Path(str(path).removeprefix("file://"))
    remote = require("upath", f"To read {path}, labclip needs universal-pathlib", "pip install universal-pathlib")
    from fsspec.core import url_to_fs

    try:
        url_to_fs(str(path))
    except (ImportError, ValueError) as error:
        raise ValueError(f"{path} can't be opened ({error}). Pass a path, or a URL that fsspec knows.") from error
    return remote.UPath(path)


def is_alignment_folder(folder: Path) -> bool:
    """Whether a folder holds the files of an alignment."""
    return all((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def check_embed_target(folder: Path, *, force: bool = False) -> None:
    """Raise as `check_folder` does and, without `force`, if features would be written next to photos, for example."""
    check_folder(folder)
    if force or not folder.is_dir() or any((folder / name).exists() for name in (MANIFEST, UNFINISHED)):
        return
    if names := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        raise ValueError(
            f"{folder} is not a feature folder: it holds {names[0]}, but no {MANIFEST}. Pass another folder, or "
            f"force=True to write next to the files in it."
        )


def check_feature_folder(folder: Path) -> None:
    """Raise FileNotFoundError if a path is not a feature folder, and ValueError if it is an unfinished one."""
    if (folder / MANIFEST).is_file():
        return
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder} is not finished. Run the same labclip.embed again: it continues where it stopped.")
    raise FileNotFoundError(f"There is no feature folder {folder}: it has no {MANIFEST}. labclip.embed makes one.")


def sha256_of(path: Path, *, start: int = 0) -> str:
    """SHA-256 of a file's bytes from offset `start` to its end, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def check_file(path: Path) -> None:
    """Raise FileNotFoundError if the folder of a file does not exist, and ValueError if the file can't be written."""
    folder = path.absolute().parent
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Pass the path of a file in it.")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Make it: mkdir -p {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"{path} is not writable. Pass a path that is.")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; when the block ends without an error, the file replaces `path`.

    A device such as /dev/stdout is written directly. Raises as `check_file` does, and OSError.
    """
    check_file(path)
    if (path.exists() and not path.is_file()) or path.absolute().as_posix().startswith("/dev/"):
        yield path
        return
    target = Path(os.path.realpath(path))  # so that a symbolic link is kept
    # The thread id is unique on a machine, so threads and processes that write the same file do not collide.
    partial = target.with_name(f"{_PARTIAL}{threading.get_native_id()}-{target.name}")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the error of a full disk names no file
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path, names: Container[str]) -> None:
    """Remove the temporary files of `atomic_file` for these file names, which a killed process left in a folder.

    A process that is still writing one of them fails.
    """
    for partial in folder.glob(f"{_PARTIAL}*-*"):
        if partial.name.removeprefix(_PARTIAL).partition("-")[2] in names:
            partial.unlink(missing_ok=True)


def check_folder(folder: Path, *, needs: int = 0) -> Path:
    """Check that files can be written into a folder, and return it, or its nearest parent that exists.

    Raises ValueError if that is a file or has fewer than `needs` bytes free, and OSError if it can't be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file. Pass the path of a folder.")
    with tempfile.TemporaryFile(dir=existing):
        free = shutil.disk_usage(existing).free
    if free < needs:
        raise ValueError(f"{folder} needs {needs:,} bytes, but {free:,} are free. Pass another folder.")
    return existing


def make_folder(folder: Path) -> None:
    """Make a folder that files can be written into. Raises as `check_folder` does."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)


def read_json(path: str | Path, *, remedy: str = "") -> Any:
    """The value of a UTF-8 JSON file; ValueError names the file, line and column, and ends with `remedy`."""
    try:
        return json.loads(path_of(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. {remedy}".rstrip()) from error


def known_benchmarks() -> dict[str, dict[str, Any]]:
    """The entries of benchmarks.json, keyed by benchmark."""
    path = Path(__file__).parent / "evaluation" / "benchmarks" / "benchmarks.json"
    return {entry["name"]: entry for entry in read_json(path)}


def check_benchmark(name: str) -> None:
    """Raise ValueError if no benchmark has this name."""
    names = known_benchmarks()
    if name not in names:
        raise ValueError(f"There is no benchmark {name!r}.{suggestion(name, names)} Benchmarks: {', '.join(names)}.")


def read_json_object(path: str | Path, *, remedy: str = "") -> dict[str, Any]:
    """The object of a JSON file. Raises as `read_json` does, and ValueError if the value is not an object."""
    value = read_json(path, remedy=remedy)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object. {remedy}".rstrip())
    return value
