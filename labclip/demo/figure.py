"""The demo's figure: scenes, two captions of the same words each, what both models choose, and the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from labclip.scenes.vocabulary import COLOURS

if TYPE_CHECKING:
    from labclip.demo.finding import Demo, Example

_SCALE = 2  # drawn at twice the size and reduced, so that lines and corners are smooth
_WIDTH, _MARGIN, _GAP = 1560, 48, 24  # pixels of the finished figure
_CARD, _CARD_HEIGHT, _SEARCH_HEIGHT = (_WIDTH - 2 * _MARGIN - 2 * _GAP) // 3, 292, 212

_PAPER, _CARD_FILL, _LINE = "#f6f4ef", "#ffffff", "#e4e0d6"
_INK, _SOFT_INK = "#1f2430", "#6b7080"
_BASE, _ALIGNED, _TRACK = "#9aa1b1", "#1f7a5c", "#ece8df"
_WRONG = "#c8442f"
_MODELS = ("base", "CLIP", _BASE), ("labclip", "LABCLIP", _ALIGNED)
# In the order of `COLOURS`; yellow and white are darker than on the objects, to be read on white.
_INKS = (
    *("#d0262f", "#dd7400", "#b28700", "#22883f", "#008b8b", "#1f4fd0"),
    *("#7d33bd", "#dc5c9d", "#74452a", "#9a9c9f", "#75787d", "#1f2430"),
)
_WORDS = dict(zip(COLOURS, _INKS, strict=True))


class _Canvas:
    """A drawing in finished pixels on a larger sheet."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * _SCALE, height * _SCALE), _PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, size: int, fill: str = _INK, *, bold: float = 0, anchor: str = "ls"
    ) -> None:
        """Write on a baseline; the built-in font has one weight, which a stroke of its own colour makes heavier."""
        font, at = ImageFont.load_default(size=size * _SCALE), (x * _SCALE, y * _SCALE)
        self._draw.text(at, text, fill=fill, font=font, anchor=anchor, stroke_width=bold, stroke_fill=fill)

    def bar(self, x: float, y: float, width: float, height: float, fill: str, *, line: str | None = None) -> None:
        """A box with round ends or corners."""
        radius = min(height / 2, width / 2, 14) * _SCALE
        box = [v * _SCALE for v in (x, y, x + width, y + height)]
        self._draw.rounded_rectangle(box, radius, fill=fill, outline=line, width=_SCALE)

    def mark(self, x: float, y: float, right: bool, size: float = 7) -> None:
        """A check or a cross, centred."""
        check, cross = [[(-1, 0.1), (-0.3, 0.8), (1, -0.8)]], [[(-0.8, -0.8), (0.8, 0.8)], [(-0.8, 0.8), (0.8, -0.8)]]
        for stroke in check if right else cross:
            points = [((x + dx * size) * _SCALE, (y + dy * size) * _SCALE) for dx, dy in stroke]
            self._draw.line(points, fill=_ALIGNED if right else _WRONG, width=3 * _SCALE, joint="curve")

    def tick(self, x: float, y: float, height: float) -> None:
        """A thin upright line."""
        line = [(x * _SCALE, y * _SCALE), (x * _SCALE, (y + height) * _SCALE)]
        self._draw.line(line, fill=_SOFT_INK, width=_SCALE)

    def paste(self, image: Image.Image, x: float, y: float, size: int) -> None:
        """A square image with round corners."""
        image = image.resize((size * _SCALE, size * _SCALE), Image.Resampling.LANCZOS)
        mask = Image.new("L", image.size, 0)
        ImageDraw.Draw(mask).rounded_rectangle([0, 0, *(v - 1 for v in image.size)], 12 * _SCALE, fill=255)
        self.image.paste(image, (round(x * _SCALE), round(y * _SCALE)), mask)


def _width(text: str, size: int) -> float:
    return float(ImageFont.load_default(size=size * _SCALE).getlength(text)) / _SCALE


def draw(demo: Demo, path: Path) -> Path:
    """Write the figure of a run of the demo as a PNG file 1560 pixels wide; returns its path."""
    rows = [demo.examples[start : start + 3] for start in range(0, len(demo.examples), 3)]
    top, heading, foot = 132, 46, 236
    height = top + len(rows) * (_CARD_HEIGHT + heading + _GAP) + heading + _SEARCH_HEIGHT + _GAP + foot
    canvas = _Canvas(_WIDTH, height)
    canvas.text(_MARGIN, 66, "Which caption is right?", 38, bold=1.5)
    subtitle = "Same words, colours swapped. CLIP's cosine can hardly tell; one matrix on its text embedding can."
    canvas.text(_MARGIN, 100, subtitle, 20, _SOFT_INK)
    y = float(top)
    for row in rows:
        canvas.text(_MARGIN, y + 26, _HEADINGS[row[0].kind], 18, _SOFT_INK)
        y += heading
        for i, example in enumerate(row):
            _card(canvas, _MARGIN + i * (_CARD + _GAP), y, example)
        y += _CARD_HEIGHT + _GAP
    question = (
        f'Search: "{demo.search.query}", the query that confuses CLIP most; {demo.search.shown} of '
        f"{demo.results['n']:,} scenes show it. Confused: that colour and that shape, on different objects"
    )
    canvas.text(_MARGIN, y + 26, question, 18, _SOFT_INK)
    for number, (model, name, _) in enumerate(_MODELS):
        x = _MARGIN + number * ((_WIDTH - 2 * _MARGIN + _GAP) / 2)
        _search(canvas, x, y + heading, name, demo.search.images[model], demo.search.answers[model])
    _strip(canvas, y + heading + _SEARCH_HEIGHT + _GAP + 4, demo)
    canvas.image.resize((_WIDTH, height), Image.Resampling.LANCZOS).save(path, optimize=True)
    return path


_HEADINGS = {
    "seen": "Every colour-shape pair was in the fit",
    "heldout": "At least one colour-shape pair was not in the fit",
    "three": "Three objects: all training showed two",
}


def _search(canvas: _Canvas, x: float, y: float, name: str, images: NDArray[Any], answers: Sequence[str]) -> None:
    """The top five of a model, each with what it is: right, confused, or neither."""
    side, width = 124, (_WIDTH - 2 * _MARGIN - _GAP) / 2
    canvas.bar(x, y, width, _SEARCH_HEIGHT, _CARD_FILL, line=_LINE)
    canvas.text(x + 16, y + 32, name, 18, bold=0.8)
    for number, (image, answer) in enumerate(zip(images, answers, strict=True)):
        left = x + 16 + number * (side + 16)
        canvas.paste(Image.fromarray(image), left, y + 46, side)
        if answer != "neither":
            canvas.mark(left + 10, y + 188, answer == "right", 6)
        canvas.text(left + 24, y + 194, answer, 16, _INK if answer == "right" else _SOFT_INK)


def _card(canvas: _Canvas, x: float, y: float, example: Example) -> None:
    canvas.bar(x, y, _CARD, _CARD_HEIGHT, _CARD_FILL, line=_LINE)
    side = 168
    canvas.paste(Image.fromarray(example.image), x + 16, y + 16, side)
    left, width, top = x + side + 34, _CARD - side - 50, y + 30
    for model, name, fill in _MODELS:
        (own, swapped), probability = example.cosines[model], example.probabilities[model]
        right = own > swapped
        canvas.text(left, top + 14, name, 18, bold=0.8)
        canvas.mark(left + width - 10, top + 8, right)
        canvas.text(left + width - 28, top + 14, _percent(probability), 18, anchor="rs")
        canvas.bar(left, top + 26, width, 14, _TRACK)
        canvas.bar(left, top + 26, max(14, width * probability), 14, fill if right else _WRONG)
        canvas.tick(left + width / 2, top + 22, 22)
        top += 78
    _caption(canvas, x + 42, y + 224, example.captions[0], right=True)
    _caption(canvas, x + 42, y + 262, example.captions[1], right=False)


def _caption(canvas: _Canvas, x: float, y: float, caption: str, *, right: bool) -> None:
    """A caption with its colours in colour, and a mark for whether it is true of the scene."""
    canvas.mark(x - 14, y - 6, right, 6)
    words, size = caption.split(), 18
    while sum(_width(word, size) + size * 0.3 for word in words) > _CARD - 64:
        size -= 1
    for word in words:
        fill = _WORDS.get(word, _INK if right else _SOFT_INK)
        canvas.text(x, y, word, size, fill, bold=1.0 if word in _WORDS else 0)
        x += _width(word, size) + size * 0.3


def _percent(probability: float) -> str:
    return ">99%" if probability > 0.99 else "<1%" if probability < 0.01 else f"{probability:.0%}"


_LABELS = (
    ("binding", "binding, seen pairs", "right against swapped"),
    ("binding_heldout", "unseen pairs", "right against swapped"),
    ("binding_three", "three objects", "right against swapped"),
    ("t2i_r1", "image search", "by sentence, R@1"),
    ("tags_t2i_r1", "image search", "by tags, R@1"),
    ("one_object_acc1", "one object", "zero-shot, 120 classes"),
)


def _strip(canvas: _Canvas, y: float, demo: Demo) -> None:
    """Below the cards: a pair of bars for each metric, the probes, and what is what."""
    found, width = demo.results, (_WIDTH - 2 * _MARGIN - len(_LABELS) * _GAP) / (len(_LABELS) + 1)
    for i, (key, label, of) in enumerate((*_LABELS, ("", "linear probes", "colour of each shape"))):
        x = _MARGIN + i * (width + _GAP)
        canvas.text(x, y + 18, label, 19, bold=0.8)
        canvas.text(x, y + 40, of, 15, _SOFT_INK)
        probes = [(found["probes"][side], _INK, side) for side in ("image", "text")]
        models = [(found[model][key], fill, "") for model, _, fill in _MODELS] if key else probes
        for j, bar in enumerate(models):
            _bar(canvas, x, y + 56 + j * 36, width, *bar)
        if key.startswith("binding"):
            canvas.tick(x + (width - 56) / 2, y + 52, 66)
    bars = "Bars on the cards: the probability a model gives the right one of two captions; the line is chance."
    first = f"The first scenes of the draw, seed {found['seed']}, not chosen; {found['n']:,} new scenes per metric."
    canvas.text(_MARGIN, y + 168, bars, 16, _SOFT_INK)
    canvas.text(_MARGIN, y + 192, first, 16, _SOFT_INK)
    for x, (_, name, fill) in zip((_WIDTH - _MARGIN - 190, _WIDTH - _MARGIN - 100), _MODELS, strict=True):
        canvas.bar(x, y + 180, 14, 14, fill)
        canvas.text(x + 22, y + 193, name, 18)


def _bar(canvas: _Canvas, x: float, y: float, width: float, value: float, fill: str, label: str) -> None:
    full = width - 56
    canvas.bar(x, y, full, 24, _TRACK)
    canvas.bar(x, y, max(14, full * value), 24, fill)
    canvas.text(x + width - 48, y + 19, f"{value:.2f}".removeprefix("0"), 19, bold=0.6)
    canvas.text(x + 12, y + 18, label, 15, "#ffffff")
