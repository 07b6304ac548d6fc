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
from labclip.evaluation.tasks import Choice, Pairs, Rows, Task, TwoPositives
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
    several = list(alignments.items())[:_SHOWN]
    models = dict(zip(["base", *dict(several)], task.read_by(texts, [one for _, one in several]), strict=True))
    row, chosen = choose([(choice_margins(images, one, image, options)[0] > 0).numpy() for one in models.values()])
    chosen += " The base's captions keep their own length, so that its figures are no cosines." * task.own_length
    shown, right = images[image[row]], int(options[row, 0])
    others = [other for other in options[row].tolist() if other not in (-1, right)]
    if not others:
        return None
    wrong = max(others, key=lambda other: float(shown @ models["base"][other]))
    cosines = [(features[[right, wrong]] @ shown).tolist() for features in models.values()]
    rows: list[list[Value]] = [
        [f"right: {task.captions[right]}", *(one for one, _ in cosines)],
        [f"wrong: {task.captions[wrong]}", *(other for _, other in cosines)],
        ["prefers", *(f"the {'right' if one > other else 'wrong'} one" for one, other in cosines)],
    ]
    figures = []
    with suppress(OSError, ValueError):  # its embedding was kept, the file was not
        alt = f"The image that the caption {task.captions[right]!r} is right for."
        figures = [Figure(thumbnail(task.images[int(image[row])]), alt, kind="jpeg")]
    table = Table("Cosine of the image with each caption; a tie is wrong.", ["caption", *models], rows)
    return Section("One example", [chosen], figures, [table])


def _choices(question: object) -> tuple[Rows, Rows] | None:
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
    base, *matrices = right
    n, wrong, every = len(base), np.flatnonzero(~base), "every matrix" if len(right) > 2 else "the matrix"
    if not len(wrong):
        return 0, f"The first of {n:,} items; the base gets all of them right."
    first = "items that the base gets wrong"
    if not matrices:
        return int(wrong[0]), f"The first of {len(wrong):,} of {n:,} {first}."
    repaired = np.flatnonzero(~base & np.all(matrices, axis=0))
    if not len(repaired):
        return int(wrong[0]), f"The first of {len(wrong):,} of {n:,} {first}; none of them is right with {every}."
    lost = int((base & ~np.any(matrices, axis=0)).sum())
    return int(repaired[0]), (
        f"The first of {len(repaired):,} of {n:,} {first} and {every} right. The other way round: {lost:,}."
    )


def thumbnail(source: ImageSource) -> bytes:
    """An image as a small JPEG file, without metadata; OSError or ValueError where it can't be read or is none."""
    small = source.decode(source.read()).convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    small.info.clear()  # a comment would be written
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
