"""A small world in which text carries the image's binding code turned by a rotation: what a fit must find."""

import torch
import torch.nn.functional as F

from labclip.features import Features

DIM = 24
QUICK = {
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 3e-2,
    "identity_penalty": 1e-4,
    "negative_weight": 1,
    "distill": 0,
    "progress": False,
}
"""Options of one quick fit."""


def world(n=400, seed=0, k=None):
    """Images, captions and negatives, unit-length: [n, DIM], [n, DIM], [n, DIM] or [n, k, DIM].

    Content is shared; the binding's code stands in other dimensions of the text, so the base can't tell a caption from
    its negative.
    """
    draw = torch.Generator().manual_seed(seed)
    content = torch.randn(n, 16, generator=draw)
    binding = torch.randn(n, 4, generator=draw)
    zeros = torch.zeros(n, 4)

    def noisy(*parts):
        clean = torch.cat(parts, dim=1)
        return F.normalize(clean + 0.1 * torch.randn(clean.shape, generator=draw), dim=-1)

    negatives = torch.stack([noisy(content, zeros, binding.roll(1 + j, 0)) for j in range(k or 1)], dim=1)
    return noisy(content, binding, zeros), noisy(content, zeros, binding), negatives if k else negatives[:, 0]


def features(images, texts, negatives=None, index=None, **other):
    """Embeddings as `fit` takes them."""
    return Features.from_arrays(images=images, texts=texts, negatives=negatives, image_index=index, **other)


def drawn(n=400, seed=0, k=None, **other):
    """The world as `fit` takes it."""
    return features(*world(n, seed, k), **other)
