"""The feature folder: what is in it, and how it is read. One reader decides whether a manifest is sound."""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labclip._version import __version__
from labclip.alignment import Base
from labclip.encode.fingerprint import check_same_model
from labclip.messages import typed

if TYPE_CHECKING:
    from labclip.model import LABCLIP

MANIFEST, UNFINISHED, PART = "manifest.json", "unfinished.sqlite", ".part"
FORMAT_VERSION = 2
IMAGES, TEXTS = "image_features.npy", "text_features.npy"
NEGATIVES, HAS_NEGATIVE = "negative_features.npy", "has_negative.npy"
NEGATIVE_IMAGES, HAS_NEGATIVE_IMAGE = "negative_image_features.npy", "has_negative_image.npy"
INDEX = "image_index.npy"
IMAGE_NAMES, CAPTIONS = "images.jsonl", "captions.jsonl"
CONTENT = (
    IMAGES, TEXTS, INDEX, NEGATIVES, HAS_NEGATIVE, NEGATIVE_IMAGES, HAS_NEGATIVE_IMAGE, IMAGE_NAMES, CAPTIONS,
)  # fmt: skip
"""The files beside the manifest, in its order."""

# NumPy's header, padded to one length whatever the shape, so that it can be written when the shape is known.
HEADER = 128
_SAMPLE = 64  # rows of each array that every load looks at
_SMALL = 4 << 20  # files up to so many bytes are looked at whole
_CHUNK = 1 << 20


def read_folder(folder: str | Path, *, base: LABCLIP | Base | None = None, verify: bool = False) -> dict[str, Any]:
    """The fields of `Features` from a folder; see `Features.load`."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    if base is not None:
        check_same_model(manifest, folder, base)
    if verify and not manifest["files"]:
        raise ValueError(f"{folder} was written by labclip 0.1, which recorded no hashes. Embed again to have them.")
    counts = manifest["counts"]
    shapes = array_shapes(counts, manifest["dim"])
    own = [IMAGES, TEXTS, INDEX] + ([NEGATIVES, HAS_NEGATIVE] if counts["negatives_per_caption"] else [])
    listed = manifest["files"] or own
    arrays = {name: _mapped(folder / name, *shapes[name]) for name in shapes if name in listed}
    for name, record in manifest["files"].items():
        _check_file(folder / name, record, arrays.get(name), verify)
    return {
        "images": arrays[IMAGES],
        "texts": arrays[TEXTS],
        "image_index": arrays[INDEX],
        "negatives": arrays.get(NEGATIVES),
        "has_negative": arrays.get(HAS_NEGATIVE),
        "negative_images": arrays.get(NEGATIVE_IMAGES),
        "has_negative_image": arrays.get(HAS_NEGATIVE_IMAGE),
        "base": None if manifest["base"] is None else Base(**manifest["base"]),
        "fingerprint": _fingerprint(manifest["fingerprint"]),
        "folder": folder,
        "manifest": manifest,
    }


def _fingerprint(numbers: list[float] | None) -> NDArray[np.float32] | None:
    return None if numbers is None else np.asarray(numbers, dtype=np.float32)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The record of a finished folder; of format version 1 with `files` empty.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no finished features, or its manifest is not sound.
    """
    path, command = folder / MANIFEST, typed("labclip.embed", "labclip embed")
    if not folder.is_dir():
        how = typed("labclip.embed(model, captions, folder)", f"labclip embed --model M --captions FILE {folder}")
        raise FileNotFoundError(f"There is no folder {folder}. Make one: {how}")
    if not path.is_file():
        if (folder / UNFINISHED).exists():
            raise ValueError(f"{folder} is not finished. Run the same {command} again: it goes on where it stopped.")
        raise ValueError(f"{folder} is not a feature folder: it has no {MANIFEST}. {command} makes one.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. {_again()}") from error
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise ValueError(f"{path} is not the manifest of features: it has no format_version. {_again()}")
    version = manifest["format_version"]
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version!r}, and labclip {__version__} reads 1 to {FORMAT_VERSION}. "
            f"For a later one type: pip install --upgrade labclip"
        )
    _check_manifest(manifest, path, version)
    return manifest if version > 1 else {"files": {}, **manifest}


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the SHA-256 of all its other values, in their order."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(rest, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return {**rest, "manifest_sha256": hashlib.sha256(text).hexdigest()}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest: whole, or not at all. With it the folder counts as finished."""
    part = folder / (MANIFEST + PART)
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(sealed(manifest), indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / MANIFEST)


def _again() -> str:
    return f"Make the folder again: {typed('labclip.embed(..., force=True)', 'labclip embed --force')}."


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _object_of(**values: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is an object of exactly these keys, each with a sound value."""
    return lambda value: (
        isinstance(value, dict)
        and set(value) == set(values)
        and all(sound(value[key]) for key, sound in values.items())
    )


def _list_of(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(sound, value))


def _or_null(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or sound(value)


COUNTS = ("images", "captions", "negatives_per_caption", "captions_with_negative", "true_negatives", "texts_cut")
_FILE: Callable[[Any], bool] = _object_of(bytes=_whole, sha256=_hash)
_ARRAY: Callable[[Any], bool] = _object_of(bytes=_whole, sha256=_hash, sample_sha256=_hash)
_BASE = _object_of(
    model=_text,
    pretrained=_text,
    quick_gelu=lambda value: isinstance(value, bool),
    embed_dim=lambda value: _whole(value),
)
# What each key holds, and the same in words.
_SOUND: dict[str, tuple[Callable[[Any], bool], str]] = {
    "library_name": (lambda value: value == "labclip", '"labclip"'),
    "format_version": (_whole, "a whole number"),
    "base": (_or_null(_BASE), "an object of model, pretrained, quick_gelu and embed_dim, or null"),
    "dim": (lambda value: _whole(value) and value > 0, "a whole number from 1"),
    "weights_sha256": (_or_null(_hash), "a SHA-256 or null"),
    "precision": (_or_null(_text), "a text or null"),
    "fingerprint": (_or_null(_list_of(lambda value: type(value) in (int, float))), "a list of numbers or null"),
    "preprocess": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "inputs": (_list_of(_object_of(name=_text, bytes=_whole, sha256=_hash)), "a list of files with their SHA-256"),
    "columns": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "clean": (lambda value: value in (None, True, False) and type(value) is not int, "true, false or null"),
    "images_sha256": (_or_null(_hash), "a SHA-256 or null"),
    "counts": (_object_of(**dict.fromkeys(COUNTS, _whole)), f"an object of the whole numbers {', '.join(COUNTS)}"),
    "skipped": (
        _list_of(_object_of(where=_text, image=_or_null(_text), reason=_text, captions=_whole)),
        "a list of what was left out",
    ),
    "files": (
        lambda value: isinstance(value, dict) and all(
            (_ARRAY if name.endswith(".npy") else _FILE)(record) for name, record in value.items()
        ),
        "an object of files, each with its bytes and SHA-256",
    ),
    "versions": (lambda value: isinstance(value, dict) and all(map(_text, value.values())), "an object of texts"),
    "manifest_sha256": (_hash, "a SHA-256"),
}  # fmt: skip


_NEW = ("files", "manifest_sha256")  # in format version 2


def _check_manifest(manifest: dict[str, Any], path: Path, version: int) -> None:
    if version == 1 and "probe" in manifest:  # its name up to 0.1
        manifest["fingerprint"] = manifest.pop("probe")
    known = [key for key in _SOUND if version > 1 or key not in _NEW]
    lacking = [key for key in known if key not in manifest]
    if extra := [key for key in manifest if key not in known]:
        raise ValueError(
            f"{path} is not the manifest of features: it has {', '.join(extra)} beside its keys. {_again()}"
        )
    if lacking:
        raise ValueError(f"{path} is not the manifest of features: it lacks {', '.join(lacking)}. {_again()}")
    for key in known:
        sound, words = _SOUND[key]
        if not sound(manifest[key]):
            raise ValueError(f"{path}: {key} is {reprlib.repr(manifest[key])}, not {words}. {_again()}")
    fingerprint, dim = manifest["fingerprint"], manifest["dim"]
    if fingerprint is not None and len(fingerprint) != dim:
        raise ValueError(f"{path}: the fingerprint has {len(fingerprint)} numbers, but dim is {dim}. {_again()}")
    if version == 1:
        return
    if sealed(manifest) != manifest:
        raise ValueError(f"{path} was changed after it was written: its manifest_sha256 is another. {_again()}")
    files, most = list(manifest["files"]), manifest["counts"]["negatives_per_caption"]
    needed = {IMAGES, TEXTS, INDEX} | ({NEGATIVES, HAS_NEGATIVE} if most else set())
    if files != [name for name in CONTENT if name in files] or not needed <= set(files):
        raise ValueError(f"{path} lists the files {', '.join(files)}, not those of such a folder in order. {_again()}")


def clear(folder: Path, names: Iterable[str]) -> None:
    """Remove an unfinished or finished run, the named files first."""
    for name in (*names, UNFINISHED, UNFINISHED + "-journal"):
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


def describe_file(path: Path, sha256: str) -> dict[str, Any]:
    """A file as the manifest records it.

    Args:
        path: A finished file of the folder.
        sha256: Of its bytes; of an array, of those behind the header.
    """
    record: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": sha256}
    if path.suffix == ".npy":
        record["sample_sha256"] = _sample_sha256(np.load(path, mmap_mode="r"))
    return record


def hash_of(path: Path, stop: int | None = None) -> Any:
    """SHA-256 of a file's bytes up to `stop`, of an array's behind its header: a hash object, to go on with."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(HEADER if ".npy" in path.suffixes else 0)
        while data := file.read(_CHUNK if stop is None else min(_CHUNK, max(stop - file.tell(), 0))):
            digest.update(data)
    return digest


def _sample_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of some rows, the same of every array of one length: from the first to the last, evenly spaced."""
    count = min(_SAMPLE, len(array))
    rows = np.arange(count) * (len(array) - 1) // max(count - 1, 1)
    return hashlib.sha256(np.ascontiguousarray(array[rows]).data).hexdigest()


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
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
    changed = array is not None and _sample_sha256(array) != record["sample_sha256"]
    if not changed and (verify or size <= _SMALL):
        changed = hash_of(path).hexdigest() != record["sha256"]
    if changed:
        raise ValueError(f"{path} was changed after it was written: {MANIFEST} has another SHA-256 of it. {_again()}")
