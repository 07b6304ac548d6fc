"""The `labclip` command. Results on stdout, progress and errors on stderr; exit code 2 with one line on bad input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labclip._version import __version__

if TYPE_CHECKING:
    from labclip.published import Published


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


_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
_model = click.option(
    "--model", required=True, metavar="M", help="A name of `labclip list`, a folder, or a Hub repository org/name."
)
_alignment = click.option("--alignment", metavar="A", help="Another alignment: a name, a folder, or a repository.")
_strength = click.option(
    "--strength", type=float, help="0 is the base exactly, 1 the matrix as fitted. [default: as the alignment says]"
)


@main.command()
@click.option("--out", default=Path(), type=click.Path(path_type=Path), help="Folder for the picture. [default: .]")
@click.option("--seed", type=int, default=0, show_default=True, help="Which fresh scenes to draw.")
@_as_json
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Show the finding and its repair on the embedded model, in under a minute, offline.

    Renders scenes no training saw, measures the base against LABCLIP, scores a few captions and their swapped twins
    with both, and writes a picture.
    """
    from labclip.scenes import demo as demonstration

    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Pass --out a folder.")
    click.echo("Loading the embedded model and rendering fresh scenes ...", err=True)
    shown = demonstration.run(seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    picture = demonstration.draw(shown, out / "labclip-demo.png")
    if as_json:
        click.echo(json.dumps(shown.results))
        return
    click.echo(demonstration.report(shown))
    click.echo(f"\nPicture: {picture}")


@main.command("list")
@_as_json
def list_command(as_json: bool) -> None:
    """List the matrices that are known by name."""
    from labclip.pretrained import find_entry, list_pretrained
    from labclip.published import EMBEDDED

    rows = [(EMBEDDED, "scenes", "embedded, 12 colours x 10 shapes", 256, "in this package")]
    for name in list_pretrained():
        if entry := find_entry(name):
            base = f"{entry.model} ({entry.pretrained})"
            rows.append((name, entry.alignment, base, entry.embed_dim, "the Hub, else the authors' repository"))
    columns = ("name", "alignment", "base", "dim", "source")
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
        return
    table = [columns, *[tuple(map(str, row)) for row in rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@main.command()
@click.argument("name")
@_as_json
def info(name: str, as_json: bool) -> None:
    """Say what a matrix is, where it comes from, what it gains and costs.

    NAME is a name of `labclip list`, a folder, or a Hub repository org/name.
    """
    from labclip.pretrained import find_entry

    facts = _published_facts(entry) if (entry := find_entry(name)) else _loaded_facts(name)
    if as_json:
        click.echo(json.dumps({"name": name, **facts}))
        return
    results, reported = facts.pop("results", None), facts.pop("reported", None)
    for key, value in facts.items():
        if isinstance(value, list):
            click.echo(f"{key}:")
            for line in value:
                click.echo(f"  - {line}")
        elif value is not None:
            click.echo(f"{key}: {value}")
    for title, table in (("measured", results), ("reported, not measured by labclip", reported)):
        if table:
            click.echo(f"{title}:")
            _print_results(table)
    if not results:
        click.echo("measured: nothing yet by labclip for this matrix")


def _published_facts(entry: Published) -> dict[str, Any]:
    return {
        "base": f"{entry.model} ({entry.pretrained})",
        "alignment": entry.alignment,
        "dim": entry.embed_dim,
        "url": entry.url,
        "matrix_sha256": entry.matrix_sha256,
        **entry.metadata,
    }


def _loaded_facts(name: str) -> dict[str, Any]:
    from labclip.alignment import Alignment
    from labclip.card import checked_results
    from labclip.storage import matrix_sha256

    alignment = Alignment.from_pretrained(name)
    checked_results(alignment.metadata.get("results"))
    return {
        "base": str(alignment.base) if alignment.base else None,
        "dim": alignment.dim,
        "strength": alignment.strength,
        "matrix_sha256": matrix_sha256(alignment.fitted),
        **alignment.metadata,
    }


def _print_results(results: Any) -> None:
    from labclip.card import checked_results

    rows = [
        (f"{benchmark} {metric}", base.get(metric), aligned.get(metric))
        for benchmark, (base, aligned) in checked_results(results).items()
        for metric in dict.fromkeys([*base, *aligned])
    ]
    width = max((len(row[0]) for row in rows), default=0)
    click.echo(f"  {'':{width}}     base  LABCLIP")
    for name, *values in rows:
        cells = "  ".join(f"{value:7.3f}" if isinstance(value, float) else f"{value or '':>7}" for value in values)
        click.echo(f"  {name:{width}}  {cells}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--base", metavar="MODEL:TAG", help="OpenCLIP base of a matrix that is not a published one.")
def convert(checkpoint: Path, out: Path, base: str | None) -> None:
    """Convert a published torch CHECKPOINT into an alignment folder OUT. No code in the file is run."""
    from labclip.convert import convert_checkpoint
    from labclip.loading import named_base

    known = None
    if base is not None:
        model, colon, tag = base.partition(":")
        if not colon or not tag:
            raise ValueError(f"--base is {base!r}. Type a model and a tag, for example ViT-B-32-quickgelu:openai.")
        known = named_base(model, tag)
    alignment = convert_checkpoint(checkpoint, base=known)
    alignment.save_pretrained(out)
    if alignment.base is None:
        click.echo("Warning: the base is not recorded, so nothing can check it. Pass --base MODEL:TAG.", err=True)
    click.echo(f"{out}: {alignment}")


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@_model
@_alignment
@_strength
def fold(out: Path, model: str, alignment: str | None, strength: float | None) -> None:
    """Merge a matrix into its model: OUT becomes a plain OpenCLIP folder.

    It opens with open_clip.create_model_and_transforms("local-dir:OUT").
    """
    from labclip.model import LABCLIP
    from labclip.saving import save_folded

    save_folded(LABCLIP.from_pretrained(model, alignment=alignment, strength=strength), out)
    click.echo(f'{out}: open_clip.create_model_and_transforms("local-dir:{out}")')


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id", metavar="ORG/NAME")
@click.option("--message", default="Upload with labclip", show_default=True, help="The commit's subject.")
@click.option("--private/--public", default=None, help="For a new repository. [default: the organisation's]")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
def push(folder: Path, repo_id: str, message: str, private: bool | None, create_pr: bool) -> None:
    """Upload an alignment FOLDER to the Hugging Face Hub."""
    from labclip.hub import push_folder
    from labclip.storage import load

    load(folder)  # only what can be loaded again is uploaded
    click.echo(push_folder(folder, repo_id, commit_message=message, private=private, create_pr=create_pr))
