"""Short ways to declare an option, and the options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from labclip.io import PRECISIONS

Option = Callable[[Any], Any]

FILE = click.Path(path_type=Path)
SEED, COUNT = click.IntRange(0), click.IntRange(1, 65_536)


def text(names: str, metavar: str, help: str, **more: Any) -> Option:
    """An option with a text; several names stand with spaces between, "*" before them lets it be given again."""
    return click.option(*names.strip("*").split(), metavar=metavar, help=help, multiple=names[0] == "*", **more)


def path(names: str, metavar: str, help: str, **more: Any) -> Option:
    """An option with a path."""
    return text(names, metavar, help, type=FILE, **more)


def flag(names: str, help: str, **more: Any) -> Option:
    """An option without a value."""
    return click.option(*names.split(), is_flag=True, help=help, **more)


def number(name: str, kind: Any, help: str, default: float | None = None) -> Option:
    """An option with a number."""
    return click.option(name, type=kind, default=default, show_default=default is not None, help=help)


def choice(name: str, values: Sequence[str], help: str = "", default: str | None = None) -> Option:
    """An option with one of some values."""
    return click.option(
        name, type=click.Choice(values), default=default, show_default=default is not None, help=help or None
    )


def _path_of(_: click.Context, __: click.Parameter, name: Any) -> Any:
    """OpenCLIP's local-dir:PATH as a path, which commands compare with OUT."""
    if isinstance(name, tuple):
        return [_path_of(_, __, one) for one in name]
    return os.path.join(".", name.removeprefix("local-dir:")) if name and name.startswith("local-dir:") else name


MODEL = "A name of `labclip list`, a folder, a Hub repository org/name, or an OpenCLIP MODEL:TAG."
model = text("--model", "M", MODEL, required=True, callback=_path_of)
models = text("*--model models", "M", f"{MODEL} May be given again.", callback=_path_of)
alignment = text("--alignment", "A", "Another alignment: a name, a folder, or a Hub repository.")
STRENGTH = click.FloatRange(-10, 10)
strength = number(
    "--strength", STRENGTH, "0 is exactly the base, 1 the matrix as fitted. [default: what the alignment records]"
)
device = text("--device", "D", "cpu, cuda, cuda:1 or mps. [default: cuda if available, else cpu]")
precision = text(
    "--precision", "TEXT", f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}.",
    default=PRECISIONS[0], show_default=True,
)  # fmt: skip
ignore_exif = flag("--ignore-exif", "Read images as they are stored, as OpenCLIP does, not turned by their EXIF.")
force = flag("--force", "Overwrite OUT.")
as_json = flag("--json as_json", "Print one JSON object instead.")


def engine(does: str) -> Option:
    """Which process does the work of a command."""
    help = f"Who {does}: this process, or the Ray cluster of RAY_ADDRESS."
    return choice("--engine", ["local", "ray"], help, default="local")
