"""The files of a feature folder while they grow: hashed as they are written, cut off at what was sealed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from labclip.features.folder import CONTENT, HEADER, PART, content_sha256, header, sample_sha256

Sealed = Mapping[str, tuple[int, str]]
"""By file its length and the SHA-256 of what it holds, of an array behind its header."""


class Parts:
    """Files in a folder that end in `.part` until they are finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, tuple[BinaryIO, Any]] = {}  # with the hash of what is in it

    def open(self, sealed: Sealed) -> None:
        """Check what an earlier run sealed, and cut off what it did not; a file that was changed is an error."""
        for name, (length, sha256) in sealed.items():
            digest = self._verified(name, length, sha256)
            if (path := self._part(name)).exists():
                self._open[name] = _opened(path, length), digest

    def cut(self, sealed: Sealed, lengths: Mapping[str, int]) -> Sealed:
        """What is sealed of some files if no more than the first bytes of each count."""
        kept = {}
        for name, length in lengths.items():
            if name in sealed:
                self._verified(name, *sealed[name])
                if not (path := self._part(name)).exists():  # killed when all but the manifest was there
                    os.replace(self._folder / name, path)
                kept[name] = length, content_sha256(path, length).hexdigest()
        return kept

    def _part(self, name: str) -> Path:
        return self._folder / (name + PART)

    def _verified(self, name: str, length: int, sha256: str) -> Any:
        """The hash of a file's sealed bytes, to go on with."""
        part = self._part(name)
        path = part if part.exists() else self._folder / name
        remedy = "Pass force=True to start from scratch."
        if not path.exists() or path.stat().st_size < length:
            raise ValueError(f"{part} is shorter than it was. {remedy}")
        digest = content_sha256(path, length)
        if digest.hexdigest() != sha256:
            raise ValueError(f"{path} was changed since it was written. {remedy}")
        return digest

    def append(self, name: str, data: bytes | np.ndarray[Any, Any]) -> None:
        """Write behind the end of a file."""
        if name not in self._open:
            self._open[name] = _opened(self._part(name), HEADER if name.endswith(".npy") else 0), hashlib.sha256()
        file, digest = self._open[name]
        written = data if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B")
        file.write(written)
        digest.update(written)

    def seal(self) -> Sealed:
        """What there is of the files that are open, once it is on the disk."""
        for file, _ in self._open.values():
            _flush(file)
        return {name: (file.tell(), digest.hexdigest()) for name, (file, digest) in self._open.items()}

    def rows(self, name: str, places: np.ndarray[Any, Any], dim: int) -> np.ndarray[Any, Any]:
        """Rows of embeddings that were sealed, float32 [len(places), dim]."""
        return np.memmap(self._part(name), "<f4", "r", offset=HEADER).reshape(-1, dim)[places]

    def finish(self, sealed: Sealed, arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, Any]:
        """Give every sealed file its name, and every array its header; remove any other of a feature folder.

        What a kill left undone is done when called again. Returns the files as the manifest records them.
        """
        self.close()
        files: dict[str, Any] = {}
        for name in CONTENT:
            path, part = self._folder / name, self._part(name)
            if name not in sealed:
                path.unlink(missing_ok=True)
                part.unlink(missing_ok=True)
                continue
            length, sha256 = sealed[name]
            if part.exists():
                with _opened(part, length) as file:
                    if name in arrays:
                        file.seek(0)
                        file.write(header(*arrays[name]))
                    _flush(file)
                os.replace(part, path)
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256}
            if name in arrays:
                files[name]["sample_sha256"] = sample_sha256(np.load(path, mmap_mode="r"))
        return files

    def close(self) -> None:
        """Close the files."""
        for file, _ in self._open.values():
            file.close()
        self._open = {}


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _opened(path: Path, length: int) -> BinaryIO:
    """A file to be written behind its first bytes; what is behind them now is cut off."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(length)
    file.seek(length)
    return file
