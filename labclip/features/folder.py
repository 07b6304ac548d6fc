"""The feature folder: what is in it, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labclip._version import __version__
from labclip.alignment import Base
from labclip.encode.fingerprint import check_same_model
from labclip.features.features import Features
from labclip.features.journal import UNFINISHED

if TYPE_CHECKING:
    from labclip.model import LABCLIP

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
IMAGES, TEXTS = "image_features.npy", "text_features.npy"
NEGATIVES, HAS_NEGATIVE = "negative_features.npy", "has_negative.npy"
INDEX = "image_index.npy"
IMAGE_NAMES, CAPTIONS = "images.jsonl", "captions.jsonl"
FILES = (MANIFEST, IMAGES, TEXTS, NEGATIVES, HAS_NEGATIVE, INDEX, IMAGE_NAMES, CAPTIONS)
_REQUIRED = {
    "format_version",
    "base",
    "dim",
    "weights_sha256",
    "precision",
    "fingerprint",
    "counts",
    "inputs",
    "skipped",
}


def load(folder: str | Path, *, base: LABCLIP | Base | None = None) -> Features:
    r"""Open a feature folder; nothing is read until it is used.

    Args:
        folder: What `embed` made.
        base: The model the features must be of, or its record. A model is compared by the hash of its weights.

    Returns:
        The features, memory-mapped.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is unfinished, damaged, of a later format, or of another base; the message says which.

    Example:
        >>> from PIL import Image
        >>> import labclip
        >>> pictures = labclip.scenes.sample(1)
        >>> Image.fromarray(pictures.images[0]).save("scene.png")
        >>> _ = Path("captions.csv").write_text(f"image,caption\nscene.png,{pictures.captions[0]}\n")
        >>> model = labclip.LABCLIP.from_pretrained("scenes")
        >>> _ = labclip.features.embed(model, captions="captions.csv", out="features", progress=False)
        >>> labclip.features.load("features", base=model).images.shape
        (1, 256)
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if base is not None:
        check_same_model(manifest, folder, base)
    counts, dim = manifest["counts"], manifest["dim"]
    images, texts, most = (counts[name] for name in ("images", "captions", "negatives_per_caption"))
    return Features(
        images=_mapped(folder / IMAGES, (images, dim), "<f4"),
        texts=_mapped(folder / TEXTS, (texts, dim), "<f4"),
        image_index=_mapped(folder / INDEX, (texts,), "<i8"),
        negatives=_mapped(folder / NEGATIVES, (texts, most, dim), "<f4") if most else None,
        has_negative=_mapped(folder / HAS_NEGATIVE, (texts, most), "|b1") if most else None,
        base=None if manifest["base"] is None else Base(**manifest["base"]),
        fingerprint=np.asarray(manifest["fingerprint"], dtype=np.float32) if manifest["fingerprint"] else None,
        folder=folder,
        manifest=manifest,
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The record of a finished folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no finished features, or its manifest is not sound.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}. Make one: labclip embed --model M --captions FILE {folder}"
        )
    if not path.is_file():
        if (folder / UNFINISHED).exists():
            raise ValueError(
                f"{folder} is not finished. Run the same labclip embed again: it goes on where it stopped."
            )
        raise ValueError(f"{folder} is no feature folder: it has no {MANIFEST}. labclip embed makes one.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. Make the folder again with labclip embed --force.") from error
    if not isinstance(manifest, dict) or _REQUIRED - set(manifest):
        raise ValueError(f"{path} is not the manifest of features, as labclip embed writes it.")
    version = manifest["format_version"]
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version!r}, and labclip {__version__} reads up to {FORMAT_VERSION}. "
            f"Type: pip install --upgrade labclip"
        )
    return manifest


def array_shapes(counts: Mapping[str, int], dim: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array of a folder."""
    images, texts, most = (counts[name] for name in ("images", "captions", "negatives_per_caption"))
    return {
        IMAGES: ((images, dim), "<f4"),
        TEXTS: ((texts, dim), "<f4"),
        INDEX: ((texts,), "<i8"),
        NEGATIVES: ((texts, most, dim), "<f4"),
        HAS_NEGATIVE: ((texts, most), "|b1"),
    }


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is missing or cut off ({error}). Make the folder again: labclip embed --force."
        ) from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(
            f"{path} holds {array.dtype} {list(array.shape)}, but {MANIFEST} says {np.dtype(dtype)} {list(shape)}. "
            f"Make the folder again: labclip embed --force."
        )
    return array
