"""What'sUp: which preposition holds between two objects (arXiv:2310.19785)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from labclip.data.entries import fields, json_items, one_of
from labclip.data.located import ImageLayout, base_name
from labclip.evaluation.items import Items, numbered
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Choice, Question, Rows, Task

CONTROLLED = {"a": "controlled_images_dataset.json", "b": "controlled_clevr_dataset.json"}
"""Four captions an image; each pair of objects in four locations."""

LISTS = {
    "coco_one": "coco_qa_one_obj.json",
    "coco_two": "coco_qa_two_obj.json",
    "vg_one": "vg_qa_one_obj.json",
    "vg_two": "vg_qa_two_obj.json",
}
"""Two captions an image."""

# A file is called after what it shows: "mug_left_of_plate.jpeg", "cup_in-front_of_bowl.jpeg".
_SHOWN = re.compile(r"(?P<one>.+?)_(?P<where>left_of|right_of|on|under|in-front_of|behind)_(?P<other>.+)\.\w+")
_AXIS = {"left_of": "x", "right_of": "x", "on": "y", "under": "y", "in-front_of": "z", "behind": "z"}


def read(sources: Sources, *, subset: str = "all", breakdown: bool = False) -> Task:
    """Of what is there: `a`, `a_pairs`, `a_sets`, the same of `b`; `coco_one`, `coco_two`, `vg_one`, `vg_two`.

    A pair is two objects in two opposite places, a set the same two in all four: all of its images must be right. The
    controlled parts `a` and `b` have retrieval among their images too.

    Args:
        sources: The files.
        subset: "all" that are there, or one of a, b, coco_one, coco_two, vg_one, vg_two.
        breakdown: Whether each preposition has a metric too.
    """
    files = {**CONTROLLED, **LISTS}
    one_of("subset", subset, ("all", *files))
    questions: list[Question] = []
    for name, path in _paths(sources, files, subset).items():
        questions += (_controlled if name in CONTROLLED else _list)(sources, path, name, breakdown)
    return sources.task(*questions)


def _paths(sources: Sources, files: dict[str, str], subset: str) -> dict[str, Path]:
    """The parts to read."""
    if sources.data is not None and sources.data.is_file():
        by_name = {file: name for name, file in files.items()}
        if subset == "all" and sources.data.name not in by_name:
            raise ValueError(f'{sources.data} has no usual name. Pass options={{"subset": VALUE}}. {sources.hint}')
        return {by_name[sources.data.name] if subset == "all" else subset: sources.data}
    if subset != "all":
        return {subset: sources.files(files[subset])[0]}
    sources.either(*files.values())
    return {name: path for name, file in files.items() if (path := sources.folder / file).is_file()}


def _controlled(sources: Sources, path: Path, name: str, breakdown: bool) -> list[Question]:
    items = Items(sources)
    folder = "controlled_images" if name == "a" else "controlled_clevr"
    # The files say "data/...", the authors' own folder.
    layout = ImageLayout(sources, "{path}", "{rest}", "{name}", f"{folder}/{{name}}")
    for location, item in json_items(path):
        file, captions = fields(item, ("image_path", "caption_options"), location)
        if not isinstance(captions, list) or len(captions) < 2:
            raise ValueError(f"{location}: caption_options is {captions!r}, not captions of which the first is right.")
        row = layout.image(file, location)
        shown = _SHOWN.fullmatch(base_name(file))
        if shown is None:
            raise ValueError(f"{location}: the image's name {file!r} does not say what is where, as mug_on_plate.jpeg.")
        objects = shown["one"], shown["other"]
        items.add(row, captions, location, set=objects, pair=(*objects, _AXIS[shown["where"]]), where=shown["where"])
    if not items:
        return []
    sets = {f"{name}_pairs": _whole(items.groups["pair"], 2), f"{name}_sets": _whole(items.groups["set"], 4)}
    together = {metric: rows for metric, rows in sets.items() if (rows >= 0).any()}
    return [*_question(items, name, breakdown, together=together), *items.gallery(f"{name}_")]


def _question(items: Items, name: str, breakdown: bool, **further: Any) -> list[Choice]:
    """The right caption is the first in the file, so that the authors' `argmax` has ties right."""
    parts = items.breakdown("where", f"{name}_preposition_") if breakdown else {}
    return items.question(name, breakdown=parts, right_first=True, **further)


def _whole(groups: Sequence[Hashable], size: int) -> Rows:
    """The number of each item's set; `NONE` where images are missing, for a part of a set is easier."""
    count = Counter(groups)
    rows = numbered(groups)
    rows[[count[group] != size for group in groups]] = NONE
    return rows


def _list(sources: Sources, path: Path, name: str, breakdown: bool) -> list[Question]:
    items = Items(sources)
    coco = name.startswith("coco")
    layout = ImageLayout(sources, "val2017/{path}" if coco else "vg_images/{path}", "{path}")
    for location, item in json_items(path):
        if not isinstance(item, list) or len(item) != 3:
            raise ValueError(f"{location} is {item!r}, not [number of the image, right caption, wrong caption].")
        number, *captions = item
        if isinstance(number, bool) or not isinstance(number, int | str) or not str(number).isdecimal():
            raise ValueError(f"{location}: the image's number is {number!r}, not a whole number.")
        row = layout.image(f"{int(number):012}.jpg" if coco else f"{int(number)}.jpg", location)
        items.add(row, captions, location, where=_preposition(captions[0], name))
    return [*_question(items, name, breakdown)]


def _preposition(caption: Any, name: str) -> str | None:
    """What the authors group by: the last word of a caption of one object, else the first of these that it has."""
    if not isinstance(caption, str) or not caption.strip():
        return None
    if name.endswith("_one"):
        return caption.split()[-1]
    ways = {"left of": "left", "right of": "right"}
    ways |= (
        {"above": "above", "": "below"} if name == "coco_two" else {"front of": "front", "behind": "behind", "": "top"}
    )
    return next(word for way, word in ways.items() if way in caption)
