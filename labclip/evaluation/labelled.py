"""Pictures of which every thing is known: for the binding benchmarks, and for the diagnosis that builds on them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labclip.data.images import ImageSource
from labclip.data.scene_files import Label, Labels, Thing, read_labels
from labclip.evaluation.items import Layout, one_of
from labclip.evaluation.sources import Sources
from labclip.scenes import sample

SPLITS = ("all", "train", "val", "test")

_HELD_OUT = 0.1  # of the combinations, for each of "val" and "test"


@dataclass(frozen=True, eq=False)
class Labelled:
    """n pictures with what is in them.

    Attributes:
        pictures: One a scene.
        objects: Per picture its things as (attribute, object), in the order in which the caption names them.
        captions: One a picture, that says which attribute goes with which object.
        swapped: The same caption with two attributes exchanged; None where no exchange says anything else, as where
            the attributes or the objects are equal.
        name: What these pictures are, for reports.
        notes: What was left out, with counts.
    """

    pictures: Sequence[ImageSource]
    objects: Sequence[tuple[Thing, ...]]
    captions: Sequence[str]
    swapped: Sequence[str | None]
    name: str
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.captions)


def labelled_scenes(n: int, *, seed: int = 0, split: str = "seen", n_objects: int = 2) -> Labelled:
    """Random scenes of the embedded world.

    Args:
        n: Number of scenes.
        seed: Of everything drawn.
        split: As `labclip.scenes.sample` takes it.
        n_objects: Things in a scene.

    Raises:
        ValueError: If an argument is outside its range.
    """
    scenes = sample(n, seed=seed, split=split, n_objects=n_objects)
    name = f"split {split}, seed {seed}, {n_objects} things"
    return Labelled(
        pictures=[ImageSource(f"scene {number} ({name})", data=image) for number, image in enumerate(scenes.images)],
        # A scene's shapes differ, so that each one's place in the sentence tells the order.
        objects=[
            tuple(sorted(things, key=lambda thing: caption.split().index(thing[1])))
            for things, caption in zip(scenes.objects, scenes.captions, strict=True)
        ],
        captions=scenes.captions,
        swapped=scenes.swapped_captions,
        name=f"scenes ({name})",
    )


def read_labelled(
    path: str | Path,
    images: str | Path | None = None,
    *,
    objects: int = 0,
    split: str = "all",
    seed: int = 0,
    on_missing: str = "raise",
) -> Labelled:
    """Read CLEVR, PUG:SPAR or PUG:SPARE in the forms people have them.

    Args:
        path: A file as `labclip.data.scene_files.read_labels` takes it, or a folder with one under its usual name.
        images: Folder that the names of pictures are relative to; None is the file's folder.
        objects: Only pictures with as many things; 0 takes 2 of CLEVR's numbered files, and all of any other.
        split: "all", or "train", "val", "test": shares of the combinations, 80, 10 and 10 in a hundred. Scenes of the
            same attributes and the same objects are on one side, whichever goes with which.
        seed: Of the split.
        on_missing: "raise", or "skip" to leave out pictures that are not there.

    Raises:
        FileNotFoundError: If the file or pictures are missing.
        ValueError: If the file is malformed, or nothing is left.
    """
    sources = Sources(Path(path), None if images is None else Path(images), on_missing)
    found = find_labels(sources, ("clevr", "pug-spar", "pug-spare"), objects)
    rows = place_labels(sources, found, objects=objects, split=split, seed=seed)
    sources.settle()
    if not rows:
        raise ValueError(f"{path} has no picture left.")
    return Labelled(
        pictures=[sources.pictures.sources[row] for row, _ in rows],
        objects=[label.things for _, label in rows],
        captions=[caption(label.things) for _, label in rows],
        swapped=[swapped_caption(label.things) for _, label in rows],
        name=f"{found.kind} ({Path(path).name})",
        notes=sources.notes,
    )


def find_labels(sources: Sources, kinds: Sequence[str], objects: int = 0) -> Labels:
    """The labels at the data path, a file or a folder with one under its usual name.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If they are of another kind.
    """
    usual = [name for kind in kinds for name in _USUAL[kind]]
    labels = read_labels(sources.either(*(name.format(n=objects or 2) for name in dict.fromkeys(usual))))
    if labels.kind not in kinds:
        raise ValueError(f"{sources.data} holds {labels.kind}, not {' or '.join(kinds)}. {sources.hint}")
    return labels


_USUAL = {
    "clevr": ("output_{n}obj.csv", "labels.csv", "scenes/CLEVR_val_scenes.json", "CLEVR_val_scenes.json"),
    "pug-spar": ("labels.csv",),
    "pug-spare": ("PUG_SPARE.csv", "labels.csv"),
}


def place_labels(
    sources: Sources, labels: Labels, *, objects: int = 0, split: str = "all", seed: int = 0
) -> list[tuple[int, Label]]:
    """The labels of a split whose pictures are there, each with the picture's row.

    Raises:
        ValueError: If an option is none, or leaves nothing.
    """
    one_of("split", split, SPLITS)
    sources.notes.extend(labels.notes)
    kept = [label for label in labels.rows if objects in (0, len(label.things))]
    if not kept:
        counts = ", ".join(map(str, sorted({len(label.things) for label in labels.rows}))) or "none"
        raise ValueError(f"No picture has {objects} things; numbers of things are {counts}. Pass --option objects=N.")
    if split != "all":
        sides = split_of([combination(label.things) for label in kept], seed)
        kept = [label for label, side in zip(kept, sides, strict=True) if side == split]
    layout = Layout(sources, *labels.ways)
    rows = [(layout.picture(label.picture, label.place), label) for label in kept]
    return [(row, label) for row, label in rows if row is not None]


def combination(things: Sequence[Thing]) -> Hashable:
    """What a scene and all its swaps have in common: its attributes and its objects, whichever goes with which."""
    return tuple(tuple(sorted(words)) for words in zip(*things, strict=True))


def split_of(combinations: Sequence[Hashable], seed: int) -> list[str]:
    """The side of each row: rows of one combination are on one side.

    Args:
        combinations: One a row.
        seed: Of the draw.
    """
    known = sorted(set(combinations), key=repr)
    random.Random(seed).shuffle(known)
    share = round(_HELD_OUT * len(known))
    sides = dict.fromkeys(known[: len(known) - 2 * share], "train")
    sides |= dict.fromkeys(known[len(known) - 2 * share : len(known) - share], "val")
    sides |= dict.fromkeys(known[len(known) - share :], "test")
    return [sides[one] for one in combinations]


def caption(things: Sequence[Thing]) -> str:
    """What the paper says of a scene, for example "red cube and blue sphere".

    Source: arXiv:2502.03566.
    """
    return " and ".join(f"{attribute} {thing}" for attribute, thing in things)


def swapped_caption(things: Sequence[Thing]) -> str | None:
    """The caption with the attributes of the first two things exchanged for which that says something else."""
    for (i, one), (j, other) in itertools.combinations(enumerate(things), 2):
        if one[0] != other[0] and one[1] != other[1]:
            swapped = list(things)
            swapped[i], swapped[j] = (other[0], one[1]), (one[0], other[1])
            return caption(swapped)
    return None
