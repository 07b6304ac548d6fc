"""The group of commands: options and output that they share, and whatever fails in one line.

Exit codes: 0 done, 1 the fit was not worth it, 2 something is wrong, 130 interrupted.
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
"""Whose level is how much is said on stderr: nothing but errors, notes and warnings, also what is done, tracebacks."""


def in_one_line(error: BaseException) -> str:
    """An error in one line: labclip's own message as it is, those of the system and other packages explained."""
    text = re.sub(r"\[Errno \d+\] ", "", " ".join(str(error).split()))
    if isinstance(error, OSError) and error.strerror is not None:
        what = f"{error.filename} can't be used" if error.filename else "Reading or writing failed"
        return f"{what} ({error.strerror}). Check the path, that you may use it, and that its disk has space."
    if isinstance(error, ValueError | OSError) and text:
        return text
    if isinstance(error, MemoryError) or "memory" in text.lower():
        return f"There is not enough memory ({text or 'of the processor'}). Pass a smaller --batch-size, or less data."
    return f"{type(error).__name__}: {text}. The same command with --debug shows where it comes from."


class _Failed(click.ClickException):
    exit_code = 2


def _set_level(_: click.Context, switch: click.Parameter, asked: bool) -> None:
    if asked and _LOG.level != logging.DEBUG:
        _LOG.setLevel({"quiet": logging.ERROR, "verbose": logging.INFO}.get(switch.name or "", logging.DEBUG))
    if asked and switch.name == "quiet":
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the client reads it when it is imported


_SWITCHES = [
    click.Option(names, is_flag=True, expose_value=False, callback=_set_level, help=help)
    for names, help in (
        (["-q", "--quiet"], "Show results and errors only: no progress, no notes."),
        (["-v", "--verbose"], "Also say on stderr what is done, and how long it took."),
        (["--debug"], "Show where an error comes from."),
    )
]


class _Command(click.Command):
    """A command with the options that all have.

    Args:
        example: What to type, shown below the help.
        interrupted: What Ctrl-C leaves behind, as a sentence.
    """

    def __init__(self, *args: Any, example: str = "", interrupted: str = "Nothing was kept.", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epilog = f"\b\nExample:\n  {example}"
        self.params = [*self.params, *_SWITCHES]
        self.example, self.interrupted = example, interrupted

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if empty := [value for value in args if not value or (value.startswith("--") and value.endswith("="))]:
            raise click.UsageError(f"The argument {empty[0]!r} has no value. Is a variable of the shell not set?")
        _, _, given = self.make_parser(ctx).parse_args([*args])
        for option in given:  # of several values click would take the last
            single = (
                isinstance(option, click.Option)
                and not option.multiple
                and (option.secondary_opts or not option.is_flag)
            )
            if single and given.count(option) > 1:
                raise click.UsageError(
                    f"{'/'.join([*option.opts, *option.secondary_opts])} is given twice. Type it once."
                )
        return super().parse_args(ctx, args)


class _Commands(click.Group):
    """Turns whatever a command raises into one line and an exit code, never a traceback.

    While a command runs, messages name options instead of parameters, and warnings are one line on stderr.
    """

    command_class = _Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = shlex.join(["labclip", *args])
        _LOG.setLevel(NOTE)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        started, handler = time.monotonic(), _Notes(ctx)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin slow a busy machine down 20 times
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # in a code page of Windows most is missing
        _LOG.addHandler(handler)
        _LOG.propagate = False  # OpenCLIP gives the root logger a handler of its own
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: _LOG.warning("Warning: %s", message)
                value = super().invoke(ctx)
            _LOG.info("%s took %.1f s", ctx.invoked_subcommand, time.monotonic() - started)
            return value
        except click.UsageError as error:
            where = " ".join(filter(None, ["labclip", ctx.invoked_subcommand]))
            message = " ".join(error.format_message().split())  # the values of a choice have a line each
            raise _Failed(printable(f"{message} See: {where} --help")) from error
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):  # click ends them
            raise
        except KeyboardInterrupt:
            _LOG.debug(traceback.format_exc())
            command = self.commands.get(ctx.invoked_subcommand or "")
            kept = command.interrupted if isinstance(command, _Command) else ""
            click.echo(f"\nInterrupted. {kept} Type again: {printable(ctx.obj)}", err=True)
            raise SystemExit(130) from None
        except Exception as error:
            _LOG.debug(traceback.format_exc())
            raise _Failed(_worded(ctx, in_one_line(error))) from error
        finally:
            _LOG.removeHandler(handler)
            _LOG.propagate = True
            _LOG.setLevel(logging.NOTSET)


class _Notes(logging.Handler):
    """Writes on stderr what is no result; threads have no context of their own, so that it keeps the group's."""

    def __init__(self, context: click.Context) -> None:
        super().__init__()
        self.context = context

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(_worded(self.context, record.getMessage()), err=True)


def _worded(context: click.Context, text: str) -> str:
    """A printable message, with the command's options in place of Python's parameters."""
    return printable(with_options(text, context.invoked_subcommand, main.commands))


def show(text: str) -> None:
    """Print a result on stdout."""
    click.echo(_worded(click.get_current_context().find_root(), text))


def show_either(as_json: bool, value: Any, text: str) -> None:
    """Print a result on stdout, as one JSON object or as text."""
    if as_json:
        click.echo(json.dumps(value))
    else:
        show(text)


def note(text: str) -> None:
    """Print on stderr what is no result, unless --quiet."""
    _LOG.log(NOTE, "%s", text)


def progress() -> bool:
    """Whether progress is shown."""
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
    """The model of a name on the device asked for; `options` are those of `LABCLIP.from_pretrained`."""
    from labclip.model import LABCLIP
    from labclip.towers.images import as_stored

    model = LABCLIP.from_pretrained(name, device=chosen_device(device), precision=precision, **options)
    if ignore_exif and model.preprocess is not None:
        model.preprocess = as_stored(model.preprocess)
    return model


def chosen_device(device: str | None) -> str:
    """The device asked for, else a GPU if available."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
