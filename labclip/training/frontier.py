"""The trade between binding and retrieval over strength, and the strength that is selected on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from labclip.data.items import Kind
from labclip.training.objective import DISTILLED_SCALE
from labclip.training.rows import Data

STRENGTHS = tuple(round(0.05 * step, 2) for step in range(26))  # 0 to 1.25
GALLERY = 2000
"""Images of a retrieval gallery at most, with at most twice as many captions."""
KEEP = 0.99
"""Of the base's R@1 that has to be kept, by default: less than 1%, no ordinary validation set can tell from nothing."""
CLOSE = 0.015
"""Fraction of the gain in binding that is not worth a greater divergence."""
_CHANGED = 0.17, 3.0
"""Divergence that costs nothing measurable, and how much more for each unit of R@1 given up: docs/recipe.md says where
this line is from."""
ENOUGH = 200
"""Images from which on the strength selected loses, on average, no more than `keep` allows: benchmarks/allowance.py."""
_DISTRACTORS = 200  # images of a gallery in which the divergence is measured: it grows with their number


def gallery(data: Data, *, seed: int = 0) -> Data:
    """Some images of a side, drawn at random, with all their texts: up to `GALLERY`, and twice as many captions."""
    index = data.image_index[data.only(Kind.CAPTION).captions]
    images, captions_each = torch.unique(index, return_counts=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    fit = int((captions_each[order].cumsum(0) <= 2 * GALLERY).sum())
    kept = images[order[: max(2, min(fit, GALLERY))]]
    return replace(data, captions=data.captions[torch.isin(data.image_index[data.captions], kept)])


@dataclass(frozen=True)
class Point:
    """What one strength does on held-out data; fractions of 1, a tie is wrong in all of them.

    Attributes:
        strength: 0 is the base.
        distance: Distance of the blend from the identity, ||strength (A - I)||_F.
        binding: Fraction of pairs of caption and negative whose caption has the higher cosine; None without negatives.
        recalls: By set, "validation" or "retain NAME": the fraction of captions whose image has the highest cosine,
            and the fraction of images for which one of their captions has (R@1 text to image, image to text).
        blind: The same with the mean of the held-out images in place of every image: what text alone tells.
        grounded: The fraction of pairs whose image prefers the caption by more than that mean does.
        smoothed_binding: Kernel-smoothed `grounded`, a normal kernel of Silverman's width on each margin: raw accuracy
            jumps from caption to caption and saturates at 1. The mean over captions and parts where both have
            negatives, and over `whole_truth`, where it is known.
        lost: Fraction of the base's R@1 that is lost on each set, and its standard error over images: of both
            directions together, kernel-smoothed. Below 0 is gained.
        divergence: How far the aligned softmax moves among wrong images and captions, in nats: the KL divergence from
            the base's softmax among them, times the base's probability of any of them; the mean over both directions,
            in galleries of 200 images. It predicts what retrieval loses on other data.
        parts: Fractions of parts that are preferred, blind and grounded, as above; None without parts.
        keywords: R@1 of keywords, text to image and image to text, among the held-out images; None without them. An
            image that has the same ones too counts as wrong.
        whole_truth: Of the pairs of a caption and a part of one image the fraction whose caption has the higher cosine
            with that image: it says more, and all of it is true. None without parts.
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
    parts: tuple[float, float, float] | None = None
    keywords: tuple[float, float] | None = None
    whole_truth: float | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """Binding, blind and grounded, of captions, or of parts where no caption has a negative; else empty."""
        if self.binding is None:
            return self.parts or ()
        return self.binding, self.blind or 0.0, self.grounded or 0.0

    @property
    def most_lost(self) -> tuple[float, float]:
        """`lost` on the set where it is greatest, and its standard error; both are 0 where there is no set."""
        return max(self.lost.values(), default=(0.0, 0.0))


def frontier(sets: Mapping[str, Data], matrix: torch.Tensor, strengths: Sequence[float] = STRENGTHS) -> list[Point]:
    """Measure a matrix [dim, dim] at several strengths on "validation", the held-out data, and on other sets."""
    galleries = {name: _Gallery(held.only(Kind.CAPTION), matrix) for name, held in sets.items()}
    own = sets.get("validation")
    captions, parts, keywords = (own and own.only(kind) for kind in Kind)
    tags = _Gallery(keywords, matrix) if keywords and len(keywords.captions) else None
    margins = [margins_at(held, matrix) if held and held.n_with_negative else None for held in (captions, parts)]
    whole = _whole_margins_at(captions, parts, matrix) if captions and parts and margins[1] else None
    distance = float((matrix - torch.eye(len(matrix))).norm())
    points = []
    for strength in strengths:
        measured = {name: gallery.measured(strength) for name, gallery in galleries.items()}
        binding, of_parts = (None if at is None else _shares(at(strength)) for at in margins)
        smoothed = [shares[3] for shares in (binding, of_parts) if shares]
        whole_margins = whole(strength) if whole else None
        if whole_margins is not None:
            smoothed.append(float(_smoothed(whole_margins).mean()))
        share, blind, grounded, _ = binding or (None,) * 4
        points.append(
            Point(
                strength=strength,
                distance=strength * distance,
                binding=share,
                blind=blind,
                grounded=grounded,
                smoothed_binding=sum(smoothed) / len(smoothed) if smoothed else None,
                recalls={name: recalls for name, (recalls, _, _) in measured.items()},
                lost={name: lost for name, (_, lost, _) in measured.items()},
                divergence=measured["validation"][2] if own else None,
                parts=of_parts and of_parts[:3],
                keywords=tags.measured(strength)[0] if tags else None,
                whole_truth=None if whole_margins is None else _positive(whole_margins),
            )
        )
    return points


def most_divergence(keep: float) -> float:
    """Up to which divergence this fraction of the base's R@1 is kept on data that nobody measured, in nats."""
    return _CHANGED[0] + _CHANGED[1] * (1 - keep)


def kept(points: Sequence[Point], keep: float = KEEP) -> list[Point]:
    """The points that keep this fraction of the base's R@1, by the held-out estimate; the base itself always is one.

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

    Binding is grounded here; the points are of several matrices with one base. One is left out where another kept one
    is better in binding, grounded or not, in some R@1 or in divergence, and worse in none of them. Where binding was
    not measured, it is the strongest kept point up to strength 1.
    """
    within, base = kept(points, keep), at_strength(points, 0).smoothed_binding
    if base is None:
        weak = [point for point in within if point.strength <= 1]
        return max(weak, key=lambda point: (point.strength, -(point.divergence or 0)))
    within = [point for point in within if not any(_is_better(other, point) for other in within)]
    best = max(point.smoothed_binding or 0.0 for point in within)
    near = [point for point in within if (point.smoothed_binding or 0.0) >= best - CLOSE * max(best - base, 0)]
    return min(near, key=lambda point: (point.divergence or 0.0, point.distance))


def _is_better(one: Point, other: Point) -> bool:
    """Whether one point is as good as another in all that is shown, and better in something."""

    def shown(point: Point) -> tuple[float, ...]:
        figures = *point.shares[::2], *(point.parts or ())[::2], point.whole_truth or 0.0
        return (-(point.divergence or 0.0), *figures, *itertools.chain(*point.recalls.values()))

    first, second = shown(one), shown(other)
    return first != second and all(a >= b for a, b in zip(first, second, strict=True))


def at_strength(points: Sequence[Point], strength: float) -> Point:
    """The point of a strength, which must be among them."""
    return next(point for point in points if point.strength == strength)


def pair_cosines(held: Data, matrix: torch.Tensor, strength: float) -> dict[str, Any]:
    """Quantiles (5, 50, 95%) of the cosines of captions with their own image and with all other images.

    `held` has two images or more, as `gallery` draws it. {"strength": strength, "base": {"matched": [...], "unmatched":
    [...]}, "labclip": {...}}, rounded to four digits.
    """
    pairs = _Gallery(held.only(Kind.CAPTION), matrix)
    record: dict[str, Any] = {"strength": strength}
    for side, at in (("base", 0.0), ("labclip", strength)):
        cosines = pairs.cosines(at)
        kinds = {"matched": cosines[pairs.own], "unmatched": cosines[~pairs.own]}
        quantiles = {kind: np.quantile(values.numpy(), (0.05, 0.5, 0.95)) for kind, values in kinds.items()}
        record[side] = {kind: [round(float(value), 4) + 0.0 for value in three] for kind, three in quantiles.items()}
    return record


def _blended(
    texts: torch.Tensor, matrix: torch.Tensor, products: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[float], torch.Tensor]:
    """A function of the strength: images' cosines with `texts` blended at it, from `products` that are made once."""
    aligned = texts @ matrix.T
    plain, full = products(texts), products(aligned)
    own, across, far = texts.square().sum(-1), (texts * aligned).sum(-1), aligned.square().sum(-1)

    def cosines(strength: float) -> torch.Tensor:
        rest = 1 - strength
        square = rest**2 * own + 2 * rest * strength * across + strength**2 * far
        return torch.lerp(plain, full, strength) / square.clamp_min(1e-24).sqrt()

    return cosines


def margins_at(data: Data, matrix: torch.Tensor) -> Callable[[float], torch.Tensor]:
    """A function of the strength: by how much cosines prefer each caption to its negatives, [2, m, k].

    The first is with the caption's image, the second with the mean of all; infinite where there is no negative.
    """
    there = data.has_negative[data.captions]
    rows = torch.cat([data.captions[:, None], data.negative_rows[data.captions]], dim=1)
    texts = data.texts.take(rows.flatten()).cpu().view(*rows.shape, -1)
    images = data.images.take(data.image_index[data.captions]).cpu()
    mean = data.images.take(data.images_used).cpu().mean(dim=0)
    shown = torch.stack([images, mean.expand_as(images)])[:, :, None]
    cosines_at = _blended(texts, matrix, lambda texts: (shown * texts).sum(dim=-1))

    def margins(strength: float) -> torch.Tensor:
        cosines = cosines_at(strength)
        return (cosines[..., :1] - cosines[..., 1:]).masked_fill(~there, torch.inf)

    return margins


def _whole_margins_at(captions: Data, parts: Data, matrix: torch.Tensor) -> Callable[[float], torch.Tensor]:
    """A function of the strength: by how much an image prefers its captions to its parts, a number for each pair."""
    n, rows = len(captions.captions), torch.cat([captions.captions, parts.captions])
    of = captions.image_index[rows]
    texts, images = captions.texts.take(rows).cpu(), captions.images.take(of).cpu()
    cosines_at = _blended(texts, matrix, lambda texts: (images * texts).sum(dim=-1))
    caption, part = (of[:n, None] == of[n:]).nonzero(as_tuple=True)

    def margins(strength: float) -> torch.Tensor:
        cosines = cosines_at(strength)
        return cosines[caption] - cosines[n + part]

    return margins


def _shares(margins: torch.Tensor) -> tuple[float, float, float, float]:
    """Of margins [2, m, k] the shares that are preferred, blind and grounded, and the last of them smoothed."""
    margin, blind = margins[:, torch.isfinite(margins[0])]
    grounded = margin - blind
    return _positive(margin), _positive(blind), _positive(grounded), float(_smoothed(grounded).mean())


def _positive(margin: torch.Tensor) -> float:
    return float((margin > 0).double().mean())


def _smoothed(margin: torch.Tensor) -> torch.Tensor:
    """How sure it is that each margin is positive, under a normal kernel of Silverman's width: float64, 0 to 1."""
    margin = margin.double()
    width = 0.9 * margin.std(correction=0) * len(margin) ** -0.2
    return torch.special.ndtr(margin / width.clamp_min(1e-12))


class _Gallery:
    """Images and texts, what retrieval finds among them at a strength, and how far the softmax moves."""

    def __init__(self, data: Data, matrix: torch.Tensor) -> None:
        images, texts, self._index = data.tensors()
        self._columns = torch.arange(len(texts))
        self.cosines = _blended(texts, matrix, lambda texts: images @ texts.T)  # [n, m]
        self.own = self._index == torch.arange(len(images))[:, None]
        self._base = self.cosines(0.0)
        self._base_recall = self._by_image(*self._margins(self._base))

    def measured(self, strength: float) -> tuple[tuple[float, float], tuple[float, float], float]:
        """R@1 of text to image and of image to text; `Point.lost`; `Point.divergence`."""
        cosines = self.cosines(strength)
        t2i, i2t = self._margins(cosines)
        change = self._base_recall - self._by_image(t2i, i2t)
        whole, error = self._base_recall.sum(), len(change) ** 0.5 * change.std(correction=0)
        lost = float(change.sum() / whole), float(error / whole)
        return (_positive(t2i), _positive(i2t)), lost, self._divergence(cosines)

    def _margins(self, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By how much the right one is nearer than the nearest wrong one: for each text, for each image."""
        own, others = cosines[self._index, self._columns], cosines.masked_fill(self.own, -2.0)
        best_own = cosines.masked_fill(~self.own, -2.0).amax(dim=1)
        return own - others.amax(dim=0), best_own - others.amax(dim=1)

    def _by_image(self, t2i: torch.Tensor, i2t: torch.Tensor) -> torch.Tensor:
        """What each image with its captions adds to the sum of both smoothed recalls."""
        images = _smoothed(i2t) / len(i2t)
        return images.index_add(0, self._index, _smoothed(t2i) / len(t2i))

    def _divergence(self, cosines: torch.Tensor) -> float:
        divergences, whole = [], max(len(cosines) // _DISTRACTORS, 1)
        for images in torch.arange(len(cosines))[: whole * _DISTRACTORS].chunk(whole):
            part = images[:, None], torch.isin(self._index, images).nonzero().flatten()
            own, before, after = self.own[part], DISTILLED_SCALE * self._base[part], DISTILLED_SCALE * cosines[part]
            for right, old, new in ((own.T, before.T, after.T), (own, before, after)):
                weight = old.softmax(dim=1).masked_fill(right, 0.0)
                wrong_old, wrong_new = (side.masked_fill(right, -1e9).log_softmax(dim=1) for side in (old, new))
                divergences.append((weight * (wrong_old - wrong_new)).sum(dim=1).mean())
        return float(torch.stack(divergences).mean())
