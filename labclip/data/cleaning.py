"""Captions as the ARO benchmark cleans them, their words, which say the same, and which are true of an image."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Iterable
from hashlib import blake2b
from unicodedata import normalize

_TO_SPACE = re.compile(r'[.!"()*#:;~]')
# Relations that say the same the other way round.
_SYMMETRIC = re.compile(
    r"(?:\b(?:is|are|was|were) )?\b(?:and|or|with|along with|together with|next to|beside|near|close to|by|alongside|"
    r"adjacent to|opposite|across from)\b"
)
_WHITESPACE = re.compile(r"\s{2,}")
# Words as taggers know them: "can't" is two, "'s" is one, "t-shirt" is one, a comma is one.
WORD = re.compile(r"\w+?(?=n['’]t\b)|n['’]t\b|\w+(?:-\w+)*|['’]\w+|[^\w\s]")


def clean(caption: str, max_words: int | None = None) -> str:
    """Clean a caption the way ARO does: lower case, without most punctuation; cleaning it again changes nothing.

    >>> clean('A Dog, and "two" cats.', max_words=4)
    'a dog, and two'

    Args:
        caption: Any text.
        max_words: Keep this many space-separated words, or all of them when None. The paper keeps 40 for negatives,
            ARO 30 for its order tests.

    Source: `pre_caption` of ARO (arXiv:2210.01936), in whose cleaned captions LABCLIP's negatives are shuffled.
    """
    text = _WHITESPACE.sub(" ", _TO_SPACE.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    return text if max_words is None else " ".join(text.split(" ")[:max_words])


def comparable(caption: str) -> str:
    """A caption without case and punctuation, "an" written "a", in Unicode's NFC: equal for captions that say the same.

    >>> comparable("An owl , and a Dog.") == comparable("a owl and a dog")
    True
    """
    words = [word.strip(string.punctuation) for word in _TO_SPACE.sub(" ", normalize("NFC", caption.lower())).split()]
    return " ".join(["a" if word == "an" else word for word in words if word])


def meaning(caption: str) -> tuple[str, ...]:
    """What a caption says, whatever the order of the things that "and", "next to" or another such relation joins.

    >>> meaning("A yellow cup next to a gray bowl.") == meaning("a gray bowl next to a yellow cup")
    True
    >>> meaning("a cup left of a bowl") == meaning("a bowl left of a cup")
    False
    """
    words = " ".join(word for word in comparable(caption.replace(",", " and ")).split() if word not in ("a", "the"))
    head, between, tail = words.partition(" between ")
    things = sorted(filter(None, map(str.strip, _SYMMETRIC.split(tail if between else head))))
    return (head, *things) if between else tuple(things)


def words_of(caption: str) -> list[str]:
    """The words of a caption as taggers know them, marks of punctuation among them.

    >>> words_of("A dog's t-shirt, red.")
    ['A', 'dog', "'s", 't-shirt', ',', 'red', '.']
    """
    return WORD.findall(caption)


def is_shuffle(caption: str, text: str) -> bool:
    """Whether a text has exactly the words of a cleaned caption, in another order, as every shuffled negative has.

    >>> is_shuffle("a red cup, a blue cup", "a blue cup, a red cup"), is_shuffle("a red cup", "a blue cup")
    (True, False)
    """
    words, others = words_of(caption), words_of(text)
    return words != others and Counter(words) == Counter(others)


def true_captions(
    images: Iterable[Hashable | None], captions: Iterable[str], max_words: int | None = None
) -> set[tuple[Hashable, str]]:
    """Which texts are true of which image, in their `comparable` form: the captions, and how they begin.

    The one rule of which negatives are none: those that say the same as a caption of the image, whichever row it is in.
    An image that is not known, None, has none.
    """
    pairs = [(image, caption) for image, caption in zip(images, captions, strict=True) if image is not None]
    return {(image, form) for image, caption in pairs for form in comparable_forms(caption, max_words)}


def comparable_forms(caption: str, max_words: int | None) -> set[str]:
    """The caption as `comparable` has it, and how it begins where negatives keep `max_words` of it."""
    forms = {comparable(caption)}
    if max_words is not None and len(caption) > 2 * max_words:
        forms.add(comparable(clean(caption, max_words)))
    return forms


def digest(text: str) -> int:
    """Eight bytes that stand for a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
