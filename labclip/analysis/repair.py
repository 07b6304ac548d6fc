"""Gains and costs of a matrix on scenes of combinations unseen in its fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from labclip import metrics
from labclip.alignment import Alignment
from labclip.analysis.scenes import Index, Mask, SceneFeatures
from labclip.evaluation.scores import Compared, ScoredItems, compare, one_group
from labclip.features import Features
from labclip.training import fit, same_images, split_combinations

STEPS = 800
"""Steps of a fit. On 4,000 scenes of the embedded model five times as many bind no more (.869 for .874, two folds)."""
PENALTY = 1e-4
"""One of those that `labclip.fit` tries, without distillation. Strength is still chosen, and with it what it costs."""
INNER = 0.1
"""Fraction of the fitted combinations on which `labclip.fit` chooses the strength."""
UNSEEN_PAIRS = 0.15
"""Fraction of attribute-object pairs held out of captions and negatives: leaves half of two-object scenes to fit on."""
LEAST = 20
"""Combinations below which nothing is fitted: a fit could neither learn nor choose its strength."""


@dataclass(frozen=True)
class Repair:
    """Base, the model's own matrix if it has one, and matrices fitted here, on the same scenes.

    Attributes:
        models: Their names: "base", "own", "fitted".
        binding: Own caption against the swapped one, each scene by a matrix fitted on other combinations.
        retrieval: R@1 by captions and by tags, both ways, in galleries of one scene a combination.
        galleries: Scenes in the gallery of each fold.
        unseen_pairs: Binding of base and fitted matrix on scenes with an attribute-object pair that no caption and no
            negative of the fit named; None where nothing was fitted or too little is left.
        fitted: The matrix of each fold; empty where nothing was fitted.
        notes: What was left out, and why.
    """

    models: Sequence[str]
    binding: Compared
    retrieval: Sequence[Compared]
    galleries: Sequence[int]
    unseen_pairs: Compared | None
    fitted: Sequence[Alignment]
    notes: Sequence[str] = ()


def repair(
    data: SceneFeatures,
    fold: Index,
    own: Alignment | None,
    *,
    fitting: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> Repair:
    """Fit a matrix for each fold, int64 [n], on the others, and compare it with the base and with the model's own."""
    numbers, notes, fitted = range(int(fold.max()) + 1), list[str](), list[Alignment]()
    if fitting and (lacks := _lacks(data)):
        notes.append(f"No matrix was fitted: {lacks}.")
    elif fitting:
        fitted = [fit_on(data, fold != number, seed=seed, progress=progress) for number in numbers]
    models = {"base": data}
    if own is not None:
        models["own"] = _aligned(data, [own for _ in numbers], fold)
    if fitted:
        models["fitted"] = _aligned(data, fitted, fold)
    _, first = np.unique(data.labels.combination, return_index=True)
    galleries = [torch.from_numpy(first[fold[first] == number]) for number in numbers]
    return Repair(
        models=list(models),
        binding=_binding(list(models.values()), data.there["swapped"]),
        retrieval=_retrieval(list(models.values()), galleries),
        galleries=list(map(len, galleries)),
        unseen_pairs=_unseen_pairs(data, seed, notes, progress) if fitted else None,
        fitted=fitted,
        notes=notes,
    )


def preferred(data: SceneFeatures) -> Mask:
    """Whether each scene's own caption beats the swapped one, bool [n]; a tie is wrong, and so is a scene without."""
    own, swapped = data.texts["captions"], data.texts["swapped"]
    return metrics.preferred(data.images, own, swapped).numpy() & data.there["swapped"]


def _lacks(data: SceneFeatures) -> str:
    """Why no matrix can be fitted, in words; empty if one can."""
    there = data.there["swapped"]
    if len(np.unique(data.labels.combination[there])) < LEAST:
        return f"fewer than {LEAST} combinations have a caption with attributes swapped"
    if len(np.unique(same_images(data.images))) < LEAST:
        return f"fewer than {LEAST} images differ"
    if not bool(_features(data, there).has_negative.any()):
        return "the text encoder gives every caption and its swapped one the same embedding, so nothing can be learnt"
    return ""


def fit_on(data: SceneFeatures, keep: Mask, *, seed: int = 0, progress: bool = False) -> Alignment:
    """The matrix of `labclip.fit` on the scenes kept, bool [n], that have a swapped caption."""
    keep = keep & data.there["swapped"]
    combinations = np.unique(data.labels.combination[keep])
    order = np.random.default_rng([seed, 0xF17]).permutation(combinations)
    inner = np.isin(data.labels.combination, order[: max(2, round(INNER * len(order)))])
    fitted, held = keep & ~inner, keep & inner
    # No combination is on both sides, but an encoder may not tell the images or the captions of two apart.
    images = same_images(data.images).numpy()
    captions, swapped = same_images(torch.cat([data.texts["captions"], data.texts["swapped"]])).numpy().reshape(2, -1)
    held &= ~np.isin(images, images[fitted]) & ~np.isin(captions, swapped[fitted])
    train = _features(data, fitted)
    epochs = min(200, max(5, math.ceil(STEPS / max(1, len(train) // 256))))
    validation = _features(data, held) if held.any() else None
    return fit(
        train, validation=validation, epochs=epochs, seed=seed, progress=progress,
        negative_weight=1, distill=0, identity_penalty=PENALTY,
    ).alignment  # fmt: skip


def _features(data: SceneFeatures, keep: Mask) -> Features:
    rows = torch.from_numpy(np.flatnonzero(keep))
    captions, swapped = data.texts["captions"][rows], data.texts["swapped"][rows]
    return Features.from_arrays(images=data.images[rows], texts=captions, negatives=swapped)


def _aligned(data: SceneFeatures, matrices: Sequence[Alignment], fold: Index) -> SceneFeatures:
    """The scenes as a model sees them whose matrix is that of each scene's fold."""
    texts = {kind: features.clone() for kind, features in data.texts.items()}
    for number, alignment in enumerate(matrices):
        rows = torch.from_numpy(np.flatnonzero(fold == number))
        for features in texts.values():
            features[rows] = alignment(features[rows], normalize=True)
    return replace(data, texts=texts)


def _binding(models: Sequence[SceneFeatures], keep: Mask) -> Compared:
    groups, unit = {"binding": one_group(int(keep.sum()))}, models[0].labels.combination[keep]
    return compare([ScoredItems(preferred(data)[keep], unit, groups, 0.5) for data in models])[0]


def _retrieval(models: Sequence[SceneFeatures], galleries: Sequence[Tensor]) -> list[Compared]:
    """R@1 by captions and by tags, fold by fold, in galleries in which no two scenes hold the same words."""
    n = sum(map(len, galleries))
    compared = []
    for kind in ("captions", "tags"):
        by_model = []  # a model each: the ranks of text-to-image and of image-to-text retrieval, int64 [2, n]
        for data in models:
            texts = data.texts[kind]
            ranks = [metrics.ranks(data.images[rows], texts[rows], torch.arange(len(rows)))[:2] for rows in galleries]
            by_model.append(torch.cat([torch.stack(both) for both in ranks], dim=1).numpy())
        for side, direction in enumerate(("t2i", "i2t")):
            groups = {f"{kind}_{direction}_r1": one_group(n)}
            compared += compare([ScoredItems(ranks[side] == 0, np.arange(n), groups, None) for ranks in by_model])
    return compared


def _unseen_pairs(data: SceneFeatures, seed: int, notes: list[str], progress: bool) -> Compared | None:
    """Binding on scenes with a pair that the fit never named, neither in a caption nor in a negative."""
    labels = data.labels
    named: list[set[tuple[int, int]]] = [set() for _ in range(labels.n)]
    for scene, *pair in zip(
        *(index.tolist() for index in (labels.scene, labels.attribute, labels.object)), strict=True
    ):
        named[scene].add((pair[0], pair[1]))
    # Any swap within a scene makes some of these; which one does not matter if all are kept away.
    crossed = [{(a, o) for a, _ in pairs for _, o in pairs} for pairs in named]
    try:
        split = split_combinations(named, crossed, share=UNSEEN_PAIRS, seed=seed)
    except ValueError as error:
        notes.append(f"Unseen pairs were not tried: {error}")
        return None
    keep, held = (np.isin(np.arange(labels.n), rows) & data.there["swapped"] for rows in (split.fit, split.heldout))
    fewest = min(len(np.unique(labels.combination[side])) for side in (keep, held))
    if fewest < LEAST:
        notes.append(f"Unseen pairs were not tried: holding some out leaves {fewest} combinations on one side.")
        return None
    one_fold = np.zeros(labels.n, dtype=np.int64)
    return _binding([data, _aligned(data, [fit_on(data, keep, seed=seed, progress=progress)], one_fold)], held)
