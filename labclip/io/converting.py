"""The one reader of a pickle: a published torch checkpoint becomes an `Alignment`, and no code in it ever runs."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from labclip.alignment import Alignment
from labclip.base import Base
from labclip.io.folder import MAX_DIM, matrix_sha256
from labclip.io.published import find_matrix

MAX_BYTES = 300_000_000
"""Cap on a checkpoint, as a file and unpacked: a float32 matrix of dim 8192 takes 268 MB."""

MAX_PICKLE_BYTES = 65_536
"""Cap on the pickle inside. It names two tensors; the published ones have 328 bytes."""

_MEMBER = re.compile(
    r"[^/\\]+/(data\.pkl|byteorder|version|data/\d|\.data/serialization_id|\.format_version|\.storage_alignment)"
)
_GLOBALS = {
    "collections OrderedDict",
    "torch FloatStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
_OTHER_TENSORS = {
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch DoubleStorage": "float64",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
}
# The opcodes that name or build objects otherwise than through GLOBAL; torch.save writes none of them.
_FORBIDDEN = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}
_REMEDY = (
    "Pass a checkpoint of the paper's code: torch.save of a state_dict with 'linear.weight' [dim, dim] and 't', "
    "both float32. An alignment folder needs no conversion: Alignment.from_pretrained(FOLDER)."
)


class _RefusedError(ValueError):
    """What is wrong with a file, as a sentence goes on after its path, and what to do."""

    def __init__(self, what: str, remedy: str = _REMEDY) -> None:
        super().__init__(f"{what}. {remedy}")


def convert_checkpoint(path: str | Path, *, base: Base | None = None) -> Alignment:
    """Read a torch checkpoint as the paper's code saves them: `linear.weight` [dim, dim] and `t`, the log-temperature.

    A published matrix is recognised by its hash and gets its base and where it comes from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is anything but two plain float32 tensors, or `base` is not the one a published matrix has.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a torch checkpoint. Pass the .pt file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Pass the path of a torch checkpoint, for example matrix.pt.")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)  # checked and loaded from the same bytes, whatever happens to the file
    try:
        _check_archive(data)
        weight, t = _load_tensors(data)
    except _RefusedError as error:
        raise ValueError(f"{path}{error}") from error.__cause__
    metadata = {}
    if known := find_matrix(matrix_sha256(weight)):
        if base is not None and not known.base.matches(base):
            raise ValueError(
                f"{path} holds the published matrix of {known.base}, not of {base}. Leave base out, or pass that one."
            )
        base, metadata = known.base, known.metadata
    try:
        return Alignment(weight, base=base, logit_scale=float(t), metadata=metadata)
    except ValueError as error:
        raise ValueError(f"{path} does not hold a sound alignment: {error}") from error


def _check_archive(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise _RefusedError(f" has more than {MAX_BYTES:,} bytes, so it is not one matrix")
    if data[:1] == b"\x80":
        raise _RefusedError(
            " is a bare pickle, the format of torch before 1.6, which labclip does not read",
            "Save it again with a later torch: torch.save(state_dict, FILE).",
        )
    with _whole():
        # torch looks for a zip file at the first bytes and zipfile at the last: both must find one.
        if data[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("it has no zip header")
        archive = zipfile.ZipFile(io.BytesIO(data))
    members = archive.infolist()
    _check_members(members)
    with _whole():
        # torch does not look at the checksums of the numbers.
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        pickled = archive.read(next(m for m in members if m.filename.endswith("/data.pkl")))
    _check_pickle(pickled)


@contextmanager
def _whole() -> Iterator[None]:
    """Turn whatever zipfile raises for a damaged archive into one error."""
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError) as error:
        raise _RefusedError(f" is not a whole torch checkpoint: {error}") from error


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if foreign := [name for name in names if not _MEMBER.fullmatch(name)]:
        raise _RefusedError(f" holds {foreign[0]!r}, which a checkpoint of two tensors has not")
    if len(set(names)) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise _RefusedError(" holds a member twice, or not exactly one checkpoint")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise _RefusedError(" is a compressed zip file; torch.save never compresses")
    if (size := sum(member.file_size for member in members)) > MAX_BYTES:
        raise _RefusedError(f" unpacks to {size:,} bytes, more than {MAX_BYTES:,}: not one matrix")
    pickled = sum(member.file_size for member in members if member.filename.endswith("/data.pkl"))
    if not 0 < pickled <= MAX_PICKLE_BYTES:
        raise _RefusedError(f" has {pickled:,} bytes of data.pkl, where two tensors need a few hundred")


def _check_pickle(data: bytes) -> None:
    """Read the pickle's opcodes without running any: it may name tensors and nothing else."""
    try:
        opcodes = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data)]
    except (ValueError, IndexError, OverflowError) as error:
        raise _RefusedError(f": its data.pkl is not a pickle ({error})") from error
    for name, argument in opcodes:
        if name == "GLOBAL" and (dtype := _OTHER_TENSORS.get(str(argument))):
            raise _RefusedError(
                f" holds {dtype} numbers, not float32 ones",
                "Save them again: torch.save({key: value.float() for key, value in state_dict.items()}, FILE).",
            )
        if name in _FORBIDDEN or (name == "GLOBAL" and argument not in _GLOBALS):
            code = argument if name == "GLOBAL" else name
            raise _RefusedError(f" holds code ({code}), not only two float32 tensors; none of it was run")


def _load_tensors(data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises a dozen types for a hostile file. Its message advises weights_only=False, which would run the
        # file's code: it is not passed on.
        raise _RefusedError(f" is not a checkpoint that torch can read ({type(error).__name__})") from error
    if not isinstance(state, dict) or set(state) != {"linear.weight", "t"}:
        found = sorted(map(str, state))[:8] if isinstance(state, dict) else type(state).__name__
        raise _RefusedError(f" holds {found}, not 'linear.weight' and 't'")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32 or tensor.layout != torch.strided:
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise _RefusedError(f": {name!r} is {kind}, not a float32 tensor")
        # A view may claim any shape over a few stored bytes, and would fill the memory once copied.
        if tensor.numel() * 4 > tensor.untyped_storage().nbytes():
            raise _RefusedError(f": {name!r} claims {tensor.numel():,} values and stores fewer")
    weight, t = state["linear.weight"].detach(), state["t"].detach()
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1] or not 1 <= weight.shape[0] <= MAX_DIM:
        raise _RefusedError(f": 'linear.weight' has shape {list(weight.shape)}, not [dim, dim]")
    if t.numel() != 1:
        raise _RefusedError(f": 't' has shape {list(t.shape)}, not one number")
    return weight.contiguous(), t.reshape(())
