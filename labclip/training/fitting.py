"""`labclip.fit`: from embeddings to an alignment, with what it gains and what it costs."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from labclip._version import __version__
from labclip.alignment import MAX_LOGIT_SCALE, Alignment, Base
from labclip.checks import check_device, checked_whole
from labclip.training.advice import advice
from labclip.training.batches import Batches
from labclip.training.checkpoint import check_checkpoint
from labclip.training.frontier import Held, Point, choose, frontier
from labclip.training.ranks import Ranks
from labclip.training.result import FitResult
from labclip.training.rows import Data, read_data
from labclip.training.settings import Settings, as_json, for_data, settings_of
from labclip.training.state import new_state
from labclip.training.trainer import calibrated, train

_SCALED_ON = 20_000  # captions, more or less


def fit(
    image_features: Any,
    text_features: Any,
    negative_features: Any = None,
    *,
    negative_image_features: Any = None,
    image_index: Any = None,
    validation: Sequence[Any] | None = None,
    retain: Sequence[Sequence[Any]] | None = None,
    recipe: str = "labclip",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    identity_penalty: float | None = None,
    hard_negatives: int | None = None,
    rank: int | None = None,
    objective: str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    base: Base | None = None,
    fingerprint: Any = None,
) -> FitResult:
    """Fit a matrix on the text embeddings of a CLIP, from captions and their hard negatives.

    Embeddings may be of any scale; they are read as unit-length float32. Memory-mapped arrays are read a batch at a
    time. Under `torchrun`, with a process group running and the same arguments on every rank, all ranks fit together.

    Args:
        image_features: Image embeddings, [n_images, dim], floating point.
        text_features: The base's own text embeddings of the captions, [n_texts, dim].
        negative_features: Text embeddings of captions that are wrong for the image, [n_texts, dim] or
            [n_texts, k, dim]; where a caption has none, the caption's own row.
        negative_image_features: Image embeddings of pictures that the negatives describe, the shape of
            `negative_features`, where there are such pictures: then a picture has to be told from its like as well as a
            caption. Where a negative has none, the row of the caption's own image.
        image_index: Whose caption each text is, integers [n_texts]; by default text i describes image i.
        validation: Held-out data, (images, texts, negatives) or (images, texts, negatives, index). By default a seeded
            tenth of the images.
        retain: Pairs (images, texts) or (images, texts, index) of other domains whose retrieval must not suffer.
        recipe: "labclip", or one of the published settings: "paper", "paper-clevr", "paper-pug", each with "-sb" for
            batches without negatives.
        epochs: Passes over the captions. This and the following: the recipe's own where None.
        batch_size: Captions a step, over all ranks.
        learning_rate: Of Adam.
        identity_penalty: Times ||A - I||_F^2, added to the loss; None tries the recipe's own ones
        hard_negatives: Negatives a caption a step.
        rank: Rank of A - I.
        objective: "softmax" (CLIP) or "sigmoid" (SigLIP); by default as `base` was trained, softmax where unknown.
        seed: Of split, order, negatives and initial factors.
        device: "cpu", "cuda", "mps"; by default the CPU.
        checkpoint: A folder; a fit that was killed and is called again goes on from there, to the same matrix.
        progress: Whether to show a bar on stderr.
        base: The model the embeddings come from, recorded so that the matrix is refused on another.
        fingerprint: The base's own unit-length text embedding of `FINGERPRINT_CAPTION`, [dim], which tells
            bases of one name apart; feature folders have it.

    Returns:
        The alignment, the epochs and the frontier.

    Raises:
        ValueError: If the embeddings are not finite, all zeros, do not fit together, or lack what the recipe needs; if
            a setting is out of range; if the checkpoint is another fit's; if the fit diverges.

    Example:
        >>> import torch, labclip
        >>> images = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
        >>> result = labclip.fit(images, images.roll(1, dims=1), images.roll(2, dims=1), epochs=5, progress=False)
        >>> result.alignment.dim
        16

    Source: arXiv:2502.03566; the recipe "labclip" is described in docs/fit.md.
    """
    settings = settings_of(
        recipe, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, hard_negatives=hard_negatives,
        identity_penalties=None if identity_penalty is None else (identity_penalty,), rank=rank,
    )  # fmt: skip
    objective, where, ranks = _objective(objective, base), _device(device), Ranks.here()
    seed = checked_whole("seed", seed)
    digest = checkpoint is not None or ranks.count > 1
    data = read_data(
        image_features, text_features, negative_features, image_index,
        negative_image_features=negative_image_features, digest=digest,
        compare=settings.drop_equal or validation is not None or negative_image_features is not None,
    )  # fmt: skip
    _check(data, settings, recipe, base)
    data, held = _split(data, validation, settings, seed)
    settings = for_data(settings, dim=data.dim, captions=len(data.captions))
    assert settings.batch_size is not None
    if settings.batch_size % ranks.count:
        raise ValueError(
            f"batch_size is {settings.batch_size}, which {ranks.count} ranks can't share evenly. Pass a multiple."
        )
    others = [_retained(number, pair, data.dim, seed) for number, pair in enumerate(retain or ())]
    sets = [*([Held.of(held, seed=seed)] if held else []), *others]
    batches = Batches(data, settings, seed, ranks, where)
    if batches.size < 2:
        raise ValueError(f"There are {len(data.captions)} captions for {ranks.count} ranks: too few for one batch.")
    _hold_on(data, where)
    identity = _identity(data, sets, settings, objective, seed)
    if not ranks.agree(int(identity[:15], 16), where):
        raise ValueError("The ranks were given other data or settings than each other. Pass all of them the same.")
    folders = {penalty: Path(checkpoint or "") / f"penalty-{penalty:g}" for penalty in settings.identity_penalties}
    if checkpoint is not None:
        for folder in folders.values():
            check_checkpoint(folder, identity)  # before hours are spent on the first of them
    measured = bool(held) and sets[0].bound > 0
    watched = sets if measured and settings.early_stop else []
    elsewhere = sets[0].elsewhere(seed=seed) if held and settings.choose_strength else None
    fits = []
    for penalty, folder in folders.items():
        state = new_state(data.dim, settings, objective=objective, seed=seed, device=where)
        train(
            state, batches, watched, elsewhere=elsewhere, penalty=penalty, fingerprint=identity, progress=progress,
            checkpoint=None if checkpoint is None else folder,
        )  # fmt: skip
        chosen = state.best if watched else {**state.parameters, "matrix": state.matrix}
        matrix = chosen["matrix"].detach().cpu().float()
        if settings.rescale:
            some = data.captions[:: max(1, len(data.captions) // _SCALED_ON)]
            matrix = unit_scale(matrix, data.texts.take(some).cpu())
        points = frontier(sets, matrix, elsewhere=elsewhere) if sets else []
        fits.append(_Fitted(matrix, float(chosen["log_scale"]), penalty, points, state.history))
    return _result(
        fits, batches, sets, objective=objective, base=base, fingerprint=fingerprint, recipe=recipe, seed=seed
    )


class _Fitted(NamedTuple):
    """One fit of a path of penalties."""

    matrix: torch.Tensor
    log_scale: float
    penalty: float
    points: list[Point]
    history: list[dict[str, Any]]


def unit_scale(matrix: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The matrix times the number that makes unit-length `texts` [n, dim] unit-length on average after it.

    A cosine does not see the scale of a matrix, but a blend with the identity does: unscaled, a free fit is hundreds of
    times the identity, and strength 0.05 is most of the way.
    """
    return matrix / (texts @ matrix.T).norm(dim=-1).mean()


def _result(
    fits: list[_Fitted], batches: Batches, sets: list[Held], *,
    objective: str, base: Base | None, fingerprint: Any, recipe: str, seed: int,
) -> FitResult:  # fmt: skip
    data, settings = batches.data, batches.settings
    fitted, strength = fits[0], 1.0
    if settings.choose_strength and sets and sets[0].bound:
        best = choose([point for one in fits for point in one.points])
        fitted = next(one for one in fits if any(point is best for point in one.points))
        strength = best.strength
    metadata: dict[str, Any] = {
        "recipe": recipe,
        "settings": as_json(settings),
        "identity_penalty": fitted.penalty,
        "objective": objective,
        "seed": seed,
        "data": f"{len(data.captions):,} captions of {len(torch.unique(data.image_index[data.captions])):,} images, "
        f"{data.k} negative{'s' if data.k > 1 else ''} each",
        "versions": {"labclip": __version__, "torch": torch.__version__},
    }
    if fitted.points:
        metadata["results"] = _measured(fitted.points, strength)
    sentences, worthwhile = advice(fitted.points, strength, sets)
    # SigLIP's temperature is worth nothing without its bias, which an alignment has not: the base keeps its own.
    log_scale = None
    if objective == "softmax":
        log_scale = fitted.log_scale if settings.logit_scale is None else calibrated(batches, fitted.matrix)
    if log_scale is not None and log_scale > MAX_LOGIT_SCALE:
        log_scale = None
    alignment = Alignment(
        fitted.matrix, base=base, logit_scale=log_scale, strength=strength, metadata=metadata, fingerprint=fingerprint
    )
    return FitResult(alignment, fitted.history, fitted.points, sentences, worthwhile)


def _measured(points: list[Point], strength: float) -> dict[str, Any]:
    """The table for the card: the base beside the matrix at its strength, on the held-out data."""

    def row(point: Point, name: str) -> dict[str, float]:
        own = {"binding": point.binding} if name == "own" and point.binding is not None else {}
        return {**own, "t2i_r1": point.t2i_r1[name], "i2t_r1": point.i2t_r1[name]}

    base = next(point for point in points if point.strength == 0)
    ours = next(point for point in points if point.strength == strength)
    label = {"own": "validation"}
    return {label.get(name, name): {"base": row(base, name), "labclip": row(ours, name)} for name in base.t2i_r1}


def _objective(objective: str | None, base: Base | None) -> str:
    if objective is None:
        import open_clip

        config = (open_clip.get_model_config(base.model) if base else None) or {}
        return "sigmoid" if "init_logit_bias" in config else "softmax"
    if objective not in ("softmax", "sigmoid"):
        raise ValueError(f"objective is {objective!r}. Pass 'softmax' for CLIP or 'sigmoid' for SigLIP.")
    return objective


def _device(device: str | torch.device | None) -> torch.device:
    """A device that is there, with its number: another thread's current one may be another."""
    check_device(device)
    where = torch.device(device or "cpu")
    return torch.device("cuda", torch.cuda.current_device()) if where.type == "cuda" and where.index is None else where


def _check(data: Data, settings: Settings, recipe: str, base: Base | None) -> None:
    if settings.hard_negatives and data.negatives is None:
        raise ValueError(
            f"Recipe {recipe!r} learns from hard negatives and got none. Make some with labclip.negatives and pass "
            f"negative_features, or pass recipe='paper-sb'."
        )
    if settings.hard_negatives and settings.drop_equal and data.valid is not None and not bool(data.valid.any()):
        raise ValueError("No caption has a negative that differs from it. Make some with labclip.negatives.")
    if base is not None and base.embed_dim != data.dim:
        raise ValueError(f"The embeddings have dim {data.dim} but {base} embeds in {base.embed_dim}. Pass their base.")


def _split(data: Data, validation: Sequence[Any] | None, settings: Settings, seed: int) -> tuple[Data, Data | None]:
    """What to fit on, and what to hold out."""
    held: Data | None = None
    if validation is not None:
        if not isinstance(validation, Sequence) or not 2 <= len(validation) <= 4:
            raise ValueError("validation is (images, texts, negatives) or (images, texts, negatives, image_index).")
        held = read_data(*validation, what="validation ")
        if held.dim != data.dim:
            raise ValueError(f"The validation embeddings have dim {held.dim}, not {data.dim}. Embed both alike.")
    elif settings.validation_share:
        images = torch.unique(data.image_index)
        order = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
        share = order[: max(1, round(len(images) * settings.validation_share))]
        inside = torch.isin(data.image_index, share)
        data, held = data.part((~inside).nonzero().flatten()), data.part(inside.nonzero().flatten())
        if not len(data.captions):
            raise ValueError("All captions are of one image, so none can be held out. Pass validation.")
    if held is not None and data.negatives is not None and (share := _leak(data, held)):
        warnings.warn(
            f"{share:.0%} of the validation captions occur among the negatives of the fit, which learns that they are "
            f"wrong. Split by combination: labclip.training.split_combinations.",
            stacklevel=3,
        )
    return data, held


def _leak(data: Data, held: Data, count: int = 400) -> float:
    """Share of held-out captions that are negatives of the fit, among at most `count`."""
    some = held.texts.take(held.captions[:: max(1, len(held.captions) // count)])
    found = torch.zeros(len(some), dtype=torch.bool)
    assert data.valid is not None
    for rows in torch.split(data.captions, 4096):
        for which in range(data.k):
            present = rows[data.valid[rows, which]]  # a caption in place of a missing negative is no leak
            negatives = data.negative(present, torch.full_like(present, which))
            found |= (some @ negatives.T > 1 - 1e-5).any(dim=1)
    return float(found.float().mean())


def _retained(number: int, pair: Sequence[Any], dim: int, seed: int) -> Held:
    """Pairs of another domain."""
    if not isinstance(pair, Sequence) or not 2 <= len(pair) <= 3:
        raise ValueError(f"retain[{number}] is not a pair (images, texts) or (images, texts, image_index).")
    images, texts, *index = pair
    data = read_data(images, texts, None, *index, what=f"retain[{number}] ")
    if data.dim != dim:
        raise ValueError(f"retain[{number}] has dim {data.dim}, not {dim}. Embed it with the same model.")
    return Held.of(data, name=f"retain {number + 1}", seed=seed)


def _hold_on(data: Data, device: torch.device) -> None:
    """Keep everything on a GPU where it takes at most half of the memory that is free."""
    if device.type != "cuda":
        return
    size = 4 * sum(torch.Size(rows.shape).numel() for rows in data.each())
    if size <= torch.cuda.mem_get_info(device)[0] // 2:
        for rows in data.each():
            rows.move(device)


def _identity(data: Data, sets: list[Held], settings: Settings, objective: str, seed: int) -> str:
    """What a checkpoint belongs to: the settings, and every number of the data."""
    digest = hashlib.sha256(json.dumps([as_json(settings), objective, seed, len(sets)], sort_keys=True).encode())
    for rows in data.each():
        digest.update(rows.digest.encode())
    for index in (data.image_index, data.captions):
        digest.update(index.numpy().tobytes())
    for held in sets:
        for part in (held.images, held.texts, held.image_index, held.negatives):
            digest.update(b"-" if part is None else part.cpu().numpy().tobytes())
    return digest.hexdigest()
