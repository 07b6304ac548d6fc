"""`Benchmark`, the `Sources` that its reader gets, and the `Items` that it fills."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from labclip.data.located import DataFiles
from labclip.evaluation.scores import everything
from labclip.evaluation.tasks import NONE, Choice, Question, Retrieval, Rows, Task
from labclip.features.features import Features

MEASURES = ("binding", "retrieval", "classification")
"""Allowed values of `Benchmark.measures`."""

LENGTHS = (
    "In half-truths the wrong text is the longer one, in whole truths the right one. Their _blind columns say what the "
    "texts alone decide, so also what length does: a model that prefers short texts gains in half-truths and loses in "
    "whole truths. Read them together."
)
"""A note of benchmarks that have both."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: those of labclip are in `BENCHMARKS`; make one of this class for your own.

    Attributes:
        name: As `evaluate` and the command line call it.
        title: Title for tables.
        measures: "binding", "retrieval" or "classification": which side of the trade its metrics are on. Of
            `Retrieval` and `Classification` the question itself says it.
        read: Takes the `Sources` and gives the `Task`; its further parameters are the benchmark's options, and the
            first paragraph of its docstring says which metrics there are.
        wants: The files, in words: which as `data`, and which as `images`.
        source: Where to download them.
        licence: Their licence.
        paper: The paper that defines it.
        headline: The metrics for a short table; by default all.

    Raises:
        ValueError: If `measures` is none of the three.

    Example:
        >>> from labclip.evaluation import Benchmark, Items, Sources, Task, evaluate
        >>> from labclip.scenes import sample
        >>> def read(sources: Sources, *, n: int = 50) -> Task:
        ...     scenes, items = sample(n, seed=7), Items(sources)
        ...     for number in range(n):
        ...         image = sources.image_in_memory(scenes.images[number], f"scene {number}")
        ...         captions = scenes.captions[number], scenes.swapped_captions[number]
        ...         items.add(image, captions, f"scene {number}")
        ...     return sources.task(*items.question("colours"))
        >>> mine = Benchmark("mine", "My scenes", "binding", read)
        >>> report = evaluate("scenes", mine, options={"n": 40}, cache=None, progress=False)
        >>> report["mine"].metric("colours").estimates[0].n
        40
    """

    name: str
    title: str
    measures: str
    read: Callable[..., Task]
    wants: str = "what its reader says"
    source: str = "your own"
    licence: str = "yours"
    paper: str = ""
    headline: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.measures not in MEASURES:
            raise ValueError(f"measures of {self.name} is {self.measures!r}. Pass one of {', '.join(MEASURES)}.")

    @property
    def options(self) -> dict[str, Any]:
        """The reader's options with their defaults."""
        _, *options = inspect.signature(self.read).parameters.values()
        return {option.name: option.default for option in options if option.default is not inspect.Parameter.empty}


@dataclass
class Sources(DataFiles):
    """The argument of a benchmark's reader: its files, and the images and captions that it collects.

    Args:
        features: Embeddings that stand for the data, where the user passed them instead of a path.
        repeated: Items so far with a wrong caption that is the right one.
    """

    features: Features | None = None
    repeated: int = 0

    def task(self, *questions: Question) -> Task:
        """The task, once everything is read.

        Raises:
            FileNotFoundError: If images are missing and `on_missing` is "raise".
            ValueError: If there is no item.
        """
        self.settle()
        if not self.image_sources or not questions:
            lacks = "has no item"
            if self.image_sources:
                lacks = "asks nothing: no item has a negative, and retrieval needs at least two images"
            raise ValueError(f"{self.data or 'The benchmark'} {lacks}. {self.hint}")
        if self.repeated:
            self.notes.append(f"{self.repeated:,} items have the right caption among the wrong ones: a tie, so wrong.")
        return Task(self.image_sources, self.captions, questions, self.notes)


@dataclass
class Items:
    """A list of items to fill: images with the captions to choose from, the true ones first.

    Attributes:
        sources: Where images and captions are kept.
        true: How many of an item's captions, from the first on, are true.
        image: Image of each item, or of each its images.
        options: Captions of each item.
        locations: File and position of each item.
        groups: The metrics that each item counts in, with its group in each: a metric is the mean over groups of the
            mean in each group.
    """

    sources: Sources
    true: int = 1
    image: list[Any] = field(default_factory=list)
    options: list[list[int]] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    groups: list[Mapping[str, Hashable]] = field(default_factory=list)

    def add(self, row: Any, captions: Sequence[Any], location: str, /, **groups: Hashable) -> None:
        """Append an item; one whose image is missing is left out.

        Where a wrong caption is the true one, the item is a tie, which is wrong; the task's notes count such items.

        Args:
            row: The image's, as `Sources.image` gives it: None where the file is missing; or a list of rows.
            captions: The true ones, then the wrong ones; of several images that of each.
            location: File and position, for messages and for the report.
            groups: The item's group in each metric that it counts in, for example swap_att=0, macro="swap_att"; and
                `meaning`, which true captions that say the same have in common.

        Raises:
            ValueError: If a caption is no text.
        """
        if row is None:
            return
        options = [self.sources.caption(caption, location) for caption in captions]
        self.sources.repeated += not set(options[: self.true]).isdisjoint(options[self.true :])
        self.image.append(row)
        self.options.append(options)
        self.locations.append(location)
        self.groups.append(groups)

    def __len__(self) -> int:
        return len(self.image)

    def group(self, metric: str, least: int = 1) -> Rows:
        """Number of each item's group in a metric, int64 [n]; `NONE` outside, and in groups of fewer items."""
        group = numbered([groups.get(metric) for groups in self.groups])
        size = np.bincount(group[group >= 0], minlength=1)
        return np.where(size[group] >= least, group, NONE)

    def metrics(self, *first: str) -> dict[str, Rows]:
        """The group of every item in every metric: first some in this order, then the others by name."""
        names = {name for groups in self.groups for name in groups}
        return {
            name: self.group(name) for name in (*(name for name in first if name in names), *sorted(names - {*first}))
        }

    def question(self, metrics: str | Mapping[str, Rows], **further: Any) -> list[Choice]:
        """Ask which caption is true; an empty list if there is no item.

        Args:
            metrics: The name of the one metric, the mean over all items; or for each metric the group of every item.
            further: Further arguments of `Choice`.
        """
        if not self.image:
            return []
        groups = {metrics: everything(len(self))} if isinstance(metrics, str) else metrics
        width = max(map(len, self.options))
        options = np.array([[*row, *[NONE] * (width - len(row))] for row in self.options], dtype=np.int64)
        return [Choice(np.array(self.image, dtype=np.int64), options, groups, locations=self.locations, **further)]

    def pairs(self) -> Items:
        """Split into one item for each wrong caption."""
        items = [
            (image, [true, negative], location)
            for image, (true, *wrong), location in zip(self.image, self.options, self.locations, strict=True)
            for negative in wrong
        ]
        image, options, locations = map(list, zip(*items, strict=True)) if items else ([], [], [])
        return Items(self.sources, 1, image, options, locations)

    def gallery(self, prefix: str = "") -> list[Retrieval]:
        """Retrieval over the images with their true captions; none where there are fewer than two images.

        The gallery keeps one image per distinct caption: else a search would have two right answers, of which one
        counts as wrong. An image that shares the meaning of any caption with one kept before is left out.
        """
        captions_of: dict[int, dict[int, Hashable]] = {}
        for image, options, groups in zip(self.image, self.options, self.groups, strict=True):
            several = isinstance(image, list)
            for row, caption in zip(image, options, strict=True) if several else product([image], options[: self.true]):
                captions_of.setdefault(row, {})[caption] = groups.get("meaning", caption)
        kept: list[int] = []
        taken: set[Hashable] = set()
        for row, captions in captions_of.items():
            if taken.isdisjoint(captions.values()):
                taken.update(captions.values())
                kept.append(row)
        if len(kept) < len(captions_of):
            what = f"Retrieval ({prefix.rstrip('_')})" if prefix else "Retrieval"
            self.sources.notes.append(
                f"{what}: {len(kept):,} of {len(captions_of):,} images, one for each distinct caption."
            )
        if len(kept) < 2:
            return []
        texts, index = zip(*((caption, at) for at, row in enumerate(kept) for caption in captions_of[row]), strict=True)
        return [Retrieval(np.array(kept), np.array(texts), np.array(index), prefix)]


def numbered(groups: Sequence[Hashable]) -> Rows:
    """A number for each distinct value, in the order of appearance; None is `NONE`."""
    numbers: dict[Hashable, int] = {}
    rows = [NONE if group is None else numbers.setdefault(group, len(numbers)) for group in groups]
    return np.array(rows, dtype=np.int64)
