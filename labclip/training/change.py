"""How many held-out captions a matrix makes right or wrong, and the paired test of whether it binds better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from labclip.data.items import Kind
from labclip.training.frontier import margins_at
from labclip.training.rows import Data

ALPHA = 0.05
"""A change with a smaller p-value is not taken as chance."""


@dataclass(frozen=True)
class Change:
    """The base compared with a matrix, text by text. A text is right if it beats each of its negatives.

    Attributes:
        captions: Number of held-out captions and parts with a negative.
        became_right: Number of these that are wrong with the base and right with the matrix.
        became_wrong: Number of these that are right with the base and wrong with the matrix.
        p: Two-sided p-value of an exact sign test on images, because captions of one image are not independent: images
            with more captions that became right than wrong against images with fewer. With one caption per image it is
            McNemar's exact test. It is 1 if images and captions disagree on the direction.
        counted: The texts that were counted: "captions", "captions and parts" or "parts".

    Source: McNemar, Psychometrika 12, 1947; for clusters it is the exact sign test on them.
    """

    captions: int
    became_right: int
    became_wrong: int
    p: float
    counted: str = "captions"

    @classmethod
    def of(cls, held_out: Data, matrix: torch.Tensor, strength: float) -> Change:
        """Compare a matrix [dim, dim] at a strength with the base, on held-out data with negatives."""
        margins, image = margins_at(held_out, matrix), held_out.image_index[held_out.captions]
        base, aligned = (margins(at)[0].gt(0).all(dim=1).int() for at in (0.0, strength))
        change = aligned - base  # 1 became right, -1 became wrong; 0 without negatives
        by_image = torch.zeros(len(held_out.images), dtype=torch.int32).index_add_(0, image, change)
        ups, downs = int((by_image > 0).sum()), int((by_image < 0).sum())
        became_right, became_wrong = int((change > 0).sum()), int((change < 0).sum())
        agree = (ups - downs) * (became_right - became_wrong) > 0
        names = ((Kind.CAPTION, "captions"), (Kind.PART, "parts"))
        counted = " and ".join(name for kind, name in names if held_out.only(kind).n_with_negative)
        p = sign_test(ups, downs) if agree else 1.0
        return cls(held_out.n_with_negative, became_right, became_wrong, p, counted)

    @property
    def is_gain(self) -> bool:
        """Whether more texts became right than wrong, by more than chance explains."""
        return self.became_right > self.became_wrong and self.p < ALPHA

    @property
    def error(self) -> float:
        """Standard error of the gain, (became_right - became_wrong) / captions, taking captions as independent."""
        gain = (self.became_right - self.became_wrong) / self.captions
        return math.sqrt(((self.became_right + self.became_wrong) / self.captions - gain**2) / self.captions)

    @property
    def words(self) -> str:
        """The counts and the p-value as a sentence without a full stop."""
        p = f"p = {self.p:.3f}" if self.p >= 0.0005 else "p < 0.001"
        became = f"{self.became_right:,} became right and {self.became_wrong:,} wrong"
        return f"Of {self.captions:,} held-out {self.counted}, {became} ({p})"


def sign_test(ups: int, downs: int) -> float:
    """Two-sided p-value of the exact sign test: how often tosses of a fair coin are at least as uneven.

    Example:
        >>> round(sign_test(14, 2), 3), sign_test(3, 3), sign_test(0, 0)
        (0.004, 1.0, 1.0)
    """
    tail = sum(math.comb(ups + downs, count) for count in range(min(ups, downs) + 1))
    return min(1.0, 2 * tail / 2 ** (ups + downs))
