"""What a model knows of scenes: binding, retrieval, single objects, linear probes.

Pure functions of unit-length embeddings, for the script that makes the embedded model: the measurements of its card are
in galleries of one size, and on kinds of scenes that `labclip evaluate scenes` does not have. A tie is wrong in every
one of them, so that the order of candidates never decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labclip import metrics
from labclip.alignment import align
from labclip.scenes.captions import noun_phrase
from labclip.scenes.vocabulary import COLOURS, SHAPES

if TYPE_CHECKING:
    from described import Embedded
    from numpy.typing import NDArray

    from labclip.model import LABCLIP
    from labclip.scenes.renderer import Layout

GALLERY = 256  # scenes in a retrieval gallery
DRAWN = 320  # scenes a gallery is chosen from: 256 different ones are among them


@torch.inference_mode()
def embed_images(model: LABCLIP, images: NDArray[np.uint8]) -> Tensor:
    """Unit-length embeddings of rendered scenes: uint8 [n, 64, 64, 3] to float32 [n, dim].

    The same as `model.preprocess` on each image, which at this size only scales the values.
    """
    settings = model.clip.visual.preprocess_cfg
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    parts = []
    for start in range(0, len(images), 512):
        pixels = torch.from_numpy(images[start : start + 512]).permute(0, 3, 1, 2).float() / 255
        parts.append(model.encode_image((pixels - mean) / std, normalize=True).float())
    return torch.cat(parts)


@torch.inference_mode()
def embed_texts(model: LABCLIP, texts: Sequence[str]) -> Tensor:
    """Unit-length embeddings of captions as the base gives them, before the matrix: float32 [n, dim]."""
    return model.encode_text(list(texts), normalize=True, aligned=False).float()


def binding(images: Tensor, captions: Tensor, swapped: Tensor) -> float:
    """Accuracy of choosing an image's caption over the swapped one, all unit-length [n, dim]; chance is 0.5."""
    return _mean(metrics.preferred(images, captions, swapped))


def sentence_binding(scenes: Embedded, matrix: Tensor) -> float:
    """`binding` of all sentences of some scenes under a matrix [dim, dim]."""
    images = scenes.images.repeat_interleave(scenes.captions.shape[1], dim=0)
    sides = (align(side.flatten(0, 1), matrix, normalize=True) for side in (scenes.captions, scenes.swapped))
    return binding(images, *sides)


def query_binding(scenes: Embedded, matrix: Tensor) -> float:
    """`binding` of queries of parts, the sum of the embeddings of a scene's objects, under a matrix [dim, dim]."""
    sides = (align(side, matrix, normalize=True).sum(dim=1) for side in (scenes.parts, scenes.swapped_parts))
    return binding(scenes.images, *(F.normalize(side, dim=-1) for side in sides))


def recall_at_1(images: Tensor, captions: Tensor) -> tuple[float, float]:
    """R@1 in m galleries of 256, text to image and image to text.

    Args:
        images: Unit-length, [256 m, dim]: one gallery after the other.
        captions: Unit-length, [256 m, dim], in the same order.
    """
    assert len(images) == len(captions)
    assert len(images) % GALLERY == 0
    parts = [slice(start, start + GALLERY) for start in range(0, len(images), GALLERY)]
    found = [metrics.ranks(images[part], captions[part], torch.arange(GALLERY))[:2] for part in parts]
    by_text, by_image = (torch.cat(ranks) for ranks in zip(*found, strict=True))
    return _mean(by_text < 1), _mean(by_image < 1)


def _mean(correct: Tensor) -> float:
    return correct.float().mean().item()


def gallery_rows(layout: Layout, drawn: int = DRAWN) -> NDArray[np.int64]:
    """Rows of galleries in which no two scenes have the same colours and shapes: each caption has one right image.

    Of each `drawn` scenes the first 256 different ones are taken: int64 [256 m], gallery after gallery.
    """
    contents = np.concatenate([np.sort(layout.colours, axis=1), np.sort(layout.shapes, axis=1)], axis=1)
    rows = []
    for start in range(0, len(layout), drawn):
        _, first = np.unique(contents[start : start + drawn], axis=0, return_index=True)
        assert len(first) >= GALLERY, "draw more scenes"
        rows.append(start + np.sort(first)[:GALLERY])
    return np.concatenate(rows)


def single_object(images: Tensor, prompts: Tensor, layout: Layout) -> float:
    """Zero-shot accuracy on images of one object, [n, dim], among `prompts` as `single_prompts` orders them."""
    truth = torch.from_numpy(layout.colours[:, 0] * len(SHAPES) + layout.shapes[:, 0])
    return _mean(metrics.class_ranks(images, prompts, truth)[0] < 1)


def single_prompts() -> list[str]:
    """A caption for each object there can be: "a red sphere", "a red cube" ..."""
    return [noun_phrase(colour, shape) for colour in COLOURS for shape in SHAPES]


def probe(train: Tensor, train_layout: Layout, test: Tensor, test_layout: Layout) -> float:
    """Accuracy of linear probes that read the colour of each shape from one modality's embedding.

    A probe for each shape, trained on the scenes that hold it. Chance is 1/12; the bag-of-words baseline, both colours
    known but not whose they are, is 1/2. Embeddings to train on are [n, dim], those to read [m, dim].
    """
    correct = []
    for shape in range(len(SHAPES)):
        rows, colours = [], []
        for layout in (train_layout, test_layout):
            scenes, places = np.nonzero(layout.shapes == shape)
            rows.append(torch.from_numpy(scenes))
            colours.append(torch.from_numpy(layout.colours[scenes, places]))
        correct.append(metrics.linear_probe(train[rows[0]], colours[0], test[rows[1]], colours[1]))
    return _mean(torch.cat(correct))
