"""The model card of an alignment, with the measured table, in the metadata form the Hugging Face Hub reads."""

from __future__ import annotations

import math
import reprlib
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

if TYPE_CHECKING:  # `labclip info` reads cards without torch
    from labclip.alignment import Alignment


def model_card(alignment: Alignment, *, name: str | None = None, about: str = "") -> str:
    """Write the card of an alignment.

    The measured table comes from `alignment.metadata["results"]`: what `labclip evaluate --json` prints, or
    `{benchmark: {"base": {metric: value}, "labclip": {metric: value}}}`. Without it the card says that nothing was
    measured. Other keys of the metadata that the card shows: `recipe`, `data`, `seed`, `license`, `source`,
    `base_weights`.
    `about` is Markdown to stand after the introduction.
    """
    base = _line(alignment.base or "")
    title = _line(name or f"LABCLIP for {base or f'a CLIP of dim {alignment.dim}'}")
    parts = [
        _header(alignment, title),
        f"# {title}",
        f"One {alignment.dim} x {alignment.dim} matrix on the text embeddings{base and f' of {base}'}: captions that "
        f"name the same objects with their attributes swapped become distinguishable. Encoders and image embeddings "
        f"are untouched, so an index of images stays valid.",
        about.strip(),
        "## Use",
        f"```python\n"
        f"from labclip import LABCLIP\n\n"
        f'model = LABCLIP.from_pretrained("path or org/name of this folder"){base and f"  # {base}"}\n'
        f'text_features = model.encode_text(["a red cube and a blue sphere"], normalize=True)\n'
        f"```",
        "## Measured",
        results_table(alignment.metadata.get("results")),
        f"{_line(alignment.metadata['verdict'])}." if "verdict" in alignment.metadata else "",
        "## The matrix",
        _facts(alignment),
        "## Source",
        'Method: "CLIP Behaves like a Bag-of-Words Model Cross-modally but not Uni-modally" '
        "([arXiv:2502.03566](https://arxiv.org/abs/2502.03566)).",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def results_table(results: Any) -> str:
    """A Markdown table of base against aligned, one row a metric; accuracies and recalls are fractions of 1."""
    sides_of = checked_results(results)
    if not sides_of:
        return "Nothing was measured yet. `labclip evaluate` measures gains and costs."
    rows = ["| benchmark | metric | base | LABCLIP |", "|---|---|---|---|"]
    for benchmark, (base, aligned) in sides_of.items():
        for metric in dict.fromkeys([*base, *aligned]):
            cells = [benchmark, metric, base.get(metric), aligned.get(metric)]
            rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def checked_results(results: Any, key: str = "results") -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Base's and aligned values by benchmark, `key` of the metadata; ValueError if they have another form."""
    if results is None:
        return {}
    try:
        if "benchmarks" in results:  # a whole report
            results = {name: one["models"] for name, one in results["benchmarks"].items()}
        return {str(name): (dict(one.get("base", {})), dict(one.get("labclip", {}))) for name, one in results.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"metadata['{key}'] is {reprlib.repr(results)}, not of the form "
            f"{{benchmark: {{'base': {{metric: value}}, 'labclip': {{metric: value}}}}}}."
        ) from error


def _header(alignment: Alignment, title: str) -> str:
    kind, metadata = "zero-shot-image-classification", alignment.metadata
    results = [
        EvalResult(
            task_type=kind, dataset_type=benchmark, dataset_name=benchmark, metric_type=metric, metric_value=value
        )
        for benchmark, (_, aligned) in checked_results(metadata.get("results")).items()
        for metric, value in aligned.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    data = ModelCardData(
        library_name="labclip",
        license=metadata.get("license"),
        pipeline_tag=kind,
        tags=["clip", "open_clip", "labclip", "compositionality"],
        base_model=metadata.get("base_model"),
        model_name=title if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _facts(alignment: Alignment) -> str:
    matrix = alignment.fitted.detach().cpu().double()
    matrix.diagonal().sub_(1.0)
    lines = [f"- Distance from the identity, Frobenius: {float(matrix.norm()):.2f}"]
    if alignment.logit_scale is not None:
        lines.append(f"- Fitted logit scale: {math.exp(alignment.logit_scale):.2f}")
    if alignment.strength != 1.0:
        lines.append(f"- Applied at strength {alignment.strength:g} unless asked otherwise")
    for key in ("recipe", "data", "seed", "source", "base_weights"):
        if key in alignment.metadata:
            lines.append(f"- {key.capitalize().replace('_', ' ')}: {_line(alignment.metadata[key])}")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else ("" if value is None else _line(value))
    return text.replace("|", "\\|")


def _line(value: Any) -> str:
    """A value on one line, so that it can't end the table, the code or the paragraph it stands in."""
    return " ".join(str(value).split())
