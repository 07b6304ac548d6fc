"""The call with arrays, deprecated."""

import planted
import pytest
import torch

import labclip

QUICK = {"epochs": 3, "batch_size": 64, "identity_penalty": 1e-4, "progress": False}
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
