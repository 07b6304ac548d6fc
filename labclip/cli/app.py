"""The command that serves the page."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli import options
from labclip.cli.files import check_names
from labclip.cli.group import main, note, open_model, show
from labclip.packages import EMBEDDED, require


@main.command(example="labclip app --model scenes")
@options.text("--model", "M", options.MODEL, default=EMBEDDED, show_default=True)
@options.alignment
@options.number("--port", click.IntRange(1, 65_535), "Port of the page.", default=7860)
@options.text("--host", "TEXT", "Address to listen on; by default only this machine can connect.", default="127.0.0.1")
@options.flag("--share", "Also open a public address, through a server of gradio's.")
@options.device
def app(model: str, alignment: str | None, port: int, host: str, share: bool, device: str | None) -> None:
    """Serve a page to compare, search, diagnose and fit.

    Works offline; what is uploaded is not kept.
    """
    require("gradio", "The page needs gradio", 'pip install "labclip[app]"')
    check_names(model, alignment)
    note("Loading the model ...")
    from labclip.app.page import LOCAL, check_free, serve
    from labclip.io.opening import open_alignment

    check_free(host, port)

    opened = open_model(model, device)
    if alignment is not None:
        opened.alignment = open_alignment(alignment, opened)
    if host not in LOCAL or share:
        note("Warning: whoever reaches this page may use it, as it asks for no password. See docs/app.md.")
    typed = ["--model", _absolute(model), *(["--device", device] if device else [])]
    other = ["--alignment", _absolute(alignment)] if alignment else []
    name = " with ".join(Path(one).name if Path(one).exists() else one for one in (model, alignment) if one)
    serve(opened, typed, other, name=name, host=host, port=port, share=share,
          say=lambda address: show(f"{address}  Ctrl-C ends it."))  # fmt: skip


def _absolute(name: str) -> str:
    """A name as it is, which wins over a folder that is called so; a path as one that leads there from every folder."""
    from labclip.io.published import is_known

    return str(Path(name).absolute()) if not is_known(name) and Path(name).exists() else name
