"""What a model knows of scenes: swapped captions, retrieval, single things, linear probes, the modality gap.

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
from labclip.scenes.vocabulary import COLOURS, SHAPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from labclip.model import LABCLIP

GALLERY = 256  # scenes in a retrieval gallery


@torch.inference_mode()
def embed_images(model: LABCLIP, images: NDArray[np.uint8]) -> Tensor:
    """Unit-length embeddings of rendered pictures: uint8 [n, 64, 64, 3] to float32 [n, dim].

    The same as `model.preprocess` on each picture, which at this size only scales the values.
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
    """Share of pictures whose own caption has a higher cosine than the one with the colours exchanged.

    Args:
        images: Unit-length, [n, dim].
        captions: Unit-length, [n, dim].
        swapped: Unit-length, [n, dim].

    Returns:
        A fraction of 1; chance is 0.5.
    """
    return _share(metrics.preferred(images, captions, swapped))


def recall_at_1(images: Tensor, captions: Tensor) -> tuple[float, float]:
    """Recall@1 in galleries of 256, text to image and image to text.

    Args:
        images: Unit-length, [256 m, dim]: m galleries one after the other.
        captions: Unit-length, [256 m, dim], the captions of the pictures in the same order.

    Returns:
        Shares of queries whose own counterpart has the highest cosine of its gallery, averaged over galleries.
    """
    assert len(images) == len(captions)
    assert len(images) % GALLERY == 0
    parts = [slice(start, start + GALLERY) for start in range(0, len(images), GALLERY)]
    found = [metrics.ranks(images[part], captions[part], torch.arange(GALLERY)) for part in parts]
    by_text, by_image = (torch.cat(ranks) for ranks in zip(*found, strict=True))
    return _share(by_text < 1), _share(by_image < 1)


def _share(right: Tensor) -> float:
    return right.float().mean().item()


def distinct(colours: NDArray[np.int64], shapes: NDArray[np.int64], size: int = GALLERY) -> NDArray[np.int64]:
    """The first scenes with no two of the same colours and shapes, so that each caption has one right picture.

    Args:
        colours: Colour of each thing, [n, things].
        shapes: Shape of each thing, [n, things].
        size: Number of scenes wanted.

    Returns:
        Row numbers, int64 [size].
    """
    bags = np.concatenate([np.sort(colours, axis=1), np.sort(shapes, axis=1)], axis=1)
    _, first = np.unique(bags, axis=0, return_index=True)
    assert len(first) >= size, "draw more scenes"
    return np.sort(first)[:size]


def single_object(images: Tensor, prompts: Tensor, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> float:
    """Zero-shot accuracy on pictures of one thing, among all 120 colours and shapes.

    Args:
        images: Unit-length, [n, dim].
        prompts: Unit-length, [120, dim], in the order of `single_prompts`.
        colours: Colour of the thing, [n, 1].
        shapes: Shape of the thing, [n, 1].
    """
    truth = torch.from_numpy(colours[:, 0] * len(SHAPES) + shapes[:, 0])
    return _share(metrics.class_ranks(images, prompts, truth) < 1)


def single_prompts() -> list[str]:
    """A caption for each thing there can be: "a red sphere", "a red cube" ..."""
    return [f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}" for colour in COLOURS for shape in SHAPES]


class Probe:
    """Reads from one modality's embedding alone which colour each named shape has.

    One linear layer with a bias, trained by logistic regression: for each of the two shapes of a scene, its colour
    among 12. Chance is 1/12; who knows the two colours but not which is whose is right half the time.

    Args:
        features: Embeddings to learn from, [n, dim].
        colours: Colour of each thing, [n, 2].
        shapes: Shape of each thing, [n, 2].
        penalty: On the squared weights, per scene.
        iterations: Of L-BFGS.
    """

    def __init__(
        self,
        features: Tensor,
        colours: NDArray[np.int64],
        shapes: NDArray[np.int64],
        *,
        penalty: float = 1e-5,
        iterations: int = 60,
    ) -> None:
        self._mean, self._std = features.mean(dim=0), features.std(dim=0) + 1e-6
        x = (features - self._mean) / self._std
        rows, place, colour = _examples(colours, shapes)
        weight = torch.zeros(len(SHAPES) * len(COLOURS), x.shape[1], requires_grad=True)
        bias = torch.zeros(len(weight), requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            scores = (x @ weight.T + bias).view(len(x), len(SHAPES), len(COLOURS))[rows, place]
            value = F.cross_entropy(scores, colour) + penalty * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        self._weight, self._bias = weight.detach(), bias.detach()

    def accuracy(self, features: Tensor, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> float:
        """Share of things whose colour is read right, over both things of each scene."""
        x = (features - self._mean) / self._std
        rows, place, colour = _examples(colours, shapes)
        scores = (x @ self._weight.T + self._bias).view(len(x), len(SHAPES), len(COLOURS))[rows, place]
        own = scores.gather(1, colour[:, None])
        return ((scores >= own).sum(dim=1) == 1).float().mean().item()


def _examples(colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Scene, shape and colour of each thing: three int64 [n * things]."""
    rows = torch.arange(len(colours)).repeat_interleave(colours.shape[1])
    return rows, torch.from_numpy(shapes).flatten(), torch.from_numpy(colours).flatten()
