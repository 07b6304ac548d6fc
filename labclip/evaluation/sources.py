"""`Benchmark`, the `Sources` that its reader gets, and the `Items` that it fills."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.data.images import Box, ImageSource
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
class Sources:
    """The argument of a benchmark's reader: where its files are, and the images and captions that it collects.

    Args:
        data: File or folder of the questions; None for a data set that needs none.
        images: Folder that paths of images are relative to; None is the folder of `data`.
        on_missing: "raise", or "skip" to leave out images that are not there, with a note.
        hint: What the data set needs and where people get it, for messages.
        features: Embeddings that stand for the data, where the user passed them instead of a path.
        image_sources: Distinct images so far.
        captions: Distinct captions so far.
        missing: Images so far that are not there.
        notes: What a report says of the data.
        repeated: Items so far with a wrong caption that is the right one.
    """

    data: Path | None
    images: Path | None = None
    on_missing: str = "raise"
    hint: str = ""
    features: Features | None = None
    image_sources: list[ImageSource] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repeated: int = 0

    def __post_init__(self) -> None:
        self._image_rows: dict[bytes, int | None] = {}
        self._caption_rows: dict[str, int] = {}
        self._names: dict[Path, frozenset[str]] = {}
        self._ways: dict[tuple[str, ...], str] = {}
        if self.data is not None and not self.data.exists():
            raise FileNotFoundError(f"There is no {self.data}. {self.hint}")
        if self.images is not None and not self.images.is_dir():
            raise FileNotFoundError(f"There is no folder of images {self.images}. {self.hint}")

    @cached_property
    def folder(self) -> Path:
        """The folder of the questions; FileNotFoundError if no data was given."""
        if self.data is None:
            raise FileNotFoundError(f"No data was given. Pass data=PATH. {self.hint}")
        return self.data if self.data.is_dir() else self.data.parent

    def either(self, *names: str, alone: bool = True) -> Path:
        """The first of several files of the data folder that is there, or the one file that `data` is, if `alone`."""
        if alone and self.data is not None and self.data.is_file():
            return self.data
        for name in names:
            if (path := self.folder / name).is_file():
                return path
        raise FileNotFoundError(f"{self.folder} has no {' and no '.join(names)}. {self.hint}")

    def image(
        self, name: Any, location: str, ways: Sequence[str] = ("{path}",), *, box: Box | None = None
    ) -> int | None:
        """The row of an image, or None where its file is missing; see `ImageSource` for its box.

        `ways` are how people's folders have the images: from the name in the file to the path. `{path}` is the name
        itself, `{name}` the name without its folders, `{rest}` without the first of them. The first way that finds an
        image is taken for all that follow. ValueError if the name is no path inside the folder of images.
        """
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"{location}: the image's name is {name!r}. Every item must name its image.")
        folder, path, ways = self.images or self.folder, PurePosixPath(name), tuple(ways)
        words = {"path": name, "name": path.name, "rest": name.partition("/")[2] or name}
        names = [way.format(**words) for way in ([self._ways[ways]] if ways in self._ways else ways)]
        if any(leads_out(folder.absolute(), file) for file in (name, *names)):
            raise ValueError(
                f"{location}: the image's name {name!r} leads out of {folder}. "
                f"Pass images=DIR with the folder that all images are in."
            )
        if ways not in self._ways:
            for way, file in zip(ways, names, strict=True):
                if self._exists(folder / file):
                    self._ways[ways] = way
                    return self.file(folder / file, box)
        return self.file(folder / names[0], box)

    def file(self, path: Path, box: Box | None = None) -> int | None:
        """The row of a file's image, or None where there is no such file."""
        source = ImageSource(str(path), path, box=box)
        if source.key not in self._image_rows and not self._exists(path):
            self._image_rows[source.key] = None
            self.missing.append(path)
        return self.add(source)

    def image_in_memory(self, data: bytes | NDArray[np.uint8], name: str) -> int:
        """The row of an image that is a file's bytes, or pixels, uint8 [height, width, 3]; by its content."""
        row = self.add(ImageSource(name, data=data))
        assert row is not None
        return row

    def add(self, source: ImageSource) -> int | None:
        """The row of an image; None of a file that was found missing."""
        if source.key not in self._image_rows:
            self._image_rows[source.key] = len(self.image_sources)
            self.image_sources.append(source)
        return self._image_rows[source.key]

    def _exists(self, path: Path) -> bool:
        # A folder is listed once: a look at each of a hundred thousand files takes minutes on a file server.
        if path.parent not in self._names:
            self._names[path.parent] = frozenset(os.listdir(path.parent) if path.parent.is_dir() else ())
        return path.name in self._names[path.parent]

    def caption(self, caption: Any, location: str) -> int:
        """The row of a caption; ValueError if it is no text, or empty."""
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{location}: the caption is {caption!r}. Every caption must be a text that is not empty.")
        if caption not in self._caption_rows:
            self._caption_rows[caption] = len(self.captions)
            self.captions.append(caption)
        return self._caption_rows[caption]

    def settle(self) -> None:
        """Note missing images, once all is read; FileNotFoundError if `on_missing` is "raise", or none is there."""
        if not self.missing:
            return
        count = len(self.image_sources)
        examples = ", ".join(map(str, self.missing[:3]))
        summary = f"{len(self.missing):,} of {len(self.missing) + count:,} images are missing, for example {examples}"
        if self.on_missing == "raise" or not count:
            skip = ', or on_missing="skip" to leave their items out' if count else ""
            raise FileNotFoundError(f"{summary}. Pass images=DIR with the folder that they are in{skip}. {self.hint}")
        self.notes.insert(0, f"{summary}; their items are left out.")

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


def leads_out(folder: PurePath, name: str) -> bool:
    """Whether a name in a file that somebody else wrote would open what lies outside an absolute folder."""
    return ".." in type(folder)(name).parts or folder not in (folder / name).parents


def numbered(groups: Sequence[Hashable]) -> Rows:
    """A number for each distinct value, in the order of appearance; None is `NONE`."""
    numbers: dict[Hashable, int] = {}
    rows = [NONE if group is None else numbers.setdefault(group, len(numbers)) for group in groups]
    return np.array(rows, dtype=np.int64)
