"""The command transform: stored text embeddings into aligned ones."""

from __future__ import annotations

from typing import Any

import click

from labclip.cli.files import check_names
from labclip.cli.group import as_json_option, engine_option, main, progress, show, show_json, strength_option


@main.command(
    example="labclip transform texts.npy aligned.npy --alignment ViT-B-32",
    interrupted="Files that are done are kept, and are not aligned again.",
)
@click.argument("source", metavar="IN")
@click.argument("out")
@click.option("--alignment", metavar="A", required=True, help="A name of `labclip list`, a folder or a Hub repository.")
@strength_option
@click.option("--column", metavar="NAME", help="Column or tensor of the embeddings, where there are several.")
@click.option("--normalize", is_flag=True, help="Write rows of unit length.")
@engine_option("aligns the files")
@click.option("--inverse", is_flag=True, hidden=True)
@click.option("--force", is_flag=True, help="Start from scratch where OUT is there.")
@as_json_option
def transform(source: str, out: str, alignment: str, inverse: bool, as_json: bool, **settings: Any) -> None:
    """Align stored text embeddings.

    IN is a .npy, .safetensors or .parquet file, a folder of these, or a folder of clip-retrieval. OUT is one of the
    same kind. An interrupted run continues when started again. Image embeddings stay as they are.
    """
    if inverse:
        raise ValueError(
            "--inverse is not possible: the published matrices are nearly singular (singular values 0.002 to 9.7), so "
            "going back would multiply the rounding of stored values by hundreds. Keep the base's embeddings."
        )
    check_names(alignment)
    from labclip.stored import transform as transform_stored

    found = transform_stored(source, out, alignment, progress=progress(), **settings)
    files = [shard for shard in found["shards"] if shard["rows"] is not None]
    rows = sum(shard["rows"] for shard in files)
    if as_json:
        show_json({"out": out, "rows": rows, "files": len(files), **found})
        return
    several = f" in {len(files):,} files" if len(files) > 1 else ""
    show(f"{out}: {rows:,} embeddings{several}, aligned by {alignment} at strength {found['strength']:g}")
