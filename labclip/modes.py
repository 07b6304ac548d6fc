"""How a model and torch run for a while, and after that as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode: dropout would make the features random."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """One thread for torch, where that is wanted.

    Threads wait for each other after every product. Where another process has their processor, that wait is a hundred
    times as long as a small product takes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
