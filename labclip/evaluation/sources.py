"""`Benchmark`, the `Sources` that its reader gets, and the `Items` that it fills."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.checks import check_choice
from labclip.data.images import Box, ImageSource
from labclip.evaluation.questions import NONE, Choice, Question, Retrieval, Rows, TwoPositives
from labclip.evaluation.scores import one_group
from labclip.evaluation.tasks import Task
from labclip.features.features import Features

LENGTHS = (
    "In half-truths the wrong text is the longer one, in whole truths the right one. Their _blind columns show what "
    "text alone decides, which includes its length: a model that prefers short texts gains in half-truths and loses in "
    "whole truths. Read them together."
)
"""A note for benchmarks that have both half-truths and whole truths."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark. `BENCHMARKS` holds those of labclip; make an instance of this class for your own.

    Attributes:
        name: The name that `evaluate` and the command line take.
        title: Title in tables.
        measures: "binding", "retrieval" or "classification": the table that shows its metrics. Metrics of `Retrieval`
            and `Classification` always have the table of their own kind.
        read: Function that takes the `Sources` and returns the `Task`. Its further parameters are the benchmark's
            options. The first paragraph of its docstring names the metrics.
        wants: The files it needs, in words: which to pass as `data`, which as `images`.
        source: Where to download the files.
        licence: Licence of the files.
        paper: The paper that defines the benchmark.
        headline: Metrics that represent the benchmark in short tables; empty for all.

    Raises:
        ValueError: If `measures` is none of the three.

    Example:
        >>> import labclip
        >>> from labclip.evaluation import Benchmark, Items, Sources, Task
        >>> def read(sources: Sources, *, n: int = 50) -> Task:
        ...     scenes, items = labclip.scenes.sample(n, seed=7), Items(sources)
        ...     for image, *captions in zip(scenes.images, scenes.captions, scenes.swapped_captions):
        ...         items.add(sources.image_in_memory(image, captions[0]), captions, captions[0])
        ...     return sources.task(*items.question("colours"))
        >>> mine = Benchmark("mine", "My scenes", "binding", read)
        >>> report = labclip.evaluate("scenes", mine, options={"n": 40}, cache=None, progress=False)
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
        check_choice(f"measures of {self.name}", self.measures, ("binding", "retrieval", "classification"))

    @property
    def options(self) -> dict[str, Any]:
        """The reader's options with their defaults."""
        _, *options = inspect.signature(self.read).parameters.values()
        return {option.name: option.default for option in options if option.default is not inspect.Parameter.empty}


@dataclass
class Sources:
    """What a benchmark's reader gets: where the files are. It also collects the images and captions that are read.

    Each distinct image and each distinct caption is kept once; its *row* is its index in the list.

    Args:
        data: File or folder of the questions; None for a benchmark that needs none.
        images: Folder that image paths are relative to; None is the folder of `data`.
        on_missing: "raise", or "skip" to leave out missing images, with a note.
        hint: What the benchmark needs and where to get it; it ends error messages.
        features: Embeddings, if the user passed them instead of a path.
        image_sources: Distinct images so far.
        captions: Distinct captions so far.
        missing: Paths of missing images so far.
        notes: Notes on the data for the report.
        repeated: Number of items so far whose right caption is also among the wrong ones.
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
        self._file_names: dict[Path, frozenset[str]] = {}
        self._found_patterns: dict[tuple[str, ...], tuple[str, ...]] = {}
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

    def find_file(self, *names: str, or_data: bool = True) -> Path:
        """The first of these files that the data folder has; with `or_data`, `data` itself if it is a file."""
        if or_data and self.data is not None and self.data.is_file():
            return self.data
        for name in names:
            if (path := self.folder / name).is_file():
                return path
        raise FileNotFoundError(f"{self.folder} has no {' and no '.join(names)}. {self.hint}")

    def image(
        self, name: Any, location: str, patterns: Sequence[str] = ("{path}",), *, box: Box | None = None
    ) -> int | None:
        """The row of an image that the questions name, or None if its file is missing.

        `patterns` are paths in the folder of images under which people keep such an image, the likeliest first:
        `{path}` is its name, `{name}` the name without folders, `{rest}` the name without its first folder. The pattern
        that finds the first image is used for all later ones. `box` is as in `ImageSource`. ValueError if the name is
        not a path inside the folder of images.
        """
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"{location}: the image's name is {name!r}. Every item must name its image.")
        folder, patterns = self.images or self.folder, tuple(patterns)
        parts = {"path": name, "name": PurePosixPath(name).name, "rest": name.partition("/")[2] or name}
        tried = self._found_patterns.get(patterns, patterns)
        files = [pattern.format(**parts) for pattern in tried]
        if any(leads_out(folder.absolute(), file) for file in {name, *files}):
            raise ValueError(
                f"{location}: the image's name {name!r} leads out of {folder}. "
                f"Pass images=DIR with the folder that all images are in."
            )
        found = next((index for index, file in enumerate(files) if self._exists(folder / file)), None)
        if found is not None:
            self._found_patterns[patterns] = (tried[found],)
        path = folder / files[found or 0]
        return self.add(ImageSource(str(path), path, box=box))

    def image_in_memory(self, data: bytes | NDArray[np.uint8], name: str) -> int:
        """The row of an image that is the bytes of a file, or pixels, uint8 [height, width, 3]."""
        row = self.add(ImageSource(name, data=data))
        assert row is not None
        return row

    def add(self, source: ImageSource) -> int | None:
        """The row of any image, or None if it is a file that is missing."""
        if source.key not in self._image_rows:
            # Images inside a tar or a Parquet file have been seen there.
            if source.file is None or source.start is not None or self._exists(source.file):
                self._image_rows[source.key] = len(self.image_sources)
                self.image_sources.append(source)
            else:
                self._image_rows[source.key] = None
                self.missing.append(source.file)
        return self._image_rows[source.key]

    def _exists(self, path: Path) -> bool:
        # Each folder is listed once: asking for each of a hundred thousand files takes minutes on a file server.
        if path.parent not in self._file_names:
            self._file_names[path.parent] = frozenset(os.listdir(path.parent) if path.parent.is_dir() else ())
        return path.name in self._file_names[path.parent]

    def caption(self, caption: Any, location: str) -> int:
        """The row of a caption; ValueError if it is empty or not a string."""
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{location}: the caption is {caption!r}. Every caption must be a text that is not empty.")
        if caption not in self._caption_rows:
            self._caption_rows[caption] = len(self.captions)
            self.captions.append(caption)
        return self._caption_rows[caption]

    def settle(self) -> None:
        """Note the missing images; FileNotFoundError if `on_missing` is "raise", or if all are missing."""
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
            reason = "has no item"
            if self.image_sources:
                reason = "asks nothing: no item has a negative, and retrieval needs at least two images"
            raise ValueError(f"{self.data or 'The benchmark'} {reason}. {self.hint}")
        if self.repeated:
            self.notes.append(f"{self.repeated:,} items have the right caption among the wrong ones: a tie, so wrong.")
        return Task(self.image_sources, self.captions, questions, self.notes)


@dataclass
class Items:
    """A list of items to fill: images, each with captions to choose from, the true ones first.

    Attributes:
        sources: The `Sources` that keeps the images and captions.
        true: How many captions of each item are true; they come first.
        image: Row of each item's image, or a list of rows.
        options: Rows of each item's captions.
        locations: File and position of each item.
        groups: For each item the metrics it counts in, and its group in each. A metric is the mean over groups of the
            mean in each group.
    """

    sources: Sources
    true: int = 1
    image: list[Any] = field(default_factory=list)
    options: list[list[int]] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    groups: list[Mapping[str, Hashable]] = field(default_factory=list)

    def add(self, row: Any, captions: Sequence[Any], location: str, /, **groups: Hashable) -> None:
        """Append an item, unless its image is missing.

        If the right caption is also among the wrong ones, the item is a tie, which is wrong. The task's notes count
        such items.

        Args:
            row: Row of the image as `Sources.image` returns it, None if the file is missing; or a list of rows.
            captions: The true captions, then the wrong ones; with several images, the caption of each.
            location: File and position, for messages and for the report.
            groups: The item's group in each metric that it counts in, for example swap_att=0, macro="swap_att". The
                key `meaning` is no metric: true captions with the same value mean the same.

        Raises:
            ValueError: If a caption is empty or not a string.
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
        """The number of each item's group in a metric, int64 [n]; `NONE` outside it, and in groups of fewer items."""
        group = group_numbers([groups.get(metric) for groups in self.groups])
        size = np.bincount(group[group >= 0], minlength=1)
        return np.where(size[group] >= least, group, NONE)

    def metrics(self, *first: str) -> dict[str, Rows]:
        """The group of every item in every metric: the metrics named `first` in this order, then the others by name."""
        names = {name for groups in self.groups for name in groups}
        ordered = [*(name for name in first if name in names), *sorted(names - {*first})]
        return {name: self.group(name) for name in ordered}

    def question(self, metrics: str | Mapping[str, Rows], **further: Any) -> list[Question]:
        """The question which captions are true, in a list, which is empty if there is no item.

        Args:
            metrics: The name of the one metric, the mean over all items; or for each metric the group of every item.
            further: Further arguments of `Choice`, or of `TwoPositives` if two captions are true.
        """
        if not self.image:
            return []
        groups = {metrics: one_group(len(self))} if isinstance(metrics, str) else metrics
        width = max(map(len, self.options))
        options = np.array([[*row, *[NONE] * (width - len(row))] for row in self.options], dtype=np.int64)
        kind = TwoPositives if self.true == 2 else Choice
        return [kind(np.array(self.image, dtype=np.int64), options, groups, locations=self.locations, **further)]

    def pairs(self) -> Items:
        """New items, one for each wrong caption: the true caption and this one."""
        pairs = Items(self.sources)
        for image, (true, *negatives), location in zip(self.image, self.options, self.locations, strict=True):
            pairs.image += [image] * len(negatives)
            pairs.options += [[true, negative] for negative in negatives]
            pairs.locations += [location] * len(negatives)
        return pairs

    def gallery(self, prefix: str = "") -> list[Retrieval]:
        """Retrieval among the images and their true captions, in a list, which is empty for fewer than two images.

        The gallery has one image per distinct caption, so that a search has one right answer: an image is left out if
        one of its captions means the same as a caption of an image that is kept.
        """
        captions_of: dict[int, dict[int, Hashable]] = {}  # of each image its captions, each with its meaning
        for image, options, groups in zip(self.image, self.options, self.groups, strict=True):
            rows = image if isinstance(image, list) else [image] * self.true
            for row, caption in zip(rows, options, strict=isinstance(image, list)):  # without the wrong captions
                captions_of.setdefault(row, {})[caption] = groups.get("meaning", caption)
        gallery: list[int] = []
        meanings: set[Hashable] = set()
        for row, captions in captions_of.items():
            if meanings.isdisjoint(captions.values()):
                meanings.update(captions.values())
                gallery.append(row)
        if len(gallery) < len(captions_of):
            name = f"Retrieval ({prefix.rstrip('_')})" if prefix else "Retrieval"
            count = f"{len(gallery):,} of {len(captions_of):,} images"
            self.sources.notes.append(f"{name}: {count}, one for each distinct caption.")
        if len(gallery) < 2:
            return []
        texts = [caption for row in gallery for caption in captions_of[row]]
        image_index = [index for index, row in enumerate(gallery) for _ in captions_of[row]]
        return [Retrieval(np.array(gallery), np.array(texts), np.array(image_index), prefix)]


def leads_out(folder: PurePath, name: str) -> bool:
    """Whether a name that somebody else wrote into a file would open something outside an absolute folder."""
    return ".." in type(folder)(name).parts or folder not in (folder / name).parents


def group_numbers(groups: Sequence[Hashable]) -> Rows:
    """A number for each distinct group, in the order of appearance; `NONE` for None. int64 [n]."""
    numbers: dict[Hashable, int] = {}
    rows = [NONE if group is None else numbers.setdefault(group, len(numbers)) for group in groups]
    return np.array(rows, dtype=np.int64)
