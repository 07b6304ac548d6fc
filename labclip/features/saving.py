"""Features in memory to a feature folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from labclip.features.folder import (
    CAPTIONS,
    CONTENT,
    FORMAT_VERSION,
    HAS_NEGATIVE,
    HAS_NEGATIVE_IMAGE,
    IMAGE_NAMES,
    IMAGES,
    INDEX,
    MANIFEST,
    NEGATIVE_IMAGES,
    NEGATIVES,
    PART,
    TEXTS,
    UNFINISHED,
    array_shapes,
    clear,
    describe_file,
    hash_of,
    header,
    write_manifest,
)
from labclip.packages import versions_of

if TYPE_CHECKING:
    from labclip.features.features import Features

_BLOCK = 4096
_UNIT = 1e-5  # rows nearer to unit length than this are kept bit for bit
_UNKNOWN: dict[str, Any] = {
    "weights_sha256": None, "precision": None, "preprocess": None, "inputs": [], "columns": None, "clean": None,
    "images_sha256": None, "skipped": [],
}  # fmt: skip
_LISTED = {"images": IMAGE_NAMES, "captions": CAPTIONS}


def save(features: Features, folder: Path) -> None:
    """Write a feature folder; see `Features.save`."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Pass the path of a folder.")
    if there := [name for name in (MANIFEST, UNFINISHED, *CONTENT) if (folder / name).exists()]:
        raise ValueError(f"{folder} holds features already, {there[0]}. Pass another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_manifest(folder, _manifest(features, folder))
    except BaseException:
        clear(folder, CONTENT)
        raise


def _manifest(features: Features, folder: Path) -> dict[str, Any]:
    """Write the arrays; the record of them."""
    counts = _counts(features)
    shapes = array_shapes(counts, features.dim)
    files = {name: _write(folder / name, *shapes[name], rows) for name, rows in _arrays(features).items() if rows}
    if features.folder is not None and all(counts[name] == features.manifest["counts"][name] for name in _LISTED):
        for name in _LISTED.values():
            if (features.folder / name).is_file():
                shutil.copyfile(features.folder / name, folder / name)
                files[name] = describe_file(folder / name, hash_of(folder / name).hexdigest())
    return {
        "library_name": "labclip",
        "format_version": FORMAT_VERSION,
        "base": None if features.base is None else vars(features.base),
        "dim": features.dim,
        "fingerprint": None if features.fingerprint is None else block_of(features.fingerprint, slice(None)).tolist(),
        **{key: features.manifest.get(key, value) for key, value in _UNKNOWN.items()},
        "counts": counts,
        "files": {name: files[name] for name in CONTENT if name in files},
        "versions": versions_of("torch", "numpy"),
    }


def _counts(features: Features) -> dict[str, int]:
    known = features.manifest.get("counts", {})
    has = features.has_negative
    return {
        "images": len(features.images),
        "captions": len(features),
        "negatives_per_caption": 0 if features.negatives is None else int(features.negatives.shape[1]),
        "captions_with_negative": 0 if has is None else int(np.asarray(has).any(axis=1).sum()),
        "true_negatives": known.get("true_negatives", 0),
        "texts_cut": known.get("texts_cut", 0),
    }


def _arrays(features: Features) -> dict[str, Iterator[NDArray[Any]] | None]:
    """Each array of the folder in blocks; None where there is none."""
    images, texts, index = features.images, features.texts, np.asarray(features.image_index)
    negatives, has = features.negatives, features.has_negative
    pictured, has_image = features.negative_images, features.has_negative_image
    return {
        IMAGES: _unit("images", images),
        TEXTS: _unit("texts", texts),
        INDEX: iter([index]),
        NEGATIVES: _filled("negatives", negatives, has, texts, np.arange(len(index))),
        HAS_NEGATIVE: None if negatives is None else iter([np.asarray(has)]),
        NEGATIVE_IMAGES: _filled("negative_images", pictured, has_image, images, index),
        HAS_NEGATIVE_IMAGE: None if pictured is None else iter([np.asarray(has_image)]),
    }


def block_of(values: Any, rows: Any) -> NDArray[np.float32]:
    """Some rows of an array, a tensor of any device or a memory map, as float32 in memory."""
    if isinstance(values, torch.Tensor):
        taken = values[torch.from_numpy(rows).to(values.device) if isinstance(rows, np.ndarray) else rows]
        return taken.detach().float().cpu().numpy()
    return np.asarray(values[rows], dtype=np.float32)


def _unit(name: str, values: Any) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(values), _BLOCK):
        yield _normalized(name, block_of(values, slice(start, start + _BLOCK)), start)


def _filled(name: str, values: Any, has: Any, own: Any, index: NDArray[Any]) -> Iterator[NDArray[np.float32]] | None:
    """Rows of [n, k, dim], with a row of `own` where there is none."""
    if values is None:
        return None

    def blocks() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(values), _BLOCK):
            part = slice(start, start + _BLOCK)
            there = np.asarray(has[part])[..., None]
            yield _normalized(name, np.where(there, block_of(values, part), block_of(own, index[part])[:, None]), start)

    return blocks()


def _normalized(name: str, rows: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if len(bad := np.argwhere(~(np.isfinite(lengths) & (lengths > 0)))):
        what = "not finite" if not np.isfinite(lengths[tuple(bad[0])]) else "all zeros"
        raise ValueError(f"{name}: row {start + int(bad[0][0])} is {what}. Embed it again, or leave it out.")
    return np.where(np.abs(lengths - 1) > _UNIT, rows / lengths, rows)


def _write(path: Path, shape: tuple[int, ...], dtype: str, blocks: Iterator[NDArray[Any]]) -> dict[str, Any]:
    """Write an array, whole or not at all, and describe it."""
    part, digest = path.with_name(path.name + PART), hashlib.sha256()
    with part.open("wb") as file:
        file.write(header(shape, dtype))
        for block in blocks:
            data = np.ascontiguousarray(block, dtype=dtype).data.cast("B")
            file.write(data)
            digest.update(data)
    os.replace(part, path)
    return describe_file(path, digest.hexdigest())
