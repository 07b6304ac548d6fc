"""The one reader of a pickle: a published torch checkpoint becomes an `Alignment`, and no code in it ever runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import torch

from labclip.alignment import Alignment
from labclip.base import Base
from labclip.checks import first_line
from labclip.files import check_checkpoint
from labclip.io.folder import MAX_DIM, matrix_sha256
from labclip.io.published import find_matrix

MAX_BYTES = 300_000_000
"""Cap on a checkpoint: a float32 matrix of dim 8192 takes 268 MB."""


def convert_checkpoint(path: str | Path, *, base: Base | None = None) -> Alignment:
    """Read a torch checkpoint as the paper's code saves them: `linear.weight` [dim, dim] and `t`, the log-temperature.

    A published matrix is recognised by its hash and gets its base and where it comes from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is anything but two plain float32 tensors, or `base` is not the one a published matrix has.
    """
    path = Path(path)
    check_checkpoint(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, where one matrix has at most {MAX_BYTES:,}.")
    return alignment_of(path.read_bytes(), str(path), base=base)


def alignment_of(checkpoint: bytes, name: str, *, base: Base | None = None) -> Alignment:
    """`convert_checkpoint` of the bytes of a file, which messages call `name`."""
    weight, t = _read_tensors(checkpoint, name)
    metadata = {}
    if known := find_matrix(matrix_sha256(weight)):
        if base is not None and not known.base.matches(base):
            raise ValueError(
                f"{name} holds the published matrix of {known.base}, not of {base}. Leave base out, or pass that one."
            )
        base, metadata = known.base, known.metadata
    try:
        return Alignment(weight, base=base, logit_scale=float(t), metadata=metadata)
    except ValueError as error:
        raise ValueError(f"{name} does not hold a sound alignment: {error}") from error


def _read_tensors(checkpoint: bytes, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix and the log-temperature; ValueError if the file holds anything else."""
    problem = ""
    try:
        with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:  # torch does not look at checksums
            if archive.testzip() is not None or sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise zipfile.BadZipFile("its checksum or its size is wrong")
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # The message of torch advises weights_only=False, which would run the file's code: it is not passed on.
        problem = "holds more than tensors, and none of its code was run"
    except Exception as error:  # of a damaged file; a dozen types
        problem = f"is not a whole torch checkpoint ({first_line(error)})"
    else:
        if not isinstance(state, dict) or set(state) != {"linear.weight", "t"}:
            kind = sorted(map(str, state))[:8] if isinstance(state, dict) else type(state).__name__
            problem = f"holds {kind}, not 'linear.weight' and 't'"
        elif wrong := next((key for key, value in state.items() if not _is_plain(value)), None):
            problem = f"holds {wrong!r} as something else than a float32 tensor"
        elif state["t"].numel() != 1:
            problem = f"holds 't' of shape {list(state['t'].shape)}, not one number"
        elif len(shape := state["linear.weight"].shape) != 2 or not 1 <= shape[0] == shape[1] <= MAX_DIM:
            problem = f"holds 'linear.weight' of shape {list(shape)}, not [dim, dim]"
    if problem:
        raise ValueError(
            f"{name} {problem}. Pass a checkpoint of the paper's code: torch.save of a state_dict with 'linear.weight' "
            f"[dim, dim] and 't', both float32. An alignment folder needs no conversion: "
            f"Alignment.from_pretrained(FOLDER)."
        )
    return state["linear.weight"].detach().contiguous(), state["t"].detach().reshape(())


def _is_plain(value: object) -> bool:
    """Whether it is a float32 tensor that stores every value: a view may claim any shape over a few bytes."""
    return (
        isinstance(value, torch.Tensor)
        and (value.dtype, value.layout) == (torch.float32, torch.strided)
        and value.numel() * 4 <= value.untyped_storage().nbytes()
    )
