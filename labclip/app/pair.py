"""One model beside its base: what both say of an image and captions, and what both find for a query."""

from __future__ import annotations

import base64
import io
import itertools
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labclip import scenes
from labclip.data.images import ImageSource
from labclip.encode.encoder import Encoder
from labclip.metrics import TIE
from labclip.model import LABCLIP
from labclip.negatives import FAMILIES, RELATIONS, Swapper
from labclip.query import compose
from labclip.towers.pixels import upright
from labclip.towers.text import TruncationCount, counting_truncation

CAPTIONS = 32
"""Captions that are compared at once; more bars nobody reads."""
SCENES = 500
"""Rendered scenes that are searched where nobody has uploaded images."""

_SEED = 2024  # no training used any below a million
_SIDE = 160  # pixels of a thumbnail

# What people say of objects beside the families that exclude each other.
_MORE = {
    "colours": (*scenes.COLOURS, "blonde"),
    "sizes": ("tall", "short"),
    "materials": ("paper", "rubber"),
    "ages": ("new", "open", "closed", "full", "empty", "wet", "dry"),
}
# Words of a kind alone are swapped with one another: a colour and a size swapped make no sentence.
_SWAPPERS = [
    *(Swapper([*itertools.chain(*groups), *_MORE.get(name, ())]) for name, groups in FAMILIES.items()),
    Swapper([*RELATIONS.items(), ("over", "under"), ("inside", "outside")]),
]


@dataclass(frozen=True)
class Scores:
    """What one model says of an image and some captions.

    Attributes:
        cosines: One a caption.
        shares: Their softmax at the model's temperature: the probability that each is the right one.
        best: Indices of the captions with the highest cosine; several are a tie.
    """

    cosines: list[float]
    shares: list[float]
    best: list[int]

    @classmethod
    def of(cls, cosines: Tensor, log_scale: float) -> Scores:
        """From cosines [n] and the logarithm of what they are multiplied by."""
        shares = torch.softmax(cosines * torch.tensor(log_scale).exp(), dim=0)
        best = (cosines > cosines.max() - TIE).nonzero().flatten()
        return cls(cosines.tolist(), shares.tolist(), best.tolist())


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
        index: Of the image in the gallery.
        cosine: With the query.
        other: Its rank on the other side, from 1, or None where it is not among the top ones there.
    """

    index: int
    cosine: float
    other: int | None


class ModelPair:
    """A model beside its base; with the identity both sides are the same.

    Raises:
        ValueError: If the model has no preprocess or no tokenizer.
    """

    def __init__(self, model: LABCLIP) -> None:
        self.model, self.alignment = model, model.alignment
        self.encoder = Encoder(model, progress=False)

    def image(self, source: ImageSource) -> Tensor:
        """Embed one image: unit-length float32 [dim]; ValueError if it is no whole image."""
        (found,) = self.encoder.images([source])
        if found.row is None:
            raise ValueError(f"{source.name} {found.problem}.")
        return torch.from_numpy(found.row)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> tuple[Tensor, str]:
        """Embed captions as the base does, unit-length float32 [n, dim]; and what was cut, in words."""
        cut = TruncationCount()
        with counting_truncation(cut):
            rows = self.model.encode_text(list(captions), normalize=True, aligned=False).float().cpu()
        return rows, f"Texts longer than the {cut.context} tokens of the model: {cut.count}." if cut.count else ""

    def aligned(self, texts: Tensor, strength: float) -> Tensor:
        """Text embeddings [n, dim] at a strength, unit-length: a matrix product, nothing is encoded again."""
        return self.alignment.at(strength)(texts, normalize=True)

    def scores(self, image: Tensor, texts: Tensor, strength: float) -> tuple[Scores, Scores]:
        """What the base and LABCLIP say of an image [dim] and captions [n, dim]."""
        scale, fitted = float(self.model.clip.logit_scale), self.alignment.logit_scale
        ours = scale if fitted is None else scale + strength * (fitted - scale)
        return Scores.of(texts @ image, scale), Scores.of(self.aligned(texts, strength) @ image, ours)

    def index(self, images: Iterable[tuple[str, bytes]]) -> Gallery:
        """Embed images, names and bytes, with the base; what is no image is left out and told.

        Raises:
            ValueError: If none is left; else whatever `images` raises.
        """
        names, shown, rows, left_out = [], [], [], []
        for found in self.encoder.images(ImageSource(name, data=data) for name, data in images):
            if found.row is None:
                left_out.append(f"{found.source.name} {found.problem}.")
            else:
                names.append(found.source.name)
                shown.append(thumbnail(found.source))
                rows.append(found.row)
        if not rows:
            raise ValueError(f"None of the images can be used: {left_out[0]}")
        return Gallery(names, shown, torch.from_numpy(np.stack(rows)), left_out)

    def index_scenes(self, count: int = SCENES) -> Gallery:
        """Scenes that no training used, and the same with their colours swapped, named by their captions."""
        drawn = scenes.sample(count // 2, seed=_SEED, split="all")
        other = replace(drawn.layout, colours=drawn.layout.colours[:, ::-1])
        names, shown, pixels = [], [], []
        for side, captions in ((drawn.layout, drawn.captions), (other, drawn.swapped_captions)):
            names += [str(caption) for caption in captions]
            shown += [uri(Image.fromarray(image)) for image in scenes.render(side, _SIDE)]
            pixels += [ImageSource("scene", data=image) for image in scenes.render(side)]
        rows = [found.row for found in self.encoder.images(pixels) if found.row is not None]
        return Gallery(names, shown, torch.from_numpy(np.stack(rows)), [])

    def search(
        self, gallery: Gallery, parts: Tensor, without: Tensor | None, strength: float, top: int = 10
    ) -> tuple[list[Hit], list[Hit]]:
        """The images nearest to a query by the base and by LABCLIP.

        Args:
            gallery: The images.
            parts: The base's embeddings of what must be there, [k, dim]; a sentence is one part.
            without: Those of what must not be there, [j, dim].
            strength: Of the matrix.
            top: Images a side.
        """
        left_out = None if without is None else self.aligned(without, strength)
        queries = compose(parts, without), compose(self.aligned(parts, strength), left_out)
        cosines = [gallery.rows @ query for query in queries]
        best = [torch.topk(row, min(top, len(row))).indices.tolist() for row in cosines]
        ranks = [{index: rank for rank, index in enumerate(side, 1)} for side in best]
        base, ours = (
            [Hit(index, float(cosines[side][index]), ranks[1 - side].get(index)) for index in best[side]]
            for side in (0, 1)
        )
        return base, ours


def captions_in(text: str) -> list[str]:
    """The captions of a text, one a line; ValueError if there is none, or there are too many."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ValueError("There is no caption. Type one per line.")
    if len(found) > CAPTIONS:
        raise ValueError(f"There are {len(found):,} captions, and {CAPTIONS} are compared at once. Leave some out.")
    return found


def parts_in(text: str) -> list[str]:
    """The parts of a query: one a line, or with commas between."""
    return [part.strip() for part in re.split(r"[\n,]", text) if part.strip()][:CAPTIONS]


def swapped(caption: str) -> str | None:
    """The caption with two words of a kind swapped, colours first, or a relation reversed; None where none is named.

    >>> swapped("a red cube left of a blue sphere")
    'a blue cube left of a red sphere'
    """
    made = (next(swap(caption, random.Random(0)), None) for swap in _SWAPPERS)
    return next(filter(None, made), None)


def with_swapped(text: str) -> str:
    """Captions, one a line, each followed by its swapped one where that is not there.

    Raises:
        ValueError: If no caption names what could be swapped; else as `captions_in`.
    """
    captions = captions_in(text)
    pairs = [(caption, swapped(caption)) for caption in captions]
    if not any(other for _, other in pairs):
        raise ValueError(
            f"No two colours, sizes or materials, and no relation such as left of, are in {captions[0]!r}. Type the "
            f"other caption yourself."
        )
    return "\n".join(dict.fromkeys(line for pair in pairs for line in pair if line))


def thumbnail(source: ImageSource, side: int = _SIDE) -> str:
    """A small image of one that is known to be whole, upright, as a data URI."""
    assert isinstance(source.data, bytes)
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
