"""The words of the embedded scenes, and the colour-shape pairs that a fit may see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Each word is one token in OpenAI's vocabulary ("cyan" is two), so that a caption's length tells nothing.
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "white", "gray", "black")
SHAPES = ("sphere", "cube", "cone", "cylinder", "ring", "star", "heart", "cross", "moon", "arrow")
SPLITS = ("seen", "heldout", "validation", "all")


def _pairs(text: str) -> NDArray[np.bool_]:
    """A table of which pairs are in a list, bool [colours, shapes]."""
    table = np.zeros((len(COLOURS), len(SHAPES)), dtype=bool)
    for colour, shape in map(str.split, text.split(", ")):
        table[COLOURS.index(colour), SHAPES.index(shape)] = True
    return table


# Drawn at random, at most two with the same colour or shape, so that a fit sees each word often. They are written out,
# so that published figures do not depend on a random generator; tests/test_scenes.py draws them again.
HELD_OUT = _pairs(
    "orange cylinder, green cylinder, green arrow, teal sphere, teal cross, blue arrow, "
    "purple sphere, purple moon, pink ring, brown cone, brown ring, white star"
)
"""Pairs that are in no caption and no negative of the embedded matrix's fit. Published figures are measured on them."""
VALIDATION = _pairs("red star, red heart, orange cone, blue moon, pink heart, white cube")
"""More such pairs, on which settings, seeds and stopping points were chosen."""


def allowed(
    split: str, colours: NDArray[np.int64], shapes: NDArray[np.int64], swapped: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each scene belongs to a split, bool [n]; colours, shapes and swapped colours are [n, objects].

    "seen": no pair of `HELD_OUT` or `VALIDATION` in the caption or the swapped caption. "heldout": a pair of `HELD_OUT`
    in the caption, and none of `VALIDATION` in either. "validation": the reverse. "all": every scene.
    """
    if split == "all":
        return np.ones(len(colours), dtype=bool)
    required = {"heldout": HELD_OUT, "validation": VALIDATION}.get(split)
    forbidden = {"heldout": VALIDATION, "validation": HELD_OUT}.get(split, HELD_OUT | VALIDATION)
    kept = ~(forbidden[colours, shapes] | forbidden[swapped, shapes]).any(axis=1)
    return np.asarray(kept if required is None else kept & required[colours, shapes].any(axis=1))
