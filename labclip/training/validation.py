"""What a fit is measured on: held-out data, given or drawn, that shares no image with what is fitted on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch

from labclip.alignment import FINGERPRINT_COSINE
from labclip.features.features import Features
from labclip.messages import typed
from labclip.training.dataset import Data, read_data
from labclip.training.duplicates import first_same
from labclip.training.settings import Settings

_SHOWN = 3  # images named in a message
_COMPARED = 400  # held-out captions, at most
_SAME_TEXT = 1 - 1e-5  # cosine


class LeakWarning(UserWarning):
    """Held-out captions occur among the negatives of the fit."""


def check_features(features: Mapping[str, Any]) -> None:
    """Refuse what is not `Features`, or of another model than the first.

    Args:
        features: By what messages call them.

    Raises:
        ValueError: Naming both.
    """
    for name, one in features.items():
        if not isinstance(one, Features):
            raise ValueError(
                f"{name} is a {type(one).__name__}. Pass labclip.Features: of a folder labclip.Features.load(FOLDER), "
                f"of arrays labclip.Features.from_arrays(images=..., texts=..., negatives=...)."
            )
    (own_name, own), *others = features.items()
    for name, other in others:
        dims = [np.shape(side.images)[-1:] for side in (other, own)]
        if dims[0] != dims[1]:
            raise ValueError(
                f"{name}.images has shape {list(np.shape(other.images))}, {own_name}.images "
                f"{list(np.shape(own.images))}. Embed both with one model."
            )
        if not _same_model(own, other):
            raise ValueError(
                f"{name} was embedded by {_model(other)}, but {own_name} by {_model(own)}: other weights. Embed both "
                f"with one model."
            )


def _same_model(one: Features, other: Features) -> bool:
    """By the hash of the weights, else by fingerprint and name; what is not known contradicts nothing."""
    hashes = [features.manifest.get("weights_sha256") for features in (one, other)]
    if all(hashes):
        return bool(hashes[0] == hashes[1])
    if one.fingerprint is not None and other.fingerprint is not None:
        first, second = (np.asarray(features.fingerprint, dtype=np.float32) for features in (one, other))
        if not float(first @ second) >= FINGERPRINT_COSINE * float(np.linalg.norm(first) * np.linalg.norm(second)):
            return False
    return one.base is None or one.base.matches(other.base)


def _model(features: Features) -> str:
    weights = str(features.manifest.get("weights_sha256", ""))[:12]
    return f"{features.base or 'a base without a name'}{f' with weights {weights}...' if weights else ''}"


def split(
    data: Data, features: Features, validation: Features | None, settings: Settings, seed: int, *, stacklevel: int
) -> tuple[Data, Data | None]:
    """What to fit on, and what to hold out; no image is on both sides.

    Args:
        data: Everything, its images hashed if anything is held out.
        features: What it was read from.
        validation: Held-out data; None draws a share of the images where the settings have one.
        settings: Of the fit.
        seed: Of the draw.
        stacklevel: Of a warning about captions that leak.

    Raises:
        ValueError: If given data shares an image with the fit; images and their names are told.
    """
    held: Data | None = None
    if validation is not None:
        held = read_data(validation, "validation", digest=False, hashes=True)
        _check_apart(data, held, features, validation)
    elif settings.validation_share:
        images = data.images_used()
        order = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
        share = order[: max(1, round(len(images) * settings.validation_share))]
        same = first_same(data.images.hashes, data.images.take)  # an image that is there twice goes to one side
        inside = torch.isin(same[data.image_index], same[share])
        data, held = data.part((~inside).nonzero().flatten()), data.part(inside.nonzero().flatten())
        if not len(data.captions):
            raise ValueError(
                f"All captions are of one image, so none can be held out. Pass {typed('validation', '--validation')}."
            )
    if held is not None and data.negatives is not None and (leaked := _leak(data, held)):
        warnings.warn(
            f"{leaked:.0%} of the validation captions occur among the negatives of the fit, which learns that they are "
            f"wrong. Split by combination: labclip.training.split_combinations.",
            LeakWarning,
            stacklevel=stacklevel + 1,
        )
    return data, held


def _check_apart(data: Data, held: Data, features: Features, validation: Features) -> None:
    """Refuse held-out images that are among those of the fit."""
    ours, theirs = data.images_used(), held.images_used()
    n = len(ours)

    def take(places: torch.Tensor) -> torch.Tensor:
        rows, fitted = torch.empty(len(places), data.dim), places < n
        rows[fitted] = data.images.take(ours[places[fitted]])
        rows[~fitted] = held.images.take(theirs[places[~fitted] - n])
        return rows

    first = first_same(torch.cat([data.images.hashes[ours], held.images.hashes[theirs]]), take)[n:]
    twice = (first < n).nonzero().flatten()
    if not len(twice):
        return
    pairs = list(zip(theirs[twice].tolist(), ours[first[twice]].tolist(), strict=True))
    shown = ", ".join(
        f"validation image {one}{_name(validation, one)} is image {other}{_name(features, other)} of the fit"
        for one, other in pairs[:_SHOWN]
    )
    more = f", and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    option = typed("validation", "--validation")
    raise ValueError(
        f"{len(pairs)} of the {len(theirs)} validation images are among those of the fit: {shown}{more}. Pass "
        f"{option} of other images, or leave {option} out to hold some of the fit's images out."
    )


def _name(features: Features, row: int) -> str:
    """An image's name in brackets, where the folder has it."""
    path = features.folder and features.folder / "images.jsonl"
    if not path or not path.is_file():
        return ""
    with path.open(encoding="utf-8") as lines:
        return f" ({json.loads(next(islice(lines, row, None)))['image']})"


def _leak(data: Data, held: Data) -> float:
    """Share of held-out captions that are negatives of the fit, among some of them."""
    some = held.texts.take(held.captions[:: max(1, len(held.captions) // _COMPARED)])
    found = torch.zeros(len(some), dtype=torch.bool)
    assert data.valid is not None
    for rows in torch.split(data.captions, 4096):
        for which in range(data.k):
            present = rows[data.valid[rows, which]]
            negatives = data.negative(present, torch.full_like(present, which))
            found |= (some @ negatives.T > _SAME_TEXT).any(dim=1)
    return float(found.float().mean())
