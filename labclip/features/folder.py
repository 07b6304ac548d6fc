"""The feature folder: its files, and how they are written and read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from labclip._version import __version__
from labclip.base import Base
from labclip.data.items import Kind
from labclip.files import (
    MANIFEST,
    UNFINISHED,
    atomic_file,
    check_feature_folder,
    read_json_object,
    remove_partial_files,
    sha256_of,
)

FORMAT_VERSION = 2
FIELDS = {
    "images": ("image_features.npy", "<f4", "images dim"),
    "texts": ("text_features.npy", "<f4", "texts dim"),
    "image_index": ("image_index.npy", "<i8", "texts"),
    "negatives": ("negative_features.npy", "<f4", "texts k dim"),
    "has_negative": ("has_negative.npy", "|b1", "texts k"),
    "negative_images": ("negative_image_features.npy", "<f4", "texts k dim"),
    "has_negative_image": ("has_negative_image.npy", "|b1", "texts k"),
    "kind": ("kind.npy", "|i1", "texts"),
}
"""For each array of `Features` its file, its dtype and its axes."""

COUNTED = ("captions", "parts", "keywords")
"""The keys of each `Kind` in the manifest's counts. `parts` and `keywords` are left out if all are captions."""

LINES = ("images.jsonl", "captions.jsonl")
CONTENT = (*(file for file, _, _ in FIELDS.values()), *LINES)
"""The files of a folder, without the manifest, in the manifest's order."""

# Bytes of NumPy's header. The length is fixed, so that the header can be written last, when the shape is known.
HEADER = 128
KEEP_SECONDS = 5.0
"""Seconds of work that a kill can lose."""

_REMEDY = "Make the folder again: labclip.embed(..., force=True)."
_SAMPLE = 64  # rows of each array that every load checks


class Writer:
    """Writes the files of a feature folder and records the progress of the run; a context manager.

    The progress is an SQLite file in the folder, so it is consistent after a kill at any moment. The file is also a
    lock, taken before anything else in the folder is touched, which the system frees after a kill. `force` discards
    an earlier run. `values` is the progress, as JSON values. As long as it is empty, an error removes the files.
    """

    def __init__(self, folder: Path, *, force: bool = False) -> None:
        self._folder, self._path = folder, folder / UNFINISHED
        self._files: dict[str, BinaryIO] = {}
        self._sizes: dict[str, int] = {}
        self.values: dict[str, Any] = {}
        self._kept_at = time.monotonic()
        self._db = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        with self._explaining_errors():
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("BEGIN EXCLUSIVE")
            if not self._path.exists():  # a lock on a removed file locks nobody out
                raise sqlite3.OperationalError("locked by a run that ended just now")
            self._db.execute("CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY, value TEXT)")
            if force:
                self._db.execute("DELETE FROM progress")
            for (value,) in self._db.execute("SELECT value FROM progress"):
                self.values = json.loads(value)
            self._db.execute("COMMIT")

    @contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._db.close()
            if "locked" in str(error) or not self._path.exists():
                raise ValueError(f"{self._folder} is being written by another process. Wait for it to end.") from error
            raise ValueError(
                f"{self._path} can't be used ({error}). Run the same again, or pass force=True."
            ) from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        is_finished = (self._folder / MANIFEST).exists()
        if self._files and self.values and not is_finished:
            self._keep()  # the next run continues here, even after an error
        for file in self._files.values():
            file.close()
        if os.name == "nt":  # Windows can't remove an open file
            self._db.close()
        if is_finished or not self.values:
            for name in () if is_finished else self._files:
                (self._folder / name).unlink()
            self._path.unlink()
            self._path.with_name(f"{UNFINISHED}-journal").unlink(missing_ok=True)
            with suppress(OSError):
                self._folder.rmdir()  # fails unless the folder is empty
        self._db.close()

    def begin(self) -> None:
        """Open the files at the sizes that an earlier run recorded, and remove all others.

        The manifest is removed too: a folder without one counts as unfinished.
        """
        remove_partial_files(self._folder, {MANIFEST})  # left by a run that was killed while writing it
        (self._folder / MANIFEST).unlink(missing_ok=True)
        for name in CONTENT:
            path = self._folder / name
            if (size := self.values["sizes"].get(name)) is None:
                path.unlink(missing_ok=True)
            else:
                self._files[name], self._sizes[name] = path.open("r+b"), size
                self._files[name].truncate(size)
                self._files[name].seek(size)

    def append(self, name: str, data: Any) -> None:
        """Write rows at the end of an array of `FIELDS`, or bytes at the end of a file of `LINES`."""
        if name in FIELDS:
            name, dtype, _ = FIELDS[name]
            data = np.ascontiguousarray(data, dtype)
        if name not in self._files:
            self._files[name] = (self._folder / name).open("w+b")
            self._sizes[name] = self._files[name].write(bytes(0 if name in LINES else HEADER))
        self._sizes[name] += self._files[name].write(data)

    def images(self, dim: int) -> NDArray[np.float32]:
        """The image embeddings written so far, memory-mapped, [n, dim]."""
        name, dtype, _ = FIELDS["images"]
        self._files[name].flush()
        return np.memmap(self._folder / name, dtype, "r", offset=HEADER).reshape(-1, dim)

    def note(self, **values: Any) -> None:
        """Update the progress, together with the present sizes of the files. It is saved every few seconds."""
        self.values.update(values, sizes=self._sizes.copy())
        if time.monotonic() - self._kept_at >= KEEP_SECONDS:
            self._keep()

    def _keep(self) -> None:
        """Save the progress, after the files. After a kill, the run continues from here."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        with self._explaining_errors():
            self._db.execute("INSERT OR REPLACE INTO progress VALUES (1, ?)", (json.dumps(self.values),))
        self._kept_at = time.monotonic()

    def finish(self, record: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """Write the header of each array, then the manifest. The folder is then finished.

        `record` becomes the manifest. Its `dim` and `counts` give each array's shape; rows after that are cut off.
        """
        self._keep()
        shapes = _shapes(record)
        for name in shapes.keys() & self._files.keys():
            shape, dtype = shapes[name]
            size = HEADER + math.prod(shape) * np.dtype(dtype).itemsize
            assert self._sizes[name] >= size, f"{name} lacks rows"
            self._files[name].truncate(size)
            self._files[name].seek(0)
            self._files[name].write(_header(shape, dtype))
        self._keep()
        file_records: dict[str, Any] = {}
        for name in (name for name in CONTENT if name in self._files):
            path = self._folder / name
            file_records[name] = {"bytes": path.stat().st_size, "sha256": _content_sha256(path)}
            if name in shapes:
                file_records[name]["sample_sha256"] = _sample_sha256(_map_array(path, *shapes[name]))
        head = {"library_name": "labclip", "format_version": FORMAT_VERSION}
        text = json.dumps({**head, **record, "files": file_records, "versions": versions}, indent=1, ensure_ascii=False)
        with atomic_file(self._folder / MANIFEST) as path:
            path.write_text(text + "\n", encoding="utf-8", newline="\n")


def read_folder(folder: Path, *, verify: bool) -> dict[str, Any]:
    """The fields of `Features` from a finished folder; arguments and errors as in `Features.load`."""
    manifest = read_manifest(folder)
    shapes, arrays = _shapes(manifest), {}
    for name, record in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else "no"
        if size != record["bytes"]:
            raise ValueError(f"{path} has {size} bytes, but {MANIFEST} says {record['bytes']}. {_REMEDY}")
        differs = verify and _content_sha256(path) != record["sha256"]
        if name in shapes:
            arrays[name] = _map_array(path, *shapes[name])
            differs |= _sample_sha256(arrays[name]) != record["sample_sha256"]
        if differs:
            raise ValueError(f"{path} was changed after it was written: {MANIFEST} has another SHA-256. {_REMEDY}")
    base, fingerprint = manifest["base"], manifest["fingerprint"]
    return {
        **{field: arrays[name] for field, (name, _, _) in FIELDS.items() if name in arrays},
        "base": None if base is None else Base(**base),
        "fingerprint": None if fingerprint is None else np.asarray(fingerprint, dtype=np.float32),
        "folder": folder,
        "manifest": manifest,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder."""
    check_feature_folder(folder)
    path = folder / MANIFEST
    manifest = read_json_object(path, remedy=_REMEDY)
    if (version := manifest.get("format_version")) != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, and labclip {__version__} reads {FORMAT_VERSION}. {_REMEDY} If the "
            f"version is later, type: pip install --upgrade labclip"
        )
    return manifest


def _sample_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of up to `_SAMPLE` evenly spaced rows, from the first to the last."""
    count = min(_SAMPLE, len(array))
    rows = np.arange(count, dtype=np.int64) * (len(array) - 1) // max(count - 1, 1)
    return hashlib.sha256(np.ascontiguousarray(array[rows]).data).hexdigest()


def _content_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal digits; the header of an array is left out."""
    return sha256_of(path, start=HEADER if path.suffix == ".npy" else 0)


def counts_of(
    n_images: int, kinds: NDArray[np.int8], has_negative: NDArray[np.bool_], *, true_negatives: int, texts_cut: int
) -> dict[str, int]:
    """The manifest's counts, from the kind [n_texts] of each text and the flags [n_texts, k] of its negatives."""
    by_kind = dict(zip(COUNTED, np.bincount(kinds, minlength=len(COUNTED)).tolist(), strict=True))
    counts = {
        "images": n_images, "captions": by_kind["captions"], "negatives_per_caption": has_negative.shape[1],
        "captions_with_negative": int(has_negative[kinds == Kind.CAPTION].any(axis=1).sum()),
        "true_negatives": true_negatives, "texts_cut": texts_cut,
    }  # fmt: skip
    return counts | (by_kind if kinds.any() else {})


def _shapes(record: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each file of an array that a folder with this record can have."""
    counts = record["counts"]
    texts = sum(counts.get(name, 0) for name in COUNTED)
    sizes = {"images": counts["images"], "texts": texts, "k": counts["negatives_per_caption"], "dim": record["dim"]}
    return {file: (tuple(sizes[axis] for axis in axes.split()), dtype) for file, dtype, axes in FIELDS.values()}


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The header of a .npy file, padded to `HEADER` bytes."""
    body = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def _map_array(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Memory-map an array with the manifest's shape and dtype. The header of the file is not read."""
    return np.memmap(path, dtype, "r", offset=HEADER, shape=shape)
