"""VALSE: a caption and its foil, which changes one linguistic phenomenon (arXiv:2112.07566)."""

from __future__ import annotations

from labclip.data.entries import fields, json_items
from labclip.data.located import ImageLayout
from labclip.evaluation.benchmarks.sugarcrepe import subset_metrics
from labclip.evaluation.items import Items
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task

FILES = (
    "existence", "plurals", "counting-hard", "counting-small-quant", "counting-adversarial", "relations",
    "action-replacement", "actant-swap", "coreference-standard", "coreference-hard", "foil-it",
)  # fmt: skip
SUBSETS = tuple(name.replace("-", "_") for name in FILES)

# By how an image's name begins, the folder that its source unpacks to.
_FOLDERS = {
    "v7w_": "visual7w/images", "COCO_train2014_": "train2014", "COCO_val2014_": "val2014",
    "VisualDialog_val2018_": "VisualDialog_val2018", "0": "val2017", "": "images_512",
}  # fmt: skip

LEAST = 2
"""Annotators, of three, who must have chosen the caption and not the foil."""


def read(sources: Sources) -> Task:
    """The authors' pairwise accuracy of each of eleven files, its unweighted mean (`macro`), and `micro` over items.

    Items that fewer than two of three annotators confirmed are left out, as the authors do.
    """
    items, unconfirmed = Items(sources), 0
    layouts = {start: ImageLayout(sources, f"{folder}/{{path}}", "{path}") for start, folder in _FOLDERS.items()}
    for number, path in enumerate(sources.files(*(f"{name}.json" for name in FILES))):
        for location, item in json_items(path):
            file, caption, foil, votes = fields(item, ("image_file", "caption", "foil", "mturk"), location)
            (count,) = fields(votes, ("caption",), f"{location} mturk")
            if not isinstance(count, int):
                raise ValueError(f"{location}: mturk has {count!r} for the caption, not a number of annotators.")
            if count < LEAST:
                unconfirmed += 1
                continue
            start = next(start for start in _FOLDERS if str(file).startswith(start))
            items.add(layouts[start].image(file, location), (caption, foil), location, subset=number)
    if unconfirmed:
        sources.notes.append(f"{unconfirmed:,} items that fewer than {LEAST} of 3 annotators confirmed are left out.")
    return sources.task(*items.question(subset_metrics(items, SUBSETS)))
