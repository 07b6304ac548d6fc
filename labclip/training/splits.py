"""Splits that do not leak: held-out data has other images than the fit, and no caption that is a negative of the fit.

All texts of an image are on one side. Parts and keywords may be on both sides, also as negatives: a short text is true
of many images.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from labclip.data.items import Kind
from labclip.features.features import Features
from labclip.negatives.swapping import phrase_pattern
from labclip.training.rows import Data, Rows, read_data

HELD_OUT = 0.1
"""Fraction of the images that is held out if no validation is given."""


class Split(NamedTuple):
    """Rows to fit on and rows held out. Rows in neither list are not used, because they would leak.

    Attributes:
        fit: Rows to fit on. No combination of their captions or negatives is held out.
        heldout: Rows held out. Their captions have a held-out combination.
        combinations: The held-out combinations.
    """

    fit: list[int]
    heldout: list[int]
    combinations: frozenset[Hashable]


def split_combinations(
    captions: Sequence[Collection[Hashable]], negatives: Sequence[Collection[Hashable]], *, share: float = 0.15,
    seed: int = 0,
) -> Split:  # fmt: skip
    """Hold out some combinations, for example of colour and shape, to measure whether binding generalises to them.

    If a held-out combination is in a negative of the fit, the fit learns that it is always wrong. So rows are fitted on
    only if neither their captions nor their negatives name a held-out combination.

    Args:
        captions: The combinations that each caption names, for example [{("red", "cube"), ("blue", "sphere")}, ...];
            `find_combinations` finds them.
        negatives: For each caption, the combinations that its negatives name.
        share: Fraction of the combinations to hold out, drawn at random.
        seed: Seed of the draw.

    Returns:
        The rows of the two sides, which `labclip.fit(features, validation=...)` takes.

    Raises:
        ValueError: If the lengths differ, or one side is empty.

    Example:
        >>> captions = [{"red cube", "blue ball"}, {"red ball", "blue cube"}, {"red cone", "blue star"}]
        >>> negatives = [captions[1], captions[0], {"red star", "blue cone"}]
        >>> split_combinations(captions, negatives, share=0.1, seed=0)
        Split(fit=[2], heldout=[0], combinations=frozenset({'red cube'}))
    """
    if len(captions) != len(negatives):
        raise ValueError(f"There are {len(captions)} captions and {len(negatives)} negatives. Pass one set for each.")
    combinations = sorted({combination for row in (*captions, *negatives) for combination in row}, key=repr)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}. Pass a number between 0 and 1.")
    count = min(len(combinations), max(1, round(share * len(combinations))))
    sample = frozenset(random.Random(seed).sample(combinations, count))
    heldout = [row for row, caption in enumerate(captions) if not sample.isdisjoint(caption)]
    fit = [row for row, caption in enumerate(captions) if sample.isdisjoint({*caption, *negatives[row]})]
    if not fit or not heldout:
        raise ValueError(
            f"Holding out {len(sample)} of {len(combinations)} combinations leaves {len(fit)} captions to fit on and "
            f"{len(heldout)} held out. Pass another share, or more captions."
        )
    return Split(fit, heldout, sample)


def find_combinations(
    captions: Iterable[str], attributes: Iterable[str], objects: Iterable[str]
) -> list[set[tuple[str, str]]]:
    """Find the combinations of attribute and object in each caption, for `split_combinations`.

    Each attribute of a caption is combined with each of its objects, whether it belongs to it or not. So a caption and
    its swapped version have the same combinations, and no grammar is needed. Only whole words are found; case is
    ignored.

    Args:
        captions: Captions of any form.
        attributes: Words or phrases. Where "light blue" and "blue" both match, the longer is found.
        objects: Words or phrases, in every form that occurs: "cube" is not found in "cubes".

    Returns:
        For each caption, a set of (attribute, object).

    Raises:
        ValueError: If there are no attributes or no objects.

    Example:
        >>> combinations = find_combinations(["A red cube and a blue ball."], ["red", "blue"], ["cube", "ball"])
        >>> sorted(combinations[0])
        [('blue', 'ball'), ('blue', 'cube'), ('red', 'ball'), ('red', 'cube')]
    """
    captions = list(captions)

    def normalize(texts: Iterable[str]) -> set[str]:
        return {" ".join(text.lower().split()) for text in texts}

    def find(name: str, words: Iterable[str]) -> list[set[str]]:
        if not (phrases := normalize(words) - {""}):
            raise ValueError(f"There are no {name}. Pass a list of words.")
        pattern = phrase_pattern(phrases)
        return [normalize(pattern.findall(caption)) for caption in captions]

    pairs = zip(find("attributes", attributes), find("objects", objects), strict=True)
    return [set(itertools.product(*words)) for words in pairs]


def split(data: Data, validation: Features | Split | None, share: float, seed: int) -> tuple[Data, Data | None, int]:
    """The data to fit on, and the held-out data: `validation`, or a seeded sample of the images. They share no image.

    The third value is the number of held-out captions that are negatives of the fit: 0 unless no sample avoids them.
    """
    if validation is None and not share:
        return data, None, 0
    if validation is None:
        fit, held_out = _draw_split(data, share, seed)
    elif isinstance(validation, Split):
        fit, held_out = _split_rows(data, validation)
    else:
        fit, held_out = data, read_data(validation, "validation")
    fit_ids, held_ids = _joint_ids(fit.images, held_out.images)
    if isinstance(validation, Features):
        shared = held_out.images_used[torch.isin(held_ids[held_out.images_used], fit_ids[fit.images_used])].tolist()
        if shared:
            image, other = shared[0], int(fit.images_used[fit_ids[fit.images_used] == held_ids[shared[0]]][0])
            raise ValueError(
                f"validation has images of the fit: its image {image} is image {other} of the fit. Pass `validation` "
                f"of other images, or leave `validation` out to hold some of the fit's images out."
            )
    leaks = _find_leaks(fit, held_out)
    if leaks and validation is not None:
        caption, other = leaks[0]
        raise ValueError(
            f"Held-out captions are among the negatives of the fit, which learns that they are wrong: caption "
            f"{caption} is a negative of caption {other}. Leave them out; or leave `validation` out, to hold out some "
            f"of the fit's images that share no caption with the rest; or split by combination: "
            f"labclip.training.split_combinations."
        )
    if bool(fit.has_negative_image.any()):  # images of negatives that are held out are dropped from the fit
        is_held = torch.isin(fit_ids[fit.negative_image_rows], held_ids[held_out.images_used])
        fit = replace(fit, has_negative_image=fit.has_negative_image & ~is_held)
    return fit, held_out, len(leaks)


def _joint_ids(fit: Rows, held_out: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """`Rows.ids` of both sides, so that a row of one side has the id of an equal row of the other."""
    if fit is held_out:
        return fit.ids, held_out.ids
    fit_ids, held_ids = (fit + held_out).ids.tensor_split([len(fit)])
    return fit_ids, held_ids


def _find_leaks(fit: Data, held_out: Data) -> list[tuple[int, int]]:
    """The held-out captions that are negatives of the fit, each with one caption of the fit that has it as negative."""
    fit_ids, held_ids = _joint_ids(fit.texts, held_out.texts)
    captions, negatives = _list_negatives(fit.only(Kind.CAPTION))
    caption_of = dict(zip(fit_ids[negatives].tolist(), captions.tolist(), strict=True))
    held_out = held_out.only(Kind.CAPTION)
    texts = zip(held_out.captions.tolist(), held_ids[held_out.captions].tolist(), strict=True)
    return [(caption, caption_of[text]) for caption, text in texts if text in caption_of]


def _list_negatives(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """All present negatives of a side's captions: the caption of each, and its row in `texts`, both int64 [n]."""
    row, column = data.has_negative[data.captions].nonzero(as_tuple=True)
    return data.captions[row], data.negative_rows[data.captions[row], column]


def _split_rows(data: Data, rows: Split) -> tuple[Data, Data]:
    """The two sides of a split by rows. Captions to fit on are dropped if their image is held out."""
    last, n = max(*rows.fit, *rows.heldout), len(data.captions)
    if last >= n:
        raise ValueError(f"validation has row {last}, but there are {n} captions. Pass the split of these captions.")
    image_ids = data.images.ids[data.image_index]
    fit, heldout = torch.tensor(rows.fit), torch.tensor(rows.heldout)
    fit = fit[~torch.isin(image_ids[fit], image_ids[heldout])]
    if not len(fit):
        raise ValueError("Every image has a held-out caption, so nothing is left to fit on. Pass more images.")
    if not bool((data.kind[heldout] == Kind.CAPTION).any()):
        raise ValueError(
            "validation is a split that holds out parts or keywords alone, and R@1 is measured on captions. Hold out "
            "captions, with all texts of their images."
        )
    return replace(data, captions=fit), replace(data, captions=heldout)


def _draw_split(data: Data, share: float, seed: int) -> tuple[Data, Data]:
    """Hold out a seeded sample of the images, such that no held-out caption is a negative of the fit.

    Images whose captions are negatives of each other form a group and are held out together. If too few groups are
    small, as when a few captions repeat often, single images are drawn instead, and captions leak.
    """
    images = data.images_used
    order = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
    quota = max(1, round(len(images) * share))
    group = _group_images(data)
    sizes = torch.bincount(group[images], minlength=len(group))
    small = order[sizes[group[order]] <= max(1, round(0.1 * quota))]
    _, first = np.unique(group[small].numpy(), return_index=True)
    firsts = small[np.sort(first)]  # the first image of each group, in random order
    drawn = firsts[sizes[group[firsts]].cumsum(0) <= quota]
    if 2 * int(sizes[group[drawn]].sum()) < quota:
        drawn, group = order[:quota], data.images.ids
    is_held = torch.isin(group[data.image_index], group[drawn])
    fit, held_out = (replace(data, captions=mask.nonzero().flatten()) for mask in (~is_held, is_held))
    if not len(fit.captions):
        raise ValueError("All captions are of one image, so none can be held out. Pass validation=FEATURES.")
    return fit, held_out


def _group_images(data: Data) -> torch.Tensor:
    """A group number for each image, int64. Copies, and images whose captions are negatives of each other, share it."""
    data = data.only(Kind.CAPTION)
    captions, negatives = _list_negatives(data)
    text = data.texts.ids[torch.cat([data.captions, negatives])]
    image_ids = data.images.ids
    image = image_ids[data.image_index[torch.cat([data.captions, captions])]]
    caption_ids, negative_ids = text.tensor_split([len(data.captions)])
    linking = torch.isin(text, caption_ids) & torch.isin(text, negative_ids)
    text, image = torch.unique(text[linking], return_inverse=True)[1], image[linking]
    group, lowest = image_ids, torch.empty(int(text.max()) + 1 if len(text) else 0, dtype=torch.int64)
    while True:  # each image takes the lowest group number of its texts, until nothing changes
        lowest = lowest.scatter_reduce(0, text, group[image], "amin", include_self=False)
        lower = group.scatter_reduce(0, image, lowest[text], "amin")
        lower = lower[lower][image_ids]
        if torch.equal(lower, group):
            return group
        group = lower
