"""A feature folder of `labclip embed`: the user's own captions and negatives, embedded already."""

from __future__ import annotations

import numpy as np
import torch

from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Choice, Embedded, Question, Retrieval, Task
from labclip.features import Features


def read(sources: Sources) -> Task:
    """`binding`: a caption beats all its negatives; retrieval among all pictures and captions of the folder."""
    found = Features.load(sources.folder)
    texts = torch.from_numpy(np.array(found.texts))
    index = np.array(found.image_index)
    captions = np.arange(len(texts))
    questions: list[Question] = []
    if found.negatives is not None and found.has_negative is not None:
        negatives = torch.from_numpy(np.array(found.negatives)).flatten(0, 1)
        has = np.array(found.has_negative)
        rows = np.where(has, len(texts) + np.arange(has.size).reshape(has.shape), -1)
        some = has.any(axis=1)
        texts = torch.cat([texts, negatives])
        options = np.concatenate([captions[:, None], rows], axis=1)[some]
        questions.append(Choice(index[some], options, {"binding": everything(int(some.sum()))}))
    # A picture without a caption, where one was left out, still is in the gallery.
    questions.append(Retrieval(np.arange(len(found.images)), captions, index))
    images = torch.from_numpy(np.array(found.images))
    left_out = found.manifest["skipped"]
    notes = [f"{len(left_out):,} items were left out when the folder was made."] if left_out else []
    return Task(
        (), (), questions, notes, Embedded(images, texts, lambda model: Features.load(sources.folder, base=model))
    )


BENCHMARK = Benchmark(
    name="features",
    title="A feature folder",
    measures="binding",
    wants="a folder that `labclip embed` made with the same model, in --data",
    source="labclip embed --model M --captions FILE --images DIR FOLDER",
    licence="yours",
    paper="labclip",
    read=read,
    headline=("binding", "t2i_r1", "i2t_r1"),
)
