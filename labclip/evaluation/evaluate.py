"""A base and its alignments on benchmarks: read, encode once, ask every model the same, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labclip.alignment import Alignment
from labclip.checks import checked_number
from labclip.encode.cache import BLOCK, Cache, default_cache, encode, key_of
from labclip.evaluation.answers import AnsweredItems
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.example import example_of
from labclip.evaluation.report import Report
from labclip.evaluation.results import Result
from labclip.evaluation.scores import CONTROL, ScoredItems, behind_metrics, compare, ties_by_index
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Retrieval, Stored, Task
from labclip.features.features import Features
from labclip.io.folder import matrix_sha256
from labclip.io.opening import open_alignment
from labclip.messages import nearest
from labclip.metrics import unit_length
from labclip.model import LABCLIP
from labclip.packages import versions_of
from labclip.towers.text import TruncationCount, counting_truncation, evaluating

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
        data: File or folder of the benchmark, or `Features` for the benchmark "features"; of several benchmarks
            `{name: path}`.
        images: Folder of its images, by default that of `data`; of several benchmarks one folder for all of them, or
            `{name: folder}`.
        options: Of its reader, for example `{"split": "val"}`; strings are converted. Of several benchmarks
            `{name: options}`.
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
    asked = _asked(benchmarks)
    data_of = _by_benchmark("data", data, asked)
    images_in = _by_benchmark("images", images, asked)
    options_of = _by_benchmark("options", options, asked)
    if on_missing not in ("raise", "skip"):
        raise ValueError(f'on_missing is {on_missing!r}. Pass "raise" or "skip".')
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ValueError(f"batch_size is {batch_size}, workers {workers}; each is at least 1.")
    if ties not in ("wrong", "index"):
        raise ValueError(f'ties is {ties!r}. Pass "wrong" or "index".')
    # What can fail is tried before a model is loaded: files of every benchmark first.
    tasks = {
        name: _read(one, data_of.get(name), images_in.get(name), options_of.get(name), on_missing)
        for name, one in asked.items()
    }
    opened = model if isinstance(model, LABCLIP) else LABCLIP.from_pretrained(model, device=device, precision=precision)
    for task in tasks.values():
        if task.embedded is not None:
            task.embedded.check(opened)
    compared = _alignments(opened, alignments, strengths)
    models = ("base", *compared)
    folder = default_cache() if cache is True else Path(cache) if cache else None
    results = []
    with Cache(folder, opened) as known:
        for name, task in tasks.items():
            images_of, texts_of = (
                encode(
                    opened, task.images, task.captions,
                    cache=known, batch_size=batch_size, workers=workers, progress=progress,
                )
                if task.embedded is None
                else (task.embedded.images, task.embedded.texts)
            )  # fmt: skip
            if task.own_length:
                texts_of = texts_of * _lengths(opened, task.captions, known)
            scores = score(task, images_of, texts_of, list(compared.values()))
            _check_headline(asked[name], [name for one in scores if one[0].side != CONTROL for name in one[0].metrics])
            published = filter(None, map(ties_by_index, scores)) if ties == "index" else ()
            results.append(
                Result(
                    asked[name],
                    behind_metrics([one for many in (*scores, *published) for one in compare(many)]),
                    [
                        *task.notes,
                        *_by_cosine(task, images_of, texts_of, scores),
                        *_equal_embeddings(task, images_of, texts_of),
                    ],
                    len(images_of),
                    len(texts_of),
                    data="" if data_of.get(name) is None else str(data_of[name]),
                    options=dict(options_of.get(name) or {}),
                    items=AnsweredItems(task, models, scores),
                    example=example_of(task, images_of, texts_of, compared),
                )
            )
        return Report(
            base=str(opened.alignment.base or "a base without a name"),
            weights_sha256=known.identity["weights_sha256"],
            models=models,
            alignments=[_facts(name, alignment) for name, alignment in compared.items()],
            results=results,
            versions=versions_of("torch", "open_clip_torch", "numpy", "pillow"),
            date=date.today().isoformat(),
        )


def score(task: Task, images: Tensor, texts: Tensor, alignments: Sequence[Alignment]) -> list[tuple[ScoredItems, ...]]:
    """Answer a task's questions with the base and each alignment.

    Features are [images, dim] and [captions, dim], of any scale, those of captions the base's own. For each set of
    items there are the scores of the base, then of each alignment.
    """
    images = images if isinstance(images, Stored) else unit_length(images, "Image features")
    answers = (
        [scores for question in task.questions for scores in question.score(images, features)]
        for features in task.read_by(texts, alignments)
    )
    return list(zip(*answers, strict=True))


def _lengths(model: LABCLIP, captions: Sequence[str], cache: Cache) -> Tensor:
    """How long the base's own embeddings of captions are, [n, 1].

    A cache keeps rows of length 1: of a length l it is the direction of (l, 1).
    """
    keys = {caption: key_of(b"length", caption.encode("utf-8", "surrogatepass")) for caption in captions}
    known = cache.get(list(keys.values()))
    if todo := [caption for caption, key in keys.items() if key not in known]:
        with torch.no_grad(), evaluating(model), counting_truncation(TruncationCount()):
            features = model.encode_text(todo, normalize=False, aligned=False)
        lengths = features.float().norm(dim=-1, keepdim=True).cpu()
        rows = unit_length(torch.cat([lengths, torch.ones_like(lengths)], dim=1), "Lengths").numpy()
        fresh = {keys[caption]: row for caption, row in zip(todo, rows, strict=True)}
        cache.put(fresh.items())
        known |= fresh
    kept = torch.from_numpy(np.stack([known[keys[caption]] for caption in captions]))
    return kept[:, :1] / kept[:, 1:]


def _by_cosine(task: Task, images: Tensor, texts: Tensor, scores: Sequence[Sequence[ScoredItems]]) -> list[str]:
    """What the base would get if its captions had length 1 too, where they have not."""
    if not task.own_length:
        return []
    told = [
        f"{metric} {by_cosine.value(metric):.3f} (here {one[0].value(metric):.3f})"
        for (by_cosine,), one in zip(score(replace(task, own_length=False), images, texts, []), scores, strict=True)
        for metric in by_cosine.metrics
        if by_cosine.side != CONTROL
    ]
    return [
        f"The base's captions keep their own length, as in the paper's code, so that a longer one wins more often; an "
        f"alignment's have length 1. By cosine the base has {', '.join(told)}."
    ]


def _equal_embeddings(task: Task, images: Tensor, texts: Tensor) -> list[str]:
    """Notes where captions, or images of a gallery, are one to the model though the benchmark tells them apart."""
    notes = []
    found = [question.images for question in task.questions if isinstance(question, Retrieval)]
    gallery = np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)
    for features, rows, what, why in (
        (images, gallery, "images of the gallery", "the same file under another name"),
        (texts, np.arange(len(texts)), "captions", "cut at the model's context, or the same words to it"),
    ):
        blocks = (features[torch.from_numpy(rows[start : start + BLOCK])] for start in range(0, len(rows), BLOCK))
        same = len(rows) - len({hash(row.tobytes()) for block in blocks for row in block.numpy()})
        if same:
            notes.append(
                f"{same:,} of {len(rows):,} {what} have exactly the embedding of another ({why}). Choosing between "
                f"two such is a tie, which is wrong."
            )
    return notes


def _asked(benchmarks: str | Benchmark | Sequence[str | Benchmark]) -> dict[str, Benchmark]:
    given = list(benchmarks) if isinstance(benchmarks, Sequence) and not isinstance(benchmarks, str) else [benchmarks]
    asked: dict[str, Benchmark] = {}
    for one in given:
        if not isinstance(one, str | Benchmark):
            raise ValueError(
                f"benchmarks has a value of type {type(one).__name__}. Pass names or Benchmarks, after the model: "
                f'evaluate(model, "scenes").'
            )
        name = one.name if isinstance(one, Benchmark) else one
        if isinstance(one, str) and one not in BENCHMARKS:
            raise ValueError(
                f"There is no benchmark {one!r}.{nearest(one, BENCHMARKS)} Benchmarks: {', '.join(BENCHMARKS)}."
            )
        if name in asked:
            raise ValueError(f"The benchmark {name} is named twice. Name it once.")
        asked[name] = one if isinstance(one, Benchmark) else BENCHMARKS[one]
    if not asked:
        raise ValueError(f"No benchmark was named. Benchmarks: {', '.join(BENCHMARKS)}.")
    return asked


def _by_benchmark(what: str, given: Any, asked: Mapping[str, Benchmark]) -> dict[str, Any]:
    """What was given for one benchmark, or for several by their names."""
    by_name = isinstance(given, Mapping)
    if by_name and what == "options":  # an option's value is none
        by_name = all(isinstance(value, Mapping) for value in given.values())
    if given is None:
        return {}
    if not by_name:
        if len(asked) > 1 and what != "images":
            example = {next(iter(asked)): given}
            raise ValueError(f"{what} is {given!r}, of which of {', '.join(asked)}? Pass {what}={example!r}.")
        return dict.fromkeys(asked, given)
    if unknown := [name for name in given if name not in asked]:
        raise ValueError(f"{what} names {unknown[0]!r}, but the benchmarks are {', '.join(asked)}.")
    return dict(given)


def _read(benchmark: Benchmark, data: Any, images: Any, options: Options | None, on_missing: str) -> Task:
    hint = f"{benchmark.title} needs {benchmark.wants}. Where people get it: {benchmark.source}."
    features = data if isinstance(data, Features) else None
    if features is not None:
        data, hint = None, f"data is {features!r}, which the benchmark features reads. {hint}"
    file, folder = (None if path is None else Path(path).expanduser() for path in (data, images))
    sources = Sources(file, folder, on_missing, hint, features=features)
    task: object = benchmark.read(sources, **_options(benchmark, options or {}))
    if not isinstance(task, Task):
        given = "None" if task is None else f"a {type(task).__name__}"
        raise ValueError(
            f"The reader of {benchmark.name} gives {given}, not a Task. End it with: return sources.task(...)"
        )
    return task


def _check_headline(benchmark: Benchmark, metrics: Sequence[str]) -> None:
    """Refuse a headline metric that there is none of; which metrics ours have depends on the files."""
    lacking = [name for name in benchmark.headline if name not in metrics]
    if lacking and benchmark is not BENCHMARKS.get(benchmark.name):
        raise ValueError(
            f"headline of {benchmark.name} names {', '.join(map(repr, lacking))}, but its metrics are "
            f"{', '.join(metrics)}. Name some of these."
        )


def _options(benchmark: Benchmark, options: Options) -> dict[str, Option]:
    """Options as the reader's keyword arguments, strings converted to what it says it takes."""
    known = benchmark.options
    converted: dict[str, Option] = {}
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{benchmark.name} has no option {name!r}. It has {', '.join(known) or 'no options'}.")
        converted[name] = _converted(f"{benchmark.name}'s option {name}", value, known[name])
    return converted


def _converted(what: str, value: Option, default: Any) -> Option:
    """A string as the type of an option's default."""
    if not isinstance(value, str) or isinstance(default, str) or default is None:
        return value
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    wanted = "true or false" if isinstance(default, bool) else f"a number, for example {default}"
    try:
        return words[value.lower()] if isinstance(default, bool) else type(default)(value)
    except (KeyError, ValueError):
        raise ValueError(f"{what} is {value!r}. Type {wanted}.") from None


def _alignments(model: LABCLIP, alignments: Alignments | None, strengths: Sequence[float]) -> dict[str, Alignment]:
    """Name -> alignment at a strength, in the order asked for; "labclip" where there is but one, without a name."""
    own_names = isinstance(alignments, Mapping)
    named = {name: open_alignment(one, model) for name, one in _labelled(alignments)}
    if "base" in named and (own_names or len(named) > 1):
        remedy = "Pass another name" if own_names else "Type ./base"
        raise ValueError(f"The alignment base has the name that the report gives the base. {remedy}.")
    own = model.alignment
    if not named and not own.at(1.0).is_identity:
        named["labclip"] = own
    if strengths and not named:
        raise ValueError("Strengths were passed but no alignment. Pass alignments=A, or a model that has one.")
    if len(named) == 1 and not own_names:
        named = {"labclip": next(iter(named.values()))}
    asked: dict[str, Alignment] = {}
    for name, one in named.items():
        for strength in (checked_number("strength", one) for one in strengths):
            label = f"{name}@{strength:g}"
            if label in asked:
                raise ValueError(f"The strength {strength:g} is asked for twice. Pass each once, to six digits.")
            asked[label] = one.at(strength)
    if not strengths:
        return named
    return {"labclip": next(iter(asked.values()))} if len(asked) == 1 and not own_names else asked


def _labelled(alignments: Alignments | None) -> list[tuple[str, Matrix]]:
    """Each alignment with its name."""
    if isinstance(alignments, Mapping):
        if wrong := [name for name in alignments if not isinstance(name, str) or not name.strip()]:
            raise ValueError(f"alignments has the name {wrong[0]!r}. Pass names as text: {{'mine': ALIGNMENT}}.")
        return list(alignments.items())
    given = [alignments] if isinstance(alignments, Alignment | str | Path) else list(alignments or ())
    labels = [f"alignment {at}" if isinstance(one, Alignment) else str(one) for at, one in enumerate(given, start=1)]
    if twice := [label for at, label in enumerate(labels) if label in labels[:at]]:
        raise ValueError(f"The alignment {twice[0]} is named twice. Name it once.")
    return list(zip(labels, given, strict=True))


def _facts(name: str, alignment: Alignment) -> dict[str, Any]:
    facts = {"name": name, "strength": alignment.strength, "matrix_sha256": matrix_sha256(alignment.fitted)}
    return facts | {"recorded": alignment.base is not None or alignment.fingerprint is not None}
