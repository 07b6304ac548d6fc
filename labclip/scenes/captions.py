"""Sentences that say which colour goes with which shape, and tags that do not.

All functions here write for a batch of scenes, given as index arrays whose things are ordered left to right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labclip.scenes.vocabulary import COLOURS, SHAPES

# {a}, {b}: "a red cube", with the article the colour asks for; {s}, {t}: their shapes; {c}, {d}: their colours.
# In the first six either thing may come first; in the last three the first is the left one, or the right one.
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
ONE_THING = ("{a}", "the {s} is {c}", "{e} {s} in {c}")
TAGS = (
    "{s} and {t} in {c} and {d}",
    "{c} {d} {s} {t}",
    "{s} {t} {c} {d}",
    "{e} {s} and {f} {t} in {c} and {d}",
    "{c} and {d} with {s} and {t}",
    "the {s} and the {t} and {c} and {d}",
)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _write(template: str, colours: Sequence[int], shapes: Sequence[int]) -> str:
    """Fill in a template for one or two things; colours and shapes each in the order of mention."""
    c, s = COLOURS[colours[0]], SHAPES[shapes[0]]
    d, t = COLOURS[colours[-1]], SHAPES[shapes[-1]]
    a, b = f"{_article(c)} {c} {s}", f"{_article(d)} {d} {t}"
    return template.format(a=a, b=b, c=c, d=d, s=s, t=t, e=_article(s), f=_article(t))


def draw_templates(rng: np.random.Generator, n: int, k: int = 1) -> NDArray[np.int64]:
    """Draw `k` different sentence templates for each of `n` two-thing scenes: indices into `SENTENCES`, [n, k]."""
    return np.argsort(rng.random((n, len(SENTENCES))), axis=1)[:, :k]


def sentences(
    rng: np.random.Generator,
    colours: NDArray[np.int64],
    shapes: NDArray[np.int64],
    swapped: NDArray[np.int64],
    templates: NDArray[np.int64] | None = None,
) -> tuple[list[str], list[str]]:
    """Write one sentence a scene, and its twin with the colours exchanged in the same template and order.

    Args:
        rng: Draws the template and the order of mention.
        colours: Colour of each thing from left to right, [n, things].
        shapes: Shape of each thing from left to right, [n, things].
        swapped: Colour of each thing after the exchange, [n, things].
        templates: Template of each scene, [n]; drawn when None. Only for two things.

    Returns:
        The sentences and their twins, n of each.
    """
    n, things = colours.shape
    names = ONE_THING if things == 1 else SENTENCES
    chosen = np.asarray(rng.integers(len(names), size=n) if templates is None else templates)
    order = np.argsort(rng.random((n, things)), axis=1)
    if things == 2:
        first_left = len(_ANY_ORDER)
        first_right = first_left + len(_LEFT_FIRST)
        order[(chosen >= first_left) & (chosen < first_right)] = (0, 1)
        order[chosen >= first_right] = (1, 0)
    c, s, x = (np.take_along_axis(values, order, axis=1).tolist() for values in (colours, shapes, swapped))
    if things > 2:
        return _lists(c, s), _lists(x, s)
    templates_used = [names[i] for i in chosen.tolist()]
    return list(map(_write, templates_used, c, s)), list(map(_write, templates_used, x, s))


def _lists(colours: list[list[int]], shapes: list[list[int]]) -> list[str]:
    """Many things as a plain list, short enough that five of them fit in 16 tokens."""
    return [
        " and ".join(f"{COLOURS[c]} {SHAPES[s]}" for c, s in zip(*scene, strict=True))
        for scene in zip(colours, shapes, strict=True)
    ]


def tags(rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> list[str]:
    """Write one caption a scene that names its colours and its shapes, in two independent orders: no binding.

    Args:
        rng: Draws the template and both orders.
        colours: Colour of each thing, [n, things].
        shapes: Shape of each thing, [n, things].

    Returns:
        n captions, such as "a moon and a cross in pink and white".
    """
    n, things = colours.shape
    c = np.take_along_axis(colours, np.argsort(rng.random((n, things)), axis=1), axis=1).tolist()
    s = np.take_along_axis(shapes, np.argsort(rng.random((n, things)), axis=1), axis=1).tolist()
    if things != 2:
        return [
            " ".join([SHAPES[i] for i in named] + [COLOURS[i] for i in painted])
            for named, painted in zip(s, c, strict=True)
        ]
    chosen = np.asarray(rng.integers(len(TAGS), size=n))
    return list(map(_write, [TAGS[i] for i in chosen.tolist()], c, s))
