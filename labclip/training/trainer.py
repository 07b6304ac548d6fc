"""The training loop: a matrix and its temperature, fitted on frozen embeddings. A killed fit can be resumed."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from labclip.files import atomic_file, make_folder
from labclip.training.batches import Batches
from labclip.training.objective import Objective, Ranks, Weights, loss_of
from labclip.training.recipes import Settings

CHECKPOINT = "fit.safetensors"
_CHECKPOINT_SECONDS = 30.0
_DIVERGED_LOG_SCALE = 20.0  # no data needs a log-temperature as large as this
_MAX_LOG_SCALE = math.log(100.0)  # OpenCLIP's limit
_MAX_SIGMOID_LOG_SCALE = math.log(118.0)  # SigLIP's models were trained to 112 (So400m) to 117.3 (B/16)
_CALIBRATION_BATCHES = 8
_SMALL = 2**24  # batch size * dim * dim; for smaller products a second thread gains less than it risks
_INITIAL_STD = 0.05  # standard deviation of the right factor of a low rank at the start


@contextmanager
def one_thread(enabled: bool = True) -> Iterator[None]:
    """Limit torch to one thread, unless `enabled` is False.

    Threads wait for each other after every product. If another process runs on their processor, the wait takes a
    hundred times as long as a small product.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if enabled else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class State:
    """Everything that changes during a fit.

    Parameters are `matrix` [dim, dim], or `left` [dim, rank] and `right` [rank, dim]; `log_scale`; `bias` for SigLIP.
    """

    parameters: dict[str, torch.Tensor]
    optimizer: torch.optim.Adam  # of all parameters except a fixed `log_scale`
    epoch: int = 0  # the current one
    step: int = 0  # finished steps of the current epoch
    loss: float = 0.0  # sum of the losses of these steps
    history: list[dict[str, Any]] = field(default_factory=list)  # a record of each finished epoch

    @classmethod
    def new(cls, dim: int, settings: Settings, *, sigmoid: bool, seed: int, device: torch.device) -> State:
        """Start from the identity and the temperature of the settings; the sigmoid objective also has a bias."""
        if settings.rank is None:
            parameters = {"matrix": torch.eye(dim)}
        else:
            generator = torch.Generator().manual_seed(seed)
            parameters = {
                "left": torch.zeros(dim, settings.rank),  # so that A starts as the identity
                "right": _INITIAL_STD * torch.randn(settings.rank, dim, generator=generator),
            }
        scale = settings.logit_scale
        parameters["log_scale"] = torch.tensor(math.log(scale or (10.0 if sigmoid else 1.0)))
        if sigmoid:
            parameters["bias"] = torch.tensor(-10.0)
        parameters = {name: value.to(device) for name, value in parameters.items()}
        learned = [value.requires_grad_() for name, value in parameters.items() if scale is None or name != "log_scale"]
        return cls(parameters, torch.optim.Adam(learned, lr=settings.learning_rate))

    @property
    def matrix(self) -> torch.Tensor:
        """A, [dim, dim]."""
        if "matrix" in self.parameters:
            return self.parameters["matrix"].detach()
        left, right = self.parameters["left"].detach(), self.parameters["right"].detach()
        return torch.addmm(torch.eye(len(left), device=left.device), left, right)

    def align(self, texts: torch.Tensor) -> torch.Tensor:
        """Texts times A^T, [n, dim]. With a low rank the factors are used, which takes half the time."""
        if "matrix" in self.parameters:
            return texts @ self.parameters["matrix"].T
        return torch.addmm(texts, texts @ self.parameters["right"].T, self.parameters["left"].T)

    def squared_distance(self) -> torch.Tensor:
        """||A - I||_F^2."""
        if "matrix" in self.parameters:
            matrix = self.parameters["matrix"]
            return (matrix - torch.eye(len(matrix), device=matrix.device)).square().sum()
        left, right = self.parameters["left"], self.parameters["right"]
        return ((left.T @ left) * (right @ right.T)).sum()

    def save(self, folder: Path, fingerprint: str) -> None:
        """Replace the folder's checkpoint in one step, so that a kill leaves the old or the new one, never a part."""
        tensors = {f"parameter.{name}": value for name, value in self.parameters.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in moments.items()}
        record = {name: getattr(self, name) for name in ("epoch", "step", "loss", "history")}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with atomic_file(folder / CHECKPOINT) as path:
            save_file(tensors, path, metadata={"state": json.dumps({"fingerprint": fingerprint, **record})})

    def resume(self, folder: Path, fingerprint: str) -> None:
        """Load the folder's checkpoint if it has one. A damaged one, or that of another fit, is an error."""
        make_folder(folder)
        path = folder / CHECKPOINT
        if not path.exists():
            return
        adam = self.optimizer.state_dict()
        try:
            with safe_open(path, framework="pt") as file, torch.no_grad():
                record = json.loads(file.metadata()["state"])
                if record.pop("fingerprint") != fingerprint:
                    raise ValueError("it was written with other data or settings")
                for name, value in self.parameters.items():
                    value.copy_(file.get_tensor(f"parameter.{name}"))
                for key in (key for key in file.keys() if key.startswith("adam.")):  # noqa: SIM118
                    _, number, name = key.split(".")
                    adam["state"].setdefault(int(number), {})[name] = file.get_tensor(key)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} can't be resumed: {error}. Pass another folder as checkpoint, or remove it."
            ) from error
        self.optimizer.load_state_dict(adam)
        vars(self).update(record)


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    batches: Batches, objective: str | Objective, weights: Weights, *, checkpoint: Path | None, fingerprint: str,
    bar: tqdm[Any],
) -> State:  # fmt: skip
    """Fit a matrix. A checkpoint with another `fingerprint`, which is that of data and settings, is refused."""
    settings, ranks, dim, device = batches.settings, batches.ranks, batches.data.images.dim, batches.device
    state = State.new(dim, settings, sigmoid=objective == "sigmoid", seed=batches.seed, device=device)
    if checkpoint is not None:
        state.resume(checkpoint, fingerprint)
        if not ranks.agree(state.epoch * batches.steps + state.step, device):
            raise ValueError(
                f"The ranks find different checkpoints in {checkpoint}. Pass a folder that all of them share."
            )
    folder = checkpoint if ranks.index == 0 else None
    saved = time.monotonic()
    bar.update(state.epoch * batches.steps + state.step)
    while state.epoch < settings.epochs:
        with one_thread(_is_small(batches)):
            for batch in batches.epoch(state.epoch, state.step):
                aligned, log_scale = state.align(batch.texts), state.parameters["log_scale"]
                bias = state.parameters.get("bias")
                loss = loss_of(objective, batch, aligned, log_scale, bias, ranks=ranks, weights=weights)
                penalty = weights.identity / ranks.count * state.squared_distance() if weights.identity else 0
                progress = (state.epoch * batches.steps + state.step) / (settings.epochs * batches.steps)
                _update(state, loss + penalty, settings, ranks, progress)
                state.loss += float(ranks.total(loss.detach()))
                state.step += 1
                bar.update()
                if folder and math.isfinite(state.loss) and time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    state.save(folder, fingerprint)
                    saved = time.monotonic()
        _finish_epoch(state, batches)
        bar.set_postfix({"loss": f"{state.history[-1]['loss']:.3f}"}, refresh=False)
        if folder:  # after the check, because a diverged fit must not be resumed
            state.save(folder, fingerprint)
            saved = time.monotonic()
    return state


@torch.inference_mode(False)
@torch.enable_grad()
def calibrate(batches: Batches, matrix: torch.Tensor) -> float:
    """The log-temperature with the lowest loss of a matrix, by bisection on a few batches of the fit."""
    matrix, low, high = matrix.to(batches.device), 0.0, _MAX_LOG_SCALE
    with one_thread(_is_small(batches)):
        sample = [(batch, batch.texts @ matrix.T) for batch in itertools.islice(batches.epoch(0), _CALIBRATION_BATCHES)]
        for _ in range(16):
            middle = (low + high) / 2
            log_scale = torch.tensor(middle, device=batches.device, requires_grad=True)
            losses = [loss_of("softmax", batch, aligned, log_scale, ranks=batches.ranks) for batch, aligned in sample]
            (slope,) = torch.autograd.grad(torch.stack(losses).sum(), log_scale)
            low, high = (low, middle) if float(batches.ranks.total(slope)) > 0 else (middle, high)
    return (low + high) / 2


def _is_small(batches: Batches) -> bool:
    return batches.device.type == "cpu" and batches.size * batches.data.images.dim**2 <= _SMALL


def _update(state: State, loss: torch.Tensor, settings: Settings, ranks: Ranks, progress: float) -> None:
    """One step of Adam; `progress` is the finished fraction of the fit, from which the learning rate follows."""
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in state.optimizer.param_groups[0]["params"]:
        ranks.total(parameter.grad)
    if not settings.published:
        rate = settings.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        state.optimizer.param_groups[0]["lr"] = rate
    state.optimizer.step()
    if settings.logit_scale is None and not settings.published:
        limit = _MAX_SIGMOID_LOG_SCALE if "bias" in state.parameters else _MAX_LOG_SCALE
        state.parameters["log_scale"].data.clamp_(max=limit)


def _finish_epoch(state: State, batches: Batches) -> None:
    """Record the epoch and start the next. A fit that diverged is an error."""
    matrix = state.matrix.cpu()
    loss = state.loss / batches.steps
    log_scale = state.parameters["log_scale"].item()
    if not math.isfinite(loss) or not bool(torch.isfinite(matrix).all()) or abs(log_scale) > _DIVERGED_LOG_SCALE:
        raise ValueError(
            f"The fit diverged in epoch {state.epoch + 1}: its loss is {loss:g}, its log-temperature {log_scale:g}. "
            f"Lower `learning_rate`, now {batches.settings.learning_rate:g}."
        )
    distance = float((matrix - torch.eye(len(matrix))).norm())
    state.history.append({"epoch": state.epoch + 1, "loss": loss, "logit_scale": log_scale, "distance": distance})
    state.epoch, state.step, state.loss = state.epoch + 1, 0, 0.0
