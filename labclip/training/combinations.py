"""Splits by combination: what captions name, and rows of which some combinations are kept away."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
_BETWEEN = {"and", "or", "a", "an", "the"}  # may stand between two attributes, or an attribute and its object


class Split(NamedTuple):
    """Row numbers of the two sides; rows of neither are left out, for they would tell one side of the other.

    Attributes:
        fit: Rows none of whose combinations is held out.
        heldout: Rows whose caption has a combination that is.
        combinations: Those held out.
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
        negatives: Those its negatives name, all of them together.
        share: Share of the combinations to hold out, drawn at random.
        seed: Of the draw.

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
    known = sorted({one for side in (captions, negatives) for row in side for one in row}, key=repr)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}. Pass a number between 0 and 1.")
    out = frozenset(random.Random(seed).sample(known, max(1, round(share * len(known)))) if known else ())
    heldout = [row for row, named in enumerate(captions) if not out.isdisjoint(named)]
    fit = [
        row
        for row, (named, wrong) in enumerate(zip(captions, negatives, strict=True))
        if out.isdisjoint(named) and out.isdisjoint(wrong)
    ]
    if not fit or not heldout:
        raise ValueError(
            f"Holding out {len(out)} of {len(known)} combinations leaves {len(fit)} captions to fit on and "
            f"{len(heldout)} held out. Pass another share, or more captions."
        )
    return Split(fit, heldout, out)


def find_combinations(captions: Iterable[str], attributes: Iterable[str]) -> list[set[tuple[str, str]]]:
    """The combinations of attribute and object that each caption names, for `split_combinations`.

    An attribute belongs to the word after it, as in "a red cube"; several of one object, "a red and white cube", each
    belong to it. Case does not matter. In "the cube is red" the rule finds nothing, or the wrong object.

    Args:
        captions: Captions, in which an attribute stands before its object.
        attributes: Words or phrases; of "light blue" and "blue" the longer is found.

    Returns:
        A set for each caption, of (attribute, object).

    Raises:
        ValueError: If there are no attributes.

    Example:
        >>> found = find_combinations(["A light blue and white ball."], ["red", "white", "blue", "light blue"])
        >>> sorted(found[0])
        [('light blue', 'ball'), ('white', 'ball')]
    """
    phrases = {tuple(_WORD.findall(one.lower())) for one in attributes} - {()}
    if not phrases:
        raise ValueError("There are no attributes. Pass words, for example ['red', 'green', 'blue'].")
    ordered = sorted(phrases, key=len, reverse=True)
    return [set(_named(_WORD.findall(caption.lower()), ordered)) for caption in captions]


def _named(words: Sequence[str], phrases: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """The combinations in a caption's words; of phrases the longest come first."""
    waiting: list[str] = []
    place = 0
    while place < len(words):
        found = next((one for one in phrases if one == tuple(words[place : place + len(one)])), None)
        if found:
            waiting.append(" ".join(found))
        elif words[place] not in _BETWEEN:
            yield from ((attribute, words[place]) for attribute in waiting)
            waiting = []
        place += len(found) if found else 1
