"""Hard negative captions: two attributes swapped, nouns and adjectives shuffled, one's own method, or from a file.

Needs no torch. What a fit does with them lives in `labclip.training`.
"""

from labclip.data.cleaning import clean
from labclip.data.items import Part
from labclip.negatives.choosing import Method, generate
from labclip.negatives.files import Counts, add, add_parts, read
from labclip.negatives.phrases import keywords, parts
from labclip.negatives.shuffling import Shuffler, shuffle
from labclip.negatives.swapping import RELATIONS, Swapper, swap
from labclip.negatives.taggers import FAMILIES

__all__ = [
    "FAMILIES", "RELATIONS", "Counts", "Method", "Part", "Shuffler", "Swapper", "add", "add_parts", "clean", "generate",
    "keywords", "parts", "read", "shuffle", "swap",
]  # fmt: skip
