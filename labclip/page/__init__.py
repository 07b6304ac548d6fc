"""One self-contained HTML page of paragraphs, tables and figures, from plain values.

What a report says lives with whoever measured it; here is only how it looks. Needs `pip install "labclip[eval]"`.
"""

from labclip.page.rendering import drawn, render, write
from labclip.page.values import Cell, Figure, Page, Section, Table

__all__ = ["Cell", "Figure", "Page", "Section", "Table", "drawn", "render", "write"]
