"""What a fit is measured on: held-out data that shares no image with the fit, and splits that do not leak."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch

from labclip.features.features import Features
from labclip.messages import typed
from labclip.training.duplicates import first_same
from labclip.training.recipes import Settings
from labclip.training.rows import Data, read_data

_SHOWN = 3  # images named in a message
_COMPARED = 400  # held-out captions, at most
_SAME_TEXT = 1 - 1e-5  # cosine


class LeakWarning(UserWarning):
    """Held-out captions occur among the negatives of the fit."""


class Split(NamedTuple):
    """Row numbers of the two sides; rows of neither are left out, for they would tell one side of the other.

    Attributes:
        fit: Rows none of whose combinations is held out.
        heldout: Rows whose caption has a combination that is.
        combinations: Those held out.
    """

    fit: list[int]
    heldout: list[int]
    combinations: frozenset[Hashable]


def split_combinations(
    captions: Sequence[Collection[Hashable]],
    negatives: Sequence[Collection[Hashable]],
    *,
    share: float = 0.15,
    seed: int = 0,
) -> Split:
    """Hold out some combinations, for example of colour and shape, so that binding on them means generalisation.

    A combination left among the negatives of a fit is learnt as never right: that measures the leak. So a row is fitted
    on only if neither its caption nor its negatives name a combination that is held out.

    Args:
        captions: The combinations each caption names, for example [{("red", "cube"), ("blue", "sphere")}, ...].
        negatives: Those its negatives name, all of them together.
        share: Share of the combinations to hold out, drawn at random.
        seed: Of the draw.

    Returns:
        The rows of the two sides.

    Raises:
        ValueError: If lengths differ, or nothing is left on one side.

    Example:
        >>> captions = [{"red cube", "blue ball"}, {"red ball", "blue cube"}, {"red cone", "blue star"}]
        >>> negatives = [captions[1], captions[0], {"red star", "blue cone"}]
        >>> split_combinations(captions, negatives, share=0.1, seed=0)
        Split(fit=[2], heldout=[0], combinations=frozenset({'red cube'}))
    """
    if len(captions) != len(negatives):
        raise ValueError(f"There are {len(captions)} captions and {len(negatives)} negatives. Pass one set a caption.")
    known = sorted({one for side in (captions, negatives) for row in side for one in row}, key=repr)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}. Pass a number between 0 and 1.")
    out = frozenset(random.Random(seed).sample(known, max(1, round(share * len(known)))) if known else ())
    heldout = [row for row, named in enumerate(captions) if not out.isdisjoint(named)]
    fit = [
        row
        for row, (named, wrong) in enumerate(zip(captions, negatives, strict=True))
        if out.isdisjoint(named) and out.isdisjoint(wrong)
    ]
    if not fit or not heldout:
        raise ValueError(
            f"Holding out {len(out)} of {len(known)} combinations leaves {len(fit)} captions to fit on and "
            f"{len(heldout)} held out. Pass another share, or more captions."
        )
    return Split(fit, heldout, out)


def check_features(features: Mapping[str, Any]) -> None:
    """Refuse what is not `Features`, or of another model than the first; keys are what messages call them."""
    for name, one in features.items():
        if not isinstance(one, Features):
            raise ValueError(
                f"{name} is a {type(one).__name__}. Pass labclip.Features: of a folder labclip.Features.load(FOLDER), "
                f"of arrays labclip.Features.from_arrays(images=..., texts=..., negatives=...)."
            )
    (own_name, own), *others = features.items()
    for name, other in others:
        if differs := other.origin.differs(own.origin):
            raise ValueError(
                f"{name} was embedded by {other.origin}, but {own_name} by {own.origin}: {differs}. Embed both with "
                f"one model."
            )


def split(
    data: Data, features: Features, validation: Features | None, settings: Settings, seed: int, *, stacklevel: int
) -> tuple[Data, Data | None]:
    """What to fit on, and what to hold out: `validation`, or a seeded share of the images; no image is on both sides.

    Images of `data` are hashed if anything is held out; `features` are what it was read from, for the names of images.
    """
    held: Data | None = None
    if validation is not None:
        held = read_data(validation, "validation", hashes=True)
        _check_apart(data, held, features, validation)
    elif settings.validation_share:
        images = data.images_used
        order = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
        share = order[: max(1, round(len(images) * settings.validation_share))]
        same = first_same(data.images.hashes, data.images.take)  # an image that is there twice goes to one side
        inside = torch.isin(same[data.image_index], same[share])
        data, held = (replace(data, captions=side.nonzero().flatten()) for side in (~inside, inside))
        if not len(data.captions):
            raise ValueError(
                f"All captions are of one image, so none can be held out. Pass {typed('validation', '--validation')}."
            )
    if held is not None and (leaked := _leak(data, held)):
        warnings.warn(
            f"{leaked:.0%} of the validation captions occur among the negatives of the fit, which learns that they are "
            f"wrong. Split by combination: labclip.training.split_combinations.",
            LeakWarning,
            stacklevel=stacklevel + 1,
        )
    return data, held


def _check_apart(data: Data, held: Data, features: Features, validation: Features) -> None:
    """Refuse held-out images that are among those of the fit."""
    ours, theirs = data.images_used, held.images_used
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
    shown = [
        f"validation image {one}{_name(validation, one)} is image {other}{_name(features, other)} of the fit"
        for one, other in pairs[:_SHOWN]
    ] + [f"and {len(pairs) - _SHOWN} more"] * (len(pairs) > _SHOWN)
    option = typed("validation", "--validation")
    raise ValueError(
        f"{len(pairs)} of the {len(theirs)} validation images are among those of the fit: {', '.join(shown)}. Pass "
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
    for rows in torch.split(data.captions, 4096):
        for which in range(data.k):
            assert data.negatives is not None
            present = rows[data.negatives.present[rows, which]]
            negatives = data.negative(present, torch.full_like(present, which))
            found |= (some @ negatives.T > _SAME_TEXT).any(dim=1)
    return float(found.float().mean())
