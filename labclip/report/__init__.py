"""A report of paragraphs, tables and figures, made of plain values: as a self-contained HTML page, or as text.

The package only decides how a report looks; the modules that measure decide what it says. Figures need matplotlib, as
in `pip install "labclip[eval]"`.
"""

from labclip.report.drawing import as_svg
from labclip.report.reported import Reported, render
from labclip.report.text import latex, markdown, markdown_table, terminal
from labclip.report.values import Cell, Figure, Page, Section, Table, signed

__all__ = [
    "Cell", "Figure", "Page", "Reported", "Section", "Table",
    "as_svg", "latex", "markdown", "markdown_table", "render", "signed", "terminal",
]  # fmt: skip
