"""The demo's figure: scenes, each with two captions of the same words, the choice of both models, and the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from labclip.demo.finding import MODELS, ROWS, Demo, Example
from labclip.scenes.vocabulary import COLOURS

_SCALE = 2  # the figure is drawn at twice its size; the wide form is then reduced, for smooth lines and corners
_GAP, _CARD, _CARD_HEIGHT, _HEADING = 24, 472, 292, 46  # pixels
_MAX_HEIGHT = 2800

_NAMES = ("paper", "card", "line", "track", "ink", "soft", "base", "labclip", "wrong", *COLOURS)
_LIGHT = (
    *("#f6f4ef", "#ffffff", "#e4e0d6", "#ece8df", "#1f2430", "#6b7080", "#9aa1b1", "#1f7a5c", "#c8442f"),
    # Yellow and white are darker than on the objects, to be legible on white.
    *("#d0262f", "#dd7400", "#b28700", "#22883f", "#008b8b", "#1f4fd0"),
    *("#7d33bd", "#dc5c9d", "#74452a", "#9a9c9f", "#75787d", "#1f2430"),
)
_DARK = (
    *("#15181d", "#1f242c", "#363c46", "#39404b", "#e8eaee", "#a3abb8", "#8790a1", "#3fb18a", "#ee6c57"),
    *("#ff6b6f", "#ff9d42", "#f4cf3f", "#56c976", "#35c4c4", "#82a4ff"),
    *("#c293ff", "#ff95c8", "#cf9a74", "#ffffff", "#a9adb3", "#c9ced6"),
)
_HEADINGS = {
    "binding": "Every colour-shape pair was in the fit",
    "binding_heldout": "At least one colour-shape pair was not in the fit",
    "binding_three": "Three objects: all training showed two",
}
_LABELS = {key: words for key, words in ROWS.items() if not key.startswith("search")} | {
    "": ("linear probes", "colour of each shape")
}


def draw(demo: Demo, path: Path, *, dark: bool = False, narrow: bool = False) -> Path:
    """Write the figure of a run of the demo as a PNG file, and return its path.

    Args:
        demo: The result of `run`.
        path: Where to write the file.
        dark: Whether to draw light on dark, for a page in dark mode.
        narrow: Whether to draw one column for a phone, with only the first scene of each kind. It is 1040 pixels wide,
            to be shown at half the size; the wide form has 1560.
    """
    margin, columns = (24, 1) if narrow else (48, 3)
    canvas = _Canvas(2 * margin + columns * _CARD + (columns - 1) * _GAP, _DARK if dark else _LIGHT)
    full_width = canvas.width - 2 * margin
    canvas.text(margin, 66, "Which caption is right?", 38, bold=1.5)
    subtitle = "Same words, colours swapped. CLIP's cosine can hardly tell; one matrix on its text embedding can."
    y = canvas.paragraph(margin, 100, subtitle, 20, full_width) + 6
    for kind, heading in _HEADINGS.items():
        canvas.text(margin, y + 26, heading, 18, "soft")
        for column, example in enumerate([example for example in demo.examples if example.kind == kind][:columns]):
            _draw_card(canvas, margin + column * (_CARD + _GAP), y + _HEADING, example)
        y += _HEADING + _CARD_HEIGHT + _GAP
    search, results = demo.search, demo.results
    question = (
        f'Search: "{search.query}", the query that confuses CLIP most; {search.shown} of {results["n"]:,} scenes show '
        f"it. Confused: that colour and that shape, on different objects"
    )
    y = canvas.paragraph(margin, y + 26, question, 18, full_width) - 6
    width, side = (full_width, 80) if narrow else ((full_width - _GAP) / 2, 124)  # width of a card, side of an image
    for index, (model, name) in enumerate(MODELS.items()):
        x = margin if narrow else margin + index * (width + _GAP)
        _draw_search(canvas, x, y, width, side, name, search.images[model], search.answers[model])
        y += side + 88 + _GAP if narrow or index else 0
    y = _draw_metrics(canvas, margin, y + 4, full_width, 2 if narrow else len(_LABELS), results)
    scenes = "The first scene of each draw" if narrow else "The first scenes of the draw"
    bars = "Bars on the cards: the probability a model gives the right one of two captions; the line is chance."
    first = f"{scenes}, seed {results['seed']}, not chosen; {results['n']:,} new scenes per metric."
    for text in (bars, first):
        y = canvas.paragraph(margin, y, text, 16, full_width)
    x, y = (margin, y + 6) if narrow else (canvas.width - margin - 190, y - 24)
    for index, (model, name) in enumerate(MODELS.items()):
        canvas.bar(x + 90 * index, y - 12, 14, 14, model)
        canvas.text(x + 90 * index + 22, y + 1, name, 18)
    canvas.save(path, y + margin - 4, reduced=not narrow)
    return path


class _Canvas:
    """A drawing. Positions and sizes are pixels of the finished figure; colours are names of a theme."""

    def __init__(self, width: int, theme: Sequence[str]) -> None:
        self.width, self._theme = width, dict(zip(_NAMES, theme, strict=True))
        self._image = Image.new("RGB", (width * _SCALE, _MAX_HEIGHT * _SCALE), self._theme["paper"])
        self._draw = ImageDraw.Draw(self._image)

    def text(
        self, x: float, y: float, text: str, size: int, fill: str = "ink", *, bold: float = 0, anchor: str = "ls"
    ) -> None:
        """Write text on the baseline y. The built-in font has one weight; `bold` adds a stroke of this width."""
        colour, position = self._theme[fill], (x * _SCALE, y * _SCALE)
        self._draw.text(position, text, colour, _font(size), anchor, stroke_width=bold, stroke_fill=colour)

    def paragraph(self, x: float, y: float, text: str, size: int, width: float) -> float:
        """Write soft text in lines of at most a width; return the baseline of the next line."""
        line = ""
        for word in (*text.split(), ""):
            if line and (not word or _width(f"{line} {word}", size) > width):
                self.text(x, y, line, size, "soft")
                line, y = word, y + round(1.5 * size)
            else:
                line = f"{line} {word}".strip()
        return y

    def bar(self, x: float, y: float, width: float, height: float, fill: str, *, line: str | None = None) -> None:
        """Draw a box with round corners."""
        radius = min(height / 2, width / 2, 14) * _SCALE
        box = [value * _SCALE for value in (x, y, x + width, y + height)]
        self._draw.rounded_rectangle(box, radius, self._theme[fill], self._theme[line] if line else None, _SCALE)

    def mark(self, x: float, y: float, right: bool, size: float = 7) -> None:
        """Draw a check or a cross around a centre."""
        check, cross = [[(-1, 0.1), (-0.3, 0.8), (1, -0.8)]], [[(-0.8, -0.8), (0.8, 0.8)], [(-0.8, 0.8), (0.8, -0.8)]]
        for stroke in check if right else cross:
            points = [((x + dx * size) * _SCALE, (y + dy * size) * _SCALE) for dx, dy in stroke]
            self._draw.line(points, self._theme["labclip" if right else "wrong"], 3 * _SCALE, joint="curve")

    def tick(self, x: float, y: float, height: float) -> None:
        """Draw a thin vertical line."""
        self._draw.line([x * _SCALE, y * _SCALE, x * _SCALE, (y + height) * _SCALE], self._theme["soft"], _SCALE)

    def paste(self, pixels: NDArray[Any], x: float, y: float, size: int) -> None:
        """Draw a square image with round corners."""
        image = Image.fromarray(pixels).resize((size * _SCALE, size * _SCALE), Image.Resampling.LANCZOS)
        mask = Image.new("L", image.size, 0)
        ImageDraw.Draw(mask).rounded_rectangle([0, 0, *(length - 1 for length in image.size)], 12 * _SCALE, fill=255)
        self._image.paste(image, (round(x * _SCALE), round(y * _SCALE)), mask)

    def save(self, path: Path, height: float, *, reduced: bool) -> None:
        """Write the upper part of the drawing, of a height, as a PNG file."""
        image = self._image.crop((0, 0, self.width * _SCALE, round(height) * _SCALE))
        if reduced:
            image = image.resize((self.width, round(height)), Image.Resampling.LANCZOS)
        image.save(path, "PNG", optimize=True)


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size * _SCALE)


def _width(text: str, size: int) -> float:
    return float(_font(size).getlength(text)) / _SCALE


def _draw_card(canvas: _Canvas, x: float, y: float, example: Example) -> None:
    """Draw a scene, the probability that each model gives the right caption, and both captions."""
    canvas.bar(x, y, _CARD, _CARD_HEIGHT, "card", line="line")
    side = 168
    canvas.paste(example.image, x + 16, y + 16, side)
    left, width, top = x + side + 34, _CARD - side - 50, y + 30
    for model, name in MODELS.items():
        (own_cosine, swapped_cosine), probability = example.cosines[model], example.probabilities[model]
        is_right = own_cosine > swapped_cosine
        canvas.text(left, top + 14, name, 18, bold=0.8)
        canvas.mark(left + width - 10, top + 8, is_right)
        canvas.text(left + width - 28, top + 14, _percent(probability), 18, anchor="rs")
        canvas.bar(left, top + 26, width, 14, "track")
        canvas.bar(left, top + 26, max(14, width * probability), 14, model if is_right else "wrong")
        canvas.tick(left + width / 2, top + 22, 22)
        top += 78
    for row, caption in enumerate(example.captions):
        _draw_caption(canvas, x + 42, y + 224 + 38 * row, caption, is_right=row == 0)


def _draw_caption(canvas: _Canvas, x: float, y: float, caption: str, *, is_right: bool) -> None:
    """Write a caption with its colour words in colour, and mark whether it is true of the scene."""
    canvas.mark(x - 14, y - 6, is_right, 6)
    words, size = caption.split(), 18
    while sum(_width(word, size) + size * 0.3 for word in words) > _CARD - 64:
        size -= 1
    for word in words:
        is_colour = word in COLOURS
        fill = word if is_colour else "ink" if is_right else "soft"
        canvas.text(x, y, word, size, fill, bold=1.0 if is_colour else 0)
        x += _width(word, size) + size * 0.3


def _percent(probability: float) -> str:
    return ">99%" if probability > 0.99 else "<1%" if probability < 0.01 else f"{probability:.0%}"


def _draw_search(
    canvas: _Canvas, x: float, y: float, width: float, side: int, name: str, images: NDArray[Any],
    answers: Sequence[str],
) -> None:  # fmt: skip
    """Draw the top five images of a model, each with its answer: right, confused or neither."""
    canvas.bar(x, y, width, side + 88, "card", line="line")
    canvas.text(x + 16, y + 32, name, 18, bold=0.8)
    size, step = (16, side + 16) if side > 100 else (13, side + 10)
    for rank, (image, answer) in enumerate(zip(images, answers, strict=True)):
        left = x + 16 + rank * step
        canvas.paste(image, left, y + 46, side)
        if answer != "neither":
            canvas.mark(left + 0.6 * size, y + side + 64, answer == "right", 0.38 * size)
        canvas.text(left + 1.5 * size, y + side + 70, answer, size, "ink" if answer == "right" else "soft")


def _draw_metrics(
    canvas: _Canvas, x: float, y: float, full_width: float, columns: int, results: dict[str, Any]
) -> float:
    """Draw two bars for each metric and for the probes; return the baseline of the text below."""
    width = (full_width - (columns - 1) * _GAP) / columns
    bar_width = width - 56
    for index, (key, (label, measure)) in enumerate(_LABELS.items()):
        left, top = x + index % columns * (width + _GAP), y + index // columns * 152
        canvas.text(left, top + 18, label, 19, bold=0.8)
        canvas.text(left, top + 40, measure, 15, "soft")
        bars = [(results["probes"][side], "ink", side) for side in ("image", "text")]
        if key:
            bars = [(results[model][key], model, "") for model in MODELS]
        for row, (value, fill, name) in enumerate(bars):
            bar_top = top + 56 + row * 36
            canvas.bar(left, bar_top, bar_width, 24, "track")
            canvas.bar(left, bar_top, max(14, bar_width * value), 24, fill)
            canvas.text(left + width - 48, bar_top + 19, f"{value:.2f}".removeprefix("0"), 19, bold=0.6)
            canvas.text(left + 12, bar_top + 18, name, 15, "card")
        if key.startswith("binding"):
            canvas.tick(left + bar_width / 2, top + 52, 66)
    return top + 168
