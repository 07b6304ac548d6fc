"""The order in which a fit sees its captions, and the batches made of it: all of it follows from seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from labclip.training.objective import Batch, Ranks
from labclip.training.recipes import Settings
from labclip.training.rows import Data, Rows

_AVERAGED = 20_000  # images, more or less


@dataclass(frozen=True)
class Batches:
    """Draws the batches of each epoch, this rank's rows of them.

    Attributes:
        data: What to draw from.
        settings: Of the fit.
        seed: Of order and negatives.
        ranks: The other ranks; each takes its slice of every batch.
        device: Where batches go.
    """

    data: Data
    settings: Settings
    seed: int
    ranks: Ranks
    device: torch.device

    def __post_init__(self) -> None:
        assert self.settings.batch_size is not None
        count, captions = self.ranks.count, len(self.data.captions)
        if self.settings.batch_size % count:
            raise ValueError(
                f"batch_size is {self.settings.batch_size}, which {count} ranks can't share evenly. Pass a multiple."
            )
        if self.size < 2:
            raise ValueError(f"There are {captions} captions for {count} ranks: too few for one batch.")

    @property
    def size(self) -> int:
        """Captions of a batch over all ranks."""
        assert self.settings.batch_size is not None
        whole = min(self.settings.batch_size, len(self.data.captions))
        return whole - whole % self.ranks.count  # batch_size divides; a set smaller than a batch may not

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.data.captions) // self.size

    @cached_property
    def mean(self) -> torch.Tensor | None:
        """The mean of the images, of some where there are very many; None where no loss needs it."""
        if not any(weights.grounded for weights in self.settings.candidates):
            return None
        images = self.data.images_used
        return self.data.images.take(images[:: max(1, len(images) // _AVERAGED)]).mean(dim=0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        order = self.data.captions[torch.randperm(len(self.data.captions), generator=generator)]
        count = min(self.settings.hard_negatives, self.data.k)
        which = torch.arange(count).expand(len(order), count)
        if self.data.negatives is not None and self.data.k > count > 0:
            draw = torch.rand(len(order), self.data.k, generator=generator)
            if self.settings.mask_absent:
                draw.masked_fill_(~self.data.negatives.present[order], 2.0)  # those that are there come first
            which = draw.argsort(dim=1)[:, :count]
        return map(partial(self._make, order, which), range(start, self.steps))

    def _make(self, order: torch.Tensor, which: torch.Tensor, step: int) -> Batch:
        whole = slice(step * self.size, (step + 1) * self.size)
        captions, place = order[whole].sort()  # rows in the order of the file
        which = which[whole][place]
        n = self.size // self.ranks.count
        mine = slice(self.ranks.own * n, (self.ranks.own + 1) * n)
        index = self.data.image_index[captions]
        own = captions[mine]
        pairs = [(own, which[mine, column]) for column in range(which.shape[1])]
        images, texts = [self.data.images.take(index[mine])], [self.data.texts.take(own)]
        texts += [self.data.negative(*pair) for pair in pairs]
        if self.data.negative_images is not None:
            images += [self.data.negative_image(*pair) for pair in pairs]
        absent = unpaired = None
        if (negatives := self.data.negatives) is not None and pairs:
            absent = _columns(negatives, captions, which) if self.settings.mask_absent else None
            if self.data.negative_images is not None:
                unpaired = _columns(negatives, captions, which, self.data.negative_images)
        skipped = self._same_image(index, mine, len(images), len(texts))
        batch = Batch(torch.cat(images), torch.cat(texts), skipped, absent, len(images), unpaired, self.mean)
        return batch.to(self.device)

    def _same_image(self, index: torch.Tensor, mine: slice, blocks: int, texts: int) -> torch.Tensor | None:
        """Places of the other captions of each image, of negatives with images as well, in this rank's logits."""
        if not self.settings.mask_same_image or len(torch.unique(index)) == len(index):
            return None
        same = index[mine, None] == index[None, :]
        same[torch.arange(len(same)), torch.arange(len(same)) + mine.start] = False
        row, column = same.nonzero(as_tuple=True)
        place, block = row * len(index) * texts + column, len(same) * len(index) * texts + len(index)
        return torch.cat([place + number * block for number in range(blocks)])


def _columns(
    negatives: Rows, captions: torch.Tensor, which: torch.Tensor, images: Rows | None = None
) -> torch.Tensor | None:
    """Which texts are not there, captions first, bool [(1 + m) * n], or have no image; None if none is missing."""
    there = negatives.present if images is None else negatives.present & images.present
    missing = ~there[captions].gather(1, which)
    return torch.cat([torch.zeros(len(which), dtype=torch.bool), missing.T.flatten()]) if bool(missing.any()) else None


def _mixed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
