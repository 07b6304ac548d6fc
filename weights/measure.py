"""What a model knows of scenes: binding, retrieval, single objects, linear probes.

Pure functions of unit-length embeddings, for the script that makes the embedded model. Its card has galleries of one
size and kinds of scenes that `labclip evaluate scenes` does not have. A tie is wrong in every metric, so the order of
candidates never decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pretrain import to_input
from torch import Tensor
from torch.nn import functional as F

from labclip import LABCLIP, metrics
from labclip.alignment import align
from labclip.scenes.captions import noun_phrase
from labclip.scenes.renderer import Layout
from labclip.scenes.vocabulary import COLOURS, SHAPES

GALLERY = 256  # scenes in a retrieval gallery
CANDIDATES = 330  # scenes that a gallery is chosen from: they include 256 different ones


@dataclass(frozen=True)
class EmbeddedScenes:
    """Unit-length embeddings of n scenes with k sentences each.

    Attributes:
        images: [n, dim].
        captions: Sentences, [n, k, dim].
        swapped: The same sentences with the colours swapped, [n, k, dim].
        parts: Each object alone, such as "a red cube", [n, objects, dim].
        swapped_parts: The same with the object's colour after the swap, [n, objects, dim].
        tags: Captions that do not bind, [n, dim].
    """

    images: Tensor
    captions: Tensor
    swapped: Tensor
    parts: Tensor
    swapped_parts: Tensor
    tags: Tensor

    def __getitem__(self, rows: slice | Tensor | NDArray[np.int64]) -> EmbeddedScenes:
        return EmbeddedScenes(*(array[rows] for array in vars(self).values()))


@torch.inference_mode()
def embed_images(model: LABCLIP, images: NDArray[np.uint8]) -> Tensor:
    """Unit-length embeddings of rendered scenes: uint8 [n, 64, 64, 3] to float32 [n, dim].

    `model.preprocess` gives the same, as it only scales the values of images of this size.
    """
    blocks = (images[start : start + 512] for start in range(0, len(images), 512))
    return torch.cat([model.encode_image(to_input(block), normalize=True).float() for block in blocks])


@torch.inference_mode()
def embed_texts(model: LABCLIP, texts: Sequence[str]) -> Tensor:
    """Unit-length embeddings of captions by the base, before the matrix: float32 [n, dim]."""
    return model.encode_text(list(texts), normalize=True, aligned=False).float()


def binding(images: Tensor, captions: Tensor, swapped: Tensor) -> float:
    """Accuracy of choosing an image's caption over the swapped one, all unit-length [n, dim]; chance is 0.5."""
    return _mean(metrics.preferred(images, captions, swapped))


def sentence_binding(scenes: EmbeddedScenes, matrix: Tensor) -> float:
    """`binding` of all sentences of the scenes under a matrix [dim, dim]."""
    images = scenes.images.repeat_interleave(scenes.captions.shape[1], dim=0)
    aligned = (align(texts.flatten(0, 1), matrix, normalize=True) for texts in (scenes.captions, scenes.swapped))
    return binding(images, *aligned)


def query_binding(scenes: EmbeddedScenes, matrix: Tensor) -> float:
    """`binding` of queries of parts, the sum of the embeddings of a scene's objects, under a matrix [dim, dim]."""
    queries = (align(parts, matrix, normalize=True).sum(dim=1) for parts in (scenes.parts, scenes.swapped_parts))
    return binding(scenes.images, *(F.normalize(query, dim=-1) for query in queries))


def recall_at_1(images: Tensor, captions: Tensor) -> tuple[float, float]:
    """R@1 in m galleries of 256, text to image and image to text.

    Args:
        images: Unit-length, [256 m, dim]: one gallery after the other.
        captions: Unit-length, [256 m, dim], in the same order.
    """
    assert len(images) == len(captions)
    assert len(images) % GALLERY == 0
    galleries = zip(images.split(GALLERY), captions.split(GALLERY), strict=True)
    ranks = [metrics.ranks(*gallery, torch.arange(GALLERY))[:2] for gallery in galleries]
    of_texts, of_images = (torch.cat(direction) for direction in zip(*ranks, strict=True))
    return _mean(of_texts < 1), _mean(of_images < 1)


def _mean(correct: Tensor) -> float:
    return correct.float().mean().item()


def distinct_scenes(layout: Layout) -> NDArray[np.int64]:
    """The first scene of each set of colours and shapes, int64 [m]: each caption has one right image among them."""
    contents = np.concatenate([np.sort(layout.colours, axis=1), np.sort(layout.shapes, axis=1)], axis=1)
    return np.sort(np.unique(contents, axis=0, return_index=True)[1])


def gallery_rows(layout: Layout) -> NDArray[np.int64]:
    """Rows of galleries: of each `CANDIDATES` scenes the first 256 different ones, int64 [256 m]."""
    rows = []
    for start in range(0, len(layout), CANDIDATES):
        distinct = distinct_scenes(layout[start : start + CANDIDATES])
        assert len(distinct) >= GALLERY, "draw more scenes"
        rows.append(start + distinct[:GALLERY])
    return np.concatenate(rows)


def single_object(images: Tensor, prompts: Tensor, layout: Layout) -> float:
    """Zero-shot accuracy on images of one object, [n, dim], among `prompts` in the order of `single_prompts`."""
    classes = torch.from_numpy(layout.colours[:, 0] * len(SHAPES) + layout.shapes[:, 0])
    return _mean(metrics.class_ranks(images, prompts, classes)[0] < 1)


def single_prompts() -> list[str]:
    """A caption for each possible object: "a red sphere", "a red cube" ..."""
    return [noun_phrase(colour, shape) for colour in COLOURS for shape in SHAPES]


def probe(train: Tensor, train_layout: Layout, test: Tensor, test_layout: Layout) -> float:
    """Accuracy of linear probes that read the colour of each shape from the embeddings of images or of texts.

    Each shape has a probe, trained on the scenes that contain the shape. Chance is 1/12. The bag-of-words baseline,
    which knows both colours but not whose they are, is 1/2.

    Args:
        train: Embeddings to train on, [n, dim].
        train_layout: Their scenes.
        test: Embeddings to test on, [m, dim].
        test_layout: Their scenes.
    """
    correct = []
    for shape in range(len(SHAPES)):
        rows, colours = [], []
        for layout in (train_layout, test_layout):
            scenes, objects = np.nonzero(layout.shapes == shape)
            rows.append(torch.from_numpy(scenes))
            colours.append(torch.from_numpy(layout.colours[scenes, objects]))
        correct.append(metrics.linear_probe(train[rows[0]], colours[0], test[rows[1]], colours[1]))
    return _mean(torch.cat(correct))
