"""Small benchmarks on disk, and answers to them from cosines that a test writes down."""

import math
import zlib
from pathlib import Path

import numpy as np
import rows
import torch
from PIL import Image

from labclip.data.images import ImageSource
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.questions import Pairs, Retrieval
from labclip.evaluation.sources import Sources

SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
"""The files of SugarCrepe."""


def image_file(path, size=(8, 8)):
    """An image of one colour, which its name decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, zlib.crc32(str(path.name).encode()) & 0xFFFFFF).save(path)
    return path


def lay(folder, files):
    """Writes files by their paths: an image for None, text or bytes, an array, rows as Parquet or jsonl, else JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            image_file(path)
        elif isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        elif isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            rows.write(path, content)


def images_of(drawn):
    """The images of scenes, in memory."""
    return [ImageSource(f"scene {row}", data=image) for row, image in enumerate(drawn.images)]


def rounding(model, monkeypatch):
    """Makes every pass come out a little different, as products of other sizes do on two threads or a GPU."""
    own, passes = model.encode_text, iter(range(1, 100))

    def text(captions, **options):
        features = own(captions, **options)
        return features + 1e-4 * next(passes) * torch.linspace(-1, 1, features.shape[1])

    monkeypatch.setattr(model, "encode_text", text)


def read(name, data, images=None, *, on_missing="raise", **options):
    """A benchmark's task; parts of speech by HanTa unless the options say otherwise, as spaCy need not be there."""
    options = {"tagger": "hanta", **options} if name.endswith("-order") else options
    return BENCHMARKS[name].read(Sources(data, images, on_missing, "Get it there."), **options)


def asked(task):
    """What the first question asks, item by item: file names of its images, and captions."""
    question = task.questions[0]
    if isinstance(question, Retrieval):
        images = question.images[:, None]
        texts = [question.texts[question.image_index == at] for at in range(len(images))]
    elif isinstance(question, Pairs):
        images, texts = question.images, question.texts
    else:
        images, texts = question.image[:, None], getattr(question, "options", getattr(question, "texts", None))
    return [
        ([Path(task.images[row].name).name for row in rows], [task.captions[row] for row in captions if row >= 0])
        for rows, captions in zip(images, texts, strict=True)
    ]


def scored(task, cosine=lambda image, caption: 0.0):
    """The items of every metric, where cosines are what `cosine(name of the image, caption)` says, times a constant."""
    n = len(task.images)
    wanted = torch.tensor([[cosine(image.name, caption) for image in task.images] for caption in task.captions])
    wanted = wanted / (2 * math.sqrt(n))
    texts = torch.cat([wanted, (1 - wanted.square().sum(dim=1, keepdim=True)).sqrt()], dim=1)
    every = [scores for question in task.questions for scores in question.score(torch.eye(n, n + 1), texts)]
    return {metric: scores for scores in every for metric in scores.metrics}


def counts(task):
    """How many items every metric has."""
    return {metric: scores.count(metric) for metric, scores in scored(task).items()}
