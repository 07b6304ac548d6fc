"""Linear probes on one encoder's embeddings, and the most confused pairs of words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from labclip import metrics
from labclip.analysis.scenes import SceneLabels, features_of, folds_of
from labclip.evaluation.scores import Estimate, ScoredItems, compare


@dataclass(frozen=True)
class Probed:
    """The accuracy of a linear probe on scenes of combinations unseen in its training.

    Attributes:
        accuracy: Fraction of objects whose attribute is read right; its `chance` is 1 / number of attributes.
        bag_chance: Accuracy of the bag-of-words baseline, which knows a scene's attributes but not whose they are.
        by_object: The same for each object name.
        left_out: Objects not asked about: their name is in the scene twice, or never had two attributes.
        learnt: Scenes that an object's probe was trained on, the median over objects and folds.
        dim: Embedding dimension.
        half: Accuracy of the same probe trained on half of the combinations; None where that was not tried.
    """

    accuracy: Estimate
    bag_chance: float
    by_object: Mapping[str, Estimate]
    left_out: int
    learnt: int
    dim: int
    half: float | None = None

    def kept(self, accuracy: float | None = None) -> float:
        """Fraction of the binding that is read: 0 at the accuracy of the bag-of-words baseline, 1 at accuracy 1."""
        value = self.accuracy.value if accuracy is None else accuracy
        return (value - self.bag_chance) / (1 - self.bag_chance)


def probe(features: Any, labels: SceneLabels, *, folds: int = 3, seed: int = 0, fraction: float = 1.0) -> Probed:
    """Read each object's attribute from the embedding of its whole scene, cross-validated by combination.

    For each object name a logistic regression over the attributes, on the scenes that hold it once. A combination is in
    one fold, whichever attribute goes with which object, so that the probe cannot have memorised the answer.

    Args:
        features: Embeddings of one side, [n, dim], any scale.
        labels: Labels of the scenes, as for `folds_of`.
        folds: Folds of the cross-validation.
        seed: Seed of the split.
        fraction: Fraction of the combinations outside the fold that is learnt from; below 1 gives a learning curve.

    Returns:
        Accuracy with a 95% interval whose units are combinations; a tie between attributes is wrong.

    Raises:
        ValueError: If there are too few combinations, or nothing can be asked.

    Source: arXiv:2502.03566, section 4.

    Example:
        >>> import numpy as np
        >>> from labclip.analysis import labels_of
        >>> labels = labels_of([((a, "cube"), (b, "ball")) for a in "rgbw" for b in "rgbw" if a != b] * 4)
        >>> code = np.zeros((labels.n, 8), dtype=np.float32)
        >>> code[labels.scene, 4 * labels.object + labels.attribute] = 1  # who has what, written out
        >>> probe(code, labels).accuracy.value
        1.0
    """
    rows, answers = features_of(features, "Features", labels.n), torch.from_numpy(labels.attribute)
    fold = folds_of(labels, folds, seed)[labels.scene]
    learnt = np.random.default_rng([seed, 0x5A4E]).random(labels.combinations)[labels.combination] <= fraction
    cell = labels.scene * len(labels.objects) + labels.object
    alone = np.bincount(cell)[cell] == 1
    correct, asked = np.zeros((2, len(cell)), dtype=np.bool_)
    sizes = []
    for name in range(len(labels.objects)):
        mine = alone & (labels.object == name)
        for number in range(folds):
            train = np.flatnonzero(mine & (fold != number) & learnt[labels.scene])
            test = np.flatnonzero(mine & (fold == number))
            if len(test) and len(np.unique(labels.attribute[train])) > 1:
                asked[test] = True
                sizes.append(len(train))
                correct[test] = metrics.linear_probe(
                    rows[labels.scene[train]], answers[train], rows[labels.scene[test]], answers[test]
                )
    if not asked.any():
        raise ValueError(
            f"No probe can be trained on {labels.n} scenes: in every fold, each object has fewer than two attributes. "
            f"Pass more scenes, or fewer folds than {folds}."
        )
    groups = {"": np.zeros(int(asked.sum()), dtype=np.int64)}
    groups |= {name: np.where(labels.object[asked] == number, 0, -1) for number, name in enumerate(labels.objects)}
    scores = ScoredItems(correct[asked], labels.combination[labels.scene[asked]], groups, 1 / len(labels.attributes))
    whole, *parts = compare([scores])
    return Probed(
        accuracy=whole.estimates[0],
        bag_chance=float(labels.bag_chance()[asked].mean()),
        by_object={part.metric: part.estimates[0] for part in parts},
        left_out=int((~asked).sum()),
        learnt=int(np.median(sizes)),
        dim=rows.shape[1],
    )


def confusions(
    correct: Any, labels: SceneLabels, *, by: str = "attribute", keep: Any = None
) -> dict[tuple[str, str], Estimate]:
    """Accuracy of binding by pair, the most confused first.

    Args:
        correct: For each scene whether its own caption beat the one with the attributes swapped, bool [n].
        labels: Labels of the scenes. Those without two objects are left out: which were swapped is not known.
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
    if right.dtype != np.bool_ or right.shape != (labels.n,) or by not in ("attribute", "object"):
        raise ValueError(
            f"correct is {right.dtype} {list(right.shape)} and by is {by!r}. Pass bool [{labels.n}], a value a scene, "
            f"and by='attribute' or by='object'."
        )
    two = ((labels.counts == 2) & (True if keep is None else keep))[labels.scene]
    index, names = (labels.attribute, labels.attributes) if by == "attribute" else (labels.object, labels.objects)
    pairs, scenes = np.sort(index[two].reshape(-1, 2), axis=1), labels.scene[two][::2]
    differ = pairs[:, 0] != pairs[:, 1]
    if not differ.any():
        raise ValueError(f"No scene has two objects of different {by}s, so none can be confused. Pass such scenes.")
    pairs, scenes = pairs[differ], scenes[differ]
    groups = {
        f"{first} {second}": np.where((pairs == (first, second)).all(axis=1), 0, -1)
        for first, second in np.unique(pairs, axis=0).tolist()
    }
    estimates = {}
    for measured in compare([ScoredItems(right[scenes], scenes, groups, 0.5)]):
        first, second = map(int, measured.metric.split())
        estimates[names[first], names[second]] = measured.estimates[0]
    return dict(sorted(estimates.items(), key=lambda item: (item[1].value, -item[1].n, item[0])))
