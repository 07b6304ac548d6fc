"""The parts of a report page. Every string is plain text and is escaped when it is shown."""

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
"""The name of a retrieval metric: the kind of query if it is not a caption, the direction, and k."""

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
    mark: Mark = ""  # "good" and "bad" add a colour and "better" or "worse"; "none", not measurable, makes it grey
    words: str = ""  # what an HTML page shows in its place; text shows the value, the name used in Python and JSON


Value = str | float | None | Cell
"""A cell: text, an integer (with thousands separators), a float (three decimals), None (empty), or a marked value."""


@dataclass(frozen=True)
class Table:
    """Rows with a cell for each column; the first cell of a row is its heading."""

    caption: str  # what the rows are
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    words: Sequence[int] = (0,)  # columns of words; the others are numbers, aligned right
    minor: Sequence[int] = ()  # columns that a narrow screen leaves out


@dataclass(frozen=True)
class Figure:
    """A figure of an HTML page. Text and Markdown leave it out and so need no matplotlib."""

    draw: Callable[[], Any]  # returns a `matplotlib.figure.Figure`
    alt: str  # what it shows, for readers who can't see it
    caption: str = ""  # shown below it


@dataclass(frozen=True)
class Section:
    """A heading and what is shown below it, in this order; text between backticks is shown as code."""

    heading: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()  # a list in small print


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: str  # the result in a few sentences, at the top; backticks as in paragraphs
    sections: Sequence[Section] = ()
    facts: Sequence[tuple[str, str]] = ()  # names and values: what was measured, and with what


def cell_text(value: Value) -> str:
    """A cell as text. All numbers in pages and tables are written so."""
    if isinstance(value, Cell):
        return cell_text(value.value)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return f"{value:,}"
    return "not defined" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"


def metric_words(metric: str) -> str:
    """A metric in words.

    Example:
        >>> [metric_words(name) for name in ("t2i_r1", "tags_i2t_r5", "swap_att")]
        ['text-to-image retrieval (R@1)', 'image-to-text retrieval, tags (R@5)', 'swap attribute']
    """
    if match := RECALL.fullmatch(metric):
        (query, _, details), k = (match[1] or "").partition("_"), match[3]
        direction = "text-to-image" if match[2] == "t2i" else "image-to-text"
        words = [f"{direction} retrieval", query, metric_words(details)]
        return f"{', '.join(filter(None, words))} (R@{k})"
    if match := re.fullmatch(r"(?:(.+)_)?(?:acc(\d+)|mean_per_class)", metric):
        prefix, k = match.groups("")
        words = [metric_words(prefix), f"top-{k} accuracy" if k else "mean accuracy of the classes"]
        return ": ".join(filter(None, words))
    return " ".join(_WORDS.get(part, part) for part in metric.split("_"))


def percent(value: float) -> str:
    """A fraction as percent, without the sign: 0.985 is "98.5", 0.58 is "58"; only 1 is "100", and only 0 is "0"."""
    rounded = round(100 * value, 1)
    if rounded == 100 and value < 1:
        return "99.9"
    return "0.1" if rounded == 0 and value > 0 else f"{rounded:g}"


def signed(value: float) -> str:
    """A difference with its sign and three decimals; "+0.000" if it rounds to zero."""
    return f"{round(value, 3) + 0.0:+.3f}"


def gain_sentence(subject: str, value: float, gain: float | None, grounded: Sequence[float] = ()) -> str:
    """A sentence on the accuracy with a matrix, its gain, and the part of the gain that needs the image.

    That part is the gain of `NAME_grounded`, if `grounded` has one. A `gain` of None is not measurable.

    Example:
        >>> gain_sentence("With the matrix it is", 0.995, 0.41, [0.3])
        'With the matrix it is 99.5%. Of +0.41 gained, +0.30 needs the image.'
    """
    sentence = f"{subject} {percent(value)}%"
    if gain is None:
        return f"{sentence}, {UNMEASURABLE}."
    if gain < 0:
        return f"{sentence}, which is worse."
    needed = ["all" if part >= gain else f"{part:+.2f}" for part in grounded] if gain > 0 else []
    return f"{sentence}." + "".join(f" Of {gain:+.2f} gained, {part} needs the image." for part in needed)


def version_facts(weights_sha256: str, versions: Mapping[str, str], date: str) -> list[tuple[str, str]]:
    """Facts of a page: the base's weights, the versions of packages, and the date. Unknown ones ("") are left out."""
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts = [("Weights", weights_sha256 and f"SHA-256 {weights_sha256}"), ("Versions", packages), ("Date", date)]
    return [fact for fact in facts if fact[1]]


def matrix_words(sha256: str, strength: float) -> str:
    """A matrix and its strength, for the facts of a page."""
    return f"matrix {sha256[:16]}, strength {strength:g}"


def one_line(text: str) -> str:
    """The text on one line, with only printable characters."""
    return printable(" ".join(text.split()))


def split_code(text: str) -> list[tuple[str, bool]]:
    """The parts of a text between backticks and outside, each with whether it is code. A single backtick stays."""
    parts = re.split("`([^`]*)`", text)
    return [(part, number % 2 == 1) for number, part in enumerate(parts) if part]
