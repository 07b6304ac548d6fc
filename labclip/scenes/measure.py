"""What a model knows of scenes: binding, retrieval, single objects, linear probes.

Pure functions of unit-length embeddings, for the demo and for the script that makes the embedded model. A tie is wrong
in every one of them, so that the order of candidates never decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labclip import metrics
from labclip.scenes.captions import noun_phrase
from labclip.scenes.vocabulary import COLOURS, SHAPES

if TYPE_CHECKING:
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


def recall_at_1(images: Tensor, captions: Tensor) -> tuple[float, float]:
    """R@1 in m galleries of 256, text to image and image to text.

    Args:
        images: Unit-length, [256 m, dim]: one gallery after the other.
        captions: Unit-length, [256 m, dim], in the same order.
    """
    assert len(images) == len(captions)
    assert len(images) % GALLERY == 0
    parts = [slice(start, start + GALLERY) for start in range(0, len(images), GALLERY)]
    found = [metrics.ranks(images[part], captions[part], torch.arange(GALLERY)) for part in parts]
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
    return _mean(metrics.class_ranks(images, prompts, truth) < 1)


def single_prompts() -> list[str]:
    """A caption for each object there can be: "a red sphere", "a red cube" ..."""
    return [noun_phrase(colour, shape) for colour in COLOURS for shape in SHAPES]


def probe(
    learnt: Tensor, learnt_layout: Layout, asked: Tensor, asked_layout: Layout, *, penalty: float = 1e-5
) -> float:
    """Accuracy of a linear probe that reads the colour of each shape from one modality's embedding.

    One linear layer with a bias, trained by logistic regression with L-BFGS: for each of the two shapes of a scene, its
    colour among 12. Chance is 1/12; the bag-of-words baseline, both colours known but not whose they are, is 1/2.
    Embeddings to learn from are [n, dim], those to read from [m, dim]; `penalty` is on the squared weights, per scene.
    """
    mean, std = learnt.mean(dim=0), learnt.std(dim=0) + 1e-6
    weight = torch.zeros(len(SHAPES) * len(COLOURS), learnt.shape[1], requires_grad=True)
    bias = torch.zeros(len(weight), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def scores(x: Tensor, layout: Layout) -> Tensor:
        """Of each colour, for each object: [n * 2, 12]."""
        scenes = torch.arange(len(x)).repeat_interleave(layout.shapes.shape[1])
        table = (x @ weight.T + bias).view(len(x), len(SHAPES), len(COLOURS))
        return table[scenes, torch.from_numpy(layout.shapes).flatten()]

    x, colours = (learnt - mean) / std, torch.from_numpy(learnt_layout.colours).flatten()

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(scores(x, learnt_layout), colours) + penalty * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = scores((asked - mean) / std, asked_layout)
    own = found.gather(1, torch.from_numpy(asked_layout.colours).flatten()[:, None])
    return _mean((found >= own).sum(dim=1) == 1)
