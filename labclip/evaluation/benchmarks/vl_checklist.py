"""VL-CheckList: objects, attributes and relations of four data sets, one word replaced (arXiv:2207.00221)."""

from __future__ import annotations

import re

import numpy as np

from labclip.data.entries import fields, json_items
from labclip.data.located import ImageLayout
from labclip.evaluation.items import Items
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Task

# Aspect, source and kind, as in "Object/Size/vg_size/vg_obj_large.json"; the files of swig_place have no item.
_NAME = re.compile(r"(Object|Attribute|Relation)/(?:\w+/)?(vg|vaw|swig|hake)[/_](?!.*swig_place).*?([a-z]+)\.json")


def read(sources: Sources, *, limit: int = 1000) -> Task:
    """`object`, `attribute` and `relation` of the files that are there, and each kind of each source alone.

    An item is right if its first positive text beats its first negative one. A metric such as `object_large_vg` is the
    unweighted mean over the files of its source, which the authors' chart is made of. `object`, `attribute` and
    `relation` are unweighted means over their files.

    Args:
        sources: The files.
        limit: Items of each file, the first whose images are there: the authors' settings take 1,000. 0 takes all.
    """
    paths = {path.relative_to(sources.folder).as_posix(): path for path in sorted(sources.folder.rglob("*.json"))}
    names = [name for name in paths if _NAME.fullmatch(name)]
    if not names:
        raise FileNotFoundError(f"{sources.folder} has no Attribute/vg/color.json and no other file. {sources.hint}")
    items = Items(sources)
    inside: dict[str, list[int]] = {"object": [], "attribute": [], "relation": []}
    for number, name in enumerate(names):
        aspect, source, kind = _NAME.sub(r"\1 \2 \3", name).lower().split()
        inside[aspect].append(number)
        inside.setdefault(f"{aspect}_{kind}_{source}", []).append(number)
        # VAW's images are Visual Genome's.
        layout = ImageLayout(sources, f"{'vg' if source == 'vaw' else source}/{{path}}", "{path}")
        before = len(items)
        for location, item in json_items(paths[name]):
            location = f"{name.rpartition('/')[0]}/{location}"
            if not isinstance(item, list) or len(item) != 2:
                raise ValueError(f'{location} is {item!r}, not [image, {{"POS": texts, "NEG": texts}}].')
            texts = fields(item[1], ("POS", "NEG"), location)
            if wrong := [one for one in texts if not isinstance(one, list) or not one]:
                raise ValueError(f"{location}: POS or NEG is {wrong[0]!r}, not a list of texts.")
            items.add(layout.image(item[0], location), [one[0] for one in texts], location, file=number)
            if limit and len(items) - before == limit:
                break
    file = items.numbers("file")
    metrics = {name: np.where(np.isin(file, numbers), file, NONE) for name, numbers in inside.items() if numbers}
    return sources.task(*items.question(metrics))
