"""The model card of an alignment, with the measured table, in the metadata form the Hugging Face Hub reads."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

if TYPE_CHECKING:  # `labclip info` reads cards without torch
    from labclip.alignment import Alignment
    from labclip.base import Base

COSINES = "Cosines of right and wrong pairs"
COSINES_OF = "Held-out captions with their own image (right) and with the other images (wrong): quantiles"
COSINE_COLUMNS = ("pairs", "model", "5%", "50%", "95%")
CONVERT = "A threshold on cosines has to be converted for the matrix, as `labclip.metrics.same_threshold` does."


_LIBRARIES = {"openclip": "open_clip", "transformers": "transformers"}
_TASK = "zero-shot-image-classification"
_TAGS = ["clip", "open_clip", "labclip", "compositionality"]
_SOURCE = (
    'Method: "CLIP Behaves like a Bag-of-Words Model Cross-modally but not Uni-modally" '
    "([arXiv:2502.03566](https://arxiv.org/abs/2502.03566))."
)


def model_card(alignment: Alignment, *, name: str | None = None, about: str = "") -> str:
    """Write the card of an alignment.

    The measured table comes from `alignment.metadata["results"]`: what `labclip evaluate --json` prints, or
    `{benchmark: {"base": {metric: value}, "labclip": {metric: value}}}`. Without it the card says that nothing was
    measured. Other keys of the metadata that the card shows: `recipe`, `data`, `seed`, `license`, `source`,
    `base_weights`, and `cosines`, which a fit records. The header names the base's repository on the Hub: that of
    OpenCLIP's table, or the metadata's `base_model`.
    `about` is Markdown to stand after the introduction.
    """
    base = _line(alignment.base or "")
    title = _line(name or f"LABCLIP for {base or f'a CLIP of dim {alignment.dim}'}")
    metadata, rows = alignment.metadata, cosine_rows(alignment.metadata)
    measured = [
        EvalResult(_TASK, benchmark, benchmark, metric, value)
        for benchmark, (_, aligned) in checked_results(metadata.get("results")).items()
        for metric, value in aligned.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    more = {"model_name": title, "eval_results": measured} if measured else {}
    parts = [
        _header(alignment, "labclip", "adapter", license=metadata.get("license"), pipeline_tag=_TASK, **more),
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
        results_table(metadata.get("results")),
        f"{_line(metadata['verdict'])}." if "verdict" in metadata else "",
        f"{COSINES_OF}.\n\n{_table(COSINE_COLUMNS, rows)}\n\n{CONVERT}" if rows else "",
        "## The matrix",
        _facts(alignment),
        "## Source",
        _SOURCE,
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def results_table(results: Any) -> str:
    """A Markdown table of base against aligned, one row a metric; accuracies and recalls are fractions of 1."""
    sides_of = checked_results(results)
    if not sides_of:
        return "Nothing was measured yet. `labclip evaluate` measures gains and costs."
    rows = [
        [benchmark, metric, base.get(metric), aligned.get(metric)]
        for benchmark, (base, aligned) in sides_of.items()
        for metric in dict.fromkeys([*base, *aligned])
    ]
    return _table(["benchmark", "metric", "base", "LABCLIP"], rows)


def checked_results(results: Any, key: str = "results") -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Base's and aligned values by benchmark, `key` of the metadata; ValueError if they have another form."""
    with _of_the_form(key, results, "{benchmark: {'base': {metric: value}, 'labclip': {metric: value}}}"):
        if "benchmarks" in (results := results or {}):  # a whole report
            results = {name: one["models"] for name, one in results["benchmarks"].items()}
        return {str(name): (dict(one.get("base", {})), dict(one.get("labclip", {}))) for name, one in results.items()}


def cosine_rows(metadata: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows below `COSINE_COLUMNS` of the metadata's `cosines`; ValueError if they have another form."""
    if (found := metadata.get("cosines")) is None:
        return []
    form = "{'strength': number, 'base': {'matched': [5%, 50%, 95%], 'unmatched': [...]}, 'labclip': ...}"
    with _of_the_form("cosines", found, form):
        models = {"base": "base", "labclip": f"LABCLIP, strength {found['strength']:g}"}
        return [
            (words, model, *map(float, (low, median, high)))
            for kind, words in (("matched", "right"), ("unmatched", "wrong"))
            for side, model in models.items()
            for low, median, high in [found[side][kind]]
        ]


@contextmanager
def _of_the_form(key: str, value: Any, form: str) -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"metadata['{key}'] is {reprlib.repr(value)}, not of the form {form}.") from error


def hub_base(base: Base | None) -> str | None:
    """The repository of a base's weights on the Hub, by OpenCLIP's table; None where that has none."""
    if base is None:
        return None
    import open_clip  # which an alignment alone does without

    return open_clip.get_pretrained_cfg(base.model, base.pretrained).get("hf_hub", "").rpartition("/")[0] or None


def folded_card(alignment: Alignment, library: str) -> str:
    """Write the card of a model that an alignment was merged into, in the form of a library, as `fold` calls it."""
    name = _line(alignment.base or f"a CLIP of dim {alignment.dim}")
    parts = [
        _header(alignment, _LIBRARIES.get(library), "merge"),
        f"# {name}, with LABCLIP merged in",
        "A matrix is merged into this model's text projection: captions that name the same objects with their "
        "attributes swapped become distinguishable. It runs without labclip. Image embeddings are those of the base.",
        f"- Base: {name}\n- Strength of the matrix: {alignment.strength:g}",
        _SOURCE,
    ]
    return "\n\n".join(parts) + "\n"


def _header(alignment: Alignment, library: str | None, relation: str, **more: Any) -> str:
    if base := alignment.metadata.get("base_model") or hub_base(alignment.base):
        more |= {"base_model": base, "base_model_relation": relation}
    data = ModelCardData(library_name=library, tags=_TAGS, **more)
    return f"---\n{data.to_yaml()}\n---"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head, *lines = (f"| {' | '.join(map(_cell, row))} |" for row in (columns, *rows))
    return "\n".join([head, f"|{'---|' * len(columns)}", *lines])


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
