"""The model card of an alignment, with the measured table, in the metadata form the Hugging Face Hub reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

if TYPE_CHECKING:
    from labclip.alignment import Alignment


def model_card(alignment: Alignment, *, name: str | None = None, about: str = "") -> str:
    """Write the card of an alignment.

    The measured table comes from `alignment.metadata["results"]`, in the form `labclip evaluate --json` prints:
    `{benchmark: {"base": {metric: value}, "labclip": {metric: value}}}`. Without it the card says that nothing was
    measured. Other keys of the metadata that the card shows: `recipe`, `data`, `seed`, `license`, `source`.

    Args:
        alignment: What the card describes.
        name: Title; by default "LABCLIP for" and the base.
        about: Paragraphs of Markdown to stand after the introduction.
    """
    base = alignment.base
    title = name or f"LABCLIP for {base or f'a CLIP of dim {alignment.dim}'}"
    parts = [_header(alignment, title), f"# {title}", _introduction(alignment)]
    if about:
        parts.append(about.strip())
    parts += ["## Use", _usage(alignment), "## Measured", results_table(alignment.metadata.get("results"))]
    parts += ["## The matrix", _facts(alignment), "## Source", _SOURCE]
    return "\n\n".join(parts) + "\n"


def results_table(results: Any) -> str:
    """A Markdown table of base against aligned, one row a metric; accuracies and recalls are fractions of 1."""
    if not isinstance(results, dict) or not results:
        return "Nothing was measured yet. `labclip evaluate` measures gains and costs."
    rows = ["| benchmark | metric | base | LABCLIP |", "|---|---|---|---|"]
    for benchmark, sides in results.items():
        base, aligned = sides.get("base", {}), sides.get("labclip", {})
        for metric in dict.fromkeys([*base, *aligned]):
            rows.append(f"| {benchmark} | {metric} | {_cell(base.get(metric))} | {_cell(aligned.get(metric))} |")
    return "\n".join(rows)


def _header(alignment: Alignment, title: str) -> str:
    metadata = alignment.metadata
    data = ModelCardData(
        library_name="labclip",
        license=metadata.get("license"),
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "open_clip", "labclip", "compositionality"],
        base_model=metadata.get("base_model"),
        model_name=title if metadata.get("results") else None,
        eval_results=_eval_results(metadata.get("results")) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _eval_results(results: Any) -> list[EvalResult]:
    if not isinstance(results, dict):
        return []
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=benchmark,
            dataset_name=benchmark,
            metric_type=metric,
            metric_value=value,
        )
        for benchmark, sides in results.items()
        for metric, value in sides.get("labclip", {}).items()
        if isinstance(value, int | float)
    ]


def _introduction(alignment: Alignment) -> str:
    whose = f" of {alignment.base}" if alignment.base else ""
    return (
        f"One {alignment.dim} x {alignment.dim} matrix on the text embeddings{whose}: captions that name the same "
        f"things with their attributes exchanged become distinguishable. Encoders and image embeddings are untouched, "
        f"so an "
        f"index of images stays valid."
    )


def _usage(alignment: Alignment) -> str:
    base = f"  # {alignment.base}" if alignment.base else ""
    return (
        "```python\n"
        "from labclip import LABCLIP\n\n"
        f'model = LABCLIP.from_pretrained("path or org/name of this folder"){base}\n'
        'text_features = model.encode_text(["a red cube and a blue sphere"], normalize=True)\n'
        "```"
    )


def _facts(alignment: Alignment) -> str:
    matrix = alignment.fitted.detach().cpu().double()
    matrix.diagonal().sub_(1.0)
    lines = [f"- Distance from the identity, Frobenius: {float(matrix.norm()):.2f}"]
    if alignment.logit_scale is not None:
        lines.append(f"- Fitted logit scale: {math.exp(alignment.logit_scale):.2f}")
    if alignment.strength != 1.0:
        lines.append(f"- Applied at strength {alignment.strength:g} unless asked otherwise")
    for key in ("recipe", "data", "seed", "source"):
        if key in alignment.metadata:
            lines.append(f"- {key.capitalize()}: {alignment.metadata[key]}")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ("" if value is None else str(value))


_SOURCE = (
    'Method: "CLIP Behaves like a Bag-of-Words Model Cross-modally but not Uni-modally" '
    "([arXiv:2502.03566](https://arxiv.org/abs/2502.03566))."
)
