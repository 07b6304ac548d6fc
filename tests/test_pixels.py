"""Images in 8 bits and the way round that people see them, in every way that leads to an embedding."""

import io

import numpy as np
import open_clip
import pytest
import torch
from close import assert_close
from PIL import Image, ImageOps

from labclip import scenes
from labclip.data.images import ImageSource
from labclip.features.cache import Cache, encode
from labclip.towers.images import as_stored
from labclip.towers.pixels import eight_bits, upright

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(pixels, kind, **options):
    """An image as it is opened from a file of this kind."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return Image.open(file)


SIXTEEN = GREY.astype(np.uint16) * 257


@pytest.mark.parametrize(
    "deep",
    [Image.fromarray(SIXTEEN), *(saved(SIXTEEN, kind) for kind in ("PNG", "TIFF", "PPM", "JPEG2000"))],
    ids=["in memory", "PNG", "TIFF", "PGM", "JPEG 2000"],
)
def test_deep_pixels_keep_their_brightness(deep):
    grey = eight_bits(deep)
    assert grey.mode == "L"
    assert np.array_equal(np.asarray(grey), GREY)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_dark_images_have_the_scale_of_bright_ones(kind):
    """White is 65535 in every file: values up to 255, and those just above, are nearly black."""
    for largest in (255, 256, 4095, 65535):
        dark = np.full((2, 2), largest, dtype=np.uint16)
        assert np.asarray(eight_bits(saved(dark, kind))).max() == round(largest / 257)


def test_eight_bits_are_left_alone_and_what_does_not_say_its_white_is_refused(model):
    for mode in ("RGB", "L", "1", "P", "CMYK", "RGBA"):
        image = Image.new(mode, (3, 2))
        assert eight_bits(image) is image
        assert upright(image) is image
    for dtype, mode in ((np.int32, "I"), (np.float32, "F")):
        for image in (Image.fromarray(GREY.astype(dtype)), saved(GREY.astype(dtype), "TIFF")):
            with pytest.raises(ValueError, match=rf"has the mode {mode}, .*255 / WHITE.*, or as 16-bit PNG"):
                eight_bits(image)
            for takes in (model.encode_image, model.preprocess):
                with pytest.raises(ValueError, match=r"^(An|The) image has the mode"):
                    takes(image)


@pytest.fixture
def turned(tmp_path):
    """A scene stored lying, with the EXIF that says so, and as it is seen."""
    image = Image.fromarray(scenes.sample(1, seed=4).images[0]).resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    image.save(tmp_path / "seen.png")
    return tmp_path


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_images_are_turned_as_viewers_turn_them(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.dstack([GREY[:9]] * 3)).save(tmp_path / f"a.{ending}", exif=exif)
    image = Image.open(tmp_path / f"a.{ending}")
    turned_image = upright(image)
    assert np.array_equal(np.asarray(turned_image), np.asarray(ImageOps.exif_transpose(image)))
    assert upright(turned_image) is turned_image  # once


def test_every_way_to_an_embedding_turns_images_alike(model, turned):
    lying, seen = (Image.open(turned / name) for name in ("lying.png", "seen.png"))
    wanted = model.encode_image(seen, normalize=True)
    images = [ImageSource(name, turned / name) for name in ("lying.png", "seen.png")]
    features, _ = encode(model, images, ["a"], progress=False)
    assert_close(features, wanted.expand(2, -1))
    assert torch.equal(model.encode_image(lying, normalize=True), wanted)
    assert torch.equal(model.preprocess(lying), model.preprocess(seen))


def test_as_stored_is_exactly_openclip_and_shares_no_cache(model, turned, tmp_path):
    lying = Image.open(turned / "lying.png")
    with Cache(tmp_path / "cache", model) as cache:
        upright_name = cache.path.name
    model.preprocess = as_stored(model.preprocess)
    config = open_clip.transform.PreprocessCfg(**model.clip.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    assert torch.equal(model.preprocess(lying), transform(lying))
    assert repr(model.preprocess.transforms[0]) == repr(transform.transforms[0])
    assert not torch.allclose(transform(lying), transform(Image.open(turned / "seen.png")))
    with Cache(tmp_path / "cache", model) as other:
        assert other.path.name != upright_name
    assert as_stored(transform) is not None
