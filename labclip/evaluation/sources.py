"""`Benchmark` and `Sources`: what a benchmark is, and what its reader gets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labclip.data.located import DataFiles
from labclip.evaluation.tasks import Question, Task
from labclip.features.features import Features

MEASURES = ("binding", "retrieval", "classification")
"""What `Benchmark.measures` may be."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: ours are in `BENCHMARKS`, and one of your own is a value of this class.

    Attributes:
        name: As `evaluate` and the command line call it.
        title: For tables.
        measures: "binding", "retrieval" or "classification": which side of the trade its metrics are on. Of
            `Retrieval` and `Classification` the question itself says it.
        read: Takes the `Sources` and gives the `Task`; its further parameters are the benchmark's options, and the
            first paragraph of its docstring says which metrics there are.
        wants: The files, in words: which as `data`, and which as `images`.
        source: Where people get them.
        licence: Under which terms.
        paper: Where it is defined.
        headline: The metrics that stand for it in a short table; all of them where it names none.

    Raises:
        ValueError: If `measures` is none of the three.

    Example:
        >>> from labclip.evaluation import Benchmark, Items, Sources, Task, evaluate
        >>> from labclip.scenes import sample
        >>> def read(sources: Sources, *, n: int = 50) -> Task:
        ...     scenes, items = sample(n, seed=7), Items(sources)
        ...     for number in range(n):
        ...         image = sources.image_in_memory(scenes.images[number], f"scene {number}")
        ...         items.add(image, (scenes.captions[number], scenes.swapped_captions[number]), f"scene {number}")
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
        return {one.name: one.default for one in options if one.default is not inspect.Parameter.empty}


@dataclass
class Sources(DataFiles):
    """What a benchmark's reader gets: its files, and the collection of images and captions that it asks about.

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
