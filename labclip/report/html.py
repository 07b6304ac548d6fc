"""A page as HTML that needs nothing beside itself: no script, no font, no address."""

from __future__ import annotations

import base64
from pathlib import Path

from labclip._version import __version__
from labclip.messages import printable
from labclip.report.values import MARKS, Cell, Page, pieces, shown


def render(page: Page) -> str:
    """The page as one HTML document.

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
        shown=shown,
        uri=lambda figure: f"data:{figure.media_type};base64,{base64.b64encode(figure.data).decode()}",
        mark=lambda value: value.mark if isinstance(value, Cell) else "",
        words=lambda value: value.words if isinstance(value, Cell) else "",
    )
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    html: str = template.render(page=page, marks=MARKS, version=__version__)
    return html + "\n"
