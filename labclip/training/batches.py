"""The order in which a fit sees its captions, and the batches made of it: all of it follows from seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from labclip.training.objective import Batch, Ranks
from labclip.training.recipes import Settings
from labclip.training.rows import Data

_AVERAGED = 20_000  # images, more or less


@dataclass(frozen=True)
class Batches:
    """Draws the batches of each epoch, this rank's part of them.

    Attributes:
        data: What to draw from.
        settings: Of the fit, those that depend on the data filled in.
        seed: Seed of order and negatives.
        ranks: The other ranks; each takes its slice of every batch.
        device: Where batches go.
    """

    data: Data
    settings: Settings
    seed: int
    ranks: Ranks
    device: torch.device

    def __post_init__(self) -> None:
        if self.settings.batch_size % self.ranks.count:
            raise ValueError(
                f"batch_size is {self.settings.batch_size}, which {self.ranks.count} ranks can't share evenly. Pass a "
                f"multiple."
            )
        if self.size < 2:
            raise ValueError(
                f"There are {len(self.data.captions)} captions for {self.ranks.count} ranks: too few for one batch."
            )

    @property
    def size(self) -> int:
        """Captions of a batch over all ranks."""
        whole = min(self.settings.batch_size, len(self.data.captions))
        return whole - whole % self.ranks.count  # batch_size divides; a set smaller than a batch may not

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.data.captions) // self.size

    @cached_property
    def mean(self) -> torch.Tensor:
        """The mean of the images, of some where there are very many; 0 where no loss needs it."""
        if not any(weights.grounded or weights.mean_image for weights in self.settings.candidates):
            return torch.zeros(self.data.images.dim)
        images = self.data.images_used
        return self.data.images.take(images[:: max(1, len(images) // _AVERAGED)]).mean(dim=0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        order = self.data.captions[torch.randperm(len(self.data.captions), generator=generator)]
        count = min(self.settings.hard_negatives, self.data.k)
        which = torch.arange(count).expand(len(order), count)
        if self.data.k > count > 0:
            draw = torch.rand(len(order), self.data.k, generator=generator)
            if not self.settings.published:
                draw.masked_fill_(~self.data.has_negative[order], 2.0)  # those that are there come first
            which = draw.argsort(dim=1)[:, :count]
        for step in range(start, self.steps):
            rows = slice(step * self.size, (step + 1) * self.size)
            captions, by_file = order[rows].sort()  # in the order of the file
            yield self._batch(captions, which[rows][by_file]).to(self.device)

    def _batch(self, captions: torch.Tensor, which: torch.Tensor) -> Batch:
        """The batch of some captions [N] and which of their negatives [N, m]."""
        data, n = self.data, self.size // self.ranks.count
        blocks = 1 + which.shape[1]

        def side_by_side(of_captions: torch.Tensor, of_negatives: torch.Tensor) -> torch.Tensor:
            """One for each text: the captions, then the first negative of each, then the second."""
            return torch.cat([of_captions, of_negatives[captions].gather(1, which).T.flatten()])

        every = torch.ones(len(captions), dtype=torch.bool)
        paired, present = (side_by_side(every, flags) for flags in (data.has_negative_image, data.has_negative))
        images = side_by_side(data.image_index[captions], data.negative_image_rows)
        texts = side_by_side(captions, data.negative_rows)
        own = (torch.arange(blocks)[:, None] * self.size + torch.arange(n) + self.ranks.own * n).flatten()
        columns, absent, skipped = own[paired[own]], ~present, None
        if self.settings.published:
            absent = torch.zeros_like(present)
        else:
            skipped = self._skipped(images[columns], texts, columns, absent)
        return Batch(
            images=data.images.take(images[columns]),
            texts=data.texts.take(texts),
            columns=columns,
            captions=self.size,
            paired=paired,
            absent=absent,
            skipped=skipped,
            mean=self.mean,
        )

    @cached_property
    def _truths(self) -> torch.Tensor:
        """Each image with each text that is true of it, as image * len(texts) + text by their `Rows.same`, sorted."""
        data, captions = self.data, self.data.captions
        shown = data.has_negative_image[captions]
        images = torch.cat([data.image_index[captions], data.negative_image_rows[captions][shown]])
        texts = torch.cat([captions, data.negative_rows[captions][shown]])
        return torch.unique(data.images.same[images] * len(data.texts) + data.texts.same[texts])

    def _skipped(
        self, images: torch.Tensor, texts: torch.Tensor, own: torch.Tensor, absent: torch.Tensor
    ) -> torch.Tensor | None:
        """Which of [images, texts] do not count: absent negatives, texts that are true of the image but not its `own`.

        Those are other captions of the image, and the same text as caption or negative of another: few short texts,
        such as parts and tags, are each true of many images. Only texts of an image are looked up: that costs little.
        """
        image, text, count = self.data.images.same[images], self.data.texts.same[texts], len(self.data.texts)
        bounds = torch.searchsorted(self._truths, torch.stack([image, image + 1]) * count)
        row, truth = _members(*bounds)
        true = self._truths[truth] % count
        text, order = text.sort()
        which, at = _members(torch.searchsorted(text, true), torch.searchsorted(text, true, right=True))
        row, column = row[which], order[at]
        other = column != own[row]
        if not bool(absent.any()) and not bool(other.any()):
            return None
        skipped = absent.repeat(len(images), 1)
        skipped[row[other], column[other]] = True
        return skipped


def _members(start: torch.Tensor, stop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All whole numbers of some ranges: the range of each, and the number."""
    length = stop - start
    which = torch.repeat_interleave(length)
    return which, torch.arange(len(which)) + (start - length.cumsum(0) + length)[which]


def _mixed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
