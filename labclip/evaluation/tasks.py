"""A benchmark as a task, its images, captions and questions; and the scores of a base and its alignments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from labclip.alignment import Alignment
from labclip.data.images import ImageSource
from labclip.evaluation.questions import Choice, Classification, Question, Retrieval, is_unnormalized
from labclip.evaluation.scores import BY_INDEX, ScoredItems
from labclip.metrics import unit_length


@dataclass(frozen=True)
class Embedded:
    """Embeddings that exist already, any scale; `check` raises ValueError for another model."""

    images: Tensor
    texts: Tensor
    check: Callable[[Any], object]


@dataclass(frozen=True)
class Task:
    """A benchmark read from its files; `Sources.task` makes one.

    Attributes:
        images: Distinct images; a file's existence is checked when it is read.
        captions: Distinct captions.
        questions: The questions about them.
        notes: What was left out, with counts, and which choices were made; they go into the report.
        embedded: Embeddings that take the place of images and captions, which then are only names; or None.
    """

    images: Sequence[ImageSource]
    captions: Sequence[str]
    questions: Sequence[Question]
    notes: Sequence[str] = ()
    embedded: Embedded | None = None

    def names(self) -> tuple[Callable[[int], str], Callable[[int], str]]:
        """Functions from a row to the name of its image and to its caption, for reports."""
        image_name = [image.name for image in self.images].__getitem__ if self.embedded is None else "image {}".format
        return image_name, list(self.captions).__getitem__


def texts_by_model(texts: Tensor, alignments: Sequence[Alignment]) -> Iterator[Tensor]:
    """The captions by the base, then by each alignment, unit-length; `texts` are the base's, any scale."""
    base = unit_length(texts, "Text features")
    yield base
    for alignment in alignments:
        yield unit_length(alignment(base), "Aligned text features")


def score(
    task: Task, images: Tensor, texts: Tensor, alignments: Sequence[Alignment], *, ties: str = "wrong"
) -> list[tuple[ScoredItems, ...]]:
    """The scores of all questions of a task: for each set of items those of the base, then of each alignment.

    `images` [images, dim] and the base's `texts` [captions, dim] have any scale; `ties` is as in `evaluate`.
    """
    images = unit_length(images, "Image features")
    models = texts_by_model(texts, alignments)
    scores = [list(_score_questions(task.questions, images, next(models), texts.float(), ties))]
    scores += [list(_score_questions(task.questions, images, aligned, aligned, ties)) for aligned in models]
    return list(zip(*scores, strict=True))


def _score_questions(
    questions: Sequence[Question], images: Tensor, texts: Tensor, unnormalized: Tensor, ties: str
) -> Iterator[ScoredItems]:
    """The scores of one model, whose captions are `texts`, or `unnormalized` in questions that want them so."""
    texts_of = [unnormalized if is_unnormalized(question) else texts for question in questions]
    for question, captions in zip(questions, texts_of, strict=True):
        yield from question.score(images, captions)
    if ties != "index":
        return
    for question, captions in zip(questions, texts_of, strict=True):
        if isinstance(question, Retrieval | Classification) or (isinstance(question, Choice) and question.right_first):
            for scored in question.score(images, captions, by_index=True):
                groups = {f"{name}_index": group for name, group in scored.metrics.items()}
                yield replace(scored, metrics=groups, side=BY_INDEX, margin=None, rows=None, controls={})
