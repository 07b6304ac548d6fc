"""Pictures of which every thing is known: for the binding benchmarks, and for the diagnosis that builds on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labclip.evaluation.picture import Picture
from labclip.scenes import sample

Thing = tuple[str, str]
"""Attribute and object, for example ("red", "cube")."""


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

    pictures: Sequence[Picture]
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
    return Labelled(
        pictures=[
            Picture(image, f"scene {number} of split {split}, seed {seed}")
            for number, image in enumerate(scenes.images)
        ],
        # A scene's shapes differ, so that each one's place in the sentence tells the order.
        objects=[
            tuple(sorted(things, key=lambda thing: caption.split().index(thing[1])))
            for things, caption in zip(scenes.objects, scenes.captions, strict=True)
        ],
        captions=scenes.captions,
        swapped=scenes.swapped_captions,
        name=f"scenes ({split})",
    )
