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
from labclip.io import published
from labclip.io.folder import matrix_sha256


def convert_checkpoint(path: str | Path, *, base: Base | None = None) -> Alignment:
    """Read a torch checkpoint as the paper's code saves them: `linear.weight` [dim, dim] and `t`, the log-temperature.

    A published matrix is recognised by its hash and gets its base and where it comes from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is anything but two plain float32 tensors, or `base` is not the one a published matrix has.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Pass the path of a torch checkpoint, for example matrix.pt.")
    return alignment_of(path.read_bytes(), str(path), base=base)


def alignment_of(checkpoint: bytes, name: str, *, base: Base | None = None) -> Alignment:
    """`convert_checkpoint` of the bytes of a file, which messages call `name`."""
    try:
        with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:  # torch does not look at checksums
            if archive.testzip() is not None:
                raise ValueError("its checksum is wrong")
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or set(state) != {"linear.weight", "t"}:
            kind = sorted(map(str, state))[:8] if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"it holds {kind}, not 'linear.weight' and 't'")
        weight = state["linear.weight"].detach()
        metadata = {}
        sha256 = matrix_sha256(weight)
        if (known := next((entry for entry in published.PUBLISHED if entry.matrix_sha256 == sha256), None)) is not None:
            if not known.base.matches(base):
                raise ValueError(f"it holds the published matrix of {known.base}, not of {base}: leave base out")
            base, metadata = known.base, known.metadata
        return Alignment(weight, base=base, logit_scale=float(state["t"].detach()), metadata=metadata)
    except Exception as error:  # of zipfile, pickle and torch: a dozen types
        reason = first_line(error).rstrip(".")
        if isinstance(error, pickle.UnpicklingError):
            # The message of torch advises weights_only=False, which would run the file's code: it is not passed on.
            reason = "it holds more than tensors, and none of its code was run"
        raise ValueError(
            f"{name} gives no alignment ({reason}). Pass a checkpoint of the paper's code: torch.save of a state_dict "
            f"with 'linear.weight' [dim, dim] and 't', both float32. An alignment folder needs no conversion: "
            f"Alignment.from_pretrained(FOLDER)."
        ) from None
