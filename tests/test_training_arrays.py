"""The call with arrays, deprecated."""

from pathlib import Path

import planted
import pytest
import torch

import labclip

QUICK = {"epochs": 3, "batch_size": 64, "identity_penalty": 1e-4, "negative_weight": 1, "distill": 0, "progress": False}
ARRAYS = r"labclip\.Features\.from_arrays\(images=\.\.\., texts=\.\.\., negatives=\.\.\."


def test_arrays_fit_as_features_do_and_the_warning_says_what_to_type():
    data, held, other = planted.world(200), planted.world(50, seed=1), planted.world(50, seed=2)[:2]
    options = {"validation": planted.features(*held), "retain": {"1": planted.features(*other)}, **QUICK}
    expected = labclip.fit(planted.features(*data), **options).alignment
    options = {"validation": held, "retain": [other], **QUICK}
    named = dict(zip(("image_features", "text_features", "negative_features"), data, strict=True))
    calls = (lambda: labclip.fit(*data, **options), lambda: labclip.fit(**named, **options))
    for call in calls:
        with pytest.warns(
            DeprecationWarning,
            match=rf"Type: labclip\.fit\({ARRAYS}\), validation={ARRAYS}\), retain=\{{'1': "
            r"labclip\.Features\.from_arrays\(images=\.\.\., texts=\.\.\.\)\}, \.\.\.\)$",
        ) as told:
            found = call().alignment
        assert told[0].filename == __file__
        assert torch.equal(found.fitted, expected.fitted)
        assert found.metadata["results"] == expected.metadata["results"]


def test_every_array_reaches_the_features():
    images, texts, negatives = planted.world(200)
    base = labclip.Base("planted", "", False, planted.DIM)
    twice, fingerprint = torch.arange(100).repeat(2), torch.eye(planted.DIM)[0]
    others = images[:100].roll(1, 0)[twice]
    features = planted.features(
        images[:100], texts, negatives, twice, negative_images=others, base=base, fingerprint=fingerprint
    )
    expected = labclip.fit(features, **QUICK).alignment
    for name in ("fingerprint", "probe"):
        with pytest.warns(DeprecationWarning, match=rf"{ARRAYS}, .*negative_images=\.\.\..*\), \.\.\.\)$"):
            found = labclip.fit(
                images[:100], texts, negatives, image_index=twice, negative_image_features=others, base=base,
                **{name: fingerprint}, **QUICK,
            ).alignment  # fmt: skip
        assert torch.equal(found.fitted, expected.fitted)
        assert found.base == base
        assert torch.equal(found.fingerprint, fingerprint)


def test_bad_calls_are_errors():
    data = planted.world(100)
    with pytest.raises(ValueError, match=r"validation is not \(images, texts, negatives, image_index\)"):
        labclip.fit(*data, validation=3)
    with pytest.raises(ValueError, match=r"retain\[0\] is not \(images, texts, image_index\)"):
        labclip.fit(*data, retain=[data[0]])
    with pytest.warns(DeprecationWarning, match="Type: "), pytest.raises(TypeError, match="positional"):
        labclip.fit(*data, torch.arange(100))  # an index in a place it never had is not dropped
    with pytest.raises(TypeError, match="base"):
        labclip.fit(planted.features(*data), base=None)
    with pytest.raises(TypeError, match="features"):
        labclip.fit()


def test_a_folder_is_as_good_as_its_features(tmp_path):
    data, held, other = (planted.drawn(n, seed=seed) for n, seed in ((200, 0), (50, 1), (50, 2)))
    one, two, three = (str(tmp_path / name) for name in "abc")
    opened = [features.save(folder) for features, folder in ((data, one), (held, two), (other, three))]
    expected = labclip.fit(opened[0], validation=opened[1], retain={"1": opened[2]}, **QUICK)
    first = labclip.fit(one, validation=two, retain={"1": three}, **QUICK)
    second = labclip.fit(features=Path(one), validation=Path(two), retain={"1": three}, **QUICK)
    for found in (first, second):
        assert torch.equal(found.alignment.fitted, expected.alignment.fitted)
        assert found.frontier == expected.frontier
    with pytest.raises(FileNotFoundError, match="There is no folder nowhere"):
        labclip.fit("nowhere")
