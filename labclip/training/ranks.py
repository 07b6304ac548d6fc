"""What the processes of `torchrun` tell each other in a step; one process alone tells nobody.

The embeddings are frozen, so no gradient crosses ranks but the sums here: exact, where gathering through autograd is
slow at best and drops gradients at worst.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """How many processes fit together, and which this one is.

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
