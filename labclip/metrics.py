"""Metrics on embeddings: which caption fits which image better. All compute in float32 and count a tie as wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

TIE = 1e-6
"""Cosines of a matrix product that differ by less are a tie. The product gives equal rows cosines that differ by about
1e-7; without this threshold, the position in a block would decide instead of the model."""

UNIT = 1e-5
"""A row has unit length if its length differs from 1 by at most this: ten times the float32 rounding of the length of
1,024 numbers. Other rows are normalised again; those stored in float16 are off by up to 5e-4."""

PROBE_C = 1.0
"""C of the linear probe, the inverse strength of its regularisation: scikit-learn's default. On 5,000 scenes of the
embedded model, C = .1, 1 and 10 give accuracies of .908, .928 and .924 on images, .951, .952 and .951 on captions."""

_BLOCK = 4_000_000
"""Cosines computed at a time: larger blocks take more memory and are not faster."""


def unit_length(features: Tensor, what: str) -> Tensor:
    """Normalise rows to unit length.

    Args:
        features: Embeddings, [n, dim], any scale and floating dtype.
        what: What they are, such as "Images", for the message.

    Returns:
        float32 [n, dim]; the same tensor if it already is float32 of unit length.

    Raises:
        ValueError: If `features` is not such a matrix, or a row is all zeros or not finite; it names the first one.
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"{what} are {features.dtype} {list(features.shape)}. Pass embeddings, float [n, dim].")
    features = features.float()
    length = features.norm(dim=-1, keepdim=True)
    invalid = ~(torch.isfinite(length) & (length > 0)).flatten()
    if invalid.any():
        row = int(invalid.nonzero()[0])
        problem = "all zeros" if float(length[row]) == 0 else "not finite"
        raise ValueError(f"{what}: row {row} is {problem}. Embed it again, or leave it out.")
    return features if bool(((length - 1).abs() <= UNIT).all()) else features / length


def choice_margins(
    images: Tensor, texts: Tensor, image: Tensor, options: Tensor, total: Tensor | None = None
) -> list[Tensor]:
    """The cosine of the right caption minus that of the best wrong one. A positive margin means a right choice.

    Args:
        images: Unit-length, float32 [images, dim].
        texts: Unit-length, float32 [captions, dim].
        image: Index of each item's image, int64 [n].
        options: Indices of each item's captions, the right one first, int64 [n, k]; -1 is no option.
        total: The sum of all images, float32 [dim], from `total_of`; needed for the two controls.

    Returns:
        The margins, float32 [n]: 0 for a tie, infinite if there is no wrong option. With `total` also the margins of
        the two controls, float32 [n] each: *blind* has the mean of all other images instead of the image, *grounded*
        the image minus that mean. Neither mean nor difference is normalised again.
    """
    least = torch.full((1 if total is None else 3, len(image)), torch.inf)
    for batch in _slices(len(image), 4096):
        image_rows, text_rows = images[image[batch]], texts[options[batch, 0]]
        # Not a matrix product: equal captions must get equal cosines.
        right_cosine = (image_rows * text_rows).sum(-1)
        right_total = None if total is None else (total * text_rows).sum(-1)
        for column in range(1, options.shape[1]):
            option = options[batch, column]
            text_rows = texts[option.clamp_min(0)]
            margin = right_cosine - (image_rows * text_rows).sum(-1)
            margins = margin[None]
            if total is not None and right_total is not None:
                total_margin = right_total - (total * text_rows).sum(-1)  # summed over all images, this one included
                margins = torch.stack([margin, total_margin - margin, len(images) * margin - total_margin])
            least[:, batch] = torch.minimum(least[:, batch], margins.masked_fill_(option < 0, torch.inf))
    least[1:] /= len(images) - 1
    return list(least)


def total_of(images: Tensor) -> Tensor | None:
    """The sum of all images, float32 [dim], added up in float64; None for fewer than two images."""
    if len(images) < 2:
        return None
    total = torch.zeros(images[:1].shape[1], dtype=torch.float64)
    for batch in _slices(len(images)):
        total += images[batch].sum(dim=0, dtype=torch.float64)
    return total.float()


def preferred(images: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Whether each image has a higher cosine with its right caption than with a wrong one.

    Args:
        images: Unit-length, float32 [n, dim].
        right: The right captions, unit-length, float32 [n, dim].
        wrong: The wrong captions, unit-length, float32 [n, dim].

    Returns:
        bool [n]; False for a tie.
    """
    return (images * right).sum(-1) > (images * wrong).sum(-1)


def pairs(images: Tensor, texts: Tensor, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Winoground's three scores. Each item has two images and two captions; the first belong together, and the second.

    Args:
        images: Unit-length, float32 [images, dim].
        texts: Unit-length, float32 [captions, dim].
        image: Indices of each item's two images, int64 [n, 2].
        text: Indices of each item's two captions, int64 [n, 2].

    Returns:
        Three bool [n]. Text: both images have a higher cosine with their own caption than with the other. Image: both
        captions have a higher cosine with their own image. Group: both. Cosines with two images that differ by less
        than `TIE` are a tie: copies of one image, encoded in different batches, differ by rounding.

    Source: arXiv:2204.03162, equations 1 to 3.
    """
    by_text, by_image, _ = pair_margins(images, texts, image, text)
    return by_text > 0, by_image > TIE, (by_text > 0) & (by_image > TIE)


def pair_margins(images: Tensor, texts: Tensor, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The margins of the three scores of `pairs`, float32 [n] each: the smallest margin of the score's comparisons."""
    scores = [[(images[image[:, i]] * texts[text[:, t]]).sum(-1) for t in (0, 1)] for i in (0, 1)]
    by_text = torch.minimum(scores[0][0] - scores[0][1], scores[1][1] - scores[1][0])
    by_image = torch.minimum(scores[0][0] - scores[1][0], scores[1][1] - scores[0][1])
    return by_text, by_image, torch.minimum(by_text, by_image)


def ranks(
    images: Tensor, texts: Tensor, image_index: Tensor, *, by_index: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ranks and margins of the right answers in both directions of retrieval.

    Recall@k is the fraction of ranks below k. The cosines are computed in blocks: memory grows with the number of
    images plus texts, not with their product.

    Args:
        images: Unit-length, float32 [n, dim].
        texts: Unit-length, float32 [m, dim].
        image_index: Index of the image that each text describes, int64 [m].
        by_index: Whether the first of tied candidates ranks first, as in published code; to compare with its figures.

    Returns:
        Four tensors. The rank of each text's image, int64 [m]: how many wrong images have at least its cosine. The
        rank of each image's best text, int64 [n]: how many wrong texts have at least its cosine; all of them, if the
        image has no text. Cosines that differ by less than `TIE` are a tie, which counts against the right answer.
        Then the cosine of the right answer minus that of the best wrong one, float32 [m] and [n]; infinite if there
        is no wrong one.
    """
    own = torch.cat([(images[image_index[rows]] * texts[rows]).sum(-1) for rows in _slices(len(texts))])
    best = torch.full((len(images),), -2.0).scatter_reduce_(0, image_index, own, "amax")  # -2 if it has no text
    text_rank = torch.zeros(len(texts), dtype=torch.int32)
    image_rank = torch.zeros(len(images), dtype=torch.int32)
    wrong_image, wrong_text = torch.full_like(own, -torch.inf), torch.full_like(best, -torch.inf)  # highest cosines
    row, column = torch.arange(len(texts)), torch.arange(len(images))
    tied = own >= best[image_index] - TIE
    first = torch.full_like(column, len(row)).scatter_reduce_(0, image_index[tied], row[tied], "amin")
    for rows, block, cosine in _wrong_cosines(images, texts, image_index):
        edge = _edge(column[None, block] > image_index[rows, None]) if by_index else -TIE
        text_rank[rows] += (cosine >= own[rows, None] + edge).sum(dim=1, dtype=torch.int32)
        edge = _edge(row[rows, None] > first[None, block]) if by_index else -TIE
        image_rank[block] += (cosine >= best[block] + edge).sum(dim=0, dtype=torch.int32)
        wrong_image[rows] = torch.maximum(wrong_image[rows], cosine.amax(dim=1))
        wrong_text[block] = torch.maximum(wrong_text[block], cosine.amax(dim=0))
    return text_rank.long(), image_rank.long(), own - wrong_image, best - wrong_text


def _edge(later: Tensor) -> Tensor:
    """By how much a wrong answer's cosine must exceed the right one's to rank before it: a later index loses a tie."""
    return torch.where(later, TIE, -TIE)


def _wrong_cosines(images: Tensor, texts: Tensor, image_index: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of texts, images and their cosines, with -inf for right pairs."""
    width = max(1, min(len(images), 8192))
    for rows in _slices(len(texts), max(1, _BLOCK // width)):
        index = image_index[rows]
        for block in _slices(len(images), width):
            cosine = texts[rows] @ images[block].T
            in_block = (index >= block.start) & (index < block.stop)
            cosine[in_block.nonzero().flatten(), index[in_block] - block.start] = -torch.inf
            yield rows, block, cosine


def _slices(n: int, size: int = 8192) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def class_ranks(images: Tensor, classes: Tensor, label: Tensor, *, by_index: bool = False) -> tuple[Tensor, Tensor]:
    """The rank of each image's class, and its margin over the best wrong class.

    Args:
        images: Unit-length, float32 [n, dim].
        classes: Unit-length, float32 [classes, dim].
        label: Index of each image's class, int64 [n].
        by_index: Whether the first of tied classes ranks first, as in published code; to compare with its figures.

    Returns:
        Ranks, int64 [n]: accuracy@k is the fraction below k. Cosines that differ by less than `TIE` are a tie, which
        counts against the image's class. Then that class's cosine minus that of the best wrong one, float32 [n].
    """
    ranks, margins = [], []
    for rows in _slices(len(images)):
        cosine, own_class = images[rows] @ classes.T, label[rows, None]
        edge = _edge(torch.arange(len(classes)) > own_class) if by_index else -TIE
        own_cosine = cosine.gather(1, own_class)
        ranks.append((cosine >= own_cosine + edge).sum(dim=1) - 1)
        margins.append(own_cosine[:, 0] - cosine.scatter_(1, own_class, -torch.inf).amax(dim=1))
    return torch.cat(ranks), torch.cat(margins)


def class_features(texts: Tensor, prompts: Tensor) -> Tensor:
    """One embedding for each class: the normalised mean of its prompts' embeddings.

    Args:
        texts: Unit-length, float32 [captions, dim].
        prompts: Indices of each class's prompts, int64 [classes, templates]; a class with fewer is filled with -1.

    Returns:
        Unit-length, float32 [classes, dim].

    Source: arXiv:2103.00020, section 3.1.4.
    """
    valid = prompts >= 0
    embeddings = texts[prompts.clamp_min(0)].mul_(valid[..., None])
    return F.normalize(embeddings.sum(dim=1) / valid.sum(dim=1, keepdim=True), dim=-1)


def same_threshold(base_scores: ArrayLike, aligned_scores: ArrayLike, threshold: float) -> float:
    """The threshold on aligned cosines that gives as many false matches as a threshold on the base's cosines.

    A matrix changes all cosines, so with the base's threshold the aligned model would match too many pairs or none.

    Args:
        base_scores: The base's cosines of images and texts that do not match, any shape: for example your own queries
            with a sample of images that do not show them.
        aligned_scores: The aligned model's cosines of the same pairs, the same shape.
        threshold: The threshold on the base's cosines: a pair matches if its cosine is at least this.

    Returns:
        The threshold on the aligned cosines.

    Raises:
        ValueError: If the shapes differ, or no pair reaches `threshold`, so that the sample has no false matches.

    Example:
        >>> same_threshold([0.1, 0.2, 0.3, 0.4], [0.0, 0.1, 0.6, 0.4], threshold=0.3)
        0.25
    """
    base, aligned = (np.asarray(scores, dtype=np.float64) for scores in (base_scores, aligned_scores))
    if base.shape != aligned.shape:
        raise ValueError(
            f"Scores have shapes {list(base.shape)} and {list(aligned.shape)}. Pass scores of the same pairs."
        )
    matches = int((base >= threshold).sum())
    if not matches:
        raise ValueError(
            f"None of the {base.size:,} base scores reaches {threshold:g}, so its rate of false matches is unknown. "
            f"Pass more pairs that do not match."
        )
    ordered = np.sort(aligned, axis=None)[::-1]
    return float(ordered[matches - 1 : matches + 1].mean())


def modality_gap(images: Tensor, texts: Tensor) -> float:
    """The distance between the mean image and the mean caption, from 0 to 2; the means are computed in float64.

    Args:
        images: Unit-length, [n, dim].
        texts: Unit-length, [m, dim].

    Source: arXiv:2203.02053.
    """
    return float(torch.dist(images.mean(dim=0, dtype=torch.float64), texts.mean(dim=0, dtype=torch.float64)))


@torch.inference_mode(False)
def linear_probe(train: Tensor, train_label: Tensor, test: Tensor, test_label: Tensor) -> Tensor:
    """Train a linear probe, and test whether it predicts the classes of other embeddings.

    The probe is multinomial logistic regression with a bias, on features standardised by the training embeddings.
    L-BFGS minimises the sum of the cross-entropies plus the squared weights over 2 `PROBE_C`, as scikit-learn
    defines C.

    Args:
        train: Embeddings to train on, float32 [n, dim], any scale.
        train_label: Their classes, int64 [n].
        test: Embeddings to classify, float32 [m, dim].
        test_label: Their classes, int64 [m].

    Returns:
        bool [m]: whether the embedding's class has the highest score by more than `TIE`. False for a class without
        training embeddings.
    """
    classes, target = torch.unique(train_label, return_inverse=True)
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0) + 1e-6
    x, ridge = (train - mean) / std, 1 / (2 * PROBE_C * len(train))
    weight = torch.zeros(len(classes), x.shape[1], requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    # A tolerance of 1e-4 gives the accuracy of 1e-7 within .001 on the embedded model's scenes, in a third of the time.
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
