"""Scenes in which every object is known: CLEVR, PUG:SPAR and PUG:SPARE in the files people have, and labclip's own."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from labclip.data.images import ImageSource
from labclip.data.rows import fields, read_rows, separated_lines
from labclip.evaluation.sources import Sources
from labclip.files import read_json
from labclip.scenes import sample

Object = tuple[str, str]
"""Attribute and name, for example ("red", "cube")."""

_FILES = {  # usual names, by kind
    "clevr": ("output_{n}obj.csv", "labels.csv", "scenes/CLEVR_val_scenes.json", "CLEVR_val_scenes.json"),
    "pug-spar": ("labels.csv",),
    "pug-spare": ("PUG_SPARE.csv", "labels.csv"),
}
_PATTERNS = ("{path}", "images/{path}")


class SceneEntry(NamedTuple):
    """An image as a file describes it: its name, its objects in the file's order, and file and position."""

    image: str
    objects: tuple[Object, ...]
    location: str


class SceneFile(NamedTuple):
    """A file that describes what is in each image."""

    kind: str  # "clevr", "pug-spar" or "pug-spare"
    entries: Sequence[SceneEntry]
    patterns: Sequence[str]  # of the paths of images, as in `Sources.image`
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class LabelledScenes:
    """Images with what is in them, one for each scene."""

    images: Sequence[ImageSource]
    objects: Sequence[tuple[Object, ...]]  # in the order in which the caption names them
    captions: Sequence[str]  # which attribute goes with which object
    swapped: Sequence[str | None]  # the captions with two attributes swapped; None if no swap changes the meaning
    name: str  # for reports
    kind: str = ""  # of a file: "clevr", "pug-spar" or "pug-spare", the name of its benchmark
    tags: Sequence[str] = ()  # of rendered scenes: captions that do not say which attribute goes with which object
    notes: Sequence[str] = ()  # what was left out, with counts


def labelled_scenes(n: int, *, seed: int = 0, split: str = "seen", n_objects: int = 2) -> LabelledScenes:
    """Random scenes of the embedded model; arguments and errors as in `labclip.scenes.sample`."""
    scenes = sample(n, seed=seed, split=split, n_objects=n_objects)
    name = f"split {split}, seed {seed}, {n_objects} objects"
    return LabelledScenes(
        images=[ImageSource(f"scene {number} ({name})", data=image) for number, image in enumerate(scenes.images)],
        # The shapes of a scene differ, so the caption shows their order.
        objects=[
            tuple(sorted(objects, key=lambda pair: caption.split().index(pair[1])))
            for objects, caption in zip(scenes.objects, scenes.captions, strict=True)
        ],
        captions=scenes.captions,
        swapped=scenes.swapped_captions,
        name=f"scenes ({name})",
        tags=scenes.tags,
    )


def read_labelled_scenes(path: Path, images: str | Path | None = None) -> LabelledScenes:
    """Read CLEVR, PUG:SPAR or PUG:SPARE from a file in a form of `read_scene_file`, or from a folder with one.

    `images` is the folder of the images, by default that of the file.
    """
    sources = Sources(path, None if images is None else Path(images).expanduser())
    file = find_scene_file(sources, tuple(_FILES))
    located = locate_images(sources, file, file.entries)
    sources.settle()
    return LabelledScenes(
        images=[sources.image_sources[row] for row, _ in located],
        objects=[entry.objects for _, entry in located],
        captions=[caption(entry.objects) for _, entry in located],
        swapped=[swapped_caption(entry.objects) for _, entry in located],
        name=f"{file.kind} ({path.name})",
        kind=file.kind,
        notes=sources.notes,
    )


def find_scene_file(sources: Sources, kinds: Sequence[str], *, objects: int = 0) -> SceneFile:
    """The file of one of the `kinds`, with images of so many objects; 0 takes 2 of CLEVR's files, all of others."""
    names = dict.fromkeys(name.format(n=objects or 2) for kind in kinds for name in _FILES[kind])
    file = read_scene_file(sources.find_file(*names))
    if file.kind not in kinds:
        raise ValueError(f"{sources.data} holds {file.kind}, not {' or '.join(kinds)}. {sources.hint}")
    sources.notes.extend(file.notes)
    if not file.entries:
        raise ValueError(f"{sources.data} names no image. {sources.hint}".rstrip())
    entries = [entry for entry in file.entries if objects in (0, len(entry.objects))]
    if not entries:
        counts = ", ".join(map(str, sorted({len(entry.objects) for entry in file.entries})))
        raise ValueError(
            f'No image has {objects} objects but {counts}. Pass options={{"objects": N}} with one of these.'
        )
    return file._replace(entries=entries)


def locate_images(sources: Sources, file: SceneFile, entries: Iterable[SceneEntry]) -> list[tuple[int, SceneEntry]]:
    """The entries whose image is not missing, each with the row of its image."""
    rows = [(sources.image(entry.image, entry.location, file.patterns), entry) for entry in entries]
    return [(row, entry) for row, entry in rows if row is not None]


def combination(objects: Sequence[Object]) -> Hashable:
    """The attributes and the objects of a scene, whichever goes with which: equal for a scene and all its swaps."""
    return tuple(tuple(sorted(words)) for words in zip(*objects, strict=True))


def caption(objects: Sequence[Object]) -> str:
    """The caption of a scene as in the paper (arXiv:2502.03566), for example "red cube and blue sphere"."""
    return " and ".join(f"{attribute} {name}" for attribute, name in objects)


def swap(objects: Sequence[Object]) -> tuple[Object, ...] | None:
    """The scene with the attributes of two objects swapped, the first two for which that changes the meaning."""
    for (i, first), (j, second) in itertools.combinations(enumerate(objects), 2):
        if first[0] != second[0] and first[1] != second[1]:
            swapped = list(objects)
            swapped[i], swapped[j] = (second[0], first[1]), (first[0], second[1])
            return tuple(swapped)
    return None


def swapped_caption(objects: Sequence[Object]) -> str | None:
    """The caption with two attributes swapped; None if no swap changes the meaning."""
    swapped = swap(objects)
    return None if swapped is None else caption(swapped)


def read_scene_file(path: Path) -> SceneFile:
    """Read a file that describes what is in each image; its content decides which of the functions below reads it."""
    if path.suffix.lower() == ".json":
        return _clevr_scenes(path)
    header = next((cells for _, cells in separated_lines(path)), [])
    if "object1_color" in header:
        return _clevr_table(path, header)
    if "character_name" in header:
        return _pug(path)
    if len(header) >= 5 and len(header) % 2 == 1 and "." in header[0]:  # a row of data
        return _clevr_pairs(path)
    raise ValueError(
        f"{path} begins with {','.join(header)[:80]!r}, which is not a known format: "
        f"file,shape,colour,shape,colour,... without a header, or a header with object1_color, object1_shape, ... or "
        f"with character_name, ..."
    )


def _clevr_pairs(path: Path) -> SceneFile:
    """The LABCLIP authors' CLEVR csv without a header: `file,shape,colour,shape,colour,...`."""
    entries = []
    for location, cells in separated_lines(path):
        if len(cells) < 3 or len(cells) % 2 == 0:
            raise ValueError(f"{location} has {len(cells)} cells, not a file and pairs of shape and colour.")
        entries.append(_entry(cells[0], cells[2::2], cells[1::2], location))
    folders = sorted({f"images_{len(entry.objects)}obj/{{path}}" for entry in entries})
    return SceneFile("clevr", entries, (*folders, *_PATTERNS))


def _clevr_table(path: Path, header: Sequence[str]) -> SceneFile:
    """The csv with the columns `filename`, `object1_color`, `object1_shape` and so on."""
    count = next(n for n in itertools.count(1) if f"object{n + 1}_color" not in header)
    names = ("filename", *(f"object{n}_{word}" for n in range(1, count + 1) for word in ("color", "shape")))
    entries = []
    for location, cells in read_rows(path):
        image, *words = fields(cells, names, location)
        entries.append(_entry(image, words[::2], words[1::2], location))
    return SceneFile("clevr", entries, _PATTERNS)


def _clevr_scenes(path: Path) -> SceneFile:
    """CLEVR's own scenes, with the objects in the file's order."""
    (scenes,) = fields(read_json(path), ("scenes",), str(path))
    entries, splits = [], set()
    for number, scene in enumerate(scenes):
        location = f"{path.name} scene {number}"
        image, objects = fields(scene, ("image_filename", "objects"), location)
        colours, shapes = zip(*(fields(entry, ("color", "shape"), location) for entry in objects), strict=True)
        entries.append(_entry(image, colours, shapes, location))
        splits.add(str(scene.get("split", "")))
    return SceneFile("clevr", entries, (*(f"images/{split}/{{path}}" for split in sorted(splits) if split), *_PATTERNS))


def _pug(path: Path) -> SceneFile:
    """PUG:SPAR, in which an object may be absent or have no texture, or PUG:SPARE, which has neither."""
    names = ("character_texture", "character_name", "character2_texture", "character2_name", "filename", "world_name")
    entries, left_out, is_spare = [], 0, True
    for location, cells in read_rows(path):
        *words, image, world = fields(cells, names, location)
        textures, animals = words[::2], words[1::2]
        is_spare &= {"Default", "Grass", "Stone"}.isdisjoint(textures) and "blank" not in animals
        if "blank" in animals or animals[0] == animals[1] or "Default" in textures:
            left_out += 1
        else:
            entries.append((_entry(image, textures, animals, location), world))
    notes = [f"{left_out:,} images with one animal, two of a kind, or no texture are left out."] if left_out else []
    if not is_spare:
        return SceneFile("pug-spar", [entry for entry, _ in entries], _PATTERNS, notes)
    in_worlds = [entry._replace(image=f"{world}/{entry.image}") for entry, world in entries]
    return SceneFile("pug-spare", in_worlds, ("{path}", "{name}", "images/{name}"), notes)


def _entry(image: str, attributes: Sequence[Any], names: Sequence[Any], location: str) -> SceneEntry:
    """An entry; ValueError if an attribute or a name is not a text."""
    for word in (*attributes, *names):
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"{location}: {word!r} is neither an attribute nor an object.")
    objects = tuple((attribute.strip(), name.strip()) for attribute, name in zip(attributes, names, strict=True))
    return SceneEntry(image, objects, location)
