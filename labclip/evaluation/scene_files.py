"""Scenes of which every object is known: CLEVR, PUG:SPAR and PUG:SPARE as people have them, and the embedded world."""

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

_USUAL = {
    "clevr": ("output_{n}obj.csv", "labels.csv", "scenes/CLEVR_val_scenes.json", "CLEVR_val_scenes.json"),
    "pug-spar": ("labels.csv",),
    "pug-spare": ("PUG_SPARE.csv", "labels.csv"),
}
_WAYS = ("{path}", "images/{path}")


class SceneEntry(NamedTuple):
    """An image: its name in the file, its objects in the file's order, and file and position."""

    image: str
    objects: tuple[Object, ...]
    location: str


class SceneFile(NamedTuple):
    """A file that says of each image what is in it."""

    kind: str  # "clevr", "pug-spar" or "pug-spare"
    entries: Sequence[SceneEntry]
    ways: Sequence[str]  # where people have an image, as `Sources.image` takes it, the likeliest first
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class LabelledScenes:
    """Images with what is in them."""

    images: Sequence[ImageSource]  # one a scene
    objects: Sequence[tuple[Object, ...]]  # of each in the order in which the caption names them
    captions: Sequence[str]  # which attribute goes with which object
    swapped: Sequence[str | None]  # the same with two attributes swapped; None where no swap says anything else
    name: str  # for reports
    kind: str = ""  # of a file: "clevr", "pug-spar" or "pug-spare", the name of its benchmark
    notes: Sequence[str] = ()  # what was left out, with counts


def labelled_scenes(n: int, *, seed: int = 0, split: str = "seen", n_objects: int = 2) -> LabelledScenes:
    """Random scenes of the embedded model; arguments and errors as in `labclip.scenes.sample`."""
    scenes = sample(n, seed=seed, split=split, n_objects=n_objects)
    name = f"split {split}, seed {seed}, {n_objects} objects"
    return LabelledScenes(
        images=[ImageSource(f"scene {number} ({name})", data=image) for number, image in enumerate(scenes.images)],
        # A scene's shapes differ, so that the sentence tells their order.
        objects=[
            tuple(sorted(objects, key=lambda one: caption.split().index(one[1])))
            for objects, caption in zip(scenes.objects, scenes.captions, strict=True)
        ],
        captions=scenes.captions,
        swapped=scenes.swapped_captions,
        name=f"scenes ({name})",
    )


def read_labelled_scenes(
    path: str | Path, images: str | Path | None = None, *, on_missing: str = "raise"
) -> LabelledScenes:
    """Read CLEVR, PUG:SPAR or PUG:SPARE from a file as `read_scene_file` takes it, or a folder with one.

    `images` is the folder of the images, by default that of the file; `on_missing` as in `Sources`.
    """
    files = Sources(Path(path), None if images is None else Path(images), on_missing)
    file = find_scene_file(files, tuple(_USUAL))
    found = locate_images(files, file, file.entries)
    files.settle()
    if not found:
        raise ValueError(f"{path} has no image left.")
    return LabelledScenes(
        images=[files.image_sources[row] for row, _ in found],
        objects=[entry.objects for _, entry in found],
        captions=[caption(entry.objects) for _, entry in found],
        swapped=[swapped_caption(entry.objects) for _, entry in found],
        name=f"{file.kind} ({Path(path).name})",
        kind=file.kind,
        notes=files.notes,
    )


def find_scene_file(files: Sources, kinds: Sequence[str], *, objects: int = 0) -> SceneFile:
    """The file of one of the `kinds`, with as many objects; 0 takes 2 of CLEVR's files, all of others."""
    usual = [name for kind in kinds for name in _USUAL[kind]]
    file = read_scene_file(files.either(*(name.format(n=objects or 2) for name in dict.fromkeys(usual))))
    if file.kind not in kinds:
        raise ValueError(f"{files.data} holds {file.kind}, not {' or '.join(kinds)}. {files.hint}")
    files.notes.extend(file.notes)
    if not file.entries:
        raise ValueError(f"{files.data} names no image. {files.hint}".rstrip())
    kept = [entry for entry in file.entries if objects in (0, len(entry.objects))]
    if not kept:
        counts = ", ".join(map(str, sorted({len(entry.objects) for entry in file.entries})))
        raise ValueError(
            f'No image has {objects} objects but {counts}. Pass options={{"objects": N}} with one of these.'
        )
    return file._replace(entries=kept)


def locate_images(files: Sources, file: SceneFile, entries: Iterable[SceneEntry]) -> list[tuple[int, SceneEntry]]:
    """Those of some entries whose images are there, each with its image's row."""
    rows = [(files.image(entry.image, entry.location, file.ways), entry) for entry in entries]
    return [(row, entry) for row, entry in rows if row is not None]


def combination(objects: Sequence[Object]) -> Hashable:
    """What a scene and all its swaps have in common: its attributes and its objects, whichever goes with which."""
    return tuple(tuple(sorted(words)) for words in zip(*objects, strict=True))


def caption(objects: Sequence[Object]) -> str:
    """What the paper (arXiv:2502.03566) says of a scene, for example "red cube and blue sphere"."""
    return " and ".join(f"{attribute} {name}" for attribute, name in objects)


def swap(objects: Sequence[Object]) -> tuple[Object, ...] | None:
    """Two objects with their attributes swapped: the first two for which that says something else."""
    for (i, one), (j, other) in itertools.combinations(enumerate(objects), 2):
        if one[0] != other[0] and one[1] != other[1]:
            swapped = list(objects)
            swapped[i], swapped[j] = (other[0], one[1]), (one[0], other[1])
            return tuple(swapped)
    return None


def swapped_caption(objects: Sequence[Object]) -> str | None:
    """The caption with two attributes swapped; None where no swap says anything else."""
    swapped = swap(objects)
    return None if swapped is None else caption(swapped)


def read_scene_file(path: Path) -> SceneFile:
    """Read a file that says what is in each image; its content tells its form, `_clevr_pairs` and so on."""
    if path.suffix.lower() == ".json":
        return _clevr_scenes(path)
    first = next((cells for _, cells in separated_lines(path)), [])
    if "object1_color" in first:
        return _clevr_table(path, first)
    if "character_name" in first:
        return _pug(path)
    if len(first) >= 5 and len(first) % 2 == 1 and "." in first[0]:
        return _clevr_pairs(path)
    raise ValueError(
        f"{path} begins with {','.join(first)[:80]!r}, which is not a known format: file,shape,colour,shape,colour,... "
        f"without a header, or a header with object1_color, object1_shape, ... or with character_name, ..."
    )


def _clevr_pairs(path: Path) -> SceneFile:
    """The LABCLIP authors' CLEVR csv without a header: `file,shape,colour,shape,colour,...`."""
    entries = []
    for location, cells in separated_lines(path):
        if len(cells) < 3 or len(cells) % 2 == 0:
            raise ValueError(f"{location} has {len(cells)} cells, not a file and pairs of shape and colour.")
        entries.append(_entry(cells[0], cells[2::2], cells[1::2], location))
    folders = sorted({f"images_{len(entry.objects)}obj/{{path}}" for entry in entries})
    return SceneFile("clevr", entries, (*folders, *_WAYS))


def _clevr_table(path: Path, header: Sequence[str]) -> SceneFile:
    """The csv with the columns `filename`, `object1_color`, `object1_shape` and so on."""
    count = next(n for n in itertools.count(1) if f"object{n + 1}_color" not in header)
    names = ("filename", *(f"object{n}_{what}" for n in range(1, count + 1) for what in ("color", "shape")))
    entries = []
    for location, cells in read_rows(path):
        image, *words = fields(cells, names, location)
        entries.append(_entry(image, words[::2], words[1::2], location))
    return SceneFile("clevr", entries, _WAYS)


def _clevr_scenes(path: Path) -> SceneFile:
    """CLEVR's own scenes; the order of objects is the file's."""
    (scenes,) = fields(read_json(path), ("scenes",), str(path))
    entries, splits = [], set()
    for number, scene in enumerate(scenes):
        location = f"{path.name} scene {number}"
        image, objects = fields(scene, ("image_filename", "objects"), location)
        colours, shapes = zip(*(fields(one, ("color", "shape"), location) for one in objects), strict=True)
        entries.append(_entry(image, colours, shapes, location))
        splits.add(str(scene.get("split", "")))
    return SceneFile("clevr", entries, (*(f"images/{split}/{{path}}" for split in sorted(splits) if split), *_WAYS))


def _pug(path: Path) -> SceneFile:
    """PUG:SPAR, in which objects may lack a texture or be absent, or PUG:SPARE, in which none does."""
    names = ("character_texture", "character_name", "character2_texture", "character2_name", "filename", "world_name")
    entries, left_out, spare = [], 0, True
    for location, cells in read_rows(path):
        *words, image, world = fields(cells, names, location)
        textures, animals = words[::2], words[1::2]
        spare &= {"Default", "Grass", "Stone"}.isdisjoint(textures) and "blank" not in animals
        if "blank" in animals or animals[0] == animals[1] or "Default" in textures:
            left_out += 1
        else:
            entries.append((_entry(image, textures, animals, location), world))
    notes = [f"{left_out:,} images with one animal, two of a kind, or no texture are left out."] if left_out else []
    if not spare:
        return SceneFile("pug-spar", [entry for entry, _ in entries], _WAYS, notes)
    in_worlds = [entry._replace(image=f"{world}/{entry.image}") for entry, world in entries]
    return SceneFile("pug-spare", in_worlds, ("{path}", "{name}", "images/{name}"), notes)


def _entry(image: str, attributes: Sequence[Any], names: Sequence[Any], location: str) -> SceneEntry:
    """An entry, its words checked."""
    for word in (*attributes, *names):
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"{location}: {word!r} is neither an attribute nor an object.")
    objects = tuple((one.strip(), other.strip()) for one, other in zip(attributes, names, strict=True))
    return SceneEntry(image, objects, location)
