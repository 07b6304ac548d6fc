"""Which held-out captions a matrix puts right and which it puts wrong: the paired test of whether it binds better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from labclip.data.items import Kind
from labclip.training.frontier import margins_at
from labclip.training.rows import Data

ALPHA = 0.05
"""A p-value from which on a change is told from chance."""


@dataclass(frozen=True)
class Change:
    """Base against matrix, caption by caption, parts among them; right is a caption that beats each of its negatives.

    Attributes:
        captions: Held-out captions and parts that have a negative.
        became_right: Texts that the base has wrong and the matrix right.
        became_wrong: Texts that the base has right and the matrix wrong.
        p: Two-sided p-value of McNemar's exact test. Captions of one image are not independent, so images are counted:
            those more of whose captions became right against those more of whose captions became wrong. With one
            caption an image that is the test itself. It is 1 where images and captions point to different sides.
        counted: What was counted, "captions", "captions and parts" or "parts".

    Source: McNemar, Psychometrika 12, 1947; for clusters it is the exact sign test on them.
    """

    captions: int
    became_right: int
    became_wrong: int
    p: float
    counted: str = "captions"

    @classmethod
    def of(cls, held: Data, matrix: torch.Tensor, strength: float) -> Change:
        """Compare a matrix [dim, dim] at a strength with the base, on held-out captions, some with negatives."""
        margins, image = margins_at(held, matrix), held.image_index[held.captions]
        before, after = (margins(at)[0].gt(0).all(dim=1).int() for at in (0.0, strength))
        change = after - before  # 0 where there is no negative
        images = torch.zeros(len(held.images), dtype=torch.int32).index_add_(0, image, change)
        ups, downs = int((images > 0).sum()), int((images < 0).sum())
        better, worse = int((change > 0).sum()), int((change < 0).sum())
        agree = (ups - downs) * (better - worse) > 0
        names = ((Kind.CAPTION, "captions"), (Kind.PART, "parts"))
        counted = " and ".join(name for kind, name in names if held.only(kind).n_with_negative)
        return cls(held.n_with_negative, better, worse, sign_test(ups, downs) if agree else 1.0, counted)

    @property
    def is_gain(self) -> bool:
        """Whether more became right than wrong, by more than chance explains."""
        return self.became_right > self.became_wrong and self.p < ALPHA

    @property
    def error(self) -> float:
        """Standard error of the gain, (became_right - became_wrong) / captions, as if captions were independent."""
        gain = (self.became_right - self.became_wrong) / self.captions
        return math.sqrt(((self.became_right + self.became_wrong) / self.captions - gain**2) / self.captions)

    @property
    def words(self) -> str:
        """The counts and the test, without a full stop."""
        p = f"p = {self.p:.3f}" if self.p >= 0.0005 else "p < 0.001"
        became = f"{self.became_right:,} became right and {self.became_wrong:,} wrong"
        return f"Of {self.captions:,} held-out {self.counted}, {became} ({p})"


def sign_test(ups: int, downs: int) -> float:
    """Two-sided p-value of the exact sign test: how often a fair coin falls at least as unevenly.

    Example:
        >>> round(sign_test(14, 2), 3), sign_test(3, 3), sign_test(0, 0)
        (0.004, 1.0, 1.0)
    """
    tail = sum(math.comb(ups + downs, count) for count in range(min(ups, downs) + 1))
    return min(1.0, 2 * tail / 2 ** (ups + downs))
