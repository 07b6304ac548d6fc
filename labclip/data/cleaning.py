"""Captions as the ARO benchmark cleans them, their words, and what two captions that say the same have in common."""

from __future__ import annotations

import re
import string
from collections import Counter
from unicodedata import normalize

_TO_SPACE = re.compile(r'[.!"()*#:;~]')
_WHITESPACE = re.compile(r"\s{2,}")
# Words as taggers know them: "can't" is two, "'s" is one, "t-shirt" is one, a comma is one.
WORD = re.compile(r"\w+?(?=n['’]t\b)|n['’]t\b|\w+(?:-\w+)*|['’]\w+|[^\w\s]")


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
    """A caption without case and punctuation, "an" written "a", in Unicode's NFC: equal for captions that say the same.

    >>> comparable("An owl , and a Dog.") == comparable("a owl and a dog")
    True
    """
    words = [word.strip(string.punctuation) for word in _TO_SPACE.sub(" ", normalize("NFC", caption.lower())).split()]
    return " ".join(["a" if word == "an" else word for word in words if word])


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
