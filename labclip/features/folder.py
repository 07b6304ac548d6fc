"""The feature folder: what is in it, how it is written, and how it is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from labclip._version import __version__
from labclip.encode.fingerprint import base_in
from labclip.files import MANIFEST, check_feature_folder, read_json_object, sha256_of, whole_file

PART = ".part"
FORMAT_VERSION = 2
IMAGES, TEXTS = "image_features.npy", "text_features.npy"
NEGATIVES, HAS_NEGATIVE = "negative_features.npy", "has_negative.npy"
NEGATIVE_IMAGES, HAS_NEGATIVE_IMAGE = "negative_image_features.npy", "has_negative_image.npy"
INDEX = "image_index.npy"
NEGATIVE_ONLY_IMAGES = "shown.npy"
"""Of an unfinished run: the embeddings of images that negatives describe and no caption does."""

IMAGE_NAMES, CAPTIONS = "images.jsonl", "captions.jsonl"
FIELDS = {
    "images": IMAGES, "texts": TEXTS, "image_index": INDEX, "negatives": NEGATIVES, "has_negative": HAS_NEGATIVE,
    "negative_images": NEGATIVE_IMAGES, "has_negative_image": HAS_NEGATIVE_IMAGE,
}  # fmt: skip
"""The file of each array of `Features`."""

CONTENT = (*FIELDS.values(), IMAGE_NAMES, CAPTIONS)
"""The files beside the manifest, in its order."""

# NumPy's header, padded to one length whatever the shape, so that it can be written when the shape is known.
HEADER = 128
_AGAIN = "Make the folder again: labclip.embed(..., force=True)."
_SAMPLE = 64  # rows of each array that every load looks at
_SMALL = 4 << 20  # files up to so many bytes are looked at whole


def read_folder(folder: Path, *, verify: bool) -> dict[str, Any]:
    """The fields of `Features` from a folder; see `Features.load`."""
    manifest = read_manifest(folder)
    try:
        shapes = array_shapes(manifest["counts"], manifest["dim"])
        arrays = {name: _mapped(folder / name, *shapes[name]) for name in shapes if name in manifest["files"]}
        for name, record in manifest["files"].items():
            _check_file(folder / name, record, arrays.get(name), verify)
        fingerprint = manifest["fingerprint"]
        return {
            **{field: arrays.get(name) for field, name in FIELDS.items()},
            "base": base_in(manifest),
            "fingerprint": None if fingerprint is None else np.asarray(fingerprint, dtype=np.float32),
            "folder": folder,
            "manifest": manifest,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} is not sound ({type(error).__name__}: {error}). {_AGAIN}") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The record of a finished folder, checked against its own hash."""
    check_feature_folder(folder)
    path = folder / MANIFEST
    manifest = read_json_object(path, remedy=_AGAIN)
    version = manifest.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, and labclip {__version__} reads {FORMAT_VERSION}. "
            f"Type: pip install --upgrade labclip"
        )
    if version != FORMAT_VERSION or "manifest_sha256" not in manifest:
        raise ValueError(f"{path} is not the manifest of features in format version {FORMAT_VERSION}. {_AGAIN}")
    if sealed(manifest) != manifest:
        raise ValueError(f"{path} was changed after it was written: its manifest_sha256 is another. {_AGAIN}")
    return manifest


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the SHA-256 of all its other values, in their order."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(rest, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return {**rest, "manifest_sha256": hashlib.sha256(text).hexdigest()}


class Files:
    """The files of a feature folder while they grow, each with `.part` behind its name.

    Args:
        folder: The folder.
        sizes: The bytes of each that an earlier run has kept; what is behind them is cut off.

    Raises:
        ValueError: If a file is shorter than that.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}
        for name, size in (sizes or {}).items():
            path = self._part(name)
            if not path.exists() or path.stat().st_size < size:
                raise ValueError(f"{path} is shorter than it was. Pass force=True to start from scratch.")
            self._open[name] = _opened(path, size)

    def _part(self, name: str) -> Path:
        return self._folder / (name + PART)

    def append(self, name: str, data: bytes | NDArray[Any]) -> None:
        """Write behind the end of a file."""
        if name not in self._open:
            self._open[name] = _opened(self._part(name), HEADER if name.endswith(".npy") else 0)
        self._open[name].write(data if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B"))

    def sizes(self) -> dict[str, int]:
        """The bytes of each file."""
        return {name: file.tell() for name, file in self._open.items()}

    def flush(self) -> None:
        """Wait until all is on the disk."""
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())

    def rows(self, name: str, rows: NDArray[Any], dim: int) -> NDArray[np.float32]:
        """Rows of embeddings that are on the disk, float32 [..., dim]."""
        return np.memmap(self._part(name), "<f4", "r", offset=HEADER).reshape(-1, dim)[rows]

    def finish(self, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, Any]:
        """Write the header of each array; the files as the manifest records them."""
        for name in shapes.keys() & self._open.keys():
            self._open[name].seek(0)
            self._open[name].write(header(*shapes[name]))
        self.flush()
        records: dict[str, Any] = {}
        for name in (name for name in CONTENT if name in self._open):
            path = self._part(name)
            records[name] = {"bytes": path.stat().st_size, "sha256": content_sha256(path)}
            if name in shapes:
                records[name]["sample_sha256"] = sample_sha256(np.load(path, mmap_mode="r"))
        return records

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()


def _opened(path: Path, size: int) -> BinaryIO:
    """A file to be written behind its first bytes; what is behind them now is cut off."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file


def publish(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Give every file of a manifest its name, then write the manifest, with which the folder counts as finished.

    What a kill left undone is done when called again.
    """
    for name in manifest["files"]:
        if (part := folder / (name + PART)).exists():
            os.replace(part, folder / name)
    with whole_file(folder / MANIFEST) as path:
        head = {"library_name": "labclip", "format_version": FORMAT_VERSION}
        text = json.dumps(sealed({**head, **manifest}), indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8", newline="\n")


COUNTS = ("images", "captions", "negatives_per_caption", "captions_with_negative", "true_negatives", "texts_cut")
"""The counts of a manifest, in its order."""


def array_shapes(counts: Mapping[str, int], dim: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array that a folder may have."""
    images, texts, most = (counts[name] for name in ("images", "captions", "negatives_per_caption"))
    return {
        IMAGES: ((images, dim), "<f4"),
        TEXTS: ((texts, dim), "<f4"),
        INDEX: ((texts,), "<i8"),
        NEGATIVES: ((texts, most, dim), "<f4"),
        HAS_NEGATIVE: ((texts, most), "|b1"),
        NEGATIVE_IMAGES: ((texts, most, dim), "<f4"),
        HAS_NEGATIVE_IMAGE: ((texts, most), "|b1"),
    }


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    """NumPy's header, of `HEADER` bytes."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape})
    body = text.encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def content_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, of an array's behind its header, in hexadecimal digits."""
    return sha256_of(path, start=HEADER if ".npy" in path.suffixes else 0)


def sample_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of some rows, from the first to the last, evenly spaced."""
    count = min(_SAMPLE, len(array))
    rows = np.arange(count, dtype=np.int64) * (len(array) - 1) // max(count - 1, 1)
    return hashlib.sha256(np.ascontiguousarray(array[rows]).data).hexdigest()


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> Any:
    try:
        if path.exists() and not path.is_file():  # reading a pipe might never end
            raise ValueError("it is no file")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy evaluates the header, and a damaged one raises a dozen types
        raise ValueError(f"{path} is missing or cut off ({error}). {_AGAIN}") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(
            f"{path} holds {array.dtype} {list(array.shape)}, but {MANIFEST} says {np.dtype(dtype)} {list(shape)}. "
            f"{_AGAIN}"
        )
    return array


def _check_file(path: Path, record: Mapping[str, Any], array: Any, verify: bool) -> None:
    """Size and some rows always; everything where it is little, or asked for."""
    size = path.stat().st_size if path.is_file() else -1
    if size != record["bytes"]:
        found = "is missing" if size < 0 else f"has {size:,} bytes"
        raise ValueError(f"{path} {found}, but {MANIFEST} says {record['bytes']:,} bytes. {_AGAIN}")
    changed = array is not None and sample_sha256(array) != record["sample_sha256"]
    if not changed and (verify or size <= _SMALL):
        changed = content_sha256(path) != record["sha256"]
    if changed:
        raise ValueError(f"{path} was changed after it was written: {MANIFEST} has another SHA-256 of it. {_AGAIN}")
