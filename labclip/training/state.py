"""Everything that changes during a fit, and where it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from labclip.training.settings import Settings

_SPREAD = 0.05  # standard deviation of the right factor of a low rank at the start


@dataclass
class State:
    """Everything that changes during a fit.

    Attributes:
        parameters: `matrix` [dim, dim], or `left` [dim, rank] and `right` [rank, dim]; `log_scale`; `bias` for SigLIP.
        optimizer: Adam over them.
        epoch: The epoch under way.
        step: Steps of it that are done.
        loss: Sum over those steps.
        history: A record of each epoch that is done.
        best: The matrix and log-temperature of the best epoch so far, with its score.
    """

    parameters: dict[str, torch.Tensor]
    optimizer: torch.optim.Adam
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def matrix(self) -> torch.Tensor:
        """A, [dim, dim]."""
        if "matrix" in self.parameters:
            return self.parameters["matrix"]
        left, right = self.parameters["left"], self.parameters["right"]
        return torch.addmm(torch.eye(len(left), device=left.device), left, right)


def new_state(dim: int, settings: Settings, *, sigmoid: bool, seed: int, device: torch.device) -> State:
    """The identity, and the temperature that the fit starts from: another with a bias for the sigmoid objective."""
    if settings.rank is None:
        parameters = {"matrix": torch.eye(dim)}
    else:
        generator = torch.Generator().manual_seed(seed)
        parameters = {
            "left": torch.zeros(dim, settings.rank),  # so that the fit begins at the base itself
            "right": _SPREAD * torch.randn(settings.rank, dim, generator=generator),
        }
    learnt = settings.logit_scale is None or sigmoid
    begin = (10.0 if sigmoid else 1.0) if learnt else settings.logit_scale
    assert begin is not None
    parameters["log_scale"] = torch.tensor(math.log(begin))
    if sigmoid:
        parameters["bias"] = torch.tensor(-10.0)
    parameters = {name: value.to(device) for name, value in parameters.items()}
    free = [value for name, value in parameters.items() if learnt or name != "log_scale"]
    return State(parameters, torch.optim.Adam(free, lr=settings.learning_rate))
