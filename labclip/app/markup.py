"""What the page shows, as HTML of its own: nothing in it is a file, so nothing is kept or served again."""

from __future__ import annotations

import base64
import html
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from labclip.app.compare import Scores
from labclip.app.jobs import Step
from labclip.app.search import Gallery, Hit
from labclip.messages import printable

CSS = """
:root { --l-soft: #5c6473; }
.dark { --l-soft: #a0a8b5; }
.or, .min_value, .max_value { color: var(--l-soft) !important; }
.tab-container button.selected { color: var(--body-text-color) !important; font-weight: 650; }
.l-error { border-left: 4px solid #c8442f; padding: .6rem .8rem; background: var(--background-fill-secondary); }
.l-note { color: var(--l-soft); }
.l-sides { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.l-sides h2 { margin: 0 0 .5rem; font-size: 1.05rem; }
.l-sides ol { list-style: none; margin: 0; padding: 0; }
.l-caption { display: flex; justify-content: space-between; gap: .75rem; overflow-wrap: anywhere; }
.l-caption b, .l-caption span:last-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
.l-best { font-weight: 650; }
.l-bar { height: .75rem; margin: .2rem 0 .8rem; border-radius: .4rem; background: var(--border-color-primary); }
.l-bar i { display: block; height: 100%; min-width: 2px; border-radius: .4rem; background: #8b93a5; }
.l-ours .l-bar i { background: #1f8a63; }
.l-grid { display: grid !important; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(max(5.5rem, 17%), 1fr)); }
.l-grid img { display: block; width: 100%; margin: 0; aspect-ratio: 1; object-fit: contain; border-radius: .4rem; }
.l-grid img { border: 3px solid transparent; background: var(--background-fill-secondary); }
.l-grid .l-changed img { border-color: #c8702f; }
.l-ours .l-grid .l-changed img { border-color: #1f8a63; }
.l-grid li { font-size: .8rem; line-height: 1.3; overflow-wrap: anywhere; }
.l-scene img { width: 100%; max-width: 20rem; border-radius: .5rem; margin: 0; display: block; }
.l-curve { width: 100%; max-width: 36rem; height: auto; display: block; }
.l-report { width: 100%; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: .5rem; }
.l-step progress { width: 100%; max-width: 36rem; accent-color: #1f8a63; }
.l-links a { display: inline-block; margin: .25rem 1rem .75rem 0; font-weight: 600; color: var(--link-text-color); }
"""


def text(words: str) -> str:
    """Anybody's words inside HTML; also what the page's own templates would take for code is plain text."""
    return _inert(printable(words))


def _inert(content: str) -> str:
    return html.escape(content).replace("{", "&#123;").replace("$", "&#36;")


def heading(model: str, *, without_matrix: bool) -> str:
    """The top of the page."""
    warning = "This model has no matrix, so base and LABCLIP are the same. Start with --alignment, or fit one."
    return (
        f"<h1>labclip</h1><p>CLIP that knows which colour belongs to which object. Model: "
        f"<code>{text(model)}</code>.</p>"
        f"{note(warning) if without_matrix else ''}"
    )


def error(words: str) -> str:
    """A message that readers of screens are told at once."""
    return f'<p class="l-error" role="alert">{text(words)}</p>'


def note(*words: str) -> str:
    """Small print."""
    return "".join(f'<p class="l-note">{text(one)}</p>' for one in words if one)


def scene(uri: str, alt: str) -> str:
    """The image that is compared."""
    return f'<div class="l-scene"><img src="{uri}" alt="{text(alt)}"></div>'


def bars(captions: Sequence[str], base: Scores, ours: Scores) -> str:
    """Both sides with a bar a caption, and what each chooses, in words too."""
    chosen = [_chosen(captions, side) for side in (base, ours)]
    if len(captions) < 2:
        told = "There is one caption. Type another below it to see which of them fits better."
    elif chosen[0] == chosen[1]:
        told = f"Both choose {chosen[0]}."
    else:
        told = f"The base chooses {chosen[0]}; LABCLIP chooses {chosen[1]}."
    sides = _side("Base", "", captions, base), _side("LABCLIP", "l-ours", captions, ours)
    how = note("Percent: the softmax over these captions at each model's own temperature. In brackets: the cosine.")
    return f'<p role="status">{text(told)}</p><div class="l-sides">{"".join(sides)}</div>{how}'


def _chosen(captions: Sequence[str], scores: Scores) -> str:
    if len(scores.best) > 1:
        return f"none: {len(scores.best)} captions tie"
    return f"\u201c{captions[scores.best[0]]}\u201d"


def _side(title: str, kind: str, captions: Sequence[str], scores: Scores) -> str:
    rows = []
    for place, (caption, cosine, share) in enumerate(zip(captions, scores.cosines, scores.shares, strict=True)):
        best = place in scores.best and len(captions) > 1
        mark = ("\u25b8 " if len(scores.best) == 1 else "tie ") if best else ""
        rows.append(
            f'<li><div class="l-caption{" l-best" if best else ""}"><span>{mark}{text(caption)}</span>'
            f'<span title="cosine {cosine:.4f}">{_percent(share)} <small>({cosine:.3f})</small></span></div>'
            f'<div class="l-bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></div></li>'
        )
    return f'<section class="{kind}"><h2>{title}</h2><ol>{"".join(rows)}</ol></section>'


def _percent(share: float) -> str:
    return "&gt;99%" if share > 0.99 else "&lt;1%" if share < 0.01 else f"{share:.0%}"


def results(gallery: Gallery, base: Sequence[Hit], ours: Sequence[Hit]) -> str:
    """The top images of both sides, and what changed."""
    new = sum(hit.other is None for hit in ours)
    moved = sum(hit.other not in (None, rank) for rank, hit in enumerate(ours, 1))
    told = f"Of LABCLIP's top {len(ours)}, {new} are not among the base's and {moved} have another rank."
    sides = []
    for title, kind, hits, gone in (("Base", "", base, "not in LABCLIP's"), ("LABCLIP", "l-ours", ours, "new")):
        items = []
        for rank, hit in enumerate(hits, 1):
            change = gone if hit.other is None else "" if hit.other == rank or not kind else f"base: {hit.other}"
            name = text(gallery.names[hit.place])
            items.append(
                f'<li class="{"l-changed" if hit.other is None else ""}"><img src="{gallery.shown[hit.place]}" '
                f'alt="{name}"><b>{rank}</b> {name} <small>{hit.cosine:.3f}</small> <b>{change}</b></li>'
            )
        sides.append(f'<section class="{kind}"><h2>{title}</h2><ol class="l-grid">{"".join(items)}</ol></section>')
    return f'<p role="status">{text(told)}</p><div class="l-sides">{"".join(sides)}</div>'


def step(now: Step, seconds: float) -> str:
    """How far long work is."""
    value = "" if now.percent is None else f' value="{now.percent}"'
    words = text(f"{now.what} ({seconds:.0f} s)")
    return (
        f'<div class="l-step"><p role="status">{words}</p><progress max="100"{value} aria-label="Progress"></progress>'
        f"{curve(now.curves)}</div>"
    )


def curve(curves: Sequence[Sequence[float]]) -> str:
    """The loss by epoch of each fit as a drawing; nothing where none has two epochs."""
    drawn = [losses for losses in curves if len(losses) > 1]
    if not drawn:
        return ""
    low, high = min(map(min, drawn)), max(map(max, drawn))
    longest = max(map(len, drawn))
    lines = []
    for number, losses in enumerate(drawn):
        points = " ".join(
            f"{50 + 440 * x / (longest - 1):.1f},{20 + 150 * (high - loss) / (high - low or 1):.1f}"
            for x, loss in enumerate(losses)
        )
        colour = ("#1f8a63", "#c8702f", "#4a7fd0", "#b05fa0")[number % 4]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
    last = ", ".join(f"{losses[0]:.3f} to {losses[-1]:.3f}" for losses in drawn)
    marks = "".join(
        f'<text x="44" y="{y}" text-anchor="end">{value:.2f}</text>' for y, value in ((25, high), (174, low))
    )
    return (
        f'<svg class="l-curve" viewBox="0 0 500 200" role="img" aria-label="Loss by epoch: {last}" font-size="12" '
        f'fill="currentColor">{marks}<text x="270" y="194" text-anchor="middle">loss by epoch, {longest} of them'
        f"</text>{''.join(lines)}</svg>"
    )


def report(path: Path) -> str:
    """A report of labclip as a part of the page, and as a file to save."""
    data = path.read_bytes()
    return (
        f"{_links((path.name, 'text/html', data))}"
        f'<iframe class="l-report" title="Report" sandbox="" srcdoc="{_inert(data.decode())}"></iframe>'
    )


def folder(path: Path) -> str:
    """A folder as a zip to save."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in sorted(path.iterdir()):
            archive.write(one, f"{path.name}/{one.name}")
    return _links((f"{path.name}.zip", "application/zip", buffer.getvalue()))


def _links(*files: tuple[str, str, bytes]) -> str:
    links = (
        f'<a download="{text(name)}" href="data:{kind};base64,{base64.b64encode(data).decode()}">Save {text(name)}</a>'
        for name, kind, data in files
    )
    return f'<p class="l-links">{"".join(links)}</p>'
