"""Metrics of embeddings: which caption fits which image better. Float32, and a tie is wrong in every one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

TIE = 1e-6
"""Cosines of a matrix product nearer than this are a tie. Equal rows come out of a product unequal by some 1e-7, so
that without it the place in a block, not the model, would decide."""

UNIT = 1e-5
"""A row is of unit length if its length differs from 1 by no more: ten times what float32 rounds a length of 1,024
numbers by. Every other row is normalised where unit length is promised: float16 storage is off by up to 5e-4."""

PROBE_C = 1.0
"""C of the linear probe, the inverse strength of its regularisation: scikit-learn's default. The embedded model's 5,000
scenes read .908, .928 and .924 with .1, 1 and 10 from images, .951, .952 and .951 from captions."""

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
        raise ValueError(f"{what}: row {row} is {kind}. Embed it again, or leave it out.")
    return features if bool(((length - 1).abs() <= UNIT).all()) else features / length


def choice_margins(
    images: Tensor, texts: Tensor, image: Tensor, options: Tensor, total: Tensor | None = None
) -> list[Tensor]:
    """The cosine of the right caption minus that of the best wrong one: above 0 the item is right.

    Args:
        images: Unit-length, float32 [images, dim].
        texts: Unit-length, float32 [captions, dim].
        image: Each item's image, int64 [n].
        options: Each item's captions, the right one first, int64 [n, k]; -1 stands for no option.
        total: The sum of all images, float32 [dim], as `sum_of_images` gives it, for the two controls.

    Returns:
        The margin, 0 for a tie; with `total` also *blind*, with the mean of all other images in the place of the image,
        and *grounded*, with the image less that mean; none of them normalised again. float32 [n] each; infinite where
        there is no other option.
    """
    least = torch.full((1 if total is None else 3, len(image)), torch.inf)
    for part in _parts(len(image), 4096):
        shown, text = images[image[part]], texts[options[part, 0]]
        # Not a matrix product: equal captions must come out equal.
        own = (shown * text).sum(-1)
        own_total = None if total is None else (total * text).sum(-1)  # of all images together
        for column in range(1, options.shape[1]):
            other = options[part, column]
            text = texts[other.clamp_min(0)]
            margin = own - (shown * text).sum(-1)
            margins = margin[None]
            if total is not None and own_total is not None:
                ahead = own_total - (total * text).sum(-1)
                margins = torch.stack([margin, ahead - margin, len(images) * margin - ahead])
            least[:, part] = torch.minimum(least[:, part], margins.masked_fill_(other < 0, torch.inf))
    least[1:] /= len(images) - 1
    return list(least)


def sum_of_images(images: Tensor) -> Tensor | None:
    """The sum of images, float32 [dim], summed in float64; None of fewer than two."""
    if len(images) < 2:
        return None
    total = torch.zeros(images[:1].shape[1], dtype=torch.float64)
    for part in _parts(len(images)):
        total += images[part].sum(dim=0, dtype=torch.float64)
    return total.float()


def preferred(images: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Whether each image's own caption has a higher cosine with it than a wrong one.

    Args:
        images: Unit-length, float32 [n, dim].
        right: Unit-length, float32 [n, dim].
        wrong: Unit-length, float32 [n, dim].

    Returns:
        bool [n]; strictly higher, so that a tie is wrong.
    """
    return (images * right).sum(-1) > (images * wrong).sum(-1)


def pairs(images: Tensor, texts: Tensor, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Winoground's three scores: two images and two captions, the first with the first, the second with the second.

    Args:
        images: Unit-length, float32 [images, dim].
        texts: Unit-length, float32 [captions, dim].
        image: int64 [n, 2].
        text: int64 [n, 2].

    Returns:
        Three bool [n]: text (for each image its caption scores higher than the other), image (for each caption its
        image does), group (both). Images nearer than `TIE` are a tie: two copies of one, encoded in different batches,
        differ by rounding alone.

    Source: arXiv:2204.03162, equations 1 to 3.
    """
    by_text, by_image, _ = pair_margins(images, texts, image, text)
    return by_text > 0, by_image > TIE, (by_text > 0) & (by_image > TIE)


def pair_margins(images: Tensor, texts: Tensor, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By how much each inequality of `pairs` holds, the smaller one of its two; float32 [n] each."""
    scores = [[(images[image[:, i]] * texts[text[:, t]]).sum(-1) for t in (0, 1)] for i in (0, 1)]
    by_text = torch.minimum(scores[0][0] - scores[0][1], scores[1][1] - scores[1][0])
    by_image = torch.minimum(scores[0][0] - scores[1][0], scores[1][1] - scores[0][1])
    return by_text, by_image, torch.minimum(by_text, by_image)


def ranks(
    images: Tensor, texts: Tensor, image_index: Tensor, *, by_index: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ranks and margins of the right answers in both directions of retrieval.

    One pass over the cosines, a block at a time: memory grows with images plus texts, not with their product.
    Recall@k is the fraction of ranks below k.

    Args:
        images: Unit-length, float32 [n, dim].
        texts: Unit-length, float32 [m, dim].
        image_index: The image that each text describes, int64 [m].
        by_index: Whether the first of a tie is nearest, as in published code, to compare with its figures.

    Returns:
        For each text the wrong images that are at least as near as its own, int64 [m]; for each image the wrong texts
        that are at least as near as the best of its own, int64 [n], all of them where it has none. Nearer by less than
        `TIE` is a tie, and a tie counts against the right one. Then by how much the right one is nearer than the
        nearest wrong one, float32 [m] and [n]; infinite where there is no wrong one.
    """
    own = torch.cat([(images[image_index[part]] * texts[part]).sum(-1) for part in _parts(len(texts))])
    best = torch.full((len(images),), -2.0).scatter_reduce_(0, image_index, own, "amax")  # of its own texts, if any
    by_text = torch.zeros(len(texts), dtype=torch.int32)
    by_image = torch.zeros(len(images), dtype=torch.int32)
    nearest_image, nearest_text = torch.full_like(own, -torch.inf), torch.full_like(best, -torch.inf)
    row, column = torch.arange(len(texts)), torch.arange(len(images))
    tied = own >= best[image_index] - TIE
    first = torch.full_like(column, len(row)).scatter_reduce_(0, image_index[tied], row[tied], "amin")
    for part, block, cosine in _wrong(images, texts, image_index):
        edge = _edge(column[None, block] > image_index[part, None]) if by_index else -TIE
        by_text[part] += (cosine >= own[part, None] + edge).sum(dim=1, dtype=torch.int32)
        edge = _edge(row[part, None] > first[None, block]) if by_index else -TIE
        by_image[block] += (cosine >= best[block] + edge).sum(dim=0, dtype=torch.int32)
        nearest_image[part] = torch.maximum(nearest_image[part], cosine.amax(dim=1))
        nearest_text[block] = torch.maximum(nearest_text[block], cosine.amax(dim=0))
    return by_text.long(), by_image.long(), own - nearest_image, best - nearest_text


def _edge(later: Tensor) -> Tensor:
    """The least margin at which a candidate counts as nearer than the right one, by its index."""
    return torch.where(later, TIE, -TIE)


def _wrong(images: Tensor, texts: Tensor, image_index: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of texts, images and their cosines, with -inf for right pairs."""
    columns = max(1, min(len(images), 8192))
    for part in _parts(len(texts), max(1, _BLOCK // columns)):
        index = image_index[part]
        for block in _parts(len(images), columns):
            cosine = texts[part] @ images[block].T
            inside = (index >= block.start) & (index < block.stop)
            cosine[inside.nonzero().flatten(), index[inside] - block.start] = -torch.inf
            yield part, block, cosine


def _parts(n: int, rows: int = 8192) -> list[slice]:
    return [slice(start, start + rows) for start in range(0, n, rows)]


def class_ranks(images: Tensor, classes: Tensor, label: Tensor, *, by_index: bool = False) -> tuple[Tensor, Tensor]:
    """The rank of each image's class, and the margin over the nearest wrong class.

    Args:
        images: Unit-length, float32 [n, dim].
        classes: Unit-length, float32 [classes, dim].
        label: int64 [n].
        by_index: Whether the first of a tie is nearest, as in published code, to compare with its figures.

    Returns:
        Ranks, int64 [n]: accuracy@k is the fraction below k. Nearer by less than `TIE` is a tie, and counts against the
        own. Then the cosine of the own class minus that of the nearest wrong one, float32 [n].
    """
    ranks, margins = [], []
    for part in _parts(len(images)):
        cosine, mine = images[part] @ classes.T, label[part, None]
        edge = _edge(torch.arange(len(classes)) > mine) if by_index else -TIE
        own = cosine.gather(1, mine)
        ranks.append((cosine >= own + edge).sum(dim=1) - 1)
        margins.append(own[:, 0] - cosine.scatter_(1, mine, -torch.inf).amax(dim=1))
    return torch.cat(ranks), torch.cat(margins)


def class_features(texts: Tensor, prompts: Tensor) -> Tensor:
    """One embedding a class: the mean of its prompts' unit-length embeddings, of unit length again.

    Args:
        texts: Unit-length, float32 [captions, dim].
        prompts: int64 [classes, templates]; -1 stands for none, where classes have different numbers of them.

    Returns:
        float32 [classes, dim].

    Source: arXiv:2103.00020, section 3.1.4.
    """
    there = prompts >= 0
    embeddings = texts[prompts.clamp_min(0)].mul_(there[..., None])
    return F.normalize(embeddings.sum(dim=1) / there.sum(dim=1, keepdim=True), dim=-1)


def same_threshold(base_scores: ArrayLike, aligned_scores: ArrayLike, threshold: float) -> float:
    """The threshold on aligned cosines that lets as many false matches through as one on the base's cosines.

    A matrix moves all cosines, so a threshold that was chosen for the base finds too much or nothing after the swap.

    Args:
        base_scores: Cosines of the base for pairs of image and text that do not match, any shape: a sample of one's
            own queries against images that do not show them.
        aligned_scores: Cosines of the aligned model for the same pairs, the same shape.
        threshold: On the base's cosines; at least this is a match.

    Returns:
        The threshold on the aligned cosines.

    Raises:
        ValueError: If shapes differ, or no pair reaches `threshold`, so that nothing can be learnt from the sample.

    Example:
        >>> same_threshold([0.1, 0.2, 0.3, 0.4], [0.0, 0.1, 0.6, 0.4], threshold=0.3)
        0.25
    """
    base, aligned = (np.asarray(scores, dtype=np.float64) for scores in (base_scores, aligned_scores))
    if base.shape != aligned.shape:
        raise ValueError(
            f"Scores have shapes {list(base.shape)} and {list(aligned.shape)}. Pass those of the same pairs."
        )
    matches = int((base >= threshold).sum())
    if not matches:
        raise ValueError(
            f"None of the {base.size:,} base scores reaches {threshold:g}, so its rate of false matches is not known. "
            f"Pass more pairs that do not match."
        )
    ordered = np.sort(aligned, axis=None)[::-1]
    return float(ordered[matches - 1 : matches + 1].mean())


def modality_gap(images: Tensor, texts: Tensor) -> float:
    """Distance between the mean image and the mean caption, means in float64: 0 to 2.

    Args:
        images: Unit-length, [n, dim].
        texts: Unit-length, [m, dim].

    Source: arXiv:2203.02053.
    """
    return float(torch.dist(images.mean(dim=0, dtype=torch.float64), texts.mean(dim=0, dtype=torch.float64)))


@torch.inference_mode(False)
def linear_probe(train: Tensor, train_label: Tensor, test: Tensor, test_label: Tensor) -> Tensor:
    """Whether a linear probe, trained on some embeddings, reads the class of each of the others.

    Multinomial logistic regression with a bias, on features standardised by those it is trained on. L-BFGS minimises
    the sum of the cross-entropies plus the squared weights over 2 `PROBE_C`, as scikit-learn defines C.

    Args:
        train: Embeddings to train on, float32 [n, dim], any scale.
        train_label: Their classes, int64 [n].
        test: Embeddings to read, float32 [m, dim].
        test_label: Their classes, int64 [m].

    Returns:
        bool [m]: whether the own class has the highest score by more than `TIE`. A class that no training embedding has
        can't be read.
    """
    classes, target = torch.unique(train_label, return_inverse=True)
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0) + 1e-6
    x, ridge = (train - mean) / std, 1 / (2 * PROBE_C * len(train))
    weight = torch.zeros(len(classes), x.shape[1], requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    # Stopped at 1e-4 it reads the embedded model's scenes within .001 of 1e-7, in a third of the time.
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, tolerance_grad=1e-4, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), target) + ridge * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    scores = F.linear((test - mean) / std, weight.detach(), bias.detach())
    own = classes == test_label[:, None]
    highest = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    return own.any(dim=1) & ((scores >= highest - TIE).sum(dim=1) == 1)
