"""A page as text for a terminal, as Markdown for GitHub, and its tables as LaTeX for a paper. Figures are left out."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

from labclip.report.values import Page, Section, Table, cell_text, one_line, split_code

_WIDTH, _GAP = 100, "  "
_NARROWEST, _HEADING = 8, 14  # least characters of a column of words, most of a heading above numbers
_PREAMBLE = r"% In the preamble: \usepackage{booktabs} and \usepackage[T1]{fontenc}"
_MARKDOWN = str.maketrans({
    "\\": "\\\\", "`": "\\`", "*": "\\*", "<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "\\|", "~": "\\~",
    "$": "\\$",  # a formula
})  # fmt: skip
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "†": r"\rlap{$^{\dagger}$}",
})  # fmt: skip


def terminal(page: Page) -> str:
    """The page as lines of at most 100 characters. If a table is too wide, only its columns of words are wrapped."""
    parts = [_underlined(page.title, "="), _wrapped(page.lead)]
    for section in page.sections:
        parts += [_underlined(section.heading, "-"), *map(_wrapped, section.paragraphs)]
        parts += [_aligned_columns(table, section.tables) for table in section.tables]
        parts.append("\n".join(_wrapped(note, "- ") for note in section.notes))
    parts.append("\n".join(_wrapped(f"{name}: {value}") for name, value in page.facts))
    return "\n\n".join(filter(None, parts))


def _underlined(text: str, rule: str) -> str:
    lines = textwrap.wrap(one_line(text), _WIDTH) or [""]
    return "\n".join([*lines, rule * max(map(len, lines))])


def _wrapped(text: str, bullet: str = "") -> str:
    """A paragraph without its backticks; text between them, such as a command, is not broken across lines."""
    plain, hanging = _format_spans(one_line(text), str, lambda code: code.replace(" ", "\xa0")), " " * len(bullet)
    filled = textwrap.fill(
        plain, _WIDTH, initial_indent=bullet, subsequent_indent=hanging, break_on_hyphens=False, break_long_words=False
    )
    return filled.replace("\xa0", " ")


def _format_spans(text: str, plain: Callable[[str], str], code: Callable[[str], str]) -> str:
    """A paragraph whose plain text is formatted by `plain` and whose code by `code`."""
    return "".join(code(part) if is_code else plain(part) for part, is_code in split_code(text))


def _aligned_columns(table: Table, section: Sequence[Table]) -> str:
    """A table in text columns, as wide as other tables of the section with the same columns."""
    rows = [row for other in section if list(other.columns) == list(table.columns) for row in other.rows]
    widths = []
    for column, head in enumerate(table.columns):
        least = len(one_line(head)) if column in table.words else min(len(one_line(head)), _HEADING)
        widths.append(max([least, *(len(one_line(cell_text(row[column]))) for row in rows)]))
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - _WIDTH
    for _ in range(excess if table.words else 0):
        widest = max(table.words, key=lambda column: widths[column])
        widths[widest] = max(widths[widest] - 1, min(widths[widest], _NARROWEST))
    lines = [_wrapped(table.caption)] if table.caption else []
    for row in (table.columns, *table.rows):
        cells = [textwrap.wrap(one_line(cell_text(cell)), width, break_on_hyphens=False)
                 for cell, width in zip(row, widths, strict=True)]  # fmt: skip
        for parts in zip_longest(*cells, fillvalue=""):
            padded = [
                part.ljust(width) if column in table.words else part.rjust(width)
                for column, (part, width) in enumerate(zip(parts, widths, strict=True))
            ]
            lines.append(_GAP.join(padded).rstrip())
    return "\n".join(lines)


def markdown(page: Page, *, level: int = 1) -> str:
    """The page as GitHub Markdown, its title a heading of `level`: 2 for a page inside another. Strings are escaped."""
    parts = [f"{'#' * level} {_text(page.title)}", _paragraph(page.lead)]
    facts = Section("How it was measured", notes=[f"{name}: {value}" for name, value in page.facts])
    for section in (*page.sections, *([facts] if page.facts else [])):
        parts += [f"{'#' * (level + 1)} {_text(section.heading)}", *map(_paragraph, section.paragraphs)]
        parts += map(markdown_table, section.tables)
        parts.append("\n".join(f"- {_paragraph(note)}" for note in section.notes))
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown_table(table: Table) -> str:
    """One table with its caption above it."""
    rule = ["---" if column in table.words else "---:" for column in range(len(table.columns))]
    head, *rows = ([_text(cell_text(cell)) for cell in row] for row in (table.columns, *table.rows))
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    return "\n".join(([f"**{_text(table.caption)}**", ""] if table.caption else []) + lines)


def _text(text: str) -> str:
    return _escaped(one_line(text))


def _escaped(text: str) -> str:
    escaped = re.sub(r"\](?=[\[(])", r"]\\", text.translate(_MARKDOWN))  # a link
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", escaped)


def _paragraph(text: str) -> str:
    """A paragraph; characters that would start a heading or a list are escaped."""
    return re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", _format_spans(one_line(text), _escaped, "`{}`".format))


def latex(page: Page) -> str:
    r"""The page's tables as LaTeX with booktabs: a `table` per section, captioned by its heading and first text."""
    sections = [_latex_section(section) for section in page.sections if section.tables]
    return "\n\n".join([_PREAMBLE, *sections]) + "\n"


def _latex_section(section: Section) -> str:
    caption = _tex(" ".join([f"{section.heading}.", *section.paragraphs[:1]]))
    head = r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"
    lines = [*head]
    columns: list[str] = []
    for table in section.tables:
        if list(table.columns) != columns:
            lines += [r"\bottomrule", r"\end{tabular}", r"\par\medskip"] if columns else []
            columns = list(table.columns)
            alignment = "".join("l" if column in table.words else "r" for column in range(len(columns)))
            lines += [rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}", r"\toprule", _row(map(_head, columns))]
        lines.append(r"\midrule")
        if table.caption:
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{_tex(table.caption)}}}}} \\")
        lines += [_row(_tex(cell_text(cell)) for cell in row) for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par {_tex(text)}" for text in (*section.paragraphs[1:], *section.notes)]
    return "\n".join([*lines, r"\end{table}"])


def _row(cells: Iterable[str]) -> str:
    """A row of escaped cells."""
    # LaTeX would read a star or a bracket at the start of a row as an argument of the line break before it.
    return re.sub(r"^[\[*]", r"{\g<0>}", " & ".join(cells)) + r" \\"


def _head(text: str) -> str:
    """A heading, stacked in lines if it is long."""
    stack = r"\\".join(map(_tex, textwrap.wrap(text, _HEADING, break_long_words=False, break_on_hyphens=False)))
    return rf"\shortstack[r]{{{stack}}}" if r"\\" in stack else stack


def _tex(text: str) -> str:
    def plain(part: str) -> str:
        return re.sub(r"(?<![\w-])-(?=\d)", "$-$", part.translate(_LATEX))

    return _format_spans(one_line(text), plain, lambda part: rf"\texttt{{{plain(part)}}}")
