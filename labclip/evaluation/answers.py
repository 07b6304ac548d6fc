"""What each model answered to each item, as values that are made only where they are looked at, and as a csv file."""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TextIO, overload

from labclip.evaluation.scores import ScoredItems
from labclip.evaluation.tasks import Task


@dataclass(frozen=True)
class Answer:
    """One item and how each model did on it.

    Attributes:
        location: File name and position of the item; "" where its question keeps none, as retrieval and classification.
        metrics: The metrics that it counts in, for example ("swap_att", "swap", "macro", "micro"), or ("t2i_r1",).
        images: Names of its images. Of a search for a caption the right one; of a search for an image that one.
        captions: Its captions, the right one first. Of a search for a caption that one.
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


class AnsweredItems(Sequence[Answer]):
    """All items of a benchmark; arrays inside, an `Answer` where one is asked for.

    Of `scores` there is one for each set of items and each model.
    """

    def __init__(self, task: Task, models: Sequence[str], scores: Sequence[Sequence[ScoredItems]]) -> None:
        # Names alone: the task holds images, whose pixels must not live as long as a report does.
        self._image_name, self._caption = task.names()
        self._models = models
        listed = [by_model for by_model in scores if by_model[0].asked is not None]
        self._scores = [[replace(items, by_index=None) for items in by_model] for by_model in listed]
        self._ends = list(accumulate(len(by_model[0].correct) for by_model in self._scores))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        return f"AnsweredItems({len(self):,} items, models {', '.join(self._models)})"

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> list[Answer]: ...
    def __getitem__(self, index: int | slice) -> Answer | list[Answer]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"Item {index} of {len(self):,}.")
        part = bisect_right(self._ends, row)
        return self._answer(self._scores[part], row - (self._ends[part - 1] if part else 0))

    def _answer(self, scores: Sequence[ScoredItems], row: int) -> Answer:
        asked, by_model = scores[0].asked, dict(zip(self._models, scores, strict=True))
        assert asked is not None  # others were left out
        return Answer(
            location=asked.locations[row] if asked.locations else "",
            metrics=tuple(metric for metric, group in scores[0].metrics.items() if group[row] >= 0),
            images=tuple(self._image_name(int(image)) for image in asked.images[row] if image >= 0),
            captions=tuple(self._caption(int(caption)) for caption in asked.captions[row] if caption >= 0),
            right={model: bool(items.correct[row] == 1) for model, items in by_model.items()},
            margin={
                model: math.nan if items.margin is None else float(items.margin[row])
                for model, items in by_model.items()
            },
        )


def write_csv(answers: Mapping[str, Sequence[Answer]], models: Sequence[str], file: TextIO) -> None:
    """Write each benchmark's items: benchmark, metrics, location, images, captions, each model's answer and margin."""
    width = {
        what: max((len(getattr(answer, what)) for items in answers.values() for answer in items), default=0)
        for what in ("images", "captions")
    }
    numbers = {what: ["", *(f"_{number}" for number in range(2, count + 1))][:count] for what, count in width.items()}
    named = [what.removesuffix("s") + number for what in width for number in numbers[what]]
    judged = [f"{model} {what}" for model in models for what in ("right", "margin")]
    writer = csv.writer(file)
    writer.writerow(["benchmark", "metrics", "location", *named, *judged])
    for benchmark, items in answers.items():
        for answer in items:
            texts = [text for what in width for text in [*getattr(answer, what), *[""] * width[what]][: width[what]]]
            cells = [cell for model in models for cell in (int(answer.right[model]), _margin(answer.margin[model]))]
            writer.writerow([benchmark, " ".join(answer.metrics), answer.location, *texts, *cells])


def _margin(value: float) -> str:
    """A margin with all the digits that a float32 has; "" where there was no wrong answer to compare with."""
    return f"{value:.9g}" if math.isfinite(value) else ""
