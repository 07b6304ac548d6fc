"""`diagnose`: where binding is lost in a model, what a matrix repairs, and at what cost."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labclip.alignment import Alignment
from labclip.analysis.probes import Probed, confusions, probe
from labclip.analysis.repair import preferred, repair
from labclip.analysis.report import Diagnosis, repair_sentences, search_sentences
from labclip.analysis.scenes import SceneFeatures, embed_scenes, folds_of
from labclip.analysis.space import modality_gap, permutation_similarity, spectrum
from labclip.analysis.verdict import UNLABELLED, judge, state
from labclip.checks import checked_integer
from labclip.data.items import CAPTIONS
from labclip.data.rows import separated_lines
from labclip.evaluation.evaluate import evaluate
from labclip.evaluation.report import Report
from labclip.evaluation.scene_files import LabelledScenes, labelled_scenes, read_labelled_scenes
from labclip.evaluation.sources import LENGTHS
from labclip.files import read_json
from labclip.model import LABCLIP
from labclip.packages import versions_of
from labclip.training.trainer import one_thread

SCENES = 5000
"""Embedded scenes drawn where no data is given: fractions are known to .014, and two cores take about a minute."""

EVALUATED = 1000
"""Scenes at most for parts and search: as many as `labclip.evaluate` draws, so that its figures are the same."""

_AFTER = {
    "": "",
    "own": "The model's own matrix may have been fitted on these combinations; the ones fitted here were not.",
    "fitted": "Gap, permutations and spectrum after: the first fold's matrix, on scenes it was not fitted on.",
}
_PARTS = "part_swap", "part_foil", "half_truth", "whole_truth", "search_map", "search_p5", "search_confused5"


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
    in two folds. Drawn scenes and files are also asked for their parts and searched, as `labclip.evaluate` does. A
    table of captions has no labels to probe: it gets `evaluate`'s benchmarks `parts` and `csv`.

    Args:
        model: Any OpenCLIP model, wrapped with the identity or with its matrix; or a name, as in `from_pretrained`.
        data: Labelled images: the path of CLEVR's, CLEVR2D's or PUG's files, or a value in memory; or the path of a
            table of images and captions; None draws scenes of the embedded model.
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
        ValueError: If the data is malformed, or has a single attribute or object, too few combinations for the folds,
            or no caption whose attributes can be swapped.

    Example:
        >>> from labclip import LABCLIP
        >>> found = diagnose(LABCLIP.from_pretrained("scenes"), scenes=120, fit=False, progress=False)
        >>> found.scenes, sorted(found.probes)
        (120, ['image', 'text'])
    """
    began = time.perf_counter()
    seed = checked_integer("seed", seed)
    if not isinstance(model, LABCLIP | str | Path):
        raise ValueError(
            f"The model is a {type(model).__name__}. Wrap it: LABCLIP(model, Alignment.identity(dim), tokenizer=...), "
            f"or load it by name with LABCLIP.from_pretrained."
        )
    if images is not None and not isinstance(data, str | Path):
        raise ValueError("images is the folder of the images of data=PATH. Pass that too, or leave both out.")
    path = Path(data).expanduser() if isinstance(data, str | Path) else None
    captions = path if path is not None and _is_captions(path) else None
    labelled = data if isinstance(data, LabelledScenes) else None
    if path is not None and captions is None:
        labelled = read_labelled_scenes(path, None if images is None else Path(images).expanduser())
    if not isinstance(model, LABCLIP):
        model = LABCLIP.from_pretrained(model)
    own = None if model.alignment.is_identity else Alignment(model.alignment.matrix.detach().cpu())
    base = str(model.alignment.base or "a base without a name")
    how: dict[str, Any] = {"cache": None if data is None else cache, "progress": progress}
    asked = how | {"alignments": {} if own is None else {"own": model.alignment}}
    if captions is not None:
        evaluated, notes = _captions(model, captions, seed, images=images, **asked)
        diagnosis = Diagnosis(
            base, captions.name, evaluated.results[0].images, UNLABELLED, seed, evaluated.date, evaluated=evaluated,
            notes=notes, spectrum=None if own is None else spectrum(own), weights_sha256=evaluated.weights_sha256,
            versions=evaluated.versions,
        )  # fmt: skip
    else:
        report = None
        if labelled is None:
            report = _parts(model, "scenes", options={"n": min(scenes, EVALUATED), "seed": seed}, **asked)
            labelled = labelled_scenes(scenes, seed=seed, split="all")
        elif labelled.kind:
            of_all = {"protocol": "labclip", "split": "all", "seed": seed}
            report = _parts(model, labelled.kind, data=path, images=images, options=of_all, **asked)
        features = embed_scenes(model, labelled, seed=seed, **how)
        diagnosis = diagnose_features(features, own, base=base, seed=seed, fit=fit, folds=folds, progress=progress)
        diagnosis = replace(diagnosis, evaluated=report)
    verdict = replace(diagnosis.verdict, reasons=[*diagnosis.verdict.reasons, *search_sentences(diagnosis.evaluated)])
    return replace(diagnosis, verdict=verdict, seconds=time.perf_counter() - began)


def _is_captions(path: Path) -> bool:
    """Whether a file is a table of captions, and not one of CLEVR or PUG."""
    ending = path.suffix.lower()
    if not path.is_file() or ending == ".json":
        return path.is_file() and "scenes" not in read_json(path)
    return ending != ".csv" or not set(CAPTIONS).isdisjoint(next(separated_lines(path), ("", []))[1])


def _parts(model: LABCLIP, name: str, **how: Any) -> Report:
    """Parts and search of a benchmark of scenes, from `labclip.evaluate`."""
    report = evaluate(model, name, **how)
    result = report[name]
    benchmark = replace(result.benchmark, title="Parts and search", headline=_PARTS)
    kept = [metric for metric in result.compared if metric.metric.startswith(_PARTS) and "heldout" not in metric.metric]
    return replace(report, results=[replace(result, benchmark=benchmark, compared=kept, notes=[LENGTHS])])


def _captions(model: LABCLIP, data: Path, seed: int, **how: Any) -> tuple[Report, list[str]]:
    """Parts, search, retrieval and negatives of own captions; and why there are no parts, as without a tagger."""
    try:
        both = {"parts": data, "csv": data}
        return evaluate(model, list(both), data=both, options={"parts": {"seed": seed}}, **how), []
    except ValueError as error:
        return evaluate(model, "csv", data=data, **how), [f"Parts and search were not measured: {error}"]


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
    labels, there, fold = data.labels, data.there["swapped"], folds_of(data.labels, folds, seed)
    with one_thread():
        sides = {"image": data.images, "text": data.texts["captions"]}
        probes = {side: _probed(rows, data, folds, seed) for side, rows in sides.items()}
        repaired = repair(data, fold, own, fitting=fit, seed=seed, progress=progress)
        after, matrix, keep = "", own, np.ones(labels.n, dtype=np.bool_)
        if own is not None:
            after = "own"
        elif repaired.fitted:
            after, matrix, keep = "fitted", repaired.fitted[0], fold == 0
        rows = torch.from_numpy(np.flatnonzero(keep))
        images, captions = data.images[rows], data.texts["captions"][rows]
        gap = modality_gap(images, captions, matrix, seed=seed) if len(rows) >= 10 else {}
        permutations = {}
        for kind, has in data.there.items():
            rows = torch.from_numpy(np.flatnonzero(keep & has))
            if len(rows):
                permuted = data.texts[kind][rows]
                permutations[kind] = permutation_similarity(data.texts["captions"][rows], permuted, matrix)
    two = (labels.counts == 2) & there
    by = ("attribute", "object") if two.any() else ()
    verdict = judge(probes, repaired.binding.estimates[0], len(np.unique(labels.combination[there])))
    return Diagnosis(
        model=base,
        data=data.name,
        scenes=labels.n,
        verdict=replace(verdict, repair=repair_sentences(repaired)),
        seed=seed,
        date=date.today().isoformat(),
        combinations=labels.combinations,
        probes=probes,
        repair=repaired,
        after=after,
        gap=gap,
        permutations=permutations,
        spectrum=None if matrix is None else spectrum(matrix, captions),
        confused={kind: confusions(preferred(data), labels, by=kind, keep=two) for kind in by},
        notes=[*data.notes, *_left_out(data, probes["image"]), *filter(None, [_AFTER[after]]), *repaired.notes],
        weights_sha256=data.weights_sha256,
        versions=versions_of("torch", "open_clip_torch", "numpy"),
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


def _left_out(data: SceneFeatures, probed: Probed) -> list[str]:
    labels, notes = data.labels, []
    if missing := int((~data.there["swapped"]).sum()):
        notes.append(f"{missing:,} of {labels.n:,} scenes have no swapped caption; binding is measured on the others.")
    if probed.left_out:
        notes.append(
            f"{probed.left_out:,} of {len(labels.scene):,} objects were not asked about in the probes: their name is "
            f"in the scene twice, or never had two attributes to learn."
        )
    return notes
