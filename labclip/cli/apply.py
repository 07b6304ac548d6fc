"""The commands list, info, fold, transform, convert and push: they show matrices, apply them and pass them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labclip.cli import options
from labclip.cli.files import ALIGNMENT_FILES, check_empty, check_inputs
from labclip.cli.group import main, note, progress, show, show_either
from labclip.files import CONFIG, OPENCLIP_CONFIG, OPENCLIP_WEIGHTS, WEIGHTS
from labclip.packages import EMBEDDED

_FORMS = {
    "openclip": ('open_clip.create_model_and_transforms("local-dir:{}")', (OPENCLIP_CONFIG, OPENCLIP_WEIGHTS)),
    "transformers": ('transformers.AutoModel.from_pretrained("{}")', (CONFIG, WEIGHTS)),
    "openai": ('clip.load("{}/model.pt")', ("model.pt",)),
    "onnx": ('onnxruntime.InferenceSession("{}/text.onnx")', ("text.onnx",)),
}
"""For each form, the call that opens it and the files that identify it."""


@main.command("list", example="labclip list")
@options.as_json
def list_command(as_json: bool) -> None:
    """List the matrices that have a name."""
    from labclip.io.published import find_entry, list_pretrained

    columns = ("name", "alignment", "base", "dim", "source")
    rows: list[tuple[Any, ...]] = [(EMBEDDED, "scenes", "embedded, 12 colours x 10 shapes", 256, "in this package")]
    for name in list_pretrained():
        if entry := find_entry(name):
            base = f"{entry.model} ({entry.pretrained})"
            rows.append((name, entry.alignment, base, entry.embed_dim, "Hugging Face Hub, or the authors' repository"))
    lines = "\n".join("{:15}{:11}{:34}{:<5}{}".format(*row) for row in (columns, *rows))
    show_either(as_json, [dict(zip(columns, row, strict=True)) for row in rows], lines)


@main.command(example="labclip info ViT-B-32")
@click.argument("name", type=options.NAME)
@options.as_json
def info(name: str, as_json: bool) -> None:
    """Show what a matrix gains and costs, and when to use it.

    NAME is a name of `labclip list`, a folder, or a Hub repository org/name. The figures were recorded with the matrix,
    as fractions of 1; nothing is measured now.
    """
    from labclip.io.card import record, record_of, record_page
    from labclip.io.published import find_entry
    from labclip.report import terminal

    if entry := find_entry(name):
        facts = record(name, entry.base, entry.embed_dim, 1.0, entry.metadata)
        facts |= {"alignment": entry.alignment, "url": entry.url, "matrix_sha256": entry.matrix_sha256}
    else:
        from labclip.alignment import Alignment
        from labclip.io.folder import matrix_sha256

        alignment = Alignment.from_pretrained(name)
        facts = record_of(alignment, name) | {"matrix_sha256": matrix_sha256(alignment.fitted)}
    show_either(as_json, facts, "" if as_json else terminal(record_page(facts)))


@main.command(example="labclip fold --model ViT-B-32 folded")
@click.argument("out", type=options.FILE)
@options.model
@options.alignment
@options.strength
@options.choice("--to", list(_FORMS), "Library that will open OUT. [default: the model's library]")
@options.force
def fold(out: Path, model: str, alignment: str | None, strength: float | None, to: str | None, force: bool) -> None:
    """Merge a matrix into its model, as a plain checkpoint.

    OUT opens with OpenCLIP, transformers, OpenAI's clip, or onnxruntime (the text tower). --model also takes a
    transformers folder or an ONNX text tower.
    """
    from labclip.io.names import form_of

    form = to or form_of(model) or "openclip"
    call, files = _FORMS[form]
    check_empty(out, force, writes=files, inputs=filter(None, [model, alignment]))
    from labclip.io.folding import fold as fold_model

    fold_model(model, alignment, strength=strength, to=form, folder=out)
    show(f"{out}: {call.format(out)}")


@main.command(
    example="labclip transform texts.npy aligned.npy --alignment ViT-B-32",
    interrupted="Finished files are kept, and are not aligned again.",
)
@click.argument("source", metavar="IN")
@click.argument("out")
@options.text(
    "--alignment", "A", "A name of `labclip list`, a folder or a Hub repository.", type=options.NAME, required=True
)
@options.strength
@options.text("--column", "NAME", "Column or tensor of the embeddings, if there are several.")
@options.flag("--normalize", "Write rows of unit length.")
@options.engine
@options.flag("--force", "Start from scratch if OUT exists.")
@options.as_json
def transform(source: str, out: str, alignment: str, as_json: bool, **settings: Any) -> None:
    """Align stored text embeddings.

    IN is a .npy, .safetensors or .parquet file, a folder of these, or a clip-retrieval folder. OUT has the same form.
    An interrupted run continues when started again. Image embeddings stay as they are.
    """
    check_inputs(source)
    from labclip.stored import transform as transform_stored

    manifest = transform_stored(source, out, alignment, progress=progress(), **settings)
    row_counts = [shard["rows"] for shard in manifest["shards"] if shard["rows"] is not None]
    rows, n_files = sum(row_counts), len(row_counts)
    in_files = f" in {n_files:,} files" if n_files > 1 else ""
    line = f"{out}: {rows:,} embeddings{in_files}, aligned by {alignment} at strength {manifest['strength']:g}"
    show_either(as_json, {"out": out, "rows": rows, "files": n_files, **manifest}, line)


@main.command(example="labclip convert matrix.pt my-alignment --base ViT-B-32-quickgelu:openai")
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=options.FILE)
@options.text("--base", "MODEL:TAG", "OpenCLIP base, if the matrix is not a published one.")
@options.force
def convert(checkpoint: Path, out: Path, base: str | None, force: bool) -> None:
    """Convert a published torch checkpoint.

    Reads CHECKPOINT without running code in it, and writes the alignment folder OUT.
    """
    model, _, tag = (base or "").partition(":")
    if base is not None and not tag:
        raise ValueError(f"--base is {base!r}. Pass a model and a tag, for example ViT-B-32-quickgelu:openai.")
    check_empty(out, force, writes=ALIGNMENT_FILES, inputs=[checkpoint])
    from labclip.io.folder import convert_checkpoint
    from labclip.io.names import named_base

    alignment = convert_checkpoint(checkpoint, base=None if base is None else named_base(model, tag))
    alignment.save_pretrained(out)
    if alignment.base is None:
        note("Warning: the base is not recorded, so it can't be checked later. Pass --base MODEL:TAG.")
    show(f"{out}: {alignment}")


@main.command(example="labclip push my-alignment ORG/NAME --private", interrupted="The Hub keeps what was uploaded.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo_id", metavar="ORG/NAME")
@click.option("--message", default="Upload with labclip", show_default=True, help="Subject of the commit.")
@click.option("--private/--public", default=None, help="For a new repository. [default: the organisation's]")
@options.flag("--create-pr", "Open a pull request instead of committing.")
def push(folder: Path, repo_id: str, message: str, private: bool | None, create_pr: bool) -> None:
    """Upload an alignment FOLDER to the Hugging Face Hub."""
    from labclip.io.folder import load
    from labclip.io.hub import push_folder

    load(folder)  # an error here stops the upload of a folder that can't be loaded
    show(push_folder(folder, repo_id, commit_message=message, private=private, create_pr=create_pr))
