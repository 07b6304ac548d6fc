"""What each model answered to each item, as values that are made only where they are looked at, and as a csv file."""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TextIO, overload

import numpy as np

from labclip.evaluation.scores import Scores
from labclip.evaluation.tasks import Task


@dataclass(frozen=True)
class Answer:
    """One item and how each model did on it.

    Attributes:
        place: File name and position of the item; "" where its question keeps none, as in retrieval and classification.
        metrics: The metrics that it counts in, for example ("swap_att", "swap", "macro", "micro"), or ("t2i_r1",).
        images: Names of its images. Of a search for a caption the right one; of a search for an image that one.
        captions: Its captions, the right one first. Of a search for a caption that one.
        right: For each model ("base", then the alignments) whether it was right.
        margin: For each model the cosine of the right answer minus that of the best wrong one; at most 0 is wrong, and
            in retrieval, classification and between two images up to 1e-6 is a tie, which is wrong too. Of the base no
            cosines where its captions keep their own length (`Task.own_length`).
    """

    place: str
    metrics: tuple[str, ...]
    images: tuple[str, ...]
    captions: tuple[str, ...]
    right: Mapping[str, bool]
    margin: Mapping[str, float]


class Answers(Sequence[Answer]):
    """All items of a benchmark; arrays inside, an `Answer` where one is asked for.

    Of `scores` there is one for each set of items and each model.
    """

    def __init__(self, task: Task, models: Sequence[str], scores: Sequence[Sequence[Scores]]) -> None:
        # Names alone: the task holds images, whose pixels must not live as long as a report does.
        self._image_name, self._caption = task.names()
        self._models = models
        self._scores: list[Sequence[Scores]] = [
            [replace(one, by_index=None) for one in several] for several in scores if several[0].asked is not None
        ]
        self._ends = list(accumulate(len(one[0].correct) for one in self._scores))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        return f"Answers({len(self):,} items, models {', '.join(self._models)})"

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
        return self._answer(self._measured(part), row - (self._ends[part - 1] if part else 0))

    def _measured(self, part: int) -> Sequence[Scores]:
        """The scores of a set of items with their margins, made now; the embeddings behind these are let go."""
        if not all(isinstance(one.margin, np.ndarray) for one in self._scores[part]):
            self._scores[part] = [replace(one, margin=one.margins()) for one in self._scores[part]]
        return self._scores[part]

    def __getstate__(self) -> dict[str, Any]:
        for part in range(len(self._scores)):
            self._measured(part)
        return vars(self)

    def _answer(self, scores: Sequence[Scores], row: int) -> Answer:
        asked = scores[0].asked
        assert asked is not None  # others were left out
        return Answer(
            place=asked.places[row] if asked.places else "",
            metrics=tuple(metric for metric, group in scores[0].metrics.items() if group[row] >= 0),
            images=tuple(self._image_name(int(one)) for one in asked.images[row] if one >= 0),
            captions=tuple(self._caption(int(one)) for one in asked.captions[row] if one >= 0),
            right={model: bool(one.correct[row]) for model, one in zip(self._models, scores, strict=True)},
            margin={model: float(one.margins()[row]) for model, one in zip(self._models, scores, strict=True)},
        )


def write_csv(answers: Mapping[str, Sequence[Answer]], models: Sequence[str], file: TextIO) -> None:
    """Write each benchmark's items: benchmark, metrics, place, images, captions, each model's answer and margin."""
    width = {
        what: max((len(getattr(one, what)) for found in answers.values() for one in found), default=0)
        for what in ("images", "captions")
    }
    numbers = {what: ["", *(f"_{number}" for number in range(2, count + 1))][:count] for what, count in width.items()}
    named = [what.removesuffix("s") + number for what in width for number in numbers[what]]
    judged = [f"{model} {what}" for model in models for what in ("right", "margin")]
    writer = csv.writer(file)
    writer.writerow(["benchmark", "metrics", "place", *named, *judged])
    for benchmark, found in answers.items():
        for one in found:
            texts = [text for what in width for text in [*getattr(one, what), *[""] * width[what]][: width[what]]]
            cells = [cell for model in models for cell in (int(one.right[model]), _margin(one.margin[model]))]
            writer.writerow([benchmark, " ".join(one.metrics), one.place, *texts, *cells])


def _margin(value: float) -> str:
    """A margin with all the digits that a float32 has; "" where there was no wrong answer to compare with."""
    return f"{value:.9g}" if math.isfinite(value) else ""
