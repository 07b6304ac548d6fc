"""CIFAR-10 and CIFAR-100 in the binary and in the Python version; what is pickled is read without running anything."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE

# What the published batches are made of. Nothing else is ever imported, so that a hostile file can run nothing.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class Cifar(NamedTuple):
    """Pictures of one split.

    Attributes:
        pictures: uint8 [n, 32, 32, 3].
        labels: int64 [n].
        classes: Their names.
    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: list[str]


class Form(NamedTuple):
    """One of the four published folders: the files of each split, and where the names are."""

    names: str
    splits: dict[str, tuple[str, ...]]
    labels: int = 1  # bytes before a picture, the last of which counts; 0 in a pickle
    keys: tuple[bytes, bytes] = (b"", b"")


_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))
_FORMS = (
    Form("batches.meta.txt", {"test": ("test_batch.bin",), "train": tuple(f"{name}.bin" for name in _TEN)}),
    Form("fine_label_names.txt", {"test": ("test.bin",), "train": ("train.bin",)}, 2),
    Form("batches.meta", {"test": ("test_batch",), "train": _TEN}, 0, (b"labels", b"label_names")),
    Form("meta", {"test": ("test",), "train": ("train",)}, 0, (b"fine_labels", b"fine_label_names")),
)
FOLDERS = ("", "cifar-10-batches-bin", "cifar-100-binary", "cifar-10-batches-py", "cifar-100-python")


def find_cifar(folder: Path) -> tuple[Path, Form] | None:
    """The folder of a CIFAR at or in a folder, or None."""
    for name in FOLDERS:
        for form in _FORMS:
            if (folder / name / form.names).is_file() and (folder / name / form.splits["test"][0]).is_file():
                return folder / name, form
    return None


def read_cifar(folder: Path, form: Form, split: str) -> Cifar:
    """The pictures of a split.

    Raises:
        FileNotFoundError: If files of it are missing; all are named.
        ValueError: If one is not whole, or holds what no CIFAR has.
    """
    paths = [folder / name for name in form.splits[split]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(paths)} files are missing: {', '.join(missing)}.")
    if form.labels:
        parts = [_binary(path, form.labels) for path in paths]
        classes = (folder / form.names).read_text(encoding="utf-8").split()
    else:
        parts = [_pickled(path, form.keys[0]) for path in paths]
        classes = _names(folder / form.names, form.keys[1])
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"{folder}: labels go from {labels.min()} to {labels.max()}, but there are {len(classes)} classes."
        )
    return Cifar(pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), labels.astype(np.int64), classes)


def _binary(path: Path, before: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = np.fromfile(path, dtype=np.uint8)
    if len(data) == 0 or len(data) % (before + _PIXELS):
        raise ValueError(f"{path} has {len(data):,} bytes, not a number of pictures of {before + _PIXELS:,}.")
    rows = data.reshape(-1, before + _PIXELS)
    return rows[:, before:], rows[:, before - 1].astype(np.int64)


def _pickled(path: Path, key: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    value = _unpickle(path)
    pixels, labels = (value.get(name) for name in (b"data", key)) if isinstance(value, dict) else (None, None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise ValueError(f"{path} holds no uint8 [n, {_PIXELS}] as 'data'.")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(one) is int for one in labels):
        raise ValueError(f"{path} holds no list of {len(pixels)} numbers as {key.decode()!r}.")
    return pixels, np.array(labels, dtype=np.int64)


def _names(path: Path, key: bytes) -> list[str]:
    value = _unpickle(path)
    names = value.get(key) if isinstance(value, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise ValueError(f"{path} holds no list of names as {key.decode()!r}.")
    return [name.decode("utf-8", "replace") for name in names]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR needs")
        return super().find_class(module, name)


def _unpickle(path: Path) -> Any:
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path} is no batch of CIFAR: {error}. Fetch it again.") from error
