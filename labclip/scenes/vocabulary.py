"""The words of the embedded scenes, and which colour-shape pairs a fit may see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Each word is one token of OpenAI's vocabulary ("cyan", for one, is two), so that no caption leaks its length.
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "white", "gray", "black")
SHAPES = ("sphere", "cube", "cone", "cylinder", "ring", "star", "heart", "cross", "moon", "arrow")
SPLITS = ("seen", "heldout", "validation", "all")


def _pairs(text: str) -> NDArray[np.bool_]:
    """Whether each pair is one of a list: bool [colours, shapes]."""
    table = np.zeros((len(COLOURS), len(SHAPES)), dtype=bool)
    for colour, shape in map(str.split, text.split(", ")):
        table[COLOURS.index(colour), SHAPES.index(shape)] = True
    return table


# Drawn at random, at most two of a colour and of a shape, so that each word stays well known to the fit. Written out so
# that no change in a random generator can ever change the published figures; tests/test_scenes.py draws them again.
HELD_OUT = _pairs(
    "orange cylinder, green cylinder, green arrow, teal sphere, teal cross, blue arrow, "
    "purple sphere, purple moon, pink ring, brown cone, brown ring, white star"
)
"""Pairs in no caption and no negative of the embedded matrix's fit, on which figures are published."""
VALIDATION = _pairs("red star, red heart, orange cone, blue moon, pink heart, white cube")
"""Such pairs on which settings, seeds and stopping points were chosen."""


def allowed(
    split: str, colours: NDArray[np.int64], shapes: NDArray[np.int64], swapped: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each scene belongs to a split, bool [n]; colours, shapes and swapped colours are [n, objects].

    "seen": no held-out pair in the caption nor in the swapped one. "heldout": a pair of `HELD_OUT` in the caption, none
    of `VALIDATION` in either. "validation": the reverse. "all": every scene.
    """
    if split == "all":
        return np.ones(len(colours), dtype=bool)
    wanted = {"heldout": HELD_OUT, "validation": VALIDATION}.get(split)
    never = {"heldout": VALIDATION, "validation": HELD_OUT}.get(split, HELD_OUT | VALIDATION)
    kept = ~(never[colours, shapes] | never[swapped, shapes]).any(axis=1)
    return np.asarray(kept if wanted is None else kept & wanted[colours, shapes].any(axis=1))
