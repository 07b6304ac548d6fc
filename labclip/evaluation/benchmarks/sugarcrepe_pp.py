"""SugarCrepe++: two captions that say the same in other words, and one that looks alike and does not."""

from __future__ import annotations

import numpy as np

from labclip.data.entries import fields, json_items
from labclip.evaluation.benchmarks.sugarcrepe import subset_metrics
from labclip.evaluation.items import Items, gallery
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task, TwoPositives

SUBSETS = {
    "replace_att": "replace_attribute",
    "replace_obj": "replace_object",
    "replace_rel": "replace_relation",
    "swap_att": "swap_attribute",
    "swap_obj": "swap_object",
}
"""Names on GitHub, and those that some copies have."""


def read(sources: Sources) -> Task:
    """`itt` and `tot` of every subset, of replace and swap, `macro` over the five, `micro` over items."""
    items = Items(sources)
    names = [f"{name}.json" for name in SUBSETS]
    if not any((sources.folder / name).is_file() for name in names):
        longer = [f"{name}.json" for name in SUBSETS.values()]
        names = longer if any((sources.folder / name).is_file() for name in longer) else names
    for number, path in enumerate(sources.files(*names)):
        for location, item in json_items(path):
            filename, *captions = fields(item, ("filename", "caption", "caption2", "negative_caption"), location)
            items.add(sources.image(filename, location), captions, location, true=2, subset=number)
    if not items:
        return sources.task()
    metrics = subset_metrics(items, tuple(SUBSETS), ("replace", "swap"))
    true = [(row, text, text) for row, texts in zip(items.image, items.options, strict=True) for text in texts[:2]]
    question = TwoPositives(np.array(items.image), np.array(items.options), metrics, items.locations)
    return sources.task(question, *gallery(sources, true))
