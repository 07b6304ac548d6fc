"""What every result has in common: text for a terminal, Markdown, LaTeX, an HTML page and plain JSON values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from labclip.files import whole_file
from labclip.report.html import render
from labclip.report.text import latex, markdown, terminal
from labclip.report.values import Page


class Reported(ABC):
    """A result that can be shown. A subclass writes `page`, `to_json` and a `__repr__` of one line."""

    @abstractmethod
    def page(self, *, plots: bool = False) -> Page:
        """The whole report as values; `plots` also draws the figures, which needs matplotlib."""

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
        with whole_file(Path(path)) as part:
            part.write_bytes(render(self.page(plots=True)).encode())
        return Path(path)
