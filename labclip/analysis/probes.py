"""Linear probes on the embeddings of one encoder, and accuracy by pair of words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from labclip import metrics
from labclip.analysis.scenes import SceneLabels, features_of, folds_of
from labclip.evaluation.scores import Estimate, ScoredItems, compare, one_group


@dataclass(frozen=True)
class Probed:
    """The accuracy of a linear probe on scenes of combinations unseen in its training.

    Attributes:
        accuracy: Fraction of objects whose attribute is read right; its `chance` is 1 / number of attributes.
        bag_chance: Accuracy of the bag-of-words baseline, which guesses among the attributes of the scene.
        by_object: Accuracy for each object name.
        left_out: Number of objects without a probe: their scene has two objects of this name, or the name never had two
            attributes.
        learnt: Number of scenes on which an object's probe was trained, the median over objects and folds.
        dim: Embedding dimension.
        half: Accuracy of the same probe trained on half of the combinations; None if not measured.
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
    """Measure whether a linear classifier reads each object's attribute from the embedding of its whole scene.

    For each object name, a logistic regression predicts the attribute on scenes with one object of this name. It is
    cross-validated: scenes with the same attributes and objects are in one fold, whichever attribute an object has. So
    the probe can't have learned the scene by heart.

    Args:
        features: Embeddings of one side, [n, dim], any scale.
        labels: Labels of the scenes, as for `folds_of`.
        folds: Folds of the cross-validation.
        seed: Seed of the split.
        fraction: Fraction of the combinations outside the fold to train on; values below 1 give a learning curve.

    Returns:
        Accuracy with a 95% interval over combinations; a tie between attributes is wrong.

    Raises:
        ValueError: If there are too few combinations, or no probe can be trained.

    Source: arXiv:2502.03566, section 4.

    Example:
        >>> import numpy as np
        >>> from labclip.analysis import labels_of
        >>> labels = labels_of([((a, "cube"), (b, "ball")) for a in "rgbw" for b in "rgbw" if a != b] * 4)
        >>> code = np.zeros((labels.n, 8), dtype=np.float32)
        >>> code[labels.scene, 4 * labels.object + labels.attribute] = 1  # a dimension for each pair
        >>> probe(code, labels).accuracy.value
        1.0
    """
    rows, attribute = features_of(features, "Features", labels.n), torch.from_numpy(labels.attribute)
    fold, combination = folds_of(labels, folds, seed)[labels.scene], labels.combination[labels.scene]
    sampled = np.random.default_rng([seed, 0x5A4E]).random(labels.combinations)[combination] <= fraction
    cell = labels.scene * len(labels.objects) + labels.object
    is_unique = np.bincount(cell)[cell] == 1
    correct, is_tested = np.zeros((2, len(cell)), dtype=np.bool_)
    sizes = []
    for index in range(len(labels.objects)):
        has_name = is_unique & (labels.object == index)
        for number in range(folds):
            train = np.flatnonzero(has_name & (fold != number) & sampled)
            test = np.flatnonzero(has_name & (fold == number))
            if len(test) and len(np.unique(labels.attribute[train])) > 1:
                is_tested[test] = True
                sizes.append(len(train))
                correct[test] = metrics.linear_probe(
                    rows[labels.scene[train]], attribute[train], rows[labels.scene[test]], attribute[test]
                )
    if not is_tested.any():
        raise ValueError(
            f"No probe can be trained on {labels.n} scenes: in every fold, each object has fewer than two attributes. "
            f"Pass more scenes, or fewer folds than {folds}."
        )
    names, unit = labels.object[is_tested], combination[is_tested]
    groups = {"": one_group(len(names))}
    groups |= {name: np.where(names == index, 0, -1) for index, name in enumerate(labels.objects)}
    overall, *by_object = compare([ScoredItems(correct[is_tested], unit, groups, 1 / len(labels.attributes))])
    return Probed(
        accuracy=overall.estimates[0],
        bag_chance=float(labels.bag_chance()[is_tested].mean()),
        by_object={compared.metric: compared.estimates[0] for compared in by_object},
        left_out=int((~is_tested).sum()),
        learnt=int(np.median(sizes)),
        dim=rows.shape[1],
    )


def confusions(
    correct: Any, labels: SceneLabels, *, by: str = "attribute", keep: Any = None
) -> dict[tuple[str, str], Estimate]:
    """Measure the accuracy of binding for each pair of attributes or objects, the most confused pair first.

    Args:
        correct: For each scene whether its own caption beat the caption with swapped attributes, bool [n].
        labels: Labels of the scenes. Only scenes with two objects are used, as it is known there which were swapped.
        by: "attribute" or "object".
        keep: Scenes to use, bool [n]; by default all.

    Returns:
        For each pair in one scene, the fraction of such scenes whose own caption won (chance .5, a tie is wrong), with
        a 95% interval. They are sorted by accuracy, then by number of scenes, the largest number first.

    Raises:
        ValueError: If lengths differ, or if no scene has two different attributes (or objects).

    Example:
        >>> from labclip.analysis import labels_of
        >>> labels = labels_of([(("red", "cube"), ("blue", "ball"))] * 4)
        >>> accuracy = confusions([True, True, True, False], labels)
        >>> [(pair, estimate.value, estimate.n) for pair, estimate in accuracy.items()]
        [(('blue', 'red'), 0.75, 4)]
    """
    correct = np.asarray(correct)
    if correct.dtype != np.bool_ or correct.shape != (labels.n,) or by not in ("attribute", "object"):
        raise ValueError(
            f"correct is {correct.dtype} {list(correct.shape)} and by is {by!r}. Pass bool [{labels.n}], a value for "
            f"each scene, and by='attribute' or by='object'."
        )
    has_two = ((labels.counts == 2) & (True if keep is None else keep))[labels.scene]
    index, names = (labels.attribute, labels.attributes) if by == "attribute" else (labels.object, labels.objects)
    pairs, scenes = np.sort(index[has_two].reshape(-1, 2), axis=1), labels.scene[has_two][::2]
    differ = pairs[:, 0] != pairs[:, 1]
    if not differ.any():
        raise ValueError(f"No scene has two objects with different {by}s, so none can be confused. Pass such scenes.")
    pairs, scenes = pairs[differ], scenes[differ]
    distinct = np.unique(pairs, axis=0)
    groups = {str(pair): np.where((pairs == pair).all(axis=1), 0, -1) for pair in distinct}
    compared = compare([ScoredItems(correct[scenes], scenes, groups, 0.5)])  # in the order of the groups
    words = [(names[first], names[second]) for first, second in distinct]
    accuracies = zip(words, [metric.estimates[0] for metric in compared], strict=True)
    return dict(sorted(accuracies, key=lambda item: (item[1].value, -item[1].n, item[0])))
