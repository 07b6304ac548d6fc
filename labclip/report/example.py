"""One item to show on a page: its image, two captions, and what each model makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from labclip.report.values import Cell, Figure, Section, Table

if TYPE_CHECKING:
    from labclip.data.images import ImageSource

_SIDE = 320  # pixels of the image at most


@dataclass(frozen=True)
class ShownItem:
    """An image with a right and a wrong caption, and each model's cosines.

    Attributes:
        image: A JPEG file's bytes, at most 320 pixels a side and without metadata; None where it is not found.
        captions: The right one and the wrong one.
        cosines: Of each model with both captions.
        chosen: The rule that it was chosen by, a sentence.
    """

    image: bytes | None
    captions: tuple[str, str]
    cosines: Mapping[str, Sequence[float]]
    chosen: str

    @classmethod
    def of(
        cls, source: ImageSource | None, captions: tuple[str, str], image: Tensor, texts: Mapping[str, Tensor],
        chosen: str,
    ) -> ShownItem:  # fmt: skip
        """From the embedding of an image [dim] and of both captions by each model [2, dim], all unit-length."""
        small = None
        if source is not None:
            with suppress(OSError, ValueError):  # its embedding was kept, the file was not
                small = thumbnail(source)
        return cls(small, captions, {name: (one @ image).tolist() for name, one in texts.items()}, chosen)

    def section(self) -> Section:
        """For a page."""
        rows: list[list[str | float | Cell]] = [
            [f"{said}: {caption}", *(cosines[at] for cosines in self.cosines.values())]
            for at, (said, caption) in enumerate(zip(("right", "wrong"), self.captions, strict=True))
        ]
        words = ["right" if right > wrong else "wrong" for right, wrong in self.cosines.values()]
        rows.append(["prefers", *(f"the {word} one" for word in words)])
        alt = f"The image that the caption {self.captions[0]!r} is right for."
        figures = [] if self.image is None else [Figure(self.image, alt)]
        table = Table("Cosine of the image with each caption; a tie is wrong.", ["caption", *self.cosines], rows)
        return Section("One example", [self.chosen], figures, [table])


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
    who = "every matrix" if len(matrices) > 1 else "the matrix"
    if not len(wrong):
        return 0, f"The first of {n:,} items; the base gets all of them right."
    if not matrices:
        return int(wrong[0]), f"The first of {len(wrong):,} of {n:,} items that the base gets wrong."
    ours, none = np.logical_and.reduce(matrices), ~np.logical_or.reduce(matrices)
    repaired = np.flatnonzero(~base & ours)
    if not len(repaired):
        return int(wrong[0]), (
            f"The first of {len(wrong):,} of {n:,} items that the base gets wrong; none of them is right with {who}."
        )
    return int(repaired[0]), (
        f"The first of {len(repaired):,} of {n:,} items that the base gets wrong and {who} right. "
        f"The other way round: {int((base & none).sum()):,}."
    )


def thumbnail(source: ImageSource) -> bytes:
    """An image as a small JPEG file, without metadata; OSError or ValueError where it can't be read or is none."""
    small = source.decode(source.read()).convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    small.info.clear()  # a comment would be written
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
