"""`Reported`, the base of every result: terminal text, Markdown, LaTeX, an HTML page and JSON."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from labclip._version import __version__
from labclip.checks import printable
from labclip.files import atomic_file
from labclip.report.drawing import as_svg
from labclip.report.text import latex, markdown, terminal
from labclip.report.values import Cell, Page, Table, pieces, shown


class Reported(ABC):
    """A result that can be shown. A subclass writes `page`, `to_json` and a `__repr__` of one line."""

    @abstractmethod
    def page(self) -> Page:
        """The whole report as values."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as `--json` prints them."""

    def __str__(self) -> str:
        return terminal(self.page())

    def to_markdown(self, *, level: int = 1) -> str:
        """The report as GitHub Markdown, its title a heading of `level`."""
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
    """The page as one HTML document that needs nothing beside itself: no script, no font, no address.

    Every string of it is escaped, whatever it holds; figures lie inside as data.

    Example:
        >>> from labclip.report import Page, Section, render
        >>> html = render(Page("A report", "It went well.", [Section("Names", ["<b>bold</b> stays text"])]))
        >>> "&lt;b&gt;bold&lt;/b&gt; stays text" in html
        True
    """
    import jinja2  # torch brings it; loading it takes long

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters.update(
        pieces=pieces,
        parts=_parts,
        shown=shown,
        svg=lambda figure: base64.b64encode(as_svg(figure.draw())).decode(),
        cell=lambda value: value if isinstance(value, Cell) else Cell(value),
    )
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    html: str = template.render(page=page, version=__version__)
    return html + "\n"


def _parts(table: Table) -> tuple[Table, Table]:
    """A table's rows with a measurable difference, and the others, which a page folds away."""
    marks = [{cell.mark for cell in row if isinstance(cell, Cell)} - {""} for row in table.rows]
    kept, folded = (
        [row for row, judgements in zip(table.rows, marks, strict=True) if (judgements == {"none"}) == quiet]
        for quiet in (False, True)
    )
    return replace(table, rows=kept), replace(table, rows=folded)
