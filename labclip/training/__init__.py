"""Fitting a matrix: `fit`, its result, splits that do not leak, and full fine-tuning to compare with.

Embeddings come from `labclip.features`.
"""

from labclip.training.duplicates import same_images
from labclip.training.finetuning import finetune
from labclip.training.fitting import fit
from labclip.training.objective import Objective
from labclip.training.result import FitResult
from labclip.training.splits import LeakWarning, Split, split_combinations

__all__ = ["FitResult", "LeakWarning", "Objective", "Split", "finetune", "fit", "same_images", "split_combinations"]
