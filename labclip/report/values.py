"""The parts of a report page. Every string is plain text, and escaped when it is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labclip.checks import printable

LOWER_IS_BETTER = ("modality_gap", "search_confused")
"""Prefixes of metrics for which lower is better."""

RECALL = re.compile(r"(?:(.+)_)?(t2i|i2t)_r(\d+)")
"""The name of a metric of retrieval: what is searched with, if it is no caption, the direction, and k."""

_WORDS = {
    "att": "attribute", "obj": "object", "rel": "relation", "no": "without", "heldout": "unseen pairs",
    "seen": "seen pairs", "three": "three objects",
    "itt": "image to text", "tot": "text only", "macro": "mean over kinds", "micro": "all items",
    "blind": "by the mean image", "grounded": "above the mean image",
    "map": "mean average precision", "p5": "precision of the top 5", "confused5": "confused among the top 5",
}  # fmt: skip

UNMEASURABLE = "no measurable difference"

Mark = Literal["", "good", "bad", "none"]


@dataclass(frozen=True)
class Cell:
    """A value with a judgement."""

    value: str | float | None
    mark: Mark = ""  # "good" and "bad" colour it and say "better" or "worse"; "none" greys it: not measurable
    words: str = ""  # what a page shows in its place; text shows the value, as Python and JSON call it


Value = str | float | None | Cell
"""A cell: text, an integer (thousands apart), a float (three decimals), None (empty), or a marked one."""


@dataclass(frozen=True)
class Table:
    """Rows with a cell for each column; the first cell of a row is its heading."""

    caption: str  # says what the rows are
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    words: Sequence[int] = (0,)  # columns that hold words; the others are numbers and stand right
    minor: Sequence[int] = ()  # columns that a narrow screen leaves out


@dataclass(frozen=True)
class Figure:
    """A figure of an HTML page; text and Markdown leave it out, so that they need no matplotlib."""

    draw: Callable[[], Any]  # gives a `matplotlib.figure.Figure`
    alt: str  # what it shows, for those who can't see it
    caption: str = ""  # stands below it


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order; what stands between backticks is set as code."""

    heading: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()  # small print, a list


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: str  # what was found, in a sentence or a few: the first thing read; backticks as in paragraphs
    sections: Sequence[Section] = ()
    facts: Sequence[tuple[str, str]] = ()  # what was measured and with what, by name


def shown(value: Value) -> str:
    """A cell as text: the one way numbers are written in pages and tables."""
    if isinstance(value, Cell):
        return shown(value.value)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return f"{value:,}"
    return "not defined" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"


def worded(metric: str) -> str:
    """A metric in words.

    Example:
        >>> [worded(name) for name in ("t2i_r1", "tags_i2t_r5", "swap_att")]
        ['text-to-image retrieval (R@1)', 'image-to-text retrieval, tags (R@5)', 'swap attribute']
    """
    if match := RECALL.fullmatch(metric):
        (kind, _, rest), way, k = (match[1] or "").partition("_"), match[2], match[3]
        words = [f"{'text-to-image' if way == 't2i' else 'image-to-text'} retrieval", kind, worded(rest)]
        return f"{', '.join(filter(None, words))} (R@{k})"
    if match := re.fullmatch(r"(?:(.+)_)?(?:acc(\d+)|mean_per_class)", metric):
        of, k = match.groups("")
        return (f"{worded(of)}: " if of else "") + (f"top-{k} accuracy" if k else "mean accuracy of the classes")
    return " ".join(_WORDS.get(part, part) for part in metric.split("_"))


def percent(value: float) -> str:
    """A fraction as percent, without the sign: 0.985 is "98.5", 0.58 "58"; only all is 100, only none 0."""
    rounded = round(100 * value, 1)
    if rounded == 100 and value < 1:
        return "99.9"
    return "0.1" if rounded == 0 and value > 0 else f"{rounded:g}"


def signed(value: float) -> str:
    """A difference to three decimals with its sign; one that rounds to zero is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def gain_sentence(subject: str, value: float, gain: float | None, grounded: Sequence[float] = ()) -> str:
    """A sentence on the accuracy with a matrix, its gain, and the part that needs the image, that of `NAME_grounded`.

    A gain below 0 is for the worse, None is not measurable.

    Example:
        >>> gain_sentence("With the matrix it is", 0.995, 0.41, [0.3])
        'With the matrix it is 99.5%. Of +0.41 gained, +0.30 needs the image.'
    """
    sentence = f"{subject} {percent(value)}%"
    if gain is None:
        return f"{sentence}, {UNMEASURABLE}."
    if gain < 0:
        return f"{sentence}, which is worse."
    need = [("all" if share >= gain else f"{share:+.2f}") for share in grounded] if gain > 0 else []
    return f"{sentence}." + "".join(f" Of {gain:+.2f} gained, {share} needs the image." for share in need)


def measured_by(weights_sha256: str, versions: Mapping[str, str], date: str) -> list[tuple[str, str]]:
    """Facts of a page: the base's weights, the versions of packages, and the date; what is "" is not known."""
    several = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts = [("Weights", weights_sha256 and f"SHA-256 {weights_sha256}"), ("Versions", several), ("Date", date)]
    return [fact for fact in facts if fact[1]]


def matrix_in_words(sha256: str, strength: float) -> str:
    """A matrix for the facts of a page."""
    return f"matrix {sha256[:16]}, strength {strength:g}"


def line(text: str) -> str:
    """A text on one line, printable."""
    return printable(" ".join(text.split()))


def pieces(text: str) -> list[tuple[str, bool]]:
    """Text and code in turn, whether it is code beside; a backtick without a second one is itself."""
    parts = re.split("`([^`]*)`", text)
    return [(part, number % 2 == 1) for number, part in enumerate(parts) if part]
