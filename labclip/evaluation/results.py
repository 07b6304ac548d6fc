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
        location: File name and position of the item; "" where its question keeps none, as retrieval and classification.
        metrics: The metrics that it counts in, for example ("swap_att", "swap", "macro", "micro"), or ("t2i_r1",).
        images: Names of its images; a search has its right image, or the image that is searched with.
        captions: Its captions, the right one first; a search has the caption that is searched with.
        right: For each model ("base", then the alignments) whether it was right.
        margin: For each model the cosine of the right answer minus that of the best wrong one; at most 0 is wrong, and
            in retrieval, classification and between two images up to 1e-6 is a tie, which is wrong too; nan where the
            question gives none. The base's are no cosines where its captions keep their own length
            (`Task.own_length`).
    """

    location: str
    metrics: tuple[str, ...]
    images: tuple[str, ...]
    captions: tuple[str, ...]
    right: Mapping[str, bool]
    margin: Mapping[str, float]


def answers(names: Names, models: Sequence[str], scores: Sequence[Sequence[ScoredItems]]) -> list[Answer]:
    """The items of a task by the names of its images and captions; `scores` has one for each set and each model."""
    image_name, caption = names
    items = []
    for by_model in scores:
        first, of = by_model[0], dict(zip(models, by_model, strict=True))
        if (asked := first.asked) is None:
            continue
        for row in range(len(first.correct)):
            margins = {
                model: math.nan if scored.margin is None else float(scored.margin[row]) for model, scored in of.items()
            }
            items.append(
                Answer(
                    location=asked.locations[row] if asked.locations else "",
                    metrics=tuple(metric for metric, group in first.metrics.items() if group[row] >= 0),
                    images=tuple(image_name(int(image)) for image in asked.images[row] if image >= 0),
                    captions=tuple(caption(int(text)) for text in asked.captions[row] if text >= 0),
                    right={model: bool(scored.correct[row] == 1) for model, scored in of.items()},
                    margin=margins,
                )
            )
    return items


def write_csv(answers: Mapping[str, Sequence[Answer]], models: Sequence[str], file: TextIO) -> None:
    """Write each benchmark's items: benchmark, metrics, location, images, captions, each model's answer and margin."""
    every = [(benchmark, answer) for benchmark, items in answers.items() for answer in items]
    images = max((len(answer.images) for _, answer in every), default=0)
    captions = max((len(answer.captions) for _, answer in every), default=0)
    heads = [what if number == 1 else f"{what}_{number}" for what, count in (("image", images), ("caption", captions))
             for number in range(1, count + 1)]  # fmt: skip
    judged = [f"{model} {what}" for model in models for what in ("right", "margin")]
    writer = csv.writer(file)
    writer.writerow(["benchmark", "metrics", "location", *heads, *judged])
    for benchmark, answer in every:
        shown = [
            *answer.images,
            *[""] * (images - len(answer.images)),
            *answer.captions,
            *[""] * (captions - len(answer.captions)),
        ]
        # All digits that a float32 has; none where there was no wrong answer to compare with.
        margins = {model: f"{margin:.9g}" if math.isfinite(margin) else "" for model, margin in answer.margin.items()}
        cells = [cell for model in models for cell in (int(answer.right[model]), margins[model])]
        writer.writerow([benchmark, " ".join(answer.metrics), answer.location, *shown, *cells])


@dataclass(frozen=True)
class Result:
    """The result of one benchmark: all models on the same items.

    Attributes:
        benchmark: What was asked.
        compared: Its metrics; estimates in the order of `Report.models`.
        notes: What was left out, which choices were made.
        images: Number of distinct images.
        captions: Number of distinct captions.
        data: Where its files are, as the user said; "" where it needs none.
        options: Its options, as the user said.
        answered: What makes its items, when they are asked for.
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
        """Every item with each model's answer; empty in a report that was read from a file."""
        return self.answered()

    def metric(self, name: str) -> Compared:
        """One metric by name.

        Raises:
            KeyError: If it has none of that name; those that it has are named.
        """
        by_name = {compared.metric: compared for compared in self.compared}
        if name not in by_name:
            raise KeyError(f"{self.benchmark.name} has no metric {name!r}; it has {', '.join(by_name)}.")
        return by_name[name]

    def to_json(self, models: Sequence[str]) -> dict[str, Any]:
        """Plain JSON values, by model and metric."""
        values: dict[str, Any] = {"models": {}, "intervals": {}, "differences": {}}
        for at, model in enumerate(models):
            estimates = {metric.metric: metric.estimates[at] for metric in self.compared}
            values["models"][model] = {metric: estimate.value for metric, estimate in estimates.items()}
            values["intervals"][model] = {
                metric: [estimate.low, estimate.high] for metric, estimate in estimates.items()
            }
            if at:
                values["differences"][model] = {
                    compared.metric: asdict(compared.differences[at - 1]) for compared in self.compared
                }
        return values | {
            "sides": {compared.metric: compared.side for compared in self.compared},
            "n": {compared.metric: compared.estimates[0].n for compared in self.compared},
            "chance": {compared.metric: compared.estimates[0].chance for compared in self.compared},
            "images": self.images,
            "captions": self.captions,
            "notes": list(self.notes),
            "data": self.data,
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, value: Any, benchmark: Benchmark, models: Sequence[str]) -> Result:
        """A result from what `to_json` made of it; KeyError if something is missing."""
        compared = []
        for metric, n in value["n"].items():
            estimates = []
            for model in models:
                low, high = value["intervals"][model][metric]
                estimates.append(Estimate(value["models"][model][metric], low, high, n, value["chance"][metric]))
            moved = [Difference(**value["differences"][model][metric]) for model in models[1:]]
            compared.append(Compared(metric, estimates, moved, value["sides"][metric]))
        rest = (value[name] for name in ("notes", "images", "captions", "data", "options"))
        return cls(benchmark, compared, *rest)
