"""Fitting a matrix: `fit`, its result, splits that do not leak. Embeddings come from `labclip.features`."""

from labclip.training.fitting import FitResult, fit
from labclip.training.splits import Split, split_combinations

__all__ = ["FitResult", "Split", "fit", "split_combinations"]
