"""What stands below a verdict: gap, permutations, spectrum, confusions, objects and concepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from labclip.alignment import Alignment
from labclip.analysis.concepts import Complexity, Decomposition, complexity, decompose
from labclip.analysis.confusion import Pair, confusions
from labclip.analysis.embedded import Embedded
from labclip.analysis.gap import Gap, modality_gap
from labclip.analysis.permutations import Distribution, permutation_similarity
from labclip.analysis.repair import Repair
from labclip.analysis.spectrum import Spectrum, spectrum

FRACTIONS = (0.3, 0.5, 0.7)
"""Of the objects that the complexity is learnt from in a diagnosis; `complexity` alone takes .1 to .9."""
_OBJECTS = 8


@dataclass(frozen=True, eq=False)
class Details:
    """Measures that explain a verdict and decide nothing in it.

    Attributes:
        after: Which matrix "after" is about: "own", "fitted" (the first fold's, on scenes it was not fitted on) or "".
        gap: Modality gap "before", and "after" where there is a matrix; empty for too few scenes.
        permutations: For "exchanged" and "shuffled" the caption similarity before and after.
        spectrum: Of that matrix; None where there is none.
        confused: For "attribute" and "object" the pairs by the base's accuracy, worst first; empty where no scene
            of two things tells.
        decomposition: Scenes as sums of objects, "image" and "text".
        complexity: Objects as functions of concepts, "image" and "text"; empty with fewer than 8 objects.
    """

    after: str
    gap: Mapping[str, Gap]
    permutations: Mapping[str, Mapping[str, Distribution]]
    spectrum: Spectrum | None
    confused: Mapping[str, Sequence[Pair]]
    decomposition: Mapping[str, Decomposition]
    complexity: Mapping[str, Sequence[Complexity]]


def look(data: Embedded, own: Alignment | None, mended: Repair, *, seed: int, done: Callable[[str], object]) -> Details:
    """Measure the details.

    Args:
        data: The embeddings.
        own: The model's own matrix; None if it has none.
        mended: What was fitted.
        seed: Of splits and draws.
        done: Told what comes next.
    """
    done("gap, permutations, spectrum")
    after, matrix, keep = "", None, np.ones(data.labels.n, dtype=np.bool_)
    if own is not None:
        after, matrix = "own", own
    elif mended.fitted:
        after, matrix, keep = "fitted", mended.fitted[0], mended.fold == 0
    images, captions, _ = data.rows(keep)
    gap = modality_gap(images, captions, matrix, seed=seed) if len(images) >= 10 else {}
    permutations = _permutations(data, keep, matrix)
    found = None if matrix is None else spectrum(matrix, captions)
    done("objects and concepts")
    sides = {"image": data.images, "text": data.captions}
    folds = int(mended.fold.max()) + 1
    return Details(
        after=after,
        gap=gap,
        permutations=permutations,
        spectrum=found,
        confused=_confused(data, mended),
        decomposition={name: decompose(rows, data.labels, folds=folds, seed=seed) for name, rows in sides.items()},
        complexity=_complexity(sides, data, seed),
    )


def _permutations(
    data: Embedded, keep: NDArray[np.bool_], matrix: Alignment | None
) -> dict[str, Mapping[str, Distribution]]:
    kinds = (("exchanged", data.swapped, data.exchanged), ("shuffled", data.shuffled, data.reordered))
    found: dict[str, Mapping[str, Distribution]] = {}
    for name, texts, there in kinds:
        rows = torch.from_numpy(np.flatnonzero(keep & there))
        if len(rows):
            found[name] = permutation_similarity(data.captions[rows], texts[rows], matrix)
    return found


def _confused(data: Embedded, mended: Repair) -> dict[str, list[Pair]]:
    """By the base, where scenes of two things tell."""
    keep = (data.labels.counts == 2) & data.exchanged
    if not keep.any():
        return {}
    return {by: confusions(mended.correct["base"], data.labels, by=by, keep=keep) for by in ("attribute", "object")}


def _complexity(sides: Mapping[str, torch.Tensor], data: Embedded, seed: int) -> dict[str, list[Complexity]]:
    present = len(np.unique(data.labels.attribute * len(data.labels.objects) + data.labels.object))
    if present < _OBJECTS:
        return {}
    return {
        name: complexity(rows, data.labels, fractions=FRACTIONS, draws=1, seed=seed) for name, rows in sides.items()
    }
