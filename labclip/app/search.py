"""Search: images indexed once with the base, asked by the base and by LABCLIP."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labclip import scenes
from labclip.app.compare import ModelPair
from labclip.app.uploads import image
from labclip.data.images import ImageSource
from labclip.towers.pixels import upright

SCENES = 500
_SEED = 2024  # no training used any below a million
_SIDE = 160  # pixels of a thumbnail


@dataclass(frozen=True)
class Gallery:
    """Indexed images.

    Attributes:
        names: File names, or captions of scenes.
        shown: A thumbnail each, as a data URI.
        rows: The base's embeddings, unit-length float32 [n, dim].
        left_out: What could not be indexed and why, a sentence each.
    """

    names: list[str]
    shown: list[str]
    rows: Tensor
    left_out: list[str]


@dataclass(frozen=True)
class Hit:
    """One of the top results of a side.

    Attributes:
        place: Of the image in the gallery.
        cosine: With the query.
        other: Its rank on the other side, from 1, or None where it is not among the top ones there.
    """

    place: int
    cosine: float
    other: int | None


def index(pair: ModelPair, images: Iterable[tuple[str, bytes]]) -> Gallery:
    """Embed images with the base, a few in memory at a time; what is no image is left out and told.

    Args:
        pair: The model.
        images: Names and bytes.

    Raises:
        ValueError: If none is left; else whatever `images` raises.
    """
    left_out: list[str] = []

    def sources() -> Iterator[ImageSource]:
        for name, data in images:
            try:
                yield image(name, data)
            except ValueError as error:
                left_out.append(str(error))

    found: list[tuple[str, str, np.ndarray]] = []
    for one in pair.encoder.images(sources()):
        if one.row is None:
            left_out.append(f"{one.source.name} {one.problem}.")
        else:
            found.append((one.source.name, thumbnail(one.source), one.row))
    if not found:
        raise ValueError(f"None of the images can be used: {left_out[0]}")
    names, shown, rows = map(list, zip(*found, strict=True))
    return Gallery(names, shown, torch.from_numpy(np.stack(rows)), left_out)


def scene_gallery(pair: ModelPair, count: int = SCENES) -> Gallery:
    """Scenes that no training used, each followed by the same with its colours swapped, named by their captions."""
    drawn = scenes.sample(count // 2, seed=_SEED, split="all")
    other = replace(drawn.layout, colours=drawn.layout.colours[:, ::-1])
    pixels = np.stack([drawn.images, scenes.render(other)], axis=1).reshape(-1, *drawn.images.shape[1:])
    names = [name or "" for pair in zip(drawn.captions, drawn.swapped_captions, strict=True) for name in pair]
    rows = [one.row for one in pair.encoder.images(ImageSource("scene", data=one) for one in pixels)]
    large = zip(drawn.render(_SIDE), scenes.render(other, _SIDE), strict=True)
    shown = [uri(Image.fromarray(one)) for pair in large for one in pair]
    return Gallery(names, shown, torch.from_numpy(np.stack([row for row in rows if row is not None])), [])


def search(
    pair: ModelPair, gallery: Gallery, text: Tensor, strength: float, top: int = 10
) -> tuple[list[Hit], list[Hit]]:
    """The images nearest to a caption [1, dim] by the base and by LABCLIP: a product with the index, nothing more."""
    cosines = [gallery.rows @ rows[0] for rows in (text, pair.align(text, strength))]
    ranked = [torch.topk(one, min(top, len(one))) for one in cosines]
    places = [one.indices.tolist() for one in ranked]
    hits = []
    for mine, theirs, one in zip(places, reversed(places), ranked, strict=True):
        ranks = {place: rank for rank, place in enumerate(theirs, 1)}
        hits.append(
            [Hit(place, cosine, ranks.get(place)) for place, cosine in zip(mine, one.values.tolist(), strict=True)]
        )
    return hits[0], hits[1]


def thumbnail(source: ImageSource, side: int = _SIDE) -> str:
    """A small image of one that is known to be whole, upright, as a data URI."""
    if not isinstance(source.data, bytes):
        return uri(source.decode(source.read()))
    with Image.open(io.BytesIO(source.data)) as opened:
        opened.draft("RGB", (2 * side, 2 * side))  # JPEG is decoded at a fraction of its size
        small = upright(opened)
        small.thumbnail((side, side))
        return uri(small)


def uri(shown: Image.Image, form: Literal["JPEG", "PNG"] = "JPEG") -> str:
    """An image as a data URI, so that no file of it is ever written."""
    buffer = io.BytesIO()
    shown.convert("RGB").save(buffer, form, quality=90)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
