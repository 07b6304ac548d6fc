"""The loss of a batch and its gradient, by hand: four matrix products and as few passes over the logits as they allow.

A user's objective sees the logits alone; the way back from them to the matrix is the same. Distillation from the base
takes half a product more. Symbols: v image embeddings, x text embeddings, A the matrix, y = x A^T, u = y / |y|,
z = exp(t) v u^T the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F

DISTILLED_SCALE = 50.0
"""Times the cosines in the softmax that is kept near the base's, whatever the temperature of the loss."""


class Objective(Protocol):
    """A loss of one's own, for `labclip.fit(features, objective=...)`."""

    def __call__(self, logits: torch.Tensor, columns: torch.Tensor, /) -> torch.Tensor:
        """The loss of a batch.

        Args:
            logits: Cosines times exp(t), float32 [rows, texts]. A row is an image; texts are the n captions of the
                batch, then a negative of each, m times: column j n + i is negative j of caption i. Without images of
                negatives there are n rows, row i the image of caption i. To those of negatives log(negative_weight) is
                added, and by recipe "labclip" what the mean image prefers, which leaves what the image adds to it. An
                entry that does not count is -inf: an absent negative, a text that is true of the image but not its own.
                Gradients are taken of the logits alone.
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
            times the cosines of the batch's images and captions to the aligned one, over rows and over columns, halved.
        identity: Of ||A - I||_F^2.
        grounded: Whether a caption is told from its own negative by what its image adds to the mean image: what the
            mean image prefers, text alone tells. Negatives with images of their own have that built in.
        margin: Of keeping what the mean image prefers as the base has it: the mean square of the change of
            `DISTILLED_SCALE` times its cosine with a caption less that with the negative; where `grounded`.
    """

    negatives: float = 1.0
    distill: float = 0.0
    identity: float = 0.0
    grounded: bool = False
    margin: float = 0.0


@dataclass(frozen=True)
class Ranks:
    """The processes of `torchrun` that fit together, what they tell each other in a step, and which this one is.

    The embeddings are frozen, so no gradient crosses ranks but the sums here: exact, where gathering through autograd
    is slow at best and drops gradients at worst.

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
        """The greatest over ranks, elementwise."""
        if self.count > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def gather(self, own: torch.Tensor, index: torch.Tensor, count: int) -> torch.Tensor:
        """The rows [count, ...] of all ranks, of which this rank has those of some numbers."""
        if self.count == 1:
            return own
        every = own.new_zeros(count, *own.shape[1:])
        every[index] = own
        return self.total(every)

    def agree(self, value: int, device: torch.device) -> bool:
        """Whether all ranks have the same whole number."""
        pair = torch.tensor([value, -value], device=device)
        return self.count == 1 or bool(self.maximum(pair).sum() == 0)


@dataclass(frozen=True)
class Batch:
    """One step's unit-length embeddings, this rank's part of them.

    The texts of all ranks are the columns of the logits: N captions, then a negative of each, m times.

    Attributes:
        images: The images of this rank's n captions, then those of its negatives that have one, [rows, dim].
        texts: This rank's captions, then their negatives, [(1 + m) * n, dim].
        columns: The column of each image's own text, int64 [rows].
        own: The column of each of `texts`, int64 [(1 + m) * n].
        captions: N.
        paired: Which columns have an image, bool [(1 + m) * N].
        absent: Which columns do not count, bool [(1 + m) * N]: the negatives of captions that have none.
        skipped: Entries of the logits that do not count, row * (1 + m) * N + column each, int64.
        mean: The mean of the fit's images, [dim], not brought to unit length.
    """

    images: torch.Tensor
    texts: torch.Tensor
    columns: torch.Tensor
    own: torch.Tensor
    captions: int
    paired: torch.Tensor
    absent: torch.Tensor
    skipped: torch.Tensor
    mean: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]


class Gradient(NamedTuple):
    """Of one step, summed over ranks: the loss is a mean over the images, the others are its derivatives."""

    loss: torch.Tensor
    matrix: torch.Tensor  # d loss / d A, [dim, dim]
    log_scale: torch.Tensor  # d loss / d t
    bias: torch.Tensor  # 0 but for the sigmoid objective


class _Step:
    """The logits of a batch, and the way back from their gradient to the parameters.

    Attributes:
        every: Aligned texts of all ranks, unit-length [(1 + m) * N, dim].
        alone: Which negatives are there and have no image of their own, bool [m * N].
        prefers: The mean image times the caption of each of these less the mean image times the negative, [m * N]; None
            where the loss does not take it off.
        hard: Which texts are hard negatives of an image, bool [1 or 1 + m, (1 + m) * N]: of a caption's image, of that
            of a first negative, of a second. Negatives are of captions' images, and both ways.
        wide: Texts up to the last that may have an image.
        count: Images over all ranks.
    """

    def __init__(
        self, batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor, ranks: Ranks, weights: Weights
    ) -> None:
        self.batch, self.ranks, self.weights, self.scale = batch, ranks, weights, log_scale.exp()
        aligned = batch.texts @ matrix.T
        self.length = aligned.norm(dim=-1, keepdim=True).clamp_min_(1e-12)
        self.unit = aligned.div_(self.length)
        self.every = ranks.gather(self.unit, batch.own, len(batch.paired))
        total = batch.captions
        self.count = int(batch.paired.sum())
        self.wide = total if self.count == total else len(batch.paired)
        block = torch.arange(len(batch.paired), device=batch.paired.device) // total
        self.hard = block[: self.wide : total, None] != block
        self.alone = ~(batch.paired | batch.absent)[total:]
        self.prefers = self._prefers(self.every) if weights.grounded and bool(self.alone.any()) else None

    def _prefers(self, texts: torch.Tensor) -> torch.Tensor:
        """What the mean image prefers among all ranks' texts; 0 where a negative has an image."""
        captions, negatives = (texts @ self.batch.mean).tensor_split([self.batch.captions])
        return (captions.repeat(len(negatives) // len(captions)) - negatives) * self.alone

    def by_row(self, of_blocks: torch.Tensor) -> torch.Tensor:
        """What stands by the block of an image's text, as it is for each image: [rows, texts], or [1, texts]."""
        return of_blocks if len(of_blocks) == 1 else of_blocks[self.batch.columns // self.batch.captions]

    def logits(self, bias: torch.Tensor | None) -> torch.Tensor:
        """[rows, (1 + m) * N], where what does not count is -inf; with a bias a negative's weight is not in them."""
        logits = (self.batch.images * self.scale) @ self.every.T
        if bias is not None:
            logits += bias
        elif self.weights.negatives != 1:
            first = self.batch.captions if len(self.hard) == 1 else 0
            logits[:, first:] += self.by_row(self.hard[:, first:] * math.log(self.weights.negatives))
        if self.prefers is not None:
            logits[:, self.batch.captions :] += self.prefers * self.scale
        logits.view(-1)[self.batch.skipped] = -math.inf
        if bool(self.batch.absent.any()):
            logits.masked_fill_(self.batch.absent, -math.inf)
        return logits

    def distilled(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """What distillation adds, from `logits` as they were made; None where it has no weight.

        With d, `DISTILLED_SCALE` times the cosines of this rank's images and all captions: d loss / d d [n, N], the
        loss, and their product with d, which is no part of d loss / d t.
        """
        if not self.weights.distill:
            return None
        batch, total = self.batch, self.batch.captions
        n = total // self.ranks.count
        after = logits[:n, :total] * (DISTILLED_SCALE / self.scale)
        captions = self.ranks.gather(batch.texts[:n], batch.own[:n], total)
        before = (batch.images[:n] * DISTILLED_SCALE) @ captions.T
        skipped = after == -math.inf if len(batch.skipped) else None
        if skipped is not None:
            before.masked_fill_(skipped, -math.inf)
        (base, base_norm), (aligned, norm) = self._softmaxes(before), self._softmaxes(after)
        if skipped is not None:
            before.masked_fill_(skipped, 0.0)
            after.masked_fill_(skipped, 0.0)
        share = self.weights.distill / (2 * total)
        loss = share * ((base * before.sub_(after)).sum() + norm - base_norm)
        pull = aligned.sub_(base).mul_(share)  # d loss / d after
        return pull, loss, (pull * after).sum()

    def _softmaxes(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The softmax over rows plus that over columns, and the sum of the logarithms of this rank's normalisers."""
        top = self.ranks.maximum(logits.max())
        found = (logits - top).exp_()
        row = found.sum(dim=1).clamp_min_(1e-30)
        column = self.ranks.total(found.sum(dim=0)).clamp_min_(1e-30)
        norm = row.log().sum() + column.log().sum() / self.ranks.count + 2 * len(row) * top
        return found.mul_(row.reciprocal()[:, None] + column.reciprocal()), norm

    def back(
        self, loss: torch.Tensor, pulls: torch.Tensor, share: float, distilled: tuple[torch.Tensor, ...] | None
    ) -> Gradient:
        """From d loss / d z, `share` times `pulls` [rows, texts], to the parameters."""
        bias = pulls.sum() * share  # distillation has none
        held = torch.zeros_like(self.scale)  # of d loss / d t, which the temperature is not given
        if distilled is not None:
            pull, added, held = distilled
            pulls[: len(pull), : pull.shape[1]].add_(pull * (DISTILLED_SCALE / self.scale / share))
            loss = loss + added
        pull = pulls.T @ (self.batch.images * (self.scale * share))  # d loss / d u of every text
        if self.prefers is not None:
            total = self.batch.captions
            towards, added = self._kept_preference(self.prefers)
            loss, held = loss + added, held + (towards * self.prefers).sum()
            towards += pulls[:, total:].sum(dim=0) * (self.scale * share)  # d loss / d `prefers`
            towards *= self.alone
            pull[total:].addr_(towards, self.batch.mean, alpha=-1)
            pull[:total].addr_(towards.view(-1, total).sum(dim=0), self.batch.mean)
        pull = self.ranks.total(pull)
        pull = pull if self.ranks.count == 1 else pull[self.batch.own]
        along = (pull * self.unit).sum(dim=-1, keepdim=True)  # sums to d loss / d t, bias aside
        pull.addcmul_(along, self.unit, value=-1).div_(self.length)  # d loss / d y: the part across u
        return Gradient(
            loss=self.ranks.total(loss.clone()),
            matrix=self.ranks.total(pull.T @ self.batch.texts),
            log_scale=self.ranks.total(along.sum() - held),
            bias=self.ranks.total(bias),
        )

    def _kept_preference(self, prefers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What keeping what the mean image prefers adds: d loss / d `prefers`, and the loss."""
        base = self._prefers(self.ranks.gather(self.batch.texts, self.batch.own, len(self.every)))
        moved = DISTILLED_SCALE * (prefers - base)
        share = self.weights.margin / self.alone.sum().to(self.scale) / self.ranks.count  # every rank has all of them
        return 2 * share * DISTILLED_SCALE * moved, share * moved.square().sum()


def gradient(
    objective: str | Objective, batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor,
    bias: torch.Tensor | None = None, *, ranks: Ranks = Ranks(), weights: Weights = Weights(),
) -> Gradient:  # fmt: skip
    """The gradient of a batch: of "softmax"; of "sigmoid", which has a bias; or of a user's loss, in one process."""
    step = _Step(batch, matrix, log_scale, ranks, weights)
    logits = step.logits(bias)
    distilled = step.distilled(logits)
    if callable(objective):
        return step.back(*_own(objective, logits, batch.columns), distilled)
    return step.back(*(_softmax if objective == "softmax" else _sigmoid)(step, logits), distilled)


def _softmax(step: _Step, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """CLIP's contrastive loss with hard negatives as further wrong captions of each image.

    Image to text is a cross entropy over captions and negatives, text to image one over images for the captions alone;
    the loss is their mean. Negatives that have an image are captions like the others, of that image.

    Source: arXiv:2502.03566 (HNB; SB where the batch has no negatives).
    """
    columns, wide, ranks = step.batch.columns, step.wide, step.ranks
    rows, unpaired = torch.arange(len(logits), device=logits.device), ~step.batch.paired[: step.wide]
    right = logits[rows, columns]
    top = ranks.maximum(logits.max())
    pulls = logits.sub_(top).exp_()  # in place: a pass over the logits costs as much as a small product
    row = pulls.sum(dim=1)
    column = ranks.total(pulls[:, :wide].sum(dim=0)).masked_fill_(unpaired, math.inf)  # whose reciprocal is 0
    if bool(ranks.maximum(((row.min() < 1e-30) | (column.min() < 1e-30)).float())):
        # Where exp underflows against one maximum, each row and column gets its own.
        logits = step.logits(None)
        captions = logits[:, :wide].masked_fill(unpaired, -math.inf)
        tops = ranks.maximum(captions.amax(dim=0)).clamp_min(-1e30)
        by_column = (captions - tops).exp()
        column = ranks.total(by_column.sum(dim=0)).masked_fill_(unpaired, math.inf)
        loss = (logits.logsumexp(dim=1) + column[columns].log() + tops[columns] - 2 * right).sum() / 2
        pulls = logits.softmax(dim=1)
        pulls[:, :wide] += by_column / column
    else:
        loss = (row.log() + column[columns].log() + 2 * (top - right)).sum() / 2
        row, column = row.reciprocal_(), column.reciprocal_()
        pulls[:, :wide].mul_(row[:, None] + column)
        pulls[:, wide:].mul_(row[:, None])
    pulls[rows, columns] -= 2.0
    return loss / step.count, pulls, 0.5 / step.count


def _sigmoid(step: _Step, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """SigLIP's loss: each pair of image and text is right or wrong by itself; hard negatives are further wrong texts.

    It is a sum over texts and a mean over images; a hard negative counts as often as its weight says. The bias is added
    to the logits.

    Source: arXiv:2303.15343 (SigLIP), with the negatives of arXiv:2502.03566.
    """
    rows, columns = torch.arange(len(logits), device=logits.device), step.batch.columns
    right = logits[rows, columns]
    weights = step.by_row(torch.where(step.hard, step.weights.negatives, 1.0))
    terms, pulls = F.softplus(logits) * weights, logits.sigmoid_() * weights
    pulls[rows, columns] -= 1.0
    return (terms.sum() - right.sum()) / step.count, pulls, 1 / step.count


def _own(objective: Objective, logits: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A user's loss: autograd down to the logits."""
    with torch.inference_mode(False), torch.enable_grad():
        seen = logits.clone().requires_grad_()
        loss = objective(seen, columns.clone())
        shown = f"{list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        if not isinstance(loss, torch.Tensor) or loss.shape != () or not loss.requires_grad:
            raise ValueError(
                f"The objective returns {shown}. Return a scalar tensor, computed from the logits by operations that "
                f"torch differentiates."
            )
        (pull,) = torch.autograd.grad(loss, seen)
    return loss.detach(), pull.masked_fill(logits == -math.inf, 0.0), 1.0


def name_of(objective: str | Objective) -> str:
    """What an objective is called."""
    return objective if isinstance(objective, str) else getattr(objective, "__qualname__", type(objective).__qualname__)
