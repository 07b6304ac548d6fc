"""A benchmark as a task: images, captions, and questions that cosines answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip import metrics
from labclip.alignment import Alignment
from labclip.data.images import ImageSource
from labclip.evaluation.scores import BREAKDOWN, BY_INDEX, Asked, Groups, ScoredItems, connected, everything
from labclip.metrics import TIE, unit_length
from labclip.report.values import LOWER_IS_BETTER

Rows = NDArray[np.int64]

NONE = -1
"""Stands for no caption and for no group."""

TOP = 5
"""Results of a search that count."""

_COSINES = 4_000_000  # at a time


class Question(Protocol):
    """A question about images and captions. A question type of your own needs this one method."""

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """Answer every item.

        Args:
            images: Embeddings of the task's images, unit-length, float32 [images, dim].
            texts: Embeddings of the task's captions by the model that is asked, unit-length, float32 [captions, dim].
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
        together: For each further metric a set of each item, int64 [n], -1 where it is in none: a set is right if all
            its items are.
        locations: File and position of each item.
        breakdown: Further metrics, in a table of their own.
        right_first: Whether published code takes the first of equal captions and puts the right one first, so that ties
            count as right.
    """

    image: Rows
    options: Rows
    metrics: Mapping[str, Groups]
    unit: Rows | None = None
    together: Mapping[str, Rows] = field(default_factory=dict)
    locations: Sequence[str] = ()
    breakdown: Mapping[str, Groups] = field(default_factory=dict)
    right_first: bool = False

    def score(self, images: Tensor, texts: Tensor, *, by_index: bool = False) -> list[ScoredItems]:
        """One `ScoredItems` of the items, one of the breakdown, and one a metric of sets."""
        image, options = map(torch.from_numpy, (self.image, self.options))
        margins = metrics.choice_margins(images, texts, image, options, metrics.sum_of_images(images))
        margin, *controls = (values.numpy() for values in margins)
        right = margin >= 0 if by_index else margin > 0
        unit = first_equal(images)[self.image] if self.unit is None else self.unit
        chance = float((1 / (self.options >= 0).sum(axis=1)).mean())
        asked = Asked(self.image[:, None], self.options, self.locations)
        scores = [ScoredItems(right, unit, self.metrics, chance, margin, asked, controls=_controls(controls))]
        if self.breakdown:
            scores.append(ScoredItems(right, unit, self.breakdown, chance, side=BREAKDOWN))
        for metric, sets in self.together.items():
            members = sets >= 0
            names, item = np.unique(sets[members], return_inverse=True)
            whole = np.bincount(item, weights=~right[members]) == 0
            # Two sets with an image in common are one unit.
            of = np.empty(len(names), dtype=np.int64)
            of[item] = connected(np.stack([item, unit[members] + len(names)], axis=1))
            scores.append(ScoredItems(whole, of, {metric: everything(len(names))}))
        return scores


def first_equal(images: Tensor) -> Rows:
    """For each image the first with the same embedding: a copy of an image in another row or file is that image."""
    first: dict[int, int] = {}
    return np.array([first.setdefault(hash(row.tobytes()), at) for at, row in enumerate(images.numpy())])


def _controls(margins: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.bool_]]:
    """Whether items are right by the mean of the other images, and by the image less it; {} for a single image."""
    return {name: margin > 0 for name, margin in zip(("blind", "grounded"), margins, strict=False)}


@dataclass(frozen=True)
class Retrieval:
    """A question: retrieval of the image of a caption, and of a caption of an image.

    Attributes:
        images: The gallery's images, int64 [n].
        texts: The captions, int64 [m].
        image_index: For each caption the index of its image in `images`, int64 [m].
        prefix: Before the metrics' names.
    """

    images: Rows
    texts: Rows
    image_index: Rows
    prefix: str = ""

    def score(self, images: Tensor, texts: Tensor, *, by_index: bool = False) -> list[ScoredItems]:
        """`t2i_r1`, `i2t_r1` and so on."""
        n, m = len(self.images), len(self.texts)
        gallery, queries, index = map(torch.from_numpy, (self.images, self.texts, self.image_index))
        embedded = images[gallery], texts[queries], index
        text_rank, image_rank, text_margin, image_margin = metrics.ranks(*embedded, by_index=by_index)
        own = np.bincount(self.image_index, minlength=n)
        # An image without a caption can be found, but no search starts from it.
        starts = np.flatnonzero(own)
        by_text = Asked(self.images[self.image_index, None], self.texts[:, None])
        by_image = Asked(self.images[starts, None], np.empty((len(starts), 0), dtype=np.int64))
        of_text = {k: _chance(np.ones(m, dtype=np.int64), n, k) for k in (1, 5, 10)}
        of_image = {k: _chance(own[starts], m, k) for k in of_text}
        return [
            *at_each((text_rank, text_margin), self.image_index, by_text, f"{self.prefix}t2i_r", of_text),
            *at_each((image_rank[starts], image_margin[starts]), starts, by_image, f"{self.prefix}i2t_r", of_image),
        ]


def at_each(
    ranked: Sequence[Tensor], unit: Rows, asked: Asked, name: str, chances: Mapping[int, float], side: str = "retrieval"
) -> list[ScoredItems]:
    """Recall at each k of `chances`, from ranks and margins."""
    rank, margin = (values.numpy() for values in ranked)
    scores = [
        ScoredItems(rank < k, unit, {f"{name}{k}": everything(len(rank))}, chance, side=side)
        for k, chance in chances.items()
    ]
    scores[0] = replace(scores[0], margin=margin, asked=asked)
    return scores


def _chance(right: Rows, among: int, k: int) -> float:
    """Mean probability that one of each item's `right` answers is among the first k of `among` in random order."""
    drawn = np.arange(min(k, among))
    return float((1 - np.prod(np.maximum(among - right[:, None] - drawn, 0) / (among - drawn), axis=1)).mean())


@dataclass(frozen=True)
class Pairs:
    """A question: which of two images goes with which of two captions, as in Winoground.

    Attributes:
        images: int64 [n, 2].
        texts: int64 [n, 2].
        locations: File and position of each item.
        breakdown: Groups of items that have a table of their own: the group of every item, by what its metrics begin
            with.
    """

    images: Rows
    texts: Rows
    locations: Sequence[str] = ()
    breakdown: Mapping[str, Groups] = field(default_factory=dict)

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """`text`, `image` and `group`, and these of the breakdown."""
        rows = [torch.from_numpy(index) for index in (self.images, self.texts)]
        pairs = zip(metrics.pairs(images, texts, *rows), metrics.pair_margins(images, texts, *rows), strict=True)
        asked, unit = Asked(self.images, self.texts, self.locations), connected(first_equal(images)[self.images])
        scores, parts = [], []
        for name, chance, (right, margin) in zip(("text", "image", "group"), (1 / 4, 1 / 4, 1 / 6), pairs, strict=True):
            whole = {name: everything(len(unit))}
            scores.append(ScoredItems(right.numpy(), unit, whole, chance, margin.numpy(), asked))
            groups = {f"{group}_{name}": of for group, of in self.breakdown.items()}
            parts.append(ScoredItems(right.numpy(), unit, groups, chance, side=BREAKDOWN))
        return scores + (parts if self.breakdown else [])


@dataclass(frozen=True)
class TwoPositives:
    """A question: two captions that say the same against one that looks similar and does not, as in SugarCrepe++.

    Attributes:
        image: int64 [n].
        texts: First caption, second caption, negative, int64 [n, 3].
        metrics: Groups of every item; `itt` and `tot` are put behind the names, or stand alone for the name "".
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
        image, rows = torch.from_numpy(self.image), torch.from_numpy(self.texts)
        total = metrics.sum_of_images(images)
        both = (metrics.choice_margins(images, texts, image, rows[:, [positive, 2]], total) for positive in (0, 1))
        itt, *controls = (torch.minimum(*margins).numpy() for margins in zip(*both, strict=True))
        first, second, negative = (texts[rows[:, column]] for column in range(3))
        tot = (first * second).sum(-1) - torch.maximum((first * negative).sum(-1), (second * negative).sum(-1))
        asked = Asked(self.image[:, None], self.texts, self.locations)

        def scored(kind: str, margin: NDArray[np.float32], **further: Any) -> ScoredItems:
            named = {f"{name}_{kind}" if name else kind: group for name, group in self.metrics.items()}
            return ScoredItems(margin > 0, self.image, named, margin=margin, asked=asked, **further)

        return [scored("itt", itt, controls=_controls(controls)), scored("tot", tot.numpy())]


@dataclass(frozen=True)
class Classification:
    """A question: which class's prompts are nearest to an image (zero-shot classification).

    Attributes:
        image: int64 [n].
        label: Class of each image, int64 [n].
        prompts: Captions of each class, int64 [classes, templates]; -1 stands for none.
        prefix: Before the metrics' names.
    """

    image: Rows
    label: Rows
    prompts: Rows
    prefix: str = ""

    def score(self, images: Tensor, texts: Tensor, *, by_index: bool = False) -> list[ScoredItems]:
        """`acc1`, `mean_per_class` (the macro mean of it), and `acc5` where there are more than five classes."""
        rows, label, prompts = map(torch.from_numpy, (self.image, self.label, self.prompts))
        classes = metrics.class_features(texts, prompts)
        ranked = metrics.class_ranks(images[rows], classes, label, by_index=by_index)
        asked = Asked(self.image[:, None], self.prompts[self.label, :1])
        chances = {k: k / len(classes) for k in (1, 5) if k == 1 or len(classes) > k}
        first, *others = at_each(ranked, self.image, asked, f"{self.prefix}acc", chances, "classification")
        groups = {**first.metrics, f"{self.prefix}mean_per_class": self.label}
        return [replace(first, metrics=groups), *others]


@dataclass(frozen=True)
class Search:
    """A question: queries, the images that answer each, and those that show its words on other objects.

    Attributes:
        images: The gallery, int64 [n], rows of `Task.images`.
        queries: int64 [m], rows of `Task.captions`; each has an image that answers it.
        right: Whether an image answers a query, bool [m, n].
        confused: Whether an image has the words of a query on different objects, bool [m, n]; none that is right.
        groups: By what stands behind the metrics' names, the group of every query: {"": all} is one mean of all.
    """

    images: NDArray[np.int64]
    queries: NDArray[np.int64]
    right: NDArray[np.bool_]
    confused: NDArray[np.bool_]
    groups: Mapping[str, Groups]

    def score(self, images: Tensor, texts: Tensor) -> list[ScoredItems]:
        """`search_map`, the mean average precision; of the top five what is right and what is confused.

        `search_p5` is the fraction of the top five that is right, `search_confused5` the fraction that is confused.
        Nearer by less than `metrics.TIE` is a tie, and counts against the query: wrong images come first. As an item a
        query is right if all images that answer it come first; its margin is that of the first of them.
        """
        gallery = images[torch.from_numpy(self.images)]
        by_query: list[tuple[float, float, float, float]] = []
        step = max(1, _COSINES // len(gallery))
        for start in range(0, len(self.queries), step):
            for cosine in (texts[torch.from_numpy(self.queries[start : start + step])] @ gallery.T).numpy():
                by_query.append(_of_query(cosine, self.right[len(by_query)], self.confused[len(by_query)]))
        *columns, margin = (np.array(values) for values in zip(*by_query, strict=True))
        asked = Asked(np.empty((len(by_query), 0), dtype=np.int64), self.queries[:, None])
        return [
            ScoredItems(
                values,
                np.arange(len(values)),
                {f"search_{name}{ending}": group for ending, group in self.groups.items()},
                margin=margin.astype(np.float32) if name == "map" else None,
                asked=asked if name == "map" else None,
                lower_is_better=f"search_{name}".startswith(LOWER_IS_BETTER),
            )
            for name, values in zip(("map", f"p{TOP}", f"confused{TOP}"), columns, strict=True)
        ]


def _of_query(
    cosine: NDArray[np.float32], right: NDArray[np.bool_], confused: NDArray[np.bool_]
) -> tuple[float, float, float, float]:
    """Average precision, of the top five what is right and what is confused, and the margin; cosines [n] of a query."""
    own, wrong = np.sort(cosine[right])[::-1], np.sort(cosine[~right])
    ahead = len(wrong) - np.searchsorted(wrong, own - TIE)  # wrong images at least as near as each right one
    place = np.arange(1, len(own) + 1) + ahead
    fifth = np.sort(cosine)[::-1][:TOP][-1]  # of a tie at the last place any image may be shown
    return (
        float((np.arange(1, len(own) + 1) / place).mean()),
        float((place <= TOP).sum() / TOP),
        min(int((cosine[confused] >= fifth - TIE).sum()), TOP) / TOP,
        float(own[0] - wrong[-1]) if len(wrong) else np.nan,
    )


@dataclass(frozen=True)
class Embedded:
    """Embeddings that the user made before, of any scale; how rows are called; `check` raises for another model."""

    images: Tensor
    texts: Tensor
    image_names: Callable[[int], str]
    text_names: Callable[[int], str]
    check: Callable[[Any], object]


@dataclass(frozen=True)
class Task:
    """A benchmark read from its files; `Sources.task` makes one.

    Attributes:
        images: Distinct images; a file's existence is checked when it is read.
        captions: Distinct captions.
        questions: What is asked about them.
        notes: What was left out, with counts, and which choices were made; they go into the report.
        embedded: Stands for images and captions that are embedded already.
        own_length: For how many questions, from the first on, the base's captions keep the length that it gives them,
            as in some published code, so that a longer one wins more often. An alignment's never do.
    """

    images: Sequence[ImageSource]
    captions: Sequence[str]
    questions: Sequence[Question]
    notes: Sequence[str] = ()
    embedded: Embedded | None = None
    own_length: int = 0

    def names(self) -> tuple[Callable[[int], str], Callable[[int], str]]:
        """Functions from a row to the name of its image and to its caption, for reports."""
        if self.embedded is not None:
            return self.embedded.image_names, self.embedded.text_names
        return [image.name for image in self.images].__getitem__, list(self.captions).__getitem__

    def read_by(self, texts: Tensor, alignments: Sequence[Alignment]) -> Iterator[Tensor]:
        """The captions, [captions, dim], as the base and each alignment read them; `texts` are the base's own."""
        base = unit_length(texts, "Text features")
        yield base
        for alignment in alignments:
            yield unit_length(alignment(base), "Aligned text features")


def score(
    task: Task, images: Tensor, texts: Tensor, alignments: Sequence[Alignment], *, ties: str = "wrong"
) -> list[tuple[ScoredItems, ...]]:
    """For each set of items of a task the scores of the base, then of each alignment; `ties` as in `evaluate`.

    Features are [images, dim] and [captions, dim], of any scale, those of captions the base's own.
    """
    images = unit_length(images, "Image features")

    def answers(features: Tensor, own_length: int = 0) -> Iterator[ScoredItems]:
        asked = [
            (question, texts.float() if at < own_length else features) for at, question in enumerate(task.questions)
        ]
        for question, captions in asked:
            yield from question.score(images, captions)
        for question, captions in asked if ties == "index" else ():
            if isinstance(question, Retrieval | Classification) or (
                isinstance(question, Choice) and question.right_first
            ):
                for scored in question.score(images, captions, by_index=True):
                    named = {f"{name}_index": group for name, group in scored.metrics.items()}
                    yield replace(scored, metrics=named, side=BY_INDEX, margin=None, asked=None, controls={})

    read = task.read_by(texts, alignments)
    base = list(answers(next(read), task.own_length))
    return list(zip(base, *map(list, map(answers, read)), strict=True))
