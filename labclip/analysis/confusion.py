"""Which attributes, and which objects, are confused: accuracy of binding by unordered pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from labclip.analysis.scenes import SceneLabels
from labclip.evaluation.scores import Estimate, ScoredItems, compare


def confusions(
    correct: Any, labels: SceneLabels, *, by: str = "attribute", keep: Any = None
) -> dict[tuple[str, str], Estimate]:
    """Accuracy of binding by pair, the most confused first.

    Of many pairs one in twenty lies outside its interval by chance: do not conclude from one alone.

    Args:
        correct: For each scene whether its own caption beat the one with the attributes swapped, bool [n].
        labels: Of the n scenes. Scenes of other than two objects are left out: which two were swapped is not known.
        by: "attribute" or "object".
        keep: Scenes to look at, bool [n]; by default all.

    Returns:
        For each two that occur together the fraction of scenes whose own caption won (chance .5, a tie is wrong), with
        its 95% interval; the lowest first, of equals the one of more scenes.

    Raises:
        ValueError: If lengths differ, or no scene has two objects that differ in what is asked `by`.

    Example:
        >>> from labclip.analysis import labels_of
        >>> labels = labels_of([(("red", "cube"), ("blue", "ball"))] * 4)
        >>> found = confusions([True, True, True, False], labels)
        >>> [(pair, one.value, one.n) for pair, one in found.items()]
        [(('blue', 'red'), 0.75, 4)]
    """
    right = np.asarray(correct)
    if right.dtype != np.bool_ or right.shape != (labels.n,):
        raise ValueError(
            f"correct is {right.dtype} {list(right.shape)}. Pass one truth value a scene, bool [{labels.n}]."
        )
    if by not in ("attribute", "object"):
        raise ValueError(f"by is {by!r}. Pass 'attribute' or 'object'.")
    two = ((labels.counts == 2) & (True if keep is None else keep))[labels.scene]
    index, names = (labels.attribute, labels.attributes) if by == "attribute" else (labels.object, labels.objects)
    pairs, scenes = np.sort(index[two].reshape(-1, 2), axis=1), labels.scene[two][::2]
    differ = pairs[:, 0] != pairs[:, 1]
    if not differ.any():
        raise ValueError(f"No scene has two objects of different {by}s, so none can be confused. Pass such scenes.")
    distinct, which = np.unique(pairs[differ], axis=0, return_inverse=True)
    of = {str(number): np.where(which.reshape(-1) == number, 0, -1) for number in range(len(distinct))}
    items = scenes[differ]
    measured = [one.estimates[0] for one in compare([ScoredItems(right[items], items, of, 0.5)])]
    pairs_of = [(names[one], names[other]) for one, other in distinct.tolist()]
    worst = sorted(zip(pairs_of, measured, strict=True), key=lambda pair: (pair[1].value, -pair[1].n, pair[0]))
    return dict(worst)
