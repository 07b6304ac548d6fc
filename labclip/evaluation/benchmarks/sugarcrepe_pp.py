"""SugarCrepe++: two captions that say the same in other words, and one that looks alike and does not."""

from __future__ import annotations

import numpy as np

from labclip.data.entries import fields, json_items
from labclip.evaluation.benchmarks.sugarcrepe import note_empty, subset_metrics
from labclip.evaluation.items import gallery
from labclip.evaluation.sources import Benchmark, Sources
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
    image, texts, subset, places = [], [], [], []
    names = [f"{name}.json" for name in SUBSETS]
    if not any((sources.folder / name).is_file() for name in names):
        longer = [f"{name}.json" for name in SUBSETS.values()]
        names = longer if any((sources.folder / name).is_file() for name in longer) else names
    for number, path in enumerate(sources.files(*names)):
        for place, item in json_items(path):
            filename, *captions = fields(item, ("filename", "caption", "caption2", "negative_caption"), place)
            if captions[2] in captions[:2]:
                raise ValueError(
                    f"{place}: the caption {captions[2]!r} is its own negative. Correct or remove the item."
                )
            row = sources.image(filename, place)
            if row is not None:
                image.append(row)
                texts.append([sources.captions.row(caption, place) for caption in captions])
                subset.append(number)
                places.append(place)
    if not image:
        return sources.task()
    metrics = subset_metrics(np.array(subset), tuple(SUBSETS), ("replace", "swap"))
    note_empty(sources, np.array(subset), tuple(SUBSETS))
    true = [(row, caption, caption) for row, three in zip(image, texts, strict=True) for caption in three[:2]]
    return sources.task(TwoPositives(np.array(image), np.array(texts), metrics, places), *gallery(sources, true))


BENCHMARK = Benchmark(
    "sugarcrepe-pp", "SugarCrepe++", "binding", read,
    wants="replace_att.json, replace_obj.json, replace_rel.json, swap_att.json and swap_obj.json as data; "
    "COCO val2017 as images",
    source="github.com/Sri-Harsha/scpp, cocodataset.org",
    licence="CC BY 4.0; images: Flickr terms of use",
    paper="arXiv:2406.11171",
    headline=("macro_itt", "macro_tot", "micro_itt", "micro_tot"),
)  # fmt: skip
