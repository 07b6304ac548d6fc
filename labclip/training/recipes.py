"""The settings of a fit and the named recipes. docs/recipe.md compares each choice with its alternatives."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from labclip.checks import checked_integer, checked_number, suggestion
from labclip.training.objective import Weights

_RANGES = {
    "learning_rate": (1e-12, 1e3),
    "logit_scale": (1e-3, 1e4),
    "negative_weight": (1e-6, 1e6),
    "distill": (0, 1e6),
    "identity_penalty": (0, 1e6),
}
_MINIMA = {"epochs": 1, "batch_size": 2, "hard_negatives": 0, "rank": 1}
_WEIGHTS = {"negative_weight": "negatives", "distill": "distill", "identity_penalty": "identity"}


CHANGES = (*_RANGES, *_MINIMA)
"""Settings of a recipe that the user can change."""


@dataclass(frozen=True)
class Settings:
    """How a matrix is fitted: by the published procedure to the letter, or by labclip's.

    In the published one the learning rate is constant, the matrix has full rank and strength 1, an absent negative is
    replaced by the caption itself, all texts of other rows count as wrong, and nothing is held out. In labclip's the
    learning rate falls along a cosine to a hundredth, absent negatives and texts that are true of the image are masked,
    and the strength is selected on a tenth of the images. The matrix is then scaled so that unit-length text keeps unit
    length on average, because strength and ||A - I|| depend on the scale.
    """

    epochs: int = 0  # passes over the captions; 0 chooses as many as give about 1,000 steps, from 5 to 200
    batch_size: int = 0  # captions per step, over all ranks; 0: a power of two near a sixteenth of all, 64 to 256
    learning_rate: float = 1e-2  # Adam's at the first step
    logit_scale: float | None = 50.0  # factor of the cosines; None learns it. If high, the matrix changes little
    hard_negatives: int = 1  # per caption and step, drawn again in each epoch; 0 gives a standard batch
    candidates: tuple[Weights, ...] = (  # each is fitted, and validation selects one
        # The first binds best if the base's softmax is wrong about binding only. The second is for bases with more
        # errors, which distillation would preserve.
        Weights(negatives=12.0, distill=1.0, grounded=True, mean_image=0.2),
        Weights(identity=3e-4, grounded=True, mean_image=0.2),
    )
    rank: int | None = None  # of A - I; None chooses a quarter of the dim, as a low rank costs other domains less
    published: bool = False


_PAPER = Settings(
    epochs=10, batch_size=1024, learning_rate=1e-3, logit_scale=None, candidates=(Weights(),), published=True
)  # fmt: skip
_CLEVR = replace(_PAPER, epochs=50, batch_size=128, learning_rate=1e-2)
_PUG = replace(_PAPER, epochs=50, batch_size=512, learning_rate=1e-2)

RECIPES = {
    "labclip": Settings(),
    "paper": _PAPER,
    "paper-sb": replace(_PAPER, hard_negatives=0),
    "paper-clevr": _CLEVR,
    "paper-clevr-sb": replace(_CLEVR, hard_negatives=0),
    "paper-pug": _PUG,
    "paper-pug-sb": replace(_PUG, hard_negatives=0),
}
"""Settings by name. `paper` is the published procedure on COCO with hard-negative batches (HNB). `-clevr` and `-pug`
are its settings for synthetic data, `-sb` its standard batches without negatives. Source: arXiv:2502.03566."""


def settings_of(recipe: str, **changes: Any) -> Settings:
    """The settings of a recipe, with `changes` applied. A changed weight applies to all candidates; None is ignored."""
    if recipe not in RECIPES:
        raise ValueError(
            f"There is no recipe {recipe!r}.{suggestion(str(recipe), RECIPES)} The recipes are {', '.join(RECIPES)}."
        )
    values = {name: value for name, value in changes.items() if value is not None}
    for name, value in values.items():
        if name in _MINIMA:
            values[name] = checked_integer(name, value, least=_MINIMA[name])
        else:
            lowest, highest = _RANGES[name]
            values[name] = checked_number(name, value)
            if not lowest <= values[name] <= highest:
                raise ValueError(f"{name} is {value!r}. Pass a number from {lowest:g} to {highest:g}.")
    weights = {field: values.pop(name) for name, field in _WEIGHTS.items() if name in values}
    settings = replace(RECIPES[recipe], **values)
    candidates = dict.fromkeys(replace(candidate, **weights) for candidate in settings.candidates)  # no duplicates
    return replace(settings, candidates=tuple(candidates))


def complete_settings(settings: Settings, *, dim: int, captions: int) -> Settings:
    """Fill in the settings that depend on the data: the rank, the batch size and the number of epochs."""
    rank = settings.rank
    if rank is None and not settings.published:
        rank = max(1, round(dim / 4))
    if rank is not None and rank > dim:
        raise ValueError(f"rank is {rank}, more than the embeddings' dim {dim}.")
    batch_size = settings.batch_size or min(max(2 ** round(math.log2(max(captions, 1) / 16)), 64), 256)
    epochs = settings.epochs or min(max(math.ceil(1000 / max(1, captions // batch_size)), 5), 200)
    return replace(settings, rank=rank, epochs=epochs, batch_size=batch_size)
