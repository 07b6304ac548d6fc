"""One model beside its base: what both say of an image and captions, and what both find for a query."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labclip import scenes
from labclip.alignment import Alignment
from labclip.data.images import ImageSource
from labclip.features.encoder import Encoder
from labclip.metrics import TIE
from labclip.model import LABCLIP
from labclip.towers.pixels import upright
from labclip.towers.text import TruncationCount, counting_truncation

SCENES = 500
"""Rendered scenes that are searched where nobody has uploaded images."""
STRONGEST = 1.5
"""The largest strength of the page's slider; `Alignment.at` warns above."""

_SEED = 2024  # no training used any below a million
_SIDE = 160  # pixels of a thumbnail


class CaptionScores(NamedTuple):
    """What one model says of an image and some captions."""

    cosines: list[float]
    shares: list[float]  # their softmax at the model's temperature: the probability that each is the right one
    best: list[int]  # captions with the highest cosine; several are a tie

    @classmethod
    def of(cls, cosines: Tensor, log_scale: float) -> CaptionScores:
        """From cosines [n] and the logarithm of what they are multiplied by."""
        shares = torch.softmax(cosines * torch.tensor(log_scale).exp(), dim=0)
        best = (cosines > cosines.max() - TIE).nonzero().flatten()
        return cls(cosines.tolist(), shares.tolist(), best.tolist())


class Gallery(NamedTuple):
    """Indexed images."""

    names: list[str]  # of files; of scenes the captions
    shown: list[str]  # thumbnails as data URIs
    rows: Tensor  # the base's embeddings, unit-length float32 [n, dim]
    left_out: Sequence[str] = ()  # what could not be indexed and why, a sentence each
    objects: Sequence[Sequence[tuple[str, str]]] = ()  # (colour, shape) of what a scene shows; empty if not known


class ModelPair:
    """A model beside its base; with the identity both sides are the same."""

    def __init__(self, model: LABCLIP) -> None:
        self.model = model
        self.alignment = model.alignment.at(min(max(model.alignment.strength, 0.0), STRONGEST))
        self.encoder = Encoder(model)

    def image(self, source: ImageSource) -> Tensor:
        """Embed one image: unit-length float32 [dim]; ValueError if it is no whole image."""
        (encoded,) = self.encoder.images([source])
        if encoded.row is None:
            raise ValueError(f"{source.name} {encoded.problem}.")
        return torch.from_numpy(encoded.row)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> tuple[Tensor, str]:
        """Embed captions as the base does, unit-length float32 [n, dim]; and what was cut, in words."""
        cut = TruncationCount()
        with counting_truncation(cut):
            rows = self.model.encode_text(list(captions), normalize=True, aligned=False).float().cpu()
        return rows, f"Texts longer than the {cut.context} tokens of the model: {cut.count}." if cut.count else ""

    def scores(self, image: Tensor, texts: Tensor, alignment: Alignment) -> tuple[CaptionScores, CaptionScores]:
        """What the base and LABCLIP say of an image [dim] and captions [n, dim]; nothing is encoded again."""
        scale, fitted = float(self.model.clip.logit_scale), alignment.logit_scale
        ours = scale if fitted is None else scale + alignment.strength * (fitted - scale)
        return CaptionScores.of(texts @ image, scale), CaptionScores.of(alignment(texts, normalize=True) @ image, ours)

    def index(self, folder: Path) -> Gallery:
        """Embed the images of a folder, named as they lie there; ValueError if none can be used."""
        names, shown, rows, left_out = [], [], [], []
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        sources = (ImageSource(path.relative_to(folder).as_posix(), path) for path in paths)
        for encoded in self.encoder.images(sources):
            if encoded.row is None:
                left_out.append(f"{encoded.source.name} {encoded.problem}.")
            else:
                names.append(encoded.source.name)
                shown.append(thumbnail(encoded.source))
                rows.append(encoded.row)
        if not rows:
            raise ValueError(f"None of the images can be used: {left_out[0]}")
        return Gallery(names, shown, torch.from_numpy(np.stack(rows)), left_out)

    @cached_property
    def scenes(self) -> Gallery:
        """`SCENES` that no training used, half of them those with the colours swapped, named by their captions."""
        drawn, shown, pixels = scenes.sample(SCENES // 2, seed=_SEED, split="all"), [], []
        for layout in (drawn.layout, replace(drawn.layout, colours=drawn.layout.colours[:, ::-1])):
            shown += [uri(Image.fromarray(image)) for image in scenes.render(layout, _SIDE)]
            pixels += [ImageSource("scene", data=image) for image in scenes.render(layout)]
        rows = [encoded.row for encoded in self.encoder.images(pixels) if encoded.row is not None]
        names = [*drawn.captions, *map(str, drawn.swapped_captions)]
        swapped = [((colour, shape), (other, also)) for (other, shape), (colour, also) in drawn.objects]
        return Gallery(names, shown, torch.from_numpy(np.stack(rows)), objects=[*drawn.objects, *swapped])


def nearest(gallery: Gallery, query: Tensor, top: int = 10) -> list[tuple[int, float]]:
    """The images nearest to a query [dim]: the index of each in the gallery, and its cosine."""
    best = torch.topk(gallery.rows @ query, min(top, len(gallery.rows)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def judge(objects: Sequence[tuple[str, str]], parts: Sequence[str], without: Sequence[str]) -> bool | None:
    """Whether a scene is what a query asks for; False if it has the words of the query only, None if not even those.

    None too where a part is more than a colour, a shape, or both, so that the truth is not known.
    """
    asked = [frozenset(part.lower().split()) - {"a", "an", "the"} for part in [*parts, *without]]
    if any(len(words) > 2 or words - {*scenes.COLOURS, *scenes.SHAPES} for words in asked):
        return None
    there = [any(words <= set(names) for names in objects) for words in asked]
    if all(there[: len(parts)]) and not any(there[len(parts) :]):
        return True
    return False if frozenset().union(*asked[: len(parts)]) <= set(itertools.chain(*objects)) else None


def lines_in(text: str) -> list[str]:
    """The lines of a text that are not empty."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def thumbnail(source: ImageSource, side: int = _SIDE) -> str:
    """A small image of one that is known to be whole, upright, as a data URI."""
    with Image.open(io.BytesIO(source.read())) as opened:
        opened.draft("RGB", (2 * side, 2 * side))  # JPEG is decoded at a fraction of its size
        small = upright(opened)
        small.thumbnail((side, side))
        return uri(small)


def uri(shown: Image.Image, form: Literal["JPEG", "PNG"] = "JPEG") -> str:
    """An image as a data URI, so that no file of it is ever written."""
    buffer = io.BytesIO()
    shown.convert("RGB").save(buffer, form, quality=90)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
