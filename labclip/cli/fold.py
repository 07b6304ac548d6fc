"""The command fold: a matrix merged into its model, in the form that another library opens."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli.group import (
    FOLDED_FILES,
    alignment_option,
    check_empty,
    main,
    model_option,
    same_path,
    strength_option,
)

_OPENED_BY = {
    "openclip": 'open_clip.create_model_and_transforms("local-dir:{}")',
    "transformers": 'transformers.AutoModel.from_pretrained("{}")',
    "openai": 'clip.load("{}/model.pt")',
}
# What may be overwritten: folders of the other forms hold nothing else.
_FILES = {
    "transformers": {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
        "special_tokens_map.json", "preprocessor_config.json", "processor_config.json",
    },
    "openai": {"model.pt"},
}  # fmt: skip


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@model_option
@alignment_option
@strength_option
@click.option("--to", type=click.Choice(list(_OPENED_BY)), help="Who is to open OUT. [default: the model's library]")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
def fold(out: Path, model: str, alignment: str | None, strength: float | None, to: str | None, force: bool) -> None:
    """Merge a matrix into its model, as a plain checkpoint.

    OUT opens with OpenCLIP, transformers or OpenAI's clip. M may also be a folder of transformers.
    """
    from labclip.io.folding import fold_opened, name_of
    from labclip.io.opening import load_alignment
    from labclip.io.to_transformers import is_folder, load
    from labclip.model import LABCLIP

    of_transformers = is_folder(model)
    to = to or ("transformers" if of_transformers else "openclip")
    _check_out(out, force, to, [model, *([alignment] if alignment else [])])
    if of_transformers:
        if alignment is None:
            raise ValueError(f"{model} has no matrix to merge. Type --alignment with a name, a folder or a repository.")
        chosen = load_alignment(alignment)
        opened, chosen = load(model), chosen if strength is None else chosen.at(strength)
    else:
        opened, chosen = LABCLIP.from_pretrained(model, alignment=alignment, strength=strength), None
        if alignment is None and opened.alignment.at(1.0).is_identity:
            raise ValueError(f"{model} has no matrix to merge. Type --alignment with a name, a folder or a repository.")
    fold_opened(opened, chosen, {"model": name_of(model), "alignment": name_of(alignment)}, to=to, folder=out)
    click.echo(f"{out}: {_OPENED_BY[to].format(out)}")


def _check_out(out: Path, force: bool, to: str, inputs: list[str]) -> None:
    """Refuse an OUT that is an input, or that holds what this command did not write."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if to == "openclip" or not (there and force) or any(same_path(out, Path(one)) for one in inputs):
        check_empty(out, force, writes=FOLDED_FILES, inputs=inputs)
    elif others := sorted(there - _FILES[to]):
        raise ValueError(f"{out} holds {others[0]}, so this command did not write it. Pass another folder.")
