"""A base and its alignments on benchmarks: read, encode once, ask every model the same, compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labclip.alignment import Alignment
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.report import Report
from labclip.evaluation.results import Result, answers
from labclip.evaluation.scores import ScoredItems, compare
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Retrieval, Task, score
from labclip.features.cache import BLOCK, Cache, encode
from labclip.features.features import Features
from labclip.files import check_benchmark
from labclip.io.folder import matrix_sha256
from labclip.io.opening import open_alignment
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
    """Measure what alignments gain and what they cost, beside their base.

    Each image and each caption is encoded once, and not again in a later run. Cosines and metrics are float32, a tie
    is wrong, and differences are paired: all models answer the same items.

    Args:
        model: A loaded LABCLIP, or what `labclip evaluate --model` takes: a name, a folder, a repository, or MODEL:TAG.
        benchmarks: A name of `BENCHMARKS`, a `Benchmark` of your own, or a list of both.
        data: File or folder of the benchmark, or `Features` for the benchmark "features". This and the next two are for
            several benchmarks `{name: value}`; one folder of images may serve all of them.
        images: Folder of its images, by default that of `data`.
        options: Its reader's options, for example `{"split": "val"}`; strings are converted.
        alignments: To compare with the base: one, a list, or `{name: alignment}` with the names that the report gives
            them; by default the model's own, where it has one that is not the identity.
        strengths: Ask about each alignment at each of these; by default at its own.
        on_missing: What happens where images are missing: "raise", or "skip" to leave their items out with a note.
        cache: Folder of embeddings, True for the user's own, None or False for none.
        batch_size: Images in one pass.
        workers: Threads that read and decode; by default one a processor, at most 16.
        device: Where to load a model that is named; None is the CPU.
        precision: OpenCLIP's precision of a model that is named.
        ties: "index" adds what published code gives that takes the first of equal answers, a metric's name with
            "_index" behind it, in a table of its own: to compare with published figures, never to report.
        progress: Whether to show bars on stderr.

    Returns:
        Every metric with its interval, the paired differences, and every item with each model's answer.

    Raises:
        FileNotFoundError: If files or images are missing; all are counted, the first named, with where to get them.
        ValueError: If a benchmark, option, file, image or alignment is not valid; the message says what to type.

    Example:
        >>> report = evaluate("scenes", "scenes", options={"n": 300}, cache=None, progress=False)
        >>> binding = report["scenes"].metric("binding")
        >>> [round(estimate.value, 1) for estimate in binding.estimates], binding.differences[0].measurable
        ([0.6, 1.0], True)
        >>> [item.captions[0] for item in report["scenes"].items[:300] if not item.right["labclip"]]
        ['a purple star beside a yellow cross']
    """
    for name, value, known in (("on_missing", on_missing, ("raise", "skip")), ("ties", ties, ("wrong", "index"))):
        if value not in known:
            raise ValueError(f'{name} is {value!r}. Pass "{known[0]}" or "{known[1]}".')
    asked = _asked(benchmarks)
    data_of = _by_benchmark("data", data, asked)
    images_in = _by_benchmark("images", images, asked)
    options_of = _by_benchmark("options", options, asked)
    # What can fail is tried before a model is loaded: files of every benchmark first.
    tasks = {
        name: _read(benchmark, data_of.get(name), images_in.get(name), options_of.get(name) or {}, on_missing)
        for name, benchmark in asked.items()
    }
    opened = model if isinstance(model, LABCLIP) else LABCLIP.from_pretrained(model, device=device, precision=precision)
    for task in tasks.values():
        if task.embedded is not None:
            task.embedded.check(opened)
    compared = _alignments(opened, alignments, strengths)
    models = ("base", *compared)
    results = []
    with Cache(cache, opened) as known_rows:
        how: dict[str, Any] = {"cache": known_rows, "batch_size": batch_size, "workers": workers, "progress": progress}
        for name, task in tasks.items():
            if task.embedded is None:
                image_rows, text_rows = encode(opened, task.images, task.captions, **how)
            else:
                image_rows, text_rows = task.embedded.images, task.embedded.texts
            if task.own_length:
                with torch.no_grad(), evaluating(opened):
                    text_rows = opened.encode_text(list(task.captions), normalize=False, aligned=False).float().cpu()
            scores = score(task, image_rows, text_rows, list(compared.values()), ties=ties)
            measured = [metric for by_model in scores for metric in compare(by_model)]
            notes = [*task.notes, *_equal_embeddings(task, image_rows, text_rows)]
            if task.own_length:
                notes.append(_by_cosine(task, image_rows, text_rows, scores))
            results.append(
                Result(
                    asked[name],
                    measured,
                    notes,
                    len(image_rows),
                    len(text_rows),
                    data="" if data_of.get(name) is None else str(data_of[name]),
                    options=dict(options_of.get(name) or {}),
                    # Names alone: the task holds images, whose pixels must not live as long as a report does.
                    answered=partial(answers, task.names(), models, scores),
                )
            )
    facts = [
        {
            "name": name,
            "strength": alignment.strength,
            "matrix_sha256": matrix_sha256(alignment.fitted),
            "recorded": alignment.base is not None or alignment.fingerprint is not None,
        }
        for name, alignment in compared.items()
    ]
    base, weights = str(opened.alignment.base or "a base without a name"), known_rows.identity["weights_sha256"]
    versions = versions_of("torch", "open_clip_torch", "numpy", "pillow")
    return Report(base, weights, models, facts, results, versions, date.today().isoformat())


def _asked(benchmarks: str | Benchmark | Sequence[str | Benchmark]) -> dict[str, Benchmark]:
    asked: dict[str, Benchmark] = {}
    for entry in [benchmarks] if isinstance(benchmarks, str | Benchmark) else benchmarks:
        if isinstance(entry, str):
            check_benchmark(entry)
        benchmark = BENCHMARKS[entry] if isinstance(entry, str) else entry
        if asked.setdefault(benchmark.name, benchmark) is not benchmark:
            raise ValueError(f"Two benchmarks are called {benchmark.name}. Give each its own name.")
    if not asked:
        raise ValueError(f"No benchmark was named. Benchmarks: {', '.join(BENCHMARKS)}.")
    return asked


def _by_benchmark(what: str, given: Any, asked: Mapping[str, Benchmark]) -> dict[str, Any]:
    """A value for each benchmark, from one value for all or a mapping by name."""
    by_name = isinstance(given, Mapping)
    if by_name and what == "options":  # an option's value is none
        by_name = all(isinstance(value, Mapping) for value in given.values())
    if not by_name and given is not None and len(asked) > 1 and what != "images":
        example = {next(iter(asked)): given}
        raise ValueError(f"{what} is {given!r}, of which of {', '.join(asked)}? Pass {what}={example!r}.")
    values = dict(given) if by_name else dict.fromkeys(asked, given)
    if unknown := [name for name in values if name not in asked]:
        raise ValueError(f"{what} names {unknown[0]!r}, but the benchmarks are {', '.join(asked)}.")
    return values


def _read(benchmark: Benchmark, data: Any, images: Any, options: Options, on_missing: str) -> Task:
    hint = f"{benchmark.title} needs {benchmark.wants}. Where people get it: {benchmark.source}."
    features = data if isinstance(data, Features) else None
    if features is not None:
        data, hint = None, f"data is {features!r}, which the benchmark features reads. {hint}"
    file, folder = (None if path is None else Path(path).expanduser() for path in (data, images))
    known = benchmark.options
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"{benchmark.name} has no option {unknown[0]!r}. It has {', '.join(known) or 'no options'}.")
    converted = {name: _converted(name, value, known[name]) for name, value in options.items()}
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


def _converted(name: str, value: Option, default: Any) -> Any:
    """A string as the type of an option's default, a number or a truth value."""
    if not isinstance(value, str) or not isinstance(default, int | float):
        return value
    with suppress(ValueError):
        number = json.loads(value.lower())
        if type(number) is type(default):
            return number
    wanted = "true or false" if isinstance(default, bool) else f"a number, for example {default}"
    raise ValueError(f"The option {name} is {value!r}. Type {wanted}.")


def _alignments(model: LABCLIP, alignments: Alignments | None, strengths: Sequence[float]) -> dict[str, Alignment]:
    """Name -> alignment at a strength, in the order asked for; "labclip" where there is but one, without a name."""
    own_names = isinstance(alignments, Mapping)
    if not isinstance(alignments, Mapping):
        several = [alignments] if isinstance(alignments, Alignment | str | Path) else list(alignments or ())
        labels = [
            f"alignment {at}" if isinstance(matrix, Alignment) else str(matrix) for at, matrix in enumerate(several, 1)
        ]
        alignments = dict(zip(labels, several, strict=True))
    named = {name: open_alignment(alignment, model) for name, alignment in alignments.items()}
    if not named and not model.alignment.at(1.0).is_identity:
        named["labclip"] = model.alignment
    if len(named) == 1 and not own_names:
        named = {"labclip": next(iter(named.values()))}
    if "base" in named:
        remedy = "Pass another name" if own_names else "Type ./base"
        raise ValueError(f"The alignment base has the name that the report gives the base. {remedy}.")
    if not strengths:
        return named
    if not named:
        raise ValueError("Strengths were passed but no alignment. Pass alignments=A, or a model that has one.")
    every = {f"{name}@{at.strength:g}": at for name, alignment in named.items() for at in map(alignment.at, strengths)}
    return {"labclip": next(iter(every.values()))} if len(every) == 1 and not own_names else every


def _by_cosine(task: Task, images: Tensor, texts: Tensor, scores: Sequence[Sequence[ScoredItems]]) -> str:
    """A note with the base's figures if its captions had unit length too."""
    by_cosine = score(replace(task, questions=task.questions[: task.own_length], own_length=0), images, texts, [])
    figures = [
        f"{metric} {of_cosine.value(metric):.3f} (here {base.value(metric):.3f})"
        for (of_cosine,), (base, *_) in zip(by_cosine, scores, strict=False)  # scores go on with other questions
        for metric in of_cosine.metrics
    ]
    return (
        f"The base's captions keep their own length, as in the paper's code, so that a longer one wins more often; an "
        f"alignment's have length 1. By cosine the base has {', '.join(figures)}."
    )


def _equal_embeddings(task: Task, images: Tensor, texts: Tensor) -> list[str]:
    """Notes where captions, or images of a gallery, are one to the model though the benchmark tells them apart."""
    notes = []
    galleries = [question.images for question in task.questions if isinstance(question, Retrieval)]
    gallery = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *galleries]))
    for features, rows, what, why in (
        (images, gallery, "images of the gallery", "the same file under another name"),
        (texts, np.arange(len(texts)), "captions", "cut at the model's context, or the same words to it"),
    ):
        blocks = (features[torch.from_numpy(rows[start : start + BLOCK])] for start in range(0, len(rows), BLOCK))
        if same := len(rows) - len({hash(row.tobytes()) for block in blocks for row in block.numpy()}):
            notes.append(
                f"{same:,} of {len(rows):,} {what} have exactly the embedding of another ({why}). Choosing between "
                f"two such is a tie, which is wrong."
            )
    return notes
