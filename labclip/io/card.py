"""The record of a matrix: what it is, how it was fitted, what it gains and costs. One page for card and terminal.

Imports no torch, so `labclip info` answers at once.
"""

from __future__ import annotations

import math
import reprlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from labclip.files import known_benchmarks
from labclip.io.published import REPORTED
from labclip.report import Page, Section, Table, markdown
from labclip.report.values import LOWER_IS_BETTER, Value, metric_words

if TYPE_CHECKING:
    from labclip.alignment import Alignment
    from labclip.base import Base

_SAME = 0.005
"""A smaller difference is neither a gain nor a loss: it does not show with two decimals."""

_USE = (
    "Captions that say which attribute belongs to which object, in search, ranking, filtering or tagging. Only text "
    "embeddings change: your image index stays valid."
)
_AVOID = (
    'Negation in a caption ("no", "without"): pass it as encode_query(parts, without=...). Captions of a single object '
    "have nothing to bind. Attribute-object pairs unseen in the fit gain less. Zero-shot classification may get worse."
)
_SELECTED = "validation: a little too good, since the strength was selected on it; it was not used in the fit."
_REST = "Every loss is shown; the metrics that are left out are in config.json."
_CONVERT = "A threshold on cosines has to be converted for the matrix, as `labclip.metrics.same_threshold` does."
_METHOD = (
    'Method: "CLIP Behaves like a Bag-of-Words Model Cross-modally but not Uni-modally", '
    "https://arxiv.org/abs/2502.03566"
)
_FACTS = {
    "strength": "Strength",
    "distance": "Distance from the identity, Frobenius",
    "logit_scale": "Logit scale",
    "data": "Data",
    "recipe": "Recipe",
    "seed": "Seed",
    "verdict": "Verdict",
    "costs": "Costs reported of the method",
    "source": "Source",
    "base_weights": "Base weights",
    "license": "License",
}

_TASK = "zero-shot-image-classification"


def record(name: str, base: Base | None, dim: int, strength: float, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a matrix that is loaded by a name, as `labclip info --json` prints it.

    In the metadata, "results" is what `labclip evaluate --json` prints, or `{benchmark: {"base": {metric: value},
    "labclip": {metric: value}}}`; "reported" are published figures in the second form.
    """
    rows = [*figures(metadata), *figures(metadata, "reported")]
    options = f"--model {shlex.quote(name)}" if base else f"--model MODEL --alignment {shlex.quote(name)}"
    load_alignment = f"Alignment.from_pretrained({name!r})"
    return {
        **metadata,
        "name": name,
        "base": str(base) if base else None,
        "dim": dim,
        "strength": strength,
        "gains": [row for row in rows if (row["gain"] or 0) >= _SAME],
        "losses": [row for row in rows if (row["gain"] or 0) <= -_SAME],
        "use": _USE,
        "avoid": _AVOID,
        "measure": f"labclip evaluate sugarcrepe coco zero-shot {options}",
        "load": f"LABCLIP.from_pretrained({name!r})" if base else f"LABCLIP(clip, {load_alignment})",
    }


def record_of(alignment: Alignment, name: str) -> dict[str, Any]:
    """The record of an alignment, with the matrix's Frobenius distance from the identity and the logit scale."""
    difference = alignment.fitted.detach().cpu().double()
    difference.diagonal().sub_(1.0)
    facts = record(name, alignment.base, alignment.dim, alignment.strength, alignment.metadata)
    scale = None if alignment.logit_scale is None else round(math.exp(alignment.logit_scale), 2)
    return facts | {"distance": round(float(difference.norm()), 2), "logit_scale": scale}


def record_page(facts: Mapping[str, Any]) -> Page:
    """The page of a record, for readers who do not know the matrix."""
    base, dim = facts["base"] or f"a CLIP of dim {facts['dim']}", facts["dim"]
    lead = (
        f"One {dim} x {dim} matrix on the text embeddings of {base}: captions that name the same objects with their "
        f"attributes swapped become distinguishable. Image embeddings are untouched."
    )
    use = [
        f"Load it: `{facts['load']}`",
        f"Measure it: `{facts['measure']}`",
        f"Use it for: {facts['use']}",
        f"Not for: {facts['avoid']}",
    ]
    sections = [Section("Use", notes=use)]
    benchmarks, results = known_benchmarks(), figures(facts)
    if rows := [row for row in results if _is_shown(row, benchmarks.get(row["benchmark"], {}).get("headline"))]:
        notes = [_SELECTED] if "validation" in facts["results"] else []
        notes += [_REST] if len(rows) < len(results) else []
        sections.append(Section("Measured", tables=[figures_table(rows, "Fractions of 1")], notes=notes))
    if rows := figures(facts, "reported"):
        table = figures_table(rows, "Fractions of 1", digits=2)
        sections.append(Section("Published, not measured by labclip", tables=[table], notes=[facts["reported_source"]]))
    if len(sections) == 1:
        sections.append(Section("Measured", ["Nothing was measured yet. `labclip evaluate` measures gains and costs."]))
    values = {label: facts[key] for key, label in _FACTS.items() if facts.get(key) is not None}
    lines = [f"{label}: {' '.join(value) if isinstance(value, list) else value}" for label, value in values.items()]
    sections += [*cosine_sections(facts), Section("The matrix", notes=[*lines, _METHOD])]
    return Page(f"LABCLIP for {base}", lead, sections)


def _is_shown(row: Mapping[str, Any], headline: Sequence[str] | None) -> bool:
    """Whether the page shows a figure: a headline metric or its control, any loss, all of an unknown benchmark."""
    metric = row["metric"].removesuffix("_blind").removesuffix("_grounded")
    return not headline or metric in headline or (row["gain"] or 0) <= -_SAME


def figures(metadata: Mapping[str, Any], key: str = "results") -> list[dict[str, Any]]:
    """The figures in a key of the metadata: for each metric the value of base and LABCLIP, and LABCLIP's gain.

    The gain is None if a value is missing, and for a control (`NAME_blind`), which is neither a gain nor a loss.
    """
    rows, results = [], metadata.get(key) or {}
    try:
        for benchmark, entry in results.get("benchmarks", results).items():
            base, aligned = (dict(entry.get("models", entry).get(model, {})) for model in ("base", "labclip"))
            for metric in base | aligned:
                before, after = base.get(metric), aligned.get(metric)
                gain = None
                if isinstance(before, int | float) and isinstance(after, int | float) and not metric.endswith("_blind"):
                    gain = before - after if metric.startswith(LOWER_IS_BETTER) else after - before
                figure = {"benchmark": benchmark, "metric": metric, "base": before, "labclip": after, "gain": gain}
                rows.append(figure | {"from": key})
    except (AttributeError, TypeError, ValueError) as error:
        form = "{benchmark: {'base': {metric: value}, 'labclip': {metric: value}}}"
        raise ValueError(f"metadata['{key}'] is {reprlib.repr(results)}, not of the form {form}.") from error
    return rows


def figures_table(rows: Sequence[Mapping[str, Any]], caption: str, *, digits: int = 3) -> Table:
    """A table of base and LABCLIP side by side, with the figures that both have."""
    published = {("reported", figure.benchmark, figure.metric): figure.words for figure in REPORTED}
    table_rows = [
        [row["benchmark"], published.get((row["from"], row["benchmark"], row["metric"])) or metric_words(row["metric"]),
         f"{row['base']:.{digits}f}", f"{row['labclip']:.{digits}f}",
         None if row["gain"] is None else f"{round(row['gain'], digits) + 0.0:+.{digits}f}"]
        for row in rows if isinstance(row["base"], int | float) and isinstance(row["labclip"], int | float)
    ]  # fmt: skip
    return Table(caption, ("benchmark", "metric", "base", "LABCLIP", "better by"), table_rows, words=(0, 1))


def cosine_sections(metadata: Mapping[str, Any]) -> list[Section]:
    """A section with the cosines that a fit records; empty if it recorded none."""
    if (cosines := metadata.get("cosines")) is None:
        return []
    models = {"base": "base", "labclip": f"LABCLIP, strength {cosines['strength']:g}"}
    rows: list[Sequence[Value]] = [
        (words, label, *map(float, cosines[model][kind]))
        for kind, words in (("matched", "right"), ("unmatched", "wrong"))
        for model, label in models.items()
    ]
    caption = "Held-out captions with their own image (right) and with the other images (wrong): quantiles"
    table = Table(caption, ("pairs", "model", "5%", "50%", "95%"), rows, (0, 1))
    return [Section("Cosines of right and wrong pairs", tables=[table], notes=[_CONVERT])]


def model_card(alignment: Alignment, name: str = "ORG/NAME") -> str:
    """The model card of an alignment: a YAML header with the measured results, then the page of its record.

    The header names the base's repository on the Hub, from the metadata's `base_model` or OpenCLIP's table.
    """
    page = record_page(record_of(alignment, name))
    results = [
        EvalResult(_TASK, row["benchmark"], row["benchmark"], row["metric"], row["labclip"])
        for row in figures(alignment.metadata)
        if isinstance(row["labclip"], int | float)
    ]
    fields = {"model_name": " ".join(page.title.split()), "eval_results": results} if results else {}
    licence = alignment.metadata.get("license")
    yaml = header(alignment, "labclip", "adapter", license=licence, pipeline_tag=_TASK, **fields)
    return yaml + markdown(page)


def folded_card(alignment: Alignment, library: str) -> str:
    """The model card of a folded model; `library` is one of `fold`'s targets."""
    base = str(alignment.base or f"a CLIP of dim {alignment.dim}")
    lead = (
        "A matrix is merged into this model's text projection: captions that name the same objects with their "
        "attributes swapped become distinguishable. It runs without labclip. Image embeddings are the base's own."
    )
    facts = [f"Base: {base}", f"Strength of the matrix: {alignment.strength:g}", _METHOD]
    page = Page(f"{base}, with LABCLIP merged in", lead, [Section("The matrix", notes=facts)])
    hub_library = {"openclip": "open_clip", "transformers": "transformers"}.get(library)
    return header(alignment, hub_library, "merge") + markdown(page)


def header(matrix: Any, library: str | None, relation: str, **fields: Any) -> str:
    """The YAML header of a card. `matrix` has a `base` and `metadata`; its `relation` is "adapter" or "merge"."""
    repository = matrix.metadata.get("base_model")
    if not repository and matrix.base:
        import open_clip  # here, since most uses of an alignment do not need it

        config = open_clip.get_pretrained_cfg(matrix.base.model, matrix.base.pretrained)
        repository = config.get("hf_hub", "").rpartition("/")[0]
    if repository:
        fields |= {"base_model": repository, "base_model_relation": relation}
    tags = ["clip", "open_clip", "labclip", "compositionality"]
    return f"---\n{ModelCardData(library_name=library, tags=tags, **fields).to_yaml()}\n---\n\n"
