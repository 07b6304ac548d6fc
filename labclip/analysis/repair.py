"""What a matrix wins back and what it costs, on scenes whose combinations it never saw."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip import metrics
from labclip.alignment import Alignment
from labclip.analysis.embedded import Embedded
from labclip.analysis.labels import Index, Labels
from labclip.evaluation.scores import Compared, Scores, compare, everything
from labclip.features import Features
from labclip.training import LeakWarning, fit, same_images, split_combinations

STEPS = 800
"""Of a fit. On 4,000 scenes of the embedded model five times as many bind no more (.869 for .874, two folds)."""
PENALTY = 1e-4
"""The middle one of those that `labclip.fit` tries. There it binds as the three together do (.874 for .873), in a third
of the time; all three and five times the steps reach .877. Strength is still chosen, and with it what it costs."""
INNER = 0.1
"""Share of the fitted combinations on which `labclip.fit` chooses penalty, epoch and strength."""
NEW_PAIRS = 0.15
"""Share of the attribute-object pairs held out of captions and negatives: leaves half of two-thing scenes to fit on."""
LEAST = 20
"""Combinations below which nothing is fitted: a fit could neither learn nor choose its strength."""

Maps = Mapping[str, Sequence[Alignment | None]]
"""For each model its matrix in each fold; None is the base."""


@dataclass(frozen=True)
class Repair:
    """Base, the model's own matrix if it has one, and matrices fitted here, on the same scenes.

    Attributes:
        models: Their names: "base", "own", "fitted".
        binding: Own caption against the exchanged one, each scene by a matrix fitted on other combinations.
        retrieval: R@1 by captions and by tags, both ways, in galleries of one scene a combination.
        galleries: Scenes in the gallery of each fold.
        new_pairs: Binding on scenes with an attribute-object pair that no caption and no negative of the fit named;
            None where nothing was fitted or too little is left.
        correct: For each model whether each scene's own caption won, bool [n]; wrong where there is no other caption.
        fold: Of each scene, int64 [n].
        fitted: The matrix of each fold; empty where nothing was fitted.
        notes: What was left out, and why.
    """

    models: Sequence[str]
    binding: Compared
    retrieval: Sequence[Compared]
    galleries: Sequence[int]
    new_pairs: Compared | None
    correct: Mapping[str, NDArray[np.bool_]]
    fold: Index
    fitted: Sequence[Alignment]
    notes: Sequence[str] = field(default=())


def repair(
    data: Embedded,
    fold: Index,
    own: Alignment | None,
    *,
    fitting: bool = True,
    seed: int = 0,
    done: Callable[[str], object] = lambda step: None,
) -> Repair:
    """Fit a matrix for each fold on the others, and compare it with the base and with the model's own.

    Args:
        data: The embeddings.
        fold: Of each scene, int64 [n], a combination never in two.
        own: The model's own matrix; None if it has none.
        fitting: Whether to fit at all.
        seed: Of fits, split of pairs, and intervals.
        done: Told what comes next.
    """
    notes: list[str] = []
    fitted: list[Alignment] = []
    missing = _missing(data)
    if fitting and missing:
        notes.append(f"No matrix was fitted: {missing}.")
    elif fitting:
        for number in range(int(fold.max()) + 1):
            done(f"fitting a matrix, fold {number + 1}")
            fitted.append(fit_on(data, (fold != number), seed=seed))
    count = int(fold.max()) + 1
    maps: dict[str, Sequence[Alignment | None]] = {"base": [None] * count}
    maps |= {"own": [own] * count} if own is not None else {}
    maps |= {"fitted": fitted} if fitted else {}
    correct = {name: _bound(data, fold, by_fold) for name, by_fold in maps.items()}
    done("retrieval")
    retrieval, galleries = _retrieval(data, fold, maps, seed)
    new_pairs = None
    if fitted:
        done("fitting a matrix, new pairs")
        new_pairs = _new_pairs(data, seed, notes)
    return Repair(
        models=list(maps),
        binding=_compared("binding", data.labels, data.exchanged, list(correct.values()), seed),
        retrieval=retrieval,
        galleries=galleries,
        new_pairs=new_pairs,
        correct=correct,
        fold=fold,
        fitted=fitted,
        notes=notes,
    )


def _missing(data: Embedded) -> str:
    """What a fit lacks, in words; empty if nothing."""
    if len(np.unique(data.labels.combination[data.exchanged])) < LEAST:
        return f"fewer than {LEAST} combinations have a caption with attributes exchanged"
    if len(np.unique(same_images(data.images))) < LEAST:
        return f"fewer than {LEAST} images differ"
    if not bool(_features(data, data.exchanged).has_negative.any()):
        return "the text encoder gives every caption and its exchanged twin one embedding, so there is nothing to learn"
    return ""


def fit_on(data: Embedded, keep: NDArray[np.bool_], *, seed: int = 0) -> Alignment:
    """The matrix of `labclip.fit` on some scenes, chosen on a tenth of their combinations.

    Args:
        data: The embeddings.
        keep: Scenes to fit on, bool [n]; those without an exchanged caption are left out.
        seed: Of the fit.
    """
    keep = keep & data.exchanged
    combinations = np.unique(data.labels.combination[keep])
    order = np.random.default_rng([seed, 0xF17]).permutation(combinations)
    inner = np.isin(data.labels.combination, order[: max(2, round(INNER * len(order)))])
    same = same_images(data.images).numpy()
    train = _features(data, keep & ~inner)
    held = _features(data, keep & inner & ~np.isin(same, same[keep & ~inner]))
    batches = max(1, len(train) // 256)
    epochs = min(200, max(5, math.ceil(STEPS / batches)))
    with warnings.catch_warnings():
        # The split shares no combination; captions that an encoder can't tell apart look as if it did.
        warnings.simplefilter("ignore", LeakWarning)
        result = fit(train, validation=held, epochs=epochs, identity_penalty=PENALTY, seed=seed, progress=False)
    return result.alignment


def _features(data: Embedded, keep: NDArray[np.bool_]) -> Features:
    """What a fit takes of some scenes."""
    images, captions, swapped = data.rows(keep)
    return Features.from_arrays(images=images, texts=captions, negatives=swapped)


def moved(texts: Tensor, alignment: Alignment | None) -> Tensor:
    """Text embeddings as a model has them: the base's own, or after a matrix."""
    return texts if alignment is None else alignment(texts, normalize=True)


def _bound(data: Embedded, fold: Index, by_fold: Sequence[Alignment | None]) -> NDArray[np.bool_]:
    """Whether each scene's own caption beats the exchanged one, bool [n]; strictly, so that a tie is wrong."""
    right = np.zeros(data.labels.n, dtype=np.bool_)
    for number, alignment in enumerate(by_fold):
        keep = fold == number
        images, captions, swapped = data.rows(keep)
        right[keep] = metrics.preferred(images, moved(captions, alignment), moved(swapped, alignment)).numpy()
    return right & data.exchanged


def _compared(
    metric: str, labels: Labels, keep: NDArray[np.bool_], correct: Sequence[NDArray[np.bool_]], seed: int
) -> Compared:
    """Models on the scenes kept, resampled by combination."""
    groups = {metric: everything(int(keep.sum()))}
    return compare([Scores(right[keep], labels.combination[keep], groups, 0.5) for right in correct], seed=seed)[0]


def _retrieval(data: Embedded, fold: Index, maps: Maps, seed: int) -> tuple[list[Compared], list[int]]:
    """R@1 by captions and by tags, fold by fold, in galleries in which no two scenes hold the same words."""
    _, first = np.unique(data.labels.combination, return_index=True)
    galleries = [torch.from_numpy(first[fold[first] == number]) for number in range(int(fold.max()) + 1)]
    sizes = [len(rows) for rows in galleries]
    found = []
    for kind, texts in (("captions", data.captions), ("tags", data.tags)):
        hits: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in maps}
        for name, by_fold in maps.items():
            for rows, alignment in zip(galleries, by_fold, strict=True):
                ranks = metrics.ranks(data.images[rows], moved(texts[rows], alignment), torch.arange(len(rows)))
                hits[name].append(np.stack([(rank == 0).numpy() for rank in ranks]))
        for side, direction in enumerate(("t2i", "i2t")):
            metric, n = f"{kind}_{direction}_r1", sum(sizes)
            found += compare(
                [
                    Scores(np.concatenate([part[side] for part in parts]), np.arange(n), {metric: everything(n)}, None)
                    for parts in hits.values()
                ],
                seed=seed,
            )
    return found, sizes


def _new_pairs(data: Embedded, seed: int, notes: list[str]) -> Compared | None:
    """Binding on scenes with a pair that the fit never named, neither in a caption nor in a negative."""
    labels = data.labels
    named: list[set[tuple[int, int]]] = [set() for _ in range(labels.n)]
    for scene, attribute, name in zip(
        *(x.tolist() for x in (labels.scene, labels.attribute, labels.object)), strict=True
    ):
        named[scene].add((attribute, name))
    # Any exchange within a scene makes some of these; which one does not matter if all are kept away.
    crossed = [{(a, o) for a, _ in pairs for _, o in pairs} for pairs in named]
    try:
        split = split_combinations(named, crossed, share=NEW_PAIRS, seed=seed)
    except ValueError as error:
        notes.append(f"New pairs were not tried: {error}")
        return None
    keep, held = (np.isin(np.arange(labels.n), rows) & data.exchanged for rows in (split.fit, split.heldout))
    fewest = min(len(np.unique(labels.combination[side])) for side in (keep, held))
    if fewest < LEAST:
        notes.append(f"New pairs were not tried: holding some out leaves {fewest} combinations on one side.")
        return None
    fitted = fit_on(data, keep, seed=seed)
    one = np.zeros(labels.n, dtype=np.int64)
    return _compared("new_pairs", labels, held, [_bound(data, one, [None]), _bound(data, one, [fitted])], seed)
