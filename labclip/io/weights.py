"""Weights read from a safetensors file straight into a model's own memory: one copy, by several threads."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

_THREADS = min(4, os.cpu_count() or 1)
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def fill_from_safetensors(clip: nn.Module, path: Path) -> bool:
    """Fill every weight of a model from a file whose tensors match it one to one.

    Args:
        clip: The model, on the CPU.
        path: A safetensors file; its dtypes may be others than the model's.

    Returns:
        False, and the model is as it was, where names or shapes differ.

    Raises:
        safetensors.SafetensorError: If the file is damaged.
        EOFError: If it is cut short, or replaced by another, while it is read.
    """
    state, version = clip.state_dict(), _version(path.stat())
    with safe_open(path, framework="pt", device="cpu") as file:  # checks the header, and the offsets in it
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        if {key: view.get_shape() for key, view in slices.items()} != {k: list(v.shape) for k, v in state.items()}:
            return False
        plain = [
            key
            for key, view in slices.items()
            if _DTYPES.get(view.get_dtype()) == state[key].dtype
            and state[key].is_contiguous()
            and state[key].numel()
            and sys.byteorder == "little"
        ]
        for key in slices.keys() - plain:
            state[key].copy_(file.get_tensor(key))
    offsets = _offsets(path)
    with ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(_read_into, state[key], path, offsets[key]) for key in plain]:
            if done.result() != version:
                raise EOFError("the file changed while it was read")
    return True


def _version(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another that took its place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor's bytes begin: after eight bytes of length and a JSON header."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {key: 8 + size + value["data_offsets"][0] for key, value in header.items() if key != "__metadata__"}


def _read_into(target: torch.Tensor, path: Path, offset: int) -> tuple[int, ...]:
    """Fill a tensor with the bytes at an offset; which version of the file they came from."""
    memory = memoryview(target.detach().flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while memory:
            count = file.readinto(memory)
            if not count:
                raise EOFError("the file ends early")
            memory = memory[count:]
        return _version(os.fstat(file.fileno()))
