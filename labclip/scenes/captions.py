"""Sentences that say which colour goes with which shape, and tags that do not.

All functions take a batch of scenes as arrays of indices, objects ordered left to right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labclip.scenes.vocabulary import COLOURS, SHAPES


def _fields(objects: int) -> list[list[str]]:
    """Fields of templates, one an object: in words ("a red cube"), its colour, its shape, its shape with an article."""
    words, colours, shapes, articles = ([f"{{{field}{number}}}" for number in range(objects)] for field in "wcsa")
    return [words, colours, shapes, [f"{a} {s}" for a, s in zip(articles, shapes, strict=True)]]


def _sentences(objects: int) -> tuple[tuple[str, ...], ...]:
    """Templates that name one to three objects in any order, from the left, and from the right.

    Every word is one that the embedded model learnt, and none is longer than 14 words, which with start and end are its
    16 tokens. Four objects and more have no room for articles: see `_list`.
    """
    words, colours, shapes, articled = _fields(objects)
    first, others = words[0], " and ".join(words[1:])
    is_said = [f"the {shape} is {colour}" for shape, colour in zip(shapes, colours, strict=True)]
    in_said = [f"{shape} in {colour}" for shape, colour in zip(articled, colours, strict=True)]
    if objects == 1:
        return (first, *is_said, *in_said), (), ()
    any_order = [f"{first} {word} {others}" for word in ("next to", "and", "beside", "with")]
    any_order += [" and ".join(is_said), f"{in_said[0]} beside {' and '.join(in_said[1:])}"]
    left_first = [f"{first} left of {others}"]
    left_first += [f"on the left {first} and on the right {others}"] if objects == 2 else []
    return tuple(any_order), tuple(left_first), (f"{first} to the right of {others}",)


def _tags(objects: int) -> tuple[str, ...]:
    _, colours, shapes, articled = _fields(objects)
    all_colours = " and ".join(colours)
    return (
        f"{' and '.join(shapes)} in {all_colours}",
        " ".join([*colours, *shapes]),
        " ".join([*shapes, *colours]),
        f"{' and '.join(articled)} in {all_colours}",
        f"{all_colours} with {' and '.join(shapes)}",
        " and ".join([*(f"the {shape}" for shape in shapes), all_colours]),
    )


_TEMPLATES = {objects: _sentences(objects) for objects in (1, 2, 3)}
SENTENCES = {objects: sum(parts, ()) for objects, parts in _TEMPLATES.items()}
TAGS = {objects: _tags(objects) for objects in (2, 3)}


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
