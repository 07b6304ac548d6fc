"""The commands convert and push: a matrix from a checkpoint, and to the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli import options
from labclip.cli.files import ALIGNMENT_FILES, check_empty
from labclip.cli.group import main, note, show
from labclip.files import check_alignment_folder, check_checkpoint


@main.command(example="labclip convert matrix.pt my-alignment --base ViT-B-32-quickgelu:openai")
@click.argument("checkpoint", type=options.FILE)
@click.argument("out", type=options.FILE)
@options.text("--base", "MODEL:TAG", "OpenCLIP base, if the matrix is not a published one.")
@options.force
def convert(checkpoint: Path, out: Path, base: str | None, force: bool) -> None:
    """Convert a published torch checkpoint.

    Reads CHECKPOINT, runs no code in it, and writes the alignment folder OUT.
    """
    model, _, tag = (base or "").partition(":")
    if base is not None and not tag:
        raise ValueError(f"--base is {base!r}. Type a model and a tag, for example ViT-B-32-quickgelu:openai.")
    check_empty(out, force, writes=ALIGNMENT_FILES, inputs=[checkpoint])
    check_checkpoint(checkpoint)
    from labclip.io.converting import convert_checkpoint
    from labclip.io.names import named_base

    alignment = convert_checkpoint(checkpoint, base=None if base is None else named_base(model, tag))
    alignment.save_pretrained(out)
    if alignment.base is None:
        note("Warning: the base is not recorded, so nothing can check it. Pass --base MODEL:TAG.")
    show(f"{out}: {alignment}")


@main.command(example="labclip push my-alignment ORG/NAME --private", interrupted="The Hub keeps what arrived.")
@click.argument("folder", type=options.FILE)
@click.argument("repo_id", metavar="ORG/NAME")
@click.option("--message", default="Upload with labclip", show_default=True, help="Subject of the commit.")
@click.option("--private/--public", default=None, help="For a new repository. [default: the organisation's]")
@options.flag("--create-pr", "Open a pull request instead of committing.")
def push(folder: Path, repo_id: str, message: str, private: bool | None, create_pr: bool) -> None:
    """Upload an alignment FOLDER to the Hugging Face Hub."""
    check_alignment_folder(folder)
    from labclip.io.folder import load
    from labclip.io.hub import push_folder

    load(folder)  # only what can be loaded again is uploaded
    show(push_folder(folder, repo_id, commit_message=message, private=private, create_pr=create_pr))
