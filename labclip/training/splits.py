"""What a fit is measured on: held-out data of other images, none of whose captions is a negative of the fit."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch

from labclip.features.features import Features
from labclip.training.combinations import Split
from labclip.training.duplicates import first_same
from labclip.training.recipes import Settings
from labclip.training.rows import Data, Rows, read_data

_GROUP = 0.1  # of what is held out, the most that images with captions in common may be


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


class FitSplit(NamedTuple):
    """What is fitted on, and what it is measured on.

    Attributes:
        fit: Captions to fit on.
        held: Held-out captions, or None.
        leaked: How many of those are negatives of the fit: 0, but where no draw could keep them apart.
    """

    fit: Data
    held: Data | None = None
    leaked: int = 0

    @property
    def words(self) -> str:
        """What is held out."""
        if self.held is None:
            return "nothing"
        captions, images = len(self.held.captions), len(self.held.images_used)
        leaked = f"{self.leaked:,}" if self.leaked else "none"
        return f"{captions:,} captions of {images:,} images, {leaked} of them negatives of the fit"


def split(
    data: Data, features: Features, validation: Features | Split | None, settings: Settings, seed: int
) -> FitSplit:
    """What to fit on, and what to hold out: `validation`, or a seeded share of the images; no image is on both sides.

    Rows of `data` are hashed if anything is held out; `features` are what it was read from, for names of its rows.

    Raises:
        ValueError: If `validation` shares images with the fit, or has captions that are negatives of it.
    """
    if isinstance(validation, Split):
        fit, held = _by_rows(data, validation)
        _check_captions(fit, held, features, features)
        return FitSplit(_without_images(fit, held), held)
    if validation is not None:
        held = read_data(validation, "validation", hashes=True)
        _check_apart(data, held, features, validation)
        _check_captions(data, held, features, validation)
        return FitSplit(_without_images(data, held), held)
    return _drawn(data, settings.validation_share, seed) if settings.validation_share else FitSplit(data)


def _without_images(fit: Data, held: Data) -> Data:
    """The fit without images of negatives that are held-out images: such a negative counts as one without an image."""
    if fit.negative_images is None:
        return fit
    pairs = fit.negative_images.present.nonzero()
    outside, found = _numbered((held.images, held.images_used), (fit.negative_images, pairs))
    shown = pairs[found < len(outside)]
    images = copy.copy(fit.negative_images)
    images.present = images.present.clone()
    images.present[shown[:, 0], shown[:, 1]] = False
    return replace(fit, negative_images=images)


def _by_rows(data: Data, rows: Split) -> tuple[Data, Data]:
    """The sides of a split by rows; captions of images that are held out are not fitted on."""
    last = max(*rows.fit, *rows.heldout)
    if last >= len(data.captions):
        raise ValueError(
            f"validation is a split with row {last}, but there are {len(data.captions)} captions. Pass the split of "
            f"these captions."
        )
    same = first_same(data.images.hashes, data.images.take)[data.image_index]
    fit, heldout = torch.tensor(rows.fit), torch.tensor(rows.heldout)
    fit = fit[~torch.isin(same[fit], same[heldout])]
    if not len(fit):
        raise ValueError("Every image has a held-out caption, so nothing is left to fit on. Pass more images.")
    return replace(data, captions=fit), replace(data, captions=heldout)


def _drawn(data: Data, share: float, seed: int) -> FitSplit:
    """A seeded share of the images, with all images that have a caption of theirs among their negatives.

    Images are held out by groups that share captions, as long as those are small. Where they are not, as where a few
    captions repeat again and again, images are drawn one by one, and captions leak.
    """
    images = data.images_used
    order = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
    most = max(1, round(len(images) * share))
    same = first_same(data.images.hashes, data.images.take)  # an image that is there twice goes to one side
    pairs = _negatives(data)
    negatives, captions = _numbered((data.negatives, pairs), (data.texts, data.captions))
    group = _groups(same, data.image_index, captions, negatives, pairs[:, 0])
    sizes = torch.bincount(group[images], minlength=len(group))
    small = order[sizes[group[order]] <= max(1, round(_GROUP * most))]
    found = torch.full_like(group, len(small)).scatter_reduce(0, group[small], torch.arange(len(small)), "amin")
    firsts = small[found[group[small]] == torch.arange(len(small))]  # an image of each group, in the order drawn
    taken = firsts[sizes[group[firsts]].cumsum(0) <= most]
    if 2 * int(sizes[group[taken]].sum()) < most:
        taken, group = order[:most], same
    inside = torch.isin(group[data.image_index], group[taken])
    fit, held = (replace(data, captions=side.nonzero().flatten()) for side in (~inside, inside))
    if not len(fit.captions):
        raise ValueError("All captions are of one image, so none can be held out. Pass validation=FEATURES.")
    fit = _without_images(fit, held)
    return FitSplit(fit, held, int(torch.isin(captions[inside], negatives[~inside[pairs[:, 0]]]).sum()))


def _check_apart(data: Data, held: Data, features: Features, validation: Features) -> None:
    """Refuse held-out images that are among those of the fit."""
    ours, theirs = data.images_used, held.images_used
    _, first = _numbered((data.images, ours), (held.images, theirs))
    twice = (first < len(ours)).nonzero().flatten()
    if not len(twice):
        return
    one, other = int(theirs[twice[0]]), int(ours[first[twice[0]]])
    raise ValueError(
        f"{len(twice)} of the {len(theirs)} validation images are among those of the fit: image {one}"
        f"{_name(validation, 'image', one)} is image {other}{_name(features, 'image', other)} of the fit. Pass "
        f"`validation` of other images, or leave `validation` out to hold some of the fit's images out."
    )


def _check_captions(data: Data, held: Data, features: Features, validation: Features) -> None:
    """Refuse held-out captions that are among the negatives of the fit."""
    negatives = _negatives(data)
    wrong, right = _numbered((data.negatives, negatives), (held.texts, held.captions))
    leaked = (right < len(wrong)).nonzero().flatten()
    if not len(leaked):
        return
    one, other = int(held.captions[leaked[0]]), int(negatives[right[leaked[0]], 0])
    raise ValueError(
        f"{len(leaked)} of the {len(held.captions)} held-out captions are among the negatives of the fit, which learns "
        f"that they are wrong: caption {one}{_name(validation, 'caption', one)} is a negative of caption {other}"
        f"{_name(features, 'caption', other)}. Leave them out; or leave `validation` out, to hold out some of the "
        f"fit's images that share no caption with the rest; or split by combination: "
        f"labclip.training.split_combinations."
    )


def _name(features: Features, kind: str, row: int) -> str:
    """The name of an "image" or the text of a "caption" in brackets, where the folder has it."""
    path = features.folder and features.folder / f"{kind}s.jsonl"
    if not path or not path.is_file():
        return ""
    with path.open(encoding="utf-8") as lines:
        return f" ({json.loads(next(islice(lines, row, None)))[kind]})"


def _negatives(data: Data) -> torch.Tensor:
    """The negatives there are of the captions of a part, int64 [n, 2]: caption and which."""
    if data.negatives is None:
        return torch.empty(0, 2, dtype=torch.int64)
    place, which = data.negatives.present[data.captions].nonzero(as_tuple=True)
    return torch.stack([data.captions[place], which], dim=1)


def _numbered(*parts: tuple[Rows | None, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """For each row of some arrays the place of the first row that is the same, counted over all of them.

    Args:
        parts: Hashed arrays, None where there are no rows, and which of their rows, as `Rows.take` has it.
    """
    starts = [0, *itertools.accumulate(len(index) for _, index in parts)]
    there = [(rows, index, start) for (rows, index), start in zip(parts, starts, strict=False) if rows is not None]

    def take(places: torch.Tensor) -> torch.Tensor:
        found = torch.empty(len(places), there[0][0].shape[-1])
        for rows, index, start in there:
            inside = (places >= start) & (places < start + len(index))
            found[inside] = rows.take(index[places[inside] - start])
        return found

    hashes = [
        rows.hashes[index if index.ndim == 1 else index[:, 0] * rows.shape[1] + index[:, 1]] for rows, index, _ in there
    ]
    first = first_same(torch.cat(hashes), take)
    return torch.split(first, [len(index) for _, index in parts])


def _groups(
    same: torch.Tensor, image: torch.Tensor, captions: torch.Tensor, negatives: torch.Tensor, of: torch.Tensor
) -> torch.Tensor:
    """A number for each image, the same for images one of which has a caption that is a negative of the other.

    Args:
        same: The first image that is the same, int64 [n_images].
        image: Of each caption, int64 [n].
        captions: Numbers of texts, int64 [n].
        negatives: Likewise, int64 [m].
        of: The caption of each negative, int64 [m].
    """
    text, image = torch.cat([captions, negatives]), torch.cat([image, image[of]])
    both = torch.isin(text, captions) & torch.isin(text, negatives)
    text, image = torch.unique(text[both], return_inverse=True)[1], same[image[both]]
    group, lowest = same, torch.empty(int(text.max()) + 1 if len(text) else 0, dtype=torch.int64)
    while True:
        lowest = lowest.scatter_reduce(0, text, group[image], "amin", include_self=False)
        lower = group.scatter_reduce(0, image, lowest[text], "amin")
        lower = lower[lower][same]
        if torch.equal(lower, group):
            return group
        group = lower
