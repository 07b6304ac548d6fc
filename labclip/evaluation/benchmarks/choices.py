"""One image and several captions an item, of which some are true: SugarCrepe, ARO, VALSE, NegBench and their like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from labclip.data.entries import json_items, one_of, table_rows
from labclip.data.located import ImageLayout
from labclip.evaluation.benchmarks.fields import cell, in_folder
from labclip.evaluation.items import Items, gallery, numbered
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Question, Rows, Task, TwoPositives

CONFIRMED = 2
"""Annotators of VALSE, of three, who must have chosen the caption and not the foil."""


@dataclass(frozen=True)
class ChoicesForm:
    """Where an item has its image and its captions, and what its metrics are means over.

    Fields of an entry are as `cell` takes them.

    Attributes:
        files: Names of the files; of one that has several names all of them.
        image: The field of the image's name.
        captions: The fields of the captions, the true ones first, or the field of a list of captions.
        ways: Where people have an image, as `ImageLayout` takes it, by how its name begins.
        true: How many captions are true.
        gallery: Whether retrieval among all images and true captions is measured too.
        kinds: Beginnings of file names that have a mean together.
        votes: The field of how many annotators confirmed the item, or "".
        group: The field of what `macro` is the mean over, or of the kind of an item.
        least: Items that a group must have to count in `macro`.
        left_out: Groups that a second macro mean, `macro_no_symmetric`, leaves out.
        box: Fields of left, top, width and height of the part of the image that counts.
        answer: The field of the number of the true caption, or "" where it is the first.
        places: What the authors of What'sUp group by, by what the true caption holds; "" is any other, and with none
            it is the caption's last word.
    """

    files: Sequence[Sequence[str]]
    image: str
    captions: str | Sequence[str]
    ways: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"": ["{path}"]})
    true: int = 1
    gallery: bool = False
    kinds: Sequence[str] = ()
    votes: str = ""
    group: str = ""
    least: int = 1
    left_out: Sequence[str] = ()
    box: Sequence[str] = ()
    answer: str = ""
    places: Mapping[str, str] = field(default_factory=dict)


class _Reader:
    """Adds the entries of files to `items`."""

    def __init__(self, sources: Sources, form: ChoicesForm) -> None:
        self.items, self.sources, self.form = Items(sources), sources, form
        self.layouts = {start: ImageLayout(sources, *ways) for start, ways in form.ways.items()}

    def entries(self) -> Iterator[tuple[int, str, Any]]:
        """The number of the file, the location and the content of each entry."""
        folder = self.sources.folder
        names = [next((name for name in names if (folder / name).is_file()), names[0]) for names in self.form.files]
        for number, path in enumerate(self.sources.files(*names)):
            for location, entry in (json_items if path.suffix.lower() == ".json" else table_rows)(path):
                yield number, location, entry

    def add(self, entry: Any, location: str, **groups: Hashable) -> None:
        form = self.form
        name = cell(entry, form.image, location)
        layout = next(layout for start, layout in self.layouts.items() if str(name).startswith(start))
        box = tuple(cell(entry, one, location) for one in form.box)
        if box and not (all(isinstance(one, int | float) for one in box) and min(box[2:]) > 0):
            raise ValueError(f"{location}: the box x, y, width, height is {box}, not four numbers of some size.")
        name = in_folder(self.sources, str(name) if isinstance(name, int) else name)
        row = layout.image(name, location, box=box or None)
        self.items.add(row, self.captions(entry, location), location, true=form.true, **groups)

    def captions(self, entry: Any, location: str) -> list[Any]:
        """The captions of an entry, the true ones first."""
        form = self.form
        if isinstance(form.captions, str):
            found = cell(entry, form.captions, location)
            if not isinstance(found, list) or len(found) < 2:
                raise ValueError(f"{location}: {form.captions} is {found!r}, not captions of which the first is right.")
            return found
        found = [cell(entry, one, location) for one in form.captions]
        if form.answer:
            answer = str(cell(entry, form.answer, location)).removesuffix(".0")
            if not answer.isdecimal() or int(answer) >= len(found):
                raise ValueError(f"{location}: {form.answer} is {answer!r}, not a number from 0 to {len(found) - 1}.")
            found.insert(0, found.pop(int(answer)))
        return found


def read_subsets(form: dict[str, Any], sources: Sources) -> Task:
    """A metric a file, unweighted means of their kinds and of all (`macro`), and `micro` over items."""
    chosen = ChoicesForm(**form)
    reader, unconfirmed = _Reader(sources, chosen), 0
    for number, location, entry in reader.entries():
        if chosen.votes:
            votes = cell(entry, chosen.votes, location)
            if not isinstance(votes, int):
                raise ValueError(f"{location}: {chosen.votes} is {votes!r}, not a number of annotators.")
            if votes < CONFIRMED:
                unconfirmed += 1
                continue
        reader.add(entry, location, subset=number)
    if unconfirmed:
        sources.notes.append(
            f"{unconfirmed:,} items that fewer than {CONFIRMED} of 3 annotators confirmed are left out."
        )
    if not (items := reader.items):
        return sources.task()
    metrics = _subset_metrics(items, chosen)
    questions: list[Question] = [*items.question(metrics)]
    if chosen.true == 2:
        questions = [TwoPositives(np.array(items.image), np.array(items.options), metrics, items.locations)]
    if chosen.gallery:
        shown = zip(items.image, items.options, strict=True)
        questions += gallery(sources, [(row, text, text) for row, texts in shown for text in texts[: chosen.true]])
    return sources.task(*questions)


def _subset_metrics(items: Items, form: ChoicesForm) -> dict[str, Rows]:
    """The groups of each metric; notes say of which files no item is left, since means are over fewer then."""
    subsets = [PurePosixPath(names[0]).stem.replace("-", "_") for names in form.files]
    groups = items.numbers("subset")
    if empty := [name for number, name in enumerate(subsets) if not (groups == number).any()]:
        items.sources.notes.append(
            f"No item is left of {', '.join(empty)}: means over subsets are of the others alone."
        )
    metrics = {name: np.where(groups == number, 0, NONE) for number, name in enumerate(subsets)}
    for kind in form.kinds:
        inside = [number for number, name in enumerate(subsets) if name.startswith(kind)]
        metrics[kind] = np.where(np.isin(groups, inside), groups, NONE)
    return metrics | {"macro": groups, "micro": everything(len(groups))}


def read_groups(form: dict[str, Any], sources: Sources, *, breakdown: bool = False) -> Task:
    """`macro` over groups and `micro` over items; with `breakdown` each group that counts has a metric too."""
    chosen = ChoicesForm(**form)
    reader = _Reader(sources, chosen)
    for _, location, entry in reader.entries():
        group = cell(entry, chosen.group, location)
        words = group if isinstance(group, list) else [group]
        if not words or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{location}: {chosen.group} is {group!r}, not text.")
        # Crops of one image are not independent.
        reader.add(entry, location, group="_".join(words), file=cell(entry, chosen.image, location))
    if not (items := reader.items):
        return sources.task()
    group = items.group("group")
    count = np.bincount(group)
    metrics = {"macro": np.where(count[group] >= chosen.least, group, NONE)}
    if symmetric := {*chosen.left_out}:
        metrics["macro_no_symmetric"] = np.where([name in symmetric for name in items.groups["group"]], NONE, group)
    metrics["micro"] = everything(len(items))
    if chosen.least > 1:
        enough = f"{(count >= chosen.least).sum():,} of {len(count):,} pairs of attributes"
        sources.notes.append(f"macro: {enough} have {chosen.least} items.")
    prefix = f"{chosen.group.removesuffix('_name')}_"
    parts = items.breakdown("group", prefix, least=chosen.least) if breakdown else {}
    return sources.task(*items.question(metrics, unit=items.group("file"), breakdown=parts))


def read_kinds(form: dict[str, Any], sources: Sources) -> Task:
    """`accuracy` over all items, and over those of each kind."""
    chosen = ChoicesForm(**form)
    reader = _Reader(sources, chosen)
    for _, location, entry in reader.entries():
        kind = re.sub(r"\W+", "_", str(cell(entry, chosen.group, location)).lower()).strip("_")
        reader.add(entry, location, kind=kind or None)
    metrics = reader.items.breakdown("kind") | {"accuracy": everything(len(reader.items))}
    # Whatever its number in the table, the authors' code puts the right caption first, so that `argmax` has ties right.
    return sources.task(*reader.items.question(metrics, right_first=True))


# Aspect, source and kind, as in "Object/Size/vg_size/vg_obj_large.json"; the files of swig_place have no item.
_CHECKLIST = re.compile(r"(Object|Attribute|Relation)/(?:\w+/)?(vg|vaw|swig|hake)[/_](?!.*swig_place).*?([a-z]+)\.json")


def read_checklist(form: dict[str, Any], sources: Sources, *, limit: int = 1000) -> Task:
    """Unweighted means over files; of each file the first `limit` items whose images are there, all of them for 0."""
    paths = {path.relative_to(sources.folder).as_posix(): path for path in sorted(sources.folder.rglob("*.json"))}
    names = [name for name in paths if _CHECKLIST.fullmatch(name)]
    if not names:
        raise FileNotFoundError(f"{sources.folder} has no Attribute/vg/color.json and no other file. {sources.hint}")
    items = Items(sources)
    inside: dict[str, list[int]] = {"object": [], "attribute": [], "relation": []}
    for number, name in enumerate(names):
        aspect, source, kind = _CHECKLIST.sub(r"\1 \2 \3", name).lower().split()
        inside[aspect].append(number)
        inside.setdefault(f"{aspect}_{kind}_{source}", []).append(number)
        # VAW's images are Visual Genome's.
        ways = {"": [f"{'vg' if source == 'vaw' else source}/{{path}}", "{path}"]}
        reader = _Reader(sources, ChoicesForm([[name]], ways=ways, **form))
        reader.items, before = items, len(items)
        for location, entry in json_items(paths[name]):
            reader.add(entry, f"{name.rpartition('/')[0]}/{location}", file=number)
            if limit and len(items) - before == limit:
                break
    file = items.numbers("file")
    metrics = {name: np.where(np.isin(file, numbers), file, NONE) for name, numbers in inside.items() if numbers}
    return sources.task(*items.question(metrics))


# A file is called after what it shows: "mug_left_of_plate.jpeg", "cup_in-front_of_bowl.jpeg".
_SHOWN = re.compile(r"(?P<one>.+?)_(?P<where>left_of|right_of|on|under|in-front_of|behind)_(?P<other>.+)\.\w+")
_AXIS = {"left_of": "x", "right_of": "x", "on": "y", "under": "y", "in-front_of": "z", "behind": "z"}


def read_whatsup(form: dict[str, Any], sources: Sources, *, subset: str = "all", breakdown: bool = False) -> Task:
    """A metric a part that is there; of the controlled ones also of pairs and sets of images, and retrieval."""
    parts = {name: ChoicesForm(**part) for name, part in form.items()}
    one_of("subset", subset, ("all", *parts))
    if subset == "all":
        found = sources.either(*(part.files[0][0] for part in parts.values()))
        there = {found.name} if found == sources.data else {path.name for path in sources.folder.iterdir()}
        parts = {name: part for name, part in parts.items() if part.files[0][0] in there}
        if not parts:
            raise ValueError(f'{found} has no usual name. Pass options={{"subset": VALUE}}. {sources.hint}')
    else:
        parts = {subset: parts[subset]}
    return sources.task(*(one for name, part in parts.items() for one in _whatsup(sources, name, part, breakdown)))


def _whatsup(sources: Sources, name: str, form: ChoicesForm, breakdown: bool) -> list[Question]:
    reader, controlled = _Reader(sources, form), isinstance(form.captions, str)
    for _, location, entry in reader.entries():
        if not controlled:
            reader.add(entry, location, where=_place(str(reader.captions(entry, location)[0]), form.places))
            continue
        file = str(cell(entry, form.image, location))
        shown = _SHOWN.fullmatch(PurePosixPath(file).name)
        if shown is None:
            raise ValueError(f"{location}: the image's name {file!r} does not say what is where, as mug_on_plate.jpeg.")
        objects, where = (shown["one"], shown["other"]), shown["where"]
        reader.add(entry, location, set=objects, pair=(*objects, _AXIS[where]), where=where)
    if not (items := reader.items):
        return []
    sets = {"pairs": _whole(items.groups["pair"], 2), "sets": _whole(items.groups["set"], 4)} if controlled else {}
    together = {f"{name}_{what}": rows for what, rows in sets.items() if (rows >= 0).any()}
    parts = items.breakdown("where", f"{name}_preposition_") if breakdown else {}
    # The right caption is the first in the file, so that the authors' `argmax` has ties right.
    question = items.question(name, breakdown=parts, together=together, right_first=True)
    return [*question, *(items.gallery(f"{name}_") if controlled else ())]


def _place(caption: str, places: Mapping[str, str]) -> str | None:
    """The preposition of a caption, as the authors group by it."""
    found = [place for way, place in places.items() if way in caption]
    return next(iter(found or caption.split()[-1:]), None)


def _whole(groups: Sequence[Hashable], size: int) -> Rows:
    """The number of each item's set; `NONE` where images are missing, for a part of a set is easier."""
    count = Counter(groups)
    rows = numbered(groups)
    rows[[count[group] != size for group in groups]] = NONE
    return rows
