"""The group of commands, what turns bad input into one line and exit code 2, and the options that many share."""

from __future__ import annotations

import warnings
from typing import Any

import click

from labclip._version import __version__


class _BadInput(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Turns what the library raises for bad input into one line and exit code 2, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = lambda message, *_, **__: click.echo(f"Warning: {message}", err=True)
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            raise _BadInput(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="labclip")
def main() -> None:
    """CLIP that knows which colour belongs to which object: one small matrix on the text side."""


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
model_option = click.option(
    "--model", required=True, metavar="M", help="A name of `labclip list`, a folder, or a Hub repository org/name."
)
alignment_option = click.option(
    "--alignment", metavar="A", help="Another alignment: a name, a folder, or a repository."
)
strength_option = click.option(
    "--strength", type=float, help="0 is the base exactly, 1 the matrix as fitted. [default: as the alignment says]"
)
