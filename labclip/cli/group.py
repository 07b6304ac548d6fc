"""The group of commands: output that they share, and whatever fails in one line.

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
from labclip.cli.options import with_options
from labclip.io import PRECISIONS
from labclip.messages import NOTE, printable

if TYPE_CHECKING:
    from labclip.model import LABCLIP

_QUIET, _VERBOSE, _DEBUG, _NAME = "labclip.quiet", "labclip.verbose", "labclip.debug", "labclip.name"  # in `meta`


def in_one_line(error: BaseException) -> str:
    """What is wrong and what to do: messages of labclip as they are, those of the system and other packages told."""
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

    def format_message(self) -> str:
        text = printable(self.message)  # which may quote a file's only line
        return text if len(text) <= 2000 else f"{text[:1000]} ... {text[-1000:]}"


def _switch(key: str, *names: str, help: str) -> click.Option:
    def keep(context: click.Context, _: click.Parameter, asked: bool) -> None:
        context.meta[key] = context.meta.get(key, False) or asked
        if asked and key == _VERBOSE:
            logging.getLogger("labclip").setLevel(logging.INFO)
        if asked and key == _QUIET:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the client reads it when it is imported

    return click.Option(names, is_flag=True, expose_value=False, callback=keep, help=help)


_SWITCHES = [
    _switch(_QUIET, "-q", "--quiet", help="Show results and errors only: no progress, no notes."),
    _switch(_VERBOSE, "-v", "--verbose", help="Also say on stderr what is done, and how long it took."),
    _switch(_DEBUG, "--debug", help="Show where an error comes from."),
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
        if empty := [one for one in args if not one or (one.startswith("--") and one.endswith("="))]:
            raise click.UsageError(f"The argument {empty[0]!r} has no value. Is a variable of the shell not set?")
        ctx.meta[_NAME] = self.name
        return super().parse_args(ctx, args)


class _Commands(click.Group):
    """Turns whatever a command raises into one line and an exit code, never a traceback.

    While a command runs, messages name options instead of parameters, and warnings are one line on stderr.
    """

    command_class = _Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = shlex.join(["labclip", *args])
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort:  # interrupted before the command began, or after its end
            code = 130
        return sys.exit(code) if kwargs.get("standalone_mode", True) else code

    def invoke(self, ctx: click.Context) -> Any:
        started, log, handler = time.monotonic(), logging.getLogger("labclip"), _Notes()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # in a code page of Windows most is missing
        log.addHandler(handler)
        log.setLevel(log.level or NOTE)
        log.propagate = False  # OpenCLIP gives the root logger a handler of its own
        try:
            with warnings.catch_warnings():
                # Threads that decode images have no context of their own.
                warnings.showwarning = lambda message, *_, **__: _say(ctx, f"Warning: {message}")
                found = super().invoke(ctx)
            log.info("%s took %.1f s", ctx.invoked_subcommand, time.monotonic() - started)
            return found
        except click.UsageError as error:
            where = " ".join(filter(None, ["labclip", ctx.invoked_subcommand]))
            raise _Failed(f"{error.format_message()} See: {where} --help") from error
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):  # click ends them
            raise
        except KeyboardInterrupt:
            _show_traceback()
            command = self.commands.get(ctx.invoked_subcommand or "")
            kept = command.interrupted if isinstance(command, _Command) else ""
            click.echo(f"\nInterrupted. {kept} Type again: {printable(ctx.obj)}", err=True)
            raise SystemExit(130) from None
        except Exception as error:
            _show_traceback()
            raise _Failed(with_options(in_one_line(error), ctx.invoked_subcommand, self.commands)) from error
        finally:
            log.removeHandler(handler)
            log.setLevel(logging.NOTSET)
            log.propagate = True


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def _asked(key: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(key))


def _show_traceback() -> None:
    if _asked(_DEBUG):
        click.echo(printable(traceback.format_exc()), err=True, nl=False)


def show(text: str) -> None:
    """Print a result on stdout."""
    click.echo(printable(_worded(click.get_current_context(silent=True), text)))


def show_either(as_json: bool, value: Any, text: str) -> None:
    """Print a result on stdout, as one JSON object or as text."""
    if as_json:
        click.echo(json.dumps(value))
    else:
        show(text)


def note(text: str) -> None:
    """Print on stderr what is no result, unless --quiet."""
    _say(click.get_current_context(silent=True), text)


def _say(context: click.Context | None, text: str) -> None:
    if context is None or not context.meta.get(_QUIET):
        click.echo(printable(_worded(context, text)), err=True)


def _worded(context: click.Context | None, text: str) -> str:
    return text if context is None else with_options(text, context.meta.get(_NAME), main.commands)


def progress() -> bool:
    """Whether progress is shown."""
    return not _asked(_QUIET)


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
    name: str, device: str | None = None, precision: str = PRECISIONS[0], *, ignore_exif: bool = False
) -> LABCLIP:
    """The model of a name on the device asked for."""
    from labclip.model import LABCLIP
    from labclip.towers.images import as_stored

    model = LABCLIP.from_pretrained(name, device=chosen_device(device), precision=precision)
    if ignore_exif and model.preprocess is not None:
        model.preprocess = as_stored(model.preprocess)
    return model


def chosen_device(device: str | None) -> str:
    """The device asked for, else a GPU if available."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
