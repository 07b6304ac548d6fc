"""The loss of a batch and its gradient, by hand: four matrix products and as few passes over the logits as they allow.

A user's objective sees the logits alone; the way back from them to the matrix is the same. Symbols: v image embeddings,
x text embeddings, A the matrix, y = x A^T, u = y / |y|, z = exp(t) v u^T the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from labclip.training.ranks import Ranks


class Objective(Protocol):
    """A loss of one's own, for `labclip.fit(features, objective=...)`."""

    def __call__(self, logits: torch.Tensor, columns: torch.Tensor, /) -> torch.Tensor:
        """The loss of a batch.

        Args:
            logits: Cosines times exp(t), float32 [rows, texts]. A row is an image; texts are the n captions of the
                batch, then a negative of each, m times: column j n + i is negative j of caption i. Without images of
                negatives there are n rows, row i the image of caption i. An entry that does not count is -inf: an
                absent negative, another caption of the same image. Gradients are taken of the logits alone.
            columns: Each row's own text, int64 [rows]; 0 to n - 1 without images of negatives.

        Returns:
            A scalar, computed from the logits by operations that torch differentiates.
        """


@dataclass(frozen=True)
class Batch:
    """One step's unit-length embeddings, the rows of this rank.

    Attributes:
        images: [n, dim]; or, where negatives have images too, those of all texts, [(1 + m) * n, dim].
        texts: Captions, then their negatives, [(1 + m) * n, dim]: first all captions, then the first negative of each.
        skipped: Flat places in [images, (1 + m) * N] of pairs that do not count, or None; N captions over all ranks.
        absent: Texts that are not there, bool [(1 + m) * N], or None: the negatives of captions that have none.
        blocks: Of images: 1, or 1 + m.
        unpaired: Texts without an image of their own, bool [blocks * N], or None: no row of `images` counts for them.
    """

    images: torch.Tensor
    texts: torch.Tensor
    skipped: torch.Tensor | None = None
    absent: torch.Tensor | None = None
    blocks: int = 1
    unpaired: torch.Tensor | None = None

    def pairs(self, ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor, int, float]:
        """Which rows of images have which columns of texts as their own, columns that may, and pairs over all ranks."""
        n = len(self.images) // self.blocks
        total = n * ranks.count
        rows = torch.arange(len(self.images), device=self.images.device)
        columns = rows // n * total + n * ranks.own + rows % n
        if self.unpaired is None:
            return rows, columns, self.blocks * total, float(self.blocks * total)
        there = ~self.unpaired[columns]
        return rows[there], columns[there], self.blocks * total, float((~self.unpaired).sum())

    def missing(self, rows: torch.Tensor) -> torch.Tensor | None:
        """Rows of images that are not there, bool, or None; `rows` are those that are."""
        if self.unpaired is None:
            return None
        return torch.ones(len(self.images), dtype=torch.bool, device=rows.device).index_fill_(0, rows, False)

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
    the loss is their mean. Negatives that have an image are captions like the others, of that image.

    Args:
        batch: The rows of this rank.
        matrix: A, [dim, dim].
        log_scale: t, a scalar.
        ranks: The other ranks.

    Returns:
        The loss and its gradient.

    Source: arXiv:2502.03566 (HNB; SB where the batch has no negatives).
    """
    rows, columns, wide, count = batch.pairs(ranks)
    unit, length = _aligned(batch.texts, matrix)
    every = ranks.gather_columns(unit, len(batch.images) // batch.blocks)  # [(1 + m) * N, dim]
    scale = log_scale.exp()
    logits = (batch.images * scale) @ every.T  # [images, (1 + m) * N]
    missing = batch.missing(rows)
    batch.leave_out(logits)
    right = logits[rows, columns]
    top = ranks.maximum(logits.max())
    weights = logits.sub_(top).exp_()  # in place: a pass over the logits costs as much as a small product
    if missing is not None:
        weights[missing] = 0.0
    row = weights.sum(dim=1)
    column = ranks.total(weights[:, :wide].sum(dim=0))
    if missing is not None:
        row[missing], column[batch.unpaired] = math.inf, math.inf  # whose reciprocals are 0
    if bool(ranks.maximum(((row.min() < 1e-30) | (column.min() < 1e-30)).float())):
        logits = (batch.images * scale) @ every.T
        batch.leave_out(logits)
        loss, weights = _far_apart(batch, logits, ranks)
    else:
        loss = (row[rows].log() + column[columns].log() + 2 * (top - right)).sum() / 2
        row, column = row.reciprocal_(), column.reciprocal_()
        weights[:, :wide].mul_(row[:, None] + column)
        weights[:, wide:].mul_(row[:, None])
    weights[rows, columns] -= 2.0
    return _backward(batch, weights, 0.5 / count, every, unit, length, scale, loss / count, ranks)


def _far_apart(batch: Batch, logits: torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor]:
    """The same loss and sum of both softmaxes, where exp underflows against one common maximum."""
    rows, columns, wide, _ = batch.pairs(ranks)
    missing = batch.missing(rows)
    by_row = logits.softmax(dim=1)
    captions = logits[:, :wide]
    if missing is not None:
        by_row[missing], captions[missing] = 0.0, -math.inf
    top = ranks.maximum(captions.amax(dim=0)).clamp_min(-1e30)
    by_column = (captions - top).exp()
    column = ranks.total(by_column.sum(dim=0))
    if missing is not None:
        column[batch.unpaired] = math.inf
    right = logits[rows, columns]
    loss = (logits[rows].logsumexp(dim=1) + column[columns].log() + top[columns] - 2 * right).sum() / 2
    by_row[:, :wide] += by_column / column
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
    rows, columns, _, count = batch.pairs(ranks)
    unit, length = _aligned(batch.texts, matrix)
    every = ranks.gather_columns(unit, len(batch.images) // batch.blocks)
    scale = log_scale.exp()
    logits = (batch.images * scale) @ every.T + bias
    batch.leave_out(logits)
    if (missing := batch.missing(rows)) is not None:
        logits[missing] = -math.inf
    right = logits[rows, columns]
    loss = (torch.nn.functional.softplus(logits).sum() - right.sum()) / count
    weights = logits.sigmoid_()
    weights[rows, columns] -= 1.0
    return _backward(batch, weights, 1 / count, every, unit, length, scale, loss, ranks, bias=True)


def custom_gradient(objective: Objective, batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor) -> Gradient:
    """A user's loss: autograd down to the logits, then by hand. In one process only.

    Args:
        objective: The loss.
        batch: All rows.
        matrix: A, [dim, dim].
        log_scale: t, a scalar.

    Returns:
        The loss and its gradient.

    Raises:
        ValueError: If the objective returns anything but a scalar that depends on the logits.
    """
    alone = Ranks()
    rows, columns, _, _ = batch.pairs(alone)
    unit, length = _aligned(batch.texts, matrix)
    scale = log_scale.exp()
    logits = (batch.images * scale) @ unit.T
    batch.leave_out(logits)
    with torch.inference_mode(False), torch.enable_grad():
        seen = logits[rows].requires_grad_()
        loss = objective(seen, columns.clone())
        if not isinstance(loss, torch.Tensor) or loss.shape != () or not loss.requires_grad:
            found = f"shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise ValueError(f"The objective returns {found}. Return a scalar tensor computed from the logits.")
        (pull,) = torch.autograd.grad(loss, seen)
    weights = torch.zeros_like(logits)
    weights[rows] = pull.masked_fill(seen.detach() == -math.inf, 0.0)
    return _backward(batch, weights, 1.0, unit, unit, length, scale, loss.detach(), alone)


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
    pull = ranks.own_columns(pull, len(batch.images) // batch.blocks)
    along = (pull * unit).sum(dim=-1, keepdim=True)  # sums to d loss / d t, bias aside
    pull.addcmul_(along, unit, value=-1).div_(length)  # d loss / d y: the part across u
    return Gradient(
        loss=ranks.total(loss.clone()),
        matrix=ranks.total(pull.T @ batch.texts),
        log_scale=ranks.total(along.sum()),
        bias=ranks.total(weights.sum() * share) if bias else torch.zeros_like(scale),
    )
