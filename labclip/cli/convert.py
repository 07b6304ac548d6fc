"""The commands convert and push: a matrix from a checkpoint, and to the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli.group import main


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--base", metavar="MODEL:TAG", help="OpenCLIP base, if the matrix is not a published one.")
def convert(checkpoint: Path, out: Path, base: str | None) -> None:
    """Convert a published torch checkpoint.

    Reads CHECKPOINT, runs no code in it, and writes the alignment folder OUT.
    """
    from labclip.io.converting import convert_checkpoint
    from labclip.io.names import named_base

    known = None
    if base is not None:
        model, _, tag = base.partition(":")
        if not tag:
            raise ValueError(f"--base is {base!r}. Type a model and a tag, for example ViT-B-32-quickgelu:openai.")
        known = named_base(model, tag)
    alignment = convert_checkpoint(checkpoint, base=known)
    alignment.save_pretrained(out)
    if alignment.base is None:
        click.echo("Warning: the base is not recorded, so nothing can check it. Pass --base MODEL:TAG.", err=True)
    click.echo(f"{out}: {alignment}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id", metavar="ORG/NAME")
@click.option("--message", default="Upload with labclip", show_default=True, help="The commit's subject.")
@click.option("--private/--public", default=None, help="For a new repository. [default: the organisation's]")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
def push(folder: Path, repo_id: str, message: str, private: bool | None, create_pr: bool) -> None:
    """Upload an alignment FOLDER to the Hugging Face Hub."""
    from labclip.io.folder import load
    from labclip.io.hub import push_folder

    load(folder)  # only what can be loaded again is uploaded
    click.echo(push_folder(folder, repo_id, commit_message=message, private=private, create_pr=create_pr))
