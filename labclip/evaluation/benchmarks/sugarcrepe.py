"""SugarCrepe: hard negatives that are plausible sentences, so that grammar alone does not tell (arXiv:2306.14610)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labclip.data.entries import fields, json_items
from labclip.evaluation.items import Items
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Rows, Task

SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def read(sources: Sources) -> Task:
    """Every subset, unweighted means of add, replace, swap and all seven (`macro`), and `micro` over items."""
    items = Items(sources)
    for number, path in enumerate(sources.files(*(f"{name}.json" for name in SUBSETS))):
        for location, item in json_items(path):
            filename, *captions = fields(item, ("filename", "caption", "negative_caption"), location)
            items.add(sources.image(filename, location), captions, location, subset=number)
    return sources.task(*items.question(subset_metrics(items, SUBSETS, ("add", "replace", "swap"))), *items.gallery())


def subset_metrics(items: Items, subsets: Sequence[str], kinds: Sequence[str] = ()) -> dict[str, Rows]:
    """The groups of each subset alone, of each kind, which is how names begin, and of the macro and micro means.

    Notes say of which subsets no item is left, since means are over fewer then.
    """
    groups = items.numbers("subset")
    if empty := [name for number, name in enumerate(subsets) if not (groups == number).any()]:
        items.sources.notes.append(
            f"No item is left of {', '.join(empty)}: means over subsets are of the others alone."
        )
    metrics = {name: np.where(groups == number, 0, -1) for number, name in enumerate(subsets)}
    for kind in kinds:
        inside = [number for number, name in enumerate(subsets) if name.startswith(kind)]
        metrics[kind] = np.where(np.isin(groups, inside), groups, -1)
    return metrics | {"macro": groups, "micro": everything(len(groups))}
