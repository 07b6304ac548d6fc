"""One report of paragraphs, tables and figures, from plain values: a self-contained HTML page, or text.

What a report says lives with whoever measured it; here is only how it looks. HTML needs `pip install "labclip[eval]"`.
"""

from labclip.page.markup import latex, markdown, markdown_table
from labclip.page.rendering import drawn, render, write
from labclip.page.terminal import terminal
from labclip.page.values import Cell, Figure, Page, Section, Table

__all__ = [
    "Cell",
    "Figure",
    "Page",
    "Section",
    "Table",
    "drawn",
    "latex",
    "markdown",
    "markdown_table",
    "render",
    "terminal",
    "write",
]
