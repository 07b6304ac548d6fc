"""The group of commands, which turns whatever fails into one line and exit code 2; output and models that many share.

Exit codes: 0 done, 1 the fit was not worth it, 2 something is wrong, 130 interrupted.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import sys
import time
import traceback
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from labclip._version import __version__
from labclip.cli.errors import in_one_line
from labclip.cli.wording import with_options
from labclip.io import PRECISIONS
from labclip.messages import NOTE, printable

if TYPE_CHECKING:
    from labclip.model import LABCLIP

_QUIET, _VERBOSE, _DEBUG, _NAME = "labclip.quiet", "labclip.verbose", "labclip.debug", "labclip.name"  # in `meta`
_MOST = 2000  # characters of a message


class _Failed(click.ClickException):
    exit_code = 2

    def format_message(self) -> str:
        text = printable(self.message)  # which may quote a file's only line
        return text if len(text) <= _MOST else f"{text[: _MOST // 2]} ... {text[-_MOST // 2 :]}"


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
            raise click.UsageError(
                f"The argument {empty[0]!r} has no value, as where a variable of the shell is not set. Pass one."
            )
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
        standalone_mode = kwargs.get("standalone_mode", True)
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
        except click.ClickException as error:
            if not standalone_mode:
                raise
            error.show()
            raise SystemExit(error.exit_code) from None
        except click.Abort:  # interrupted before the command began, or after its end
            raise SystemExit(130) from None
        return sys.exit(code) if standalone_mode else code

    def invoke(self, ctx: click.Context) -> Any:
        started, log, handler = time.monotonic(), logging.getLogger("labclip"), _Notes()
        try:
            with warnings.catch_warnings():
                # Threads that decode images have no context of their own.
                warnings.showwarning = lambda message, *_, **__: _say(ctx, f"Warning: {message}")
                log.addHandler(handler)
                log.setLevel(log.level or NOTE)
                log.propagate = False  # OpenCLIP gives the root logger a handler of its own
                if sys.stdout is None:
                    raise _Failed("Standard output is closed, so no result can be shown. Leave out >&-.")
                if isinstance(sys.stdout, io.TextIOWrapper):
                    sys.stdout.reconfigure(errors="backslashreplace")  # in a code page of Windows most is missing
                found = super().invoke(ctx)
                log.info("%s took %.1f s", ctx.invoked_subcommand, time.monotonic() - started)
                return found
        except click.UsageError as error:
            where = " ".join(filter(None, ["labclip", ctx.invoked_subcommand]))
            raise _Failed(f"{error.format_message()} See: {where} --help") from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _show_traceback()
            command = self.commands.get(ctx.invoked_subcommand or "")
            kept = command.interrupted if isinstance(command, _Command) else ""
            click.echo(f"\nInterrupted. {kept} Type again: {printable(ctx.obj)}", err=True)
            raise SystemExit(130) from None
        except Exception as error:
            _show_traceback()
            _give_up_stdout()
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


def _give_up_stdout() -> None:
    """Let what can't be written to stdout go, else Python complains of it once more when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):  # no file behind it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(text: str) -> None:
    """Print a result on stdout."""
    click.echo(printable(_worded(click.get_current_context(silent=True), text)))


def show_json(value: Any) -> None:
    """Print a result on stdout, one JSON object."""
    click.echo(json.dumps(value))


def show_either(as_json: bool, value: Any, text: str) -> None:
    """Print a result on stdout, as JSON or as text."""
    if as_json:
        show_json(value)
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
