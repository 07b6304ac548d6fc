"""The `labclip` group: options and output that all commands share, and errors in one line.

Exit codes: 0 success, 1 a fit that does not help, 2 an error, 130 interrupted.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
import sys
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import click

from labclip._version import __version__
from labclip.base import PRECISIONS
from labclip.checks import NOTE, printable
from labclip.cli.options import with_options

if TYPE_CHECKING:
    from labclip.model import LABCLIP

_LOG = logging.getLogger("labclip")
"""Its level decides what goes to stderr: ERROR for --quiet, NOTE by default, INFO for --verbose, DEBUG for --debug."""


def in_one_line(error: BaseException) -> str:
    """The message of an error in one line. Errors of the system and of other packages are explained."""
    text = re.sub(r"\[Errno \d+\] ", "", " ".join(str(error).split()))
    if isinstance(error, OSError) and error.strerror is not None:
        problem = f"{error.filename} can't be used" if error.filename else "Reading or writing failed"
        return f"{problem} ({error.strerror}). Check the path, its permissions, and the free space of its disk."
    if isinstance(error, ValueError | OSError) and text:
        return text
    if isinstance(error, MemoryError) or "memory" in text.lower():
        return f"There is not enough memory ({text or 'main memory'}). Pass a smaller --batch-size, or less data."
    return f"{type(error).__name__}: {text}. The same command with --debug shows where it comes from."


class _Failed(click.ClickException):
    exit_code = 2


def _set_level(_: click.Context, switch: click.Parameter, is_set: bool) -> None:
    if is_set and _LOG.level != logging.DEBUG:
        _LOG.setLevel({"quiet": logging.ERROR, "verbose": logging.INFO}.get(switch.name or "", logging.DEBUG))
    if is_set and switch.name == "quiet":
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when huggingface_hub is imported


_SWITCHES = [
    click.Option(names, is_flag=True, expose_value=False, callback=_set_level, help=help)
    for names, help in (
        (["-q", "--quiet"], "Show results and errors only: no progress, no notes."),
        (["-v", "--verbose"], "Also show on stderr what is done and how long it took."),
        (["--debug"], "Show where an error comes from."),
    )
]


class _Command(click.Command):
    """A command with the options that all have. Its `example` is shown below the help, `interrupted` after Ctrl-C."""

    def __init__(self, *args: Any, example: str = "", interrupted: str = "Nothing was kept.", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epilog = f"\b\nExample:\n  {example}"
        self.params = [*self.params, *_SWITCHES]
        self.example, self.interrupted = example, interrupted

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if empty := [value for value in args if not value or (value.startswith("--") and value.endswith("="))]:
            raise click.UsageError(f"The argument {empty[0]!r} has no value. Is a shell variable not set?")
        _, _, parsed = self.make_parser(ctx).parse_args([*args])
        for option in parsed:  # click would take the last of several values
            if not isinstance(option, click.Option) or option.multiple or parsed.count(option) == 1:
                continue
            if option.secondary_opts or not option.is_flag:
                names = "/".join([*option.opts, *option.secondary_opts])
                raise click.UsageError(f"{names} is given twice. Type it once.")
        return super().parse_args(ctx, args)


class _Commands(click.Group):
    """Turns every error of a command into one line and an exit code, without a traceback.

    While a command runs, its messages name options instead of Python's parameters, and warnings are one line on stderr.
    """

    command_class = _Command
    context: click.Context  # of the running command, since threads have none of their own

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = shlex.join(["labclip", *args])
        _LOG.setLevel(NOTE)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        started, handler = time.monotonic(), _StderrHandler()
        self.context = ctx
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads make a busy machine 20 times slower
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a Windows code page lacks most characters
        _LOG.addHandler(handler)
        _LOG.propagate = False  # OpenCLIP adds its own handler to the root logger
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: _LOG.warning("Warning: %s", message)
                value = super().invoke(ctx)
            _LOG.info("%s took %.1f s", ctx.invoked_subcommand, time.monotonic() - started)
            return value
        except click.UsageError as error:
            command_line = " ".join(filter(None, ["labclip", ctx.invoked_subcommand]))
            message = " ".join(error.format_message().split())  # each value of a choice is on its own line
            raise _Failed(printable(f"{message} See: {command_line} --help")) from error
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):  # click handles these
            raise
        except KeyboardInterrupt:
            _LOG.debug(traceback.format_exc())
            command = self.commands.get(ctx.invoked_subcommand or "")
            note_on_files = command.interrupted if isinstance(command, _Command) else ""
            click.echo(f"\nInterrupted. {note_on_files} Type again: {printable(ctx.obj)}", err=True)
            raise SystemExit(130) from None
        except Exception as error:
            _LOG.debug(traceback.format_exc())
            raise _Failed(_for_terminal(in_one_line(error))) from error
        finally:
            _LOG.removeHandler(handler)
            _LOG.propagate = True
            _LOG.setLevel(logging.NOTSET)


class _StderrHandler(logging.Handler):
    """Writes log records to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(_for_terminal(record.getMessage()), err=True)


def _for_terminal(text: str) -> str:
    """The message with the command's options instead of Python's parameters, and without control characters."""
    return printable(with_options(text, main.context.invoked_subcommand, main.commands))


def show(text: str) -> None:
    """Print a result on stdout."""
    click.echo(_for_terminal(text))


def show_either(as_json: bool, value: Any, text: str) -> None:
    """Print a result on stdout: `value` as one JSON object, or `text`."""
    if as_json:
        click.echo(json.dumps(value))
    else:
        show(text)


def note(text: str) -> None:
    """Print a note on stderr, unless --quiet is given."""
    _LOG.log(NOTE, "%s", text)


def progress() -> bool:
    """Whether to show progress bars."""
    return _LOG.isEnabledFor(NOTE)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  labclip demo",
    params=list(_SWITCHES),
)
@click.version_option(__version__, "-V", "--version", prog_name="labclip")
def main() -> None:
    """CLIP that knows which colour belongs to which object: one small matrix on the text side."""


def open_model(
    name: str, device: str | None = None, precision: str = PRECISIONS[0], *, ignore_exif: bool = False, **options: Any
) -> LABCLIP:
    """Load a model by name. `options` are arguments of `LABCLIP.from_pretrained`."""
    from labclip.model import LABCLIP
    from labclip.towers.images import as_stored

    model = LABCLIP.from_pretrained(name, device=chosen_device(device), precision=precision, **options)
    if ignore_exif and model.preprocess is not None:
        model.preprocess = as_stored(model.preprocess)
    return model


def chosen_device(device: str | None) -> str:
    """The given device; by default a GPU if available, else the CPU."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
