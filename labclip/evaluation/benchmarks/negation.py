"""NegBench: which of four captions is true, where some deny what is there, and retrieval by such captions.

Its tables hold the authors' own absolute paths: with a folder of images an image is looked for there by its name.
"""

from __future__ import annotations

import itertools
import re
from pathlib import PurePath
from typing import Any

from labclip.data.entries import fields, table_rows
from labclip.data.images import Box
from labclip.data.located import ImageLayout
from labclip.evaluation.benchmarks.karpathy import captioned, retrieval
from labclip.evaluation.items import Items
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task

COCO_FILE = "COCO_val_mcq_llama3.1_rephrased.csv"
VOC_FILE = "VOC2007_mcq_llama3.1_rephrased.csv"
RETRIEVAL_FILE = "COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true.csv"

_COCO_FOLDERS = "{path}", "{name}", "val2017/{name}", "images/{path}"


def read_coco(sources: Sources) -> Task:
    """`accuracy`, and of each kind of true caption: `positive`, `negative`, `hybrid`."""
    return _choices(sources, COCO_FILE, _Layout(sources, *_COCO_FOLDERS))


def read_voc(sources: Sources) -> Task:
    """`accuracy`, and of each kind of true caption: `positive`, `negative`, `hybrid`."""
    ways = "{path}", "{name}", "JPEGImages/{name}", "VOC2007/JPEGImages/{name}", "VOCdevkit/VOC2007/JPEGImages/{name}"
    return _choices(sources, VOC_FILE, _Layout(sources, *ways))


def read_retrieval(sources: Sources) -> Task:
    """Recall at 1, 5 and 10 in both directions, by captions that also say what is not there."""
    layout = _Layout(sources, *_COCO_FOLDERS)
    return retrieval(sources, captioned(sources, (RETRIEVAL_FILE,), layout, column="captions"))


class _Layout(ImageLayout):
    """Absolute paths of the authors' machine are names only, where the user says which folder the images are in."""

    def image(self, name: Any, location: str, *, box: Box | None = None) -> int | None:
        root = self.files.images
        if root is not None and isinstance(name, str) and PurePath(name).is_absolute():
            name = name if root.absolute() in PurePath(name).parents else PurePath(name).name
        return super().image(name, location, box=box)


def _choices(sources: Sources, file: str, layout: ImageLayout) -> Task:
    items = Items(sources)
    for location, cells in table_rows(sources.files(file)[0]):
        image, answer = fields(cells, ("image_path", "correct_answer"), location)
        names = itertools.takewhile(cells.__contains__, (f"caption_{number}" for number in itertools.count()))
        captions = [cells[name] for name in names]
        if len(captions) < 2:
            raise ValueError(f"{location} has no columns caption_0, caption_1 and so on.")
        right = _answer(answer, len(captions), location)
        options = [captions[right], *captions[:right], *captions[right + 1 :]]
        template = re.sub(r"\W+", "_", str(cells.get("correct_answer_template") or "").lower()).strip("_") or None
        if template == "accuracy":
            raise ValueError(f"{location}: correct_answer_template is 'accuracy', which is the mean over all kinds.")
        items.add(layout.image(image, location), options, location, kind=template)
    metrics = {"accuracy": everything(len(items))} | items.breakdown("kind")
    # Whatever its index in the table, the authors' code puts the right caption first, so that `argmax` has ties right.
    return sources.task(*items.question(metrics, right_first=True))


def _answer(value: Any, options: int, location: str) -> int:
    text = str(value).removesuffix(".0")
    if isinstance(value, bool) or not text.isdecimal() or int(text) >= options:
        raise ValueError(f"{location}: correct_answer is {value!r}, not a number from 0 to {options - 1}.")
    return int(text)
