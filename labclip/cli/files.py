"""Files and folders that commands write, looked at before the work and before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from labclip.files import CONFIG, WEIGHTS, atomic_file, check_file, check_folder
from labclip.packages import EVAL, require

ALIGNMENT_FILES = (CONFIG, WEIGHTS)
PAGE, FIGURE = (".html", ".htm"), (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".eps", ".tif", ".tiff", ".webp")

_LEAST = 1 << 20  # bytes; an alignment of dim 512 has 1.05 MB


def check_inputs(*paths: str | Path | None) -> None:
    """Refuse files and folders that are not there; URLs are not looked up."""
    for path in map(str, filter(None, paths)):
        if "://" not in path and not Path(path).expanduser().exists():
            raise FileNotFoundError(f"There is no {path}. Pass a path that is there.")


def check_drawing(path: Path | None, *endings: str) -> None:
    """Refuse a page or a figure of another ending, and any where what draws it is not installed."""
    if path is None:
        return
    if path.suffix.lower() not in endings:
        raise ValueError(f"{path} does not end in {' or '.join(endings)}. Name it so.")
    require("matplotlib", f"{path} needs matplotlib", EVAL)


def check_empty(out: Path, force: bool, *, writes: Sequence[str], inputs: Iterable[str | Path] = ()) -> None:
    """Refuse a folder that is an input, or is not empty; with `force` one that lacks a file that `writes` names."""
    _check_apart(out, inputs)
    check_folder(out, needs=_LEAST)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if missing := [name for name in writes if not (out / name).exists()]:
        raise ValueError(f"{out} holds no {missing[0]}, so this command did not write it. Pass another folder.")
    if not force:
        raise ValueError(f"{out} is not empty. Pass --force to overwrite it, or another folder.")


def check_outputs(*paths: Path | None, force: bool = True, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse files that can't be written, are inputs or one another, or exist already and `force` is not given."""
    taken = list(inputs)
    for path in filter(None, paths):
        _check_apart(path, taken)
        taken.append(path)
        check_file(path)
        if path.is_file() and not force:
            raise ValueError(f"{path} already exists. Pass --force to overwrite it, or another path.")


def write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _check_apart(out: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write what the command reads or writes already, through links too."""
    if os.path.realpath(out) in (os.path.realpath(str(path).removeprefix("local-dir:")) for path in inputs):
        raise ValueError(f"{out} is an input or another output of this command. Pass another path.")
