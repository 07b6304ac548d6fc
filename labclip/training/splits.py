"""What a fit is measured on: held-out data of other images, none of whose captions is a negative of the fit.

All texts of an image are on one side. Parts and keywords do not count as captions here: a short text is true of many
images, so it recurs on both sides, as a negative too.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from labclip.data.items import Kind
from labclip.features.features import Features
from labclip.negatives.swapping import phrase_pattern
from labclip.training.rows import Data, Rows, read_data

SHARE = 0.1
"""Of the images, held out where no validation is given."""
_GROUP = 0.1  # of what is held out, the most that images with captions in common may be


class Split(NamedTuple):
    """Rows to fit on and rows held out; other rows are not used, since they would leak.

    Attributes:
        fit: Rows to fit on: none of their combinations is held out.
        heldout: Rows held out: their caption has a held-out combination.
        combinations: The held-out combinations.
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
        captions: The combinations each caption names, for example [{("red", "cube"), ("blue", "sphere")}, ...];
            `find_combinations` finds them.
        negatives: The combinations that all its negatives name, together.
        share: Fraction of the combinations to hold out, drawn at random.
        seed: Seed of the draw.

    Returns:
        The rows of the two sides, which `labclip.fit(features, validation=...)` takes.

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
    known = sorted({combination for row in (*captions, *negatives) for combination in row}, key=repr)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}. Pass a number between 0 and 1.")
    out = frozenset(random.Random(seed).sample(known, max(1, round(share * len(known)))) if known else ())
    heldout = [row for row, named in enumerate(captions) if not out.isdisjoint(named)]
    fit = [row for row, named in enumerate(captions) if out.isdisjoint(named) and out.isdisjoint(negatives[row])]
    if not fit or not heldout:
        raise ValueError(
            f"Holding out {len(out)} of {len(known)} combinations leaves {len(fit)} captions to fit on and "
            f"{len(heldout)} held out. Pass another share, or more captions."
        )
    return Split(fit, heldout, out)


def find_combinations(
    captions: Iterable[str], attributes: Iterable[str], objects: Iterable[str]
) -> list[set[tuple[str, str]]]:
    """The combinations of attribute and object in each caption, for `split_combinations`.

    Every attribute counts with every object of its caption, whichever it belongs to: a caption and the same with
    attributes swapped have the same ones, and no grammar is guessed. Words are found whole, in any case.

    Args:
        captions: Captions of any form.
        attributes: Words or phrases; of "light blue" and "blue" the longer is found.
        objects: Likewise, each form that occurs: "cube" is not found in "cubes".

    Returns:
        A set for each caption, of (attribute, object).

    Raises:
        ValueError: If there are no attributes or no objects.

    Example:
        >>> found = find_combinations(["A red cube and a blue ball."], ["red", "blue"], ["cube", "ball"])
        >>> sorted(found[0])
        [('blue', 'ball'), ('blue', 'cube'), ('red', 'ball'), ('red', 'cube')]
    """

    def words(name: str, given: Iterable[str]) -> re.Pattern[str]:
        if not (phrases := {phrase for text in given if (phrase := " ".join(text.lower().split()))}):
            raise ValueError(f"There are no {name}. Pass a list of words.")
        return phrase_pattern(phrases)

    def found(pattern: re.Pattern[str], caption: str) -> set[str]:
        return {" ".join(phrase.lower().split()) for phrase in pattern.findall(caption)}

    first, second = words("attributes", attributes), words("objects", objects)
    return [set(itertools.product(found(first, caption), found(second, caption))) for caption in captions]


def split(data: Data, validation: Features | Split | None, share: float, seed: int) -> tuple[Data, Data | None, int]:
    """What to fit on, and what to hold out: `validation`, or a seeded part of the images; no image is on both sides.

    The third value counts held-out captions that are negatives of the fit: 0 but where no draw could keep them apart.
    """
    if validation is None:
        return _drawn(data, share, seed) if share else (data, None, 0)
    if isinstance(validation, Split):
        fit, held = _by_rows(data, validation)
    else:
        fit, held = data, read_data(validation, "validation")
        ours, theirs = _same(fit.images, held.images)
        twice = held.images_used[torch.isin(theirs[held.images_used], ours[fit.images_used])].tolist()
        if twice:
            image, other = twice[0], int(fit.images_used[ours[fit.images_used] == theirs[twice[0]]][0])
            raise ValueError(
                f"validation has images of the fit: its image {image} is image {other} of the fit. Pass `validation` "
                f"of other images, or leave `validation` out to hold some of the fit's images out."
            )
    if leaked := _leaked(fit, held):
        caption, other = leaked[0]
        raise ValueError(
            f"Held-out captions are among the negatives of the fit, which learns that they are wrong: caption "
            f"{caption} is a negative of caption {other}. Leave them out; or leave `validation` out, to hold out some "
            f"of the fit's images that share no caption with the rest; or split by combination: "
            f"labclip.training.split_combinations."
        )
    return _without_images(fit, held), held, 0


def _same(fit: Rows, held: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """`Rows.same` of both sides, counted together."""
    if fit is held:
        return fit.same, held.same
    ours, theirs = (fit + held).same.tensor_split([len(fit)])
    return ours, theirs


def _leaked(fit: Data, held: Data) -> list[tuple[int, int]]:
    """The held-out captions that are negatives of captions of the fit, each with one whose negative it is."""
    ours, theirs = _same(fit.texts, held.texts)
    captions, negatives = _negatives(fit.only(Kind.CAPTION))
    of_text = dict(zip(ours[negatives].tolist(), captions.tolist(), strict=True))
    held = held.only(Kind.CAPTION)
    texts = zip(held.captions.tolist(), theirs[held.captions].tolist(), strict=True)
    return [(caption, of_text[text]) for caption, text in texts if text in of_text]


def _negatives(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The negatives there are of a side's captions: the caption of each, and its row in `texts`, int64 [n] each."""
    row, which = data.has_negative[data.captions].nonzero(as_tuple=True)
    return data.captions[row], data.negative_rows[data.captions[row], which]


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
    if not bool((data.kind[heldout] == Kind.CAPTION).any()):
        raise ValueError(
            "validation is a split that holds out parts or keywords alone, and R@1 is measured on captions. Hold out "
            "captions, all texts of their images with them."
        )
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
    first_of = torch.full_like(group, len(small)).scatter_reduce(0, group[small], torch.arange(len(small)), "amin")
    firsts = small[first_of[group[small]] == torch.arange(len(small))]  # an image of each group, in the order drawn
    taken = firsts[sizes[group[firsts]].cumsum(0) <= most]
    if 2 * int(sizes[group[taken]].sum()) < most:
        taken, group = order[:most], data.images.same
    inside = torch.isin(group[data.image_index], group[taken])
    fit, held = (replace(data, captions=side.nonzero().flatten()) for side in (~inside, inside))
    if not len(fit.captions):
        raise ValueError("All captions are of one image, so none can be held out. Pass validation=FEATURES.")
    return _without_images(fit, held), held, len(_leaked(fit, held))


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
