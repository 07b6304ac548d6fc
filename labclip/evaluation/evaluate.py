"""A base and its alignments on benchmarks: read, encode once, ask every model the same, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labclip.alignment import Alignment
from labclip.encode.cache import Cache, default_cache, encode
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.report import RESERVED, Report, Result
from labclip.evaluation.scores import RESAMPLES, Compared, Scores, compare
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Retrieval, Task, Texts
from labclip.io.folder import matrix_sha256
from labclip.io.opening import open_alignment, open_base
from labclip.metrics import unit_length
from labclip.model import LABCLIP
from labclip.packages import versions_of

Option = str | int | float | bool


@dataclass(frozen=True)
class Where:
    """Where one benchmark's files lie, and its options.

    Attributes:
        data: File or folder of the questions; None for a benchmark that needs none.
        images: Folder that paths of pictures are relative to; None is the folder of `data`.
        options: Of the benchmark's reader, for example `{"split": "val"}`; strings are converted.
    """

    data: str | Path | None = None
    images: str | Path | None = None
    options: Mapping[str, Option] | None = None


def evaluate(
    benchmarks: str | Mapping[str, Where],
    model: LABCLIP | str | Path,
    *,
    data: str | Path | None = None,
    images: str | Path | None = None,
    options: Mapping[str, Option] | None = None,
    alignments: Alignment | str | Path | Sequence[Alignment | str | Path] | None = None,
    strengths: Sequence[float] = (),
    on_missing: str = "raise",
    cache: str | Path | bool | None = True,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    precision: str = "fp32",
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Measure what alignments gain and what they cost, beside their base.

    Each picture and each caption is encoded once, and not again in a later run. Cosines and metrics are float32, a tie
    is wrong, and differences are paired: all models answer the same items.

    Args:
        benchmarks: A name of `BENCHMARKS`, or several with their files.
        model: A loaded LABCLIP, or what `labclip embed --model` takes: a name, a folder, a repository, or MODEL:TAG.
        data: File or folder of the benchmark, where one is named.
        images: Folder of its pictures; by default that of `data`.
        options: Of its reader.
        alignments: To compare with the base; by default the model's own, where it has one that is not the identity.
        strengths: Ask about each alignment at each of these; by default at its own.
        on_missing: What pictures that are not there do: "raise", or "skip" to leave their items out with a note.
        cache: Folder of embeddings, True for the user's own, None or False for none.
        batch_size: Pictures in one pass.
        workers: Threads that read and decode; by default one a processor, at most 16.
        device: Where to load a model that is named; None is the CPU.
        precision: OpenCLIP's precision of a model that is named.
        resamples: Draws behind the intervals.
        seed: Of the draws.
        progress: Whether to show bars on stderr.

    Returns:
        Every metric with its interval, and the paired differences.

    Raises:
        FileNotFoundError: If files or pictures are missing; all are counted, the first named, with where to get them.
        ValueError: If a benchmark, option, file, picture or alignment is not sound; the message says what to type.

    Example:
        >>> report = evaluate("scenes", "scenes", options={"n": 300}, cache=None, progress=False)
        >>> binding = report.results[0].metric("binding")
        >>> [round(estimate.value, 1) for estimate in binding.estimates], binding.differences[0].measurable
        ([0.6, 1.0], True)
    """
    asked = _asked(benchmarks, Where(data, images, options))
    if on_missing not in ("raise", "skip"):
        raise ValueError(f'on_missing is {on_missing!r}. Pass "raise" or "skip".')
    if batch_size < 1 or resamples < 1 or (workers is not None and workers < 1):
        raise ValueError(f"batch_size is {batch_size}, resamples {resamples}, workers {workers}; each is at least 1.")
    if seed < 0:
        raise ValueError(f"seed is {seed}. Pass a whole number from 0.")
    # What can fail is tried before a model is loaded: files of every benchmark first.
    tasks = {name: _read(BENCHMARKS[name], where, on_missing) for name, where in asked.items()}
    opened = model if isinstance(model, LABCLIP) else open_base(str(model), device=device, precision=precision)
    for task in tasks.values():
        if task.embedded is not None:
            task.embedded.check(opened)
    compared = _alignments(opened, alignments, strengths)
    folder = default_cache() if cache is True else Path(cache) if cache else None
    results = []
    with Cache(folder, opened) as known:
        for name, task in tasks.items():
            images_of, texts_of = (
                encode(
                    opened, task.pictures, task.captions,
                    cache=known, batch_size=batch_size, workers=workers, progress=progress,
                )
                if task.embedded is None
                else (task.embedded.images, task.embedded.texts)
            )  # fmt: skip
            found = measure(task, images_of, texts_of, list(compared.values()), resamples=resamples, seed=seed)
            notes = [*task.notes, *_alike(task, images_of, texts_of)]
            where = asked[name]
            results.append(
                Result(
                    BENCHMARKS[name], found, notes, len(images_of), len(texts_of),
                    data="" if where.data is None else str(where.data), options=dict(where.options or {}),
                )
            )  # fmt: skip
        return Report(
            base=str(opened.alignment.base or "a base without a name"),
            weights_sha256=known.identity["weights_sha256"],
            models=("base", *compared),
            alignments=[_facts(name, alignment) for name, alignment in compared.items()],
            results=results,
            versions=versions_of("torch", "open_clip_torch", "numpy", "pillow"),
        )


def measure(
    task: Task,
    images: Tensor,
    texts: Tensor,
    alignments: Sequence[Alignment],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Compared]:
    """Answer a task's questions with the base and each alignment.

    Args:
        task: Pictures, captions and questions.
        images: Of the pictures, [pictures, dim], any scale.
        texts: The base's own, of the captions, [captions, dim], any scale.
        alignments: Fitted on that base.
        resamples: Draws behind the intervals.
        seed: Of the draws.

    Returns:
        Every metric; estimates of the base first, then of each alignment.

    Raises:
        ValueError: If features are not as many as pictures or captions, or not sound.
    """
    for features, items, what in ((images, task.pictures, "pictures"), (texts, task.captions, "captions")):
        if task.embedded is None and len(features) != len(items):
            raise ValueError(f"There are {len(features)} features for {len(items)} {what}. Encode the same task.")
    images, base = unit_length(images, "Image features"), unit_length(texts, "Text features")
    answers: list[list[Scores]] = []
    for alignment in (None, *alignments):
        aligned = base if alignment is None else unit_length(alignment(base), "Aligned text features")
        asked = Texts(aligned, base)
        answers.append([scores for question in task.questions for scores in question.score(images, asked)])
    return [one for models in zip(*answers, strict=True) for one in compare(models, resamples=resamples, seed=seed)]


def _alike(task: Task, images: Tensor, texts: Tensor) -> list[str]:
    """Notes where captions, or pictures of a gallery, are one to the model though the benchmark tells them apart."""
    notes = []
    found = [row for question in task.questions if isinstance(question, Retrieval) for row in question.images]
    for features, what, why in (
        (images[sorted(set(found))], "pictures of the gallery", "the same file under another name"),
        (texts, "captions", "cut at the model's context, or the same words to it"),
    ):
        same = len(features) - len({hash(row.tobytes()) for row in features.numpy()})
        if same:
            notes.append(
                f"{same:,} of {len(features):,} {what} have the very embedding of another ({why}). Choosing between "
                f"two such is a tie, which is wrong."
            )
    return notes


def _asked(benchmarks: str | Mapping[str, Where], single: Where) -> dict[str, Where]:
    asked = {benchmarks: single} if isinstance(benchmarks, str) else dict(benchmarks)
    unknown = [name for name in asked if name not in BENCHMARKS]
    if unknown or not asked:
        import difflib

        near = difflib.get_close_matches(unknown[0], BENCHMARKS, n=1, cutoff=0.4) if unknown else []
        said = f"There is no benchmark {unknown[0]!r}." if unknown else "No benchmark was named."
        raise ValueError(f"{said}{f' Did you mean {near[0]!r}?' if near else ''} Benchmarks: {', '.join(BENCHMARKS)}.")
    return asked


def _read(benchmark: Benchmark, where: Where, on_missing: str) -> Task:
    hint = f"{benchmark.title} wants {benchmark.wants}. Where people get them: {benchmark.source}."
    data, images = (None if path is None else Path(path).expanduser() for path in (where.data, where.images))
    sources = Sources(data, images, on_missing, hint)
    return benchmark.read(sources, **_options(benchmark, where.options or {}))


def _options(benchmark: Benchmark, options: Mapping[str, Option]) -> dict[str, Option]:
    """Options as the reader's keyword arguments, strings converted to what it says it takes."""
    known = benchmark.options
    converted: dict[str, Option] = {}
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"{benchmark.name} has no option {name!r}. "
                + (f"It has {', '.join(known)}." if known else "It has no options.")
            )
        converted[name] = _converted(f"{benchmark.name}'s option {name}", value, known[name])
    return converted


def _converted(what: str, value: Option, default: Any) -> Option:
    """A string as the type of an option's default."""
    if not isinstance(value, str) or isinstance(default, str) or default is None:
        return value
    if isinstance(default, bool):
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if value.lower() in words:
            return words[value.lower()]
        raise ValueError(f"{what} is {value!r}. Type true or false.")
    try:
        return type(default)(value)
    except ValueError:
        raise ValueError(f"{what} is {value!r}. Type a number, for example {default}.") from None


def _alignments(
    model: LABCLIP,
    alignments: Alignment | str | Path | Sequence[Alignment | str | Path] | None,
    strengths: Sequence[float],
) -> dict[str, Alignment]:
    """Name -> alignment at a strength, in the order asked for; "labclip" where there is but one."""
    given = [alignments] if isinstance(alignments, Alignment | str | Path) else list(alignments or ())
    named: dict[str, Alignment] = {}
    for place, one in enumerate(given):
        alignment = open_alignment(one, model)
        label = f"alignment {place + 1}" if isinstance(one, Alignment) else str(one)
        if label in named:
            raise ValueError(f"The alignment {label} is named twice. Name it once.")
        named[label] = alignment
    for label in named:
        if label in RESERVED and len(named) > 1:
            raise ValueError(f"The alignment {label} has a name that the report uses itself. Type ./{label}.")
    own = model.alignment
    if not given and not torch.equal(own.fitted.cpu(), torch.eye(own.dim)):
        named["labclip"] = own
    if strengths and not named:
        raise ValueError("Strengths were passed but no alignment. Pass --alignment A, or a model that has one.")
    if len(named) == 1:
        named = {"labclip": next(iter(named.values()))}
    if not strengths:
        return named
    asked: dict[str, Alignment] = {}
    for name, one in named.items():
        for strength in strengths:
            label = f"{name}@{strength:g}"
            if label in asked:
                raise ValueError(f"The strength {strength:g} is asked for twice. Pass each once, to six digits.")
            asked[label] = one.at(strength)
    return {"labclip": next(iter(asked.values()))} if len(asked) == 1 else asked


def _facts(name: str, alignment: Alignment) -> dict[str, Any]:
    facts = {"name": name, "strength": alignment.strength, "matrix_sha256": matrix_sha256(alignment.fitted)}
    return facts | {"recorded": alignment.base is not None or alignment.fingerprint is not None}
