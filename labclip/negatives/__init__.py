"""Hard negative captions: two attributes swapped, nouns and adjectives shuffled, or the user's own from a file.

Needs no torch. What a fit does with them lives in `labclip.training`.
"""

from labclip.negatives.cleaning import clean
from labclip.negatives.files import Captioned, read
from labclip.negatives.shuffling import shuffle
from labclip.negatives.swapping import RELATIONS, swap

__all__ = ["RELATIONS", "Captioned", "clean", "read", "shuffle", "swap"]
