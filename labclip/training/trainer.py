"""The loop: one matrix and its temperature, fitted on frozen embeddings."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from labclip.training.batches import Batches
from labclip.training.checkpoint import read_checkpoint, write_checkpoint
from labclip.training.frontier import Point, score, select
from labclip.training.objective import (
    Batch,
    Gradient,
    Objective,
    custom_gradient,
    sigmoid_gradient,
    softmax_gradient,
)  # fmt: skip
from labclip.training.settings import Settings
from labclip.training.state import State

_COARSE = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
_LOOKS = 10  # at validation during a fit; a look can cost as much as an epoch
_CHECKPOINT_SECONDS = 30.0
_ABSURD = 20.0  # a log-temperature that no data asks for
_MAX_LOG_SCALE = math.log(100.0)  # as OpenCLIP clamps it
_CALIBRATED_ON = 8  # batches

Measure = Callable[[torch.Tensor, Sequence[float]], list[Point]]
"""The points of a matrix at some strengths, on held-out data."""


def train(
    state: State,
    batches: Batches,
    objective: Objective | None,
    *,
    measure: Measure | None,
    checkpoint: Path | None,
    fingerprint: str,
    penalty: float,
    progress: bool,
) -> None:
    """Run the epochs that are left.

    Args:
        state: Where to begin; changed in place.
        batches: What to fit on.
        objective: A user's; None is the softmax, or the sigmoid where the state has a bias.
        measure: Called after some epochs, to keep the best one; None keeps the last.
        checkpoint: A folder that keeps the state, or None.
        fingerprint: Of data and settings; a checkpoint of others is refused.
        penalty: On ||A - I||_F^2.
        progress: Whether to show a bar on stderr.
    """
    settings = batches.settings
    assert settings.epochs is not None
    if checkpoint is not None:
        read_checkpoint(checkpoint, state, fingerprint)
        if not batches.ranks.agree(state.epoch * batches.steps + state.step, batches.device):
            raise ValueError(
                f"The ranks find different checkpoints in {checkpoint}. Pass a folder that all of them share."
            )
    saves = checkpoint is not None and batches.ranks.own == 0
    saved = time.monotonic()
    total = settings.epochs * batches.steps
    bar = tqdm(
        total=total, initial=state.epoch * batches.steps + state.step, unit="batch", desc=f"fit, penalty {penalty:g}",
        disable=not progress or batches.ranks.own > 0,
    )  # fmt: skip
    eye = torch.eye(batches.data.dim, device=batches.device)
    while state.epoch < settings.epochs:
        for batch in batches.epoch(state.epoch, state.step):
            matrix = state.matrix
            gradient = _gradient(state, batch, batches, matrix, objective)
            done = state.epoch * batches.steps + state.step
            _update(state, gradient, settings, penalty * 2 * (matrix - eye), done / total)
            state.loss += float(gradient.loss)
            state.step += 1
            bar.update()
            if saves and checkpoint and time.monotonic() - saved > _CHECKPOINT_SECONDS:
                write_checkpoint(checkpoint, state, fingerprint)
                saved = time.monotonic()
        _finish_epoch(state, batches, measure)
        shown = {key: f"{state.history[-1][key]:.3f}" for key in ("loss", "binding") if key in state.history[-1]}
        bar.set_postfix(shown, refresh=False)
        if saves and checkpoint:
            write_checkpoint(checkpoint, state, fingerprint)
            saved = time.monotonic()
    bar.close()


def calibrated(batches: Batches, matrix: torch.Tensor) -> float:
    """The log-temperature at which a matrix's loss is least, on some batches of the fit."""
    epoch = batches.epoch(0)
    some = list(itertools.islice(epoch, _CALIBRATED_ON))
    matrix, low, high = matrix.to(batches.device), 0.0, _MAX_LOG_SCALE
    for _ in range(16):
        middle = torch.tensor((low + high) / 2, device=batches.device)
        slope = sum(float(softmax_gradient(batch, matrix, middle, batches.ranks).log_scale) for batch in some)
        low, high = (low, float(middle)) if slope > 0 else (float(middle), high)
    return (low + high) / 2


def _gradient(
    state: State, batch: Batch, batches: Batches, matrix: torch.Tensor, objective: Objective | None
) -> Gradient:
    log_scale = state.parameters["log_scale"]
    if objective is not None:
        return custom_gradient(objective, batch, matrix, log_scale)
    if (bias := state.parameters.get("bias")) is not None:
        return sigmoid_gradient(batch, matrix, log_scale, bias, batches.ranks)
    return softmax_gradient(batch, matrix, log_scale, batches.ranks)


def _update(state: State, gradient: Gradient, settings: Settings, penalty: torch.Tensor, progress: float) -> None:
    """One step of Adam, after the penalty's gradient [dim, dim] is added."""
    parameters, pull = state.parameters, gradient.matrix + penalty
    if "matrix" in parameters:
        parameters["matrix"].grad = pull
    else:
        parameters["left"].grad = pull @ parameters["right"].T
        parameters["right"].grad = parameters["left"].T @ pull
    parameters["log_scale"].grad = gradient.log_scale.reshape(())
    if "bias" in parameters:
        parameters["bias"].grad = gradient.bias.reshape(())
    if settings.cosine:
        rate = settings.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        state.optimizer.param_groups[0]["lr"] = rate
    state.optimizer.step()
    if settings.rescale:
        parameters["log_scale"].clamp_(max=_MAX_LOG_SCALE)


def _finish_epoch(state: State, batches: Batches, measure: Measure | None) -> None:
    """Record the epoch, and keep it if it is the best so far."""
    matrix = state.matrix.cpu()
    loss = state.loss / batches.steps
    log_scale = float(state.parameters["log_scale"])
    if not math.isfinite(loss) or not bool(torch.isfinite(matrix).all()) or abs(log_scale) > _ABSURD:
        raise ValueError(
            f"The fit diverged in epoch {state.epoch + 1}: its loss is {loss:g}, its log-temperature {log_scale:g}. "
            f"Lower learning_rate, now {batches.settings.learning_rate:g}."
        )
    record: dict[str, Any] = {
        "epoch": state.epoch + 1,
        "loss": loss,
        "logit_scale": log_scale,
        "distance": float((matrix - torch.eye(len(matrix))).norm()),
    }
    better, epochs = True, batches.settings.epochs
    assert epochs is not None
    if measure is not None:
        better = state.epoch + 1 == epochs or (state.epoch + 1) % max(1, epochs // _LOOKS) == 0
        if better:
            points = measure(matrix, _COARSE)
            best = select(points)
            record |= {"binding": best.binding, "score": score(best, points[0])}
            better = all(record["score"] > past["score"] for past in state.history if "score" in past)
    if better:
        state.best = {"matrix": matrix.clone(), "log_scale": state.parameters["log_scale"].cpu().clone()}
    state.history.append(record)
    state.epoch, state.step, state.loss = state.epoch + 1, 0, 0.0
