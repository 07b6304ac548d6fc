"""A fit that was killed goes on where it was: its whole state in one file, replaced in one step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from labclip.training.state import State

FILE = "fit.safetensors"


def write_checkpoint(folder: Path, state: State, fingerprint: str) -> None:
    """Replace the folder's checkpoint: at any moment it is the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"parameter.{name}": value for name, value in state.parameters.items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    names = list(state.parameters)
    for number, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{names[number]}.{name}": value for name, value in moments.items()}
    record = {
        "fingerprint": fingerprint,
        "epoch": state.epoch,
        "step": state.step,
        "loss": state.loss,
        "history": state.history,
    }
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    part = folder / f"{FILE}.part"
    with part.open("wb") as file:
        file.write(save(plain, metadata={"state": json.dumps(record)}))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / FILE)


def check_checkpoint(folder: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """What a folder's checkpoint holds; None where there is none.

    Raises:
        ValueError: If it is of another fit, or damaged.
    """
    path = folder / FILE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Pass a folder as checkpoint.")
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it to start from scratch.") from error
    if record["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} belongs to a fit of other data or settings. Pass another folder as checkpoint, or remove it."
        )
    return record, tensors


def read_checkpoint(folder: Path, state: State, fingerprint: str) -> None:
    """Bring a state to where the folder's checkpoint was; leave it where there is none.

    Raises:
        ValueError: If it is of another fit, or damaged.
    """
    found = check_checkpoint(folder, fingerprint)
    if found is None:
        return
    record, tensors = found
    with torch.no_grad():
        for name, value in state.parameters.items():
            value.copy_(tensors[f"parameter.{name}"])
    moments = {
        number: {key.rpartition(".")[2]: value for key, value in tensors.items() if key.startswith(f"adam.{name}.")}
        for number, name in enumerate(state.parameters)
    }
    adam = state.optimizer.state_dict()
    adam["state"] = {number: value for number, value in moments.items() if value}
    state.optimizer.load_state_dict(adam)
    state.best = {key.removeprefix("best."): value for key, value in tensors.items() if key.startswith("best.")}
    state.epoch, state.step, state.loss = record["epoch"], record["step"], record["loss"]
    state.history = record["history"]
