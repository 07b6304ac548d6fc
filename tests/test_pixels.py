"""Images in 8 bits and the way round that people see them, in every way that leads to an embedding."""

import os

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps

from labclip import scenes
from labclip.data.images import ImageSource
from labclip.encode.cache import Cache, encode
from labclip.towers.images import as_stored
from labclip.towers.pixels import eight_bits, upright

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    "deep",
    [
        GREY.astype(np.uint16) * 257,
        (GREY.astype(np.uint16) * 257).astype(np.int32),
        GREY.astype(np.int32),  # 8 bits in 32
        GREY.astype(np.float32),
        GREY.astype(np.float32) / 255,
        GREY.astype(np.float32) / 255 * 1e6,  # no usual range: the largest is white
        GREY.astype(np.float32) / 127.5 - 1,  # from -1 to 1
    ],
    ids=["16 bits", "16 in 32", "8 in 32", "float of bytes", "fractions", "others", "signed"],
)
def test_deep_pixels_keep_their_brightness(deep):
    found = eight_bits(Image.fromarray(deep))
    assert found.mode == "L"
    assert np.array_equal(np.asarray(found), GREY)


def test_twelve_bits_in_sixteen_are_not_nearly_black():
    found = np.asarray(eight_bits(Image.fromarray(GREY.astype(np.uint16) * 16)))
    assert np.abs(found.astype(int) - GREY).max() <= 1


def test_eight_bits_are_left_alone_and_what_is_not_finite_is_refused():
    for mode in ("RGB", "L", "1", "P", "CMYK", "RGBA"):
        image = Image.new(mode, (3, 2))
        assert eight_bits(image) is image
        assert upright(image) is image
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="has pixels that are NaN or infinite"):
            eight_bits(Image.fromarray(np.full((2, 2), value, dtype=np.float32)))


@pytest.fixture
def turned(tmp_path):
    """A scene stored lying, with the EXIF that says so, and as it is seen."""
    seen = Image.fromarray(scenes.sample(1, seed=4).images[0]).resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    seen.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    seen.save(tmp_path / "seen.png")
    return tmp_path


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_images_are_turned_as_viewers_turn_them(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.dstack([GREY[:9]] * 3)).save(tmp_path / f"a.{ending}", exif=exif)
    image = Image.open(tmp_path / f"a.{ending}")
    found = upright(image)
    assert np.array_equal(np.asarray(found), np.asarray(ImageOps.exif_transpose(image)))
    assert upright(found) is found  # once


def test_an_image_with_damaged_exif_is_as_it_is_stored():
    image = Image.fromarray(GREY)
    image.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff garbage"
    with pytest.warns(UserWarning, match="EXIF"):
        assert upright(image) is image


def test_every_way_to_an_embedding_turns_images_alike(model, turned):
    lying, seen = (Image.open(turned / name) for name in ("lying.png", "seen.png"))
    wanted = model.encode_image(seen, normalize=True)
    images = [ImageSource(name, turned / name) for name in ("lying.png", "seen.png")]
    found, _ = encode(model, images, ["a"], progress=False)
    assert torch.allclose(found, wanted.expand(2, -1), atol=1e-5)
    assert torch.equal(model.encode_image(lying, normalize=True), wanted)
    assert torch.equal(model.preprocess(lying), model.preprocess(seen))


def test_as_stored_is_exactly_openclip_and_shares_no_cache(model, turned, tmp_path):
    lying = Image.open(turned / "lying.png")
    with Cache(tmp_path / "cache", model) as one:
        upright_name = one.path.name
    model.preprocess = as_stored(model.preprocess)
    config = open_clip.transform.PreprocessCfg(**model.clip.visual.preprocess_cfg)
    own = open_clip.transform.image_transform_v2(config, is_train=False)
    assert torch.equal(model.preprocess(lying), own(lying))
    assert repr(model.preprocess.transforms[0]) == repr(own.transforms[0])
    assert not torch.allclose(own(lying), own(Image.open(turned / "seen.png")))
    with Cache(tmp_path / "cache", model) as other:
        assert other.path.name != upright_name
    assert as_stored(own) is not None


def test_deep_images_are_embedded_as_shallow_ones_are(model, tmp_path):
    pixels = np.asarray(Image.fromarray(scenes.sample(1, seed=4).images[0]).convert("L"))
    Image.fromarray(pixels).save(tmp_path / "8.tif")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "16.tif")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(pixels.astype(np.float32) / 255).save(tmp_path / "float.tif")
    names = ("8.tif", "16.tif", "16.png", "float.tif")
    found, _ = encode(model, [ImageSource(name, tmp_path / name) for name in names], ["a"], progress=False)
    assert torch.allclose(found, found[:1].expand(4, -1), atol=1e-4)
    assert torch.allclose(model.encode_image([Image.open(tmp_path / name) for name in names], True), found, atol=1e-4)
    with pytest.raises(ValueError, match="An image has pixels that are NaN"):
        model.encode_image(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(50), "is HEIC, which is not read; convert it to PNG"),
        ("a.svg", b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "is SVG, which is not read"),
        ("a.pdf", b"%PDF-1.7 ...", "is PDF, which is not read"),
        ("a.jpg", b"garbage", r"is not a whole image \(cannot identify"),
    ],
)
def test_formats_that_are_not_read_say_what_to_convert_to(model, tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} {said}"):
        encode(model, [ImageSource(name, tmp_path / name)], ["a"], progress=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_not_waited_for(model, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for file in (tmp_path / "a.png", "/dev/zero"):
        with pytest.raises(ValueError, match=r"can't be read \(it is a pipe or a device, not a file\)"):
            encode(model, [ImageSource("a.png", type(tmp_path)(file))], ["a"], progress=False)
