"""Embeddings in which binding is planted: what a fit can repair, and what it may cost elsewhere, in seconds.

A scene has two objects, each of a colour and a shape. Its image embedding is a sum of its objects, colours and
bindings, and noise; its caption's has the same with the binding rotated away from the image's, as the cosine of a CLIP
does not see it. A second domain has neither colours nor shapes: retrieval there is what a fit may break.

Two kinds. In one the other domain uses every dimension and has nothing to gain, so that whatever is moved is lost
there. In the other its texts are turned away from their images just as the bindings are: what repairs binding helps
there too, and a fit that harms it does so for no reason.
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
        other_images: Of the other domain, [m, dim].
        other_texts: [m, dim].
    """

    images: Tensor
    texts: Tensor
    negatives: Tensor
    other_images: Tensor
    other_texts: Tensor

    def rows(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Images, texts and negatives of some scenes."""
        return self.images[part], self.texts[part], self.negatives[part]


def planted(
    n: int = 6000, *, dim: int = 256, binding: float = 0.5, binding_dim: int = 32, noise: float = 1.0,
    turned: bool = False, seed: int = 0,
) -> PlantedData:  # fmt: skip
    """Draw a planted data set.

    Args:
        n: Scenes, and half as many pairs of the other domain.
        dim: Length of an embedding.
        binding: How long the part that tells a caption from the swapped one is, beside a content of length 1.
        binding_dim: Dimensions that part lives in.
        noise: How long the part is that image and text do not share; half as long again in the other domain, whose
            contents differ more.
        turned: Whether the other domain has a part that lives in the binding's dimensions and is rotated away like it.
            Then a caption and the swapped one also have the same noise, as two sentences of the same words do.
        seed: Of everything.
    """
    draw = torch.Generator().manual_seed(seed)

    def codes(count: int) -> Tensor:
        return F.normalize(torch.randn(count, dim, generator=draw), dim=-1)

    def noisy(clean: Tensor, length: float = noise, own: Tensor | None = None) -> Tensor:
        own = codes(len(clean)) if own is None else own
        return F.normalize(F.normalize(clean, dim=-1) + length * own, dim=-1)

    rotation, plane = (torch.linalg.qr(torch.randn(dim, dim, generator=draw)).Q for _ in range(2))
    colours, shapes = codes(12), codes(10)
    pairs = F.normalize(torch.randn(120, binding_dim, generator=draw), dim=-1) @ plane[:binding_dim]
    colour = torch.stack([torch.randperm(12, generator=draw)[:2] for _ in range(n)])
    shape = torch.stack([torch.randperm(10, generator=draw)[:2] for _ in range(n)])
    context = codes(n)
    content = colours[colour].sum(1) + shapes[shape].sum(1) + context
    content = F.normalize(content, dim=-1)
    right = F.normalize(pairs[colour * 10 + shape].sum(1), dim=-1)
    wrong = F.normalize(pairs[colour.flip(1) * 10 + shape].sum(1), dim=-1)
    wording = codes(n) if turned else None
    other = codes(n // 2)
    part = F.normalize(torch.randn(n // 2, binding_dim, generator=draw), dim=-1) @ plane[:binding_dim]
    part = binding * part if turned else torch.zeros_like(other)
    return PlantedData(
        images=noisy(content + binding * right),
        texts=noisy(content + binding * right @ rotation, own=wording),
        negatives=noisy(content + binding * wrong @ rotation, own=wording),
        other_images=noisy(other + part, 1.5 * noise),
        other_texts=noisy(other + part @ rotation, 1.5 * noise),
    )
