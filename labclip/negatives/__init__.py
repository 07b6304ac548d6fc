"""Hard negative captions: two attributes swapped, nouns and adjectives shuffled, one's own method, or from a file.

Needs no torch. What a fit does with them lives in `labclip.training`.
"""

from labclip.data.cleaning import clean
from labclip.negatives.choosing import Method, generate
from labclip.negatives.files import Counts, add, read
from labclip.negatives.shuffling import Shuffler, shuffle
from labclip.negatives.swapping import RELATIONS, Swapper, swap

__all__ = [
    "RELATIONS",
    "Counts",
    "Method",
    "Shuffler",
    "Swapper",
    "add",
    "clean",
    "generate",
    "read",
    "shuffle",
    "swap",
]
