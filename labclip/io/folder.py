"""The alignment folder: `model.safetensors`, `config.json`, `README.md`. Strict in reading, atomic in writing."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from labclip._version import __version__
from labclip.alignment import Alignment
from labclip.base import FINGERPRINT_CAPTION, FOLDED, Base, described_mark
from labclip.checks import checked_whole
from labclip.files import CARD, CONFIG, WEIGHTS, is_alignment_folder, make_folder, read_json_object
from labclip.io.card import model_card
from labclip.packages import versions_of

FORMAT_VERSION = 1

MAX_CONFIG_BYTES = 4_000_000
MAX_DIM = 16_384
_REQUIRED = {"format_version", "dim", "base", "matrix_sha256"}
_OPTIONAL = {"library_name", "other_sha256", "strength", "fingerprint_caption", "metadata", "versions"}
_AGAIN = "Fetch or save the folder again."


def matrix_sha256(matrix: torch.Tensor) -> str:
    """SHA-256 of a tensor as little-endian float32, row-major: the same for every file format it may lie in."""
    return hashlib.sha256(matrix.detach().cpu().numpy().astype("<f4").tobytes(order="C")).hexdigest()


@contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """A scratch folder whose files move into `folder` when the block ends; none of them if the block fails.

    The folder is made if it does not exist; other files there are left alone. Hashes and the fingerprint tell files of
    two saves apart.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        make_folder(folder)
        with tempfile.TemporaryDirectory(prefix=".labclip-", dir=folder) as name:
            yield Path(name)
            files = sorted(Path(name).iterdir())
            if blocked := next((folder / file.name for file in files if (folder / file.name).is_dir()), None):
                raise IsADirectoryError(f"{blocked} is a folder, where a file is to be written. Pass another folder.")
            for file in files:
                file.chmod(0o644)
                os.replace(file, folder / file.name)
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


def write(alignment: Alignment, folder: Path) -> None:
    """Write the three files of an alignment into a scratch folder; ValueError if its metadata is not plain JSON."""
    tensors = {"matrix": alignment.fitted.detach().cpu().contiguous()}
    if alignment.logit_scale is not None:
        tensors["logit_scale"] = torch.tensor(alignment.logit_scale, dtype=torch.float32)
    if alignment.fingerprint is not None:
        tensors["fingerprint"] = alignment.fingerprint
    config = {
        "library_name": "labclip",
        "format_version": FORMAT_VERSION,
        "dim": alignment.dim,
        "base": None if alignment.base is None else vars(alignment.base),
        "strength": alignment.strength,
        "matrix_sha256": matrix_sha256(alignment.fitted),
        "other_sha256": {name: matrix_sha256(tensor) for name, tensor in tensors.items() if name != "matrix"},
        "fingerprint_caption": FINGERPRINT_CAPTION if alignment.fingerprint is not None else None,
        "metadata": alignment.metadata,
        "versions": versions_of("torch", "open_clip_torch", "numpy"),
    }
    try:
        text = (json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"The alignment's metadata is not plain JSON ({error}). Keep to str, numbers, lists, dicts."
        ) from error
    if len(text) > MAX_CONFIG_BYTES:
        raise ValueError(
            f"The alignment's metadata makes {len(text):,} bytes; {CONFIG} has at most {MAX_CONFIG_BYTES:,}."
        )
    (folder / CONFIG).write_bytes(text)
    (folder / CARD).write_text(model_card(alignment), encoding="utf-8", newline="\n")
    # Through torch: safetensors' NumPy writer stores a transposed array as wrong numbers without an error.
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load(folder: str | Path) -> Alignment:
    """Read an alignment folder: keys, types, shape, values, hash and dim are all checked.

    Raises:
        FileNotFoundError: If the folder or one of the two files is missing.
        ValueError: If anything in them is not what it should be; the message names the file and the reason.
    """
    folder = Path(folder)
    if not is_alignment_folder(folder):
        raise FileNotFoundError(
            f"There is no folder {folder} that holds an alignment, {CONFIG} and {WEIGHTS}. Make one with "
            f"alignment.save_pretrained, or convert a checkpoint: labclip convert FILE.pt FOLDER."
        )
    config = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder / WEIGHTS, config["dim"])
    expected = {"matrix": config["matrix_sha256"]} | config.get("other_sha256", {})
    for name in sorted(tensors.keys() | expected.keys()) if "other_sha256" in config else ["matrix"]:
        found = matrix_sha256(tensors[name]) if name in tensors else "none"
        if found != expected.get(name):
            raise ValueError(
                f"{folder / WEIGHTS} is not the {name} that {CONFIG} describes: its SHA-256 is {found[:16]}..., "
                f"expected {str(expected.get(name, 'none'))[:16]}.... {_AGAIN}"
            )
    scale = tensors.get("logit_scale")
    try:
        return Alignment(
            tensors["matrix"],
            base=None if config["base"] is None else Base(**config["base"]),
            logit_scale=None if scale is None else float(scale),
            strength=config.get("strength", 1.0),
            metadata=config.get("metadata", {}),
            fingerprint=tensors.get("fingerprint"),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder} does not hold a sound alignment: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of the format; ValueError for what nothing later refuses."""
    config = read_json_object(path, remedy=_AGAIN, max_bytes=MAX_CONFIG_BYTES)
    if "format_version" not in config:
        raise ValueError(
            f"{path} is not the config of an alignment: it has no format_version.{_of_transformers(config)}"
        )
    if lacking := _REQUIRED - set(config):
        raise ValueError(f"{path} lacks {', '.join(sorted(lacking))}. {_AGAIN}")
    try:
        checked_whole("dim", config["dim"], least=1, most=MAX_DIM)
        version = checked_whole("format_version", config["format_version"], least=1)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, and labclip {__version__} reads up to {FORMAT_VERSION}. "
            f"Type: pip install --upgrade labclip"
        )
    if unknown := set(config) - _REQUIRED - _OPTIONAL:
        warnings.warn(
            f"{path} has keys that labclip {__version__} does not know: {', '.join(sorted(unknown))}. They are "
            f"ignored; pip install --upgrade labclip may know them.",
            stacklevel=2,
        )
    if not isinstance(config.get("other_sha256", {}), dict):
        raise ValueError(f"{path}: other_sha256 is {config['other_sha256']!r:.120}, not an object.")
    if config.get("fingerprint_caption") not in (None, FINGERPRINT_CAPTION):
        raise ValueError(
            f"{path}: fingerprint_caption is {config['fingerprint_caption']!r:.120}, not {FINGERPRINT_CAPTION!r}, with "
            f"which labclip compares."
        )
    return config


def _of_transformers(config: Mapping[str, Any]) -> str:
    """What to type where a config is one of transformers, and whether its model is folded already."""
    if "model_type" not in config:
        return ""
    text = config.get("text_config", config)
    if not isinstance(text, dict) or not isinstance(mark := text.get(FOLDED), dict):
        return " It is that of a model of transformers. Open it there, and merge a matrix with labclip.fold."
    return (
        f" It is that of a model of transformers, with a matrix merged into it ({described_mark(mark)}). Open it with "
        f"transformers.AutoModel.from_pretrained."
    )


def _read_tensors(path: Path, dim: int) -> dict[str, torch.Tensor]:
    shapes = {"matrix": [dim, dim], "logit_scale": [], "fingerprint": [dim]}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = sorted(file.keys())
            if "matrix" not in names or not shapes.keys() >= set(names):
                raise ValueError(
                    f"{path} has the tensors {names}, not 'matrix' and at most 'logit_scale', 'fingerprint'. "
                    f"A torch checkpoint becomes an alignment with: labclip convert FILE.pt FOLDER"
                )
            for name in names:
                kind = (piece := file.get_slice(name)).get_shape(), piece.get_dtype()
                if kind != (shapes[name], "F32"):
                    raise ValueError(
                        f"{path}: '{name}' is {kind[1]} {kind[0]}, but {CONFIG} has dim {dim}, so F32 {shapes[name]}."
                    )
            # Cloned: the file is mapped, and a matrix must not change when somebody overwrites it.
            return {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}). {_AGAIN}") from error
