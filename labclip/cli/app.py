"""The command that serves the page."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli import options
from labclip.cli.files import check_names
from labclip.cli.group import main, note, open_model, show
from labclip.packages import EMBEDDED, require

_APP = 'pip install "labclip[app]"'
_HERE = ("127.0.0.1", "localhost", "::1")


@main.command(example="labclip app --model scenes", interrupted="Nothing was kept.")
@options.text("--model", "M", options.MODEL, default=EMBEDDED, show_default=True)
@options.alignment
@options.number("--port", click.IntRange(1, 65_535), "Of the page.", default=7860)
@options.text(
    "--host", "TEXT", "Address to listen on; the default lets nobody else in.", default=_HERE[0], show_default=True
)
@options.flag("--share", "Also open a public address, through a server of gradio's.")
@options.device
def app(model: str, alignment: str | None, port: int, host: str, share: bool, device: str | None) -> None:
    """Serve a page that shows what a model binds.

    Compare captions, search images, diagnose, fit. Works offline; what is uploaded is kept nowhere.
    """
    require("gradio", "The page needs gradio", _APP)
    check_names(model, alignment)
    from labclip.app.page import serve
    from labclip.io.opening import open_alignment

    opened = open_model(model, device)
    typed, other = ["--model", _absolute(model)], []
    if device is not None:
        typed += ["--device", device]
    if alignment is not None:
        opened.alignment = open_alignment(alignment, opened)
        other = ["--alignment", _absolute(alignment)]
    if host not in _HERE or share:
        note("Warning: whoever reaches this page may use it, as it asks for no password. See docs/app.md.")
    named = " with ".join(Path(name).name if Path(name).is_absolute() else name for name in (typed[1], *other[1:]))

    def say(address: str) -> None:
        show(f"{address}  Ctrl-C ends it.")

    serve(opened, typed, other, name=named, host=host, port=port, share=share, say=say)


def _absolute(name: str) -> str:
    """A name as it is, which wins over a folder that is called so; a path as one that leads there from every folder."""
    from labclip.io.published import is_known

    return str(Path(name).absolute()) if not is_known(name) and Path(name).exists() else name
