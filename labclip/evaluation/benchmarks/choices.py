"""Benchmarks whose items are images and captions in fields: one image and several captions, or two and two."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from labclip.checks import check_choice
from labclip.data.rows import fields, read_rows
from labclip.evaluation.benchmarks.forms import Form, Reader, cell
from labclip.evaluation.questions import NONE, Pairs, Question
from labclip.evaluation.scores import one_group
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task


def read_subsets(form: Form, sources: Sources) -> Task:
    """A metric for each file, unweighted means of their kinds and of all (`macro`), and `micro` over items."""
    reader, unconfirmed = Reader(sources, form), 0
    subsets = [PurePosixPath(names[0]).stem.replace("-", "_") for names in form.files]
    for number, location, entry in reader:
        # The votes of VALSE's three annotators for the caption, not the foil.
        if form.votes and cell(entry, form.votes, location) < 2:
            unconfirmed += 1
            continue
        subset = subsets[number]
        kinds = {kind: subset for kind in form.kinds if subset.startswith(kind)}
        reader.add(entry, location, **{subset: 0} | kinds, macro=subset, micro=0)
    if unconfirmed:
        sources.notes.append(f"{unconfirmed:,} items that fewer than 2 of 3 annotators confirmed are left out.")
    metrics = reader.items.metrics(*subsets, *form.kinds)
    if empty := [name for name in subsets if name not in metrics]:
        sources.notes.append(f"No item is left of {', '.join(empty)}: means over subsets are of the others alone.")
    gallery = reader.items.gallery() if form.retrieval else ()
    return sources.task(*reader.items.question(metrics), *gallery)


def read_groups(form: Form, sources: Sources, *, breakdown: bool = False) -> Task:
    """`macro` over groups and `micro` over items; with `breakdown` each group that counts has a metric too."""
    reader = Reader(sources, form)
    for _, location, entry in reader:
        group = cell(entry, form.group, location)
        group = group if isinstance(group, str) else "_".join(group)
        # Crops of one image are not independent, so they are one unit.
        reader.add(entry, location, macro=group, file=cell(entry, form.images[0], location))
    items = reader.items
    names = np.array([groups["macro"] for groups in items.groups])
    all_groups, macro = items.group("macro"), items.group("macro", form.least)
    metrics = {"macro": macro}
    if form.symmetric:
        metrics["macro_no_symmetric"] = np.where(np.isin(names, form.symmetric), NONE, all_groups)
    metrics["micro"] = one_group(len(items))
    if form.least > 1:
        counts = f"{len({*macro} - {NONE}):,} of {len({*all_groups}):,} pairs of attributes"
        sources.notes.append(f"macro: {counts} have at least {form.least} items.")
    prefix, counted = form.group.removesuffix("_name"), np.unique(names[macro >= 0])
    by_group = {f"{prefix}_{name}": np.where(names == name, 0, NONE) for name in counted} if breakdown else {}
    return sources.task(*items.question(metrics, unit=items.group("file"), breakdown=by_group))


def read_kinds(form: Form, sources: Sources) -> Task:
    """`accuracy` over all items, and over those of each kind."""
    reader = Reader(sources, form)
    for _, location, entry in reader:
        kind = _metric_name(cell(entry, form.group, location))
        reader.add(entry, location, **{kind: 0} if kind else {}, accuracy=0)
    # The authors' code puts the right caption first, whatever its number in the table, so `argmax` has ties right.
    return sources.task(*reader.items.question(reader.items.metrics("accuracy"), right_first=True))


def _metric_name(words: Any) -> str:
    return re.sub(r"\W+", "_", str(words).lower()).strip("_")


# Aspect, source and kind, as in "Object/Size/vg_size/vg_obj_large.json"; the files of swig_place have no item.
_CHECKLIST = re.compile(r"(Object|Attribute|Relation)/(?:\w+/)?(vg|vaw|swig|hake)[/_](?!.*swig_place).*?([a-z]+)\.json")


def read_checklist(form: Form, sources: Sources, *, limit: int = 1000) -> Task:
    """Unweighted means over files, each with its first `limit` items whose images are not missing; 0 takes all."""
    paths = {path.relative_to(sources.folder).as_posix(): path for path in sorted(sources.folder.rglob("*.json"))}
    matches = {name: match for name in paths if (match := _CHECKLIST.fullmatch(name))}
    if not matches:
        raise FileNotFoundError(f"{sources.folder} has no Attribute/vg/color.json and no other file. {sources.hint}")
    reader = Reader(sources, form)
    for name, match in matches.items():
        aspect, source, kind = match[1].lower(), match[2], match[3]
        # VAW's images are Visual Genome's.
        patterns = {"": [f"{'vg' if source == 'vaw' else source}/{{path}}", "{path}"]}
        reader.form, before = replace(form, patterns=patterns), len(reader.items)
        for location, entry in read_rows(paths[name]):
            location = f"{name.rpartition('/')[0]}/{location}"
            reader.add(entry, location, **{aspect: name, f"{aspect}_{kind}_{source}": name})
            if limit and len(reader.items) - before == limit:
                break
    return sources.task(*reader.items.question(reader.items.metrics("object", "attribute", "relation")))


# The name of a file says what it shows: "mug_left_of_plate.jpeg", "cup_in-front_of_bowl.jpeg".
_WHATSUP = re.compile(r"(?P<first>.+?)_(?P<word>left_of|right_of|on|under|in-front_of|behind)_(?P<second>.+)\.\w+")
_AXIS = {"left_of": "x", "right_of": "x", "on": "y", "under": "y", "in-front_of": "z", "behind": "z"}


def read_whatsup(forms: dict[str, Form], sources: Sources, *, subset: str = "all", breakdown: bool = False) -> Task:
    """A metric for each part whose file exists; controlled parts also have pairs and sets of images, and retrieval."""
    check_choice("The option subset", subset, ("all", *forms))
    parts = [subset]
    if subset == "all":
        file = sources.find_file(*(form.files[0][0] for form in forms.values()))
        names = {file.name} if file == sources.data else {path.name for path in sources.folder.iterdir()}
        parts = [part for part, form in forms.items() if form.files[0][0] in names]
        if not parts:
            raise ValueError(f'{file} has no usual name. Pass options={{"subset": VALUE}}. {sources.hint}')
    return sources.task(*(question for part in parts for question in _read_part(sources, part, forms[part], breakdown)))


def _read_part(sources: Sources, part: str, form: Form, breakdown: bool) -> Iterator[Question]:
    reader, is_controlled = Reader(sources, form), isinstance(form.captions, str)
    pairs, sets, prefix = f"{part}_pairs", f"{part}_sets", f"{part}_preposition_"
    for _, location, entry in reader:
        groups: dict[str, Hashable] = {part: 0}
        if is_controlled:
            file = str(cell(entry, form.images[0], location))
            match = _WHATSUP.fullmatch(PurePosixPath(file).name)
            if match is None:
                raise ValueError(f"{location}: the image's name {file!r} does not say what is where.")
            word, objects = match["word"], (match["first"], match["second"])
            groups |= {pairs: (*objects, _AXIS[word]), sets: objects}
        else:
            caption = reader.captions(entry, location)[0]
            word = next((name for words, name in form.prepositions.items() if words in caption), caption.split()[-1])
        reader.add(entry, location, **groups | ({prefix + word: 0} if breakdown else {}))
    items, metrics = reader.items, reader.items.metrics(part)
    # Only whole pairs and sets count: one with a missing image is easier.
    together = {pairs: items.group(pairs, 2), sets: items.group(sets, 4)}
    # The right caption is the first in the file, so the authors' `argmax` has ties right.
    yield from items.question(
        {part: one_group(len(items))},
        breakdown={metric: rows for metric, rows in metrics.items() if metric.startswith(prefix)},
        together={metric: rows for metric, rows in together.items() if (rows >= 0).any()},
        right_first=True,
    )
    if is_controlled:
        yield from items.gallery(f"{part}_")


def read_pairs(form: Form, sources: Sources) -> Task:
    """Winoground's scores: two images and two captions, which goes with which."""
    return _pairs_task(Reader(sources, form))


def read_tagged(form: Form, sources: Sources, *, breakdown: bool = False) -> Task:
    """`read_pairs`; with `breakdown` each tag has the scores too."""
    return read_pairs(form if breakdown else replace(form, tags={}), sources)


def read_split(form: Form, sources: Sources, *, split: str = "test") -> Task:
    """`read_pairs` for one split, "test" or "train"."""
    check_choice("The option split", split, ("test", "train"))
    return _pairs_task(Reader(sources, form, split=split))


def read_statements(form: Form, sources: Sources) -> Task:
    """`read_pairs` for MMVP-VLM: a row is an image with its caption, an odd row and the next one are an item."""
    names = "Question ID", "Type", "Statement"
    rows, entries = list(read_rows(sources.find_file(*form.files[0]))), []
    for (location, odd), (_, even) in zip(rows[::2], rows[1::2], strict=False):
        (number, kind, first), (next_number, _, second) = fields(odd, names, location), fields(even, names, location)
        if int(number) % 2 == 0 or int(next_number) != int(number) + 1:
            raise ValueError(f"{location}: questions {number} and {next_number} are not an odd one and the next.")
        images = {"image_0": f"{kind}/{number}.jpg", "image_1": f"{kind}/{next_number}.jpg"}
        # The authors put the prompt before every statement.
        captions = {"caption_0": f"a photo of {first}", "caption_1": f"a photo of {second}"}
        entries.append((0, location, images | captions | {"kind": _metric_name(kind)}))
    return _pairs_task(Reader(sources, form), entries)


def _pairs_task(reader: Reader, entries: Iterable[tuple[int, str, Any]] | None = None) -> Task:
    """The task; an item is left out if one of its images is missing, and wrong if its captions are equal."""
    form, items = reader.form, reader.items
    for _, location, entry in reader if entries is None else entries:
        kinds: dict[str, Hashable] = {}
        for name, pattern in form.tags.items():
            tag, slash, _ = str(cell(entry, name, location) or "").partition("/")
            if tag and (slash or name not in form.images):
                kinds[pattern.format(tag)] = 0
        reader.add(entry, location, **kinds)
    if not items:
        return reader.sources.task()
    pairs = Pairs(np.array(items.image), np.array(items.options), items.locations, items.metrics())
    return reader.sources.task(pairs, *(items.gallery() if form.retrieval else ()))
