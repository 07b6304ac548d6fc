"""Encoding once, and the cache."""

import copy
import warnings
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from close import assert_close
from evaluated import images_of, rounding
from folders import tiny
from open_clip.model import convert_weights_to_lp
from PIL import Image
from torch.nn import functional as F

from labclip import LABCLIP, scenes
from labclip.data.images import ImageSource
from labclip.features.cache import Cache, encode


@pytest.fixture
def towers(model, monkeypatch):
    """Both towers, which remember what went through them."""
    towers = [Mock(wraps=tower) for tower in (model.encode_image, model.encode_text)]
    for name, tower in zip(("encode_image", "encode_text"), towers, strict=True):
        monkeypatch.setattr(model, name, tower)
    return towers


def encoded(tower):
    return sum(len(call.args[0]) for call in tower.call_args_list)


def test_encode_is_the_models_own_embedding_of_unit_length_in_order(model):
    drawn = scenes.sample(5, seed=1)
    captions = [*drawn.captions, *drawn.tags]
    images, texts = encode(model, images_of(drawn), captions, batch_size=2, progress=False)
    with torch.no_grad():
        own = model.clip.encode_image(torch.stack([model.preprocess(Image.fromarray(i)) for i in drawn.images]))
        own_texts = model.clip.encode_text(model.tokenizer(captions))
    assert_close(images, F.normalize(own.float(), dim=-1))
    assert_close(texts, F.normalize(own_texts.float(), dim=-1))


def test_equal_content_is_encoded_once_and_a_second_run_gives_the_same_bits(model, tmp_path, towers):
    drawn = scenes.sample(6, seed=2)
    copies = [tmp_path / "one.png", tmp_path / "other.png"]
    for path in copies:
        Image.fromarray(drawn.images[0]).save(path)
    asked = [*images_of(drawn), *(ImageSource(path.name, path) for path in copies)]
    runs = []
    for _ in range(2):
        with Cache(tmp_path, model) as cache:
            runs.append(encode(model, asked, drawn.captions, cache=cache, progress=False))
    assert [encoded(tower) for tower in towers] == [7, 6]
    assert all(map(torch.equal, *runs))
    assert torch.equal(runs[0][0][6], runs[0][0][7])


def test_another_base_or_preprocessing_has_another_cache(model, tmp_path):
    other = LABCLIP.from_pretrained("scenes")
    with torch.no_grad():
        other.clip.visual.conv1.weight[0, 0, 0, 0] += 0.5
    wrapped = LABCLIP(model.clip, model.alignment, preprocess=lambda image: model.preprocess(image))
    assert len({Cache(tmp_path, wrapper).path for wrapper in (model, other, wrapped)}) == 3


def test_broken_images_are_counted_and_the_others_kept(model, tmp_path, towers):
    drawn = scenes.sample(3, seed=6)
    for row in range(3):
        Image.fromarray(drawn.images[row]).save(tmp_path / f"{row}.png")
    for row in (1, 2):
        (tmp_path / f"{row}.png").write_bytes(b"no image %d" % row)
    asked = [ImageSource(f"{row}.png", tmp_path / f"{row}.png") for row in range(3)]
    message = r"^2 of 3 images can't be used, for example 1\.png is not a complete image .*; 2\.png is not"
    with Cache(tmp_path / "cache", model) as cache, pytest.raises(ValueError, match=message):
        encode(model, asked, ["a red cube"], cache=cache, progress=False)
    for row in (1, 2):
        Image.fromarray(drawn.images[row]).save(tmp_path / f"{row}.png")
    with Cache(tmp_path / "cache", model) as cache:
        encode(model, asked, ["a red cube"], cache=cache, progress=False)
    assert encoded(towers[0]) == 3


def test_a_crop_is_cut_before_preprocessing(model):
    large = np.zeros((64, 160, 3), dtype=np.uint8)
    large[:, 50:114] = scenes.sample(1, seed=7).images[0]
    crop = ImageSource("crop", data=large, box=(50, 0, 64, 64))
    whole = ImageSource("whole", data=large[:, 50:114].copy())
    images, _ = encode(model, [crop, whole], ["a red cube"], progress=False)
    assert_close(images[0], images[1])
    for box in ((200, 0, 5, 5), (0, 0, 0.4, 5)):
        with pytest.raises(ValueError, match="covers no pixel of its 160 x 64"):
            encode(model, [ImageSource("p", data=large, box=box)], ["a"], progress=False)


def test_captions_of_the_same_tokens_have_the_same_bits_in_any_pass_and_any_run(model, tmp_path, monkeypatch):
    monkeypatch.setattr("labclip.features.cache.BLOCK", 2)
    rounding(model, monkeypatch)
    alike = ["a red cube", "a blue cone", "A RED CUBE", "a  red   cube", "an orange ring"]
    with Cache(tmp_path, model) as cache:
        _, texts = encode(model, images_of(scenes.sample(1)), alike, cache=cache, progress=False)
    assert torch.equal(texts[0], texts[2])
    assert torch.equal(texts[0], texts[3])
    assert not torch.equal(texts[0], texts[1])
    with Cache(tmp_path, model) as cache:
        _, later = encode(model, images_of(scenes.sample(1)), ["A red Cube", *alike], cache=cache, progress=False)
    assert torch.equal(later[0], texts[0])
    assert torch.equal(later[1:], texts)


def test_two_processes_may_use_it_at_once(model, tmp_path):
    row = np.eye(256, dtype=np.float32)[0]
    with Cache(tmp_path, model) as first, Cache(tmp_path, model) as other:
        first.put([(b"a", row), (b"b", row)])
        assert set(other.get([b"a", b"b", b"c"])) == {b"a", b"b"}
        other._file.execute("PRAGMA busy_timeout = 0")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other.put([(b"c", row)])
        assert list(first.get([b"c"])) == [b"c"]
        first._file.execute("UPDATE rows SET value = zeroblob(1024) WHERE key = ?", (b"a",))
        assert list(first.get([b"a", b"b"])) == [b"b"]  # a damaged row is encoded again


def test_a_cache_that_cannot_be_used_says_what_to_do(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"can't be used \(.*Not a directory.*Pass cache=DIR .* or cache=None"):
        Cache(tmp_path / "file" / "cache", model)
    with Cache(tmp_path, model) as cache:
        pass
    cache.path.write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    with pytest.raises(ValueError, match=r"can't be used .*If the file is damaged, delete it"):
        Cache(tmp_path, model)


def test_a_full_disk_stops_no_run(model, tmp_path):
    with Cache(tmp_path, model) as cache:
        cache._file.execute("PRAGMA query_only = 1")
        with pytest.warns(UserWarning, match=r"can't be used .*Later embeddings are not cached"):
            images, _ = encode(model, images_of(scenes.sample(2)), ["a red cube"], cache=cache, progress=False)
        assert cache._file.execute("SELECT COUNT(*) FROM rows").fetchone() == (0,)
    assert images.shape == (2, 256)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_transformer_in_half_precision(dtype):
    """OpenCLIP leaves its position embeddings float32, which are no sign of what its images are to be."""
    whole = tiny()
    half = copy.deepcopy(whole)
    convert_weights_to_lp(half.clip, dtype)
    asked = images_of(scenes.sample(3, seed=12)), ["a red cube", "a blue ring"]
    for rows, own in zip(encode(half, *asked, progress=False), encode(whole, *asked, progress=False), strict=True):
        assert rows.dtype == torch.float32
        assert F.cosine_similarity(rows, own).min() > 0.99
    assert half.encode_image([Image.fromarray(asked[0][0].data)]).dtype == dtype
