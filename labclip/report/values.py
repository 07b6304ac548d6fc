"""What a page consists of. Every string is plain text, whoever wrote it: it is escaped when it is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from labclip.messages import printable

LOWER_IS_BETTER = ("modality_gap", "search_confused")
"""How the names of metrics begin of which less is better."""

Mark = Literal["", "good", "bad", "none"]
MARKS: dict[str, str] = {"": "", "good": "better", "bad": "worse", "none": ""}
"""The word that a mark puts beside its cell, so that colour is never alone in saying it."""


@dataclass(frozen=True)
class Cell:
    """A value with a judgement.

    Attributes:
        value: Text or number.
        mark: "good" and "bad" colour it and say "better" or "worse"; "none" greys it, for no measurable difference.
        words: What a page shows in its place; text shows the value, which is what Python and JSON call it.
    """

    value: str | float | None
    mark: Mark = ""
    words: str = ""


Value = str | float | None | Cell
"""A cell: text, an integer (thousands apart), a float (three decimals), None (empty), or a marked one."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its heading.

    Attributes:
        caption: Says what the rows are.
        columns: Headings.
        rows: As many cells each as there are columns.
        words: Indices of the columns that hold words; the others are numbers and stand right.
        minor: Indices of the columns that a narrow screen leaves out.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    words: Sequence[int] = (0,)
    minor: Sequence[int] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.caption

    @property
    def parts(self) -> tuple[Table, Table]:
        """What a page shows, and what it folds away: rows whose differences all are "none"."""
        marks = [{cell.mark for cell in row if isinstance(cell, Cell)} - {""} for row in self.rows]
        shown, folded = (
            [row for row, found in zip(self.rows, marks, strict=True) if (found == {"none"}) == quiet]
            for quiet in (False, True)
        )
        return replace(self, rows=shown), replace(self, rows=folded)


@dataclass(frozen=True)
class Figure:
    """An image with its words.

    Attributes:
        data: A PNG, JPEG or SVG file's bytes; `drawn` makes them of a matplotlib figure.
        alt: What it shows, in words, for those who can't see it.
        caption: Stands below it.
    """

    data: bytes
    alt: str
    caption: str = ""

    @property
    def media_type(self) -> str:
        """What kind of file the bytes are."""
        if self.data.startswith(b"\x89PNG"):
            return "image/png"
        return "image/jpeg" if self.data.startswith(b"\xff\xd8\xff") else "image/svg+xml"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order.

    Attributes:
        heading: Its title.
        paragraphs: Plain text; what stands between backticks is set as code.
        figures: Images.
        tables: Tables.
        notes: Small print, a list; backticks as in paragraphs.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: Heading of the page and name of its window.
        lead: What was found, in a sentence or a few: the first thing read; backticks as in paragraphs.
        sections: The rest.
        facts: What was measured and with what, (name, value) each.
        key: Figures in large type below the lead of a page, (figure, what it is) each; the lead says them too.
        appendix: What follows the facts in a page, and the sections in text.
    """

    title: str
    lead: str
    sections: Sequence[Section] = field(default=())
    facts: Sequence[tuple[str, str]] = field(default=())
    key: Sequence[tuple[str, str]] = field(default=())
    appendix: Sequence[Section] = field(default=())


def shown(value: Value) -> str:
    """A cell as text: the one way numbers are written in pages and tables."""
    if isinstance(value, Cell):
        return shown(value.value)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "not defined"
    text = f"{value:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text


def percent(value: float) -> str:
    """A fraction as percent, without the sign: 0.985 is "98.5", 0.58 "58"; only all is 100, only none 0."""
    rounded = round(100 * value, 1)
    if rounded == 100 and value < 1:
        return "99.9"
    return "0.1" if rounded == 0 and value > 0 else f"{rounded:g}"


def signed(value: float) -> str:
    """A difference to three decimals with its sign; one that rounds to zero is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def judged(difference: float, measurable: bool, text: str = "") -> Cell:
    """A difference as a cell, above 0 better: in colour, or greyed and in brackets where it is not measurable."""
    mark: Mark = "none" if not measurable else "good" if difference > 0 else "bad"
    return Cell(text or (signed(difference) if measurable else f"({signed(difference)})"), mark)


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
