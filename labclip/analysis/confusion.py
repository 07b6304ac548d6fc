"""Which attributes, and which objects, are confused: accuracy of binding by unordered pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from labclip.analysis.scenes import SceneLabels

_Z = 1.959964  # 95%


@dataclass(frozen=True)
class Pair:
    """Scenes of two attributes, or of two objects.

    Attributes:
        names: The two, in the order of the alphabet.
        accuracy: Of binding: share of the scenes whose own caption won; chance .5, a tie is wrong.
        low: Lower end of Wilson's 95% interval.
        high: Upper end.
        n: Scenes.
    """

    names: tuple[str, str]
    accuracy: float
    low: float
    high: float
    n: int


def confusions(correct: Any, labels: SceneLabels, *, by: str = "attribute", keep: Any = None) -> list[Pair]:
    """Accuracy of binding by pair, the most confused first.

    Of many pairs one in twenty lies outside its interval by chance: do not conclude from one alone.

    Args:
        correct: For each scene whether its own caption beat the one with the attributes swapped, bool [n].
        labels: Of the n scenes. Scenes of other than two objects are left out: which two were swapped is not known.
        by: "attribute" or "object".
        keep: Scenes to look at, bool [n]; by default all.

    Returns:
        A `Pair` for each two that occur together, lowest accuracy first; of equals the one of more scenes.

    Raises:
        ValueError: If lengths differ, or no scene has two objects that differ in what is asked `by`.

    Source: interval: Wilson, JASA 1927.

    Example:
        >>> from labclip.analysis import labels_of
        >>> labels = labels_of([(("red", "cube"), ("blue", "ball"))] * 4)
        >>> [(pair.names, pair.accuracy, pair.n) for pair in confusions([True, True, True, False], labels)]
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
    found, which = np.unique(pairs[differ], axis=0, return_inverse=True)
    hits = np.bincount(which.reshape(-1), weights=right[scenes[differ]])
    counts = np.bincount(which.reshape(-1))
    told = [
        Pair((names[one], names[other]), float(hit / n), *wilson(int(hit), int(n)), int(n))
        for (one, other), hit, n in zip(found.tolist(), hits, counts, strict=True)
    ]
    return sorted(told, key=lambda pair: (pair.accuracy, -pair.n, pair.names))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share: it stays inside 0 to 1 and is right also for few items."""
    share, spread = hits / n, _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * (share * (1 - share) / n + spread / (4 * n)) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
