"""The loss of a batch and its gradient, by hand: four matrix products and as few passes over the logits as they allow.

A user's objective sees the logits alone; the way back from them to the matrix is the same. Distillation from the base
takes half a product more. Symbols: v image embeddings, x text embeddings, A the matrix, y = x A^T, u = y / |y|,
z = exp(t) v u^T the logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist

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
                entry that does not count is -inf: an absent negative, another caption of the same image.
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

    def agree(self, value: int, device: torch.device) -> bool:
        """Whether all ranks have the same whole number."""
        pair = torch.tensor([value, -value], device=device)
        return self.count == 1 or bool(self.maximum(pair).sum() == 0)

    def gather_columns(self, texts: torch.Tensor, n: int) -> torch.Tensor:
        """The texts of all ranks, all captions first: [(1 + m) * n, dim] to [(1 + m) * n * count, dim]."""
        if self.count == 1:
            return texts
        parts = [torch.empty_like(texts) for _ in range(self.count)]
        dist.all_gather(parts, texts)
        return torch.cat([part.view(-1, n, texts.shape[1]) for part in parts], dim=1).flatten(0, 1)

    def own_columns(self, texts: torch.Tensor, n: int) -> torch.Tensor:
        """The rows of this rank, as they went into `gather_columns`."""
        if self.count == 1:
            return texts
        return texts.view(-1, self.count, n, texts.shape[1])[:, self.own].flatten(0, 1)


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
        mean: The mean of the fit's images, [dim], not brought to unit length; None where no loss needs it.
    """

    images: torch.Tensor
    texts: torch.Tensor
    skipped: torch.Tensor | None = None
    absent: torch.Tensor | None = None
    blocks: int = 1
    unpaired: torch.Tensor | None = None
    mean: torch.Tensor | None = None

    @property
    def captions(self) -> int:
        """Of this rank."""
        return len(self.images) // self.blocks

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]


class Gradient(NamedTuple):
    """Of one step, summed over ranks: the loss is a mean over the captions, the others are its derivatives."""

    loss: torch.Tensor
    matrix: torch.Tensor  # d loss / d A, [dim, dim]
    log_scale: torch.Tensor  # d loss / d t
    bias: torch.Tensor  # 0 for the softmax objective


class _Distilled(NamedTuple):
    """Of this rank's captions and images, d the cosines times `DISTILLED_SCALE`."""

    pull: torch.Tensor  # d loss / d d, [n, N]
    loss: torch.Tensor
    along: torch.Tensor  # its part of d loss / d t, which the temperature is not given


class _Step:
    """The logits of a batch, and the way back from their gradient to the parameters.

    Attributes:
        rows, columns: Which rows of images have which columns of texts as their own.
        missing: Rows of images that are not there, bool, or None.
        wide: Columns that may have an image of their own; negatives that have none come after them.
        count: Pairs over all ranks.
        alone: Which negatives are there and have no image of their own, bool [m * N].
        prefers: The mean image times the caption of each of these less the mean image times the negative, [m * N]; None
            where the loss does not take it off.
    """

    def __init__(
        self, batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor, ranks: Ranks, weights: Weights
    ) -> None:
        aligned = batch.texts @ matrix.T
        self.length = aligned.norm(dim=-1, keepdim=True).clamp_min_(1e-12)
        self.unit = aligned.div_(self.length)
        self.every = ranks.gather_columns(self.unit, batch.captions)  # [(1 + m) * N, dim]
        self.batch, self.ranks, self.weights, self.scale = batch, ranks, weights, log_scale.exp()
        n, total = batch.captions, batch.captions * ranks.count
        self.rows = torch.arange(len(batch.images), device=batch.images.device)
        self.columns = self.rows // n * total + n * ranks.own + self.rows % n
        self.wide, self.missing = batch.blocks * total, None
        self.count = float(self.wide)
        if batch.unpaired is not None:
            self.missing = batch.unpaired[self.columns]
            self.rows, self.columns = self.rows[~self.missing], self.columns[~self.missing]
            self.count = float((~batch.unpaired).sum())
        self.total, self.prefers = total, None
        self.alone = torch.ones(len(self.every) - total, dtype=torch.bool, device=self.every.device)
        if batch.absent is not None:
            self.alone &= ~batch.absent[total:]
        if batch.blocks > 1:
            self.alone &= batch.unpaired is not None and batch.unpaired[total:]
        if weights.grounded and batch.mean is not None and bool(self.alone.any()):
            self.prefers = self._prefers(self.every, batch.mean)

    def _prefers(self, texts: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """What the mean image prefers among all ranks' texts, captions first; 0 where a negative has an image."""
        cosines = texts @ mean
        return (cosines[: self.total].repeat(len(texts) // self.total - 1) - cosines[self.total :]) * self.alone

    def logits(self, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[images, (1 + m) * N], where what does not count is -inf."""
        logits = (self.batch.images * self.scale) @ self.every.T
        logits = logits if bias is None else logits + bias
        if bias is None:
            for hard in self.hard(logits):
                hard += math.log(self.weights.negatives)
        if self.prefers is not None:
            logits[:, self.total :] += self.prefers * self.scale
        if self.batch.skipped is not None:
            logits.view(-1)[self.batch.skipped] = -math.inf
        if self.batch.absent is not None:
            logits.masked_fill_(self.batch.absent, -math.inf)
        return logits

    def hard(self, pairs: torch.Tensor) -> Iterator[torch.Tensor]:
        """The columns [images, (1 + m) * N] to weigh: a negative is hard for its caption's image, and both ways."""
        if self.weights.negatives == 1:
            return
        total = self.batch.captions * self.ranks.count
        for block, others in enumerate(pairs.view(self.batch.blocks, self.batch.captions, -1, total)):
            yield others[:, :block]
            yield others[:, block + 1 :]

    def distilled(self, logits: torch.Tensor) -> _Distilled | None:
        """What distillation adds, from `logits` as they were made; None where it has no weight."""
        if not self.weights.distill:
            return None
        n, ranks = self.batch.captions, self.ranks
        total = n * ranks.count
        after = logits[:n, :total] * (DISTILLED_SCALE / self.scale)
        before = (self.batch.images[:n] * DISTILLED_SCALE) @ ranks.gather_columns(self.batch.texts[:n], n).T
        skipped = None if self.batch.skipped is None else after == -math.inf
        if skipped is not None:
            before.masked_fill_(skipped, -math.inf)
        (base, base_norm), (aligned, norm) = self._softmaxes(before), self._softmaxes(after)
        if skipped is not None:
            before.masked_fill_(skipped, 0.0)
            after.masked_fill_(skipped, 0.0)
        share = self.weights.distill / (2 * total)
        loss = share * ((base * before.sub_(after)).sum() + norm - base_norm)
        pull = aligned.sub_(base).mul_(share)  # d loss / d after
        return _Distilled(pull, loss, (pull * after).sum())

    def _softmaxes(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The softmax over rows plus that over columns, and the sum of the logarithms of this rank's normalisers."""
        top = self.ranks.maximum(logits.max())
        found = (logits - top).exp_()
        row = found.sum(dim=1).clamp_min_(1e-30)
        column = self.ranks.total(found.sum(dim=0)).clamp_min_(1e-30)
        norm = row.log().sum() + column.log().sum() / self.ranks.count + 2 * len(row) * top
        return found.mul_(row.reciprocal()[:, None] + column.reciprocal()), norm

    def back(
        self, weights: torch.Tensor, share: float, loss: torch.Tensor, distilled: _Distilled | None, *,
        bias: bool = False,
    ) -> Gradient:  # fmt: skip
        """From d loss / d z, `share` times `weights` [images, texts], to the parameters."""
        towards_bias = weights.sum() * share if bias else torch.zeros_like(self.scale)  # distillation has none
        if distilled is not None:
            n, total = distilled.pull.shape
            weights[:n, :total].add_(distilled.pull * (DISTILLED_SCALE / self.scale / share))
            loss = loss + distilled.loss
        pull = weights.T @ (self.batch.images * (self.scale * share))  # d loss / d u of every text
        held = torch.zeros_like(self.scale)  # of d loss / d t, which the temperature is not given
        if self.prefers is not None and self.batch.mean is not None:
            towards, kept, held = self._kept_preference(self.batch.mean)
            towards += weights[:, self.total :].sum(dim=0) * (self.scale * share)  # d loss / d `prefers`
            towards *= self.alone
            pull[self.total :].addr_(towards, self.batch.mean, alpha=-1)
            pull[: self.total].addr_(towards.view(-1, self.total).sum(dim=0), self.batch.mean)
            loss = loss + kept
        pull = self.ranks.own_columns(self.ranks.total(pull), self.batch.captions)
        along = (pull * self.unit).sum(dim=-1, keepdim=True)  # sums to d loss / d t, bias aside
        pull.addcmul_(along, self.unit, value=-1).div_(self.length)  # d loss / d y: the part across u
        return Gradient(
            loss=self.ranks.total(loss.clone()),
            matrix=self.ranks.total(pull.T @ self.batch.texts),
            log_scale=self.ranks.total(along.sum() - held - (0.0 if distilled is None else distilled.along)),
            bias=self.ranks.total(towards_bias),
        )

    def _kept_preference(self, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What keeping what the mean image prefers adds: d loss / d `prefers`, the loss, its part of d loss / d t."""
        assert self.prefers is not None
        base = self._prefers(self.ranks.gather_columns(self.batch.texts, self.batch.captions), mean)
        moved = DISTILLED_SCALE * (self.prefers - base)
        share = self.weights.margin / self.alone.sum().to(self.scale) / self.ranks.count  # every rank has all of them
        towards = 2 * share * DISTILLED_SCALE * moved
        return towards, share * moved.square().sum(), (towards * self.prefers).sum()


def softmax_gradient(
    batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor, ranks: Ranks, weights: Weights = Weights()
) -> Gradient:
    """CLIP's contrastive loss with hard negatives as further wrong captions of each image.

    Image to text is a cross entropy over captions and negatives, text to image one over images for the captions alone;
    the loss is their mean. Negatives that have an image are captions like the others, of that image.

    Source: arXiv:2502.03566 (HNB; SB where the batch has no negatives).
    """
    step = _Step(batch, matrix, log_scale, ranks, weights)
    rows, columns, wide = step.rows, step.columns, step.wide
    logits = step.logits()
    distilled = step.distilled(logits)
    right = logits[rows, columns]
    top = ranks.maximum(logits.max())
    pulls = logits.sub_(top).exp_()  # in place: a pass over the logits costs as much as a small product
    if step.missing is not None:
        pulls[step.missing] = 0.0
    row = pulls.sum(dim=1)
    column = ranks.total(pulls[:, :wide].sum(dim=0))
    if step.missing is not None:
        row[step.missing], column[batch.unpaired] = math.inf, math.inf  # whose reciprocals are 0
    if bool(ranks.maximum(((row.min() < 1e-30) | (column.min() < 1e-30)).float())):
        loss, pulls = _far_apart(step)
    else:
        loss = (row[rows].log() + column[columns].log() + 2 * (top - right)).sum() / 2
        row, column = row.reciprocal_(), column.reciprocal_()
        pulls[:, :wide].mul_(row[:, None] + column)
        pulls[:, wide:].mul_(row[:, None])
    pulls[rows, columns] -= 2.0
    return step.back(pulls, 0.5 / step.count, loss / step.count, distilled)


def _far_apart(step: _Step) -> tuple[torch.Tensor, torch.Tensor]:
    """The same loss and sum of both softmaxes, where exp underflows against one common maximum."""
    rows, columns, logits = step.rows, step.columns, step.logits()
    by_row = logits.softmax(dim=1)
    captions = logits[:, : step.wide]
    if step.missing is not None:
        by_row[step.missing], captions[step.missing] = 0.0, -math.inf
    top = step.ranks.maximum(captions.amax(dim=0)).clamp_min(-1e30)
    by_column = (captions - top).exp()
    column = step.ranks.total(by_column.sum(dim=0))
    if step.missing is not None:
        column[step.batch.unpaired] = math.inf
    right = logits[rows, columns]
    loss = (logits[rows].logsumexp(dim=1) + column[columns].log() + top[columns] - 2 * right).sum() / 2
    by_row[:, : step.wide] += by_column / column
    return loss, by_row


def sigmoid_gradient(
    batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor, bias: torch.Tensor, ranks: Ranks,
    weights: Weights = Weights(),
) -> Gradient:  # fmt: skip
    """SigLIP's loss: each pair of image and text is right or wrong by itself; hard negatives are further wrong texts.

    It is a sum over texts and a mean over images; a hard negative counts as often as its weight says. The bias is added
    to the logits.

    Source: arXiv:2303.15343 (SigLIP), with the negatives of arXiv:2502.03566.
    """
    step = _Step(batch, matrix, log_scale, ranks, weights)
    logits = step.logits(bias)
    distilled = step.distilled(logits)
    if step.missing is not None:
        logits[step.missing] = -math.inf
    right = logits[step.rows, step.columns]
    terms = torch.nn.functional.softplus(logits)
    pulls = logits.sigmoid_()
    for part in (*step.hard(terms), *step.hard(pulls)):
        part *= weights.negatives
    loss = (terms.sum() - right.sum()) / step.count
    pulls[step.rows, step.columns] -= 1.0
    return step.back(pulls, 1 / step.count, loss, distilled, bias=True)


def name_of(objective: Objective) -> str:
    """What a user's objective is called."""
    return str(getattr(objective, "__qualname__", type(objective).__qualname__))


def custom_gradient(
    objective: Objective, batch: Batch, matrix: torch.Tensor, log_scale: torch.Tensor, weights: Weights = Weights()
) -> Gradient:
    """A user's loss: autograd down to the logits, then by hand. In one process only."""
    step = _Step(batch, matrix, log_scale, Ranks(), weights)
    logits = step.logits()
    distilled = step.distilled(logits)
    with torch.inference_mode(False), torch.enable_grad():
        seen = logits[step.rows].requires_grad_()
        loss = objective(seen, step.columns.clone())
        if not isinstance(loss, torch.Tensor) or loss.shape != ():
            found = f"shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise ValueError(f"The objective returns {found}. Return a scalar tensor computed from the logits.")
        (pull,) = torch.autograd.grad(loss, seen, allow_unused=True) if loss.requires_grad else (None,)
        if pull is None:
            raise ValueError(
                "The loss that the objective returns does not depend on the logits. Compute it from them by operations "
                "that torch differentiates."
            )
        if not bool(torch.isfinite(loss)) and not bool(logits.isnan().any()):  # else the fit has diverged
            raise ValueError(
                f"The objective {name_of(objective)} returns {float(loss.detach()):g}. Return a finite loss; "
                f"logits that do not count are -inf."
            )
    pulls = torch.zeros_like(logits)
    pulls[step.rows] = pull.masked_fill(seen.detach() == -math.inf, 0.0)
    return step.back(pulls, 1.0, loss.detach(), distilled)
