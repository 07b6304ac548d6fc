"""Which images or texts are the same one, told by embeddings: also of a copy in float16, in one pass and a sort."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

_HASHES, _DIRECTIONS = 3, 8  # hashes a row, random directions a hash
_CELL = 0.02  # along a direction unit-length rows spread by 1; a copy in float16 moves by some 3e-4
_SAME = 1e-3  # unit-length rows nearer than this, in length of their difference, are one
_BLOCK = 4096  # rows at a time


def same_images(images: torch.Tensor) -> torch.Tensor:
    """For each image the first row that is the same one, by its embedding: int64 [n].

    Args:
        images: Embeddings, float32 [n, dim], any scale.
    """
    return first_same(lambda rows: F.normalize(images[rows], dim=-1), len(images))


def first_same(take: Callable[[torch.Tensor], torch.Tensor], n: int) -> torch.Tensor:
    """For each of n rows the first row that is the same, its own where there is none before it: int64 [n].

    Rows are compared where they share a hash. A hash is of the row's places along random directions, rounded to cells:
    a copy in float16 falls into another cell for one hash in ten, so for all three in one row of a thousand.

    Args:
        take: Unit-length rows of given numbers, float32 [m, dim]; all are asked for once, then those to compare.
        n: How many there are.
    """
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(take(torch.arange(1)).shape[1], _HASHES * _DIRECTIONS, generator=draw)
    mixing = torch.randint(-(2**62), 2**62, (_HASHES * _DIRECTIONS,), generator=draw) | 1
    first, hashes = torch.arange(n), []
    for rows in torch.split(first, _BLOCK):
        cells = (take(rows).cpu() @ directions / _CELL).floor().long()
        hashes.append((cells * mixing).view(len(rows), _HASHES, _DIRECTIONS).sum(dim=-1))
    for column in torch.cat(hashes).T:
        order = column.argsort(stable=True)
        begins = torch.ones(n, dtype=torch.bool)
        begins[1:] = column[order][1:] != column[order][:-1]
        heads = order[begins][begins.cumsum(0) - 1]
        asked = ~begins & (first[order] != first[heads])  # an earlier hash may have told
        for rows, head in zip(order[asked].split(_BLOCK), heads[asked].split(_BLOCK), strict=True):
            same = ((take(rows) - take(head)).norm(dim=-1) < _SAME).cpu()
            first[rows[same]] = torch.minimum(first[rows[same]], head[same])
    while not torch.equal(first, first[first]):
        first = first[first]
    return first
