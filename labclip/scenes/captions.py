"""Sentences that say which colour goes with which shape, and tags that do not.

Scenes are given as arrays of indices, with objects ordered from left to right. The fields of a template are `w`, an
object in words ("a red cube"), `c`, its colour, `s`, its shape, and `a`, the article of its shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labclip.scenes.vocabulary import COLOURS, SHAPES

# The embedded model was trained on all these words. It reads 16 tokens, so a sentence has at most 14 words; for four
# objects and more there is no room for articles. The order must not change, as seeds draw from it.
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
    4: ("{c0} {s0} and {c1} {s1} and {c2} {s2} and {c3} {s3}",),
    5: ("{c0} {s0} and {c1} {s1} and {c2} {s2} and {c3} {s3} and {c4} {s4}",),
}
TAGS: dict[int, tuple[str, ...]] = {
    1: ("{s0} {c0}",),
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
    4: ("{s0} {s1} {s2} {s3} {c0} {c1} {c2} {c3}",),
    5: ("{s0} {s1} {s2} {s3} {s4} {c0} {c1} {c2} {c3} {c4}",),
}


def noun_phrase(colour: str, shape: str) -> str:
    """An object in words, such as "an orange cube"."""
    return f"{_article(colour)} {colour} {shape}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _fill(template: str, colours: Sequence[int], shapes: Sequence[int]) -> str:
    """Fill in a template, with the colours and shapes of the objects in the order of mention."""
    words: dict[str, str] = {}
    for index, (c, s) in enumerate(zip(colours, shapes, strict=True)):
        colour, shape = COLOURS[c], SHAPES[s]
        words[f"w{index}"], words[f"a{index}"] = noun_phrase(colour, shape), _article(shape)
        words[f"c{index}"], words[f"s{index}"] = colour, shape
    return template.format(**words)


def sentences(
    rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64], swapped: NDArray[np.int64],
    templates: NDArray[np.int64] | None = None,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Write one sentence for each scene, and the same sentence with the `swapped` colours.

    Colours, shapes and swapped colours are [n, objects]. The order of mention is random, and so are the `templates`,
    [n], if None.
    """
    n, n_objects = colours.shape
    forms = SENTENCES[n_objects]
    templates = np.asarray(rng.integers(len(forms), size=n) if templates is None else templates)
    texts = [forms[template] for template in templates]
    order = np.argsort(rng.random((n, n_objects)), axis=1)
    order[[" left " in text for text in texts]] = np.arange(n_objects)
    order[[" right of " in text for text in texts]] = np.arange(n_objects)[::-1]
    c, s, x = (np.take_along_axis(values, order, axis=1).tolist() for values in (colours, shapes, swapped))
    return list(map(_fill, texts, c, s)), list(map(_fill, texts, x, s))


def tags(rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> list[str]:
    """Write one caption for each scene that names its colours and its shapes, both [n, objects], in independent orders.

    Such a caption, as "a moon and a cross in pink and white", does not say which colour goes with which shape.
    """
    n, n_objects = colours.shape
    c, s = (
        np.take_along_axis(values, np.argsort(rng.random((n, n_objects)), axis=1), axis=1).tolist()
        for values in (colours, shapes)
    )
    templates = np.asarray(rng.integers(len(TAGS[n_objects]), size=n))
    return list(map(_fill, [TAGS[n_objects][template] for template in templates], c, s))
