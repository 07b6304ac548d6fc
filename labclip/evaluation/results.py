"""Results of an evaluation: every metric, and each model's answer to every item."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TextIO

from labclip.evaluation.scores import Compared, Difference, Estimate, ScoredItems
from labclip.evaluation.sources import Benchmark

Names = tuple[Callable[[int], str], Callable[[int], str]]


@dataclass(frozen=True)
class Answer:
    """An item of a benchmark, and how each model answered it.

    Attributes:
        location: File name and position of the item; "" for retrieval and classification.
        metrics: The metrics that it counts in, for example ("swap_att", "swap", "macro", "micro"), or ("t2i_r1",).
        images: Names of its images; in retrieval the right image, or the image that is the query.
        captions: Its captions, the right one first; in retrieval the caption that is the query.
        right: For each model ("base", then the alignments) whether it was right.
        margin: For each model the cosine of the right answer minus that of the best wrong one; nan if the question has
            none. At 0 or below the answer is wrong. In retrieval, in classification and between two images it is wrong
            up to 1e-6, a tie. Where the base's captions are not normalised (`Choice.unnormalized`), its margin is one
            of dot products.
    """

    location: str
    metrics: tuple[str, ...]
    images: tuple[str, ...]
    captions: tuple[str, ...]
    right: Mapping[str, bool]
    margin: Mapping[str, float]


def list_answers(names: Names, models: Sequence[str], scores: Sequence[Sequence[ScoredItems]]) -> list[Answer]:
    """The items of a task by the names of its images and captions; `scores` has one for each set and each model."""
    image_name, caption = names
    items = []
    for by_model in scores:
        first, rows = by_model[0], by_model[0].rows
        if rows is None:
            continue
        for item in range(len(first.correct)):
            right = [bool(scored.correct[item] == 1) for scored in by_model]
            margin = [math.nan if scored.margin is None else float(scored.margin[item]) for scored in by_model]
            items.append(
                Answer(
                    location=rows.locations[item] if rows.locations else "",
                    metrics=tuple(metric for metric, group in first.metrics.items() if group[item] >= 0),
                    images=tuple(image_name(int(image)) for image in rows.images[item] if image >= 0),
                    captions=tuple(caption(int(text)) for text in rows.captions[item] if text >= 0),
                    right=dict(zip(models, right, strict=True)),
                    margin=dict(zip(models, margin, strict=True)),
                )
            )
    return items


def write_csv(answers: Mapping[str, Sequence[Answer]], models: Sequence[str], file: TextIO) -> None:
    """Write a row for each item: benchmark, metrics, location, images, captions, each model's answer and margin."""
    rows = [(benchmark, answer) for benchmark, items in answers.items() for answer in items]
    image_count = max((len(answer.images) for _, answer in rows), default=0)
    caption_count = max((len(answer.captions) for _, answer in rows), default=0)

    def numbered(name: str, count: int) -> list[str]:
        return [name if number == 1 else f"{name}_{number}" for number in range(1, count + 1)]

    writer = csv.writer(file)
    writer.writerow([
        "benchmark", "metrics", "location", *numbered("image", image_count), *numbered("caption", caption_count),
        *(f"{model} {column}" for model in models for column in ("right", "margin")),
    ])  # fmt: skip
    for benchmark, answer in rows:
        images = [*answer.images, *[""] * (image_count - len(answer.images))]
        captions = [*answer.captions, *[""] * (caption_count - len(answer.captions))]
        judgements: list[Any] = []
        for model in models:
            margin = answer.margin[model]
            # All digits of a float32; empty if there was no wrong answer to compare with.
            judgements += [int(answer.right[model]), f"{margin:.9g}" if math.isfinite(margin) else ""]
        writer.writerow([benchmark, " ".join(answer.metrics), answer.location, *images, *captions, *judgements])


@dataclass(frozen=True)
class Result:
    """The result of one benchmark: all models on the same items.

    Attributes:
        benchmark: The benchmark.
        compared: Its metrics, each with estimates in the order of `Report.models`.
        notes: What was left out, and which choices were made.
        images: Number of distinct images.
        captions: Number of distinct captions.
        data: Path of its files as the user passed it; "" if it needs none.
        options: Its options as the user passed them.
        answered: Function that makes `items` when they are first read.
    """

    benchmark: Benchmark
    compared: Sequence[Compared]
    notes: Sequence[str]
    images: int
    captions: int
    data: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    answered: Callable[[], list[Answer]] = field(default=list, repr=False, compare=False)

    @cached_property
    def items(self) -> list[Answer]:
        """Every item with each model's answer; empty if the report was read from a file."""
        return self.answered()

    def metric(self, name: str) -> Compared:
        """One metric by name.

        Raises:
            KeyError: If there is no such metric; the message lists those that there are.
        """
        by_name = {compared.metric: compared for compared in self.compared}
        if name not in by_name:
            raise KeyError(f"{self.benchmark.name} has no metric {name!r}; it has {', '.join(by_name)}.")
        return by_name[name]

    def to_json(self, models: Sequence[str]) -> dict[str, Any]:
        """Plain JSON values, by model and metric."""
        metrics, indexed = self.compared, list(enumerate(models))
        return {
            "models": {model: {m.metric: m.estimates[index].value for m in metrics} for index, model in indexed},
            "intervals": {
                model: {m.metric: [m.estimates[index].low, m.estimates[index].high] for m in metrics}
                for index, model in indexed
            },
            "differences": {
                model: {m.metric: asdict(m.differences[index - 1]) for m in metrics} for index, model in indexed[1:]
            },
            "sides": {m.metric: m.side for m in metrics},
            "n": {m.metric: m.estimates[0].n for m in metrics},
            "chance": {m.metric: m.estimates[0].chance for m in metrics},
            "images": self.images,
            "captions": self.captions,
            "notes": list(self.notes),
            "data": self.data,
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, value: Any, benchmark: Benchmark, models: Sequence[str]) -> Result:
        """The result that `to_json` made these values of; KeyError if something is missing."""
        metrics = []
        for metric, n in value["n"].items():
            estimates = []
            for model in models:
                low, high = value["intervals"][model][metric]
                estimates.append(Estimate(value["models"][model][metric], low, high, n, value["chance"][metric]))
            differences = [Difference(**value["differences"][model][metric]) for model in models[1:]]
            metrics.append(Compared(metric, estimates, differences, value["sides"][metric]))
        further = (value[name] for name in ("notes", "images", "captions", "data", "options"))
        return cls(benchmark, metrics, *further)
