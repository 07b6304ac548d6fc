"""Words that are told apart by lists: modifiers that exclude each other, colours, and words of position."""

from __future__ import annotations

from collections.abc import Mapping

from labclip.negatives.taggers import is_adjective, is_noun

FAMILIES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "colours": (
        ("red", "maroon"), ("orange",), ("yellow", "gold", "golden"), ("green",), ("blue", "turquoise", "teal"),
        ("purple", "violet", "lavender"), ("pink",), ("brown", "tan", "beige"), ("white", "cream"), ("black",),
        ("gray", "grey", "silver"),
    ),
    "sizes": (("small", "little", "tiny"), ("big", "large", "huge", "giant", "enormous")),
    "materials": (
        ("wooden", "wood"), ("metal", "metallic", "steel", "iron"), ("plastic",), ("glass",), ("brick",),
        ("stone", "rock"), ("leather",), ("concrete", "cement"),
    ),
    "ages": (("young", "younger"), ("old", "older", "elderly")),
    "numbers": (("two",), ("three",), ("four",), ("five",), ("six",), ("seven",), ("eight",)),
}  # fmt: skip
"""Modifiers that exclude each other. The words of one group may be said of the same object: none is a foil for another,
and the first of a group is the one that foils use. Numbers are in ascending order: three objects are also two."""

POSITIONS = frozenset(
    (
        "left", "right", "top", "bottom", "front", "back", "rear", "side", "sides", "middle", "center", "centre",
        "corner", "edge", "end", "inside", "outside", "foreground", "background", "distance", "next", "close", "near",
        "far", "other", "upper", "lower", "opposite",
    )
)  # fmt: skip
"""Words of where something is, which a shuffle leaves in their place: "to the cup of a red right" says nothing."""

COLOURS = frozenset(word for group in FAMILIES["colours"] for word in group)


def is_object(word: str, tag: str) -> bool:
    """Whether a word names what is in an image: a noun, but no word of position and no colour."""
    return is_noun(tag) and word not in POSITIONS and word not in COLOURS


def is_quality(word: str, tag: str) -> bool:
    """Whether a word says how an object is: an adjective or a colour, but no word of position."""
    return word in COLOURS or (is_adjective(tag) and word not in POSITIONS)
