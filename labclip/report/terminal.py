"""A page as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from labclip.report.values import Page, Section, Table, cleaned, pieces, shown

_GAP = "  "
_NARROWEST, _HEADING = 8, 14


def terminal(page: Page, *, width: int = 100) -> str:
    """The page as lines of at most `width` characters; figures are left out.

    Columns of words are wrapped where a table is too wide, columns of numbers never are.

    Args:
        page: What to show.
        width: Columns of the terminal.
    """
    parts = [_title(page.title, "=", width), _wrapped(page.lead, width)]
    for section in page.sections:
        parts += [_title(section.heading, "-", width), *(_wrapped(text, width) for text in section.paragraphs)]
        parts += _tables(section, width)
        parts += ["\n".join(_wrapped(note, width, "- ") for note in section.notes)]
    parts.append("\n".join(_wrapped(f"{name}: {value}", width) for name, value in page.facts))
    return "\n\n".join(part for part in parts if part)


def plain(text: str) -> str:
    """A paragraph without its backticks, on one line, without what a terminal would obey."""
    return " ".join(cleaned("".join(piece for piece, _ in pieces(text))).split())


def _title(text: str, rule: str, width: int) -> str:
    lines = textwrap.wrap(" ".join(cleaned(text).split()), width) or [""]
    return "\n".join([*lines, rule * max(map(len, lines))])


def _wrapped(text: str, width: int, bullet: str = "") -> str:
    hanging = " " * len(bullet)
    return textwrap.fill(
        plain(text), width, initial_indent=bullet, subsequent_indent=hanging, break_on_hyphens=False
    )  # fmt: skip


def _tables(section: Section, width: int) -> list[str]:
    """Tables of one section that have the same columns are as wide as one another."""
    blocks = []
    for table in section.tables:
        alike = [other for other in section.tables if list(other.columns) == list(table.columns)]
        blocks.append("\n".join([_wrapped(table.caption, width), *_lines(table, _widths(alike, width))]))
    return blocks


def _cells(row: Sequence[object]) -> list[str]:
    return [" ".join(cleaned(shown(cell)).split()) for cell in row]  # type: ignore[arg-type]


def _widths(tables: Sequence[Table], width: int) -> list[int]:
    """Of each column: what its cells need, and a number's heading up to `_HEADING`; words give way to the rest."""
    heads = _cells(tables[0].columns)
    words = set(tables[0].words)
    rows = [_cells(row) for table in tables for row in table.rows]
    widths = [len(head) if place in words else min(len(head), _HEADING) for place, head in enumerate(heads)]
    widths = [max(column) for column in zip(widths, *(map(len, row) for row in rows), strict=True)]
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    for _ in range(over if words else 0):
        widest = max(words, key=lambda place: widths[place])
        if widths[widest] > _NARROWEST:
            widths[widest] -= 1
    return widths


def _lines(table: Table, widths: Sequence[int]) -> list[str]:
    lines = []
    for row in (table.columns, *table.told_once):
        wrapped = [
            textwrap.wrap(cell, size, break_on_hyphens=False) for cell, size in zip(_cells(row), widths, strict=True)
        ]
        for line in range(max(1, *map(len, wrapped))):
            cells = [cell[line] if line < len(cell) else "" for cell in wrapped]
            aligned = [
                cell.ljust(size) if place in table.words else cell.rjust(size)
                for place, (cell, size) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append(_GAP.join(aligned).rstrip())
    return lines
