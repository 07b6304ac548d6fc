"""Embeddings that are there already: a feature folder of `labclip embed`, or `Features` in memory."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from labclip.data.items import Kind
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Choice, Embedded, Question, Retrieval, Stored, Task
from labclip.features.features import Features


def read(sources: Sources) -> Task:
    """`binding`: a caption beats all its negatives; retrieval among all images and captions."""
    found = Features.load(sources.data or sources.folder) if sources.features is None else sources.features
    index = np.array(found.image_index, dtype=np.int64)
    is_caption = found.kinds == Kind.CAPTION
    rows = captions = np.flatnonzero(is_caption)
    numbers = np.arange(len(captions))
    questions: list[Question] = []
    texts = [found.texts]
    if found.negatives is not None and found.has_negative is not None:
        has = np.array(found.has_negative) & is_caption[:, None]
        # Where there is no negative anything may stand, nan too.
        texts.append(found.negatives.reshape(-1, found.negatives.shape[-1]))
        rows = np.concatenate([captions, len(index) + np.flatnonzero(has)])
        negatives = np.full(has.shape, NONE)
        negatives[has] = np.arange(len(captions), len(rows))
        some = np.asarray(has[captions].any(axis=1))
        options = np.concatenate([numbers[:, None], negatives[captions]], axis=1)[some]
        folder = "" if found.folder is None else f"{found.folder.name} "
        locations = [f"{folder}caption {row}" for row in captions[some]]
        questions.append(
            Choice(index[captions[some]], options, {"binding": everything(int(some.sum()))}, locations=locations)
        )
    # An image without a caption, where one was left out, still is in the gallery.
    questions.append(Retrieval(np.arange(len(found.images)), numbers, index[captions]))
    left_out = found.manifest.get("skipped", ())
    notes = [f"{len(left_out):,} items were left out when the folder was made."] if left_out else []
    if more := len(index) - len(captions):
        notes.append(f"Its {more:,} parts and keywords are not measured here; the benchmark `parts` does that.")
    text_name = partial(_text_name, len(captions), len(index), rows)
    stored = Stored([found.images]), Stored(texts, rows=rows)
    embedded = Embedded(*stored, "image {}".format, text_name, found.check_model)
    return Task((), (), questions, notes, embedded)


def _text_name(captions: int, texts: int, rows: NDArray[np.int64], row: int) -> str:
    return f"caption {rows[row]}" if row < captions else f"negative {rows[row] - texts}"
