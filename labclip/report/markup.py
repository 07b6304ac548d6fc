"""A page as Markdown for GitHub, and its tables as LaTeX for a paper. Figures are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from labclip.report.values import Page, Section, Table, line, pieces, shown

_MARKDOWN = str.maketrans({
    "\\": "\\\\", "`": "\\`", "*": "\\*", "<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "\\|", "~": "\\~",
    "$": "\\$",  # a formula
})  # fmt: skip
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
})  # fmt: skip


def markdown(page: Page, *, level: int = 1) -> str:
    """The page as GitHub Markdown, its title of a level: 2 for a page inside another. Its strings stay text."""
    parts = [f"{'#' * level} {_text(page.title)}", _paragraph(page.lead)]
    for section in (*page.sections, *page.appendix):
        parts += [f"{'#' * (level + 1)} {_text(section.heading)}", *map(_paragraph, section.paragraphs)]
        parts += [markdown_table(table) for table in section.tables]
        parts.append("\n".join(f"- {_paragraph(note)}" for note in section.notes))
    if page.facts:
        parts.append(f"{'#' * (level + 1)} How it was measured")
        parts.append("\n".join(f"- {_text(name)}: {_text(value)}" for name, value in page.facts))
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """One table with its caption above it."""
    rule = ["---" if place in table.words else "---:" for place in range(len(table.columns))]
    head, *rows = ([_text(shown(cell)) for cell in row] for row in (table.columns, *table.told_once))
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    return "\n".join(([f"**{_text(table.caption)}**", ""] if table.caption else []) + lines)


PREAMBLE = r"% In the preamble: \usepackage{booktabs} and \usepackage[T1]{fontenc}"


def latex(page: Page) -> str:
    r"""The page's tables as LaTeX with booktabs: one `table` a section; heading and first paragraph are its caption."""
    return (
        "\n\n".join([PREAMBLE, *(_latex_section(one) for one in (*page.sections, *page.appendix) if one.tables)]) + "\n"
    )


def _latex_section(section: Section) -> str:
    caption = " ".join([f"{tex(section.heading)}.", *map(_tex_paragraph, section.paragraphs[:1])])
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    lines += [r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
    columns: list[str] = []
    for table in section.tables:
        if list(table.columns) != columns:
            lines += [r"\bottomrule", r"\end{tabular}", r"\par\medskip"] if columns else []
            columns = list(table.columns)
            places = "".join("l" if place in table.words else "r" for place in range(len(table.columns)))
            lines += [rf"\begin{{tabular}}{{@{{}}{places}@{{}}}}", r"\toprule", tex_row(map(tex, table.columns))]
        label = rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\emph{{{tex(table.caption)}}}}} \\"
        lines += [
            r"\midrule",
            *([label] if table.caption else []),
            *(tex_row(tex(shown(cell)) for cell in row) for row in table.told_once),
        ]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par {_tex_paragraph(text)}" for text in (*section.paragraphs[1:], *section.notes)]
    return "\n".join([*lines, r"\end{table}"])


def tex_row(cells: Iterable[str]) -> str:
    """A row of cells that are escaped already."""
    # After the end of a row LaTeX takes a star or a bracket for an argument.
    return re.sub(r"^[\[*]", r"{\g<0>}", " & ".join(cells)) + r" \\"


def tex(text: str) -> str:
    """A text on one line, escaped for LaTeX."""
    return _tex_escaped(line(text))


def _text(text: str) -> str:
    return _text_escaped(line(text))


def _tex_escaped(text: str) -> str:
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(_LATEX))


def _text_escaped(text: str) -> str:
    found = re.sub(r"\](?=[\[(])", r"]\\", text.translate(_MARKDOWN))  # a link
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", found)


def _tex_paragraph(text: str) -> str:
    parts = ((_tex_escaped(piece), is_code) for piece, is_code in pieces(line(text)))
    return "".join(rf"\texttt{{{piece}}}" if is_code else piece for piece, is_code in parts)


def _paragraph(text: str) -> str:
    """What would begin a heading or a list at the start of a line is escaped."""
    found = "".join(f"`{piece}`" if is_code else _text_escaped(piece) for piece, is_code in pieces(line(text)))
    return re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", found)
