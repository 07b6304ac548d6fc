"""The commands demo, sample and app: the failure and the fix on rendered scenes, such scenes to try on, the page."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from labclip.cli import options
from labclip.cli.group import main, note, open_model, progress, show, show_either
from labclip.files import atomic_file, check_folder, make_folder
from labclip.packages import EMBEDDED, require


@main.command(example="labclip demo --out figures")
@click.option("--out", default=Path(), type=options.FILE, help="Folder of the figure. [default: .]")
@options.number("--seed", options.SEED, "Seed of the scenes.", default=0)
@click.option("--dark", is_flag=True, help="Draw the figure light on dark.")
@click.option("--narrow", is_flag=True, help="Draw the figure one card wide, for a phone.")
@options.as_json
def demo(out: Path, seed: int, dark: bool, narrow: bool, as_json: bool) -> None:
    """Reproduce the failure and the fix, offline, in a minute.

    Renders scenes that no training used, measures the embedded base and LABCLIP on them, scores a few captions and
    their swapped versions with both, and writes a figure.
    """
    note("Loading the embedded model ...")
    from labclip.demo import draw, run

    make_folder(out)  # before the work, so that a wrong one costs nothing
    path = out / f"labclip-demo{'-narrow' * narrow}{'-dark' * dark}.png"
    result = run(seed=seed, progress=progress())
    show_either(as_json, result.results, str(result))
    with atomic_file(path) as part:
        draw(result, part, dark=dark, narrow=narrow)
    (note if as_json else show)(f"\nFigure: {path}")


@main.command(example="labclip sample scenes-data")
@click.argument("folder", metavar="DIR", type=options.FILE)
@options.number("--n", click.IntRange(1, 100_000), "Number of scenes.", default=1000)
@options.number("--seed", options.SEED, "Seed of the scenes.", default=0)
def sample(folder: Path, n: int, seed: int) -> None:
    """Write rendered scenes with captions, to try other commands on.

    DIR gets the images and captions.csv, with the columns image, caption and negative (the colours swapped).
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty. Pass a folder that is, or a new one.")
    from labclip import scenes

    table = scenes.sample(n, seed=seed).save(folder)
    test = f"{folder}-test"  # a matrix is measured on scenes that its fit did not see
    show(
        f"{table}: {n:,} images, each with a caption and a negative. Type next:\n"
        f"  labclip fit {table} my-alignment --model scenes\n"
        f"  labclip sample {test} --seed {seed + 1}\n"
        f"  labclip evaluate csv --model scenes --alignment my-alignment --data {test}/captions.csv"
    )


@main.command(example="labclip app --model scenes")
@options.text("--model", "M", options.MODEL, type=options.NAME, default=EMBEDDED, show_default=True)
@options.alignment
@options.number("--port", click.IntRange(1, 65_535), "Port of the page.", default=7860)
@options.text("--host", "TEXT", "Address to listen on; by default only this machine can connect.", default="127.0.0.1")
@options.flag("--share", "Also open a public address, through a server of gradio's.")
@options.device
def app(model: str, alignment: str | None, port: int, host: str, share: bool, device: str | None) -> None:
    """Serve a page to compare, search, diagnose and fit.

    Works offline; what is uploaded is not kept.
    """
    _check_free(host, port)
    note(f"Starting the page on {model}; this takes a while ...")
    require("gradio", "The page needs gradio", 'pip install "labclip[app]"')
    from labclip.app.page import serve

    opened = open_model(model, device, alignment=alignment)
    if host not in ("127.0.0.1", "localhost", "::1") or share:
        note("Warning: whoever reaches this page may use it, as it asks for no password. See docs/app.md.")
    typed = ["--model", _absolute(model), *(["--device", device] if device else [])]
    other = ["--alignment", _absolute(alignment)] if alignment else []
    name = " with ".join(Path(path).name if Path(path).exists() else path for path in (model, alignment) if path)
    serve(opened, typed, other, name=name, host=host, port=port, share=share,
          say=lambda address: show(f"{address}  Ctrl-C ends it."))  # fmt: skip


def _check_free(host: str, port: int) -> None:
    """Refuse an address that can't be listened on, with ValueError."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]
        raise ValueError(
            f"The page can't listen on {host}:{port} ({why}). Pass another --port, for example --port {port + 1}, or "
            f"another --host."
        ) from error


def _absolute(name: str) -> str:
    """A name as it is, which wins over a folder that is called so; a path as one that leads there from every folder."""
    from labclip.io.published import is_known

    return str(Path(name).absolute()) if not is_known(name) and Path(name).exists() else name
