"""Sentences that say which colour goes with which shape, and tags that do not.

All functions take a batch of scenes as arrays of indices, objects ordered left to right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labclip.scenes.vocabulary import COLOURS, SHAPES

# Of each object: in words ("a red cube"), its colour, its shape, the article of the shape.
_FIELDS = ("acse", "bdtf", "ghui")
# By the number of objects: templates that name them in any order, from the left, and from the right. Every word is one
# that the embedded model learnt, and none is longer than 14 words, which with start and end are its 16 tokens. Four
# objects and more have no room for articles: see `_list`.
_TEMPLATES: dict[int, tuple[tuple[str, ...], ...]] = {
    1: (("{a}", "the {s} is {c}", "{e} {s} in {c}"), (), ()),
    2: (
        (
            "{a} next to {b}",
            "{a} and {b}",
            "{a} beside {b}",
            "{a} with {b}",
            "the {s} is {c} and the {t} is {d}",
            "{e} {s} in {c} beside {f} {t} in {d}",
        ),
        ("{a} left of {b}", "on the left {a} and on the right {b}"),
        ("{a} to the right of {b}",),
    ),
    3: (
        (
            "{a} next to {b} and {g}",
            "{a} and {b} and {g}",
            "{a} beside {b} and {g}",
            "{a} with {b} and {g}",
            "the {s} is {c} and the {t} is {d} and the {u} is {h}",
            "{e} {s} in {c} beside {f} {t} in {d} and {i} {u} in {h}",
        ),
        ("{a} left of {b} and {g}",),
        ("{a} to the right of {b} and {g}",),
    ),
}
SENTENCES = {objects: sum(parts, ()) for objects, parts in _TEMPLATES.items()}
TAGS = {
    2: (
        "{s} and {t} in {c} and {d}",
        "{c} {d} {s} {t}",
        "{s} {t} {c} {d}",
        "{e} {s} and {f} {t} in {c} and {d}",
        "{c} and {d} with {s} and {t}",
        "the {s} and the {t} and {c} and {d}",
    ),
    3: (
        "{s} and {t} and {u} in {c} and {d} and {h}",
        "{c} {d} {h} {s} {t} {u}",
        "{s} {t} {u} {c} {d} {h}",
        "{e} {s} and {f} {t} and {i} {u} in {c} and {d} and {h}",
        "{c} and {d} and {h} with {s} and {t} and {u}",
        "the {s} and the {t} and the {u} and {c} and {d} and {h}",
    ),
}


def noun_phrase(colour: str, shape: str) -> str:
    """An object in words, such as "an orange cube"."""
    return f"{_article(colour)} {colour} {shape}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _fill(template: str, colours: Sequence[int], shapes: Sequence[int]) -> str:
    """Fill in a template for one to three objects; colours and shapes each in the order of mention."""
    words: dict[str, str] = {}
    for fields, c, s in zip(_FIELDS, colours, shapes, strict=False):
        colour, shape = COLOURS[c], SHAPES[s]
        words |= zip(fields, (noun_phrase(colour, shape), colour, shape, _article(shape)), strict=True)
    return template.format(**words)


def draw_templates(rng: np.random.Generator, n: int, k: int = 1, n_objects: int = 2) -> NDArray[np.int64]:
    """Draw `k` different sentence templates for each of `n` scenes: indices into `SENTENCES[n_objects]`, [n, k]."""
    return np.argsort(rng.random((n, len(SENTENCES[n_objects]))), axis=1)[:, :k]


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
        templates: Only for up to three objects; more are a plain list.
    """
    n, objects = colours.shape
    names = SENTENCES.get(objects, ())
    chosen = np.asarray(rng.integers(len(names) or 1, size=n) if templates is None else templates)
    order = np.argsort(rng.random((n, objects)), axis=1)
    if names:
        any_order, left_first, _ = map(len, _TEMPLATES[objects])
        order[chosen >= any_order] = np.arange(objects)
        order[chosen >= any_order + left_first] = np.arange(objects)[::-1]
    c, s, x = (np.take_along_axis(values, order, axis=1).tolist() for values in (colours, shapes, swapped))
    if not names:
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
    if objects not in TAGS:
        return [" ".join([*(SHAPES[i] for i in a), *(COLOURS[i] for i in b)]) for a, b in zip(s, c, strict=True)]
    names = TAGS[objects]
    chosen = np.asarray(rng.integers(len(names), size=n))
    return list(map(_fill, [names[i] for i in chosen.tolist()], c, s))
