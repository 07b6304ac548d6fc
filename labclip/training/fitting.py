"""`labclip.fit`: fits an alignment on embeddings, and measures its gains and costs."""

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
from labclip.towers.openclip import known_config
from labclip.training.batches import Batches
from labclip.training.change import Change
from labclip.training.frontier import ENOUGH, KEEP, Point, frontier, gallery, pair_cosines, select
from labclip.training.objective import Objective, Ranks, Weights
from labclip.training.recipes import complete_settings, settings_of
from labclip.training.result import FitResult, advice, judge, results_at
from labclip.training.rows import Data, read_data
from labclip.training.splits import HELD_OUT, Split, split
from labclip.training.trainer import State, calibrate, train


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

    Embeddings can have any scale; they are read as unit-length float32. Memory-mapped arrays are read a batch at a
    time. Under `torchrun`, with a process group running and the same arguments on every rank, all ranks fit together.

    Args:
        features: Embeddings of images, captions and negatives: the result of `labclip.embed`, the path of its folder,
            or `Features.from_arrays(images=..., texts=..., negatives=...)`. With `negative_images`, the fit also learns
            to prefer the right image for a text. Parts and keywords (`Features.kind`) are fitted with the captions.
        validation: Held-out features, or the path of their folder. Their images must not be in the fit, and their
            captions must not be its negatives; parts and keywords may be, as a short text is true of many images. Or
            rows of `features`, from `labclip.training.split_combinations`. By default a seeded tenth of the images.
        retain: Features of other domains, or the paths of their folders, by name. Retrieval on these is kept.
        keep: Fraction of the base's R@1 to keep on the held-out captions and on every set of `retain`, as estimated on
            these. A lower value allows stronger binding.
        recipe: "labclip", or one of the published settings: "paper", "paper-clevr", "paper-pug", each with "-sb" for
            batches without negatives.
        epochs: Passes over the captions. For this and the next settings, None is the recipe's value.
        batch_size: Captions per step, over all ranks.
        learning_rate: Adam's learning rate.
        negative_weight: Weight of a hard negative; a caption of another image has weight 1. If given, this weight and
            the next two are used in all candidate fits.
        distill: Weight of distillation from the base: the KL divergence from its softmax over images and captions.
        identity_penalty: Weight of ||A - I||_F^2 in the loss.
        hard_negatives: Negatives per caption and step.
        rank: Rank of A - I.
        logit_scale: Factor of the cosines in the loss. With many captions a higher one improves binding of unseen
            combinations. If None, "sigmoid" learns it.
        objective: "softmax" (CLIP), "sigmoid" (SigLIP), or a function with the signature of
            `labclip.training.Objective`. By default the objective of the base's training, or softmax if it is unknown.
        seed: Seed of the split, the order, the choice of negatives and the initial factors.
        device: "cpu", "cuda", "mps"; by default the CPU.
        checkpoint: A folder. If a fit is killed, the same call continues it from there and gives the same matrix.
        progress: Whether to show a bar on stderr.

    Returns:
        The fitted alignment with its report.

    Raises:
        ValueError: If embeddings are not finite, come from different models, or lack the negatives that the recipe
            needs; if `validation` leaks; if a setting is out of range; if the checkpoint belongs to another fit; or if
            the fit diverges.

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
    features = _open_features("features", features)
    if validation is not None and not isinstance(validation, Split):
        validation = _open_features("validation", validation, features)
    retained = {name: _open_features(f"retain[{name!r}]", source, features) for name, source in (retain or {}).items()}
    check_device(device)
    seed, ranks, device = checked_integer("seed", seed), Ranks.here(), torch.device(device or "cpu")
    loss = _choose_objective(objective, features.base, ranks)
    loss_name = loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__qualname__)
    if loss == "sigmoid" and logit_scale is None:  # the recipe's scale is for the softmax; SigLIP learns scale and bias
        settings = replace(settings, logit_scale=None)
    data = read_data(features)
    if settings.hard_negatives > (present := data.k if bool(data.has_negative.any()) else 0):
        raise ValueError(
            f"Recipe {recipe!r} with hard_negatives={settings.hard_negatives} needs that many per caption, but a "
            f"caption has at most {present} that differ from it. Make more with labclip.negatives and embed them, or "
            f"pass hard_negatives={present}."
        )
    data, held_out, leaked = split(data, validation, 0.0 if settings.published else HELD_OUT, seed)
    settings = complete_settings(settings, dim=data.images.dim, captions=len(data.captions))
    batches = Batches(data, settings, seed, ranks, device)
    sets = {} if held_out is None else {"validation": gallery(held_out, seed=seed)}
    for name, domain in retained.items():
        sets[f"retain {name}"] = gallery(read_data(domain, f"retain[{name!r}]"), seed=seed)
    fingerprint = ""
    if checkpoint is not None or ranks.count > 1:
        fingerprint = _hash_inputs(batches, [*sets.values()], loss_name)
        if not ranks.agree(int(fingerprint[:15], 16), device):
            raise ValueError("The ranks have different data or settings. Pass the same to all of them.")
    size = 4 * data.images.dim * (len(data.images) + len(data.texts))  # bytes
    if device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] // 2:
        data.images.move(device)
        data.texts.move(device)
    candidates = []
    steps = len(settings.candidates) * settings.epochs * batches.steps
    with tqdm(total=steps, unit="batch", desc="fit", disable=not progress or ranks.index > 0) as bar:
        for number, weights in enumerate(settings.candidates, 1):
            folder = None if checkpoint is None else Path(checkpoint, f"candidate-{number}")
            state = train(batches, loss, weights, fingerprint=fingerprint, checkpoint=folder, bar=bar)
            matrix = state.matrix.cpu()
            if not settings.published:
                # Cosines do not depend on the scale of a matrix, but a blend with the identity does. A free fit may be
                # hundreds of times the identity; unscaled, a strength of 0.05 would have most of its effect.
                texts = data.texts.take(data.captions[:: max(1, len(data.captions) // 20_000)]).cpu()
                matrix = matrix / (texts @ matrix.T).norm(dim=-1).mean()
            candidates.append(_Candidate(matrix, state, weights, frontier(sets, matrix) if sets else []))
    record = {"recipe": recipe, "objective": loss_name, "seed": seed, "keep": keep, "held_out": "nothing"}
    if held_out is not None:
        record["held_out"] = f"{held_out.words}, {f'{leaked:,}' if leaked else 'none'} of them negatives of the fit"
    return _make_result(candidates, batches, sets, features, record, leaked)


class _Candidate(NamedTuple):
    matrix: torch.Tensor
    state: State
    weights: Weights
    points: list[Point]


def _open_features(name: str, source: Features | str | Path, reference: Features | None = None) -> Features:
    """Features, loaded if `source` is a folder. They must come from the model of the `reference`, if there is one."""
    features = Features.load(source) if isinstance(source, str | Path) else source
    if not isinstance(features, Features):
        raise ValueError(
            f"{name} is a {type(features).__name__}. Pass labclip.Features: for a folder "
            f"labclip.Features.load(FOLDER), for arrays "
            f"labclip.Features.from_arrays(images=..., texts=..., negatives=...)."
        )
    if reference is not None and (difference := features.origin.differs(reference.origin)):
        raise ValueError(
            f"{name} was embedded by {features.origin}, but features by {reference.origin}: {difference}. Embed both "
            f"with one model."
        )
    return features


def _make_result(
    candidates: Sequence[_Candidate], batches: Batches, sets: Mapping[str, Data], features: Features,
    record: dict[str, Any], leaked: int,
) -> FitResult:  # fmt: skip
    """Select the candidate and the strength on the held-out `sets`, and add its record and advice."""
    data, settings, held_out = batches.data, batches.settings, sets.get("validation")
    selected, strength, small_sets = candidates[0], 1.0, {}
    if sets and not settings.published:
        best = select([point for candidate in candidates for point in candidate.points], record["keep"])
        selected = next(candidate for candidate in candidates if any(point is best for point in candidate.points))
        strength = best.strength
        n_images = {name: len(part.images_used) for name, part in sets.items()}
        small_sets = {name: count for name, count in n_images.items() if count < ENOUGH}
    metadata: dict[str, Any] = {
        **record,
        "settings": asdict(settings),
        "loss_weights": asdict(selected.weights),
        "data": f"{data.words}, {data.k} negative{'s' if data.k > 1 else ''} each",
        "versions": {"labclip": __version__, "torch": torch.__version__},
    }
    if selected.points:
        metadata["results"] = results_at(selected.points, strength)
    if held_out and len(held_out.images_used) > 1:
        metadata["cosines"] = pair_cosines(held_out, selected.matrix, strength)
    change = Change.of(held_out, selected.matrix, strength) if held_out and held_out.n_with_negative else None
    sentences = advice(selected.points, strength, change, small_sets, leaked)
    worthwhile, verdict = judge(change, strength)
    metadata |= {"worthwhile": worthwhile, "verdict": verdict, "change": asdict(change) if change else None}
    # The base keeps its temperature with SigLIP, whose temperature needs a bias that an alignment lacks, and with a
    # user's objective, whose temperature may mean something else.
    log_scale = None
    if record["objective"] == "softmax":
        learned = selected.state.parameters["log_scale"].item()
        log_scale = learned if settings.logit_scale is None else calibrate(batches, selected.matrix)
        log_scale = log_scale if log_scale <= MAX_LOGIT_SCALE else None
    alignment = Alignment(
        selected.matrix, base=features.base, logit_scale=log_scale, strength=strength, metadata=metadata,
        fingerprint=features.fingerprint,
    )  # fmt: skip
    return FitResult(
        alignment, selected.state.history, selected.points, sentences, worthwhile, change,
        weights_sha256=features.origin.weights_sha256 or "", date=date.today().isoformat(),
    )  # fmt: skip


def _choose_objective(objective: str | Objective | None, base: Base | None, ranks: Ranks) -> str | Objective:
    """The objective to fit with: by default that of the base's training, softmax if it is unknown."""
    if objective is None:
        config = (known_config(base.model) if base else None) or {}
        return "sigmoid" if "init_logit_bias" in config else "softmax"
    if callable(objective) and ranks.count > 1:
        raise ValueError(
            f"objective is a function, which sees the logits of one process only, but {ranks.count} processes fit "
            f"together. Use one process, or pass 'softmax' or 'sigmoid'."
        )
    if not callable(objective) and objective not in ("softmax", "sigmoid"):
        raise ValueError(
            f"objective is {objective!r}. Pass 'softmax' for CLIP, 'sigmoid' for SigLIP, or a function of logits and "
            f"columns, as labclip.training.Objective describes."
        )
    return objective


def _hash_inputs(batches: Batches, sets: Sequence[Data], objective: str) -> str:
    """A hash of the settings and of all data, by which a checkpoint is recognised."""
    settings = [asdict(batches.settings), objective, batches.seed, len(sets)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for data in (batches.data, *sets):
        digest.update(data.images.digest() + data.texts.digest())
        for array in (data.image_index, data.captions, data.has_negative, data.has_negative_image, data.kind):
            digest.update(array.numpy().tobytes())
    return digest.hexdigest()
