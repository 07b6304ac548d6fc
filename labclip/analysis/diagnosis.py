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
from labclip.analysis.repair import own_caption_wins, repair
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
"""Number of scenes that are drawn without data: accuracies are known to .014, and two cores take about a minute."""

_EVALUATED = 1000  # at most, for parts and search: as many scenes as `labclip.evaluate` draws, for the same figures

_AFTER_NOTES = {
    "own": "The model's own matrix may have been fitted on these combinations; the ones fitted here were not.",
    "fitted": "Gap, permutations and spectrum after: the first fold's matrix, on scenes it was not fitted on.",
}
_PARTS = "part_swap", "part_foil", "half_truth", "whole_truth", "search_map", "search_p5", "search_confused5"


def diagnose(
    model: LABCLIP | str | Path, data: LabelledScenes | str | Path | None = None, *, images: str | Path | None = None,
    scenes: int = SCENES, fit: bool = True, folds: int = 3, cache: str | Path | bool | None = True, seed: int = 0,
    progress: bool = True,
) -> Diagnosis:  # fmt: skip
    """Find out where a model loses which attribute belongs to which object.

    Probes and fits are cross-validated by unordered combination: a scene and its version with swapped attributes are
    always in the same fold. Drawn scenes and labelled files are also evaluated on parts and search, as by
    `labclip.evaluate`. A table of captions has no labels for probes; it is evaluated on the benchmarks `parts` and
    `csv`.

    Args:
        model: Any OpenCLIP model, wrapped with the identity or with its matrix; or a name, as in `from_pretrained`.
        data: Labelled images: the path of files of CLEVR, CLEVR2D or PUG, or a `LabelledScenes`. Or the path of a table
            of images and captions. None draws scenes of the embedded model.
        images: Folder to which the image names in the file are relative; by default the folder of the file.
        scenes: Number of scenes to draw if `data` is None.
        fit: Whether to fit matrices, to measure how much a matrix can repair.
        folds: Folds of the cross-validation.
        cache: Folder in which embeddings of `data` are cached; True is the default folder, None or False caches
            nothing. Drawn scenes are never cached.
        seed: Seed of scenes, splits, fits and intervals.
        progress: Whether to show bars on stderr.

    Returns:
        The verdict and all measurements.

    Raises:
        FileNotFoundError: If the file or images are missing.
        ValueError: If the data is malformed; if it has only one attribute or one object, or fewer combinations than
            folds; or if no caption has attributes that can be swapped.

    Example:
        >>> from labclip import LABCLIP
        >>> diagnosis = diagnose(LABCLIP.from_pretrained("scenes"), scenes=120, fit=False, progress=False)
        >>> diagnosis.scenes, sorted(diagnosis.probes)
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
    captions = path if path is not None and _is_captions_table(path) else None
    labelled = data if isinstance(data, LabelledScenes) else None
    if path is not None and captions is None:
        labelled = read_labelled_scenes(path, images)
    if not isinstance(model, LABCLIP):
        model = LABCLIP.from_pretrained(model)
    own_matrix = None if model.alignment.is_identity else Alignment(model.alignment.matrix.detach().cpu())
    base = str(model.alignment.base or "a base without a name")
    encoding: dict[str, Any] = {"cache": None if data is None else cache, "progress": progress}
    evaluation = encoding | {"alignments": {} if own_matrix is None else {"own": model.alignment}}
    report: Report | None = None
    if captions is not None:
        report, notes = _evaluate_captions(model, captions, seed, images=images, **evaluation)
        diagnosis = Diagnosis(
            base, captions.name, report.results[0].images, UNLABELLED, seed, report.date, notes=notes,
            spectrum=None if own_matrix is None else spectrum(own_matrix), weights_sha256=report.weights_sha256,
            versions=report.versions,
        )  # fmt: skip
    else:
        if labelled is None:
            options: dict[str, Any] = {"n": min(scenes, _EVALUATED), "seed": seed}
            report = _evaluate_parts(model, "scenes", options=options, **evaluation)
            labelled = labelled_scenes(scenes, seed=seed, split="all")
        elif labelled.kind:
            options = {"protocol": "labclip", "split": "all", "seed": seed}
            report = _evaluate_parts(model, labelled.kind, data=path, images=images, options=options, **evaluation)
        features = embed_scenes(model, labelled, seed=seed, **encoding)
        diagnosis = diagnose_features(
            features, own_matrix, base=base, seed=seed, fit=fit, folds=folds, progress=progress
        )
    verdict = replace(diagnosis.verdict, reasons=[*diagnosis.verdict.reasons, *search_sentences(report)])
    return replace(diagnosis, verdict=verdict, evaluated=report, seconds=time.perf_counter() - began)


def _is_captions_table(path: Path) -> bool:
    """Whether a file is a table of captions, not a file of CLEVR or PUG."""
    ending = path.suffix.lower()
    if not path.is_file():
        return False
    if ending == ".json":
        return "scenes" not in read_json(path)
    return ending != ".csv" or not set(CAPTIONS).isdisjoint(next(separated_lines(path), ("", []))[1])


def _evaluate_parts(model: LABCLIP, name: str, **options: Any) -> Report:
    """The metrics of parts and search of a benchmark of scenes, from `labclip.evaluate`."""
    report = evaluate(model, name, **options)
    result = report[name]
    benchmark = replace(result.benchmark, title="Parts and search", headline=_PARTS)
    kept = [metric for metric in result.compared if metric.metric.startswith(_PARTS) and "heldout" not in metric.metric]
    return replace(report, results=[replace(result, benchmark=benchmark, compared=kept, notes=[LENGTHS])])


def _evaluate_captions(model: LABCLIP, data: Path, seed: int, **options: Any) -> tuple[Report, list[str]]:
    """The benchmarks `parts` and `csv` on a table of captions, and a note if parts can't be made (without a tagger)."""
    try:
        both = {"parts": data, "csv": data}
        return evaluate(model, list(both), data=both, options={"parts": {"seed": seed}}, **options), []
    except ValueError as error:
        return evaluate(model, "csv", data=data, **options), [f"Parts and search were not measured: {error}"]


def diagnose_features(
    data: SceneFeatures, own_matrix: Alignment | None = None, *, base: str = "embeddings", seed: int = 0,
    fit: bool = True, folds: int = 3, progress: bool = False,
) -> Diagnosis:  # fmt: skip
    """`diagnose` on embeddings from any source; `own_matrix` is the model's own, `base` names the model."""
    labels, has_swapped, fold = data.labels, data.present["swapped"], folds_of(data.labels, folds, seed)
    with one_thread():
        sides = {"image": data.images, "text": data.texts["captions"]}
        probes = {side: _probe_side(rows, data, folds, seed) for side, rows in sides.items()}
        repaired = repair(data, fold, own_matrix, fitting=fit, seed=seed, progress=progress)
        after, matrix, keep = "", own_matrix, np.ones(labels.n, dtype=np.bool_)
        if own_matrix is not None:
            after = "own"
        elif repaired.fitted:
            after, matrix, keep = "fitted", repaired.fitted[0], fold == 0
        rows = torch.from_numpy(np.flatnonzero(keep))
        images, captions = data.images[rows], data.texts["captions"][rows]
        gap = modality_gap(images, captions, matrix, seed=seed) if len(rows) >= 10 else {}
        permutations = {}
        for kind, present in data.present.items():
            rows = torch.from_numpy(np.flatnonzero(keep & present))
            if len(rows):
                permuted = data.texts[kind][rows]
                permutations[kind] = permutation_similarity(data.texts["captions"][rows], permuted, matrix)
    has_two = (labels.counts == 2) & has_swapped
    confusable = ("attribute", "object") if has_two.any() else ()
    verdict = judge(probes, repaired.binding.estimates[0], len(np.unique(labels.combination[has_swapped])))
    after_notes = [_AFTER_NOTES[after]] if after else []
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
        confused={by: confusions(own_caption_wins(data), labels, by=by, keep=has_two) for by in confusable},
        notes=[*data.notes, *_left_out_notes(data, probes["image"]), *after_notes, *repaired.notes],
        weights_sha256=data.weights_sha256,
        versions=versions_of("torch", "open_clip_torch", "numpy"),
    )


def _probe_side(rows: torch.Tensor, data: SceneFeatures, folds: int, seed: int) -> Probed:
    """The probe of one side; if it reads too little, also its accuracy when trained on half of the combinations."""
    probed = probe(rows, data.labels, folds=folds, seed=seed)
    if state(probed) == "kept":
        return probed
    try:
        return replace(probed, half=probe(rows, data.labels, folds=folds, seed=seed, fraction=0.5).accuracy.value)
    except ValueError:  # half of the combinations are too few to train a probe
        return probed


def _left_out_notes(data: SceneFeatures, probed: Probed) -> list[str]:
    labels, notes = data.labels, []
    if missing := int((~data.present["swapped"]).sum()):
        notes.append(f"{missing:,} of {labels.n:,} scenes have no swapped caption; binding is measured on the others.")
    if probed.left_out:
        notes.append(
            f"{probed.left_out:,} of {len(labels.scene):,} objects were left out of the probes: two objects of the "
            f"scene have their name, or the name never had two attributes to learn."
        )
    return notes
