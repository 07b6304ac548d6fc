"""NegBench's multiple choice: which of four captions is true, where some deny what is there (arXiv:2501.09425)."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np

from labclip.data.entries import fields, table_rows
from labclip.data.located import ImageLayout
from labclip.evaluation.items import Items
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task

FILE = "COCO_val_mcq_llama3.1_rephrased.csv"


def read(sources: Sources) -> Task:
    """`accuracy`, and of each kind of true caption: `positive`, `negative`, `hybrid`."""
    items = Items(sources)
    layout = ImageLayout(sources, "{path}", "{name}", "val2017/{name}", "images/{path}")
    for place, cells in table_rows(sources.files(FILE)[0]):
        image, answer = fields(cells, ("image_path", "correct_answer"), place)
        names = itertools.takewhile(cells.__contains__, (f"caption_{number}" for number in itertools.count()))
        captions = [cells[name] for name in names]
        if len(captions) < 2:
            raise ValueError(f"{place} has no columns caption_0, caption_1 and so on.")
        right = _answer(answer, len(captions), place)
        options = [captions[right], *captions[:right], *captions[right + 1 :]]
        template = re.sub(r"\W+", "_", str(cells.get("correct_answer_template") or "").lower()).strip("_") or None
        if template == "accuracy":
            raise ValueError(f"{place}: correct_answer_template is 'accuracy', which is the mean over all kinds.")
        items.add(layout.image(image, place), options, place, kind=template)
    metrics = {"accuracy": everything(len(items))}
    kinds = items.groups.get("kind", [])
    for kind in dict.fromkeys(kind for kind in kinds if kind is not None):
        metrics[str(kind)] = np.where([one == kind for one in kinds], 0, -1)
    return sources.task(*items.question(metrics))


def _answer(value: Any, options: int, place: str) -> int:
    text = str(value).removesuffix(".0")
    if isinstance(value, bool) or not text.isdecimal() or int(text) >= options:
        raise ValueError(f"{place}: correct_answer is {value!r}, not a number from 0 to {options - 1}.")
    return int(text)


BENCHMARK = Benchmark(
    "negation", "NegBench COCO-MCQ", "binding", read,
    wants=f"{FILE} as data; COCO val2017 as images",
    source="github.com/m1k2zoo/negbench, cocodataset.org",
    licence="as its repository says; images: Flickr terms of use",
    paper="arXiv:2501.09425",
    headline=("accuracy", "positive", "negative", "hybrid"),
)  # fmt: skip
