"""What the page shows, as HTML of its own: nothing in it is a file, so nothing is kept or served again."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from labclip.app.pair import Gallery, Hit, Scores
from labclip.app.work import Step
from labclip.messages import printable


def _plain(value: Any) -> Any:
    """Anybody's words inside HTML; also what the page's own templates would take for code is plain text."""
    if isinstance(value, Markup):
        return value
    return Markup(str(escape(printable(str(value)))).replace("{", "&#123;").replace("$", "&#36;"))


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined, finalize=_plain,
)  # fmt: skip
_parts = _templates.get_template("parts.html").module


def part(name: str, *values: Any) -> str:
    """A part of the page: `heading`, `error`, `note`, `scene`, or one that a function below fills."""
    return str(getattr(_parts, name)(*values))


def bars(captions: Sequence[str], base: Scores, ours: Scores) -> str:
    """Both sides with a bar a caption, and what each chooses, in words too."""
    chosen = [
        f"“{captions[side.best[0]]}”" if len(side.best) == 1 else f"none: {len(side.best)} captions tie"
        for side in (base, ours)
    ]
    if len(captions) < 2:
        told = "There is one caption. Type another below it to see which of them fits better."
    elif chosen[0] == chosen[1]:
        told = f"Both choose {chosen[0]}."
    else:
        told = f"The base chooses {chosen[0]}; LABCLIP chooses {chosen[1]}."
    return part("bars", told, captions, base, ours)


def results(gallery: Gallery, base: Sequence[Hit], ours: Sequence[Hit]) -> str:
    """The top images of both sides, and what changed."""
    new = sum(hit.other is None for hit in ours)
    moved = sum(hit.other not in (None, rank) for rank, hit in enumerate(ours, 1))
    told = f"Of LABCLIP's top {len(ours)}, {new} are not among the base's and {moved} have another rank."
    return part("results", told, gallery, base, ours)


def step(now: Step, seconds: float) -> str:
    """How far long work is, with the losses of a fit as a curve."""
    losses, points = now.losses, ""
    if len(losses) > 1:
        low, high = min(losses), max(losses)
        points = " ".join(
            f"{50 + 440 * x / (len(losses) - 1):.1f},{20 + 150 * (high - loss) / (high - low or 1):.1f}"
            for x, loss in enumerate(losses)
        )
    return part("step", f"{now.what} ({seconds:.0f} s)", now.percent, points, losses)


def report(page: Path, folder: Path) -> str:
    """A report of labclip as a part of the page, it and a folder to save; the folder may not be there."""
    files = [(page.name, _data("text/html", page.read_bytes()))]
    if folder.is_dir():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"{folder.name}/{path.name}")
        files.append((f"{folder.name}.zip", _data("application/zip", buffer.getvalue())))
    return part("report", files, page.read_text(encoding="utf-8"))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
