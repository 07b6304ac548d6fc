"""Check the input and output paths of a command before any work, and before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from labclip.files import CONFIG, WEIGHTS, atomic_file, check_file, check_folder
from labclip.packages import EVAL, require

ALIGNMENT_FILES = (CONFIG, WEIGHTS)
_PAGE, _FIGURE = (".html", ".htm"), (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".eps", ".tif", ".tiff", ".webp")

_MIN_BYTES = 1 << 20  # an alignment of dim 512 has 1.05 MB


def check_inputs(*paths: str | Path | None) -> None:
    """Raise FileNotFoundError for a path that does not exist. URLs are not checked."""
    for path in map(str, filter(None, paths)):
        if "://" not in path and not Path(path).expanduser().exists():
            raise FileNotFoundError(f"There is no {path}. Pass a path that exists.")


def check_empty(out: Path, force: bool, *, writes: Sequence[str], inputs: Iterable[str | Path] = ()) -> None:
    """Refuse an output folder that is an input or not empty. `force` allows one that holds all the files `writes`."""
    _check_distinct(out, inputs)
    check_folder(out, needs=_MIN_BYTES)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if missing := [name for name in writes if not (out / name).exists()]:
        raise ValueError(f"{out} holds no {missing[0]}, so this command did not write it. Pass another folder.")
    if not force:
        raise ValueError(f"{out} is not empty. Pass --force to overwrite it, or another folder.")


def check_outputs(
    *paths: Path | None, page: Path | None = None, figure: Path | None = None, force: bool = True,
    inputs: Iterable[str | Path] = (),
) -> None:  # fmt: skip
    """Refuse output files that can't be written, are inputs, are given twice, or exist (unless `force`).

    A page or figure is also refused if it has another ending, or if matplotlib, which draws it, is not installed.
    """
    used_paths = list(inputs)
    for path in filter(None, (*paths, page, figure)):
        _check_distinct(path, used_paths)
        used_paths.append(path)
        check_file(path)
        if path.is_file() and not force:
            raise ValueError(f"{path} already exists. Pass --force to overwrite it, or another path.")
        if path in (page, figure):
            if path.suffix.lower() not in (endings := _PAGE if path == page else _FIGURE):
                raise ValueError(f"{path} must end in {' or '.join(endings)}.")
            require("matplotlib", f"{path} needs matplotlib", EVAL)


def write(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _check_distinct(out: Path, others: Iterable[str | Path]) -> None:
    """Refuse an output path that the command also reads or writes elsewhere. Links are followed."""
    if os.path.realpath(out) in (os.path.realpath(str(path).removeprefix("local-dir:")) for path in others):
        raise ValueError(f"{out} is an input or another output of this command. Pass another path.")
