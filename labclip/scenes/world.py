"""Random scenes and their captions."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labclip.checks import check_choice, checked_integer
from labclip.scenes.captions import sentences, tags
from labclip.scenes.renderer import Layout, draw_layout, render
from labclip.scenes.vocabulary import COLOURS, SHAPES, SPLITS, allowed

_MAX_OBJECTS = 5  # the captions of more would not fit in the text tower's 16 tokens


@dataclass(frozen=True)
class Scenes:
    """n random scenes.

    Attributes:
        images: uint8 [n, 64, 64, 3], sRGB.
        captions: A sentence for each scene that says which colour goes with which shape.
        swapped_captions: The same sentences with the colours of two random objects swapped. They are always wrong, as
            all colours of a scene differ. None for a scene of one object.
        tags: A caption for each scene that names its colours and shapes without saying which goes with which.
        objects: For each scene the (colour, shape) of its objects, from left to right.
        layout: Everything that the images depend on.
    """

    images: NDArray[np.uint8] = field(repr=False)
    captions: list[str] = field(repr=False)
    swapped_captions: list[str | None] = field(repr=False)
    tags: list[str] = field(repr=False)
    objects: list[tuple[tuple[str, str], ...]] = field(repr=False)
    layout: Layout = field(repr=False)

    def __len__(self) -> int:
        return len(self.captions)

    def render(self, size: int) -> NDArray[np.uint8]:
        """Draw the same scenes at another size: uint8 [n, size, size, 3]."""
        return render(self.layout, size)

    def save(self, folder: str | Path) -> Path:
        """Write the images as PNG files, and a table of them that `labclip.embed` reads.

        Args:
            folder: Where to write; it is made if it does not exist.

        Returns:
            Path of the table, `folder/captions.csv`, with columns image, caption and negative (the swapped caption).
        """
        from PIL import Image

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "caption", "negative"])
            for row, texts in enumerate(zip(self.captions, self.swapped_captions, strict=True)):
                Image.fromarray(self.images[row]).save(folder / f"{row}.png")
                writer.writerow([f"{row}.png", *texts])
        return folder / "captions.csv"


def sample(n: int, *, seed: int = 0, split: str = "seen", n_objects: int = 2) -> Scenes:
    """Draw random scenes of the embedded model.

    Args:
        n: Number of scenes, at least 1.
        seed: Seed of all random choices; equal arguments give equal scenes, on any machine. The benchmark `scenes`
            measures on the scenes of seed 0: fit on another seed.
        split: "seen": the fit of the embedded matrix could see all colour-shape pairs of the caption and of the swapped
            caption. "heldout": the scene has at least one pair that is in no caption and no negative of that fit.
            "validation": the same with the pairs on which settings were chosen. "all": any scene.
        n_objects: Objects per scene, 1 to 5. They have different colours and different shapes. Captions of four and
            five objects are plain lists without articles. The embedded model was trained on two objects.

    Returns:
        The scenes.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> scenes = sample(2, seed=1)
        >>> scenes.images.shape
        (2, 64, 64, 3)
    """
    layout, swapped = draw_scenes(n, seed=seed, split=split, n_objects=n_objects)
    rng = np.random.default_rng([seed, 0xCA97])
    captions, swapped_captions = sentences(rng, layout.colours, layout.shapes, swapped)
    return Scenes(
        images=render(layout),
        captions=captions,
        swapped_captions=[None] * n if n_objects == 1 else list(swapped_captions),
        tags=tags(rng, layout.colours, layout.shapes),
        objects=[
            tuple((COLOURS[c], SHAPES[s]) for c, s in zip(*row, strict=True))
            for row in zip(layout.colours, layout.shapes, strict=True)
        ],
        layout=layout,
    )


def draw_scenes(n: int, *, seed: int = 0, split: str = "seen", n_objects: int = 2) -> tuple[Layout, NDArray[np.int64]]:
    """Draw the scenes of `sample` without images and captions: the layout, and the swapped colours [n, n_objects]."""
    checked_integer("n", n, least=1)
    checked_integer("seed", seed)
    checked_integer("n_objects", n_objects, least=1, most=_MAX_OBJECTS)
    check_choice("split", split, SPLITS)
    rng = np.random.default_rng([seed, 0x5CE7E])
    parts: list[tuple[NDArray[np.int64], ...]] = []
    while sum(len(colours) for colours, _, _ in parts) < n:
        colours = np.argsort(rng.random((2 * n, len(COLOURS))), axis=1)[:, :n_objects]
        shapes = np.argsort(rng.random((2 * n, len(SHAPES))), axis=1)[:, :n_objects]
        swapped = swap(rng, colours)
        keep = allowed(split, colours, shapes, swapped)
        parts.append((colours[keep], shapes[keep], swapped[keep]))
    colours, shapes, swapped = (np.concatenate(arrays)[:n] for arrays in zip(*parts, strict=True))
    return draw_layout(rng, colours, shapes), swapped


def swap(rng: np.random.Generator, colours: NDArray[np.int64]) -> NDArray[np.int64]:
    """Swap the colours, [n, objects], of two random objects of each scene."""
    if colours.shape[1] == 1:
        return colours
    pair = np.argsort(rng.random(colours.shape), axis=1)[:, :2]
    swapped = colours.copy()
    np.put_along_axis(swapped, pair, np.take_along_axis(colours, pair[:, ::-1], axis=1), axis=1)
    return swapped
