"""What a fit is measured on: held-out data of other images, none of whose captions is a negative of the fit.

All texts of an image are on one side. Parts and keywords do not count as captions here: a short text is true of many
images, so it recurs on both sides, as a negative too.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from labclip.data.items import Kind
from labclip.features.features import Features
from labclip.training.combinations import Split
from labclip.training.rows import Data, Rows, read_data

SHARE = 0.1
"""Of the images, held out where no validation is given."""
_GROUP = 0.1  # of what is held out, the most that images with captions in common may be


def split(data: Data, validation: Features | Split | None, share: float, seed: int) -> tuple[Data, Data | None, int]:
    """What to fit on, and what to hold out: `validation`, or a seeded part of the images; no image is on both sides.

    Returns:
        The captions to fit on; those held out, if any; and how many of these are negatives of the fit, which is 0 but
        where no draw could keep them apart.

    Raises:
        ValueError: If `validation` shares images with the fit, or has captions that are negatives of its captions.
    """
    if validation is None:
        return _drawn(data, share, seed) if share else (data, None, 0)
    if isinstance(validation, Split):
        fit, held = _by_rows(data, validation)
    else:
        fit, held = data, read_data(validation, "validation")
        _check_images(fit, held)
    _check_captions(fit, held)
    return _without_images(fit, held), held, 0


def _same(fit: Rows, held: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """`Rows.same` of both sides, counted together."""
    if fit is held:
        return fit.same, held.same
    ours, theirs = (fit + held).same.tensor_split([len(fit)])
    return ours, theirs


def _negatives(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The negatives there are of a side's captions: the caption of each, and its row in `texts`, int64 [n] each."""
    row, which = data.has_negative[data.captions].nonzero(as_tuple=True)
    return data.captions[row], data.negative_rows[data.captions[row], which]


def _check_images(fit: Data, held: Data) -> None:
    """Refuse held-out images that are among those of the fit."""
    ours, theirs = _same(fit.images, held.images)
    fitted, shown = fit.images_used, held.images_used
    twice = shown[torch.isin(theirs[shown], ours[fitted])]
    if len(twice):
        other = fitted[ours[fitted] == theirs[twice[0]]][0]
        raise ValueError(
            f"{len(twice)} of the {len(shown)} validation images are among those of the fit: image {int(twice[0])} is "
            f"image {int(other)} of the fit. Pass `validation` of other images, or leave `validation` out to hold some "
            f"of the fit's images out."
        )


def _check_captions(fit: Data, held: Data) -> None:
    """Refuse held-out captions that are among the negatives of the fit."""
    ours, theirs = _same(fit.texts, held.texts)
    fit, held = fit.only(Kind.CAPTION), held.only(Kind.CAPTION)
    captions, negatives = _negatives(fit)
    leaked = held.captions[torch.isin(theirs[held.captions], ours[negatives])]
    if len(leaked):
        other = captions[ours[negatives] == theirs[leaked[0]]][0]
        raise ValueError(
            f"{len(leaked)} of the {len(held.captions)} held-out captions are among the negatives of the fit, which "
            f"learns that they are wrong: caption {int(leaked[0])} is a negative of caption {int(other)}. Leave them "
            f"out; or leave `validation` out, to hold out some of the fit's images that share no caption with the "
            f"rest; or split by combination: labclip.training.split_combinations."
        )


def _without_images(fit: Data, held: Data) -> Data:
    """The fit without images of negatives that are held-out images: such a negative counts as one without an image."""
    if not bool(fit.has_negative_image.any()):
        return fit
    ours, theirs = _same(fit.images, held.images)
    shown = torch.isin(ours[fit.negative_image_rows], theirs[held.images_used])
    return replace(fit, has_negative_image=fit.has_negative_image & ~shown)


def _by_rows(data: Data, rows: Split) -> tuple[Data, Data]:
    """The sides of a split by rows; captions of images that are held out are not fitted on."""
    last = max(*rows.fit, *rows.heldout)
    if last >= len(data.captions):
        raise ValueError(
            f"validation is a split with row {last}, but there are {len(data.captions)} captions. Pass the split of "
            f"these captions."
        )
    same = data.images.same[data.image_index]
    fit, heldout = torch.tensor(rows.fit), torch.tensor(rows.heldout)
    fit = fit[~torch.isin(same[fit], same[heldout])]
    if not len(fit):
        raise ValueError("Every image has a held-out caption, so nothing is left to fit on. Pass more images.")
    return replace(data, captions=fit), replace(data, captions=heldout)


def _drawn(data: Data, share: float, seed: int) -> tuple[Data, Data, int]:
    """A seeded part of the images, with all images that have a caption of theirs among their negatives.

    Images are held out by groups that share captions, as long as those are small. Where they are not, as where a few
    captions repeat again and again, images are drawn one by one, and captions leak.
    """
    images = data.images_used
    order = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
    most = max(1, round(len(images) * share))
    group = _groups(data)
    sizes = torch.bincount(group[images], minlength=len(group))
    small = order[sizes[group[order]] <= max(1, round(_GROUP * most))]
    found = torch.full_like(group, len(small)).scatter_reduce(0, group[small], torch.arange(len(small)), "amin")
    firsts = small[found[group[small]] == torch.arange(len(small))]  # an image of each group, in the order drawn
    taken = firsts[sizes[group[firsts]].cumsum(0) <= most]
    if 2 * int(sizes[group[taken]].sum()) < most:
        taken, group = order[:most], data.images.same
    inside = torch.isin(group[data.image_index], group[taken])
    fit, held = (replace(data, captions=side.nonzero().flatten()) for side in (~inside, inside))
    if not len(fit.captions):
        raise ValueError("All captions are of one image, so none can be held out. Pass validation=FEATURES.")
    text, wrong = data.texts.same, _negatives(fit.only(Kind.CAPTION))[1]
    leaked = torch.isin(text[held.only(Kind.CAPTION).captions], text[wrong])
    return _without_images(fit, held), held, int(leaked.sum())


def _groups(data: Data) -> torch.Tensor:
    """A number for each image, the same for copies, and where a caption of one is a negative of the other."""
    data = data.only(Kind.CAPTION)
    captions, negatives = _negatives(data)
    text = data.texts.same[torch.cat([data.captions, negatives])]
    same = data.images.same
    image = same[data.image_index[torch.cat([data.captions, captions])]]
    own, wrong = text.tensor_split([len(data.captions)])
    both = torch.isin(text, own) & torch.isin(text, wrong)
    text, image = torch.unique(text[both], return_inverse=True)[1], image[both]
    group, lowest = same, torch.empty(int(text.max()) + 1 if len(text) else 0, dtype=torch.int64)
    while True:
        lowest = lowest.scatter_reduce(0, text, group[image], "amin", include_self=False)
        lower = group.scatter_reduce(0, image, lowest[text], "amin")
        lower = lower[lower][same]
        if torch.equal(lower, group):
            return group
        group = lower
