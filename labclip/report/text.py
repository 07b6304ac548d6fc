"""A page as text for a terminal, as Markdown for GitHub, and its tables as LaTeX for a paper. Figures are left out."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

from labclip.report.values import Page, Section, Table, line, pieces, shown

_WIDTH, _GAP = 100, "  "
_NARROWEST, _HEADING = 8, 14  # characters of a column of words, and of a number's heading
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
    """The page as lines of at most 100 characters.

    Columns of words are wrapped where a table is too wide, columns of numbers never are.
    """
    parts = [_underlined(page.title, "="), _wrapped(page.lead)]
    for section in page.sections:
        parts += [_underlined(section.heading, "-"), *map(_wrapped, section.paragraphs)]
        parts += [_columns(table, section.tables) for table in section.tables]
        parts.append("\n".join(_wrapped(note, "- ") for note in section.notes))
    parts.append("\n".join(_wrapped(f"{name}: {value}") for name, value in page.facts))
    return "\n\n".join(filter(None, parts))


def _underlined(text: str, rule: str) -> str:
    lines = textwrap.wrap(line(text), _WIDTH) or [""]
    return "\n".join([*lines, rule * max(map(len, lines))])


def _wrapped(text: str, bullet: str = "") -> str:
    """A paragraph without its backticks; what stood between them, as a command to be typed, is not broken."""
    plain, hanging = _spans(line(text), str, lambda code: code.replace(" ", "\xa0")), " " * len(bullet)
    filled = textwrap.fill(
        plain, _WIDTH, initial_indent=bullet, subsequent_indent=hanging, break_on_hyphens=False, break_long_words=False
    )
    return filled.replace("\xa0", " ")


def _spans(text: str, plain: Callable[[str], str], code: Callable[[str], str]) -> str:
    """A paragraph, its text and its code each shown in a way."""
    return "".join(code(piece) if is_code else plain(piece) for piece, is_code in pieces(text))


def _columns(table: Table, beside: Sequence[Table]) -> str:
    """A table, as wide as the others beside it that have the same columns."""
    rows = [row for other in beside if list(other.columns) == list(table.columns) for row in other.rows]
    widths = []
    for at, head in enumerate(table.columns):
        least = len(line(head)) if at in table.words else min(len(line(head)), _HEADING)
        widths.append(max([least, *(len(line(shown(row[at]))) for row in rows)]))
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - _WIDTH
    for _ in range(over if table.words else 0):
        widest = max(table.words, key=lambda at: widths[at])
        widths[widest] = max(widths[widest] - 1, min(widths[widest], _NARROWEST))
    lines = [_wrapped(table.caption)] if table.caption else []
    for row in (table.columns, *table.rows):
        cells = [textwrap.wrap(line(shown(cell)), size, break_on_hyphens=False)
                 for cell, size in zip(row, widths, strict=True)]  # fmt: skip
        for parts in zip_longest(*cells, fillvalue=""):
            sized = enumerate(zip(parts, widths, strict=True))
            padded = [part.ljust(size) if at in table.words else part.rjust(size) for at, (part, size) in sized]
            lines.append(_GAP.join(padded).rstrip())
    return "\n".join(lines)


def markdown(page: Page, *, level: int = 1) -> str:
    """The page as GitHub Markdown, its title of a level: 2 for a page inside another. Its strings stay text."""
    parts = [f"{'#' * level} {_text(page.title)}", _paragraph(page.lead)]
    facts = Section("How it was measured", notes=[f"{name}: {value}" for name, value in page.facts])
    for section in (*page.sections, *([facts] if page.facts else [])):
        parts += [f"{'#' * (level + 1)} {_text(section.heading)}", *map(_paragraph, section.paragraphs)]
        parts += map(markdown_table, section.tables)
        parts.append("\n".join(f"- {_paragraph(note)}" for note in section.notes))
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown_table(table: Table) -> str:
    """One table with its caption above it."""
    rule = ["---" if at in table.words else "---:" for at in range(len(table.columns))]
    head, *rows = ([_text(shown(cell)) for cell in row] for row in (table.columns, *table.rows))
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    return "\n".join(([f"**{_text(table.caption)}**", ""] if table.caption else []) + lines)


def _text(text: str) -> str:
    return _escaped(line(text))


def _escaped(text: str) -> str:
    escaped = re.sub(r"\](?=[\[(])", r"]\\", text.translate(_MARKDOWN))  # a link
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", escaped)


def _paragraph(text: str) -> str:
    """A paragraph; marks that would begin a heading or a list are escaped."""
    return re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", _spans(line(text), _escaped, "`{}`".format))


def latex(page: Page) -> str:
    r"""The page's tables as LaTeX with booktabs: one `table` a section; heading and first paragraph are its caption."""
    sections = [_latex_section(section) for section in page.sections if section.tables]
    return "\n\n".join([_PREAMBLE, *sections]) + "\n"


def _latex_section(section: Section) -> str:
    caption = _tex(" ".join([f"{section.heading}.", *section.paragraphs[:1]]))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
    ]
    columns: list[str] = []
    for table in section.tables:
        if list(table.columns) != columns:
            lines += [r"\bottomrule", r"\end{tabular}", r"\par\medskip"] if columns else []
            columns = list(table.columns)
            sides = "".join("l" if at in table.words else "r" for at in range(len(columns)))
            lines += [rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}", r"\toprule", _row(map(_head, columns))]
        lines.append(r"\midrule")
        if table.caption:
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{_tex(table.caption)}}}}} \\")
        lines += [_row(_tex(shown(cell)) for cell in row) for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par {_tex(text)}" for text in (*section.paragraphs[1:], *section.notes)]
    return "\n".join([*lines, r"\end{table}"])


def _row(cells: Iterable[str]) -> str:
    """A row of cells that are escaped already."""
    # After the end of a row LaTeX takes a star or a bracket for an argument.
    return re.sub(r"^[\[*]", r"{\g<0>}", " & ".join(cells)) + r" \\"


def _head(text: str) -> str:
    """A heading, in lines where it is long."""
    stack = r"\\".join(map(_tex, textwrap.wrap(text, _HEADING, break_long_words=False, break_on_hyphens=False)))
    return rf"\shortstack[r]{{{stack}}}" if r"\\" in stack else stack


def _tex(text: str) -> str:
    def plain(piece: str) -> str:
        return re.sub(r"(?<![\w-])-(?=\d)", "$-$", piece.translate(_LATEX))

    return _spans(line(text), plain, lambda piece: rf"\texttt{{{plain(piece)}}}")
