"""How a matrix is fitted: the settings and the named recipes; docs/recipe.md has what each was compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from labclip.checks import checked_integer, checked_number, suggestion
from labclip.training.objective import Weights

_LIMITS = {
    "learning_rate": (1e-12, 1e3),
    "logit_scale": (1e-3, 1e4),
    "negative_weight": (1e-6, 1e6),
    "distill": (0, 1e6),
    "identity_penalty": (0, 1e6),
}
_LEAST = {"epochs": 1, "batch_size": 2, "hard_negatives": 0, "rank": 1}
_WEIGHTS = {"negative_weight": "negatives", "distill": "distill", "identity_penalty": "identity"}
_STEPS = 1000

CHANGES = (*_LIMITS, *_LEAST)
"""What may be changed of a recipe's settings."""


@dataclass(frozen=True)
class Settings:
    """How a matrix is fitted.

    Attributes:
        epochs: Passes over the captions; 0 is as many as make some 1,000 steps, from 5 to 200.
        batch_size: Captions a step, over all ranks; 0 is a power of two near a sixteenth of the captions, from 64 to
            256. A last, smaller batch of an epoch is left out, as every epoch draws another order.
        learning_rate: Of Adam, at the start.
        logit_scale: Times the cosines in the loss; None learns it, from 1. Held high, only captions that are nearly
            mistaken pull at the matrix, so the change stays small.
        hard_negatives: Negatives a caption a step, drawn again each epoch among those it has; 0 is a standard batch.
        candidates: Weights of the parts of the loss. Of several, each is fitted, and validation selects one.
        rank: Rank of A - I; None is a quarter of the dim, as low rank costs other domains less.
        published: Whether it is the published procedure to the letter. Then the step is constant, the matrix of full
            rank, and its strength 1; an absent negative stands as the caption itself, every text of another row counts
            as wrong; nothing is held out. Else the step falls along a cosine to a hundredth; a text counts only where
            it is there and not true of the image; the strength is selected on a tenth of the images; and the matrix is
            scaled so that unit-length text keeps unit length on average, as strength and ||A - I|| see the scale.
    """

    epochs: int = 0
    batch_size: int = 0
    learning_rate: float = 1e-2
    logit_scale: float | None = 50.0
    hard_negatives: int = 1
    candidates: tuple[Weights, ...] = (
        # Binds most where the base's softmax is right but for binding.
        Weights(negatives=12.0, distill=1.0, grounded=True, mean_image=0.2),
        Weights(identity=3e-4, grounded=True, mean_image=0.2),  # where it is wrong, and distillation hinders
    )
    rank: int | None = None
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
"""Settings by name. `paper` is the published procedure on COCO, with its hard-negative batches (HNB); `-clevr` and
`-pug` are its synthetic settings, `-sb` its standard batches without negatives. Source: arXiv:2502.03566."""


def settings_of(recipe: str, **changes: Any) -> Settings:
    """The settings of a recipe with some of them changed, a weight in all candidates; None changes nothing."""
    if recipe not in RECIPES:
        raise ValueError(
            f"There is no recipe {recipe!r}.{suggestion(str(recipe), RECIPES)} The recipes: {', '.join(RECIPES)}."
        )
    given = {name: value for name, value in changes.items() if value is not None}
    for name, value in given.items():
        if name in _LEAST:
            given[name] = checked_integer(name, value, least=_LEAST[name])
        else:
            lowest, highest = _LIMITS[name]
            given[name] = checked_number(name, value)
            if not lowest <= given[name] <= highest:
                raise ValueError(f"{name} is {value!r}. Pass a number from {lowest:g} to {highest:g}.")
    weights = {field: given.pop(name) for name, field in _WEIGHTS.items() if name in given}
    settings = replace(RECIPES[recipe], **given)
    candidates = dict.fromkeys(replace(candidate, **weights) for candidate in settings.candidates)  # each once
    return replace(settings, candidates=tuple(candidates))


def for_data(settings: Settings, *, dim: int, captions: int) -> Settings:
    """The settings with what depends on the data filled in."""
    rank = settings.rank
    if rank is None and not settings.published:
        rank = max(1, round(dim / 4))
    if rank is not None and rank > dim:
        raise ValueError(f"rank is {rank}, more than the embeddings' dim {dim}.")
    batch_size = settings.batch_size or min(max(2 ** round(math.log2(max(captions, 1) / 16)), 64), 256)
    epochs = settings.epochs or min(max(math.ceil(_STEPS / max(1, captions // batch_size)), 5), 200)
    return replace(settings, rank=rank, epochs=epochs, batch_size=batch_size)
