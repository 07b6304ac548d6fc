"""Helpers that declare options, the options that several commands share, and the names of options in messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from labclip.base import PRECISIONS

Option = Callable[[Any], Any]

FILE = click.Path(path_type=Path)
SEED, COUNT = click.IntRange(0), click.IntRange(1, 65_536)


class _Name(click.ParamType):  # type: ignore[type-arg]
    """The name of a model or alignment. An impossible name is refused before torch is imported."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from labclip.io.names import form_of, resolve
        from labclip.io.published import PUBLISHED

        if form_of(value) is None and value not in {entry.alignment for entry in PUBLISHED}:
            resolve(value, None)
        return value


NAME = _Name()


def text(names: str, metavar: str, help: str, **attributes: Any) -> Option:
    """An option with a text. `names` are separated by spaces; a "*" before them means it may be given again."""
    return click.option(*names.strip("*").split(), metavar=metavar, help=help, multiple=names[0] == "*", **attributes)


def path(names: str, metavar: str, help: str) -> Option:
    """An option with a path."""
    return text(names, metavar, help, type=FILE)


def flag(names: str, help: str, **attributes: Any) -> Option:
    """An option without a value."""
    return click.option(*names.split(), is_flag=True, help=help, **attributes)


def number(name: str, kind: Any, help: str, default: Any = None, **attributes: Any) -> Option:
    """An option with a number."""
    if default is not None:  # for click, a default of None would be a value of a required option
        attributes |= {"default": default, "show_default": True}
    return click.option(name, type=kind, help=help, **attributes)


def choice(name: str, values: Sequence[str], help: str, default: str | None = None, **attributes: Any) -> Option:
    """An option with one of some values."""
    return number(name, click.Choice(values), help, default, **attributes)


MODEL = "A name of `labclip list`, a folder, a Hub repository org/name, or an OpenCLIP MODEL:TAG."
model = text("--model", "M", MODEL, type=NAME, required=True)
alignment = text("--alignment", "A", "Another alignment: a name, a folder, or a Hub repository.", type=NAME)
STRENGTH = click.FloatRange(-10, 10)
strength = number(
    "--strength", STRENGTH, "0 is exactly the base, 1 the matrix as fitted. [default: what the alignment records]"
)
device = text("--device", "D", "cpu, cuda, cuda:1 or mps. [default: cuda if available, else cpu]")
precision = text(
    "--precision", "TEXT", f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}.",
    default=PRECISIONS[0], show_default=True,
)  # fmt: skip
workers = number("--workers", click.IntRange(1, 256), "Decoding threads. [default: one per processor, at most 16]")
batch_size = number("--batch-size", COUNT, "Images in one pass.", default=64)
column = text("--column", "NAME", "Column of the captions. [default: caption, title, captions, sentences or text]")
ignore_exif = flag("--ignore-exif", "Read images as they are stored, as OpenCLIP does, not rotated by their EXIF.")
no_cache = flag("--no-cache", "Do not cache embeddings.")
engine = choice("--engine", ["local", "ray"], "This process, or the Ray cluster of RAY_ADDRESS.", default="local")
force = flag("--force", "Overwrite OUT.")
as_json = flag("--json as_json", "Print one JSON object instead.")


def words(option: str, value: str) -> list[str]:
    """The words of a comma-separated list, or the lines of a file."""
    if Path(value).is_file():
        words = Path(value).read_text(encoding="utf-8-sig").splitlines()
    elif "," in value or ("/" in value and not Path(value).suffix):
        words = value.split(",")
    else:
        raise ValueError(f"{option} is {value!r}, but there is no such file. Separate words with commas.")
    return [word for word in map(str.strip, words) if word]


# Messages of the package advise Python's parameters, for example "pass force=True". The command line shows options.
_VALUE = r"(?P<name>[a-z_]+)=(?P<value>'[^']*'|\"[^\"]*\"|[\w.]*\w)(?![\w/])"
_ADVICE = re.compile(rf"(?i)(?P<before>\b(?:pass|or|try|with|of|out|in|set|need|example),?\s+){_VALUE}")
_PARAMETER = re.compile(r"`([a-z_]+)`|^([a-z_]+)(?= is | ')")
_BENCHMARK_OPTION = re.compile(r"options=\{[\"'](\w+)[\"']: [\"']?(\w+)[\"']?\}")
_CALL = re.compile(r"\blabclip\.([a-z]+)\b(?:\([^()]*\))?(?!\.\w)")
_PHRASES = {
    "labclip.embed(..., force=True)": "labclip embed --force",
    "base=, an OpenCLIP model that you loaded": "--model with its base, and this as --alignment",
    ", or pass token=...": "",
    "the same call": "the same command",
    "labclip.training.split_combinations": "--split combinations",
    "alignment.save_pretrained": "labclip fit",
}


def with_options(text: str, name: str | None, commands: Mapping[str, click.Command]) -> str:
    """Replace Python's parameters and functions in a message by the options of the command called `name`.

    >>> with_options("Pass force=True to overwrite it.", "fit", main.commands)
    'Pass --force to overwrite it.'
    """
    options = _options_by_parameter(commands.get(name or ""))

    def option_name(parameter: re.Match[str]) -> str:
        option = options.get(parameter[1] or parameter[2])
        return option.opts[-1] if option else parameter[0]

    for phrase, replacement in _PHRASES.items():
        text = text.replace(phrase, replacement)
    text = _CALL.sub(lambda call: f"labclip {call[1]}" if call[1] in commands else call[0], text)
    text = _PARAMETER.sub(option_name, _BENCHMARK_OPTION.sub(r"--option \1=\2", text))
    return _ADVICE.sub(lambda advice: advice["before"] + _as_option(options, advice), text)


def _options_by_parameter(command: click.Command | None) -> dict[str, click.Option]:
    """The options of a command by the parameter they stand for, in the singular and the plural."""
    options = [option for option in (command.params if command else ()) if isinstance(option, click.Option)]
    by_name = {option.opts[-1].lstrip("-").replace("-", "_"): option for option in options}
    return {f"{name}s": option for name, option in by_name.items()} | by_name


def _as_option(options: Mapping[str, click.Option], argument: re.Match[str]) -> str:
    """`name=value` as an option; unchanged if there is no such option."""
    name, value = argument["name"], argument["value"].strip("'\"")
    if value == "None" and f"no_{name}" in options:
        return options[f"no_{name}"].opts[-1]
    if (option := options.get(name)) is None:
        return f"{'--option ' * ('option' in options)}{name}={argument['value']}"
    if value == "False" and option.secondary_opts:
        return option.secondary_opts[-1]
    return option.opts[-1] + ("" if option.is_flag else f" {value}")
