import json
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch

import labclip
from labclip.training import LeakWarning, same_images, split_combinations

QUICK = {"epochs": 2, "batch_size": 64, "identity_penalty": 1e-4, "progress": False}


def rows(data, part):
    return planted.features(*(side[part] for side in data))


def test_held_out_images_that_are_those_of_the_fit_are_refused(tmp_path):
    data = planted.world(200)
    fitted = planted.features(*data)
    with pytest.raises(
        ValueError,
        match=r"^200 of the 200 validation images are among those of the fit: "
        r"validation image 0 is image 0 of the fit, validation image 1 is image 1 of the fit, "
        r"validation image 2 is image 2 of the fit, and 197 more. Pass "
        r"validation of other images, or leave validation out",
    ):
        labclip.fit(fitted, validation=fitted, **QUICK)
    subset = rows(data, slice(150, 190))
    with pytest.raises(ValueError, match=r"^40 of the 40 .*validation image 0 is image 150 of the fit"):
        labclip.fit(fitted, validation=subset, recipe="paper", **QUICK)
    images, *others = planted.world(50, seed=1)
    images[7] = data[0][33].half() * 3  # a copy in half precision, of another length
    with pytest.raises(ValueError, match=r"^1 of the 50 .* fit: validation image 7 is image 33 of the fit. Pass"):
        labclip.fit(fitted, validation=planted.features(images, *others), **QUICK)


def test_images_are_told_by_name_where_the_folder_has_names(tmp_path):
    data = planted.world(100)
    for name, numbers in (("fit", range(100)), ("held", range(60, 80))):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"image": f"{name}/{number}.png"}) for number in numbers]
        (tmp_path / name / "images.jsonl").write_text("\n".join(lines))
    fitted = replace(planted.features(*data), folder=tmp_path / "fit")
    held = replace(rows(data, slice(60, 80)), folder=tmp_path / "held")
    with pytest.raises(ValueError, match=r"image 0 \(held/60.png\) is image 60 \(fit/60.png\) of the fit"):
        labclip.fit(fitted, validation=held, **QUICK)


def test_images_without_a_caption_on_one_side_are_not_shared():
    images, texts, negatives = planted.world(200)
    fit, held = torch.arange(150), torch.arange(150, 200)
    sides = [planted.features(images, texts[part], negatives[part], part) for part in (fit, held)]
    assert labclip.fit(sides[0], validation=sides[1], **QUICK).frontier


def test_the_split_puts_copies_of_an_image_on_one_side(monkeypatch):
    images, texts, negatives = planted.world(300)
    copies = torch.cat([images[:150], images[:150].half().float()])  # image i is there again at 150 + i
    seen = {}
    real = labclip.training.fitting.split

    def split(*args, **named):
        seen["fit"], seen["held"] = real(*args, **named)
        return seen["fit"], seen["held"]

    monkeypatch.setattr(labclip.training.fitting, "split", split)
    labclip.fit(planted.features(copies, texts, negatives), **QUICK)
    fitted, held = (set((seen[side].captions % 150).tolist()) for side in ("fit", "held"))
    assert held
    assert not fitted & held
    assert len(seen["fit"].captions) + len(seen["held"].captions) == 300


def test_retained_sets_may_share_images_with_the_fit():
    data = planted.world(100)
    result = labclip.fit(planted.features(*data), retain={"same": planted.features(*data[:2])}, **QUICK)
    assert set(result.frontier[0].retain) == {"same"}


@pytest.mark.parametrize("dim", [8, 512])
def test_same_images_are_copies_and_nothing_else(dim):
    draw = torch.Generator().manual_seed(0)
    centre = torch.randn(dim, generator=draw)
    images = torch.nn.functional.normalize(centre + torch.randn(3000, dim, generator=draw), dim=-1)
    assert torch.equal(same_images(images), torch.arange(3000))
    copies = torch.cat([images, images[:1000], images[:1000].half().float(), 5 * images[:1000]])
    expected = torch.cat([torch.arange(3000), *[torch.arange(1000)] * 3])
    found = same_images(copies)
    assert (found == expected).double().mean() > 0.999
    assert torch.equal(found[3000:4000], torch.arange(1000))  # of the same bits every one
    near = images + 3e-3 * torch.nn.functional.normalize(torch.randn(3000, dim, generator=draw), dim=-1)
    assert torch.equal(same_images(torch.cat([images, near])), torch.arange(6000))


def test_a_leak_is_told():
    images, texts, negatives = planted.world(200)
    others = planted.world(20, seed=8)[0]
    leaked = torch.cat([negatives[:10], planted.world(10, seed=9)[1]])
    held = planted.features(others, leaked, texts[:20])
    with pytest.warns(
        LeakWarning, match=r"50% of the validation captions occur among the negatives.*split_combinat"
    ) as told:
        labclip.fit(planted.features(images, texts, negatives), validation=held, **QUICK)
    assert told[0].filename == __file__


def test_features_of_other_weights_are_refused():
    data, other = planted.drawn(200), planted.drawn(50, seed=1)
    one, two = (labclip.Base("ViT-B-32", tag, False, planted.DIM) for tag in ("openai", "laion2b_s34b_b79k"))
    prints = np.eye(planted.DIM, dtype=np.float32)[:2]
    pairs = [
        (
            {"manifest": {"weights_sha256": "a" * 64}},
            {"manifest": {"weights_sha256": "b" * 64}},
            "weights bbbbbbbbbbbb",
        ),
        ({"base": one}, {"base": two}, r"ViT-B-32 \(laion2b_s34b_b79k\), but features by ViT-B-32 \(openai\)"),
        ({"base": one, "fingerprint": prints[0]}, {"base": one, "fingerprint": prints[1]}, "other weights"),
        (
            {"base": one, "manifest": {"weights_sha256": "a" * 64}},
            {"base": replace(one, quick_gelu=True), "manifest": {"weights_sha256": "a" * 64}},
            "another base",
        ),
    ]
    for ours, theirs, message in pairs:
        with pytest.raises(ValueError, match=f"^validation was embedded by .*{message}"):
            labclip.fit(replace(data, **ours), validation=replace(other, **theirs), **QUICK)
        with pytest.raises(ValueError, match=rf"^retain\['flickr'\] was embedded by .*{message}"):
            labclip.fit(replace(data, **ours), retain={"flickr": replace(other, **theirs)}, **QUICK)
        for same in (ours, {}):  # the same, or unknown
            labclip.fit(replace(data, **ours), validation=replace(other, **same), **QUICK)
    half = {"fingerprint": prints[0], "manifest": {"weights_sha256": "b" * 64, "precision": "bfloat16"}}
    whole = {"fingerprint": prints[0] * 1.001, "manifest": {"weights_sha256": "a" * 64, "precision": "float32"}}
    labclip.fit(replace(data, **whole), validation=replace(other, **half), **QUICK)
    with pytest.raises(ValueError, match=r"validation was embedded by .*: dim 9 is not 24"):
        labclip.fit(data, validation=planted.features(*(side[:, :9] for side in planted.world(50))), **QUICK)


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
