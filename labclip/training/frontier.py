"""The trade-off between binding and retrieval by strength, and the selection of a strength."""

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
"""Maximum number of images in a retrieval gallery. It has at most twice as many captions."""
KEEP = 0.99
"""Fraction of the base's R@1 to keep by default. No ordinary validation set can measure a loss of less than 1%."""
CLOSE = 0.015
"""Fraction of the gain in binding that is given up for a smaller divergence."""

ENOUGH = 200
"""Minimum number of images for `keep`. With fewer, the selected strength loses more R@1 on average than `keep` allows:
see benchmarks/allowance.py."""
_DIVERGENCE_IMAGES = 200  # images per gallery in which the divergence is measured, because it grows with their number


def gallery(data: Data, *, seed: int = 0) -> Data:
    """A random sample of up to `GALLERY` images of a side, with all their texts, and at most twice as many captions."""
    index = data.image_index[data.only(Kind.CAPTION).captions]
    images, counts = torch.unique(index, return_counts=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    n_within = int((counts[order].cumsum(0) <= 2 * GALLERY).sum())
    sample = images[order[: max(2, min(n_within, GALLERY))]]
    return replace(data, captions=data.captions[torch.isin(data.image_index[data.captions], sample)])


@dataclass(frozen=True)
class Point:
    """Gains and costs of one strength on held-out data. Accuracies are fractions of 1; a tie is wrong in all of them.

    Attributes:
        strength: The strength; 0 is the base.
        distance: Distance of the blend from the identity, ||strength (A - I)||_F.
        binding: Fraction of pairs of caption and negative whose caption has the higher cosine; None without negatives.
        recalls: For each set, "validation" or "retain NAME": R@1 text to image, the fraction of captions whose image
            has the highest cosine, and R@1 image to text, the fraction of images that one of their captions is nearest.
        blind: Binding with the mean of the held-out images in place of each image. It shows what text alone decides.
        grounded: Fraction of pairs whose image prefers the caption by more than the mean image does.
        smoothed_binding: `grounded`, kernel-smoothed by a normal kernel of Silverman's width on each margin, because
            the raw accuracy moves in steps and saturates at 1. It is the mean over captions and parts, if both have
            negatives, and `whole_truth` (smoothed), if it is known.
        lost: For each set, the fraction of the base's R@1 that is lost, kernel-smoothed, both directions together; and
            its standard error over images. It is negative if R@1 rises.
        divergence: How far the aligned softmax moves among wrong images and captions, in nats: the KL divergence from
            the base's softmax among them, times the base's probability of any of them; the mean over both directions,
            in galleries of 200 images. It predicts what retrieval loses on other data.
        parts: Binding of parts: plain, blind and grounded. None without parts.
        keywords: R@1 of keywords, text to image and image to text, among the held-out images; None without keywords.
            Another image with the same keywords counts as wrong.
        whole_truth: Fraction of pairs of a caption and a part of one image whose caption has the higher cosine with
            that image. The caption should win, because it says more and all of it is true. None without parts.
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
        """Binding, blind and grounded: of captions, or of parts if no caption has a negative. Empty without both."""
        if self.binding is None:
            return self.parts or ()
        return self.binding, self.blind or 0.0, self.grounded or 0.0

    @property
    def most_lost(self) -> tuple[float, float]:
        """The largest `lost` of all sets, with its standard error; 0 and 0 without sets."""
        return max(self.lost.values(), default=(0.0, 0.0))


def frontier(sets: Mapping[str, Data], matrix: torch.Tensor, strengths: Sequence[float] = STRENGTHS) -> list[Point]:
    """Measure a matrix [dim, dim] at several strengths on "validation", the held-out data, and on other sets."""
    galleries = {name: _Gallery(data.only(Kind.CAPTION), matrix) for name, data in sets.items()}
    held_out = sets.get("validation")
    captions, parts, keywords = (held_out and held_out.only(kind) for kind in Kind)
    keyword_gallery = _Gallery(keywords, matrix) if keywords and len(keywords.captions) else None
    caption_margins, part_margins = (
        margins_at(side, matrix) if side and side.n_with_negative else None for side in (captions, parts)
    )
    whole_margins = _whole_margins_at(captions, parts, matrix) if captions and parts and part_margins else None
    distance = float((matrix - torch.eye(len(matrix))).norm())
    points = []
    for strength in strengths:
        measures = {name: gallery.measure(strength) for name, gallery in galleries.items()}
        of_captions, of_parts = (
            margins and _measure_binding(margins(strength)) for margins in (caption_margins, part_margins)
        )
        smoothed = [binding[3] for binding in (of_captions, of_parts) if binding]
        whole_truth = None
        if whole_margins:
            pair_margins = whole_margins(strength)
            whole_truth = _fraction_positive(pair_margins)
            smoothed.append(float(_smooth(pair_margins).mean()))
        binding, blind, grounded, _ = of_captions or (None,) * 4
        points.append(
            Point(
                strength=strength,
                distance=strength * distance,
                binding=binding,
                blind=blind,
                grounded=grounded,
                smoothed_binding=sum(smoothed) / len(smoothed) if smoothed else None,
                recalls={name: recalls for name, (recalls, _, _) in measures.items()},
                lost={name: lost for name, (_, lost, _) in measures.items()},
                divergence=measures["validation"][2] if held_out else None,
                parts=of_parts and of_parts[:3],
                keywords=keyword_gallery.measure(strength)[0] if keyword_gallery else None,
                whole_truth=whole_truth,
            )
        )
    return points


def divergence_limit(keep: float) -> float:
    """The largest divergence, in nats, that keeps this fraction of R@1 on other data too: see docs/recipe.md."""
    return 0.17 + 3.0 * (1 - keep)


def kept(points: Sequence[Point], keep: float = KEEP) -> list[Point]:
    """The points that keep this fraction of the base's R@1, as estimated on held-out data. The base is always kept.

    No set may lose more, and the divergence must be within its limit, which stands for data that were not measured. If
    R@1 rises by more than its standard error, the divergence has no limit, because the base's softmax is then not worth
    keeping.
    """

    def is_close(point: Point) -> bool:
        lost, error = point.lost.get("validation", (0.0, 0.0))
        return (point.divergence or 0.0) <= divergence_limit(keep) or lost + error < 0

    return [point for point in points if point.strength == 0 or (is_close(point) and point.most_lost[0] <= 1 - keep)]


def select(points: Sequence[Point], keep: float = KEEP) -> Point:
    """Of the kept points whose binding is nearly the best, the one with the smallest divergence from the base.

    The points are of one matrix, or of several with the same base. Binding is smoothed and grounded. A point is left
    out if another kept point is better in binding (grounded or not), in an R@1 or in divergence, and in none of them
    worse. If binding was not measured, the strongest kept point up to strength 1 is selected.
    """
    points, base = kept(points, keep), at_strength(points, 0).smoothed_binding
    if base is None:
        weak = [point for point in points if point.strength <= 1]
        return max(weak, key=lambda point: (point.strength, -(point.divergence or 0)))
    points = [point for point in points if not any(_is_better(other, point) for other in points)]
    best = max(point.smoothed_binding or 0.0 for point in points)
    close = [point for point in points if (point.smoothed_binding or 0.0) >= best - CLOSE * max(best - base, 0)]
    return min(close, key=lambda point: (point.divergence or 0.0, point.distance))


def _is_better(point: Point, other: Point) -> bool:
    """Whether a point is better than another in one of the reported figures, and worse in none."""

    def figures(point: Point) -> tuple[float, ...]:
        bound = *point.shares[::2], *(point.parts or ())[::2], point.whole_truth or 0.0
        return (-(point.divergence or 0.0), *bound, *itertools.chain(*point.recalls.values()))

    first, second = figures(point), figures(other)
    return first != second and all(a >= b for a, b in zip(first, second, strict=True))


def at_strength(points: Sequence[Point], strength: float) -> Point:
    """The point with a strength, which must exist."""
    return next(point for point in points if point.strength == strength)


def pair_cosines(held_out: Data, matrix: torch.Tensor, strength: float) -> dict[str, Any]:
    """Quantiles (5, 50, 95%) of the cosines of captions with their own image and with all others, two or more images.

    Returns {"strength": strength, "base": {"matched": [...], "unmatched": [...]}, "labclip": {...}}, to four decimals.
    """
    pairs = _Gallery(held_out.only(Kind.CAPTION), matrix)
    record: dict[str, Any] = {"strength": strength}
    for side, at in (("base", 0.0), ("labclip", strength)):
        cosines = pairs.cosines(at)
        kinds = {"matched": cosines[pairs.matched], "unmatched": cosines[~pairs.matched]}
        quantiles = {kind: np.quantile(values.numpy(), (0.05, 0.5, 0.95)) for kind, values in kinds.items()}
        record[side] = {kind: [round(float(value), 4) + 0.0 for value in row] for kind, row in quantiles.items()}
    return record


def _blend_cosines(
    texts: torch.Tensor, matrix: torch.Tensor, products: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[float], torch.Tensor]:
    """A function of the strength: the cosines of images with `texts` at it, from `products` with the images."""
    aligned = texts @ matrix.T
    base_products, aligned_products = products(texts), products(aligned)
    base_square, cross, aligned_square = texts.square().sum(-1), (texts * aligned).sum(-1), aligned.square().sum(-1)

    def cosines(strength: float) -> torch.Tensor:
        rest = 1 - strength
        square = rest**2 * base_square + 2 * rest * strength * cross + strength**2 * aligned_square
        return torch.lerp(base_products, aligned_products, strength) / square.clamp_min(1e-24).sqrt()

    return cosines


def margins_at(data: Data, matrix: torch.Tensor) -> Callable[[float], torch.Tensor]:
    """A function of the strength: the margins of each caption over its negatives, [2, m, k].

    The first are by the caption's image, the second by the mean image. They are infinite for absent negatives.
    """
    present = data.has_negative[data.captions]
    rows = torch.cat([data.captions[:, None], data.negative_rows[data.captions]], dim=1)
    texts = data.texts.take(rows.flatten()).cpu().view(*rows.shape, -1)
    images = data.images.take(data.image_index[data.captions]).cpu()
    mean = data.images.take(data.images_used).cpu().mean(dim=0)
    both = torch.stack([images, mean.expand_as(images)])[:, :, None]
    cosines_at = _blend_cosines(texts, matrix, lambda texts: (both * texts).sum(dim=-1))

    def margins(strength: float) -> torch.Tensor:
        cosines = cosines_at(strength)
        return (cosines[..., :1] - cosines[..., 1:]).masked_fill(~present, torch.inf)

    return margins


def _whole_margins_at(captions: Data, parts: Data, matrix: torch.Tensor) -> Callable[[float], torch.Tensor]:
    """A function of the strength: the margin of each caption over each part of its image, [pairs]."""
    n, rows = len(captions.captions), torch.cat([captions.captions, parts.captions])
    index = captions.image_index[rows]
    texts, images = captions.texts.take(rows).cpu(), captions.images.take(index).cpu()
    cosines_at = _blend_cosines(texts, matrix, lambda texts: (images * texts).sum(dim=-1))
    caption, part = (index[:n, None] == index[n:]).nonzero(as_tuple=True)

    def margins(strength: float) -> torch.Tensor:
        cosines = cosines_at(strength)
        return cosines[caption] - cosines[n + part]

    return margins


def _measure_binding(margins: torch.Tensor) -> tuple[float, float, float, float]:
    """Binding, blind, grounded, and smoothed grounded, from margins [2, m, k] of `margins_at`."""
    margin, blind = margins[:, torch.isfinite(margins[0])]
    grounded = margin - blind
    smoothed = float(_smooth(grounded).mean())
    return _fraction_positive(margin), _fraction_positive(blind), _fraction_positive(grounded), smoothed


def _fraction_positive(margin: torch.Tensor) -> float:
    return float((margin > 0).double().mean())


def _smooth(margin: torch.Tensor) -> torch.Tensor:
    """The mass above 0 of a normal kernel of Silverman's width around each margin, float64: a smoothed 0 or 1."""
    margin = margin.double()
    width = 0.9 * margin.std(correction=0) * len(margin) ** -0.2
    return torch.special.ndtr(margin / width.clamp_min(1e-12))


class _Gallery:
    """Images and texts on which retrieval and divergence are measured."""

    def __init__(self, data: Data, matrix: torch.Tensor) -> None:
        images, texts, self._index = data.tensors()
        self._columns = torch.arange(len(texts))
        self.cosines = _blend_cosines(texts, matrix, lambda texts: images @ texts.T)  # a function of the strength
        self.matched = self._index == torch.arange(len(images))[:, None]  # [n, m]
        self._base = self.cosines(0.0)
        self._base_recall = self._recall_by_image(*self._margins(self._base))

    def measure(self, strength: float) -> tuple[tuple[float, float], tuple[float, float], float]:
        """R@1 text to image and image to text; `Point.lost`; `Point.divergence`."""
        cosines = self.cosines(strength)
        t2i, i2t = self._margins(cosines)
        change = self._base_recall - self._recall_by_image(t2i, i2t)
        base, error = self._base_recall.sum(), len(change) ** 0.5 * change.std(correction=0)
        lost = float(change.sum() / base), float(error / base)
        return (_fraction_positive(t2i), _fraction_positive(i2t)), lost, self._divergence(cosines)

    def _margins(self, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The margin of the right image over the nearest wrong one for each text, and the reverse for each image."""
        wrong = cosines.masked_fill(self.matched, -2.0)
        best_right = cosines.masked_fill(~self.matched, -2.0).amax(dim=1)
        return cosines[self._index, self._columns] - wrong.amax(dim=0), best_right - wrong.amax(dim=1)

    def _recall_by_image(self, t2i: torch.Tensor, i2t: torch.Tensor) -> torch.Tensor:
        """The contribution of each image and its captions to the sum of both smoothed recalls."""
        images = _smooth(i2t) / len(i2t)
        return images.index_add(0, self._index, _smooth(t2i) / len(t2i))

    def _divergence(self, cosines: torch.Tensor) -> float:
        divergences, count = [], max(len(cosines) // _DIVERGENCE_IMAGES, 1)
        for images in torch.arange(len(cosines))[: count * _DIVERGENCE_IMAGES].chunk(count):
            block = images[:, None], torch.isin(self._index, images).nonzero().flatten()
            matched = self.matched[block]
            base, aligned = DISTILLED_SCALE * self._base[block], DISTILLED_SCALE * cosines[block]
            for right, old, new in ((matched.T, base.T, aligned.T), (matched, base, aligned)):
                weight = old.softmax(dim=1).masked_fill(right, 0.0)
                old_logs, new_logs = (logits.masked_fill(right, -1e9).log_softmax(dim=1) for logits in (old, new))
                divergences.append((weight * (old_logs - new_logs)).sum(dim=1).mean())
        return float(torch.stack(divergences).mean())
