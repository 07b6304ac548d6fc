"""What a benchmark asks a model: pictures, captions, and questions that cosines answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip import metrics
from labclip.data.images import ImageSource
from labclip.evaluation.scores import Groups, Scores, everything

if TYPE_CHECKING:
    from labclip.model import LABCLIP

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """Unit-length text features, float32 [captions, dim]: the model's as it is asked about, and the base's own."""

    aligned: Tensor
    base: Tensor


class Question(Protocol):
    """Something that pictures and captions answer, item by item."""

    def score(self, images: Tensor, texts: Texts) -> list[Scores]:
        """Answer every item.

        Args:
            images: Unit-length, float32 [pictures, dim].
            texts: Of the captions.
        """


@dataclass(frozen=True)
class Choice:
    """Which of some captions says what a picture shows.

    Attributes:
        image: Each item's picture, int64 [n].
        options: Each item's captions, the right one first, int64 [n, k]; -1 stands for no option.
        metrics: For each metric the group of every item (see `Scores`).
        unit: What is resampled together, int64 [n]; by default the items of one picture.
        together: For each further metric a set of each item, int64 [n], -1 where it is in none: a set is right if all
            its items are.
    """

    image: Rows
    options: Rows
    metrics: Mapping[str, Groups]
    unit: Rows | None = None
    together: Mapping[str, Rows] = field(default_factory=dict)

    def score(self, images: Tensor, texts: Texts) -> list[Scores]:
        """One `Scores` of the items, and one for each metric of sets."""
        right = metrics.choices(images, texts.aligned, *map(torch.from_numpy, (self.image, self.options))).numpy()
        unit = self.image if self.unit is None else self.unit
        chance = float((1 / (self.options >= 0).sum(axis=1)).mean())
        found = [Scores(right, unit, self.metrics, chance)]
        for metric, sets in self.together.items():
            members = sets >= 0
            names, first, item = np.unique(sets[members], return_index=True, return_inverse=True)
            wrong = np.bincount(item, weights=~right[members])
            found.append(Scores(wrong == 0, unit[members][first], {metric: everything(len(names))}))
        return found


@dataclass(frozen=True)
class Retrieval:
    """Finding the picture of a caption, and a caption of a picture.

    Attributes:
        images: The gallery's pictures, int64 [n].
        texts: The captions, int64 [m].
        image_index: For each caption the place of its picture in `images`, int64 [m].
        prefix: Before the metrics' names.
        at: The k of recall@k.
    """

    images: Rows
    texts: Rows
    image_index: Rows
    prefix: str = ""
    at: tuple[int, ...] = (1, 5, 10)

    def score(self, images: Tensor, texts: Texts) -> list[Scores]:
        """`t2i_r1`, `i2t_r1` and so on."""
        by_text, by_image = metrics.ranks(
            images[torch.from_numpy(self.images)],
            texts.aligned[torch.from_numpy(self.texts)],
            torch.from_numpy(self.image_index),
        )
        own = np.bincount(self.image_index, minlength=len(self.images))
        asked = own > 0  # a picture of which nothing is said can be found, but finds nothing
        one = np.ones(len(self.texts), dtype=np.int64)
        sides = (
            ("t2i", by_text.numpy(), self.image_index, one, len(self.images)),
            ("i2t", by_image.numpy()[asked], np.flatnonzero(asked), own[asked], len(self.texts)),
        )
        return [
            Scores(rank < k, unit, {f"{self.prefix}{side}_r{k}": everything(len(rank))}, _chance(right, among, k))
            for side, rank, unit, right, among in sides
            for k in self.at
        ]


def _chance(right: Rows, among: int, k: int) -> float:
    """Mean probability that one of each item's `right` answers is among the first k of `among` in random order."""
    place = np.arange(min(k, among))
    return float((1 - np.prod(np.maximum(among - right[:, None] - place, 0) / (among - place), axis=1)).mean())


@dataclass(frozen=True)
class Pairs:
    """Winoground's form: two pictures and two captions, which goes with which.

    Attributes:
        images: int64 [n, 2].
        texts: int64 [n, 2].
    """

    images: Rows
    texts: Rows

    def score(self, images: Tensor, texts: Texts) -> list[Scores]:
        """`text`, `image` and `group`."""
        found = metrics.pairs(images, texts.aligned, *map(torch.from_numpy, (self.images, self.texts)))
        n = len(self.images)
        return [
            Scores(right.numpy(), np.arange(n), {name: everything(n)}, chance)
            for name, right, chance in zip(("text", "image", "group"), found, (1 / 4, 1 / 4, 1 / 6), strict=True)
        ]


@dataclass(frozen=True)
class TwoPositives:
    """SugarCrepe++'s form: two captions that say the same, and one that looks alike and does not.

    Attributes:
        image: int64 [n].
        texts: First caption, second caption, negative, int64 [n, 3].
        metrics: Groups of every item; `itt` and `tot` are put behind the names, or stand alone for the name "".
    """

    image: Rows
    texts: Rows
    metrics: Mapping[str, Groups]

    def score(self, images: Tensor, texts: Texts) -> list[Scores]:
        """`itt`: both positives beat the negative for the picture. `tot`: the positives are nearer to each other than
        either is to the negative, in the base's own text space.
        """  # noqa: D205
        image, rows = torch.from_numpy(self.image), torch.from_numpy(self.texts)
        itt = metrics.choices(images, texts.aligned, image, rows[:, [0, 2]])
        itt &= metrics.choices(images, texts.aligned, image, rows[:, [1, 2]])
        first, second, negative = (texts.base[rows[:, column]] for column in range(3))
        positive = (first * second).sum(-1)
        tot = (positive > (first * negative).sum(-1)) & (positive > (second * negative).sum(-1))
        return [
            Scores(right.numpy(), self.image, {_joined(name, kind): group for name, group in self.metrics.items()})
            for kind, right in (("itt", itt), ("tot", tot))
        ]


def _joined(name: str, kind: str) -> str:
    return f"{name}_{kind}" if name else kind


@dataclass(frozen=True)
class Classification:
    """Zero-shot classification: which class's prompts are nearest to a picture.

    Attributes:
        image: int64 [n].
        label: Class of each picture, int64 [n].
        prompts: Captions of each class, int64 [classes, templates].
        prefix: Before the metrics' names.
    """

    image: Rows
    label: Rows
    prompts: Rows
    prefix: str = ""

    def score(self, images: Tensor, texts: Texts) -> list[Scores]:
        """`acc1`, `mean_per_class` (the macro mean of it), and `acc5` where there are more than five classes."""
        classes = metrics.class_features(texts.aligned, torch.from_numpy(self.prompts))
        rank = metrics.class_ranks(images[torch.from_numpy(self.image)], classes, torch.from_numpy(self.label)).numpy()
        n, count = len(self.image), len(self.prompts)
        first = {f"{self.prefix}acc1": everything(n), f"{self.prefix}mean_per_class": self.label}
        found = [Scores(rank < 1, self.image, first, 1 / count)]
        if count > 5:
            found.append(Scores(rank < 5, self.image, {f"{self.prefix}acc5": everything(n)}, 5 / count))
        return found


@dataclass(frozen=True)
class Embedded:
    """Embeddings that the user made before, with what tells whether they are of a model.

    Attributes:
        images: Any scale, [pictures, dim].
        texts: The base's own, [captions, dim].
        check: Raises ValueError for a model that they are not of.
    """

    images: Tensor
    texts: Tensor
    check: Callable[[LABCLIP], object]


@dataclass(frozen=True)
class Task:
    """A benchmark read from its files.

    Attributes:
        pictures: Distinct pictures; a file's existence is checked when it is read.
        captions: Distinct captions.
        questions: What is asked about them.
        notes: What was left out, with counts, and which choices were made; they go into the report.
        embedded: Stands for pictures and captions that are embedded already.
    """

    pictures: Sequence[ImageSource]
    captions: Sequence[str]
    questions: Sequence[Question]
    notes: Sequence[str] = ()
    embedded: Embedded | None = None
