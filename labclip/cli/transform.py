"""The command transform: stored text embeddings into aligned ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labclip.cli import options
from labclip.cli.files import check_names
from labclip.cli.group import main, progress, show_either


@main.command(
    example="labclip transform texts.npy aligned.npy --alignment ViT-B-32",
    interrupted="Files that are done are kept, and are not aligned again.",
)
@click.argument("source", metavar="IN")
@click.argument("out")
@options.text("--alignment", "A", "A name of `labclip list`, a folder or a Hub repository.", required=True)
@options.strength
@options.text("--column", "NAME", "Column or tensor of the embeddings, where there are several.")
@options.flag("--normalize", "Write rows of unit length.")
@options.engine
@options.flag("--force", "Start from scratch if OUT exists.")
@options.as_json
def transform(source: str, out: str, alignment: str, as_json: bool, **settings: Any) -> None:
    """Align stored text embeddings.

    IN is a .npy, .safetensors or .parquet file, a folder of these, or a folder of clip-retrieval. OUT is one of the
    same kind. An interrupted run continues when started again. Image embeddings stay as they are.
    """
    check_names(alignment)
    if "://" not in source and not Path(source).expanduser().exists():
        raise FileNotFoundError(f"There is no {source}. Pass a file or folder of stored text embeddings.")
    from labclip.stored import transform as transform_stored

    found = transform_stored(source, out, alignment, progress=progress(), **settings)
    files = [shard for shard in found["shards"] if shard["rows"] is not None]
    rows = sum(shard["rows"] for shard in files)
    several = f" in {len(files):,} files" if len(files) > 1 else ""
    said = f"{out}: {rows:,} embeddings{several}, aligned by {alignment} at strength {found['strength']:g}"
    show_either(as_json, {"out": out, "rows": rows, "files": len(files), **found}, said)
