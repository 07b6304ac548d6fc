"""Captions as the ARO benchmark cleans them, and what two captions that say the same have in common."""

from __future__ import annotations

import re
import string

_TO_SPACE = re.compile(r'[.!"()*#:;~]')
_WHITESPACE = re.compile(r"\s{2,}")


def clean(caption: str, max_words: int | None = None) -> str:
    """Clean a caption the way ARO does: lower case, without most punctuation, cut to a number of words.

    >>> clean('A Dog, and "two" cats.', max_words=4)
    'a dog, and two'

    Args:
        caption: Any text.
        max_words: Keep this many space-separated words, or all of them when None. The paper keeps 40 for negatives,
            ARO 30 for its order tests.

    Returns:
        The cleaned caption; cleaning it again changes nothing.

    Source: `pre_caption` of ARO (arXiv:2210.01936), in whose cleaned captions LABCLIP's negatives are shuffled.
    """
    text = _WHITESPACE.sub(" ", _TO_SPACE.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    return text if max_words is None else " ".join(text.split(" ")[:max_words])


def comparable(caption: str) -> str:
    """What remains of a caption once case, punctuation and the choice of "a" or "an" no longer tell.

    >>> comparable("An owl , and a Dog.") == comparable("a owl and a dog")
    True
    """
    words = (word.strip(string.punctuation) for word in clean(caption).split())
    return " ".join("a" if word == "an" else word for word in words if word)
