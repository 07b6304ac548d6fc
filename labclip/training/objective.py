"""The loss of a batch: CLIP's or SigLIP's with hard negatives, distillation from the base, and a user's own.

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
"""Times the cosines in the softmax that is kept near the base's, whatever the temperature of the loss."""


class Objective(Protocol):
    """A loss of your own, for `labclip.fit(features, objective=...)`: any function with this signature."""

    def __call__(self, logits: torch.Tensor, columns: torch.Tensor, /) -> torch.Tensor:
        """The loss of a batch.

        Args:
            logits: Cosines times exp(t), float32 [rows, texts]. A row is an image; texts are the n captions of the
                batch, then a negative of each, m times: column j n + i is negative j of caption i. Without images of
                negatives there are n rows, row i the image of caption i. To those of negatives log(negative_weight) is
                added, and by recipe "labclip" what the mean image prefers, which leaves what the image adds to it. An
                entry that does not count is -inf: an absent negative, a text that is true of the image but not its own.
            columns: Each row's own text, int64 [rows]; 0 to n - 1 without images of negatives.

        Returns:
            A scalar, computed from the logits by operations that torch differentiates.
        """


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss.

    Attributes:
        negatives: Of a hard negative, beside 1 of another caption. w does what w negatives of a caption do, at the
            price of one: in a softmax its logit grows by log w, in a sigmoid loss its term counts w times.
        distill: Of distillation from the base: the mean KL divergence from the base's softmax of `DISTILLED_SCALE`
            times the cosines of all the batch's images and captions to the aligned one, over rows and over columns,
            halved.
        identity: Of ||A - I||_F^2.
        grounded: Whether a caption is told from its own negative by what its image adds to the mean image: what the
            mean image prefers, text alone tells. Negatives with images of their own have that built in.
        mean_image: Of keeping the mean image's cosines with the batch's texts as the base has them: the mean square of
            `DISTILLED_SCALE` times their change. So text alone decides no more than before, and where the base's
            cosines of unmatched pairs are far from 0, they stay on their scale.
    """

    negatives: float = 1.0
    distill: float = 0.0
    identity: float = 0.0
    grounded: bool = False
    mean_image: float = 0.0


@dataclass(frozen=True)
class Ranks:
    """The processes of `torchrun` that fit together, and which this one is: each has all texts and some images.

    Attributes:
        own: 0 up to `count` - 1.
        count: 1 without torchrun.
    """

    own: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """The ranks of the process group that is running, if any."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, in place where there are several."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def maximum(self, value: torch.Tensor) -> torch.Tensor:
        """The greatest over ranks, elementwise, in place where there are several."""
        if self.count > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def agree(self, value: int, device: torch.device) -> bool:
        """Whether all ranks have the same whole number."""
        return self.count == 1 or bool(self.maximum(torch.tensor([value, -value], device=device)).sum() == 0)


@dataclass(frozen=True)
class Batch:
    """One step's unit-length embeddings. Texts are N captions, then a negative of each, m times.

    Attributes:
        images: The images of this rank's n captions, then those of its negatives that have one, [rows, dim].
        texts: All texts, [(1 + m) * N, dim].
        columns: The text of each image, int64 [rows].
        captions: N.
        paired: Which texts have an image, on any rank, bool [(1 + m) * N].
        absent: Which texts are negatives that a caption does not have, bool [(1 + m) * N].
        skipped: Which images and texts do not count together, bool [rows, (1 + m) * N]; None if all do.
        mean: The mean of the fit's images, [dim], not brought to unit length.
    """

    images: torch.Tensor
    texts: torch.Tensor
    columns: torch.Tensor
    captions: int
    paired: torch.Tensor
    absent: torch.Tensor
    skipped: torch.Tensor | None
    mean: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]


def loss_of(
    objective: str | Objective, batch: Batch, aligned: torch.Tensor, log_scale: torch.Tensor,
    bias: torch.Tensor | None = None, *, ranks: Ranks = Ranks(), weights: Weights = Weights(),
) -> torch.Tensor:  # fmt: skip
    """The loss of "softmax", of "sigmoid", which has a bias, or of a user's function, a mean over images.

    `aligned` are the batch's texts times the matrix. With several ranks it is this rank's part of their sum, and so is
    its gradient.
    """
    total, scale, images = batch.captions, log_scale.exp(), int(batch.paired.sum())
    scaled = aligned * (scale / aligned.norm(dim=-1, keepdim=True).clamp_min(1e-12))
    logits = batch.images @ scaled.T
    block = torch.arange(len(scaled), device=scaled.device) // total
    of_image = block[batch.columns if images > total else batch.columns[:1], None]
    hard = block != of_image  # a caption's negatives, and of a negative with an image all captions, [1 or rows, texts]
    kept = torch.zeros_like(scale)
    if weights.distill:
        captions = logits[: total // ranks.count, :total] * (DISTILLED_SCALE / scale)
        kept = weights.distill / (2 * total) * _divergence(batch, captions, ranks)
    if bias is not None:
        logits = logits + bias
    elif weights.negatives != 1:
        logits = logits + hard * math.log(weights.negatives)
    shown = scaled @ batch.mean  # logits of the mean image
    alone = ~(batch.paired | batch.absent)[total:]
    if weights.grounded and bool(alone.any()):
        prefers = shown[:total].repeat(len(alone) // total) - shown[total:]
        logits = logits + F.pad(prefers * alone, (total, 0))
    if weights.mean_image:
        moved = DISTILLED_SCALE * (shown / scale - batch.texts @ batch.mean)[~batch.absent]
        kept = kept + weights.mean_image / ranks.count * moved.square().mean()
    if batch.skipped is not None:
        logits = logits.masked_fill(batch.skipped, -math.inf)
    if callable(objective):
        return _own(objective, logits, batch.columns) + kept
    if objective == "softmax":
        columns = slice(total) if images == total else batch.paired.nonzero().flatten()
        entropies = _CrossEntropies.apply(logits, batch.columns, columns, ranks)  # type: ignore[no-untyped-call]
        return entropies / (2 * images) + kept
    right = logits[torch.arange(len(logits), device=logits.device), batch.columns].sum()
    terms = F.softplus(logits) * torch.where(hard, weights.negatives, 1.0)
    return (terms.sum() - right) / images + kept


def _divergence(batch: Batch, after: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The KL divergence from the base's softmax to the one of `after` [n, N], summed over rows and columns."""
    n, total = after.shape
    before = DISTILLED_SCALE * (batch.images[:n] @ batch.texts[:total].T)
    base, norm = _softmaxes(before, slice(total), ranks)
    none = batch.columns[:0]
    norms = _CrossEntropies.apply(after, none, slice(total), ranks)  # type: ignore[no-untyped-call]
    return (base * (before - after)).sum() + norms - norm


def _softmaxes(logits: torch.Tensor, columns: slice | torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor]:
    """The softmax of each row plus that of each of some columns, and the sum of the logarithms of their normalisers."""
    highest = logits.amax(dim=1, keepdim=True)
    softmaxes = (logits - highest).exp_()
    sums = softmaxes.sum(dim=1, keepdim=True)
    softmaxes.div_(sums)
    norm = (sums.log() + highest).sum()
    wide = logits[:, columns]
    highest = ranks.maximum(wide.amax(dim=0))
    wide = (wide - highest).exp_()
    sums = ranks.total(wide.sum(dim=0))
    softmaxes[:, columns] += wide.div_(sums)
    return softmaxes, norm + (sums.log() + highest).sum() / ranks.count


class _CrossEntropies(torch.autograd.Function):
    """The cross entropies of rows and of columns, summed, in few passes; `right` has the right column of each row.

    Without right columns they are the logarithms of the normalisers alone.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, right: torch.Tensor, columns: slice | torch.Tensor, ranks: Ranks
    ) -> torch.Tensor:
        pulls, sums = _softmaxes(logits, columns, ranks)
        entries = torch.arange(len(right), device=right.device), right
        pulls[entries] -= 2
        ctx.save_for_backward(pulls)
        return sums - 2 * logits[entries].sum()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (pulls,) = ctx.saved_tensors
        return pulls.mul_(gradient), None, None, None


def _own(objective: Objective, logits: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    loss = objective(logits, columns)
    if not isinstance(loss, torch.Tensor) or loss.shape != () or loss.grad_fn is None:
        shown = f"{list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ValueError(
            f"The objective returns {shown}. Return a scalar tensor, computed from the logits by operations that torch "
            f"differentiates."
        )
    return loss


def name_of(objective: str | Objective) -> str:
    """What an objective is called."""
    return objective if isinstance(objective, str) else getattr(objective, "__qualname__", type(objective).__qualname__)
