"""What a command may write: checked before the work, and written so that nothing is lost after it."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from labclip.cli.errors import in_one_line
from labclip.files import (
    CONFIG,
    MANIFEST,
    OPENCLIP_CONFIG,
    OPENCLIP_WEIGHTS,
    WEIGHT_FILES,
    WEIGHTS,
    check_file,
    check_folder,
    read_json_object,
    whole_file,
)
from labclip.packages import EVAL, require

ALIGNMENT_FILES = (CONFIG, WEIGHTS)
FOLDED_FILES = (OPENCLIP_CONFIG, OPENCLIP_WEIGHTS)
_IDENTIFYING = (*ALIGNMENT_FILES, OPENCLIP_CONFIG, *WEIGHT_FILES, MANIFEST)
"""Files by which the folders of labclip and OpenCLIP are recognised."""

_LEAST = 1 << 20  # bytes; an alignment of dim 512 has 1.05 MB


def same_path(one: Path, other: Path) -> bool:
    """Whether both lead to the same place, through links and whether it exists or not."""
    return os.path.realpath(one.expanduser()) == os.path.realpath(other.expanduser()) or (
        one.exists() and other.exists() and one.samefile(other)
    )


def check_empty(out: Path, force: bool, *, writes: Sequence[str], inputs: Iterable[str | Path] = ()) -> None:
    """Refuse a folder that is an input, or holds other things than files that `writes` names, or these without `force`.

    Of `inputs`, names that are no paths are none that `out` could be.
    """
    if any(same_path(out, Path(one)) for one in inputs if Path(one).exists()):
        raise ValueError(f"{out} is an input of this command. Pass another folder to write to.")
    check_folder(out, needs=_LEAST)
    if not out.is_dir() or not any(out.iterdir()):
        return
    held = {name for name in (*_IDENTIFYING, *writes) if (out / name).exists()}
    others = sorted(held - set(writes))
    if CONFIG in held and CONFIG in writes and _of_alignment(out / CONFIG) != (writes is ALIGNMENT_FILES):
        others = [CONFIG]
    if others or not held:
        other = f"holds {', '.join(others)}" if others else f"holds no {' and no '.join(writes)}"
        raise ValueError(f"{out} {other}, so this command did not write it. Pass another folder.")
    if not force:
        raise ValueError(f"{out} is not empty. Pass --force to overwrite it, or another folder.")


def check_names(*names: str | None) -> None:
    """Refuse names of models and alignments that can't be any, before torch is imported."""
    from labclip.io.names import resolve

    for name in names:
        if name is not None:
            resolve(name, None)


def _of_alignment(config: Path) -> bool:
    """Whether a `config.json` is one of labclip's: models of other libraries have the same names."""
    try:
        return "format_version" in read_json_object(config)
    except (OSError, ValueError):
        return False


def check_outputs(paths: Sequence[Path | None], *, force: bool = True, others: Iterable[Path] = ()) -> None:
    """Refuse paths of files that can't be written, or are one another or one of `others`, before hours of work."""
    taken = list(others)
    for path in paths:
        if path is None:
            continue
        if any(same_path(path, other) for other in taken):
            raise ValueError(f"{path} is another file of this command. Pass a path of its own.")
        check_file(path)
        if path.is_file() and not force:
            raise ValueError(f"{path} exists already. Pass --force to overwrite it, or another path.")
        taken.append(path)


def check_page(path: Path) -> None:
    """Refuse a page that can't be made or written, before the work."""
    for module in ("jinja2", "matplotlib"):
        require(module, f"The page needs {module}", EVAL)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"The page {path} is not named .html. End its name with .html.")
    check_file(path)


def write_files(*outputs: tuple[Path | None, Callable[[Path], object]]) -> list[str]:
    """Write files, each whole or not at all; what went wrong, a sentence each, as the result is still to be shown."""
    failed = []
    for path, write in outputs:
        try:
            if path is not None:
                with whole_file(path) as part:
                    write(part)
        except Exception as error:  # whatever it is, the work must not be lost
            failed.append(in_one_line(error))
    return failed


def write_or_keep(out: Path, write: Callable[[Path], object]) -> list[str]:
    """Write a folder, or where that fails a temporary one, so that the work is not lost; what went wrong."""
    try:
        write(out)
        return []
    except ValueError:
        raise
    except Exception as error:  # safetensors has its own for a full disk
        elsewhere = Path(tempfile.mkdtemp(prefix="labclip-"), out.name)
        try:
            write(elsewhere)
        except Exception:
            raise error from None
        move = shlex.join(["mv", str(elsewhere), str(out)])
        return [f"{in_one_line(error)} The result is kept in {elsewhere}; to move it type: {move}"]


def refuse(failed: Sequence[str]) -> None:
    """Raise ValueError with what could not be written, once the result was shown."""
    if failed:
        raise ValueError(" ".join(failed))
