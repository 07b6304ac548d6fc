"""The loss of a batch: CLIP's or SigLIP's with hard negatives and distillation from the base, or a user's own loss.

Symbols: v image embeddings, x text embeddings, A the matrix, u = x A^T of unit length, z = exp(t) v u^T the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F

DISTILLED_SCALE = 50.0
"""Factor of the cosines in the softmax that distillation keeps near the base's. The loss has its own temperature."""


class Objective(Protocol):
    """A loss of your own, for `labclip.fit(features, objective=...)`: any function with this signature."""

    def __call__(self, logits: torch.Tensor, columns: torch.Tensor, /) -> torch.Tensor:
        """The loss of a batch.

        Args:
            logits: Cosines times exp(t), float32 [rows, texts]. A row is an image. The first n columns are the captions
                of the batch; column j n + i is negative j of caption i, with j from 1 to m. Without images of
                negatives there are n rows, and row i is the image of caption i. Logits of negatives are raised by
                log(negative_weight); with recipe "labclip" also by the mean image's margin between caption and
                negative, so that only what an image adds to the mean image counts. Entries to ignore are -inf: absent
                negatives, and texts that are true of the image but not its text in `columns`.
            columns: The column of each row's own text, int64 [rows]; 0 to n - 1 without images of negatives.

        Returns:
            A scalar, computed from the logits by operations that torch differentiates.
        """


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss.

    Attributes:
        negatives: Weight w of a hard negative; a caption of another image has weight 1. It has the effect of w equal
            negatives at the cost of one: a softmax adds log w to its logit, a sigmoid loss multiplies its term by w.
        distill: Weight of distillation from the base. Its term is the KL divergence from the base's softmax to the
            aligned one, of `DISTILLED_SCALE` times the cosines of the batch's images and captions; the mean over rows
            and over columns, halved.
        identity: Weight of ||A - I||_F^2.
        grounded: Whether to subtract the mean image's margin from the margin between a caption and its negative. The
            mean image's margin is what text alone decides. Negatives with an image of their own do not need this.
        mean_image: Weight of a penalty that keeps the mean image's cosines with the batch's texts as in the base: the
            mean square of `DISTILLED_SCALE` times their change. So text alone decides no more than before, and cosines
            of unmatched pairs stay on the base's scale, even if that is far from 0.
    """

    negatives: float = 1.0
    distill: float = 0.0
    identity: float = 0.0
    grounded: bool = False
    mean_image: float = 0.0


@dataclass(frozen=True)
class Ranks:
    """The processes of `torchrun` that fit together. Each has all texts of a batch and a part of its images."""

    index: int = 0  # rank of this process, from 0 to `count` - 1
    count: int = 1  # number of processes; 1 without torchrun

    @classmethod
    def here(cls) -> Ranks:
        """The ranks of the running process group; one rank if there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, computed in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def maximum(self, value: torch.Tensor) -> torch.Tensor:
        """The elementwise maximum over ranks, computed in place."""
        if self.count > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def agree(self, value: int, device: torch.device) -> bool:
        """Whether all ranks have the same whole number."""
        return self.count == 1 or bool(self.maximum(torch.tensor([value, -value], device=device)).sum() == 0)


@dataclass(frozen=True)
class Batch:
    """The unit-length embeddings of one step. Texts are N captions, then the first negative of each, and so on to m."""

    images: torch.Tensor  # those of this rank's n captions, then those of its negatives that have one, [rows, dim]
    texts: torch.Tensor  # [(1 + m) * N, dim]
    columns: torch.Tensor  # the text of each image, int64 [rows]
    captions: int  # N, the number of captions on all ranks
    paired: torch.Tensor  # which texts have an image, on any rank, bool [(1 + m) * N]
    absent: torch.Tensor  # which texts stand in for an absent negative, bool [(1 + m) * N]
    skipped: torch.Tensor | None  # which pairs are ignored, bool [rows, (1 + m) * N]; None if none are
    mean: torch.Tensor  # the mean of the fit's images, [dim], not normalised

    def to(self, device: torch.device) -> Batch:
        """A copy on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]


def loss_of(
    objective: str | Objective, batch: Batch, aligned: torch.Tensor, log_scale: torch.Tensor,
    bias: torch.Tensor | None = None, *, ranks: Ranks = Ranks(), weights: Weights = Weights(),
) -> torch.Tensor:  # fmt: skip
    """The loss of a batch, a mean over images, by "softmax", by "sigmoid" with a `bias`, or by a user's function.

    `aligned` are the batch's texts times the matrix. With several ranks, the loss and its gradient are those of this
    rank's images; the sum over ranks is the loss of the batch.
    """
    n_captions, scale, n_images = batch.captions, log_scale.exp(), int(batch.paired.sum())
    scaled = aligned * (scale / aligned.norm(dim=-1, keepdim=True).clamp_min(1e-12))
    logits = batch.images @ scaled.T
    # Block 0 holds the captions, block j the j-th negatives. A text is a hard negative of images of other blocks.
    block = torch.arange(len(scaled), device=scaled.device) // n_captions
    image_block = block[batch.columns if n_images > n_captions else batch.columns[:1], None]
    hard = block != image_block  # [1 or rows, texts]
    penalty = torch.zeros_like(scale)
    if weights.distill:
        caption_logits = logits[: n_captions // ranks.count, :n_captions] * (DISTILLED_SCALE / scale)
        penalty = weights.distill / (2 * n_captions) * _divergence(batch, caption_logits, ranks)
    if bias is not None:
        logits = logits + bias
    elif weights.negatives != 1:
        logits = logits + hard * math.log(weights.negatives)
    mean_logits = scaled @ batch.mean  # logits of the mean image
    imageless = ~(batch.paired | batch.absent)[n_captions:]
    if weights.grounded and bool(imageless.any()):
        mean_margins = mean_logits[:n_captions].repeat(len(imageless) // n_captions) - mean_logits[n_captions:]
        logits = logits + F.pad(mean_margins * imageless, (n_captions, 0))
    if weights.mean_image:
        change = DISTILLED_SCALE * (mean_logits / scale - batch.texts @ batch.mean)[~batch.absent]
        penalty = penalty + weights.mean_image / ranks.count * change.square().mean()
    if batch.skipped is not None:
        logits = logits.masked_fill(batch.skipped, -math.inf)
    if callable(objective):
        return _user_loss(objective, logits, batch.columns) + penalty
    if objective == "softmax":
        columns = slice(n_captions) if n_images == n_captions else batch.paired.nonzero().flatten()
        entropies = _CrossEntropies.apply(logits, batch.columns, columns, ranks)  # type: ignore[no-untyped-call]
        return entropies / (2 * n_images) + penalty
    positives = logits[torch.arange(len(logits), device=logits.device), batch.columns].sum()
    terms = F.softplus(logits) * torch.where(hard, weights.negatives, 1.0)
    return (terms.sum() - positives) / n_images + penalty


def _divergence(batch: Batch, aligned_logits: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The KL divergence from the base's softmax to that of `aligned_logits` [n, N], summed over rows and columns."""
    n, n_captions = aligned_logits.shape
    base_logits = DISTILLED_SCALE * (batch.images[:n] @ batch.texts[:n_captions].T)
    base, base_norm = _add_softmaxes(base_logits, slice(n_captions), ranks)
    no_target = batch.columns[:0]
    norm = _CrossEntropies.apply(aligned_logits, no_target, slice(n_captions), ranks)  # type: ignore[no-untyped-call]
    return (base * (base_logits - aligned_logits)).sum() + norm - base_norm


def _add_softmaxes(
    logits: torch.Tensor, columns: slice | torch.Tensor, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor]:
    """The softmax over each row plus the softmax over each of some columns, and the sum of their log-normalisers."""
    highest = logits.amax(dim=1, keepdim=True)
    softmaxes = (logits - highest).exp_()
    sums = softmaxes.sum(dim=1, keepdim=True)
    softmaxes.div_(sums)
    norm = (sums.log() + highest).sum()
    column_logits = logits[:, columns]
    highest = ranks.maximum(column_logits.amax(dim=0))
    exponentials = (column_logits - highest).exp_()
    sums = ranks.total(exponentials.sum(dim=0))
    softmaxes[:, columns] += exponentials.div_(sums)
    return softmaxes, norm + (sums.log() + highest).sum() / ranks.count


class _CrossEntropies(torch.autograd.Function):
    """The sum of the cross entropies over rows and over columns; `target` is the right column of each row.

    This takes fewer passes over the logits than torch's own functions. Without targets, the sum is that of the
    log-normalisers.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, columns: slice | torch.Tensor, ranks: Ranks
    ) -> torch.Tensor:
        gradient, norm = _add_softmaxes(logits, columns, ranks)
        entries = torch.arange(len(target), device=target.device), target
        gradient[entries] -= 2
        ctx.save_for_backward(gradient)
        return norm - 2 * logits[entries].sum()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(upstream), None, None, None


def _user_loss(objective: Objective, logits: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    loss = objective(logits, columns)
    if not isinstance(loss, torch.Tensor) or loss.shape != () or loss.grad_fn is None:
        returned = f"{list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ValueError(
            f"The objective returns {returned}. Return a scalar tensor, computed from the logits by operations that "
            f"torch differentiates."
        )
    return loss
