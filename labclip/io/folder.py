"""Read and write the alignment folder, `model.safetensors`, `config.json` and `README.md`; convert torch checkpoints.

Reading checks everything, writing is atomic, and the code in a checkpoint's pickle is never run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from labclip._version import __version__
from labclip.alignment import Alignment
from labclip.base import FINGERPRINT_CAPTION, Base
from labclip.checks import first_line
from labclip.files import CARD, CONFIG, WEIGHTS, check_folder, is_alignment_folder, read_json_object
from labclip.io import published
from labclip.io.card import model_card
from labclip.packages import versions_of

FORMAT_VERSION = 1

_REQUIRED = {"format_version", "dim", "base", "matrix_sha256"}
_OPTIONAL = {"library_name", "other_sha256", "strength", "fingerprint_caption", "metadata", "versions"}
_AGAIN = "Fetch or save the folder again."


def matrix_sha256(matrix: torch.Tensor) -> str:
    """SHA-256 of a tensor as little-endian float32, row-major, so that it does not depend on a file format."""
    return hashlib.sha256(matrix.detach().cpu().numpy().astype("<f4").tobytes(order="C")).hexdigest()


@contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """Yield a scratch folder; when the block ends without an error, its files move into `folder`.

    `folder` is made if it does not exist, and its other files stay. If the process is killed between two files, the
    hashes and the fingerprint show that they belong to different saves.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory(prefix=".labclip-", dir=check_folder(folder)) as name:
        yield Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(name).iterdir()):
            file.chmod(0o644)
            os.replace(file, folder / file.name)


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
            f"The alignment's metadata is not plain JSON ({error}). Use only str, numbers, lists and dicts."
        ) from error
    (folder / CONFIG).write_bytes(text)
    (folder / CARD).write_text(model_card(alignment), encoding="utf-8", newline="\n")
    # With torch, since safetensors' NumPy writer stores wrong numbers for a transposed array, without an error.
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load(folder: str | Path) -> Alignment:
    """Read an alignment folder, and check its keys, types, shapes, values and hashes.

    Raises FileNotFoundError if the config or the weights are missing, and ValueError if a check fails.
    """
    folder = Path(folder)
    if not is_alignment_folder(folder):
        raise FileNotFoundError(
            f"There is no folder {folder} with an alignment, that is, {CONFIG} and {WEIGHTS}. Make one with "
            f"alignment.save_pretrained, or convert a checkpoint: labclip convert FILE.pt FOLDER."
        )
    config = _read_config(folder / CONFIG)
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is not a complete safetensors file ({error}). {_AGAIN}") from error
    dim = config["dim"]
    shapes = {"matrix": [dim, dim], "logit_scale": [], "fingerprint": [dim]}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or list(tensor.shape) != shapes.get(name) or "matrix" not in tensors:
            raise ValueError(
                f"{folder / WEIGHTS} has a tensor '{name}', {tensor.dtype} {list(tensor.shape)}, but with this "
                f"{CONFIG} it must have a float32 'matrix' [{dim}, {dim}], and may have 'logit_scale' [] and "
                f"'fingerprint' [{dim}]. To convert a torch checkpoint, type: labclip convert FILE.pt FOLDER"
            )
    hashes = {name: matrix_sha256(tensor) for name, tensor in tensors.items()}
    try:
        others = config.get("other_sha256", {name: hashes[name] for name in hashes if name != "matrix"})
        expected = {"matrix": config["matrix_sha256"], **others}
        if mismatches := [name for name in sorted({*hashes, *expected}) if hashes.get(name) != expected.get(name)]:
            raise ValueError(
                f"{WEIGHTS} is not what {CONFIG} describes. The SHA-256 of {mismatches[0]} is "
                f"{hashes.get(mismatches[0])}, expected {expected.get(mismatches[0])}. {_AGAIN}"
            )
        scale = tensors.get("logit_scale")
        return Alignment(
            tensors["matrix"],
            base=None if config["base"] is None else Base(**config["base"]),
            logit_scale=None if scale is None else float(scale),
            strength=config.get("strength", 1.0),
            metadata=config.get("metadata", {}),
            fingerprint=tensors.get("fingerprint"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} does not hold a valid alignment: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json_object(path, remedy=_AGAIN)
    if "model_type" in config and "format_version" not in config:
        raise ValueError(
            f"{path} is the config of a transformers model. Open it there, and merge a matrix with labclip.fold."
        )
    if missing_keys := sorted(_REQUIRED - set(config)):
        raise ValueError(f"{path} is not the config of an alignment: it lacks {missing_keys[0]}. {_AGAIN}")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {config['format_version']}, and labclip {__version__} reads {FORMAT_VERSION}. "
            f"Type: pip install --upgrade labclip"
        )
    if unknown_keys := sorted(set(config) - _REQUIRED - _OPTIONAL):
        warnings.warn(
            f"{path} has keys that labclip {__version__} does not know: {', '.join(unknown_keys)}. They are ignored. A "
            f"newer labclip may know them: pip install --upgrade labclip",
            stacklevel=2,
        )
    return config


def convert_checkpoint(path: str | Path, checkpoint: bytes | None = None, *, base: Base | None = None) -> Alignment:
    """Read a torch checkpoint of the paper's code: `linear.weight` [dim, dim] and `t`, the log-temperature.

    `checkpoint` has the bytes of the file if they need not be read from `path`. A published matrix is recognised by its
    hash, and gets its base and its source. Raises ValueError if the file holds anything but two plain float32 tensors,
    or `base` is not the base of the published matrix.
    """
    checkpoint = Path(path).read_bytes() if checkpoint is None else checkpoint
    try:
        with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:  # torch does not check the checksums
            if archive.testzip() is not None:
                raise ValueError("its checksum is wrong")
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or set(state) != {"linear.weight", "t"}:
            contents = sorted(map(str, state))[:8] if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"it holds {contents}, not 'linear.weight' and 't'")
        weight = state["linear.weight"].detach()
        metadata = {}
        sha256 = matrix_sha256(weight)
        for entry in published.PUBLISHED:
            if entry.matrix_sha256 == sha256:
                if not entry.base.matches(base):
                    raise ValueError(f"it holds the published matrix of {entry.base}, not of {base}: leave base out")
                base, metadata = entry.base, entry.metadata
        return Alignment(weight, base=base, logit_scale=float(state["t"].detach()), metadata=metadata)
    except Exception as error:  # zipfile, pickle and torch raise a dozen types
        reason = first_line(error).rstrip(".")
        if isinstance(error, pickle.UnpicklingError):
            # Torch's message advises weights_only=False, which would run the file's code, so it is not shown.
            reason = "it holds more than tensors; none of its code was run"
        raise ValueError(
            f"{path} is not a checkpoint of an alignment ({reason}). Pass a checkpoint of the paper's code: torch.save "
            f"of a state_dict with 'linear.weight' [dim, dim] and 't', both float32. An alignment folder needs no "
            f"conversion: Alignment.from_pretrained(FOLDER)."
        ) from None
