"""The commands demo, sample and app: they show the finding, write rendered scenes, and serve the page."""

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
@options.flag("--dark", "Draw the figure light on dark.")
@options.flag("--narrow", "Draw the figure one card wide, for a phone.")
@options.as_json
def demo(out: Path, seed: int, dark: bool, narrow: bool, as_json: bool) -> None:
    """Reproduce the failure and the fix, offline, in a minute.

    Renders unseen scenes, measures the embedded base and LABCLIP on them, scores a few captions and their swapped
    versions with both, and writes a figure.
    """
    note("Loading the embedded model ...")
    from labclip.demo import draw, run

    make_folder(out)  # errors come before the work
    path = out / f"labclip-demo{'-narrow' * narrow}{'-dark' * dark}.png"
    result = run(seed=seed, progress=progress())
    show_either(as_json, result.results, str(result))
    with atomic_file(path) as part:
        draw(result, part, dark=dark, narrow=narrow)
    (note if as_json else show)(f"\nFigure: {path}")


@main.command(example="labclip sample scenes-data")
@click.argument("folder", metavar="DIR", type=options.FILE)
@options.number("--n", click.IntRange(1, 100_000), "Number of scenes.", default=1000)
@options.number("--seed", options.SEED, "Seed of the scenes; `labclip evaluate scenes` measures on seed 0.", default=1)
def sample(folder: Path, n: int, seed: int) -> None:
    """Write rendered scenes with captions, to try other commands on.

    Writes images to DIR, and captions.csv with the columns image, caption and negative (the colours swapped).
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty. Pass an empty or a new folder.")
    from labclip import scenes

    table = scenes.sample(n, seed=seed).save(folder)
    test_folder = f"{folder}-test"  # the fit must not see the scenes that measure it
    show(
        f"{table}: {n:,} images, each with a caption and a negative. Type next:\n"
        f"  labclip fit {table} my-alignment --model scenes\n"
        f"  labclip sample {test_folder} --seed {seed + 1}\n"
        f"  labclip evaluate csv --model scenes --alignment my-alignment --data {test_folder}/captions.csv"
    )


@main.command(example="labclip app --model scenes")
@options.text("--model", "M", options.MODEL, type=options.NAME, default=EMBEDDED, show_default=True)
@options.alignment
@options.number("--port", click.IntRange(1, 65_535), "Port of the page.", default=7860)
@options.text("--host", "TEXT", "Address to listen on; by default only this machine can connect.", default="127.0.0.1")
@options.flag("--share", "Also open a public address, through gradio's server.")
@options.device
def app(model: str, alignment: str | None, port: int, host: str, share: bool, device: str | None) -> None:
    """Serve a page to compare, search, diagnose and fit.

    Works offline. Uploads are not kept.
    """
    _check_address(host, port)
    note(f"Starting the page on {model}; this takes a while ...")
    require("gradio", "The page needs gradio", 'pip install "labclip[app]"')
    from labclip.app.page import serve

    loaded_model = open_model(model, device, alignment=alignment)
    if host not in ("127.0.0.1", "localhost", "::1") or share:
        note("Warning: anyone who can reach this page can use it; it has no password. See docs/app.md.")
    model_options = ["--model", _absolute(model), *(["--device", device] if device else [])]
    alignment_options = ["--alignment", _absolute(alignment)] if alignment else []
    name = " with ".join(Path(path).name if Path(path).exists() else path for path in (model, alignment) if path)
    serve(loaded_model, model_options, alignment_options, name=name, host=host, port=port, share=share,
          announce=lambda address: show(f"{address}  Ctrl-C ends it."))  # fmt: skip


def _check_address(host: str, port: int) -> None:
    """Raise ValueError if the page can't listen on this address."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise ValueError(
            f"The page can't listen on {host}:{port} ({reason}). Pass another --port, such as {port + 1}, or --host."
        ) from error


def _absolute(name: str) -> str:
    """A path that exists as an absolute path. Known names stay: they win over a folder with the same name."""
    from labclip.io.published import is_known

    return str(Path(name).absolute()) if not is_known(name) and Path(name).exists() else name
