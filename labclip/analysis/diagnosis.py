"""`diagnose`: where binding is lost in a model, what a matrix wins back, and at what cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from labclip.alignment import Alignment
from labclip.analysis.details import Details, look
from labclip.analysis.embedded import Embedded, embed
from labclip.analysis.labels import folds_of
from labclip.analysis.probes import Probed, probe
from labclip.analysis.repair import Repair, repair
from labclip.analysis.verdict import Side, Verdict, judge, judge_new_pairs, judge_repair
from labclip.checks import checked_whole
from labclip.data.scene_files import LabelledScenes, labelled_scenes
from labclip.encode.cache import Cache
from labclip.model import LABCLIP
from labclip.packages import EVAL, require

SCENES = 5000
"""Embedded scenes drawn where no data is given: shares are known to .014, and two cores take about a minute."""

_NAMES = {"own": "The model's own matrix", "fitted": "A matrix fitted on other combinations"}


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Everything that was measured, and the verdict.

    Attributes:
        model: The base in words.
        data: What it was measured on.
        scenes: How many.
        combinations: Different ones among them.
        verdict: Where binding is lost, in words.
        probes: "image" and "text".
        repair: Binding and retrieval of base, own and fitted matrix.
        details: What explains the verdict and decides nothing in it.
        seed: Of everything drawn.
        seconds: It took.
        notes: What was left out, and why.
    """

    model: str
    data: str
    scenes: int
    combinations: int
    verdict: Verdict
    probes: Mapping[str, Probed]
    repair: Repair
    details: Details
    seed: int
    seconds: float
    notes: Sequence[str] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        from labclip.analysis.report import as_json

        return as_json(self)

    def __str__(self) -> str:
        from labclip.analysis.report import terminal

        return terminal(self)


def diagnose(
    model: LABCLIP,
    labelled: LabelledScenes | None = None,
    *,
    seed: int = 0,
    fit: bool = True,
    folds: int = 3,
    scenes: int = SCENES,
    cache: Cache | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Find out where a model loses which attribute belongs to which object.

    Probes and fits are cross-validated by unordered combination: a scene and its exchanged twin are never on two sides.

    Args:
        model: Any OpenCLIP model, wrapped with the identity or with its matrix.
        labelled: Pictures with what is in them; by default scenes of the embedded world, drawn here.
        seed: Of scenes, splits, fits and intervals.
        fit: Whether to fit matrices, to see what one could win back.
        folds: Of the cross-validation.
        scenes: How many embedded scenes to draw, where `labelled` is None.
        cache: Embeddings of earlier runs, an open `labclip.encode.cache.Cache`; None keeps none.
        progress: Whether to show bars on stderr.

    Raises:
        ValueError: If the model is no `LABCLIP`, the data is empty, has a single attribute or object, too few
            combinations for the folds, no caption that can be exchanged, or a picture that can't be read.
        MissingPackageError: If scikit-learn is missing.

    Example:
        >>> from labclip import LABCLIP
        >>> found = diagnose(LABCLIP.from_pretrained("scenes"), scenes=120, fit=False, progress=False)
        >>> found.scenes, sorted(found.probes)
        (120, ['image', 'text'])
    """
    if not isinstance(model, LABCLIP):
        raise ValueError(
            f"The model is a {type(model).__name__}. Wrap it: LABCLIP(model, Alignment.identity(dim), tokenizer=...), "
            f"or load it by name with LABCLIP.from_pretrained."
        )
    seed = checked_whole("seed", seed)
    if labelled is None:
        labelled = labelled_scenes(scenes, seed=seed, split="all")
    began = time.perf_counter()
    data = embed(model, labelled, seed=seed, cache=cache, progress=progress)
    own = None if model.alignment.is_identity else Alignment(model.alignment.matrix.detach().cpu())
    base = str(model.alignment.base or "a base without a name")
    found = examine(data, own, base=base, name=labelled.name, seed=seed, fit=fit, folds=folds, progress=progress)
    notes = [*_example(labelled), *labelled.notes, *found.notes]
    return replace(found, seconds=time.perf_counter() - began, notes=notes)


def examine(
    data: Embedded,
    own: Alignment | None = None,
    *,
    base: str = "embeddings",
    name: str = "embeddings",
    seed: int = 0,
    fit: bool = True,
    folds: int = 3,
    progress: bool = False,
) -> Diagnosis:
    """`diagnose` on embeddings, wherever they come from.

    Args:
        data: Embeddings of scenes and captions, and what is in the scenes.
        own: The model's own matrix; None if it has none.
        base: The model in words.
        name: The data in words.
        seed: Of splits, fits and intervals.
        fit: Whether to fit matrices.
        folds: Of the cross-validation.
        progress: Whether to show a bar on stderr.

    Raises:
        ValueError: If there are too few combinations for the folds.
    """
    began = time.perf_counter()
    fold = folds_of(data.labels, folds, seed)
    with _one_thread(), _steps(6 + (folds + 1 if fit else 0), progress) as done:
        done("linear probes")
        sides = {
            name: _side(rows, data, folds, seed) for name, rows in (("image", data.images), ("text", data.captions))
        }
        mended = repair(data, fold, own, fitting=fit, seed=seed, done=done)
        details = look(data, own, mended, seed=seed, done=done)
    return Diagnosis(
        model=base,
        data=name,
        scenes=data.labels.n,
        combinations=data.labels.combinations,
        verdict=_verdict(data, sides, mended),
        probes={side: one.probed for side, one in sides.items()},
        repair=mended,
        details=details,
        seed=seed,
        seconds=time.perf_counter() - began,
        notes=[*_notes(data, sides, details.after), *mended.notes],
    )


def _example(labelled: LabelledScenes) -> list[str]:
    """Which captions were asked about: a model may know other wordings better."""
    pairs = zip(labelled.captions, labelled.swapped, strict=True)
    return [f"Captions are such as {own!r} against {other!r}." for own, other in pairs if other is not None][:1]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products here are small: threads gain little where there is room, and on a busy machine wait for one another."""
    pools = require("threadpoolctl", "A diagnosis needs scikit-learn", EVAL)
    threads = torch.get_num_threads()
    try:
        with pools.threadpool_limits(limits=1):
            torch.set_num_threads(1)
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _steps(total: int, progress: bool) -> Iterator[Callable[[str], object]]:
    """A bar of the steps on stderr; told each step as it begins."""
    with tqdm(total=total, desc="diagnosis", unit=" steps", disable=not progress) as bar:
        begun = 0

        def done(step: str) -> None:
            nonlocal begun
            bar.set_postfix_str(step, refresh=False)
            bar.update(min(begun, total) - bar.n)
            begun += 1

        yield done
        bar.update(total - bar.n)


def _side(rows: torch.Tensor, data: Embedded, folds: int, seed: int) -> Side:
    """A side's probe, with the same on half the scenes where it reads too little."""
    side = Side(probe(rows, data.labels, folds=folds, seed=seed))
    if side.state == "kept":
        return side
    try:
        return Side(side.probed, probe(rows, data.labels, folds=folds, seed=seed, share=0.5))
    except ValueError:  # half of so little has nothing to ask
        return side


def _verdict(data: Embedded, sides: Mapping[str, Side], mended: Repair) -> Verdict:
    count = len(np.unique(data.labels.combination[data.exchanged]))
    told: list[str] = []
    for place, name in enumerate(mended.models):
        if place:
            told += judge_repair(_NAMES[name], mended.binding, place, mended.retrieval)
    if mended.new_pairs is not None:
        told.append(judge_new_pairs(mended.new_pairs))
    return replace(judge(sides["image"], sides["text"], mended.binding.estimates[0], count), repair=told)


def _notes(data: Embedded, sides: Mapping[str, Side], after: str) -> list[str]:
    labels, notes = data.labels, []
    if missing := int((~data.exchanged).sum()):
        notes.append(
            f"{missing:,} of {labels.n:,} scenes have no exchanged caption; binding is measured on the others."
        )
    if left := sides["image"].probed.left_out:
        notes.append(
            f"{left:,} of {len(labels.scene):,} things were not asked about in the probes: their object is in the "
            f"scene twice, or never had two attributes to learn."
        )
    if after == "own":
        notes.append(
            "The model's own matrix may have been fitted on these combinations; the ones fitted here were not."
        )
    if after == "fitted":
        notes.append("Gap, permutations and spectrum after: the first fold's matrix, on scenes it was not fitted on.")
    return notes
