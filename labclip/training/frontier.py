"""The trade between binding and retrieval over strength, and the strength that is selected on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from labclip.training.rows import Data

STRENGTHS = tuple(round(0.05 * step, 2) for step in range(26))  # 0 to 1.25
GALLERY = 2000
"""Images of a retrieval gallery at most, with at most twice as many captions."""
COST = 0.01
"""Share of the base's R@1 that may be lost: less, no ordinary validation set can tell from nothing."""
SYNTHETIC_WEIGHT = 0.025
"""How much a share of R@1 lost on synthetic random pairs counts beside a share of binding; see docs/fit.md."""
_PAIRS = 500  # synthetic ones
_BASE_R1 = 0.9  # of the base on them: hard enough to show a loss, easy enough to have something to lose


@dataclass(frozen=True)
class HeldOut:
    """Held-out embeddings, small enough to be measured again and again.

    Attributes:
        images: Unit-length, [n, dim].
        texts: Unit-length, [m, dim].
        image_index: The image of each caption, int64 [m].
        negatives: Unit-length, [m, k, dim], or None.
        has_negative: Which of them there are, bool [m, k]; None if `negatives` is.
    """

    images: torch.Tensor
    texts: torch.Tensor
    image_index: torch.Tensor
    negatives: torch.Tensor | None = None
    has_negative: torch.Tensor | None = None

    @property
    def bound(self) -> int:
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
        negatives = (data.negatives.take(captions), data.negatives.present[captions]) if data.negatives else ()
        return cls(data.images.take(kept), data.texts.take(captions), index, *negatives)


def synthetic(held: HeldOut, *, seed: int = 0) -> HeldOut:
    """Random pairs around a set's centres that otherwise use every direction alike.

    They stand for the uses of a model that nobody measured: whatever direction a matrix changes matters there. Each
    pair shares a random direction and has noise of its own, so much that the base's R@1 is about 0.9.
    """
    draw = torch.Generator().manual_seed(seed)
    dim = held.images.shape[1]
    centres = torch.stack([side.cpu().mean(dim=0) for side in (held.images, held.texts)])
    along = torch.linalg.qr(centres.T).Q  # pairs lie around the centres, across them
    random = torch.randn(3, _PAIRS, dim, generator=draw)
    shared, *noise = F.normalize(random - random @ along @ along.T, dim=-1)
    spread = (1 - centres.square().sum(dim=1)).clamp_min(0.01).sqrt()
    found, low, high = held, 0.0, 1.0
    for _ in range(10):
        share = (low + high) / 2  # the cosine of a pair, centres aside
        images, texts = (
            F.normalize(centre + length * F.normalize(share**0.5 * shared + (1 - share) ** 0.5 * own, dim=-1), dim=-1)
            for centre, length, own in zip(centres, spread, noise, strict=True)
        )
        found = HeldOut(images, texts, torch.arange(_PAIRS))
        recall = sum(_Retrieval(found, torch.eye(dim)).at(0.0)) / 2
        low, high = (share, high) if recall < _BASE_R1 else (low, share)
    return found


@dataclass(frozen=True)
class Point:
    """What one strength does on held-out data; shares of 1, a tie is wrong in all of them.

    Attributes:
        strength: 0 is the base.
        distance: Of the blend from the identity, ||strength (A - I)||_F.
        binding: Share of pairs of caption and negative whose caption has the higher cosine; None without negatives.
        t2i_r1: Share of captions whose image has the highest cosine; None where nothing was held out.
        i2t_r1: Share of images for which one of their captions has the highest cosine; None likewise.
        retain: (t2i_r1, i2t_r1) on each set of `retain`, by its name.
        smoothed_binding: Kernel-smoothed accuracy of binding, a normal kernel of Silverman's width on each pair's
            margin: raw accuracy jumps from caption to caption and saturates at 1.
        synthetic_r1: R@1 on synthetic random pairs, the mean of both directions; None where it was not measured.
    """

    strength: float
    distance: float
    binding: float | None
    t2i_r1: float | None
    i2t_r1: float | None
    retain: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    smoothed_binding: float | None = None
    synthetic_r1: float | None = None

    @property
    def recalls(self) -> dict[str, tuple[float, float]]:
        """(t2i_r1, i2t_r1) on every set: "validation", where anything was held out, and "retain NAME"."""
        own = self.t2i_r1 is not None and self.i2t_r1 is not None and {"validation": (self.t2i_r1, self.i2t_r1)}
        return (own or {}) | {f"retain {name}": both for name, both in self.retain.items()}


def frontier(
    own: HeldOut | None, matrix: torch.Tensor, strengths: Sequence[float] = STRENGTHS, *,
    retain: Mapping[str, HeldOut] | None = None, pairs: HeldOut | None = None,
) -> list[Point]:  # fmt: skip
    """Measure a matrix [dim, dim] on held-out data, other domains and synthetic pairs, at several strengths."""
    binding = _Binding(own, matrix) if own and own.bound else None
    home = _Retrieval(own, matrix) if own else None
    others = {name: _Retrieval(held, matrix) for name, held in (retain or {}).items()}
    unknown = _Retrieval(pairs, matrix) if pairs else None
    distance = float((matrix - torch.eye(len(matrix))).norm())
    points = []
    for strength in strengths:
        accuracy, smoothed = binding.at(strength) if binding else (None, None)
        t2i, i2t = home.at(strength) if home else (None, None)
        kept = {name: part.at(strength) for name, part in others.items()}
        mean = sum(unknown.at(strength)) / 2 if unknown else None
        points.append(Point(strength, strength * distance, accuracy, t2i, i2t, kept, smoothed, mean))
    return points


def score(point: Point, base: Point) -> float:
    """Smoothed binding, less `SYNTHETIC_WEIGHT` times the share of R@1 lost on synthetic pairs."""
    lost = 1 - point.synthetic_r1 / base.synthetic_r1 if point.synthetic_r1 is not None and base.synthetic_r1 else 0.0
    return (point.smoothed_binding or 0.0) - SYNTHETIC_WEIGHT * max(lost, 0.0)


def select(points: Sequence[Point]) -> Point:
    """The point of the highest score among those that cost retrieval nothing measurable; of equals the nearest to I.

    Such a point loses at most `COST` of the base's R@1, on every set, both ways. The base itself always is among them.
    Points may be of several matrices with one base.
    """
    base = at_strength(points, 0)
    least = {name: [(1 - COST) * recall for recall in both] for name, both in base.recalls.items()}
    free = [
        point
        for point in points
        if all(ours >= theirs for name in least for ours, theirs in zip(point.recalls[name], least[name], strict=True))
    ]
    return max(free, key=lambda point: (score(point, base), -point.distance))


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
        images = held.images[held.image_index][:, None]
        for texts in (held.texts[:, None], held.negatives):
            blend = _Blend(texts, matrix)
            self._sides.append((blend, (images * blend.texts).sum(-1), (images * blend.aligned).sum(-1)))

    def at(self, strength: float) -> tuple[float, float]:
        """Accuracy, and the kernel-smoothed one."""
        right, wrong = (
            ((1 - strength) * plain + strength * aligned) / blend.length(strength)
            for blend, plain, aligned in self._sides
        )
        margin = (right - wrong)[self._present].double()
        width = 0.9 * margin.std(correction=0) * len(margin) ** -0.2
        smoothed = torch.special.ndtr(margin / width.clamp_min(1e-12)).mean()
        return float((right > wrong)[self._present].double().mean()), float(smoothed)


class _Retrieval:
    def __init__(self, held: HeldOut, matrix: torch.Tensor) -> None:
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
