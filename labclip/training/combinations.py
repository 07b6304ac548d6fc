"""Splits by combination: what captions name, and rows of which some combinations are kept away."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import NamedTuple

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


class Split(NamedTuple):
    """Row numbers of the two sides; rows of neither are left out, for they would tell one side of the other.

    Attributes:
        fit: Rows none of whose combinations is held out.
        heldout: Rows whose caption has a combination that is.
        combinations: The combinations held out.
    """

    fit: list[int]
    heldout: list[int]
    combinations: frozenset[Hashable]


def split_combinations(
    captions: Sequence[Collection[Hashable]],
    negatives: Sequence[Collection[Hashable]],
    *,
    share: float = 0.15,
    seed: int = 0,
) -> Split:
    """Hold out some combinations, for example of colour and shape, so that binding on them means generalisation.

    A combination left among the negatives of a fit is learnt as never right: that measures the leak. So a row is fitted
    on only if neither its caption nor its negatives name a combination that is held out.

    Args:
        captions: The combinations each caption names, for example [{("red", "cube"), ("blue", "sphere")}, ...];
            `find_combinations` finds them.
        negatives: The combinations that all its negatives name, together.
        share: Fraction of the combinations to hold out, drawn at random.
        seed: Seed of the draw.

    Returns:
        The rows of the two sides, which `labclip.fit(features, validation=...)` takes.

    Raises:
        ValueError: If lengths differ, or nothing is left on one side.

    Example:
        >>> captions = [{"red cube", "blue ball"}, {"red ball", "blue cube"}, {"red cone", "blue star"}]
        >>> negatives = [captions[1], captions[0], {"red star", "blue cone"}]
        >>> split_combinations(captions, negatives, share=0.1, seed=0)
        Split(fit=[2], heldout=[0], combinations=frozenset({'red cube'}))
    """
    if len(captions) != len(negatives):
        raise ValueError(f"There are {len(captions)} captions and {len(negatives)} negatives. Pass one set a caption.")
    known = sorted({one for row in (*captions, *negatives) for one in row}, key=repr)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}. Pass a number between 0 and 1.")
    out = frozenset(random.Random(seed).sample(known, max(1, round(share * len(known)))) if known else ())
    heldout = [row for row, named in enumerate(captions) if not out.isdisjoint(named)]
    fit = [row for row, named in enumerate(captions) if out.isdisjoint(named) and out.isdisjoint(negatives[row])]
    if not fit or not heldout:
        raise ValueError(
            f"Holding out {len(out)} of {len(known)} combinations leaves {len(fit)} captions to fit on and "
            f"{len(heldout)} held out. Pass another share, or more captions."
        )
    return Split(fit, heldout, out)


def find_combinations(
    captions: Iterable[str], attributes: Iterable[str], objects: Iterable[str]
) -> list[set[tuple[str, str]]]:
    """The combinations of attribute and object in each caption, for `split_combinations`.

    Every attribute counts with every object of its caption, whichever it belongs to: a caption and the same with
    attributes swapped have the same ones, and no grammar is guessed. Words are found whole, in any case.

    Args:
        captions: Captions of any form.
        attributes: Words or phrases; of "light blue" and "blue" the longer is found.
        objects: Likewise, each form that occurs: "cube" is not found in "cubes".

    Returns:
        A set for each caption, of (attribute, object).

    Raises:
        ValueError: If there are no attributes or no objects.

    Example:
        >>> found = find_combinations(["A red cube and a blue ball."], ["red", "blue"], ["cube", "ball"])
        >>> sorted(found[0])
        [('blue', 'ball'), ('blue', 'cube'), ('red', 'ball'), ('red', 'cube')]
    """
    first, second = _phrases("attributes", attributes), _phrases("objects", objects)
    words = (_WORD.findall(caption.lower()) for caption in captions)
    return [set(itertools.product(_found(one, first), _found(one, second))) for one in words]


def _phrases(name: str, given: Iterable[str]) -> list[list[str]]:
    """Phrases as lists of words, the longest first."""
    found = sorted(filter(None, (_WORD.findall(one.lower()) for one in given)), key=len, reverse=True)
    if not found:
        raise ValueError(f"There are no {name}. Pass a list of words.")
    return found


def _found(words: Sequence[str], phrases: Sequence[list[str]]) -> set[str]:
    """The phrases among a caption's words."""
    found, start = set(), 0
    while start < len(words):
        phrase = next((one for one in phrases if one == words[start : start + len(one)]), None)
        if phrase:
            found.add(" ".join(phrase))
        start += len(phrase) if phrase else 1
    return found
