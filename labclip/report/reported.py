"""`Reported`, the base class of every result: terminal text, Markdown, LaTeX, an HTML page and JSON."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from labclip._version import __version__
from labclip.checks import printable
from labclip.files import atomic_file
from labclip.report.drawing import as_svg
from labclip.report.text import latex, markdown, terminal
from labclip.report.values import Cell, Page, Table, Value, cell_text, split_code


class Reported(ABC):
    """A result that can be shown. A subclass defines `page`, `to_json` and a `__repr__` of one line."""

    @abstractmethod
    def page(self) -> Page:
        """The whole report as values."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as `--json` prints them."""

    def __str__(self) -> str:
        return terminal(self.page())

    def to_markdown(self, *, level: int = 1) -> str:
        """The report as GitHub Markdown, with its title as a heading of `level`."""
        return markdown(self.page(), level=level)

    def to_latex(self) -> str:
        """The report's tables as LaTeX with booktabs."""
        return latex(self.page())

    def write_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML page with its figures, whole or not at all.

        Raises:
            FileNotFoundError: If the folder does not exist.
            MissingPackageError: If matplotlib is missing.
        """
        with atomic_file(Path(path)) as part:
            part.write_bytes(render(self.page()).encode())
        return Path(path)


def render(page: Page) -> str:
    """The page as one HTML document that loads nothing: no script, no font, no address.

    Every string is escaped; figures are inside as data.

    Example:
        >>> from labclip.report import Page, Section, render
        >>> html = render(Page("A report", "It went well.", [Section("Names", ["<b>bold</b> stays text"])]))
        >>> "&lt;b&gt;bold&lt;/b&gt; stays text" in html
        True
    """
    import jinja2  # installed with torch; slow to import

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters.update(
        split_code=split_code,
        split_rows=_split_rows,
        cell_text=cell_text,
        svg=lambda figure: base64.b64encode(as_svg(figure.draw())).decode(),
        cell=lambda value: value if isinstance(value, Cell) else Cell(value),
    )
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    html: str = template.render(page=page, version=__version__)
    return html + "\n"


def _split_rows(table: Table) -> tuple[Table, Table]:
    """The table in two: rows to show, and rows to fold away, whose only marks say "not measurable"."""
    open_rows, folded_rows = list[Sequence[Value]](), list[Sequence[Value]]()
    for row in table.rows:
        marks = {cell.mark for cell in row if isinstance(cell, Cell)} - {""}
        (folded_rows if marks == {"none"} else open_rows).append(row)
    return replace(table, rows=open_rows), replace(table, rows=folded_rows)
