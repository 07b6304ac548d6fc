"""Fitting a matrix: `fit`, its result, splits that do not leak, and full fine-tuning to compare with.

`fitting` combines the parts: `rows` reads features, `splits` holds some out, `batches` draws batches, `objective` has
the loss, `trainer` the loop; `frontier` and `change` measure gains and costs. Embeddings come from `labclip.features`.
"""

from labclip.training.finetuning import finetune
from labclip.training.fitting import fit
from labclip.training.objective import Objective
from labclip.training.result import FitResult
from labclip.training.rows import same_images
from labclip.training.splits import Split, find_combinations, split_combinations

__all__ = [
    "FitResult", "Objective", "Split", "find_combinations", "finetune", "fit", "same_images", "split_combinations",
]  # fmt: skip
