"""The names of the files in the folders of labclip and OpenCLIP; paths that are to be written, checked before the work.

Imports no torch, so that the command line may use it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
"""The files of an alignment folder."""

OPENCLIP_CONFIG, OPENCLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WEIGHT_FILES = (OPENCLIP_WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""What OpenCLIP calls a model's weights, the first that is there."""

MANIFEST = "manifest.json"
"""The record of a feature folder."""


def weights_in(folder: Path) -> Path | None:
    """The weights file of an OpenCLIP folder."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def hash_of(path: Path, *, start: int = 0, stop: int | None = None, into: Any = None) -> Any:
    """A hash object, SHA-256 unless one is passed, that has taken in a file's bytes from `start` to `stop`."""
    found, chunk = hashlib.sha256() if into is None else into, 1 << 20
    with path.open("rb") as file:
        file.seek(start)
        while data := file.read(chunk if stop is None else min(chunk, max(stop - file.tell(), 0))):
            found.update(data)
    return found


def check_file(path: Path) -> None:
    """Refuse a path that no file can be written to.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If it is a folder, or may not be written.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Pass the path of a file in it.")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Make it: mkdir -p {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"{path} is not writable. Pass a path that is.")


def make_folder(folder: Path) -> None:
    """Make a folder that files can be written in; ValueError if it is a file, OSError if it can't be."""
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file. Pass the path of a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        # Of its kind and number, by which the cache knows its own errors.
        raised = type(error)(f"{folder} can't be written ({error.strerror}). Pass a folder in which you may write.")
        raised.errno = error.errno
        raise raised from error
