"""The command fold: a matrix merged into its model, in the form that another library opens."""

from __future__ import annotations

from pathlib import Path

import click

from labclip.cli import options
from labclip.cli.files import check_empty, check_names
from labclip.cli.group import main, show
from labclip.files import CONFIG, OPENCLIP_CONFIG, OPENCLIP_WEIGHTS, WEIGHTS

_FORMS = {
    "openclip": ('open_clip.create_model_and_transforms("local-dir:{}")', (OPENCLIP_CONFIG, OPENCLIP_WEIGHTS)),
    "transformers": ('transformers.AutoModel.from_pretrained("{}")', (CONFIG, WEIGHTS)),
    "openai": ('clip.load("{}/model.pt")', ("model.pt",)),
    "onnx": ('onnxruntime.InferenceSession("{}/text.onnx")', ("text.onnx",)),
}
"""For each form what opens it, and files by which it is recognised."""


@main.command(example="labclip fold --model ViT-B-32 folded")
@click.argument("out", type=options.FILE)
@options.model
@options.alignment
@options.strength
@options.choice("--to", list(_FORMS), "Library that will open OUT. [default: the model's library]")
@options.force
def fold(out: Path, model: str, alignment: str | None, strength: float | None, to: str | None, force: bool) -> None:
    """Merge a matrix into its model, as a plain checkpoint.

    OUT opens with OpenCLIP, transformers, OpenAI's clip, or onnxruntime (the text tower). M may also be a folder of
    transformers or an ONNX text tower.
    """
    from labclip.io.names import form_of

    others = form_of(model)
    opens, files = _FORMS[to or others or "openclip"]
    check_empty(out, force, writes=files, inputs=filter(None, [model, alignment]))
    check_names(alignment if others else model, alignment)
    from labclip.io.folding import fold as fold_model

    fold_model(model, alignment, strength=strength, to=to or others or "openclip", folder=out)
    show(f"{out}: {opens.format(out)}")
