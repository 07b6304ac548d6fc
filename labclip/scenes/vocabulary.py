"""The words of the embedded world, and which colour-shape pairs a fit may see.

A *pair* is a colour and a shape, (colour index, shape index). `PAIRS` is the draw the embedded model ships with; other
draws serve to choose settings on pairs that no published figure comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Each word is one token of OpenAI's vocabulary ("cyan", for one, is two), so that no caption leaks its length.
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "white", "gray", "black")
SHAPES = ("sphere", "cube", "cone", "cylinder", "ring", "star", "heart", "cross", "moon", "arrow")
SPLITS = ("seen", "heldout", "validation", "all")

Pair = tuple[int, int]


@dataclass(frozen=True)
class HeldOutPairs:
    """The colour-shape pairs a fit never sees, neither in a caption nor in a negative.

    Attributes:
        test: Pairs that figures are published on.
        validation: Pairs that settings, seeds and stopping points are chosen on.
    """

    test: frozenset[Pair]
    validation: frozenset[Pair]

    def table(self, pairs: frozenset[Pair]) -> NDArray[np.bool_]:
        """Whether each pair is one of `pairs`: bool [colours, shapes]."""
        table = np.zeros((len(COLOURS), len(SHAPES)), dtype=bool)
        for colour, shape in pairs:
            table[colour, shape] = True
        return table

    def allowed(
        self, split: str, colours: NDArray[np.int64], shapes: NDArray[np.int64], swapped: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether each scene belongs to `split`: bool [n].

        "seen": no held-out pair in the caption nor in the swapped one. "heldout": a test pair in the caption, no
        validation pair in either. "validation": the reverse. "all": every scene.

        Args:
            split: One of `SPLITS`.
            colours: Colour of each object, [n, objects].
            shapes: Shape of each object, [n, objects].
            swapped: Colour of each object in the swapped caption, [n, objects].
        """
        if split == "all":
            return np.ones(len(colours), dtype=bool)
        test, validation = self.table(self.test), self.table(self.validation)
        wanted = {"heldout": test, "validation": validation}.get(split)
        never = {"heldout": validation, "validation": test}.get(split, test | validation)
        kept = ~(never[colours, shapes] | never[swapped, shapes]).any(axis=1)
        return np.asarray(kept if wanted is None else kept & wanted[colours, shapes].any(axis=1))


def draw_pairs(seed: int, *, n_test: int = 12, n_validation: int = 6, most: int = 2) -> HeldOutPairs:
    """Draw disjoint sets of pairs to hold out, spread over the vocabulary.

    At most `most` of a colour and of a shape, so that each word stays well known to the fit.
    """
    rng = np.random.default_rng([seed, 0x50A1])
    while True:
        chosen: list[Pair] = []
        for pair in rng.permutation(len(COLOURS) * len(SHAPES)):
            colour, shape = divmod(int(pair), len(SHAPES))
            if sum(c == colour for c, _ in chosen) < most and sum(s == shape for _, s in chosen) < most:
                chosen.append((colour, shape))
            if len(chosen) == n_test + n_validation:
                return HeldOutPairs(frozenset(chosen[:n_test]), frozenset(chosen[n_test:]))


def _pairs(text: str) -> frozenset[Pair]:
    return frozenset((COLOURS.index(colour), SHAPES.index(shape)) for colour, shape in map(str.split, text.split(", ")))


# `draw_pairs(2027)`, written out so that no change in a random generator can ever change the published figures.
PAIRS = HeldOutPairs(
    test=_pairs(
        "orange cylinder, green cylinder, green arrow, teal sphere, teal cross, blue arrow, "
        "purple sphere, purple moon, pink ring, brown cone, brown ring, white star"
    ),
    validation=_pairs("red star, red heart, orange cone, blue moon, pink heart, white cube"),
)
