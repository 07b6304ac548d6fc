"""ARO's Visual Genome halves: which object has which attribute, and which is related to which how (arXiv:2210.01936).

Both crop each image to the box that holds the two objects. Their captions follow a template, and many are true of many
images, so that they make no gallery for retrieval: `coco` measures that.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from labclip.data.entries import fields, json_items
from labclip.data.images import Box
from labclip.data.located import ImageLayout
from labclip.evaluation.items import Items
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Task
from labclip.files import read_json

LEAST = 25
"""Items that a pair of attributes must have to count in the macro mean of VG-A."""

SYMMETRIC = frozenset(read_json(Path(__file__).with_name("aro_symmetric.json")))
"""Relations that the official notebook leaves out under this name, though most are not symmetric.

Source: the notebook "Replicate ARO!" of github.com/mertyg/vision-language-models-are-bows.
"""


def read_relations(sources: Sources, *, breakdown: bool = False) -> Task:
    """`macro` over relations, `macro_no_symmetric` as the official notebook has it, `micro` over items.

    Args:
        sources: The files.
        breakdown: Whether each relation has a metric too.
    """
    items = _items(sources, "visual_genome_relation.json", "relation_name")
    relation = items.group("kind")
    symmetric = np.array([name in SYMMETRIC for name in items.groups.get("kind", [])], dtype=np.bool_)
    kept = np.where(symmetric, NONE, relation)
    metrics = {"macro": relation, "macro_no_symmetric": kept, "micro": everything(len(items))}
    parts = items.breakdown("kind", "relation_") if breakdown else {}
    return sources.task(*items.question(metrics, unit=items.group("file"), breakdown=parts))


def read_attributes(sources: Sources, *, breakdown: bool = False) -> Task:
    """`macro` over the pairs of attributes that have at least 25 items, `micro` over items.

    Args:
        sources: The files.
        breakdown: Whether each of these pairs has a metric too.
    """
    items = _items(sources, "visual_genome_attribution.json", "attributes")
    if not items:
        return sources.task()
    pair = items.group("kind")
    count = np.bincount(pair)
    metrics = {"macro": np.where(count[pair] >= LEAST, pair, NONE), "micro": everything(len(items))}
    sources.notes.append(f"macro: {(count >= LEAST).sum():,} of {len(count):,} pairs of attributes have {LEAST} items.")
    parts = items.breakdown("kind", "attributes_", least=LEAST) if breakdown else {}
    return sources.task(*items.question(metrics, unit=items.group("file"), breakdown=parts))


def _items(sources: Sources, name: str, kind: str) -> Items:
    items = Items(sources)
    layout = ImageLayout(sources, "{path}", "images/{path}")
    wanted = ("image_path", "bbox_x", "bbox_y", "bbox_w", "bbox_h", "true_caption", "false_caption", kind)
    for location, item in json_items(*sources.files(name)):
        file, x, y, w, h, true, false, group = fields(item, wanted, location)
        row = layout.image(file, location, box=_box((x, y, w, h), location))
        items.add(row, (true, false), location, file=file, kind=_kind(group, kind, location))
    return items


def _box(values: tuple[Any, ...], location: str) -> Box:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) != 4 or min(numbers[2:]) <= 0:
        raise ValueError(f"{location}: the box x, y, width, height is {values}, not four numbers of some size.")
    left, top, width, height = numbers
    return left, top, width, height


def _kind(group: Any, name: str, location: str) -> str:
    words = group if name == "attributes" else [group]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not words:
        raise ValueError(f"{location}: {name} is {group!r}, not text.")
    return "_".join(words)
