"""SugarCrepe: hard negatives that are plausible sentences, so that grammar alone does not tell (arXiv:2306.14610)."""

from __future__ import annotations

import numpy as np

from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Benchmark, Sources, fields, read_json
from labclip.evaluation.tasks import Choice, Task

SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def read(sources: Sources) -> Task:
    """Every subset, unweighted means of add, replace, swap and all seven (`macro`), and `micro` over items."""
    image, options, subset = [], [], []
    for number, path in enumerate(sources.files(*(f"{name}.json" for name in SUBSETS))):
        # An object keyed by string index, with holes: its values are the items.
        for key, item in read_json(path).items():
            place = f"{path} item {key}"
            filename, caption, negative = fields(item, ("filename", "caption", "negative_caption"), place)
            row = sources.picture(filename, place)
            if row is not None:
                image.append(row)
                options.append([sources.captions.row(text, place) for text in (caption, negative)])
                subset.append(number)
    groups = np.array(subset, dtype=np.int64)
    metrics = {name: np.where(groups == number, 0, -1) for number, name in enumerate(SUBSETS)}
    for kind in ("add", "replace", "swap"):
        inside = [number for number, name in enumerate(SUBSETS) if name.startswith(kind)]
        metrics[kind] = np.where(np.isin(groups, inside), groups, -1)
    metrics |= {"macro": groups, "micro": everything(len(groups))}
    return sources.task(Choice(np.array(image), np.array(options), metrics))


BENCHMARK = Benchmark(
    name="sugarcrepe",
    title="SugarCrepe",
    measures="binding",
    wants="the seven json files in --data; COCO val2017 pictures in --images",
    source="github.com/RAIVNLab/sugar-crepe, cocodataset.org",
    licence="MIT; pictures: Flickr terms of use",
    paper="arXiv:2306.14610",
    read=read,
    headline=("add", "replace", "swap", "macro", "micro"),
)
