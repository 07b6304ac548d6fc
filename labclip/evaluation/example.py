"""One item to show: its image, two captions, and what each model makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from labclip.report import Cell, Figure, Section, Table

_SIDE = 320  # pixels of the image at most
_SHOWN = 3  # alignments at most


@dataclass(frozen=True)
class ShownItem:
    """An image with a right and a wrong caption, and each model's cosines.

    Attributes:
        image: A JPEG file's bytes, at most 320 pixels a side and without metadata.
        captions: The right one and the wrong one.
        cosines: Of each model with both captions.
        chosen: The rule that it was chosen by, a sentence.
    """

    image: bytes
    captions: tuple[str, str]
    cosines: Mapping[str, Sequence[float]]
    chosen: str

    def section(self) -> Section:
        """For a page."""
        rows: list[list[str | float | Cell]] = [
            [f"{said}: {caption}", *(cosines[at] for cosines in self.cosines.values())]
            for at, (said, caption) in enumerate(zip(("right", "wrong"), self.captions, strict=True))
        ]
        words = ["right" if right > wrong else "wrong" for right, wrong in self.cosines.values()]
        rows.append(["prefers", *(f"the {word} one" for word in words)])
        figure = Figure(self.image, f"The image that the caption {self.captions[0]!r} is right for.")
        table = Table("Cosine of the image with each caption; a tie is wrong.", ["caption", *self.cosines], rows)
        return Section("One example", [self.chosen], [figure], [table])


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
    who, whom = ("every matrix", "all matrices") if len(matrices) > 1 else ("the matrix", "the matrix")
    if not len(wrong):
        return 0, f"The first of {n:,} items; the base gets all of them right."
    if not matrices:
        return int(wrong[0]), f"The first of {len(wrong):,} of {n:,} items that the base gets wrong."
    ours, none = np.logical_and.reduce(matrices), ~np.logical_or.reduce(matrices)
    repaired = np.flatnonzero(~base & ours)
    if not len(repaired):
        said = f"The first of {len(wrong):,} of {n:,} items that the base gets wrong; {who} gets none of them right."
        if len(matrices) > 1:
            said = f"The first of {len(wrong):,} of {n:,} items that the base gets wrong; none is right for {whom}."
        return int(wrong[0]), said
    return int(repaired[0]), (
        f"The first of {len(repaired):,} of {n:,} items that the base gets wrong and {who} right. "
        f"The other way round: {int((base & none).sum()):,}."
    )


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
    return item(task.images[int(image[row])], captions, shown, texts_of, chosen)


def item(
    source: ImageSource, captions: tuple[str, str], image: Tensor, texts: Mapping[str, Tensor], chosen: str
) -> ShownItem | None:
    """An image [dim] beside a right and a wrong caption, by each model [2, dim], all unit-length.

    None where the image can't be read any more: its embedding was kept, the file was not.
    """
    try:
        small = thumbnail(source)
    except (OSError, ValueError):
        return None
    return ShownItem(small, captions, {name: (features @ image).tolist() for name, features in texts.items()}, chosen)


def _choices(question: object) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The image of each item, int64 [n], and its captions, the right one first, int64 [n, k]; -1 stands for none."""
    if isinstance(question, Choice):
        return question.image, question.options
    if isinstance(question, Pairs):
        return question.images[:, 0], question.texts
    return (question.image, question.texts[:, [0, 2]]) if isinstance(question, TwoPositives) else None


def thumbnail(source: ImageSource) -> bytes:
    """An image as a small JPEG file, without metadata.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is no image.
    """
    small = source.decode(source.read()).convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    small.info.clear()  # a comment would be written
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
