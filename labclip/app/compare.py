"""One model and its base side by side: an image and captions to cosines, at any strength of the matrix."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labclip.data.images import ImageSource
from labclip.encode.encoder import Encoder
from labclip.metrics import TIE
from labclip.model import LABCLIP
from labclip.negatives import FAMILIES, RELATIONS, Swapper
from labclip.scenes import COLOURS

CAPTIONS = 32
"""Captions that are compared at once; more bars nobody reads."""
CHARACTERS = 1000
"""Of a caption: several times what any context holds."""

# What people say of objects beside the families that exclude each other.
_MORE = {
    "colours": (*COLOURS, "blonde"),
    "sizes": ("tall", "short"),
    "materials": ("paper", "rubber"),
    "ages": ("new", "open", "closed", "full", "empty", "wet", "dry"),
}
# Words of a kind alone are swapped with one another: a colour and a size swapped make no sentence.
_SWAPPERS = [
    *(Swapper([*itertools.chain(*groups), *_MORE.get(name, ())]) for name, groups in FAMILIES.items()),
    Swapper([*RELATIONS.items(), ("over", "under"), ("inside", "outside")]),
]


class ModelPair:
    """A model beside its base.

    Args:
        model: The model; with the identity both sides are the same.

    Raises:
        ValueError: If it has no preprocess or no tokenizer.
    """

    def __init__(self, model: LABCLIP) -> None:
        self.alignment = model.alignment
        self.encoder = Encoder(model, progress=False)
        self._own_scale = float(model.clip.logit_scale)

    def image(self, source: ImageSource) -> Tensor:
        """Embed one image: unit-length float32 [dim].

        Raises:
            ValueError: If it is no whole image.
        """
        (found,) = self.encoder.images([source])
        if found.row is None:
            raise ValueError(f"{source.name} {found.problem}.")
        return torch.from_numpy(found.row)

    def texts(self, captions: Sequence[str]) -> tuple[Tensor, str]:
        """Embed captions as the base does, unit-length float32 [n, dim]; and what was cut, in words."""
        encoder = Encoder(self.encoder.model, progress=False)  # each counts its own cut captions
        rows, cut = torch.from_numpy(encoder.texts(captions)), encoder.cut
        if not cut.count:
            return rows, ""
        longer = "1 caption is" if cut.count == 1 else f"{cut.count} captions are"
        return rows, f"{longer} longer than the {cut.context} tokens of the model; what is behind them is not read."

    def align(self, texts: Tensor, strength: float) -> Tensor:
        """Text embeddings [n, dim] at a strength, unit-length: a matrix product, nothing is encoded again."""
        return self.alignment.at(strength)(texts, normalize=True)

    def scores(self, image: Tensor, texts: Tensor, strength: float) -> tuple[Scores, Scores]:
        """What the base and LABCLIP say of an image [dim] and captions [n, dim]."""
        fitted, scale = self.alignment.logit_scale, self._own_scale
        ours = scale if fitted is None else scale + strength * (fitted - scale)
        return Scores.of(texts @ image, scale), Scores.of(self.align(texts, strength) @ image, ours)


@dataclass(frozen=True)
class Scores:
    """What one model says of an image and some captions.

    Attributes:
        cosines: One a caption.
        shares: Their softmax at the model's temperature: the probability that each is the right one.
        best: Places of the captions with the highest cosine; several are a tie.
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


def captions_in(text: str) -> list[str]:
    """The captions of a text, one a line.

    Raises:
        ValueError: If there is none, there are too many, or one is too long.
    """
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ValueError("There is no caption. Type one a line.")
    if len(found) > CAPTIONS:
        raise ValueError(f"There are {len(found):,} captions, and {CAPTIONS} are compared at once. Leave some out.")
    if max(map(len, found)) > CHARACTERS:
        raise ValueError(f"A caption has more than {CHARACTERS:,} characters. Shorten it.")
    return found


def swapped(caption: str, *, seed: int = 0) -> str | None:
    """The caption with two words of a kind swapped, colours first, or a relation reversed; None where none is named.

    >>> swapped("a red cube left of a blue sphere")
    'a blue cube left of a red sphere'
    """
    made = (next(swap(caption, random.Random(seed)), None) for swap in _SWAPPERS)
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
    there = dict.fromkeys(captions)
    lines = [one for pair in pairs for one in pair if one and (one == pair[0] or one not in there)]
    return "\n".join(captions_in("\n".join(lines)))
