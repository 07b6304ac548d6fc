"""OpenCLIP models built from a file of weights: no random initialisation first, no second copy, no code run."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from open_clip.factory import create_model_and_transforms, load_checkpoint
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from labclip.checks import first_line
from labclip.folded import read_mark, set_mark
from labclip.io import PRECISIONS
from labclip.towers.images import as_shown

_THREADS = min(4, os.cpu_count() or 1)
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def build(
    name: str, weights: Path, *, precision: str = "fp32", device: str | torch.device | None = None, **openclip: Any
) -> tuple[Any, Any, Any]:
    """Make an OpenCLIP model and load its weights, without initialising at random what is about to be overwritten.

    Args:
        name: What `open_clip.create_model_and_transforms` takes: an architecture, or "local-dir:PATH".
        weights: The file to load, strictly: every weight must be in it.
        precision: One of OpenCLIP's precisions.
        device: Where to put the model; None is the CPU.
        openclip: Further arguments of `open_clip.create_model_and_transforms`.

    Returns:
        The model, in evaluation mode and frozen (no parameter asks for gradients), preprocess_train, preprocess_val,
        which turns images by their EXIF.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}. Pass one of {', '.join(PRECISIONS)}.")
    openclip = {"pretrained_text": False, "load_weights": False} | openclip
    try:
        with _SkipInitialisation(), _without_random_weights_warning():
            clip, train, val = create_model_and_transforms(name, precision=precision, device="cpu", **openclip)
    except ImportError:
        raise
    except Exception as error:  # constructors raise a dozen types for a configuration that makes no sense
        raise ValueError(f"OpenCLIP can't build {name} ({type(error).__name__}: {first_line(error)}).") from error
    load_weights(clip, weights)
    return clip.to(device or "cpu").eval().requires_grad_(False), train, as_shown(val)


def load_weights(clip: nn.Module, path: Path) -> None:
    """Fill every weight of a model from a file, holding no second copy of them where the file allows it."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt", device="cpu") as file:
                set_mark(clip, read_mark(file.metadata()))
            if _fill_from_safetensors(clip, path):
                return
        elif path.suffix not in (".npz", ".npy"):
            # OpenCLIP reads again without weights_only what it can't read with it: before torch 2.6 that runs code.
            state = torch.load(path, map_location="cpu", weights_only=True)
            set_mark(clip, read_mark(getattr(state, "_metadata", None)))
        load_checkpoint(_Matching(clip, path), str(path), weights_only=True)
    except pickle.UnpicklingError:
        # The message of torch advises weights_only=False, which would run the file's code: it is not passed on.
        raise _not_the_weights(path, "it is not a pickle of tensors only, and none of its code was run") from None
    except (AttributeError, IndexError, StopIteration, TypeError) as error:
        raise _not_the_weights(path, "it holds no tensors by name") from error
    except (SafetensorError, RuntimeError, KeyError, EOFError) as error:
        raise _not_the_weights(path, first_line(error)) from error


class _Matching:
    """A model for OpenCLIP's loader: what that makes of a file's tensors must match the model's one to one."""

    def __init__(self, clip: nn.Module, path: Path) -> None:
        self._clip, self._path = clip, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)

    def load_state_dict(self, found: Mapping[str, torch.Tensor], strict: bool = True) -> None:
        wanted = self._clip.state_dict()
        parts = []
        if lacks := [key for key in wanted if key not in found]:
            parts.append(f"it lacks {_first_of(lacks)}")
        if more := [key for key in found if key not in wanted]:
            parts.append(f"it has, and the model has not, {_first_of(more)}")
        if unlike := [key for key in wanted if key in found and found[key].shape != wanted[key].shape]:
            there, here = (list(one[unlike[0]].shape) for one in (found, wanted))
            parts.append(f"{unlike[0]!r} is {there} in it, {here} in the model")
        if parts:
            raise _not_the_weights(self._path, "; ".join(parts))
        self._clip.load_state_dict(found)


def _fill_from_safetensors(clip: nn.Module, path: Path) -> bool:
    """Fill every weight of a model on the CPU from a file whose tensors match it one to one.

    Returns False, and the model is as it was, where names or shapes differ. Raises EOFError if the file is cut short,
    or replaced by another, while it is read.
    """
    state, version = clip.state_dict(), _version(path.stat())
    with safe_open(path, framework="pt", device="cpu") as file:  # checks the header, and the offsets in it
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        for key in state.keys() & slices.keys():  # copying would cast whole numbers to fractions without an error
            dtype = slices[key].get_dtype()
            if state[key].is_floating_point() and not dtype.startswith(("F", "BF")):
                raise _not_the_weights(path, f"{key!r} is {dtype}, where the model has {state[key].dtype}")
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
    """Device, inode, size and time of a file: another that replaced it has others."""
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


def _not_the_weights(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} does not hold the weights of this model ({reason}). Fetch it again, or name the model it is for."
    )


def _first_of(keys: Sequence[str]) -> str:
    return f"{keys[0]!r} and {len(keys) - 1} more" if len(keys) > 1 else repr(keys[0])


class _SkipInitialisation(TorchFunctionMode):
    """Makes random initialisers do nothing in this thread; constants such as masks are still written."""

    _skipped = frozenset(
        {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_, nn.init.normal_, nn.init.uniform_}
        | {nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_}
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._skipped:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def _without_random_weights_warning() -> Iterator[None]:
    """Keep OpenCLIP from logging that a model is random while its weights are about to be loaded."""

    def keep(record: logging.LogRecord) -> bool:
        return (record.module, record.funcName, record.levelname) != ("factory", "create_model", "WARNING")

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
