"""Files that say of each picture what is in it: CLEVR, PUG:SPAR, PUG:SPARE, in the forms people have them.

No image is opened here; captions and splits are made in `labelled`.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from labclip.evaluation.items import alone, as_named, inside, table_rows
from labclip.evaluation.sources import fields, read_json

Thing = tuple[str, str]
"""Attribute and object, for example ("red", "cube")."""

Way = Callable[[str], str]


class Label(NamedTuple):
    """What is in a picture.

    Attributes:
        picture: Its name in the file.
        things: In the file's order.
        place: File and position, for messages.
    """

    picture: str
    things: tuple[Thing, ...]
    place: str


@dataclass(frozen=True)
class Labels:
    """A file of labels.

    Attributes:
        kind: "clevr", "pug-spar" or "pug-spare".
        rows: One a picture.
        ways: From a picture's name to where people have it, the likeliest first.
        notes: What was left out.
    """

    kind: str
    rows: Sequence[Label]
    ways: Sequence[Way]
    notes: Sequence[str] = ()


def read_labels(path: Path) -> Labels:
    """Read a file of labels, whichever its form is: its content tells.

    Args:
        path: The LABCLIP authors' CLEVR csv without a header (`file,shape,colour,shape,colour,...`), a csv with the
            columns `object1_color`, `object1_shape` and so on, the scenes of CLEVR as json, or a csv with the columns
            `character_name`, `character_texture`, `character2_name`, `character2_texture` of PUG:SPAR and PUG:SPARE.

    Raises:
        ValueError: If it is none of these, or not sound; with the position.
    """
    if path.suffix.lower() == ".json":
        return _clevr_scenes(path)
    first = next(iter(_lines(path)), ([], 0))[0]
    if "object1_color" in first:
        return _clevr_table(path, first)
    if "character_name" in first:
        return _pug(path)
    if len(first) >= 5 and len(first) % 2 == 1 and "." in first[0]:
        return _clevr_pairs(path)
    raise ValueError(
        f"{path} begins with {','.join(first)[:80]!r}, which is no known form: file,shape,colour,shape,colour,... "
        f"without a header, or a header with object1_color, object1_shape, ... or with character_name, ..."
    )


def _clevr_pairs(path: Path) -> Labels:
    """The authors' form, a picture a line."""
    rows = []
    for cells, line in _lines(path):
        place = f"{path} line {line}"
        if len(cells) < 3 or len(cells) % 2 == 0:
            raise ValueError(f"{place} has {len(cells)} cells, not a file and pairs of shape and colour.")
        things = _things(zip(cells[2::2], cells[1::2], strict=True), place)
        rows.append(Label(cells[0], things, place))
    folders = {f"images_{len(row.things)}obj" for row in rows}
    return Labels("clevr", rows, (*map(inside, sorted(folders)), as_named, inside("images")))


def _clevr_table(path: Path, header: Sequence[str]) -> Labels:
    """The form with one column an attribute."""
    count = next(n for n in itertools.count(1) if f"object{n + 1}_color" not in header)
    names = [(f"object{n}_color", f"object{n}_shape") for n in range(1, count + 1)]
    rows = []
    for place, cells in table_rows(path):
        picture, *values = fields(cells, ("filename", *itertools.chain(*names)), place)
        rows.append(Label(picture, _things(zip(values[::2], values[1::2], strict=True), place), place))
    return Labels("clevr", rows, (as_named, inside("images")))


def _clevr_scenes(path: Path) -> Labels:
    """CLEVR's own scenes; the order of things is the file's."""
    scenes = fields(read_json(path), ("scenes",), str(path))[0]
    if not isinstance(scenes, list):
        raise ValueError(f"{path}: 'scenes' is a {type(scenes).__name__}, not a list.")
    rows, splits = [], set()
    for number, scene in enumerate(scenes):
        place = f"{path} scene {number}"
        picture, objects = fields(scene, ("image_filename", "objects"), place)
        if not isinstance(objects, list) or not objects:
            raise ValueError(f"{place}: 'objects' is no list of things.")
        things = _things((fields(one, ("color", "shape"), place) for one in objects), place)
        rows.append(Label(picture, things, place))
        splits.add(str(scene.get("split", "")))
    ways = [inside(f"images/{split}") for split in sorted(splits) if split]
    return Labels("clevr", rows, (*ways, as_named, inside("images")))


def _pug(path: Path) -> Labels:
    """PUG:SPAR, in which things may lack a texture or be absent, or PUG:SPARE, in which none does."""
    names = ("character_texture", "character_name", "character2_texture", "character2_name", "filename", "world_name")
    rows, left_out, spare = [], 0, True
    for place, cells in table_rows(path):
        *values, picture, world = fields(cells, names, place)
        textures, animals = values[::2], values[1::2]
        spare &= {"Default", "Grass", "Stone"}.isdisjoint(textures) and "blank" not in animals
        if "blank" in animals or animals[0] == animals[1] or "Default" in textures:
            left_out += 1
        else:
            rows.append((Label(picture, _things(zip(textures, animals, strict=True), place), place), world))
    notes = [f"{left_out:,} pictures with one animal, two of a kind, or no texture are left out."] if left_out else []
    if not spare:
        return Labels("pug-spar", [label for label, _ in rows], (as_named, inside("images")), notes)
    labels = [label._replace(picture=f"{world}/{label.picture}") for label, world in rows]
    return Labels("pug-spare", labels, (as_named, alone, lambda name: f"images/{alone(name)}"), notes)


def _things(pairs: Iterable[Sequence[Any]], place: str) -> tuple[Thing, ...]:
    """Attributes and objects, checked to be words."""
    things = tuple((attribute, thing) for attribute, thing in pairs)
    for word in itertools.chain(*things):
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"{place}: {word!r} is no attribute and no object.")
    return tuple((attribute.strip(), thing.strip()) for attribute, thing in things)


def _lines(path: Path) -> Iterable[tuple[list[str], int]]:
    """The cells of each line of a csv file that is not blank, and its number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            yield from ((cells, reader.line_num) for cells in reader if cells)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no sound csv file: {error}.") from error
