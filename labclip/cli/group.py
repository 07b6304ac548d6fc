"""The group of commands, which turns bad input into one line and exit code 2; options and checks that many share."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from labclip._version import __version__
from labclip.io import PRECISIONS
from labclip.messages import ON_COMMAND_LINE
from labclip.packages import EVAL, require
from labclip.paths import CONFIG, MANIFEST, OPENCLIP_CONFIG, OPENCLIP_WEIGHTS, WEIGHT_FILES, WEIGHTS, check_file


class _BadInput(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Turns what the library raises for bad input into one line and exit code 2, never a traceback.

    While a command runs, messages name options instead of parameters, and warnings are one line on stderr.
    """

    def invoke(self, ctx: click.Context) -> Any:
        token = ON_COMMAND_LINE.set(True)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: click.echo(f"Warning: {message}", err=True)
                return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            raise _BadInput(str(error)) from error
        finally:
            ON_COMMAND_LINE.reset(token)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="labclip")
def main() -> None:
    """CLIP that knows which colour belongs to which object: one small matrix on the text side."""


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
MODEL_HELP = "A name of `labclip list`, a folder, a Hub repository org/name, or an OpenCLIP MODEL:TAG."
model_option = click.option("--model", required=True, metavar="M", help=MODEL_HELP)
device_option = click.option(
    "--device", metavar="D", help="cpu, cuda, cuda:1 or mps. [default: cuda if available, else cpu]"
)
precision_option = click.option(
    "--precision", default=PRECISIONS[0], show_default=True, help=f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}."
)
alignment_option = click.option(
    "--alignment", metavar="A", help="Another alignment: a name, a folder, or a Hub repository."
)
strength_option = click.option(
    "--strength",
    type=float,
    help="0 is exactly the base, 1 the matrix as fitted. [default: what the alignment records]",
)


ALIGNMENT_FILES = (CONFIG, WEIGHTS)
FOLDED_FILES = (OPENCLIP_CONFIG, OPENCLIP_WEIGHTS)
IDENTIFYING = (*ALIGNMENT_FILES, OPENCLIP_CONFIG, *WEIGHT_FILES, MANIFEST)
"""Files by which the folders of labclip and OpenCLIP are recognised."""


def chosen_device(device: str | None) -> str:
    """The device asked for, else a GPU if available."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def same_path(one: Path, other: Path) -> bool:
    """Whether both lead to the same place, through links and whether it exists or not."""
    return one.expanduser().resolve() == other.expanduser().resolve() or (
        one.exists() and other.exists() and one.samefile(other)
    )


def check_empty(out: Path, force: bool, *, writes: Sequence[str], inputs: Iterable[str | Path] = ()) -> None:
    """Refuse a folder that is an input, or that is not empty, unless it is to be overwritten and is of the kind.

    Args:
        out: The folder.
        force: Whether it may be overwritten.
        writes: Names of files by which what the command itself writes is recognised.
        inputs: What the command reads; names that are no paths are none that `out` could be.
    """
    if any(same_path(out, Path(one)) for one in inputs if Path(one).exists()):
        raise ValueError(f"{out} is an input of this command. Pass another folder to write to.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Pass the path of a folder.")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise ValueError(f"{out} is not empty. Pass --force to overwrite it, or another folder.")
    if out.is_dir() and any(out.iterdir()):
        held = {name for name in IDENTIFYING if (out / name).exists()}
        others = sorted(held - set(writes)) or ([CONFIG] if CONFIG in held and not _of_alignment(out / CONFIG) else [])
        if others or not held:
            other = f"holds {', '.join(others)}" if others else f"holds no {' and no '.join(writes)}"
            raise ValueError(f"{out} {other}, so this command did not write it. Pass another folder.")


def _of_alignment(config: Path) -> bool:
    """Whether a `config.json` is one of labclip's: models of other libraries have the same names."""
    try:
        return "format_version" in json.loads(config.read_bytes())
    except (ValueError, TypeError):
        return False


def check_writable(path: Path, *, force: bool = True, others: Iterable[Path] = ()) -> None:
    """Refuse a path that can't be written, before hours of work.

    Args:
        path: Of a file.
        force: Whether a file that is there may be overwritten.
        others: Paths that it must not be: inputs, and what else is written.
    """
    if any(same_path(path, other) for other in others):
        raise ValueError(f"{path} is another file of this command. Pass a path of its own.")
    check_file(path)
    if path.is_file() and not force:
        raise ValueError(f"{path} exists already. Pass --force to overwrite it, or another path.")


def check_page(path: Path) -> None:
    """Refuse a page that can't be made or written, before the work."""
    for module in ("jinja2", "matplotlib"):
        require(module, f"The page needs {module}", EVAL)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"The page {path} is not named .html. End its name with .html.")
    check_file(path)
