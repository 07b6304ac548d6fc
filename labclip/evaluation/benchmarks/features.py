"""Embeddings that are there already: a feature folder of `labclip embed`, or `Features` in memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import NONE, Choice, Embedded, Question, Retrieval, Task
from labclip.features.features import Features


def read(sources: Sources) -> Task:
    """`binding`: a caption beats all its negatives; retrieval among all images and captions."""
    found = Features.load(sources.folder) if sources.features is None else sources.features
    texts, index = _rows(found.texts), np.array(found.image_index, dtype=np.int64)
    captions = np.arange(len(texts))
    questions: list[Question] = []
    if found.negatives is not None and found.has_negative is not None:
        has = np.array(found.has_negative)
        rows = np.where(has, len(texts) + np.arange(has.size).reshape(has.shape), NONE)
        some = np.asarray(has.any(axis=1))
        texts = torch.cat([texts, _rows(found.negatives).flatten(0, 1)])
        options = np.concatenate([captions[:, None], rows], axis=1)[some]
        folder = "" if found.folder is None else f"{found.folder.name} "
        places = [f"{folder}caption {row}" for row in captions[some]]
        questions.append(Choice(index[some], options, {"binding": everything(int(some.sum()))}, places=places))
    # An image without a caption, where one was left out, still is in the gallery.
    questions.append(Retrieval(np.arange(len(found.images)), captions, index))
    left_out = found.manifest.get("skipped", ())
    notes = [f"{len(left_out):,} items were left out when the folder was made."] if left_out else []
    text_name = partial(_text_name, len(captions))
    embedded = Embedded(_rows(found.images), texts, "image {}".format, text_name, found.check_model)
    return Task((), (), questions, notes, embedded)


def _text_name(captions: int, row: int) -> str:
    return f"caption {row}" if row < captions else f"negative {row - captions}"


def _rows(values: Any) -> Tensor:
    if isinstance(values, torch.Tensor):
        return values.detach().to("cpu", torch.float32)
    return torch.from_numpy(np.array(values))


BENCHMARK = Benchmark(
    "features", "Stored embeddings", "binding", read,
    wants="as data a folder that `labclip embed` made with the same model, or in Python `Features`",
    source="labclip embed --model M --captions FILE --images DIR FOLDER",
    licence="yours",
    paper="labclip",
    headline=("binding", "t2i_r1", "i2t_r1"),
)  # fmt: skip
