"""Sentences that say which colour goes with which shape, and tags that do not.

All functions take a batch of scenes as arrays of indices, objects ordered left to right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labclip.scenes.vocabulary import COLOURS, SHAPES

# {a}, {b}: "a red cube"; {c}, {d}: the colours; {s}, {t}: the shapes; {e}, {f}: the articles of the shapes.
# In the first six either object may come first; in the last three the first is the left one, or the right one.
_ANY_ORDER = (
    "{a} next to {b}",
    "{a} and {b}",
    "{a} beside {b}",
    "{a} with {b}",
    "the {s} is {c} and the {t} is {d}",
    "{e} {s} in {c} beside {f} {t} in {d}",
)
_LEFT_FIRST = ("{a} left of {b}", "on the left {a} and on the right {b}")
_RIGHT_FIRST = ("{a} to the right of {b}",)
SENTENCES = _ANY_ORDER + _LEFT_FIRST + _RIGHT_FIRST
ONE_OBJECT = ("{a}", "the {s} is {c}", "{e} {s} in {c}")
TAGS = (
    "{s} and {t} in {c} and {d}",
    "{c} {d} {s} {t}",
    "{s} {t} {c} {d}",
    "{e} {s} and {f} {t} in {c} and {d}",
    "{c} and {d} with {s} and {t}",
    "the {s} and the {t} and {c} and {d}",
)


def noun_phrase(colour: str, shape: str) -> str:
    """An object in words, such as "an orange cube"."""
    return f"{_article(colour)} {colour} {shape}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _fill(template: str, colours: Sequence[int], shapes: Sequence[int]) -> str:
    """Fill in a template for one or two objects; colours and shapes each in the order of mention."""
    c, s = COLOURS[colours[0]], SHAPES[shapes[0]]
    d, t = COLOURS[colours[-1]], SHAPES[shapes[-1]]
    return template.format(a=noun_phrase(c, s), b=noun_phrase(d, t), c=c, d=d, s=s, t=t, e=_article(s), f=_article(t))


def draw_templates(rng: np.random.Generator, n: int, k: int = 1) -> NDArray[np.int64]:
    """Draw `k` different sentence templates for each of `n` two-object scenes: indices into `SENTENCES`, [n, k]."""
    return np.argsort(rng.random((n, len(SENTENCES))), axis=1)[:, :k]


def sentences(
    rng: np.random.Generator,
    colours: NDArray[np.int64],
    shapes: NDArray[np.int64],
    swapped: NDArray[np.int64],
    templates: NDArray[np.int64] | None = None,
) -> tuple[list[str], list[str]]:
    """Write one sentence a scene, and the same sentence with the colours `swapped`: n of each.

    Args:
        rng: Draws the order of mention, and the template of each scene where `templates`, [n], is None.
        colours: Colour of each object from left to right, [n, objects].
        shapes: Shape of each object, [n, objects].
        swapped: Colour of each object after the swap, [n, objects].
        templates: Only for two objects.
    """
    n, objects = colours.shape
    names = ONE_OBJECT if objects == 1 else SENTENCES
    chosen = np.asarray(rng.integers(len(names), size=n) if templates is None else templates)
    order = np.argsort(rng.random((n, objects)), axis=1)
    if objects == 2:
        order[chosen >= len(_ANY_ORDER)] = (0, 1)
        order[chosen >= len(_ANY_ORDER + _LEFT_FIRST)] = (1, 0)
    c, s, x = (np.take_along_axis(values, order, axis=1).tolist() for values in (colours, shapes, swapped))
    if objects > 2:
        return list(map(_list, c, s)), list(map(_list, x, s))
    used = [names[i] for i in chosen.tolist()]
    return list(map(_fill, used, c, s)), list(map(_fill, used, x, s))


def _list(colours: Sequence[int], shapes: Sequence[int]) -> str:
    """Many objects as a plain list, short enough that five of them fit in 16 tokens."""
    return " and ".join(f"{COLOURS[c]} {SHAPES[s]}" for c, s in zip(colours, shapes, strict=True))


def tags(rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> list[str]:
    """Write one caption a scene that names its colours and its shapes, both [n, objects], in two independent orders.

    So it binds nothing, as "a moon and a cross in pink and white" does not.
    """
    n, objects = colours.shape
    c, s = (
        np.take_along_axis(values, np.argsort(rng.random((n, objects)), axis=1), axis=1).tolist()
        for values in (colours, shapes)
    )
    if objects != 2:
        return [" ".join([*(SHAPES[i] for i in a), *(COLOURS[i] for i in b)]) for a, b in zip(s, c, strict=True)]
    chosen = np.asarray(rng.integers(len(TAGS), size=n))
    return list(map(_fill, [TAGS[i] for i in chosen.tolist()], c, s))
