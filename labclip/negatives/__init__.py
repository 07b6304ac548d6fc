"""Hard negative captions: made by swaps, by shuffles, or by your own method, or read from a file.

Needs no torch. `labclip.training` uses the negatives in a fit.
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
