"""A model and its base: how both score captions of an image, and which images both find for a query."""

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
from labclip.alignment import MAX_STRENGTH, Alignment
from labclip.data.images import ImageSource
from labclip.features.encoder import Encoder
from labclip.metrics import TIE
from labclip.model import LABCLIP
from labclip.towers.pixels import upright
from labclip.towers.text import TruncationCount, counting_truncation

SCENES = 500
"""Number of rendered scenes in the default gallery."""

_SEED = 2024  # training used no seed below a million
_THUMBNAIL = 160  # pixels


class CaptionScores(NamedTuple):
    """How well captions fit an image, by one model."""

    cosines: list[float]
    probabilities: list[float]  # softmax of the cosines at the model's temperature
    best: list[int]  # indices of the captions with the highest cosine; several are a tie

    @classmethod
    def of(cls, cosines: Tensor, log_scale: float) -> CaptionScores:
        """Scores from the cosines [n] and the logarithm of their scale."""
        probabilities = torch.softmax(cosines * torch.tensor(log_scale).exp(), dim=0)
        best = (cosines > cosines.max() - TIE).nonzero().flatten()
        return cls(cosines.tolist(), probabilities.tolist(), best.tolist())


class Gallery(NamedTuple):
    """Indexed images."""

    names: list[str]  # file names, or the captions of scenes
    thumbnails: list[str]  # data URIs
    rows: Tensor  # the base's image embeddings, unit-length float32 [n, dim]
    left_out: Sequence[str] = ()  # a sentence for each image that could not be indexed
    objects: Sequence[Sequence[tuple[str, str]]] = ()  # (colour, shape) of each object of a scene; () for photos


class ModelPair:
    """A model and its base. If the matrix is the identity, both give the same.

    `model_options` are the options with which a command loads the model, for example ["--model", "scenes"], and
    `alignment_options` those for another matrix than its own.
    """

    def __init__(self, model: LABCLIP, model_options: Sequence[str], alignment_options: Sequence[str] = ()) -> None:
        self.model, self.model_options, self.alignment_options = model, model_options, alignment_options
        self.alignment = model.alignment.at(min(max(model.alignment.strength, 0.0), MAX_STRENGTH))
        self.encoder = Encoder(model)

    def image(self, source: ImageSource) -> Tensor:
        """Embed one image: unit-length float32 [dim]. ValueError if it can't be decoded."""
        (encoded,) = self.encoder.images([source])
        if encoded.row is None:
            raise ValueError(f"{source.name} {encoded.problem}.")
        return torch.from_numpy(encoded.row)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> tuple[Tensor, str]:
        """Embed captions with the base: unit-length float32 [n, dim], and a sentence on truncated captions or ""."""
        cut = TruncationCount()
        with counting_truncation(cut):
            rows = self.model.encode_text(list(captions), normalize=True, aligned=False).float().cpu()
        return rows, f"Texts longer than the {cut.context} tokens of the model: {cut.count}." if cut.count else ""

    def scores(self, image: Tensor, texts: Tensor, alignment: Alignment) -> tuple[CaptionScores, CaptionScores]:
        """Scores of the base and of LABCLIP, from the base's embeddings of an image [dim] and captions [n, dim]."""
        scale, fitted_scale = float(self.model.clip.logit_scale), alignment.logit_scale
        aligned_scale = scale if fitted_scale is None else scale + alignment.strength * (fitted_scale - scale)
        aligned_texts = alignment(texts, normalize=True)
        return CaptionScores.of(texts @ image, scale), CaptionScores.of(aligned_texts @ image, aligned_scale)

    def index(self, folder: Path) -> Gallery:
        """Embed all images under a folder, named by their relative paths. ValueError if none can be used."""
        names, thumbnails, rows, left_out = [], [], [], []
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        sources = (ImageSource(path.relative_to(folder).as_posix(), path) for path in paths)
        for encoded in self.encoder.images(sources):
            if encoded.row is None:
                left_out.append(f"{encoded.source.name} {encoded.problem}.")
            else:
                names.append(encoded.source.name)
                thumbnails.append(thumbnail(encoded.source))
                rows.append(encoded.row)
        if not rows:
            raise ValueError(f"None of the images can be used: {left_out[0]}")
        return Gallery(names, thumbnails, torch.from_numpy(np.stack(rows)), left_out)

    @cached_property
    def scenes(self) -> Gallery:
        """`SCENES` unseen scenes: half are drawn at random, half are the same with colours swapped."""
        drawn, thumbnails, pixels = scenes.sample(SCENES // 2, seed=_SEED, split="all"), [], []
        for layout in (drawn.layout, replace(drawn.layout, colours=drawn.layout.colours[:, ::-1])):
            thumbnails += [uri(Image.fromarray(image)) for image in scenes.render(layout, _THUMBNAIL)]
            pixels += [ImageSource("scene", data=image) for image in scenes.render(layout)]
        rows = [encoded.row for encoded in self.encoder.images(pixels) if encoded.row is not None]
        names = [*drawn.captions, *map(str, drawn.swapped_captions)]
        swapped = [((colour2, shape1), (colour1, shape2)) for (colour1, shape1), (colour2, shape2) in drawn.objects]
        return Gallery(names, thumbnails, torch.from_numpy(np.stack(rows)), objects=[*drawn.objects, *swapped])


def nearest(gallery: Gallery, query: Tensor, top: int = 10) -> list[tuple[int, float]]:
    """Index and cosine of the images nearest to a query [dim]."""
    best = torch.topk(gallery.rows @ query, min(top, len(gallery.rows)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def judge(objects: Sequence[tuple[str, str]], parts: Sequence[str], without: Sequence[str]) -> bool | None:
    """Whether a scene, given by its objects, matches a query.

    False if the scene has the words of all parts, but not these combinations, or something of `without`. None if it
    lacks a word, or if the query asks for more than colours and shapes, so that the truth is unknown.
    """
    queries = [frozenset(part.lower().split()) - {"a", "an", "the"} for part in [*parts, *without]]
    if any(len(words) > 2 or words - {*scenes.COLOURS, *scenes.SHAPES} for words in queries):
        return None
    matches = [any(words <= set(names) for names in objects) for words in queries]
    if all(matches[: len(parts)]) and not any(matches[len(parts) :]):
        return True
    return False if frozenset().union(*queries[: len(parts)]) <= set(itertools.chain(*objects)) else None


def thumbnail(source: ImageSource, side: int = _THUMBNAIL) -> str:
    """A small upright version of an image as a data URI. The image must be complete."""
    with Image.open(io.BytesIO(source.read())) as image:
        image.draft("RGB", (2 * side, 2 * side))  # decodes a JPEG at a fraction of its size
        small = upright(image)
        small.thumbnail((side, side))
        return uri(small)


def uri(image: Image.Image, form: Literal["JPEG", "PNG"] = "JPEG") -> str:
    """An image as a data URI, so that no file is written."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, form, quality=90)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
