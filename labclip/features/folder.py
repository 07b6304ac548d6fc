"""The feature folder: what is in it, and how it is read. One reader decides whether a manifest is sound."""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip._version import __version__
from labclip.encode.fingerprint import base_in
from labclip.files import MANIFEST, UNFINISHED, check_feature_folder, hash_of, read_json_object

PART = ".part"
FORMAT_VERSION = 2
IMAGES, TEXTS = "image_features.npy", "text_features.npy"
NEGATIVES, HAS_NEGATIVE = "negative_features.npy", "has_negative.npy"
NEGATIVE_IMAGES, HAS_NEGATIVE_IMAGE = "negative_image_features.npy", "has_negative_image.npy"
INDEX = "image_index.npy"
SHOWN = "shown.npy"
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
_SAMPLE = 64  # rows of each array that every load looks at
_SMALL = 4 << 20  # files up to so many bytes are looked at whole


def read_folder(folder: Path, *, verify: bool) -> dict[str, Any]:
    """The fields of `Features` from a folder; see `Features.load`."""
    manifest = read_manifest(folder)
    if verify and not manifest["files"]:
        raise ValueError(f"{folder} was written by labclip 0.1, which recorded no hashes. Embed again to have them.")
    listed = manifest["files"] or _needed(manifest)
    shapes = array_shapes(manifest["counts"], manifest["dim"])
    arrays = {name: _mapped(folder / name, *shapes[name]) for name in shapes if name in listed}
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The record of a finished folder, checked; of format version 1 with `files` empty."""
    check_feature_folder(folder)
    path = folder / MANIFEST
    manifest = read_json_object(path, remedy=_again())
    if "format_version" not in manifest:
        raise ValueError(f"{path} is not the manifest of features: it has no format_version. {_again()}")
    version = manifest["format_version"]
    if type(version) is not int or version < 1:
        raise ValueError(f"{path} has format version {version!r}, not a whole number from 1. {_again()}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, and labclip {__version__} reads 1 to {FORMAT_VERSION}. "
            f"Type: pip install --upgrade labclip"
        )
    if version == 1 and "probe" in manifest:  # its name up to 0.1
        manifest["fingerprint"] = manifest.pop("probe")
    if problem := _problem(manifest, version):
        raise ValueError(f"{path} {problem}. {_again()}")
    return {"files": {}, **manifest}


def _problem(manifest: dict[str, Any], version: int) -> str | None:
    """What is wrong with a manifest, as a sentence goes on after its name."""
    kinds = {key: kind for key, kind in _KINDS.items() if version > 1 or key not in ("files", "manifest_sha256")}
    if extra := [key for key in manifest if key not in kinds]:
        return f"is not the manifest of features: it has {', '.join(extra)} beside its keys"
    if lacking := [key for key in kinds if key not in manifest]:
        return f"is not the manifest of features: it lacks {', '.join(lacking)}"
    for key, kind in kinds.items():
        if not _is(manifest[key], kind):
            return f"is not sound: {key} is {reprlib.repr(manifest[key])}, not {_words(kind)}"
    fingerprint, dim = manifest["fingerprint"], manifest["dim"]
    if fingerprint is not None and len(fingerprint) != dim:
        return f"is not sound: the fingerprint has {len(fingerprint)} numbers, but dim is {dim}"
    if version == 1:
        return None
    if sealed(manifest) != manifest:
        return "was changed after it was written: its manifest_sha256 is another"
    files = manifest["files"]
    if list(files) != [name for name in CONTENT if name in files] or not set(_needed(manifest)) <= set(files):
        return f"lists the files {', '.join(files)}, not those of such a folder in order"
    for name, record in files.items():
        if not _is(record, _ARRAY if name.endswith(".npy") else _FILE):
            return f"is not sound: files has {reprlib.repr(record)} of {name}, not its bytes and SHA-256"
    return None


def _needed(manifest: Mapping[str, Any]) -> list[str]:
    """The arrays that every folder of such counts has."""
    return [IMAGES, TEXTS, INDEX] + ([NEGATIVES, HAS_NEGATIVE] if manifest["counts"]["negatives_per_caption"] else [])


# What each key holds, as `_is` takes it. Lengths and hashes need no look: no array or file has what is not theirs.
_FILE: dict[str, Any] = {"bytes": int, "sha256": str}
_ARRAY = {**_FILE, "sample_sha256": str}
COUNTS = ("images", "captions", "negatives_per_caption", "captions_with_negative", "true_negatives", "texts_cut")
_KINDS: dict[str, Any] = {
    "library_name": str,
    "format_version": int,
    "base": ({"model": str, "pretrained": str, "quick_gelu": bool, "embed_dim": int}, None),
    "dim": int,
    "weights_sha256": (str, None),
    "precision": (str, None),
    "fingerprint": ([(int, float)], None),
    "preprocess": (dict, None),
    "inputs": [{"name": str, **_FILE}],
    "columns": (dict, None),
    "clean": (bool, None),
    "images_sha256": (str, None),
    "counts": dict.fromkeys(COUNTS, int),
    "skipped": [{"where": str, "image": (str, None), "reason": str, "captions": int}],
    "files": dict,
    "versions": dict,
    "manifest_sha256": str,
}


def _is(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type, null, a list of one kind, an object of some keys, or any of several kinds."""
    if isinstance(kind, tuple):
        return any(_is(value, one) for one in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is(one, kind[0]) for one in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and value.keys() == kind.keys() and all(_is(value[k], kind[k]) for k in kind)
    return value is None if kind is None else type(value) is kind


def _words(kind: Any) -> str:
    """A kind in words."""
    if isinstance(kind, tuple):
        return " or ".join(map(_words, kind))
    if isinstance(kind, list):
        return f"a list, each {_words(kind[0])}"
    if isinstance(kind, dict):
        return f"an object of {', '.join(kind)}"
    said = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "an object"}
    return said.get(kind, "null")


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the SHA-256 of all its other values, in their order."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(rest, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return {**rest, "manifest_sha256": hashlib.sha256(text).hexdigest()}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest: whole, or not at all. With it the folder counts as finished."""
    part = folder / (MANIFEST + PART)
    head = {"library_name": "labclip", "format_version": FORMAT_VERSION}
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(sealed({**head, **manifest}), indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / MANIFEST)


def _again() -> str:
    return "Make the folder again: labclip.embed(..., force=True)."


def clear(folder: Path, names: Iterable[str]) -> None:
    """Remove an unfinished or finished run, the named files first."""
    for name in (*names, SHOWN, UNFINISHED, UNFINISHED + "-journal"):
        for path in (folder / name, folder / (name + PART)):
            with suppress(FileNotFoundError):
                path.unlink()


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


def content_sha256(path: Path, stop: int | None = None) -> Any:
    """SHA-256 of a file's bytes up to `stop`, of an array's behind its header: a hash object, to go on with."""
    return hash_of(path, start=HEADER if ".npy" in path.suffixes else 0, stop=stop)


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
        raise ValueError(f"{path} is missing or cut off ({error}). {_again()}") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(
            f"{path} holds {array.dtype} {list(array.shape)}, but {MANIFEST} says {np.dtype(dtype)} {list(shape)}. "
            f"{_again()}"
        )
    return array


def _check_file(path: Path, record: Mapping[str, Any], array: Any, verify: bool) -> None:
    """Size and some rows always; everything where it is little, or asked for."""
    size = path.stat().st_size if path.is_file() else -1
    if size != record["bytes"]:
        found = "is missing" if size < 0 else f"has {size:,} bytes"
        raise ValueError(f"{path} {found}, but {MANIFEST} says {record['bytes']:,} bytes. {_again()}")
    changed = array is not None and sample_sha256(array) != record["sample_sha256"]
    if not changed and (verify or size <= _SMALL):
        changed = content_sha256(path).hexdigest() != record["sha256"]
    if changed:
        raise ValueError(f"{path} was changed after it was written: {MANIFEST} has another SHA-256 of it. {_again()}")
