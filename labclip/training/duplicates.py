"""Which images or texts are the same one, told by embeddings: also of a copy in float16, in one pass and a sort."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

_HASHES, _DIRECTIONS = 3, 8  # hashes a row, random directions a hash
_CELL = 0.02  # along a direction unit-length rows spread by 1; a copy in float16 moves by some 3e-4
_SAME = 1e-3  # unit-length rows nearer than this, in length of their difference, are one
_BLOCK = 4096


def same_images(images: torch.Tensor) -> torch.Tensor:
    """For each image the first row that is the same one, by its embedding: int64 [n].

    Args:
        images: Embeddings, float32 [n, dim], any scale.
    """
    return first_same(hashes_of(images), lambda rows: F.normalize(images[rows], dim=-1))


def hashes_of(rows: torch.Tensor) -> torch.Tensor:
    """Hashes of rows [n, dim] of any scale, of which copies of a row have at least one in common, int64 [n, 3].

    Each is of the row's places along random directions, rounded to cells. A copy in float16 falls into another cell for
    one hash in ten, so for all three in one row of a thousand.
    """
    directions, mixing = _random(rows.shape[-1])
    cells = (rows @ directions / rows.norm(dim=-1, keepdim=True) / _CELL).floor().long()
    return (cells * mixing).view(len(rows), _HASHES, _DIRECTIONS).sum(dim=-1)


def first_same(hashes: torch.Tensor, take: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """For each row the first row that is the same, its own where there is none before it: int64 [n].

    Args:
        hashes: Of all rows, [n, 3].
        take: Unit-length rows of given numbers; asked only for rows that share a hash.
    """
    first = torch.arange(len(hashes))
    for column in hashes.T:
        order = column.argsort(stable=True)
        begins = torch.ones(len(order), dtype=torch.bool)
        begins[1:] = column[order][1:] != column[order][:-1]
        if bool(begins.all()):
            continue
        heads = order[begins][begins.cumsum(0) - 1]
        asked = ~begins & (first[order] != first[heads])  # an earlier hash may have told
        for rows, head in zip(order[asked].split(_BLOCK), heads[asked].split(_BLOCK), strict=True):
            same = (take(rows) - take(head)).norm(dim=-1) < _SAME
            first[rows[same]] = torch.minimum(first[rows[same]], head[same])
    while not torch.equal(first, first[first]):
        first = first[first]
    return first


@cache
def _random(dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(dim, _HASHES * _DIRECTIONS, generator=draw)
    return directions, torch.randint(-(2**62), 2**62, (_HASHES * _DIRECTIONS,), generator=draw) | 1
