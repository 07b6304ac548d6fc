"""`labclip.fit`: from embeddings to an alignment, with what it gains and what it costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tqdm import tqdm

from labclip._version import __version__
from labclip.alignment import MAX_LOGIT_SCALE, Alignment
from labclip.base import Base
from labclip.checks import check_device, checked_integer, checked_number
from labclip.features.features import Features
from labclip.training.batches import Batches
from labclip.training.change import Change
from labclip.training.frontier import ENOUGH, KEEP, Point, frontier, gallery, pair_cosines, select
from labclip.training.objective import Objective, Ranks, Weights, name_of
from labclip.training.recipes import Settings, for_data, settings_of
from labclip.training.result import FitResult, advice, measured, verdict
from labclip.training.rows import Data, read_data
from labclip.training.splits import SHARE, Split, split
from labclip.training.trainer import State, calibrated, train

_SCALED_ON = 20_000  # captions, more or less


def fit(
    features: Features | str | Path, *, validation: Features | Split | str | Path | None = None,
    retain: Mapping[str, Features | str | Path] | None = None, keep: float = KEEP,
    recipe: str = "labclip", epochs: int | None = None, batch_size: int | None = None,
    learning_rate: float | None = None, negative_weight: float | None = None, distill: float | None = None,
    identity_penalty: float | None = None, hard_negatives: int | None = None, rank: int | None = None,
    logit_scale: float | None = None, objective: Literal["softmax", "sigmoid"] | Objective | None = None, seed: int = 0,
    device: str | torch.device | None = None, checkpoint: str | Path | None = None, progress: bool = True,
) -> FitResult:  # fmt: skip
    """Fit a matrix on the text embeddings of a CLIP, from captions and their hard negatives.

    Embeddings may be of any scale; they are read as unit-length float32, memory-mapped arrays a batch at a time. Under
    `torchrun`, with a process group running and the same arguments on every rank, all ranks fit together.

    Args:
        features: Embeddings of images, captions and negatives: what `labclip.embed` returns, its folder's path, or
            `Features.from_arrays(images=..., texts=..., negatives=...)`. With `negative_images` an image has to be told
            from its like as well as a caption. Parts and keywords (`Features.kind`) are fitted together with captions.
        validation: Held-out features or their folder, of other images than the fit's and of captions that are none of
            its negatives (parts and keywords may be: a short text is true of many images); or rows of `features`, from
            `labclip.training.split_combinations`. By default a seeded tenth of the images.
        retain: Features of other domains or their folders by name, whose retrieval must not suffer.
        keep: Fraction of the base's R@1 that has to be kept on the held-out captions and on every set of `retain`, by
            the held-out estimate. A lower value allows stronger binding.
        recipe: "labclip", or one of the published settings: "paper", "paper-clevr", "paper-pug", each with "-sb" for
            batches without negatives.
        epochs: Passes over the captions. This and the following: the recipe's own where None.
        batch_size: Captions per step, over all ranks.
        learning_rate: Adam's learning rate.
        negative_weight: Weight of a hard negative; a caption of another image counts 1. This and the next two, if
            given, are used in all fits that are tried.
        distill: Weight of distillation from the base: the KL divergence from its softmax over images and captions.
        identity_penalty: Weight of ||A - I||_F^2 in the loss.
        hard_negatives: Negatives per caption and step.
        rank: Rank of A - I.
        logit_scale: Factor of the cosines in the loss. With many captions a higher one improves binding of unseen
            combinations. "sigmoid" learns it if none is given.
        objective: "softmax" (CLIP), "sigmoid" (SigLIP), or a function of logits and columns, see
            `labclip.training.Objective`; by default as the base was trained, softmax where unknown.
        seed: Seed of split, order, negatives and initial factors.
        device: "cpu", "cuda", "mps"; by default the CPU.
        checkpoint: A folder; a fit that was killed and is called again goes on from there, to the same matrix.
        progress: Whether to show a bar on stderr.

    Returns:
        The fitted alignment with its report.

    Raises:
        ValueError: If the embeddings are unusable, of different models, or lack what the recipe needs; if `validation`
            leaks; if a setting is out of range; if the checkpoint is another fit's; if the fit diverges.

    Example:
        >>> import torch, labclip
        >>> images = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
        >>> features = labclip.Features.from_arrays(
        ...     images=images, texts=images.roll(1, dims=1), negatives=images.roll(2, dims=1)
        ... )
        >>> labclip.fit(features, epochs=5, progress=False).alignment.dim
        16

    Source: arXiv:2502.03566; the recipe "labclip" is described in docs/fit.md.
    """
    settings = settings_of(
        recipe, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, hard_negatives=hard_negatives,
        rank=rank, logit_scale=logit_scale, negative_weight=negative_weight, distill=distill,
        identity_penalty=identity_penalty,
    )  # fmt: skip
    if not 0 < checked_number("keep", keep) <= 1:
        raise ValueError(f"keep is {keep!r}. Pass a fraction of 1, for example 0.99.")
    if not isinstance(retain, Mapping | None):
        raise ValueError('retain is not a dict of features by name. Pass for example retain={"flickr": features}.')
    features = _opened("features", features)
    if validation is not None and not isinstance(validation, Split):
        validation = _opened("validation", validation, features)
    others = {name: _opened(f"retain[{name!r}]", given, features) for name, given in (retain or {}).items()}
    check_device(device)
    seed, ranks, where = checked_integer("seed", seed), Ranks.here(), torch.device(device or "cpu")
    loss = _objective(objective, features.base, ranks)
    if loss == "sigmoid" and logit_scale is None:  # a recipe's is of the softmax; SigLIP learns its own with a bias
        settings = replace(settings, logit_scale=None)
    data = read_data(features)
    _check(data, settings, recipe)
    data, held, leaked = split(data, validation, 0.0 if settings.published else SHARE, seed)
    settings = for_data(settings, dim=data.images.dim, captions=len(data.captions))
    batches = Batches(data, settings, seed, ranks, where)
    sets = {} if held is None else {"validation": gallery(held, seed=seed)}
    for name, other in others.items():
        sets[f"retain {name}"] = gallery(read_data(other, f"retain[{name!r}]"), seed=seed)
    identity = ""
    if checkpoint is not None or ranks.count > 1:
        identity = _identity(batches, [*sets.values()], name_of(loss))
        if not ranks.agree(int(identity[:15], 16), where):
            raise ValueError("The ranks were given other data or settings than each other. Pass all of them the same.")
    _hold_on(data, where)
    fits = []
    steps = len(settings.candidates) * settings.epochs * batches.steps
    with tqdm(total=steps, unit="batch", desc="fit", disable=not progress or ranks.own > 0) as bar:
        for number, weights in enumerate(settings.candidates, 1):
            folder = None if checkpoint is None else Path(checkpoint, f"candidate-{number}")
            state = train(batches, loss, weights, fingerprint=identity, checkpoint=folder, bar=bar)
            matrix = state.matrix.cpu()
            if not settings.published:
                some = data.captions[:: max(1, len(data.captions) // _SCALED_ON)]
                matrix = unit_scale(matrix, data.texts.take(some).cpu())
            fits.append(_Fitted(matrix, state, weights, frontier(sets, matrix) if sets else []))
    held_out = "nothing"
    if held is not None:
        held_out = f"{held.words}, {f'{leaked:,}' if leaked else 'none'} of them negatives of the fit"
    record = {"recipe": recipe, "objective": name_of(loss), "seed": seed, "keep": keep, "held_out": held_out}
    return _result(fits, batches, sets, features, record, leaked)


class _Fitted(NamedTuple):
    matrix: torch.Tensor
    state: State
    weights: Weights
    points: list[Point]


def _opened(name: str, given: Features | str | Path, own: Features | None = None) -> Features:
    """Features, or those of a folder; of another model than `own` they are an error."""
    features = Features.load(given) if isinstance(given, str | Path) else given
    if not isinstance(features, Features):
        raise ValueError(
            f"{name} is a {type(features).__name__}. Pass labclip.Features: of a folder labclip.Features.load(FOLDER), "
            f"of arrays labclip.Features.from_arrays(images=..., texts=..., negatives=...)."
        )
    if own is not None and (differs := features.origin.differs(own.origin)):
        raise ValueError(
            f"{name} was embedded by {features.origin}, but features by {own.origin}: {differs}. Embed both with one "
            f"model."
        )
    return features


def unit_scale(matrix: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The matrix times the number that makes unit-length `texts` [n, dim] unit-length on average after it.

    A cosine does not see the scale of a matrix, but a blend with the identity does: unscaled, a free fit is hundreds of
    times the identity, and strength 0.05 is most of the way.
    """
    return matrix / (texts @ matrix.T).norm(dim=-1).mean()


def _result(
    fits: Sequence[_Fitted], batches: Batches, sets: Mapping[str, Data], features: Features, record: dict[str, Any],
    leaked: int,
) -> FitResult:  # fmt: skip
    """The candidate and the strength that the held-out `sets` select, with its record and advice."""
    data, settings, own = batches.data, batches.settings, sets.get("validation")
    fitted, strength, few = fits[0], 1.0, {}
    if sets and not settings.published:
        best = select([point for candidate in fits for point in candidate.points], record["keep"])
        fitted = next(candidate for candidate in fits if any(point is best for point in candidate.points))
        strength = best.strength
        few = {name: count for name, held in sets.items() if (count := len(held.images_used)) < ENOUGH}
    metadata: dict[str, Any] = {
        **record,
        "settings": asdict(settings),
        "loss_weights": asdict(fitted.weights),
        "data": f"{data.words}, {data.k} negative{'s' if data.k > 1 else ''} each",
        "versions": {"labclip": __version__, "torch": torch.__version__},
    }
    results = measured(fitted.points, strength)
    if results:
        metadata["results"] = results
    if own and len(own.images_used) > 1:
        metadata["cosines"] = pair_cosines(own, fitted.matrix, strength)
    change = Change.of(own, fitted.matrix, strength) if own and own.n_with_negative else None
    sentences, worthwhile = advice(results, strength, change, few, leaked)
    metadata |= {"worthwhile": worthwhile, "verdict": verdict(change, strength, worthwhile=worthwhile)}
    metadata["change"] = asdict(change) if change else None
    # SigLIP's temperature means nothing without its bias, which an alignment has not, and that of a user's objective is
    # its own: the base keeps its temperature.
    log_scale = None
    if record["objective"] == "softmax":
        learned = fitted.state.parameters["log_scale"].item()
        log_scale = learned if settings.logit_scale is None else calibrated(batches, fitted.matrix)
        log_scale = log_scale if log_scale <= MAX_LOGIT_SCALE else None
    alignment = Alignment(
        fitted.matrix, base=features.base, logit_scale=log_scale, strength=strength, metadata=metadata,
        fingerprint=features.fingerprint,
    )  # fmt: skip
    return FitResult(
        alignment, fitted.state.history, fitted.points, sentences, worthwhile, change,
        weights_sha256=features.origin.weights_sha256 or "", date=date.today().isoformat(),
    )  # fmt: skip


def _objective(objective: str | Objective | None, base: Base | None, ranks: Ranks) -> str | Objective:
    if objective is None:
        import open_clip

        config = (open_clip.get_model_config(base.model) if base else None) or {}
        return "sigmoid" if "init_logit_bias" in config else "softmax"
    if callable(objective) and ranks.count > 1:
        raise ValueError(
            f"objective is a function, which sees the logits of one process, and {ranks.count} fit together. Run it in "
            f"one process, or pass 'softmax' or 'sigmoid'."
        )
    if not callable(objective) and objective not in ("softmax", "sigmoid"):
        raise ValueError(
            f"objective is {objective!r}. Pass 'softmax' for CLIP, 'sigmoid' for SigLIP, or a function of logits and "
            f"columns, as labclip.training.Objective says."
        )
    return objective


def _check(data: Data, settings: Settings, recipe: str) -> None:
    if settings.hard_negatives and not bool(data.has_negative.any()):
        raise ValueError(
            f"Recipe {recipe!r} learns from hard negatives, and no caption has a negative that differs from it. Make "
            f'some with labclip.negatives and embed them, or pass recipe="paper-sb".'
        )
    if settings.hard_negatives > data.k:
        raise ValueError(
            f"hard_negatives is {settings.hard_negatives}, but a caption has {data.k} of them at most. Pass no more "
            f"than that, or make more of them with labclip.negatives(k={settings.hard_negatives})."
        )


def _hold_on(data: Data, device: torch.device) -> None:
    """Keep everything on a GPU where it takes at most half of the memory that is free."""
    if device.type != "cuda":
        return
    size = 4 * data.images.dim * (len(data.images) + len(data.texts))
    if size <= torch.cuda.mem_get_info(device)[0] // 2:
        data.images.move(device)
        data.texts.move(device)


def _identity(batches: Batches, sets: Sequence[Data], objective: str) -> str:
    """What a checkpoint belongs to: the settings, and every number of the data."""
    settings = [asdict(batches.settings), objective, batches.seed, len(sets)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for data in (batches.data, *sets):
        digest.update(data.images.digest() + data.texts.digest())
        for part in (data.image_index, data.captions, data.has_negative, data.has_negative_image, data.kind):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()
