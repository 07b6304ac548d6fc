"""The item of a benchmark that its page shows: its image, two captions, and what each model makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from labclip.alignment import Alignment
from labclip.data.images import ImageSource
from labclip.evaluation.tasks import NONE, Choice, Pairs, Task, TwoPositives
from labclip.metrics import choice_margins, unit_length
from labclip.report.values import Figure, Section, Table, Value

_SHOWN = 3  # alignments at most
_SIDE = 320  # pixels of the image at most


def example_of(task: Task, images: Tensor, texts: Tensor, alignments: Mapping[str, Alignment]) -> Section | None:
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
    shown, source = images[image[row]], task.images[int(image[row])]
    wrong = max(others, key=lambda option: float(shown @ models["base"][option]))
    cosines = {name: (features[[right, wrong]] @ shown).tolist() for name, features in models.items()}
    rows: list[list[Value]] = [
        [f"{word}: {task.captions[caption]}", *(both[at] for both in cosines.values())]
        for at, (word, caption) in enumerate((("right", right), ("wrong", wrong)))
    ]
    rows.append(["prefers", *(f"the {'right' if one > other else 'wrong'} one" for one, other in cosines.values())])
    figures = []
    with suppress(OSError, ValueError):  # its embedding was kept, the file was not
        alt = f"The image that the caption {task.captions[right]!r} is right for."
        figures = [Figure(thumbnail(source), alt)]
    table = Table("Cosine of the image with each caption; a tie is wrong.", ["caption", *cosines], rows)
    return Section("One example", [chosen], figures, [table])


def _choices(question: object) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The image of each item, int64 [n], and its captions, the right one first, int64 [n, k]; -1 stands for none."""
    if isinstance(question, Choice):
        return question.image, question.options
    if isinstance(question, Pairs):
        return question.images[:, 0], question.texts
    return (question.image, question.texts[:, [0, 2]]) if isinstance(question, TwoPositives) else None


def choose(right: Sequence[NDArray[np.bool_]]) -> tuple[int, str]:
    """The row of an item to show, and the rule in words: the first that the base gets wrong and every matrix right.

    `right` says for the base, then for each matrix, which items are right, bool [n]. Where there is no such item it
    is the first that the base gets wrong, then the first of all.

    Example:
        >>> choose([np.array([True, False, False]), np.array([True, False, True])])
        (2, 'The first of 1 of 3 items that the base gets wrong and the matrix right. The other way round: 0.')
    """
    base, matrices = right[0], list(right[1:])
    n, wrong = len(base), np.flatnonzero(~base)
    if not len(wrong):
        return 0, f"The first of {n:,} items; the base gets all of them right."
    who = "every matrix" if len(matrices) > 1 else "the matrix"
    repaired = np.flatnonzero(~base & np.logical_and.reduce(matrices)) if matrices else wrong[:0]
    if len(repaired):
        lost = int((base & ~np.logical_or.reduce(matrices)).sum())
        words = f"items that the base gets wrong and {who} right. The other way round: {lost:,}."
        return int(repaired[0]), f"The first of {len(repaired):,} of {n:,} {words}"
    none = f"; none of them is right with {who}" if matrices else ""
    return int(wrong[0]), f"The first of {len(wrong):,} of {n:,} items that the base gets wrong{none}."


def thumbnail(source: ImageSource) -> bytes:
    """An image as a small JPEG file, without metadata; OSError or ValueError where it can't be read or is none."""
    small = source.decode(source.read()).convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    small.info.clear()  # a comment would be written
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
