"""Sentences that say which colour goes with which shape, and tags that do not.

All functions take a batch of scenes as arrays of indices, objects ordered left to right. The fields of a template are
an object in words ("a red cube"), its colour, its shape, and the article of its shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labclip.scenes.vocabulary import COLOURS, SHAPES

# Every word is one that the embedded model learnt, and none is longer than 14 words, which with start and end are its
# 16 tokens. Four objects and more have no room for articles: see `_list`. The order counts: it is drawn from.
SENTENCES: dict[int, tuple[str, ...]] = {
    1: ("{w0}", "the {s0} is {c0}", "{a0} {s0} in {c0}"),
    2: (
        "{w0} next to {w1}",
        "{w0} and {w1}",
        "{w0} beside {w1}",
        "{w0} with {w1}",
        "the {s0} is {c0} and the {s1} is {c1}",
        "{a0} {s0} in {c0} beside {a1} {s1} in {c1}",
        "{w0} left of {w1}",
        "on the left {w0} and on the right {w1}",
        "{w0} to the right of {w1}",
    ),
    3: (
        "{w0} next to {w1} and {w2}",
        "{w0} and {w1} and {w2}",
        "{w0} beside {w1} and {w2}",
        "{w0} with {w1} and {w2}",
        "the {s0} is {c0} and the {s1} is {c1} and the {s2} is {c2}",
        "{a0} {s0} in {c0} beside {a1} {s1} in {c1} and {a2} {s2} in {c2}",
        "{w0} left of {w1} and {w2}",
        "{w0} to the right of {w1} and {w2}",
    ),
}
TAGS: dict[int, tuple[str, ...]] = {
    2: (
        "{s0} and {s1} in {c0} and {c1}",
        "{c0} {c1} {s0} {s1}",
        "{s0} {s1} {c0} {c1}",
        "{a0} {s0} and {a1} {s1} in {c0} and {c1}",
        "{c0} and {c1} with {s0} and {s1}",
        "the {s0} and the {s1} and {c0} and {c1}",
    ),
    3: (
        "{s0} and {s1} and {s2} in {c0} and {c1} and {c2}",
        "{c0} {c1} {c2} {s0} {s1} {s2}",
        "{s0} {s1} {s2} {c0} {c1} {c2}",
        "{a0} {s0} and {a1} {s1} and {a2} {s2} in {c0} and {c1} and {c2}",
        "{c0} and {c1} and {c2} with {s0} and {s1} and {s2}",
        "the {s0} and the {s1} and the {s2} and {c0} and {c1} and {c2}",
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
    for number, (c, s) in enumerate(zip(colours, shapes, strict=True)):
        colour, shape = COLOURS[c], SHAPES[s]
        words[f"w{number}"], words[f"a{number}"] = noun_phrase(colour, shape), _article(shape)
        words[f"c{number}"], words[f"s{number}"] = colour, shape
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

    Colours, shapes and swapped colours are [n, objects], objects from left to right. The order of mention is drawn, and
    so are `templates`, [n], where they are None; four objects and more have none and are a plain list.
    """
    n, objects = colours.shape
    known = SENTENCES.get(objects, ("",))
    chosen = np.asarray(rng.integers(len(known), size=n) if templates is None else templates)
    used = [known[number] for number in chosen]
    order = np.argsort(rng.random((n, objects)), axis=1)
    order[[" left " in template for template in used]] = np.arange(objects)
    order[[" right of " in template for template in used]] = np.arange(objects)[::-1]
    c, s, x = (np.take_along_axis(values, order, axis=1).tolist() for values in (colours, shapes, swapped))
    if objects not in SENTENCES:
        return list(map(_list, c, s)), list(map(_list, x, s))
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
    chosen = np.asarray(rng.integers(len(TAGS[objects]), size=n))
    return list(map(_fill, [TAGS[objects][number] for number in chosen], c, s))
