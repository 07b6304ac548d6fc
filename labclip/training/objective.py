"""The loss of a batch and its gradient, by hand: four matrix products and as few passes over the logits as they allow.

Symbols: v image embeddings, x text embeddings, A the matrix, y = x A^T, u = y / |y|, z = exp(t) v u^T the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from labclip.training.ranks import Ranks


@dataclass(frozen=True)
class Batch:
    """One step's unit-length embeddings, the rows of this rank.

    Attributes:
        images: [n, dim].
        texts: Captions, then their negatives, [(1 + m) * n, dim]: first all captions, then the first negative of each.
        skipped: Flat places in [n, (1 + m) * N] of pairs that do not count, or None; N captions over all ranks.
        absent: Texts that are not there, bool [(1 + m) * N], or None: the negatives of captions that have none.
    """

    images: torch.Tensor
    texts: torch.Tensor
    skipped: torch.Tensor | None = None
    absent: torch.Tensor | None = None

    def leave_out(self, logits: torch.Tensor) -> None:
        """Give what does not count a logit that counts for nothing."""
        if self.skipped is not None:
            logits.view(-1)[self.skipped] = -math.inf
        if self.absent is not None:
            logits.masked_fill_(self.absent, -math.inf)


@dataclass(frozen=True)
class Gradient:
    """Of one step, summed over ranks.

    Attributes:
        loss: Mean over the captions.
        matrix: d loss / d A, [dim, dim].
        log_scale: d loss / d t.
        bias: d loss / d bias; 0 for the softmax objective.
    """

    loss: torch.Tensor
    matrix: torch.Tensor
    log_scale: torch.Tensor
    bias: torch.Tensor


def softmax_gradient(batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor, ranks: Ranks) -> Gradient:
    """CLIP's contrastive loss with hard negatives as further wrong captions of each image.

    Image to text is a cross entropy over captions and negatives, text to image one over images for the captions alone;
    the loss is their mean.

    Args:
        batch: The rows of this rank.
        matrix: A, [dim, dim].
        log_scale: t, a scalar.
        ranks: The other ranks.

    Returns:
        The loss and its gradient.

    Source: arXiv:2502.03566 (HNB; SB where the batch has no negatives).
    """
    n, total, first = len(batch.images), len(batch.images) * ranks.count, len(batch.images) * ranks.own
    unit, length = _aligned(batch.texts, matrix)
    every = ranks.gather_columns(unit, n)  # [(1 + m) * total, dim]
    scale = log_scale.exp()
    logits = (batch.images * scale) @ every.T  # [n, (1 + m) * total]
    own = torch.arange(n, device=logits.device)
    batch.leave_out(logits)
    right = logits[own, first + own]
    top = ranks.maximum(logits.max())
    weights = logits.sub_(top).exp_()  # in place: a pass over the logits costs as much as a small product
    row = weights.sum(dim=1)
    column = ranks.total(weights[:, :total].sum(dim=0))
    if bool(ranks.maximum(((row.min() < 1e-30) | (column.min() < 1e-30)).float())):
        logits = (batch.images * scale) @ every.T
        batch.leave_out(logits)
        loss, weights = _far_apart(logits, total, own, first, ranks)
    else:
        loss = (row.log() + column[first : first + n].log() + 2 * (top - right)).sum() / 2
        row, column = row.reciprocal_(), column.reciprocal_()
        weights[:, :total].mul_(row[:, None] + column)
        weights[:, total:].mul_(row[:, None])
    weights[own, first + own] -= 2.0
    return _backward(batch, weights, 0.5 / total, every, unit, length, scale, loss / total, ranks)


def _far_apart(
    logits: torch.Tensor, total: int, own: torch.Tensor, first: int, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same loss and sum of both softmaxes, where exp underflows against one common maximum."""
    by_row = logits.softmax(dim=1)
    captions = logits[:, :total]
    top = ranks.maximum(captions.amax(dim=0))
    by_column = (captions - top).exp()
    column = ranks.total(by_column.sum(dim=0))
    right = logits[own, first + own]
    at = slice(first, first + len(own))
    loss = (logits.logsumexp(dim=1) + column[at].log() + top[at] - 2 * right).sum() / 2
    by_row[:, :total] += by_column / column
    return loss, by_row


def sigmoid_gradient(
    batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor, bias: torch.Tensor, ranks: Ranks
) -> Gradient:
    """SigLIP's loss: each pair of image and text is right or wrong by itself; hard negatives are further wrong texts.

    Args:
        batch: The rows of this rank.
        matrix: A, [dim, dim].
        log_scale: t, a scalar.
        bias: Added to the logits, a scalar.
        ranks: The other ranks.

    Returns:
        The loss, a sum over texts and a mean over images, and its gradient.

    Source: arXiv:2303.15343 (SigLIP), with the negatives of arXiv:2502.03566.
    """
    n, total, first = len(batch.images), len(batch.images) * ranks.count, len(batch.images) * ranks.own
    unit, length = _aligned(batch.texts, matrix)
    every = ranks.gather_columns(unit, n)
    scale = log_scale.exp()
    logits = (batch.images * scale) @ every.T + bias
    own = torch.arange(n, device=logits.device)
    batch.leave_out(logits)
    right = logits[own, first + own]
    loss = (torch.nn.functional.softplus(logits).sum() - right.sum()) / total
    weights = logits.sigmoid_()
    weights[own, first + own] -= 1.0
    return _backward(batch, weights, 1 / total, every, unit, length, scale, loss, ranks, bias=True)


def _aligned(texts: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    aligned = texts @ matrix.T
    length = aligned.norm(dim=-1, keepdim=True).clamp_min_(1e-12)
    return aligned.div_(length), length


def _backward(
    batch: Batch,
    weights: torch.Tensor,
    share: float,
    every: torch.Tensor,
    unit: torch.Tensor,
    length: torch.Tensor,
    scale: torch.Tensor,
    loss: torch.Tensor,
    ranks: Ranks,
    *,
    bias: bool = False,
) -> Gradient:
    """From d loss / d z, `share` times `weights` [n, texts], to the parameters."""
    pull = ranks.total(weights.T @ (batch.images * (scale * share)))  # d loss / d u of every text
    pull = ranks.own_columns(pull, len(batch.images))
    along = (pull * unit).sum(dim=-1, keepdim=True)  # sums to d loss / d t, bias aside
    pull.addcmul_(along, unit, value=-1).div_(length)  # d loss / d y: the part across u
    return Gradient(
        loss=ranks.total(loss.clone()),
        matrix=ranks.total(pull.T @ batch.texts),
        log_scale=ranks.total(along.sum()),
        bias=ranks.total(weights.sum() * share) if bias else torch.zeros_like(scale),
    )
