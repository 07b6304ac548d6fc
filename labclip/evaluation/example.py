"""The item of a benchmark that its page shows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip.alignment import Alignment
from labclip.evaluation.tasks import NONE, Choice, Pairs, Task, TwoPositives
from labclip.metrics import choice_margins, unit_length
from labclip.report.example import ShownItem, choose

_SHOWN = 3  # alignments at most


def example_of(task: Task, images: Tensor, texts: Tensor, alignments: Mapping[str, Alignment]) -> ShownItem | None:
    """An item of the first question that lets an image choose among captions; None where there is none to show.

    Features are [images, dim] and [captions, dim], of any scale, those of captions the base's own. Of several wrong
    captions it is the one that the base prefers.
    """
    asked = next(filter(None, map(_choices, task.questions)), None)
    if asked is None or task.embedded is not None:
        return None
    image, options = map(torch.from_numpy, asked)
    images = unit_length(images, "Image features")
    several = dict(list(alignments.items())[:_SHOWN])
    models = dict(zip(("base", *several), task.read_by(texts, list(several.values())), strict=True))
    margins = [choice_margins(images, features, image, options).numpy() for features in models.values()]
    row, chosen = choose([margin > 0 for margin in margins])
    chosen += " The base's captions keep their own length, so that its figures are no cosines." * task.own_length
    right, *others = (int(option) for option in options[row])
    others = [option for option in others if option not in (NONE, right)]
    if not others:
        return None
    shown = images[image[row]]
    wrong = max(others, key=lambda option: float(shown @ models["base"][option]))
    texts_of = {name: features[[right, wrong]] for name, features in models.items()}
    captions = task.captions[right], task.captions[wrong]
    return ShownItem.of(task.images[int(image[row])], captions, shown, texts_of, chosen)


def _choices(question: object) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The image of each item, int64 [n], and its captions, the right one first, int64 [n, k]; -1 stands for none."""
    if isinstance(question, Choice):
        return question.image, question.options
    if isinstance(question, Pairs):
        return question.images[:, 0], question.texts
    return (question.image, question.texts[:, [0, 2]]) if isinstance(question, TwoPositives) else None
