"""Synthetic embeddings with planted binding: what a fit can repair and may cost elsewhere, measured in seconds.

A scene has two objects, each with a colour and a shape. Its image embedding is the sum of its colours, shapes and
pairs, and noise. The embedding of its caption is the same, but the part of the pairs is rotated away from the image's:
like in a CLIP, the cosine does not see it. A second domain has neither colours nor shapes: a fit may break retrieval
there.

There are two kinds. By default the other domain uses every dimension and has nothing to gain, so every change costs
there. With `turned`, the texts of the other domain are rotated away from their images like the pairs: a matrix that
repairs binding helps there too, and a fit that harms that domain does so for no reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PlantedData:
    """Unit-length embeddings.

    Attributes:
        images: [n, dim].
        texts: Their captions, [n, dim].
        negatives: The captions with the colours swapped, [n, dim].
        other_images: Images of the other domain, [m, dim].
        other_texts: Their captions, [m, dim].
    """

    images: Tensor
    texts: Tensor
    negatives: Tensor
    other_images: Tensor
    other_texts: Tensor

    def rows(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Images, texts and negatives of these scenes."""
        return self.images[rows], self.texts[rows], self.negatives[rows]


def planted(
    n: int = 6000, *, dim: int = 256, binding: float = 0.5, binding_dim: int = 32, noise: float = 1.0,
    turned: bool = False, seed: int = 0,
) -> PlantedData:  # fmt: skip
    """Draw a planted dataset.

    Args:
        n: Scenes, and twice the number of pairs of the other domain.
        dim: Embedding dimension.
        binding: Length of the component that differs between a caption and the swapped one; the rest has length 1.
        binding_dim: Dimension of the subspace of that component.
        noise: Length of the component that image and text do not share. It is 1.5 times as long in the other domain,
            whose contents differ more.
        turned: Whether the other domain has a component in the same subspace that is rotated in the same way. Then a
            caption and the swapped one also have the same noise, as two sentences of the same words do.
        seed: Seed of everything.
    """
    generator = torch.Generator().manual_seed(seed)

    def directions(count: int, size: int = dim) -> Tensor:
        return F.normalize(torch.randn(count, size, generator=generator), dim=-1)

    def noisy(clean: Tensor, length: float = noise, direction: Tensor | None = None) -> Tensor:
        direction = directions(len(clean)) if direction is None else direction
        return F.normalize(F.normalize(clean, dim=-1) + length * direction, dim=-1)

    rotation, basis = (torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q for _ in range(2))
    colours, shapes = directions(12), directions(10)
    pairs = directions(120, binding_dim) @ basis[:binding_dim]
    colour = torch.stack([torch.randperm(12, generator=generator)[:2] for _ in range(n)])
    shape = torch.stack([torch.randperm(10, generator=generator)[:2] for _ in range(n)])
    content = F.normalize(colours[colour].sum(1) + shapes[shape].sum(1) + directions(n), dim=-1)
    right = F.normalize(pairs[colour * 10 + shape].sum(1), dim=-1)
    swapped = F.normalize(pairs[colour.flip(1) * 10 + shape].sum(1), dim=-1)
    wording = directions(n) if turned else None
    other = directions(n // 2)
    component = directions(n // 2, binding_dim) @ basis[:binding_dim]
    component = binding * component if turned else torch.zeros_like(other)
    return PlantedData(
        images=noisy(content + binding * right),
        texts=noisy(content + binding * right @ rotation, direction=wording),
        negatives=noisy(content + binding * swapped @ rotation, direction=wording),
        other_images=noisy(other + component, 1.5 * noise),
        other_texts=noisy(other + component @ rotation, 1.5 * noise),
    )
