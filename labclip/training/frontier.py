"""The trade between binding and retrieval over strength, and the strength that is chosen on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from labclip.training.rows import Data, different

STRENGTHS = tuple(round(0.05 * step, 2) for step in range(26))  # 0 to 1.25
GALLERY = 2000
"""Images of a retrieval gallery at most, with at most twice as many captions: more would cost time and move little."""
COST = 0.01
"""Share of the base's R@1 that may be lost. Less than that no ordinary validation set can tell from nothing."""
ELSEWHERE = 0.025
"""What a share of R@1 lost in the made-up domain counts for, beside a share of binding. It stands for uses nobody
measured and is the worst of them, as it uses every direction alike; so it counts little. Two and four times as much
bound less than the published recipe, by more than chance explains (docs/fit.md)."""
_PAIRS = 500  # of the made-up domain
_BASE_R1 = 0.9  # of the base there: hard enough to show a loss, easy enough to have something to lose


@dataclass(frozen=True)
class Held:
    """Held-out embeddings, small enough to look at again and again.

    Attributes:
        images: Unit-length, [n, dim].
        texts: Unit-length, [m, dim].
        image_index: Whose caption each text is, int64 [m].
        negatives: Unit-length, [m, k, dim], or None.
        name: Of the set, for the table.
    """

    images: torch.Tensor
    texts: torch.Tensor
    image_index: torch.Tensor
    negatives: torch.Tensor | None
    name: str = "own"

    @property
    def bound(self) -> int:
        """Captions that have a negative, so that binding is measured on them."""
        if self.negatives is None:
            return 0
        return int(different(self.texts[:, None], self.negatives).any(dim=1).sum())

    @classmethod
    def of(cls, data: Data, *, name: str = "own", seed: int = 0) -> Held:
        """Some images of a part of the data, drawn at random, with all their captions: up to `GALLERY` and twice it."""
        kept, captions_each = torch.unique(data.image_index[data.captions], return_counts=True)
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))
        fit = int((captions_each[order].cumsum(0) <= 2 * GALLERY).sum())
        kept = kept[order[: max(2, min(fit, GALLERY))]].sort().values
        captions = data.captions[torch.isin(data.image_index[data.captions], kept)]
        negatives = None
        if data.negatives is not None:
            negatives = data.negatives.take(captions).view(len(captions), data.k, -1)
        place = torch.full((len(data.images),), -1)
        place[kept] = torch.arange(len(kept))
        index = place[data.image_index[captions]]
        return cls(data.images.take(kept), data.texts.take(captions), index, negatives, name)

    def elsewhere(self, *, seed: int = 0) -> Held:
        """A made-up domain with this set's centres that otherwise uses every direction alike.

        A matrix is fitted on one domain, and its users have others, of which nothing is known but this: what is moved
        may matter there. Pairs share a random direction and have noise of their own, so much that the base's R@1 is
        some 0.9.
        """
        draw = torch.Generator().manual_seed(seed)
        dim = self.images.shape[1]
        centres = torch.stack([side.cpu().mean(dim=0) for side in (self.images, self.texts)])
        along = torch.linalg.qr(centres.T).Q  # pairs lie around the centres, across them
        random = torch.randn(3, _PAIRS, dim, generator=draw)
        shared, *noise = F.normalize(random - random @ along @ along.T, dim=-1)
        spread = (1 - centres.square().sum(dim=1)).clamp_min(0.01).sqrt()
        found, low, high = self, 0.0, 1.0
        for _ in range(10):
            share = (low + high) / 2  # the cosine of a pair, centres aside
            images, texts = (
                F.normalize(
                    centre + length * F.normalize(share**0.5 * shared + (1 - share) ** 0.5 * own, dim=-1), dim=-1
                )
                for centre, length, own in zip(centres, spread, noise, strict=True)
            )
            found = Held(images, texts, torch.arange(_PAIRS), None, "elsewhere")
            recall = sum(_Retrieval(found, torch.eye(dim)).at(0.0)) / 2
            low, high = (share, high) if recall < _BASE_R1 else (low, share)
        return found


@dataclass(frozen=True)
class Point:
    """What one strength does on held-out data; shares of 1. A tie is wrong in all of them.

    Attributes:
        strength: 0 is the base.
        distance: Of the blend from the identity, ||strength (A - I)||_F.
        binding: Share of pairs of caption and negative whose caption has the higher cosine; None without negatives.
        t2i_r1: For each set, the share of captions whose image has the highest cosine.
        i2t_r1: For each set, the share of images for which one of their captions has the highest cosine.
        likely: The binding to expect of other captions like these: shares that count hits jump from caption to caption
            and end at 1, so each pair counts by how clear it is (a normal kernel of Silverman's width on its margin).
        elsewhere: R@1 in the made-up domain, the mean of both directions; None where it was not measured.
    """

    strength: float
    distance: float
    binding: float | None
    t2i_r1: dict[str, float]
    i2t_r1: dict[str, float]
    likely: float | None = None
    elsewhere: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def frontier(
    sets: Sequence[Held], matrix: torch.Tensor, strengths: Sequence[float] = STRENGTHS, elsewhere: Held | None = None
) -> list[Point]:
    """Measure a matrix at several strengths.

    Args:
        sets: Held-out data; binding is measured on the first.
        matrix: As fitted, float32 [dim, dim].
        strengths: Blends with the identity.
        elsewhere: The made-up domain, where it counts.

    Returns:
        A point for each strength.
    """
    binding = _Binding(sets[0], matrix)
    retrieval = {held.name: _Retrieval(held, matrix) for held in sets}
    unknown = _Retrieval(elsewhere, matrix) if elsewhere is not None else None
    distance = float((matrix - torch.eye(len(matrix))).norm())
    points = []
    for strength in strengths:
        recalls = {name: part.at(strength) for name, part in retrieval.items()}
        t2i, i2t = ({name: pair[side] for name, pair in recalls.items()} for side in (0, 1))
        share, likely = binding.at(strength)
        mean = sum(unknown.at(strength)) / 2 if unknown is not None else None
        points.append(Point(strength, strength * distance, share, t2i, i2t, likely, mean))
    return points


def affordable(points: Sequence[Point]) -> list[Point]:
    """The points that cost retrieval nothing measurable: at most `COST` of the base's R@1, on every set, both ways.

    The base itself, strength 0, always is among them.
    """
    base = next(point for point in points if point.strength == 0)
    return [
        point
        for point in points
        if all(
            ours[name] >= (1 - COST) * theirs[name]
            for ours, theirs in ((point.t2i_r1, base.t2i_r1), (point.i2t_r1, base.i2t_r1))
            for name in theirs
        )
    ]


def worth(point: Point, base: Point) -> float:
    """Binding, less what is lost in the made-up domain, where that was measured."""
    lost = 1 - point.elsewhere / base.elsewhere if point.elsewhere is not None and base.elsewhere else 0.0
    return (point.likely or 0.0) - ELSEWHERE * max(lost, 0.0)


def choose(points: Sequence[Point]) -> Point:
    """The point worth most among those that cost retrieval nothing measurable; of equals the nearest to the identity.

    Args:
        points: Of one matrix, or of several with one base.

    Returns:
        The chosen point.
    """
    base = next(point for point in points if point.strength == 0)
    return max(affordable(points), key=lambda point: (worth(point, base), -point.distance))


class _Blend:
    """Unit-length blends of texts and their images under the matrix, from products made once."""

    def __init__(self, texts: torch.Tensor, matrix: torch.Tensor) -> None:
        aligned = texts @ matrix.T
        self._squares = texts.square().sum(-1), (texts * aligned).sum(-1), aligned.square().sum(-1)
        self.texts, self.aligned = texts, aligned

    def length(self, strength: float) -> torch.Tensor:
        own, across, aligned = self._squares
        rest = 1 - strength
        return (rest**2 * own + 2 * rest * strength * across + strength**2 * aligned).clamp_min(1e-24).sqrt()


class _Binding:
    def __init__(self, held: Held, matrix: torch.Tensor) -> None:
        self._sides: list[tuple[_Blend, torch.Tensor, torch.Tensor]] = []
        self._valid = torch.empty(0)
        if held.negatives is None:
            return
        images = held.images[held.image_index][:, None]
        self._valid = different(held.texts[:, None], held.negatives)
        for texts in (held.texts[:, None], held.negatives):
            blend = _Blend(texts, matrix)
            self._sides.append((blend, (images * blend.texts).sum(-1), (images * blend.aligned).sum(-1)))

    def at(self, strength: float) -> tuple[float | None, float | None]:
        """The share of pairs that are right, and the one to expect."""
        if not self._sides or not bool(self._valid.any()):
            return None, None
        right, wrong = (
            ((1 - strength) * plain + strength * aligned) / blend.length(strength)
            for blend, plain, aligned in self._sides
        )
        margin = (right - wrong)[self._valid].double()
        width = 0.9 * margin.std(correction=0) * len(margin) ** -0.2
        likely = torch.special.ndtr(margin / width.clamp_min(1e-12)).mean()
        return float((right > wrong)[self._valid].double().mean()), float(likely)


class _Retrieval:
    def __init__(self, held: Held, matrix: torch.Tensor) -> None:
        self._blend = _Blend(held.texts, matrix)
        self._plain = held.images @ held.texts.T  # [n, m]
        self._aligned = held.images @ self._blend.aligned.T
        self._index = held.image_index
        self._own = torch.zeros_like(self._plain, dtype=torch.bool)
        self._own[self._index, torch.arange(len(self._index))] = True

    def at(self, strength: float) -> tuple[float, float]:
        """R@1 of text to image and of image to text."""
        cosine = torch.lerp(self._plain, self._aligned, strength) / self._blend.length(strength)
        own = cosine[self._index, torch.arange(len(self._index))]
        t2i = (cosine >= own).sum(dim=0) == 1
        best_own = cosine.masked_fill(~self._own, -2.0).amax(dim=1)
        best_other = cosine.masked_fill(self._own, -2.0).amax(dim=1)
        return float(t2i.double().mean()), float((best_own > best_other).double().mean())
