"""Embeddings that exist already: a feature folder of `labclip embed`, or `Features` in memory."""

from __future__ import annotations

import numpy as np
import torch

from labclip.data.items import Kind
from labclip.evaluation.questions import NONE, Choice, Question, Retrieval
from labclip.evaluation.scores import one_group
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Embedded, Task
from labclip.features.features import Features, block_of


def read(sources: Sources) -> Task:
    """`binding`: a caption beats all its negatives; retrieval among all images and captions."""
    features = Features.load(sources.data or sources.folder) if sources.features is None else sources.features
    image_index = np.array(features.image_index, dtype=np.int64)
    is_caption = features.kinds == Kind.CAPTION
    captions, negatives = np.flatnonzero(is_caption), np.empty(0, dtype=np.int64)
    caption_rows = np.arange(len(captions))
    texts = [block_of(features.texts, captions)]
    questions: list[Question] = []
    if features.negatives is not None and features.has_negative is not None:
        has_negative = np.array(features.has_negative) & is_caption[:, None]
        negatives = np.flatnonzero(has_negative)
        texts.append(block_of(features.negatives.reshape(-1, features.negatives.shape[-1]), negatives))
        negative_rows = np.full(has_negative.shape, NONE)
        negative_rows[has_negative] = len(captions) + np.arange(len(negatives))
        has_any = np.asarray(has_negative[captions].any(axis=1))
        options = np.concatenate([caption_rows[:, None], negative_rows[captions]], axis=1)[has_any]
        folder = "" if features.folder is None else f"{features.folder.name} "
        locations = [f"{folder}caption {caption}" for caption in captions[has_any]]
        group = {"binding": one_group(len(options))}
        questions.append(Choice(image_index[captions[has_any]], options, group, locations=locations))
    # An image without a caption, where one was left out, is still in the gallery.
    questions.append(Retrieval(np.arange(len(features.images)), caption_rows, image_index[captions]))
    skipped = features.manifest.get("skipped", ())
    notes = [f"{len(skipped):,} items were left out when the folder was made."] if skipped else []
    if other_texts := len(image_index) - len(captions):
        notes.append(f"{other_texts:,} parts and keywords are not measured here; the benchmark `parts` does that.")
    names = [*map("caption {}".format, captions), *map("negative {}".format, negatives)]
    images = block_of(features.images, slice(None)).cpu()
    return Task((), names, questions, notes, Embedded(images, torch.cat(texts).cpu(), features.check_model))
