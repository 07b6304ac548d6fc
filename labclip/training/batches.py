"""The order in which a fit sees its captions, and the batches made of it: all of it follows from seed and epoch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch

from labclip.training.dataset import Data
from labclip.training.objective import Batch
from labclip.training.ranks import Ranks
from labclip.training.settings import Settings


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

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        order = self.data.captions[torch.randperm(len(self.data.captions), generator=generator)]
        count = min(self.settings.hard_negatives, self.data.k)
        which = torch.arange(count).expand(len(order), count)
        if self.data.k > count > 0:
            draw = torch.rand(len(order), self.data.k, generator=generator)
            if self.settings.mask_absent:
                assert self.data.valid is not None
                draw.masked_fill_(~self.data.valid[order], 2.0)  # those that are there come first
            which = draw.argsort(dim=1)[:, :count]
        if self.device.type == "cpu" and not any(rows.is_mapped for rows in self.data.each()):
            return (self._make(order, which, step) for step in range(start, self.steps))
        return _ahead(self._make(order, which, step) for step in range(start, self.steps))

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
        return Batch(
            self._moved(torch.cat(images)),
            self._moved(torch.cat(texts)),
            self._moved(self._same_image(index, mine, len(images), len(texts))),
            self._moved(self._absent(captions, which)),
            len(images),
            self._moved(self._unpaired(captions, which)),
        )

    def _same_image(self, index: torch.Tensor, mine: slice, blocks: int, texts: int) -> torch.Tensor | None:
        """Places of the other captions of each image, of negatives with images as well, in this rank's logits."""
        if not self.settings.mask_same_image or len(torch.unique(index)) == len(index):
            return None
        same = index[mine, None] == index[None, :]
        same[torch.arange(len(same)), torch.arange(len(same)) + mine.start] = False
        row, column = same.nonzero(as_tuple=True)
        place, block = row * len(index) * texts + column, len(same) * len(index) * texts + len(index)
        return torch.cat([place + number * block for number in range(blocks)])

    def _absent(self, captions: torch.Tensor, which: torch.Tensor) -> torch.Tensor | None:
        """Columns of negatives that are not there."""
        if not self.settings.mask_absent or self.data.valid is None or not which.shape[1]:
            return None
        return self._columns(~self.data.valid[captions].gather(1, which))

    def _unpaired(self, captions: torch.Tensor, which: torch.Tensor) -> torch.Tensor | None:
        """Columns of negatives without an image of their own."""
        if self.data.paired is None or self.data.valid is None or not which.shape[1]:
            return None
        return self._columns(~(self.data.paired & self.data.valid)[captions].gather(1, which))

    def _columns(self, flags: torch.Tensor) -> torch.Tensor | None:
        """Flags of the negatives of each caption, [n, m], as columns after those of all captions."""
        return torch.cat([torch.zeros(len(flags), dtype=torch.bool), flags.T.flatten()]) if bool(flags.any()) else None

    @overload
    def _moved(self, value: torch.Tensor) -> torch.Tensor: ...

    @overload
    def _moved(self, value: torch.Tensor | None) -> torch.Tensor | None: ...

    def _moved(self, value: torch.Tensor | None) -> torch.Tensor | None:
        if value is None:
            return None
        if self.device.type == "cuda" and value.device.type == "cpu":
            value = value.pin_memory()
        return value.to(self.device, non_blocking=True)


def _mixed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, the next two made by another thread while one is used."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(value: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.1)
                break
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the thread that waits
            put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (value := ready.get()) is not None:
            if isinstance(value, BaseException):
                raise value
            yield value
    finally:
        stop.set()
