"""The trade between binding and retrieval over strength, and the strength that is selected on it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from labclip.training.objective import DISTILLED_SCALE
from labclip.training.rows import Data

STRENGTHS = tuple(round(0.05 * step, 2) for step in range(26))  # 0 to 1.25
GALLERY = 2000
"""Images of a retrieval gallery at most, with at most twice as many captions."""
KEEP = 0.99
"""Of the base's R@1 that has to be kept, by default: less than 1%, no ordinary validation set can tell from nothing."""
CLOSE = 0.015
"""Share of the gain in binding that is not worth a greater divergence."""
_CHANGED = 0.17, 3.0
"""Divergence that costs nothing measurable, and how much more for each share of R@1 given up: docs/recipe.md says where
this line is from."""
ENOUGH = 200
"""Images from which on the strength selected loses, on average, no more than `keep` allows: benchmarks/allowance.py."""
_DISTRACTORS = 200  # images of a gallery in which the divergence is measured: it grows with their number


@dataclass(frozen=True)
class HeldOut:
    """Held-out embeddings, small enough to be measured again and again.

    Attributes:
        images: Unit-length, [n, dim].
        texts: Unit-length, [m, dim].
        image_index: The image of each caption, int64 [m].
        negatives: Unit-length, [m, k, dim], or None.
        has_negative: Which of them there are, bool [m, k]; None if `negatives` is.
        captions: Rows of the captions in the features, int64 [m].
    """

    images: torch.Tensor
    texts: torch.Tensor
    image_index: torch.Tensor
    negatives: torch.Tensor | None = None
    has_negative: torch.Tensor | None = None
    captions: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def n_with_negative(self) -> int:
        """Captions that have a negative, so that binding is measured on them."""
        return 0 if self.has_negative is None else int(self.has_negative.any(dim=1).sum())

    @classmethod
    def of(cls, data: Data, *, seed: int = 0) -> HeldOut:
        """Some images of a part of the data, drawn at random, with all their captions: up to `GALLERY` and twice it."""
        kept, captions_each = torch.unique(data.image_index[data.captions], return_counts=True)
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))
        fit = int((captions_each[order].cumsum(0) <= 2 * GALLERY).sum())
        kept = kept[order[: max(2, min(fit, GALLERY))]].sort().values
        captions = data.captions[torch.isin(data.image_index[data.captions], kept)]
        index = torch.searchsorted(kept, data.image_index[captions])
        held = cls(data.images.take(kept), data.texts.take(captions), index, captions=captions)
        if (wrong := data.negatives) is None:
            return held
        return replace(held, negatives=wrong.take(captions), has_negative=wrong.present[captions])


@dataclass(frozen=True)
class Point:
    """What one strength does on held-out data; shares of 1, a tie is wrong in all of them.

    Attributes:
        strength: 0 is the base.
        distance: Of the blend from the identity, ||strength (A - I)||_F.
        binding: Share of pairs of caption and negative whose caption has the higher cosine; None without negatives.
        recalls: By set, "validation" or "retain NAME": the share of captions whose image has the highest cosine, and
            the share of images for which one of their captions has (R@1 text to image, image to text).
        blind: The same share with the mean of the held-out images in the place of every image: what text alone tells.
        grounded: The share of pairs whose image prefers the caption by more than that mean does.
        smoothed_binding: Kernel-smoothed `grounded`, a normal kernel of Silverman's width on each margin: raw accuracy
            jumps from caption to caption and saturates at 1.
        lost: Share of the base's R@1 that is lost on each set, and its standard error over images: of both directions
            together, kernel-smoothed. Below 0 is gained.
        divergence: How far the aligned softmax moves among wrong images and captions, in nats: the KL divergence from
            the base's softmax among them, times the base's probability of any of them; the mean over both directions,
            in galleries of 200 images. It foretells what retrieval loses on data that nobody measured.
    """

    strength: float
    distance: float
    binding: float | None
    recalls: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    smoothed_binding: float | None = None
    lost: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    divergence: float | None = None
    blind: float | None = None
    grounded: float | None = None

    @property
    def most_lost(self) -> tuple[float, float]:
        """`lost` on the set where it is greatest, and its standard error; both are 0 where there is no set."""
        return max(self.lost.values(), default=(0.0, 0.0))


def frontier(sets: Mapping[str, HeldOut], matrix: torch.Tensor, strengths: Sequence[float] = STRENGTHS) -> list[Point]:
    """Measure a matrix [dim, dim] at several strengths on "validation", the held-out data, and on other sets."""
    own = sets.get("validation")
    binding = _Binding(own, matrix) if own and own.n_with_negative else None
    divergence = _Divergence(own, matrix) if own else None
    retrieval = {name: _Retrieval(held, matrix) for name, held in sets.items()}
    distance = float((matrix - torch.eye(len(matrix))).norm())
    points = []
    for strength in strengths:
        accuracy, blind, grounded, smoothed = binding.at(strength) if binding else (None,) * 4
        found = {name: part.at(strength) for name, part in retrieval.items()}
        recalls, lost = ({name: pair[side] for name, pair in found.items()} for side in (0, 1))
        away = divergence.at(strength) if divergence else None
        points.append(Point(strength, strength * distance, accuracy, recalls, smoothed, lost, away, blind, grounded))
    return points


def most_divergence(keep: float) -> float:
    """Up to which divergence this share of the base's R@1 is kept on data that nobody measured, in nats."""
    return _CHANGED[0] + _CHANGED[1] * (1 - keep)


def kept(points: Sequence[Point], keep: float = KEEP) -> list[Point]:
    """The points that keep this share of the base's R@1, by the held-out estimate; the base itself always is one.

    On every set no more than that is lost, and the divergence is within what keeps as much on data that nobody
    measured. Where R@1 rises by more than its standard error, the base's softmax is no measure of what is to be kept,
    and the divergence is free.
    """

    def near(point: Point) -> bool:
        lost, error = point.lost.get("validation", (0.0, 0.0))
        return (point.divergence or 0.0) <= most_divergence(keep) or lost + error < 0

    return [point for point in points if point.strength == 0 or (near(point) and point.most_lost[0] <= 1 - keep)]


def select(points: Sequence[Point], keep: float = KEEP) -> Point:
    """Of the kept points that bind nearly as well as the best of them, the one that diverges least from the base.

    Binding is grounded here. A point is left out where another kept one is better in binding, grounded or not, in some
    R@1 or in divergence, and worse in none of them. Where binding was not measured, it is the strongest kept point up
    to strength 1.

    Args:
        points: Of several matrices with one base, which is among them at strength 0.
        keep: Share of the base's R@1.
    """
    found, base = kept(points, keep), at_strength(points, 0).smoothed_binding
    if base is None:
        return max((one for one in found if one.strength <= 1), key=lambda one: (one.strength, -(one.divergence or 0)))
    figures = [
        (-(p.divergence or 0), p.binding or 0, p.grounded or 0, *itertools.chain(*p.recalls.values())) for p in found
    ]
    found = [point for point, own in zip(found, figures, strict=True) if not any(_dominates(o, own) for o in figures)]
    best = max(point.smoothed_binding or 0.0 for point in found)
    near = [point for point in found if (point.smoothed_binding or 0.0) >= best - CLOSE * (best - base)]
    return min(near, key=lambda point: (point.divergence or 0.0, point.distance))


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is as great as the other everywhere, and greater somewhere."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def at_strength(points: Sequence[Point], strength: float) -> Point:
    """The point of a strength, which must be among them."""
    return next(point for point in points if point.strength == strength)


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
    def __init__(self, held: HeldOut, matrix: torch.Tensor) -> None:
        assert held.negatives is not None
        self._present = held.has_negative
        self._sides: list[tuple[_Blend, torch.Tensor, torch.Tensor]] = []
        # Each caption's image, and the mean image: [2, m, 1, dim].
        images = torch.stack([held.images[held.image_index], held.images.mean(dim=0).expand_as(held.texts)])[:, :, None]
        for texts in (held.texts[:, None], held.negatives):
            blend = _Blend(texts, matrix)
            self._sides.append((blend, (images * blend.texts).sum(-1), (images * blend.aligned).sum(-1)))

    def at(self, strength: float) -> tuple[float, float, float, float]:
        """Accuracy, blind, grounded, and grounded kernel-smoothed."""
        right, wrong = (
            ((1 - strength) * plain + strength * aligned) / blend.length(strength)
            for blend, plain, aligned in self._sides
        )
        margin, blind = (right - wrong)[:, self._present]
        return _positive(margin), _positive(blind), _positive(margin - blind), float(_smoothed(margin - blind).mean())


def _positive(margin: torch.Tensor) -> float:
    return float((margin > 0).double().mean())


def _smoothed(margin: torch.Tensor) -> torch.Tensor:
    """How sure it is that each margin is positive, under a normal kernel of Silverman's width: float64, 0 to 1."""
    margin = margin.double()
    width = 0.9 * margin.std(correction=0) * len(margin) ** -0.2
    return torch.special.ndtr(margin / width.clamp_min(1e-12))


class _Cosines:
    """Cosines of blended texts with images, from products made once."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, index: torch.Tensor, matrix: torch.Tensor) -> None:
        self._blend = _Blend(texts, matrix)
        self._plain, self._aligned = images @ texts.T, images @ self._blend.aligned.T  # [n, m]
        self.index, self.columns = index, torch.arange(len(index))
        self.own = torch.zeros_like(self._plain, dtype=torch.bool)
        self.own[index, self.columns] = True

    def at(self, strength: float) -> torch.Tensor:
        return torch.lerp(self._plain, self._aligned, strength) / self._blend.length(strength)


class _Retrieval:
    def __init__(self, held: HeldOut, matrix: torch.Tensor) -> None:
        self._cosines = _Cosines(held.images, held.texts, held.image_index, matrix)
        self._base = self._by_image(*self._margins(0.0))

    def at(self, strength: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """R@1 of text to image and of image to text; the share of smoothed R@1 lost, and its standard error."""
        t2i, i2t = self._margins(strength)
        change = self._base - self._by_image(t2i, i2t)
        whole, error = self._base.sum(), len(change) ** 0.5 * change.std(correction=0)
        return (_positive(t2i), _positive(i2t)), (float(change.sum() / whole), float(error / whole))

    def _margins(self, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        """By how much the right one is nearer than the nearest wrong one: for each text, for each image."""
        cosine, cosines = self._cosines.at(strength), self._cosines
        own, others = cosine[cosines.index, cosines.columns], cosine.masked_fill(cosines.own, -2.0)
        best_own = cosine.masked_fill(~cosines.own, -2.0).amax(dim=1)
        return own - others.amax(dim=0), best_own - others.amax(dim=1)

    def _by_image(self, t2i: torch.Tensor, i2t: torch.Tensor) -> torch.Tensor:
        """What each image with its captions adds to the sum of both smoothed recalls."""
        images = _smoothed(i2t) / len(i2t)
        return images.index_add(0, self._cosines.index, _smoothed(t2i) / len(t2i))


class _Divergence:
    def __init__(self, held: HeldOut, matrix: torch.Tensor) -> None:
        self._parts = []
        whole = max(len(held.images) // _DISTRACTORS, 1)
        for images in torch.arange(len(held.images))[: whole * _DISTRACTORS].chunk(whole):
            texts = torch.isin(held.image_index, images).nonzero().flatten()
            index = held.image_index[texts] - images[0]
            cosines = _Cosines(held.images[images], held.texts[texts], index, matrix)
            self._parts.append((cosines, self._wrong(cosines, 0.0)))

    def at(self, strength: float) -> float:
        found = []
        for cosines, base in self._parts:
            for (before, weight), (after, _) in zip(base, self._wrong(cosines, strength), strict=True):
                found.append((weight * (before - after)).sum(dim=1).mean())
        return float(torch.stack(found).mean())

    def _wrong(self, cosines: _Cosines, strength: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each text the log-softmax over its wrong images, and the softmax over all; the same for each image."""
        logits = DISTILLED_SCALE * cosines.at(strength)
        return [
            (z.masked_fill(own, -1e9).log_softmax(dim=1), z.softmax(dim=1).masked_fill(own, 0.0))
            for z, own in ((logits.T, cosines.own.T), (logits, cosines.own))
        ]
