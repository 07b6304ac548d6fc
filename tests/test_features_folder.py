"""The feature folder as a record: what was changed after it was written is refused, what is in memory can be saved."""

import hashlib
import json
import shutil
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from close import UNIT
from folders import draw, run, write

import labclip
from labclip import Base
from labclip.features import Features, folder

N = 6
DIM = 4
BASE = Base("ViT-B-32", "openai", quick_gelu=True, embed_dim=DIM)


@pytest.fixture(scope="module")
def finished(embedded, tmp_path_factory):
    """Six images, two captions each, the first with a negative."""
    place, scenes = tmp_path_factory.mktemp("finished"), labclip.scenes.sample(N, seed=3)
    draw(place, scenes)
    rows = [[f"{number}.png", scenes.captions[number], scenes.swapped_captions[number]] for number in range(N)]
    run(embedded, write(place, rows + [[f"{number}.png", scenes.tags[number], ""] for number in range(N)]))
    return place


@pytest.fixture
def features(finished, tmp_path):
    """A copy of the folder."""
    return Path(shutil.copytree(finished / "features", tmp_path / "features"))


def flip(path):
    """Change the last byte."""
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def reverse(path):
    np.save(path, np.load(path)[::-1])


def newer(path):
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 3'))


CHANGED = r"was changed after it was written: manifest\.json has another SHA-256"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((name, reverse, CHANGED) for name in ("image_features.npy", "negative_features.npy", "image_index.npy")),
        ("text_features.npy", lambda path: np.save(path, np.zeros((3, 256), "f4")), r"has 3200 bytes, but manifest"),
        ("manifest.json", newer, r"has format version 3, .* reads 2\. .* type: pip install"),
        ("captions.jsonl", Path.unlink, r"has no bytes, but manifest\.json says \d+"),
    ],
)
def test_changed_files_and_other_formats_are_refused(features, name, change, message):
    change(features / name)
    with pytest.raises(ValueError, match=message):
        Features.load(features)


@pytest.mark.parametrize("name", ["image_features.npy", "images.jsonl"])
def test_a_flipped_byte_is_found_when_asked(features, monkeypatch, name):
    flip(features / name)
    monkeypatch.setattr(folder, "_SAMPLE", 0)  # in the sample of so few rows are all of them
    path = features / "manifest.json"
    record = json.loads(path.read_text())
    for file in record["files"].values():
        file["sample_sha256"] = hashlib.sha256(b"").hexdigest()
    path.write_text(json.dumps(record))
    Features.load(features)
    assert f"{name} was changed after it was written" in commands.fails("embed", "--verify", features)
    flip(features / name)
    assert commands.run("embed", "--verify", features).stdout == f"{features}: no byte has changed\n"


def arrays(**changed):
    draw = np.random.default_rng(0)
    images, texts = draw.normal(size=(3, DIM)).astype("f4"), draw.normal(size=(5, DIM)).astype("f4")
    negatives = draw.normal(size=(5, 2, DIM)).astype("f4")
    negatives[1, 1] = 3 * texts[1]
    return {"images": images, "texts": texts, "negatives": negatives, "image_index": [0, 1, 2, 0, 1]} | changed


def test_arrays_are_saved_and_loaded(tmp_path):
    given = arrays(negative_images=np.random.default_rng(1).normal(size=(5, 2, DIM)))
    given["negative_images"][2, 0] = given["images"][2]
    features = Features.from_arrays(**given, base=BASE, fingerprint=torch.eye(DIM)[0])
    saved = features.save(tmp_path / "features")
    loaded = Features.load(tmp_path / "features", base=BASE, verify=True)
    for name in ("images", "texts", "negative_images"):
        unit = given[name] / np.linalg.norm(given[name], axis=-1, keepdims=True)
        np.testing.assert_allclose(getattr(loaded, name), unit, atol=UNIT)
        assert np.array_equal(getattr(loaded, name), getattr(saved, name))
    assert loaded.image_index.tolist() == given["image_index"]
    assert loaded.has_negative.tolist() == [[True, True], [True, False], *[[True, True]] * 3]
    assert loaded.has_negative_image.tolist() == [[True, True]] * 2 + [[False, True]] + [[True, True]] * 2
    assert np.array_equal(loaded.negatives[1, 1], loaded.texts[1])
    assert loaded.base == BASE
    assert loaded.fingerprint.tolist() == [1, 0, 0, 0]
    assert repr(loaded) == "Features(3 images, 5 texts, 2 negatives each, dim=4, base='ViT-B-32 (openai)')"
    assert len(loaded) == 5
    with pytest.raises(ValueError, match=r"already holds features: manifest\.json\. Pass another folder"):
        features.save(tmp_path / "features")


def test_tensors_of_any_precision_and_memory_maps_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("labclip.features.features._BLOCK", 2)
    given = {name: torch.tensor(value).bfloat16() if name != "image_index" else torch.tensor(value)
             for name, value in arrays().items()}  # fmt: skip
    given["texts"].requires_grad_()
    given["negative_images"] = given["images"][given["image_index"]][:, None].repeat(1, 2, 1)
    loaded = Features.from_arrays(**given).save(tmp_path / "features")
    assert np.abs(np.linalg.norm(loaded.texts, axis=1) - 1).max() < UNIT
    assert not loaded.has_negative_image.any()
    mapped = {name: getattr(loaded, name) for name in ("images", "texts", "negatives", "image_index")}
    again = Features.from_arrays(**mapped)
    assert np.array_equal(again.has_negative, loaded.has_negative)
    assert again.texts is loaded.texts
    assert Features.from_arrays(**arrays()).has_negative.sum() == 9


@pytest.mark.parametrize(("name", "value", "what"), [("images", np.nan, "not finite"), ("texts", 0.0, "all zeros"),
                                                     ("negatives", -np.inf, "not finite")])  # fmt: skip
def test_rows_without_a_direction_are_not_saved_but_absent_negatives_may_have_none(tmp_path, name, value, what):
    given = arrays()
    given[name][2] = value
    features = Features.from_arrays(**given)
    assert features.has_negative[2].all()
    with pytest.raises(ValueError, match=f"{name}: row 2 is {what}"):
        features.save(tmp_path / "features")
    assert not (tmp_path / "features").exists()
    given = arrays()
    there = np.ones(given["negatives"].shape[:2], dtype=bool)
    there[3, 1], given["negatives"][3, 1] = False, value
    saved = Features.from_arrays(**given, has_negative=there).save(tmp_path / "features")
    assert np.array_equal(saved.negatives[3, 1], saved.texts[3])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.ones((3, DIM), dtype=int)}, r"images is a ndarray of int64 \[3, 4\]\. Pass embeddings"),
        ({"texts": np.ones(DIM)}, r"texts is a ndarray of float64 \[4\]\. Pass embeddings of shape \[n, 4\]"),
        ({"texts": np.ones((5, 3))}, r"texts is a ndarray of float64 \[5, 3\]\. Pass embeddings of shape \[n, 4\]"),
        ({"image_index": None}, "There are 3 images and 5 texts. Pass image_index"),
        ({"image_index": [0, 1, 2, 0, 3]}, r"image_index\[4\] is 3, but images has rows 0 to 2"),
        ({"image_index": [0.0] * 5}, r"image_index is .* float64 \[5\]\. Pass whole numbers of shape \[5\]"),
        ({"has_negative": [1] * 5}, r"has_negative is .* int64 \[5, 1\]\. Pass flags of shape \[5, 2\]"),
        ({"negative_images": np.ones((5, 1, DIM))}, r"negative_images is .* \[5, 1, 4\]\. .* of shape \[5, 2, 4\]"),
        ({"kind": [0, 1, 3, 0, 0]}, r"kind holds \[0, 1, 3\]\. For each text pass 0 \(a caption\)"),
        ({"base": "ViT-B-32"}, "have dim 4, but base is 'ViT-B-32'. Pass the labclip.Base that made them"),
        ({"kind": [0, 1]}, r"kind is a ndarray of int64 \[2\]\. Pass whole numbers of shape \[5\]"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Features.from_arrays(**arrays(**changed))
