"""The order in which a fit sees its captions, and the batches. Both depend only on the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from labclip.training.objective import Batch, Ranks
from labclip.training.recipes import Settings
from labclip.training.rows import Data

_MEAN_SAMPLE = 20_000  # images, approximately


@dataclass(frozen=True)
class Batches:
    """Draws the batches of each epoch, or this rank's part of them."""

    data: Data
    settings: Settings  # as `complete_settings` returns them
    seed: int  # of the order and of the choice of negatives
    ranks: Ranks  # each takes its slice of every batch
    device: torch.device  # where batches are put

    def __post_init__(self) -> None:
        if self.settings.batch_size % self.ranks.count:
            raise ValueError(
                f"batch_size is {self.settings.batch_size}, which is no multiple of the number of ranks, "
                f"{self.ranks.count}. Pass a multiple."
            )
        if self.size < 2:
            raise ValueError(
                f"There are {len(self.data.captions)} captions for {self.ranks.count} ranks: too few for one batch."
            )

    @property
    def size(self) -> int:
        """Captions per batch, over all ranks."""
        size = min(self.settings.batch_size, len(self.data.captions))
        return size - size % self.ranks.count  # batch_size is a multiple, but a dataset smaller than a batch may not be

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return len(self.data.captions) // self.size

    @cached_property
    def mean(self) -> torch.Tensor:
        """The mean image embedding, [dim], of a sample if there are very many images; zeros if no loss needs it."""
        if not any(weights.grounded or weights.mean_image for weights in self.settings.candidates):
            return torch.zeros(self.data.images.dim)
        images = self.data.images_used
        return self.data.images.take(images[:: max(1, len(images) // _MEAN_SAMPLE)]).mean(dim=0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        generator = torch.Generator().manual_seed(_mix_seed(self.seed, epoch))
        order = self.data.captions[torch.randperm(len(self.data.captions), generator=generator)]
        count = min(self.settings.hard_negatives, self.data.k)
        choices = torch.arange(count).expand(len(order), count)
        if self.data.k > count > 0:
            draw = torch.rand(len(order), self.data.k, generator=generator)
            if not self.settings.published:
                draw.masked_fill_(~self.data.has_negative[order], 2.0)  # sorts absent negatives last
            choices = draw.argsort(dim=1)[:, :count]
        for step in range(start, self.steps):
            rows = slice(step * self.size, (step + 1) * self.size)
            captions, file_order = order[rows].sort()  # memory-mapped files are read fastest in order
            yield self._batch(captions, choices[rows][file_order]).to(self.device)

    def _batch(self, captions: torch.Tensor, choices: torch.Tensor) -> Batch:
        """The batch of some captions, [N], and of the negatives chosen for each, [N, m]."""
        data, n = self.data, self.size // self.ranks.count
        blocks = 1 + choices.shape[1]

        def per_text(caption_values: torch.Tensor, negative_values: torch.Tensor) -> torch.Tensor:
            """A value for each text: first of the captions [N], then of the first negatives [N], then of the second."""
            return torch.cat([caption_values, negative_values[captions].gather(1, choices).T.flatten()])

        ones = torch.ones(len(captions), dtype=torch.bool)
        paired, present = (per_text(ones, flags) for flags in (data.has_negative_image, data.has_negative))
        images = per_text(data.image_index[captions], data.negative_image_rows)
        texts = per_text(captions, data.negative_rows)
        rank_texts = (torch.arange(blocks)[:, None] * self.size + torch.arange(n) + self.ranks.index * n).flatten()
        columns, absent, skipped = rank_texts[paired[rank_texts]], ~present, None
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
    def _true_pairs(self) -> torch.Tensor:
        """Every pair of an image and a text that is true of it: image id * len(texts) + text id, sorted."""
        data, captions = self.data, self.data.captions
        has_image = data.has_negative_image[captions]
        images = torch.cat([data.image_index[captions], data.negative_image_rows[captions][has_image]])
        texts = torch.cat([captions, data.negative_rows[captions][has_image]])
        return torch.unique(data.images.ids[images] * len(data.texts) + data.texts.ids[texts])

    def _skipped(
        self, images: torch.Tensor, texts: torch.Tensor, columns: torch.Tensor, absent: torch.Tensor
    ) -> torch.Tensor | None:
        """The mask [images, texts] of pairs that do not count: absent negatives, and true texts other than `columns`.

        A text is also true of an image if it is another caption of it, or equals one. Short texts, such as parts and
        tags, are true of many images. Only the true texts of each image are looked up, which is fast.
        """
        image, text, n_texts = self.data.images.ids[images], self.data.texts.ids[texts], len(self.data.texts)
        starts, stops = torch.searchsorted(self._true_pairs, torch.stack([image, image + 1]) * n_texts)
        row, index = _expand_ranges(starts, stops)
        true_text = self._true_pairs[index] % n_texts
        text, order = text.sort()
        match, index = _expand_ranges(
            torch.searchsorted(text, true_text), torch.searchsorted(text, true_text, right=True)
        )
        row, column = row[match], order[index]
        other = column != columns[row]
        if not bool(absent.any()) and not bool(other.any()):
            return None
        skipped = absent.repeat(len(images), 1)
        skipped[row[other], column[other]] = True
        return skipped


def _expand_ranges(start: torch.Tensor, stop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All whole numbers from each start to before its stop: the index of the range, and the number."""
    length = stop - start
    ranges = torch.repeat_interleave(length)
    return ranges, torch.arange(len(ranges)) + (start - length.cumsum(0) + length)[ranges]


def _mix_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
