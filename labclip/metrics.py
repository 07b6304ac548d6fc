"""Metrics of embeddings: which caption fits which picture better. Float32, and a tie is wrong in every one."""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-6
"""Cosines of a matrix product nearer than this are a tie. Equal rows come out of a product unequal by some 1e-7, so
that without it the place in a block, not the model, would decide."""

_BLOCK = 4_000_000
"""Cosines at a time: more gain nothing and take memory."""


def unit_length(features: Tensor, what: str) -> Tensor:
    """Rows as float32 of length 1.

    Args:
        features: Embeddings, [n, dim], any scale and floating dtype.
        what: What they are, for the message.

    Returns:
        float32 [n, dim]; what was passed, where it is that already.

    Raises:
        ValueError: If they are no such matrix, or a row is not finite or all zeros; the first such row is named.
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"{what} are {features.dtype} {list(features.shape)}. Pass embeddings, float [n, dim].")
    features = features.float()
    length = features.norm(dim=-1, keepdim=True)
    bad = ~(torch.isfinite(length) & (length > 0)).flatten()
    if bad.any():
        row = int(bad.nonzero()[0])
        kind = "all zeros" if float(length[row]) == 0 else "not finite"
        raise ValueError(f"{what}: {int(bad.sum())} of {len(bad)} rows are unusable; row {row} is {kind}.")
    return features if bool(((length - 1).abs() < 1e-6).all()) else features / length


def choices(images: Tensor, texts: Tensor, image: Tensor, options: Tensor) -> Tensor:
    """Whether the right caption has a higher cosine with its picture than every other option.

    Args:
        images: Unit-length, float32 [pictures, dim].
        texts: Unit-length, float32 [captions, dim].
        image: Each item's picture, int64 [n].
        options: Each item's captions, the right one first, int64 [n, k]; -1 stands for no option.

    Returns:
        bool [n]; strictly higher, so that a tie is wrong.
    """
    correct = torch.empty(len(image), dtype=torch.bool)
    for start in range(0, len(image), 4096):
        part = slice(start, start + 4096)
        pictures = images[image[part]]
        # Not a matrix product: equal captions must come out equal.
        own = (pictures * texts[options[part, 0]]).sum(-1)
        right = torch.ones_like(own, dtype=torch.bool)
        for column in range(1, options.shape[1]):
            other = options[part, column]
            right &= (own > (pictures * texts[other.clamp_min(0)]).sum(-1)) | (other < 0)
        correct[part] = right
    return correct


def preferred(images: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Whether each picture's own caption has a higher cosine with it than a wrong one.

    Args:
        images: Unit-length, float32 [n, dim].
        right: Unit-length, float32 [n, dim].
        wrong: Unit-length, float32 [n, dim].

    Returns:
        bool [n]; strictly higher, so that a tie is wrong.
    """
    rows = torch.arange(len(images))
    return choices(images, torch.cat([right, wrong]), rows, torch.stack([rows, rows + len(rows)], dim=1))


def pairs(images: Tensor, texts: Tensor, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Winoground's three scores: two pictures and two captions, the first with the first, the second with the second.

    Args:
        images: Unit-length, float32 [pictures, dim].
        texts: Unit-length, float32 [captions, dim].
        image: int64 [n, 2].
        text: int64 [n, 2].

    Returns:
        Three bool [n]: text (for each picture its caption scores higher than the other), image (for each caption its
        picture does), group (both).

    Source: arXiv:2204.03162, equations 1 to 3.
    """
    scores = [[(images[image[:, i]] * texts[text[:, t]]).sum(-1) for t in (0, 1)] for i in (0, 1)]
    by_text = (scores[0][0] > scores[0][1]) & (scores[1][1] > scores[1][0])
    by_image = (scores[0][0] > scores[1][0]) & (scores[1][1] > scores[0][1])
    return by_text, by_image, by_text & by_image


def ranks(images: Tensor, texts: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
    """How many wrong ones are at least as near as the right one, in both directions of retrieval.

    One pass over the cosines, a block at a time: memory grows with pictures plus captions, not with their product.
    Recall@k is the share of ranks below k.

    Args:
        images: Unit-length, float32 [n, dim].
        texts: Unit-length, float32 [m, dim].
        image_index: Whose caption each text is, int64 [m].

    Returns:
        For each text the pictures other than its own that are at least as near, int64 [m]; for each picture the
        captions not its own that are at least as near as the best of its own, int64 [n] (all of them where it has no
        caption). Nearer by less than `TIE` is a tie, and a tie counts against the right one.
    """
    own = torch.cat([(images[image_index[part]] * texts[part]).sum(-1) for part in _parts(len(texts))])
    best = torch.full((len(images),), -2.0).scatter_reduce_(0, image_index, own, "amax")
    by_text = torch.zeros(len(texts), dtype=torch.int32)
    by_image = torch.zeros(len(images), dtype=torch.int32)
    columns = max(1, min(len(images), 8192))
    rows = max(1, _BLOCK // columns)
    for start in range(0, len(texts), rows):
        part = slice(start, min(start + rows, len(texts)))
        for left in range(0, len(images), columns):
            block = slice(left, min(left + columns, len(images)))
            cosine = texts[part] @ images[block].T
            inside = (image_index[part] >= left) & (image_index[part] < block.stop)
            cosine[inside.nonzero().flatten(), image_index[part][inside] - left] = -3.0
            by_text[part] += (cosine >= own[part, None] - TIE).sum(dim=1, dtype=torch.int32)
            by_image[block] += (cosine >= best[block] - TIE).sum(dim=0, dtype=torch.int32)
    return by_text.long(), by_image.long()


def _parts(n: int, rows: int = 8192) -> list[slice]:
    return [slice(start, start + rows) for start in range(0, n, rows)]


def class_ranks(images: Tensor, classes: Tensor, label: Tensor) -> Tensor:
    """How many wrong classes are at least as near to each picture as its own.

    Args:
        images: Unit-length, float32 [n, dim].
        classes: Unit-length, float32 [classes, dim].
        label: int64 [n].

    Returns:
        int64 [n]; accuracy@k is the share below k. Nearer by less than `TIE` is a tie, and counts against the own.
    """
    found = []
    for part in _parts(len(images)):
        cosine = images[part] @ classes.T
        own = cosine.gather(1, label[part, None])
        found.append((cosine >= own - TIE).sum(dim=1) - 1)
    return torch.cat(found)


def class_features(texts: Tensor, prompts: Tensor) -> Tensor:
    """One embedding a class: the mean of its prompts' unit-length embeddings, of unit length again.

    Args:
        texts: Unit-length, float32 [captions, dim].
        prompts: int64 [classes, templates].

    Returns:
        float32 [classes, dim].

    Source: arXiv:2103.00020, section 3.1.4.
    """
    return torch.nn.functional.normalize(texts[prompts].mean(dim=1), dim=-1)


def modality_gap(images: Tensor, texts: Tensor) -> float:
    """Distance between the mean image and the mean caption, means in float64: 0 to 2.

    Args:
        images: Unit-length, [n, dim].
        texts: Unit-length, [m, dim].

    Source: arXiv:2203.02053.
    """
    return float(torch.dist(images.mean(dim=0, dtype=torch.float64), texts.mean(dim=0, dtype=torch.float64)))
