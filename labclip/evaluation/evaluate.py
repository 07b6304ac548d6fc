"""A base and its alignments on benchmarks: read, encode once, ask all models the same questions, compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labclip.alignment import Alignment
from labclip.checks import check_choice
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.questions import Retrieval, first_copies, is_unnormalized
from labclip.evaluation.report import Report
from labclip.evaluation.results import Result, list_answers
from labclip.evaluation.scores import ScoredItems, compare
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task, score
from labclip.features.cache import Cache, encode
from labclip.features.features import Features
from labclip.files import check_benchmark
from labclip.io.folder import matrix_sha256
from labclip.io.opening import open_alignment
from labclip.metrics import unit_length
from labclip.model import LABCLIP
from labclip.packages import versions_of
from labclip.towers.text import evaluating

Data = str | Path | Features
Option = str | int | float | bool
Options = Mapping[str, Option]
Matrix = Alignment | str | Path
Alignments = Matrix | Sequence[Matrix] | Mapping[str, Matrix]


def evaluate(
    model: LABCLIP | str | Path,
    benchmarks: str | Benchmark | Sequence[str | Benchmark],
    *,
    data: Data | Mapping[str, Data] | None = None,
    images: str | Path | Mapping[str, str | Path] | None = None,
    options: Options | Mapping[str, Options] | None = None,
    alignments: Alignments | None = None,
    strengths: Sequence[float] = (),
    on_missing: str = "raise",
    cache: str | Path | bool | None = True,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    precision: str = "fp32",
    ties: str = "wrong",
    progress: bool = True,
) -> Report:
    """Measure what alignments gain and what they cost, compared with their base.

    Each image and each caption is encoded once; later runs read it from the cache. Cosines and metrics are float32, a
    tie is wrong, and differences are paired: all models answer the same items.

    Args:
        model: A loaded LABCLIP, or what `labclip evaluate --model` takes: a name, a folder, a repository, or MODEL:TAG.
        benchmarks: A name of `BENCHMARKS`, a `Benchmark` of your own, or a list of both.
        data: File or folder of the benchmark, or `Features` for the benchmark "features". For several benchmarks this
            and the next two are `{name: value}`; one folder of images may serve all of them.
        images: Folder of its images, by default that of `data`.
        options: Its reader's options, for example `{"split": "val"}`; strings are converted.
        alignments: The alignments to compare with the base: one, a list, or `{name: alignment}` with their names in the
            report. By default the model's own, unless it is the identity.
        strengths: Strengths at which each alignment is measured; by default its own.
        on_missing: What to do if images are missing: "raise", or "skip" to leave their items out with a note.
        cache: Folder of embeddings; True for the user's cache, None or False for none.
        batch_size: Images in one pass.
        workers: Threads that read and decode images; by default one for each processor, at most 16.
        device: Device for a model that is loaded here; None is the CPU.
        precision: OpenCLIP's precision for a model that is loaded here.
        ties: "wrong", or "index" to add a table of metrics in which the first of equal answers counts, with the suffix
            "_index". It is for comparison with code that counts so; do not report these figures.
        progress: Whether to show progress bars on stderr.

    Returns:
        A `Report`: every metric with its interval, the paired differences, and every item with each model's answer.

    Raises:
        FileNotFoundError: If files or images are missing. The message counts them, names the first, and says where to
            get them.
        ValueError: If a benchmark, option, file, image or alignment is not valid. The message says what to type.

    Example:
        >>> report = evaluate("scenes", "scenes", options={"n": 300}, cache=None, progress=False)
        >>> binding = report["scenes"].metric("binding")
        >>> [round(estimate.value, 1) for estimate in binding.estimates], binding.differences[0].measurable
        ([0.6, 1.0], True)
        >>> sum(not item.right["labclip"] for item in report["scenes"].items[:300])
        6
    """
    check_choice("on_missing", on_missing, ("raise", "skip"))
    check_choice("ties", ties, ("wrong", "index"))
    benchmark_of = _benchmarks_by_name(benchmarks)
    data_of = _values_by_benchmark("data", data, benchmark_of)
    images_of = _values_by_benchmark("images", images, benchmark_of)
    options_of = _values_by_benchmark("options", options, benchmark_of)
    # All files are read before the model is loaded, so that what is wrong with them shows at once.
    tasks = {
        name: _read(benchmark, data_of.get(name), images_of.get(name), options_of.get(name) or {}, on_missing)
        for name, benchmark in benchmark_of.items()
    }
    if not isinstance(model, LABCLIP):
        model = LABCLIP.from_pretrained(model, device=device, precision=precision)
    for task in tasks.values():
        if task.embedded is not None:
            task.embedded.check(model)
    alignment_of = _open_alignments(model, alignments, strengths)
    models = ("base", *alignment_of)
    results = []
    with Cache(cache, model) as embeddings:
        settings: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress}
        for name, task in tasks.items():
            if task.embedded is None:
                image_features, text_features = encode(model, task.images, task.captions, cache=embeddings, **settings)
            else:
                image_features, text_features = task.embedded.images, task.embedded.texts
            has_unnormalized = any(map(is_unnormalized, task.questions))
            if has_unnormalized:
                with torch.no_grad(), evaluating(model):
                    text_features = model.encode_text(list(task.captions), normalize=False, aligned=False).float().cpu()
            scores = score(task, image_features, text_features, list(alignment_of.values()), ties=ties)
            metrics = [metric for by_model in scores for metric in compare(by_model)]
            notes = [*task.notes, *_equal_embeddings(task, image_features, text_features)]
            if has_unnormalized:
                notes.append(_cosine_note(task, image_features, text_features, scores))
            path = "" if data_of.get(name) is None else str(data_of[name])
            sizes, used_options = (len(image_features), len(text_features)), dict(options_of.get(name) or {})
            # Not the task itself: it holds the pixels of images, which must not live as long as a report.
            answered = partial(list_answers, task.names(), models, scores)
            results.append(Result(benchmark_of[name], metrics, notes, *sizes, path, used_options, answered))
    facts = [
        {
            "name": name,
            "strength": alignment.strength,
            "matrix_sha256": matrix_sha256(alignment.fitted),
            "recorded": alignment.base is not None or alignment.fingerprint is not None,
        }
        for name, alignment in alignment_of.items()
    ]
    base, weights = str(model.alignment.base or "a base without a name"), embeddings.identity["weights_sha256"]
    versions = versions_of("torch", "open_clip_torch", "numpy", "pillow")
    return Report(base, weights, models, facts, results, versions, date.today().isoformat())


def _benchmarks_by_name(benchmarks: str | Benchmark | Sequence[str | Benchmark]) -> dict[str, Benchmark]:
    by_name: dict[str, Benchmark] = {}
    for entry in [benchmarks] if isinstance(benchmarks, str | Benchmark) else benchmarks:
        if isinstance(entry, str):
            check_benchmark(entry)
            entry = BENCHMARKS[entry]
        if by_name.setdefault(entry.name, entry) is not entry:
            raise ValueError(f"Two benchmarks are called {entry.name}. Give each its own name.")
    if not by_name:
        raise ValueError(f"No benchmark was named. Benchmarks: {', '.join(BENCHMARKS)}.")
    return by_name


def _values_by_benchmark(argument: str, value: Any, benchmarks: Mapping[str, Benchmark]) -> dict[str, Any]:
    """An argument's value for each benchmark, from one value for all or a mapping by name."""
    is_by_name = isinstance(value, Mapping)
    if is_by_name and argument == "options":  # the options of one benchmark are a mapping too, but not of mappings
        is_by_name = all(isinstance(options, Mapping) for options in value.values())
    if not is_by_name and value is not None and len(benchmarks) > 1 and argument != "images":
        example = {next(iter(benchmarks)): value}
        names = ", ".join(benchmarks)
        raise ValueError(f"{argument} is {value!r}, but for which of {names}? Pass {argument}={example!r}.")
    by_name = dict(value) if is_by_name else dict.fromkeys(benchmarks, value)
    if unknown := [name for name in by_name if name not in benchmarks]:
        raise ValueError(f"{argument} names {unknown[0]!r}, but the benchmarks are {', '.join(benchmarks)}.")
    return by_name


def _read(benchmark: Benchmark, data: Any, images: Any, options: Options, on_missing: str) -> Task:
    hint = f"{benchmark.title} needs {benchmark.wants}. Where to get it: {benchmark.source}."
    features = data if isinstance(data, Features) else None
    if features is not None:
        data, hint = None, f"data is {features!r}, which only the benchmark features reads. {hint}"
    file, folder = (None if path is None else Path(path).expanduser() for path in (data, images))
    defaults = benchmark.options
    if unknown := [name for name in options if name not in defaults]:
        names = ", ".join(defaults) or "no options"
        raise ValueError(f"{benchmark.name} has no option {unknown[0]!r}. It has {names}.")
    converted = {name: _convert_option(name, value, defaults[name]) for name, value in options.items()}
    sources = Sources(file, folder, on_missing, hint, features=features)
    try:
        task: object = benchmark.read(sources, **converted)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        if benchmark.name not in BENCHMARKS:
            raise
        raise ValueError(f"{file} is not as {benchmark.title} was published: {error!r}. {hint}") from error
    if not isinstance(task, Task):
        raise ValueError(f"The reader of {benchmark.name} gives no Task. End it with: return sources.task(...)")
    return task


def _convert_option(name: str, value: Option, default: Any) -> Any:
    """An option's value; a string is converted to a number or a truth value if the default is one."""
    if not isinstance(value, str) or not isinstance(default, int | float):
        return value
    with suppress(ValueError):
        number = json.loads(value.lower())
        if type(number) is type(default):
            return number
    expected = "true or false" if isinstance(default, bool) else f"a number, for example {default}"
    raise ValueError(f"The option {name} is {value!r}. Type {expected}.")


def _open_alignments(model: LABCLIP, alignments: Alignments | None, strengths: Sequence[float]) -> dict[str, Alignment]:
    """Name -> alignment at a strength, in the order given. A single one without a name is "labclip"."""
    has_names = isinstance(alignments, Mapping)
    if not isinstance(alignments, Mapping):
        matrices = [alignments] if isinstance(alignments, Alignment | str | Path) else list(alignments or ())
        alignments = {
            f"alignment {number}" if isinstance(matrix, Alignment) else str(matrix): matrix
            for number, matrix in enumerate(matrices, 1)
        }
    by_name = {name: open_alignment(alignment, model) for name, alignment in alignments.items()}
    if not by_name and not model.alignment.at(1.0).is_identity:
        by_name["labclip"] = model.alignment
    if len(by_name) == 1 and not has_names:
        by_name = {"labclip": next(iter(by_name.values()))}
    if "base" in by_name:
        remedy = "Pass another name" if has_names else "Type ./base"
        raise ValueError(f"An alignment is called base, as the report calls the base model. {remedy}.")
    if not strengths:
        return by_name
    if not by_name:
        raise ValueError("Strengths were passed but no alignment. Pass alignments=A, or a model that has one.")
    scaled = [(name, alignment.at(strength)) for name, alignment in by_name.items() for strength in strengths]
    at_strengths = {f"{name}@{alignment.strength:g}": alignment for name, alignment in scaled}
    if len(at_strengths) == 1 and not has_names:
        return {"labclip": next(iter(at_strengths.values()))}
    return at_strengths


def _cosine_note(task: Task, images: Tensor, texts: Tensor, scores: Sequence[Sequence[ScoredItems]]) -> str:
    """A note with the base's figures by cosine for questions in which its captions are not normalised."""
    images, texts = unit_length(images, "Image features"), unit_length(texts, "Text features")
    unnormalized_score = {metric: base for base, *_ in scores for metric in base.metrics}
    figures = [
        f"{metric} {by_cosine.value(metric):.3f} (here {unnormalized_score[metric].value(metric):.3f})"
        for question in filter(is_unnormalized, task.questions)
        for by_cosine in question.score(images, texts)
        for metric in by_cosine.metrics
    ]
    return (
        f"The base's caption embeddings are not normalised, as in the paper's code, so that a longer one wins more "
        f"often; an alignment's have length 1. By cosine the base has {', '.join(figures)}."
    )


def _equal_embeddings(task: Task, images: Tensor, texts: Tensor) -> list[str]:
    """Notes on distinct captions, or distinct images of a gallery, that have equal embeddings."""
    notes = []
    galleries = [question.images for question in task.questions if isinstance(question, Retrieval)]
    gallery = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *galleries]))
    for features, name, reason in (
        (images[gallery], "images of the gallery", "the same file under another name"),
        (texts, "captions", "cut at the model's context, or the same words to it"),
    ):
        if copies := len(features) - len(np.unique(first_copies(features))):
            notes.append(
                f"{copies:,} of {len(features):,} {name} have exactly the embedding of another ({reason}). Choosing "
                f"between two of them is a tie, which is wrong."
            )
    return notes
