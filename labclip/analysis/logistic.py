"""One logistic regression on standardised features, for probes and for the modality gap."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from labclip.analysis.inputs import Features
from labclip.packages import EVAL, require

_ITERATIONS = 1000


def scores_of(
    learnt: Features, answers: NDArray[np.int64], asked: Features, *, strength: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Learn classes from some features, and score others.

    Args:
        learnt: float32 [n, dim].
        answers: Their classes, at least two different ones, int64 [n].
        asked: float32 [m, dim].
        strength: scikit-learn's C, for features of mean 0 and deviation 1.

    Returns:
        The classes, ascending, int64 [classes], and a score for each, float64 [m, classes].

    Raises:
        MissingPackageError: If scikit-learn is missing.
    """
    linear = require("sklearn.linear_model", "Linear probes need scikit-learn", EVAL)
    mean, std = learnt.mean(axis=0), learnt.std(axis=0) + 1e-6
    model = linear.LogisticRegression(C=strength, max_iter=_ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():
        # Stopped early it reads less, never more; and few scenes of many attributes are no regression.
        warnings.simplefilter("ignore", UserWarning)
        model.fit((learnt - mean) / std, answers)
    scores = model.decision_function((asked - mean) / std)
    if scores.ndim == 1:  # of two classes it scores the second
        scores = np.stack([-scores, scores], axis=1)
    return model.classes_, scores
