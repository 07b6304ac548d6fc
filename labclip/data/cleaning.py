"""Captions as text: cleaned as in ARO, split into words, and compared by what they say."""

from __future__ import annotations

import re
import string
from collections.abc import Hashable, Iterable
from hashlib import blake2b
from unicodedata import normalize

_TO_SPACE = re.compile(r'[.!"()*#:;~]')
# Relations that mean the same with their two sides swapped.
_SYMMETRIC = re.compile(
    r"(?:\b(?:is|are|was|were) )?\b(?:and|or|with|along with|together with|next to|beside|near|close to|by|alongside|"
    r"adjacent to|opposite|across from)\b"
)
_WHITESPACE = re.compile(r"\s{2,}")
# Words as taggers split them: "can't" is two words; "'s", "t-shirt" and a comma are one each.
WORD = re.compile(r"\w+?(?=n['’]t\b)|n['’]t\b|\w+(?:-\w+)*|['’]\w+|[^\w\s]")


def clean(caption: str, max_words: int | None = None) -> str:
    """Clean a caption as ARO does: lower case, without most punctuation. Cleaning it twice changes nothing more.

    >>> clean('A Dog, and "two" cats.', max_words=4)
    'a dog, and two'

    Args:
        caption: Any text.
        max_words: Number of space-separated words to keep; None keeps all. The paper keeps 40 for negatives, ARO 30 for
            its order tests.

    Source: `pre_caption` of ARO (arXiv:2210.01936). LABCLIP shuffles captions that were cleaned this way.
    """
    text = _WHITESPACE.sub(" ", _TO_SPACE.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    return text if max_words is None else " ".join(text.split(" ")[:max_words])


def comparable(caption: str) -> str:
    """The words of a caption in lower case and Unicode NFC, without punctuation, "an" written "a", to compare captions.

    >>> comparable("An owl , and a Dog.") == comparable("a owl and a dog")
    True
    """
    words = [word.strip(string.punctuation) for word in _TO_SPACE.sub(" ", normalize("NFC", caption.lower())).split()]
    return " ".join(["a" if word == "an" else word for word in words if word])


def meaning(caption: str) -> tuple[str, ...]:
    """What a caption says: equal for captions that only swap the two sides of "and", "next to" and the like.

    >>> meaning("A yellow cup next to a gray bowl.") == meaning("a gray bowl next to a yellow cup")
    True
    >>> meaning("a cup left of a bowl") == meaning("a bowl left of a cup")
    False
    """
    words = " ".join(word for word in comparable(caption.replace(",", " and ")).split() if word not in ("a", "the"))
    head, between, tail = words.partition(" between ")
    sides = sorted(filter(None, map(str.strip, _SYMMETRIC.split(tail if between else head))))
    return (head, *sides) if between else tuple(sides)


def true_captions(
    images: Iterable[Hashable | None], captions: Iterable[str], max_words: int | None = None
) -> set[tuple[Hashable, str]]:
    """Every pair of an image and a text that is true of it, the text in `comparable` form.

    A negative that says the same as any caption of its image, in any row, is not a negative. Every module uses this
    rule. If negatives keep only `max_words` words, so may the captions. An image of None (unknown) is left out.
    """
    pairs = set()
    for image, caption in zip(images, captions, strict=True):
        if image is not None:
            pairs.add((image, comparable(caption)))
            if max_words is not None and len(caption) > 2 * max_words:
                pairs.add((image, comparable(clean(caption, max_words))))
    return pairs


def digest(text: str) -> int:
    """A 64-bit hash of a text, the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
