"""Questions about images and captions, which a model answers by its cosines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip import metrics
from labclip.evaluation.scores import BREAKDOWN, Groups, ItemRows, ScoredItems, one_group, shared_units
from labclip.metrics import TIE
from labclip.report.values import LOWER_IS_BETTER

Rows = NDArray[np.int64]

NONE = -1
"""Stands for no caption and for no group."""

TOP = 5
"""Number of search results that count."""


class Question(Protocol):
    """A question about images and captions. A question type of your own needs this one method."""

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """Score the answer to every item.

        Args:
            images: Embeddings of the task's images, unit-length, float32 [images, dim].
            texts: Embeddings of the task's captions by the model under test, unit-length, float32 [captions, dim].
        """


@dataclass(frozen=True)
class Choice:
    """A question: which of several captions describes an image.

    Attributes:
        image: Each item's image, int64 [n], rows of `Task.images`.
        options: Each item's captions, the right one first, int64 [n, k], rows of `Task.captions`; -1 stands for no
            option.
        metrics: For each metric the group of every item (see `ScoredItems`).
        unit: Items with the same number are not independent, int64 [n]; by default those of one image.
        together: Metrics of sets of items. For each the set of every item, int64 [n], -1 for none. A set is right if
            all its items are right.
        locations: File and position of each item.
        breakdown: Further metrics, shown in a table of their own.
        right_first: Whether published code puts the right caption first and takes the first of equal captions, so that
            ties count as right there.
        unnormalized: Whether the base's captions are not normalised, as in some published code, so that a longer
            embedding wins more often. Those of alignments always have unit length.
    """

    image: Rows
    options: Rows
    metrics: Mapping[str, Groups]
    unit: Rows | None = None
    together: Mapping[str, Rows] = field(default_factory=dict)
    locations: Sequence[str] = ()
    breakdown: Mapping[str, Groups] = field(default_factory=dict)
    right_first: bool = False
    unnormalized: bool = False

    def score(self, images: Tensor, texts: Tensor, *, by_index: bool = False) -> list[ScoredItems]:
        """One `ScoredItems` for the items, one for the breakdown, and one for each metric of sets."""
        rows = torch.from_numpy(self.image), torch.from_numpy(self.options)
        margins = metrics.choice_margins(images, texts, *rows, metrics.total_of(images))
        margin, *controls = (values.numpy() for values in margins)
        right = margin >= 0 if by_index else margin > 0
        unit = first_copies(images)[self.image] if self.unit is None else self.unit
        chance = float((1 / (self.options >= 0).sum(axis=1)).mean())
        item_rows = ItemRows(self.image[:, None], self.options, self.locations)
        scores = [ScoredItems(right, unit, self.metrics, chance, margin, item_rows, controls=_controls(controls))]
        if self.breakdown:
            scores.append(ScoredItems(right, unit, self.breakdown, chance, side=BREAKDOWN))
        for metric, sets in self.together.items():
            in_set = sets >= 0
            names, set_of_item = np.unique(sets[in_set], return_inverse=True)
            all_right = np.bincount(set_of_item, weights=~right[in_set]) == 0
            # Two sets that share an image are one unit.
            set_unit = np.empty(len(names), dtype=np.int64)
            set_unit[set_of_item] = shared_units(np.stack([set_of_item, unit[in_set] + len(names)], axis=1))
            scores.append(ScoredItems(all_right, set_unit, {metric: one_group(len(names))}))
        return scores


def first_copies(features: Tensor) -> Rows:
    """For each embedding the row of the first that equals it bit by bit, int64 [n]: copies count as one."""
    first: dict[int, int] = {}
    return np.array([first.setdefault(hash(values.tobytes()), row) for row, values in enumerate(features.numpy())])


def _controls(margins: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.bool_]]:
    """Whether items are right with the mean of the other images, and with the image minus it; empty for one image."""
    return {name: margin > 0 for name, margin in zip(("blind", "grounded"), margins, strict=False)}


@dataclass(frozen=True)
class Retrieval:
    """A question: retrieval of a caption's image, and of an image's captions.

    Attributes:
        images: The gallery's images, int64 [n].
        texts: The captions, int64 [m].
        image_index: For each caption the index of its image in `images`, int64 [m].
        prefix: Prefix of the metrics' names.
    """

    images: Rows
    texts: Rows
    image_index: Rows
    prefix: str = ""

    def score(self, images: Tensor, texts: Tensor, *, by_index: bool = False) -> list[ScoredItems]:
        """`t2i_r1`, `i2t_r1` and so on, for k of 1, 5 and 10."""
        n, m = len(self.images), len(self.texts)
        features = images[self.images], texts[self.texts], torch.from_numpy(self.image_index)
        text_rank, image_rank, text_margin, image_margin = metrics.ranks(*features, by_index=by_index)
        caption_count = np.bincount(self.image_index, minlength=n)
        # An image without a caption is in the gallery, but is not a query.
        queries = np.flatnonzero(caption_count)
        of_queries = image_rank[queries], image_margin[queries]
        text_rows = ItemRows(self.images[self.image_index, None], self.texts[:, None])
        image_rows = ItemRows(self.images[queries, None], np.empty((len(queries), 0), dtype=np.int64))
        text_chance = {k: _chance(np.ones(m, dtype=np.int64), n, k) for k in (1, 5, 10)}
        image_chance = {k: _chance(caption_count[queries], m, k) for k in (1, 5, 10)}
        return [
            *_recalls((text_rank, text_margin), self.image_index, text_rows, f"{self.prefix}t2i_r", text_chance),
            *_recalls(of_queries, queries, image_rows, f"{self.prefix}i2t_r", image_chance),
        ]


def _recalls(
    ranked: Sequence[Tensor], unit: Rows, rows: ItemRows, name: str, chances: dict[int, float], side: str = "retrieval"
) -> list[ScoredItems]:
    """Recall at each k of `chances`, from ranks and margins; its metric is `name` and k."""
    rank, margin = (values.numpy() for values in ranked)
    scores = [
        ScoredItems(rank < k, unit, {f"{name}{k}": one_group(len(rank))}, chance, side=side)
        for k, chance in chances.items()
    ]
    scores[0] = replace(scores[0], margin=margin, rows=rows)
    return scores


def _chance(right: Rows, candidates: int, k: int) -> float:
    """Mean probability that one of each item's `right` answers is among the first k candidates in random order."""
    drawn = np.arange(min(k, candidates))
    missed = np.maximum(candidates - right[:, None] - drawn, 0) / (candidates - drawn)
    return float((1 - np.prod(missed, axis=1)).mean())


@dataclass(frozen=True)
class CaptionRetrieval:
    """A question: which of many captions describes an image. A caption may describe several images, or none."""

    image: Rows  # [n]
    label: Rows  # index in `captions` of each image's caption, [n]
    captions: Rows  # distinct, [m]
    unnormalized: bool = False  # as in `Choice`

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """`i2t_r1`, `i2t_r5`, `i2t_r10`."""
        ranked = metrics.class_ranks(images[self.image], texts[self.captions], torch.from_numpy(self.label))
        rows = ItemRows(self.image[:, None], self.captions[self.label, None])
        chances = {k: min(1.0, k / len(self.captions)) for k in (1, 5, 10)}
        return _recalls(ranked, self.image, rows, "i2t_r", chances)


@dataclass(frozen=True)
class Classification:
    """A question: which class's prompts are nearest to an image (zero-shot classification).

    Attributes:
        image: int64 [n].
        label: Class of each image, int64 [n].
        prompts: Captions of each class, int64 [classes, templates]; -1 stands for none.
        prefix: Prefix of the metrics' names.
    """

    image: Rows
    label: Rows
    prompts: Rows
    prefix: str = ""

    def score(self, images: Tensor, texts: Tensor, *, by_index: bool = False) -> list[ScoredItems]:
        """`acc1`, its mean over classes `mean_per_class`, and `acc5` if there are more than five classes."""
        classes = metrics.class_features(texts, torch.from_numpy(self.prompts))
        ranked = metrics.class_ranks(images[self.image], classes, torch.from_numpy(self.label), by_index=by_index)
        rows = ItemRows(self.image[:, None], self.prompts[self.label, :1])
        chances = {k: k / len(classes) for k in (1, 5) if k == 1 or len(classes) > k}
        top1, *others = _recalls(ranked, self.image, rows, f"{self.prefix}acc", chances, "classification")
        groups = {**top1.metrics, f"{self.prefix}mean_per_class": self.label}
        return [replace(top1, metrics=groups), *others]


@dataclass(frozen=True)
class Pairs:
    """A question: which of two images goes with which of two captions, as in Winoground.

    Attributes:
        images: int64 [n, 2].
        texts: int64 [n, 2].
        locations: File and position of each item.
        breakdown: Kinds of items that are also scored alone, in a table of their own: for each prefix of metric names
            the group of every item.
    """

    images: Rows
    texts: Rows
    locations: Sequence[str] = ()
    breakdown: Mapping[str, Groups] = field(default_factory=dict)

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """`text`, `image` and `group`, and these for the breakdown."""
        pairs = [torch.from_numpy(rows) for rows in (self.images, self.texts)]
        rights, margins = metrics.pairs(images, texts, *pairs), metrics.pair_margins(images, texts, *pairs)
        rows = ItemRows(self.images, self.texts, self.locations)
        unit = shared_units(first_copies(images)[self.images])
        scores, breakdown = [], []
        kinds = zip(("text", "image", "group"), (1 / 4, 1 / 4, 1 / 6), rights, margins, strict=True)
        for name, chance, right, margin in kinds:
            overall = {name: one_group(len(unit))}
            scores.append(ScoredItems(right.numpy(), unit, overall, chance, margin.numpy(), rows))
            groups = {f"{kind}_{name}": group for kind, group in self.breakdown.items()}
            breakdown.append(ScoredItems(right.numpy(), unit, groups, chance, side=BREAKDOWN))
        return scores + (breakdown if self.breakdown else [])


@dataclass(frozen=True)
class TwoPositives:
    """A question: two captions with the same meaning against one that only looks similar, as in SugarCrepe++.

    Attributes:
        image: int64 [n].
        texts: First caption, second caption, negative, int64 [n, 3].
        metrics: For each metric the group of every item. The names get the suffix `_itt` or `_tot`; the name "" becomes
            `itt` or `tot`.
        locations: File and position of each item.
    """

    image: Rows
    texts: Rows
    metrics: Mapping[str, Groups]
    locations: Sequence[str] = ()

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """`itt` and `tot`.

        `itt`: both positives beat the negative for the image. `tot`: the positives are nearer to each other than
        either is to the negative.
        """
        image, options = torch.from_numpy(self.image), torch.from_numpy(self.texts)
        total = metrics.total_of(images)
        both = [metrics.choice_margins(images, texts, image, options[:, [column, 2]], total) for column in (0, 1)]
        itt, *controls = (torch.minimum(*margins).numpy() for margins in zip(*both, strict=True))
        first, second, negative = (texts[options[:, column]] for column in range(3))
        tot = (first * second).sum(-1) - torch.maximum((first * negative).sum(-1), (second * negative).sum(-1))
        rows = ItemRows(self.image[:, None], self.texts, self.locations)

        def scored(suffix: str, margin: NDArray[np.float32], **further: Any) -> ScoredItems:
            groups = {f"{name}_{suffix}" if name else suffix: group for name, group in self.metrics.items()}
            return ScoredItems(margin > 0, self.image, groups, margin=margin, rows=rows, **further)

        return [scored("itt", itt, controls=_controls(controls)), scored("tot", tot.numpy())]


@dataclass(frozen=True)
class Search:
    """A question: queries, each with the images that answer it and those that show its words on other objects.

    Attributes:
        images: The gallery, int64 [n], rows of `Task.images`.
        queries: int64 [m], rows of `Task.captions`; each has an image that answers it.
        right: Whether an image answers a query, bool [m, n].
        confused: Whether an image shows the words of a query on different objects, bool [m, n]; never a right image.
        groups: For each suffix of the metrics' names the group of every query: {"": zeros} gives one mean over all.
    """

    images: Rows
    queries: Rows
    right: NDArray[np.bool_]
    confused: NDArray[np.bool_]
    groups: Mapping[str, Groups]

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """`search_map`, `search_p5` and `search_confused5`.

        `search_map` is the mean average precision. `search_p5` is the fraction of the top five that is right,
        `search_confused5` the fraction that is confused. Cosines that differ by less than `metrics.TIE` are a tie,
        which counts against the query: wrong images come first. As an item a query is right if all images that answer
        it come first; its margin is that of the first of them.
        """
        gallery, n = images[self.images], len(self.queries)
        figures: list[tuple[float, float, float, float]] = []
        step = max(1, 4_000_000 // len(gallery))  # queries at a time, for a block of four million cosines
        for start in range(0, n, step):
            cosines = texts[self.queries[start : start + step]] @ gallery.T
            for query, cosine in enumerate(cosines.numpy(), start):
                figures.append(_score_query(cosine, self.right[query], self.confused[query]))
        *columns, margin = (np.array(column) for column in zip(*figures, strict=True))
        scores = []
        for name, values in zip(("search_map", f"search_p{TOP}", f"search_confused{TOP}"), columns, strict=True):
            groups = {f"{name}{suffix}": group for suffix, group in self.groups.items()}
            lower_is_better = name.startswith(LOWER_IS_BETTER)
            scores.append(ScoredItems(values, np.arange(n), groups, lower_is_better=lower_is_better))
        rows = ItemRows(np.empty((n, 0), dtype=np.int64), self.queries[:, None])
        scores[0] = replace(scores[0], margin=margin.astype(np.float32), rows=rows)
        return scores


def _score_query(
    cosine: NDArray[np.float32], right: NDArray[np.bool_], confused: NDArray[np.bool_]
) -> tuple[float, float, float, float]:
    """Average precision, fractions of the top five that are right and confused, and margin of a query; arrays [n]."""
    right_cosine, wrong_cosine = np.sort(cosine[right])[::-1], np.sort(cosine[~right])
    wrong_before = len(wrong_cosine) - np.searchsorted(wrong_cosine, right_cosine - TIE)  # at least as near
    right_before = np.arange(1, len(right_cosine) + 1)
    rank = right_before + wrong_before
    last_shown = np.sort(cosine)[::-1][:TOP][-1]  # of a tie at the last rank any image may be shown
    return (
        float((right_before / rank).mean()),
        float((rank <= TOP).sum() / TOP),
        min(int((cosine[confused] >= last_shown - TIE).sum()), TOP) / TOP,
        float(right_cosine[0] - wrong_cosine[-1]) if len(wrong_cosine) else np.nan,
    )


def is_unnormalized(question: Question) -> bool:
    """Whether the base's captions are not normalised in a question; see `Choice.unnormalized`."""
    return bool(getattr(question, "unnormalized", False))
