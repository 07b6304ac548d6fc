import re
from dataclasses import replace

import planted
import pytest
import torch

import labclip
from labclip.training import find_combinations, same_images, split_combinations
from labclip.training.rows import read_data
from labclip.training.splits import split

QUICK = planted.QUICK | {"epochs": 2}


def rows(data, part):
    return planted.features(*(side[part] for side in data))


def test_held_out_images_that_are_those_of_the_fit_are_refused():
    data = planted.world(200)
    fitted = planted.features(*data)
    with pytest.raises(ValueError, match=r"^validation has images of the fit: its image 0 is image 150 of the fit"):
        labclip.fit(fitted, validation=rows(data, slice(150, 190)), recipe="paper", **QUICK)
    images, *others = planted.world(50, seed=1)
    images[7] = data[0][33].half() * 3  # a copy in half precision, of another length
    with pytest.raises(ValueError, match=r"its image 7 is image 33 of the fit. Pass"):
        labclip.fit(fitted, validation=planted.features(images, *others), **QUICK)
    images, texts, negatives = data  # images without a caption on one side are not shared
    fit, held = torch.arange(150), torch.arange(150, 200)
    parts = [planted.features(images, texts[part], negatives[part], part) for part in (fit, held)]
    assert labclip.fit(parts[0], validation=parts[1], **QUICK).frontier


@pytest.mark.parametrize("dim", [8, 512])
def test_same_images_are_copies_and_nothing_else(dim):
    draw = torch.Generator().manual_seed(0)
    centre = torch.randn(dim, generator=draw)
    images = torch.nn.functional.normalize(centre + torch.randn(3000, dim, generator=draw), dim=-1)
    assert torch.equal(same_images(images), torch.arange(3000))
    copies = torch.cat([images, images[:1000], images[:1000].half().float(), 5 * images[:1000]])
    expected = torch.cat([torch.arange(3000), *[torch.arange(1000)] * 3])
    first = same_images(copies)
    assert (first == expected).double().mean() > 0.999
    assert torch.equal(first[3000:4000], torch.arange(1000))  # of the same bits every one
    near = images + 3e-3 * torch.nn.functional.normalize(torch.randn(3000, dim, generator=draw), dim=-1)
    assert torch.equal(same_images(torch.cat([images, near])), torch.arange(6000))


def test_held_out_captions_that_are_negatives_of_the_fit_are_refused():
    images, texts, negatives = planted.world(200)
    others = planted.world(20, seed=8)[0]
    leaked = torch.cat([3 * negatives[40:50].half(), planted.world(10, seed=9)[1]])
    fitted, held = planted.features(images, texts, negatives), planted.features(others, leaked, texts[:20])
    with pytest.raises(ValueError, match=r"caption 0 is a negative of caption 40\. Leave .*split_combinations\.$"):
        labclip.fit(fitted, validation=held, **QUICK)
    absent = torch.ones(200, dtype=torch.bool)
    absent[40:50] = False
    without = planted.features(images, texts, negatives, has_negative=absent)
    assert labclip.fit(without, validation=held, **QUICK).frontier


def sides_of(data, share=0.1, seed=0):
    return split(read_data(data), None, share, seed)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_leaks_through_images_with_several_captions(seed):
    draw = torch.Generator().manual_seed(seed)
    n, texts = 600, planted.world(900, seed=seed)[1]
    index = torch.randint(300, (n,), generator=draw).sort().values
    captions = torch.arange(n)
    captions[::20] = torch.randint(n, (30,), generator=draw)  # some repeat
    negatives = torch.randint(600, 900, (n, 2), generator=draw)
    negatives[::15] = torch.randint(n, (40, 2), generator=draw)  # some are captions of other images
    there = torch.rand(n, 2, generator=draw) < 0.9
    images = planted.world(300, seed=seed + 50)[0]
    data = planted.features(images, texts[captions], texts[negatives], index, has_negative=there)
    *sides, leaked = sides_of(data, seed=seed)
    fitted, held = (side.captions for side in sides)
    assert not set(index[fitted].tolist()) & set(index[held].tolist())
    wrong = set(negatives[fitted][there[fitted]].tolist())
    assert not wrong & set(captions[held].tolist())
    assert leaked == 0
    images_used = len(index.unique())
    assert 0.8 * round(images_used / 10) <= len(index[held].unique()) <= round(images_used / 10)
    assert len(fitted) + len(held) == n


def test_the_split_puts_copies_of_an_image_on_one_side():
    images, texts, negatives = planted.world(300)
    copies = torch.cat([images[:150], images[:150].half().float()])  # image i is there again at 150 + i
    *sides, _ = sides_of(planted.features(copies, texts, negatives))
    fitted, held = (set((side.captions % 150).tolist()) for side in sides)
    assert held
    assert not fitted & held
    assert sum(len(side.captions) for side in sides) == 300


def test_captions_too_frequent_to_be_held_out_are_counted():
    captions = torch.arange(6).repeat(100)  # each is the negative of the next or of the one before
    texts = planted.world(6)[1]
    features = planted.features(planted.world(600, seed=1)[0], texts[captions], texts[captions ^ 1])
    _, held, leaked = sides_of(features)
    assert len(held.captions) == leaked == 60
    result = labclip.fit(features, **QUICK)
    assert result.advice[-1].startswith("60 of the held-out captions are also negatives of the fit, because captions")
    assert result.advice[-1].endswith("To hold out combinations instead, use labclip.training.split_combinations.")
    assert "60 of them negatives of the fit" in result.alignment.metadata["held_out"]


def test_a_split_by_rows_is_taken_as_validation():
    images, texts, negatives = planted.world(200)
    index = torch.arange(200) // 2
    rows = labclip.training.Split([*range(101)], [*range(101, 140)], frozenset())
    result = labclip.fit(planted.features(images[:100], texts, negatives, index), validation=rows, **QUICK)
    # caption 100 is of an image that is held out
    assert result.alignment.metadata["data"].startswith("100 captions of 50 images")
    assert result.alignment.metadata["held_out"].startswith("39 captions of 20 images, none")
    for wrong, message in (
        (rows._replace(heldout=[200]), r"validation has row 200, but there are 200 captions"),
        (rows._replace(fit=[100]), r"Every image has a held-out caption"),
    ):
        with pytest.raises(ValueError, match=message):
            labclip.fit(planted.features(images[:100], texts, negatives, index), validation=wrong, **QUICK)
    with_parts = planted.features(images[:100], texts, negatives, index, kind=torch.arange(200) % 2)
    parts = labclip.training.Split([*range(100)], [*range(101, 200, 2)], frozenset())
    with pytest.raises(ValueError, match="holds out parts or keywords alone"):
        labclip.fit(with_parts, validation=parts, **QUICK)
    swapped = planted.features(images, texts, texts.roll(100, 0))
    with pytest.raises(ValueError, match=r"Held-out captions .*: caption 101 is a negative of caption 1\."):
        labclip.fit(swapped, validation=rows, **QUICK)


def test_combinations_are_of_words_that_stand_in_one_caption():
    attributes, objects = ["red", "blue", "light blue"], ["cube", "traffic light", "ball"]
    captions = "A red cube and a light  blue ball.", "the cube is RED", "a red-hot cube, cubes", "a traffic light", ""
    combinations = find_combinations(captions, attributes, objects)
    both = {("red", "cube"), ("red", "ball"), ("light blue", "cube"), ("light blue", "ball")}
    assert combinations == [both, {("red", "cube")}, set(), set(), set()]
    assert find_combinations(["a blue cube and a red traffic light"], attributes, objects) == [
        {("blue", "cube"), ("red", "traffic light"), ("blue", "traffic light"), ("red", "cube")}
    ]
    for wrong, name in ((([" "], objects), "attributes"), ((attributes, []), "objects")):
        with pytest.raises(ValueError, match=f"There are no {name}. Pass a list of words"):
            find_combinations(["a red cube"], *wrong)


def test_features_of_another_model_are_refused():
    data, other = planted.drawn(200), planted.drawn(50, seed=1)
    base, two = ({"base": labclip.Base("ViT-B-32", tag, False, planted.DIM)} for tag in ("openai", "laion2b_s34b_b79k"))
    first, second = ({"manifest": {"weights_sha256": letter * 64}} for letter in "ab")
    labclip.fit(replace(data, **base), validation=replace(other, **base), retain={"unknown": other}, **QUICK)
    for ours, theirs, message in (
        (base, two, "ViT-B-32 (laion2b_s34b_b79k), but features by ViT-B-32 (openai)"),
        (first, second, "other weights"),
    ):
        wrong = replace(other, **theirs)
        for name, sets in (("validation", {"validation": wrong}), ("retain['flickr']", {"retain": {"flickr": wrong}})):
            with pytest.raises(ValueError, match=re.escape(f"{name} was embedded by ") + ".*" + re.escape(message)):
                labclip.fit(replace(data, **ours), **sets, **QUICK)


def test_split_by_combination_leaks_nothing():
    colours, shapes = ("red", "blue", "green", "pink"), ("cube", "ball", "cone", "star")
    rows = [(c, s, d, t) for c in colours for s in shapes for d in colours for t in shapes if c != d and s != t]
    captions = [{(c, s), (d, t)} for c, s, d, t in rows]
    negatives = [{(d, s), (c, t)} for c, s, d, t in rows]
    split = split_combinations(captions, negatives, share=0.2, seed=1)
    assert len(split.combinations) == 3
    seen = set().union(*(captions[row] | negatives[row] for row in split.fit))
    assert not seen & split.combinations
    assert all(captions[row] & split.combinations for row in split.heldout)
    assert not set(split.fit) & set(split.heldout)
    assert split_combinations(captions, negatives, share=0.2, seed=2).combinations != split.combinations
    with pytest.raises(ValueError, match=r"Holding out .* leaves 0 captions to fit on"):
        split_combinations(captions, negatives, share=0.99)


def test_an_image_that_is_held_out_is_not_shown_as_that_of_a_negative():
    images, texts, negatives = planted.world(100)
    other = torch.arange(99, -1, -1)
    shown = images[other][:, None].half().float()
    fit, held, _ = sides_of(planted.features(images, texts, negatives, negative_images=shown))
    for caption in fit.captions.tolist():
        assert bool(fit.has_negative_image[caption]) == (int(other[caption]) not in held.images_used.tolist())
    validation = rows((images, texts, negatives), slice(0, 20))
    features = planted.features(images[20:], texts[20:], negatives[20:], negative_images=shown[20:])
    fit, _, _ = split(read_data(features), validation, 0.1, seed=0)
    assert fit.has_negative_image.flatten().tolist() == [number >= 20 for number in other[20:].tolist()]
