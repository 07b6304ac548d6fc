"""A page as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from labclip.report.values import Page, Section, Table, line, pieces, shown

_GAP = "  "
_NARROWEST, _HEADING = 8, 14


def terminal(page: Page, *, width: int = 100) -> str:
    """The page as lines of at most `width` characters; figures are left out.

    Columns of words are wrapped where a table is too wide, columns of numbers never are.
    """
    parts = [_title(page.title, "=", width), _wrapped(page.lead, width)]
    for section in (*page.sections, *page.appendix):
        parts += [_title(section.heading, "-", width), *(_wrapped(text, width) for text in section.paragraphs)]
        parts += [_table(table, section, width) for table in section.tables]
        parts.append("\n".join(_wrapped(note, width, "- ") for note in section.notes))
    parts.append("\n".join(_wrapped(f"{name}: {value}", width) for name, value in page.facts))
    return "\n\n".join(part for part in parts if part)


def _title(text: str, rule: str, width: int) -> str:
    lines = textwrap.wrap(line(text), width) or [""]
    return "\n".join([*lines, rule * max(map(len, lines))])


def _wrapped(text: str, width: int, bullet: str = "") -> str:
    """A paragraph without its backticks."""
    plain, hanging = line("".join(piece for piece, _ in pieces(text))), " " * len(bullet)
    return textwrap.fill(plain, width, initial_indent=bullet, subsequent_indent=hanging, break_on_hyphens=False)


def _table(table: Table, section: Section, width: int) -> str:
    """A table, as wide as the others of its section that have the same columns."""
    alike = [other for other in section.tables if list(other.columns) == list(table.columns)]
    widths = _widths(alike, width)
    lines = [_wrapped(table.caption, width)]
    for row in (table.columns, *table.told_once):
        wrapped = [
            textwrap.wrap(line(shown(cell)), size, break_on_hyphens=False)
            for cell, size in zip(row, widths, strict=True)
        ]
        for number in range(max(1, *map(len, wrapped))):
            cells = [cell[number] if number < len(cell) else "" for cell in wrapped]
            padded = [
                cell.ljust(size) if place in table.words else cell.rjust(size)
                for place, (cell, size) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append(_GAP.join(padded).rstrip())
    return "\n".join(lines)


def _widths(tables: Sequence[Table], width: int) -> list[int]:
    """Of each column: what its cells need, and a number's heading up to `_HEADING`; words give way to the rest."""
    words = set(tables[0].words)
    widths = []
    for place, head in enumerate(tables[0].columns):
        needed = len(line(head)) if place in words else min(len(line(head)), _HEADING)
        widths.append(max(needed, *(len(line(shown(row[place]))) for table in tables for row in table.rows), 0))
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    for _ in range(over if words else 0):
        widest = max(words, key=lambda place: widths[place])
        if widths[widest] > _NARROWEST:
            widths[widest] -= 1
    return widths
