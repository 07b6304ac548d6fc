"""`diagnose`: where binding is lost in a model, what a matrix repairs, and at what cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labclip.alignment import Alignment
from labclip.analysis.probes import Probed, confusions, probe
from labclip.analysis.repair import repair
from labclip.analysis.report import Diagnosis, repair_sentences
from labclip.analysis.scenes import Mask, SceneFeatures, embed_scenes, folds_of
from labclip.analysis.space import modality_gap, permutation_similarity, spectrum
from labclip.analysis.verdict import judge, state
from labclip.checks import checked_whole
from labclip.data.scene_files import LabelledScenes, labelled_scenes, read_labelled_scenes
from labclip.model import LABCLIP
from labclip.packages import versions_of
from labclip.training.trainer import one_thread

SCENES = 5000
"""Embedded scenes drawn where no data is given: fractions are known to .014, and two cores take about a minute."""


def diagnose(
    model: LABCLIP | str | Path,
    data: LabelledScenes | str | Path | None = None,
    *,
    images: str | Path | None = None,
    scenes: int = SCENES,
    fit: bool = True,
    folds: int = 3,
    cache: str | Path | bool | None = True,
    seed: int = 0,
    progress: bool = True,
) -> Diagnosis:
    """Find out where a model loses which attribute belongs to which object.

    Probes and fits are cross-validated by unordered combination: a scene and the same with attributes swapped are never
    in two folds.

    Args:
        model: Any OpenCLIP model, wrapped with the identity or with its matrix; or a name, as
            `LABCLIP.from_pretrained` takes it.
        data: Labelled images: the path of CLEVR's, CLEVR2D's or PUG's files, or a value in memory; None draws scenes of
            the embedded model.
        images: Folder that a file's names of images are relative to; None is the file's own.
        scenes: How many to draw, where `data` is None.
        fit: Whether to fit matrices, to see how much one could repair.
        folds: Folds of the cross-validation.
        cache: Folder of embeddings of `data`, True for the user's own, None or False for none. Those of drawn scenes
            are not kept.
        seed: Seed of scenes, splits, fits and intervals.
        progress: Whether to show bars on stderr.

    Raises:
        FileNotFoundError: If the file or images are missing.
        ValueError: If the model is none, the data is malformed or empty, has a single attribute or object, too few
            combinations for the folds, no caption whose attributes can be swapped, or an image that can't be read.

    Example:
        >>> from labclip import LABCLIP
        >>> found = diagnose(LABCLIP.from_pretrained("scenes"), scenes=120, fit=False, progress=False)
        >>> found.scenes, sorted(found.probes)
        (120, ['image', 'text'])
    """
    began = time.perf_counter()
    seed = checked_whole("seed", seed)
    if not isinstance(model, LABCLIP | str | Path):
        raise ValueError(
            f"The model is a {type(model).__name__}. Wrap it: LABCLIP(model, Alignment.identity(dim), tokenizer=...), "
            f"or load it by name with LABCLIP.from_pretrained."
        )
    if images is not None and not isinstance(data, str | Path):
        raise ValueError("images is the folder of the images of data=PATH. Pass that too, or leave both out.")
    if data is None:
        data, cache = labelled_scenes(scenes, seed=seed, split="all"), None
    elif not isinstance(data, LabelledScenes):
        data = read_labelled_scenes(Path(data).expanduser(), None if images is None else Path(images).expanduser())
    if not isinstance(model, LABCLIP):
        model = LABCLIP.from_pretrained(model)
    features = embed_scenes(model, data, seed=seed, cache=cache, progress=progress)
    own = None if model.alignment.is_identity else Alignment(model.alignment.matrix.detach().cpu())
    base = str(model.alignment.base or "a base without a name")
    found = diagnose_features(features, own, base=base, seed=seed, fit=fit, folds=folds, progress=progress)
    return replace(found, seconds=time.perf_counter() - began)


def diagnose_features(
    data: SceneFeatures,
    own: Alignment | None = None,
    *,
    base: str = "embeddings",
    seed: int = 0,
    fit: bool = True,
    folds: int = 3,
    progress: bool = False,
) -> Diagnosis:
    """`diagnose` on embeddings, wherever they come from: `own` is the model's own matrix, `base` the model in words."""
    began = time.perf_counter()
    labels, fold = data.labels, folds_of(data.labels, folds, seed)
    with one_thread():
        sides = {"image": data.images, "text": data.captions}
        probes = {side: _probed(rows, data, folds, seed) for side, rows in sides.items()}
        repaired = repair(data, fold, own, fitting=fit, seed=seed, progress=progress)
        after, matrix, keep = "", own, np.ones(labels.n, dtype=np.bool_)
        if own is not None:
            after = "own"
        elif repaired.fitted:
            after, matrix, keep = "fitted", repaired.fitted[0], fold == 0
        moved = _moved(data, keep, matrix, seed)
    two = (labels.counts == 2) & data.has_swapped
    combinations = len(np.unique(labels.combination[data.has_swapped]))
    return Diagnosis(
        model=base,
        data=data.name,
        scenes=labels.n,
        combinations=labels.combinations,
        verdict=judge(probes, repaired.binding.estimates[0], combinations, repair_sentences(repaired)),
        probes=probes,
        repair=repaired,
        after=after,
        **moved,
        confused={
            by: confusions(repaired.correct["base"], labels, by=by, keep=two)
            for by in ("attribute", "object")
            if two.any()
        },
        seed=seed,
        seconds=time.perf_counter() - began,
        notes=[*data.notes, *_notes(data, probes, after), *repaired.notes],
        weights_sha256=data.weights_sha256,
        versions=versions_of("torch", "open_clip_torch", "numpy"),
        date=date.today().isoformat(),
    )


def _probed(rows: torch.Tensor, data: SceneFeatures, folds: int, seed: int) -> Probed:
    """A side's probe, with its accuracy on half the scenes where it reads too little."""
    probed = probe(rows, data.labels, folds=folds, seed=seed)
    if state(probed) == "kept":
        return probed
    try:
        return replace(probed, half=probe(rows, data.labels, folds=folds, seed=seed, fraction=0.5).accuracy.value)
    except ValueError:  # half of so little has nothing to ask
        return probed


def _moved(data: SceneFeatures, keep: Mask, matrix: Alignment | None, seed: int) -> dict[str, Any]:
    """Fields of a `Diagnosis`: what a matrix does to the space, on the scenes kept."""
    images, captions, _ = data.rows(keep)
    permutations = {}
    kinds = (("swapped", data.swapped, data.has_swapped), ("shuffled", data.shuffled, data.has_shuffled))
    for name, texts, there in kinds:
        rows = torch.from_numpy(np.flatnonzero(keep & there))
        if len(rows):
            permutations[name] = permutation_similarity(data.captions[rows], texts[rows], matrix)
    return {
        "gap": modality_gap(images, captions, matrix, seed=seed) if len(images) >= 10 else {},
        "permutations": permutations,
        "spectrum": None if matrix is None else spectrum(matrix, captions),
    }


def _notes(data: SceneFeatures, probes: Mapping[str, Probed], after: str) -> list[str]:
    labels, notes = data.labels, []
    if missing := int((~data.has_swapped).sum()):
        notes.append(f"{missing:,} of {labels.n:,} scenes have no swapped caption; binding is measured on the others.")
    if left := probes["image"].left_out:
        notes.append(
            f"{left:,} of {len(labels.scene):,} objects were not asked about in the probes: their name is in the scene "
            f"twice, or never had two attributes to learn."
        )
    if after == "own":
        notes.append(
            "The model's own matrix may have been fitted on these combinations; the ones fitted here were not."
        )
    if after == "fitted":
        notes.append("Gap, permutations and spectrum after: the first fold's matrix, on scenes it was not fitted on.")
    return notes
