"""The feature folder: what is in it, how it is written, and how it is read."""

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
    "images": "image_features.npy", "texts": "text_features.npy", "image_index": "image_index.npy",
    "negatives": "negative_features.npy", "has_negative": "has_negative.npy",
    "negative_images": "negative_image_features.npy", "has_negative_image": "has_negative_image.npy",
    "kind": "kind.npy",
}  # fmt: skip
"""The file of each array of `Features`."""

COUNTED = ("captions", "parts", "keywords")
"""What texts of each `Kind` are called in the manifest's counts; the last two only where there are some."""

LINES = ("images.jsonl", "captions.jsonl")
CONTENT = (*FIELDS.values(), *LINES)
"""The files beside the manifest, in its order."""

# NumPy's header, padded to one length whatever the shape, so that it can be written when the shape is known.
HEADER = 128
KEEP_SECONDS = 5.0
"""How much work a kill may cost."""

_AGAIN = "Make the folder again: labclip.embed(..., force=True)."
_SAMPLE = 64  # rows of each array that every load looks at


class Writer:
    """The files of a feature folder while they grow, and how far the run is; a context manager.

    How far it is stands in an SQLite file of the folder: whole after a kill at any moment, and a lock, taken before
    anything else in the folder is touched, which the system frees after a kill. `force` forgets an earlier run.
    `values` are plain JSON values, empty where nothing is begun: then the files of this run are removed where it fails.
    """

    def __init__(self, folder: Path, *, force: bool = False) -> None:
        self._folder, self._path = folder, folder / UNFINISHED
        self._open: dict[str, BinaryIO] = {}
        self._sizes: dict[str, int] = {}
        self.values: dict[str, Any] = {}
        self._kept = time.monotonic()
        self._db = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        with self._named():
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("BEGIN EXCLUSIVE")
            if not self._path.exists():  # a lock on what is gone keeps nobody out
                raise sqlite3.OperationalError("locked by a run that ended just now")
            self._db.execute("CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY, value TEXT)")
            if force:
                self._db.execute("DELETE FROM progress")
            for (value,) in self._db.execute("SELECT value FROM progress"):
                self.values = json.loads(value)
            self._db.execute("COMMIT")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._db.close()
            if "locked" in str(error) or not self._path.exists():
                raise ValueError(f"{self._folder} is being written by another process. Wait for it to end.") from error
            raise ValueError(
                f"{self._path} can't be used ({error}). Type the same again, or pass force=True."
            ) from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        finished = (self._folder / MANIFEST).exists()
        if self._open and self.values and not finished:
            self._keep()  # what came before an error counts
        for file in self._open.values():
            file.close()
        if os.name == "nt":  # which removes no open file
            self._db.close()
        if finished or not self.values:
            for name in () if finished else self._open:
                (self._folder / name).unlink()
            self._path.unlink()
            self._path.with_name(f"{UNFINISHED}-journal").unlink(missing_ok=True)
            with suppress(OSError):
                self._folder.rmdir()  # where it is empty
        self._db.close()

    def begin(self) -> None:
        """Open the files as an earlier run has kept them; what is behind that is cut off, other features are removed.

        So is the manifest: a folder without one counts as unfinished.
        """
        remove_partial_files(self._folder, {MANIFEST})  # of a run that was killed where it wrote it
        (self._folder / MANIFEST).unlink(missing_ok=True)
        for name in CONTENT:
            path = self._folder / name
            if (size := self.values["sizes"].get(name)) is None:
                path.unlink(missing_ok=True)
            else:
                self._open[name], self._sizes[name] = path.open("r+b"), size
                self._open[name].truncate(size)
                self._open[name].seek(size)

    def append(self, name: str, data: bytes | NDArray[Any]) -> None:
        """Write bytes, or an array that is contiguous, behind the end of a file of `CONTENT`."""
        if name not in self._open:
            self._open[name] = (self._folder / name).open("w+b")
            self._sizes[name] = self._open[name].write(bytes(0 if name in LINES else HEADER))
        self._sizes[name] += self._open[name].write(data)  # type: ignore[arg-type]

    def embeddings(self, name: str, dim: int) -> NDArray[np.float32]:
        """What a file of embeddings holds by now, memory-mapped, [n, dim]."""
        self._open[name].flush()
        return np.memmap(self._folder / name, np.float32, "r", offset=HEADER).reshape(-1, dim)

    def note(self, **values: Any) -> None:
        """What is done now counts, with what the files hold now. Every few seconds it is kept."""
        self.values.update(values, sizes=self._sizes.copy())
        if time.monotonic() - self._kept >= KEEP_SECONDS:
            self._keep()

    def _keep(self) -> None:
        """After a kill, the run goes on from here."""
        self._flush()
        with self._named():
            self._db.execute("INSERT OR REPLACE INTO progress VALUES (1, ?)", (json.dumps(self.values),))
        self._kept = time.monotonic()

    def _flush(self) -> None:
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())

    def finish(self, record: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """Write the header of each array, then the manifest, with which the folder counts as finished.

        Of the record, what the manifest says of the features, `dim` and `counts` decide the shapes; what an array has
        behind its own is cut off.
        """
        self._keep()
        shapes = _shapes(record)
        for name in shapes.keys() & self._open.keys():
            shape, dtype = shapes[name]
            size = HEADER + math.prod(shape) * np.dtype(dtype).itemsize
            assert self._sizes[name] >= size, f"{name} lacks rows"
            self._open[name].truncate(size)
            self._open[name].seek(0)
            self._open[name].write(_header(shape, dtype))
        self._flush()
        files: dict[str, Any] = {}
        for name in (name for name in CONTENT if name in self._open):
            path = self._folder / name
            files[name] = {"bytes": path.stat().st_size, "sha256": _content_sha256(path)}
            if name in shapes:
                files[name]["sample_sha256"] = _sample_sha256(_mapped(path, *shapes[name]))
        head = {"library_name": "labclip", "format_version": FORMAT_VERSION}
        text = json.dumps({**head, **record, "files": files, "versions": versions}, indent=1, ensure_ascii=False)
        with atomic_file(self._folder / MANIFEST) as path:
            path.write_text(text + "\n", encoding="utf-8", newline="\n")


def read_folder(folder: Path, *, verify: bool) -> dict[str, Any]:
    """The fields of `Features` from a folder; see `Features.load`."""
    manifest = read_manifest(folder)
    shapes, arrays = _shapes(manifest), {}
    for name, record in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else "no"
        if size != record["bytes"]:
            raise ValueError(f"{path} has {size} bytes, but {MANIFEST} says {record['bytes']}. {_AGAIN}")
        changed = verify and _content_sha256(path) != record["sha256"]
        if name in shapes:
            arrays[name] = _mapped(path, *shapes[name])
            changed |= _sample_sha256(arrays[name]) != record["sample_sha256"]
        if changed:
            raise ValueError(f"{path} was changed after it was written: {MANIFEST} has another SHA-256 of it. {_AGAIN}")
    base, fingerprint = manifest["base"], manifest["fingerprint"]
    return {
        **{field: arrays[name] for field, name in FIELDS.items() if name in arrays},
        "base": None if base is None else Base(**base),
        "fingerprint": None if fingerprint is None else np.asarray(fingerprint, dtype=np.float32),
        "folder": folder,
        "manifest": manifest,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The record of a finished folder."""
    check_feature_folder(folder)
    path = folder / MANIFEST
    manifest = read_json_object(path, remedy=_AGAIN)
    if (version := manifest.get("format_version")) != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, and labclip {__version__} reads {FORMAT_VERSION}. {_AGAIN} For a "
            f"later version type: pip install --upgrade labclip"
        )
    return manifest


def _sample_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of some rows, from the first to the last, evenly spaced."""
    count = min(_SAMPLE, len(array))
    rows = np.arange(count, dtype=np.int64) * (len(array) - 1) // max(count - 1, 1)
    return hashlib.sha256(np.ascontiguousarray(array[rows]).data).hexdigest()


def _content_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, of an array's behind its header, in hexadecimal digits."""
    return sha256_of(path, start=HEADER if path.suffix == ".npy" else 0)


def counts_of(
    images: int, kinds: NDArray[np.int8], has_negative: NDArray[np.bool_], *, true_negatives: int, texts_cut: int
) -> dict[str, int]:
    """The manifest's counts."""
    by_kind = dict(zip(COUNTED, np.bincount(kinds, minlength=len(COUNTED)).tolist(), strict=True))
    counts = {
        "images": images, "captions": by_kind["captions"], "negatives_per_caption": has_negative.shape[1],
        "captions_with_negative": int(has_negative[kinds == Kind.CAPTION].any(axis=1).sum()),
        "true_negatives": true_negatives, "texts_cut": texts_cut,
    }  # fmt: skip
    return counts | (by_kind if kinds.any() else {})


def _shapes(record: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array that the folder of a manifest may have, by its file."""
    counts, dim = record["counts"], record["dim"]
    texts, k = sum(counts.get(name, 0) for name in COUNTED), counts["negatives_per_caption"]
    shapes = {
        "images": ((counts["images"], dim), "<f4"),
        "texts": ((texts, dim), "<f4"),
        "image_index": ((texts,), "<i8"),
        "negatives": ((texts, k, dim), "<f4"),
        "has_negative": ((texts, k), "|b1"),
        "negative_images": ((texts, k, dim), "<f4"),
        "has_negative_image": ((texts, k), "|b1"),
        "kind": ((texts,), "|i1"),
    }
    return {FIELDS[field]: shape for field, shape in shapes.items()}


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """NumPy's header, of `HEADER` bytes."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape})
    body = text.encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An array as the manifest, not the header of its file, describes it."""
    return np.memmap(path, dtype, "r", offset=HEADER, shape=shape)
