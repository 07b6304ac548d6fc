"""Images and captions through a base, by themselves."""

import doctest
import warnings

import models
import numpy as np
import pytest
import torch
from close import UNIT
from folders import tiny
from PIL import Image

from labclip import scenes
from labclip.data.images import ImageSource
from labclip.encode import encoder
from labclip.encode.encoder import Encoder


def test_images_come_in_order_with_what_is_wrong(model, tmp_path):
    drawn = scenes.sample(5, seed=1)
    sources = [ImageSource(f"scene {row}", data=image) for row, image in enumerate(drawn.images)]
    sources.insert(2, ImageSource("broken", data=b"no image", location="row 3"))
    sources.insert(3, ImageSource("gone.png", tmp_path / "gone.png"))
    found = list(Encoder(model, batch_size=2, workers=2, progress=False).images(iter(sources)))
    assert [one.source for one in found] == sources
    broken, gone = (one.problem for one in found if one.row is None)
    assert broken.startswith("is not a whole image of a format that is read")
    assert gone == "can't be read (No such file or directory)"
    with torch.no_grad():
        own = model.encode_image([Image.fromarray(image) for image in drawn.images], normalize=True)
    assert np.abs(np.stack([one.row for one in found if one.row is not None]) - own.numpy()).max() < UNIT
    assert {len(one.digest) for one in found} == {0, 32}
    assert str(sources[2]) == "broken (row 3)"


def test_captions_that_are_cut_are_counted_and_told_once():
    counted = Encoder(tiny(), progress=False)
    long = "a very long caption of a red cube that goes on and on and on and on and on"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counted.texts([long, "a red cube"]).shape == (2, models.DIM)
        counted.texts([long + " and on"])
    with pytest.warns(UserWarning, match=f"2 of 3 texts are longer than the 16 tokens of .* for example '{long[:60]}"):
        counted.cut.warn("texts")


def test_leaving_early_leaves_the_model_as_it_was(model):
    model.train()
    blank = (ImageSource(f"{n}", data=np.zeros((9, 9, 3), "u1")) for n in range(9))
    stream = Encoder(model, progress=False).images(blank)
    next(stream)
    assert not model.clip.training
    stream.close()
    assert model.clip.training


def test_an_image_says_how_it_may_be_given(tmp_path):
    with pytest.raises(ValueError, match="no file of it is known"):
        ImageSource("named").read()
    one, same = (ImageSource(name, data=b"bytes") for name in ("a", "b"))
    assert one.key == same.key
    boxes, starts = (None, (0, 0, 1, 1)), (None, 3)
    assert len({ImageSource("a", tmp_path / "a", start=start, box=box).key for start in starts for box in boxes}) == 4


def test_docstring_examples_run():
    failed, tried = doctest.testmod(encoder)
    assert tried > 0
    assert failed == 0
