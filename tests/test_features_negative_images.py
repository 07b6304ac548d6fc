"""Images that negatives describe: from a column of the captions file to the feature folder, and into the fit."""

import json

import folders
import numpy as np
import pytest
import torch
from close import UNIT
from folders import contents, draw
from PIL import Image

import labclip
from labclip import LABCLIP
from labclip.data import read_items
from labclip.features import Features

N = 8


@pytest.fixture(scope="module")
def model():
    return LABCLIP.from_pretrained("scenes")


@pytest.fixture(scope="module")
def scenes():
    return labclip.scenes.sample(N + 3, seed=3)


@pytest.fixture
def data(tmp_path, scenes):
    """Eight images with captions, and three that only negatives describe."""
    draw(tmp_path, scenes)
    # The negative of the first image is shown by one that comes later, of the third by its own, of the fourth by none.
    shown = ["7.png", "8.png", "2.png", "", "9.png", "9.png", "10.png", "0.png"]
    rows = [[f"{i}.png", scenes.captions[i], scenes.swapped_captions[i], shown[i]] for i in range(N)]
    rows[6][2] = ""  # no negative, so its image is of no use
    return write(tmp_path, [*rows, ["1.png", scenes.tags[1], "", ""]])


def write(folder, rows):
    return folders.write(folder, rows, "image,caption,negative,shown")


def run(model, data, out="features", **options):
    return folders.run(model, data, out, **{"batch_size": 3, "negative_images": "shown"} | options)


@torch.no_grad()
def images_of(model, scenes):
    return model.encode_image([Image.fromarray(image) for image in scenes.images], normalize=True).numpy()


def test_the_folder_has_the_images_of_the_negatives(model, data, scenes, monkeypatch):
    encoded, own = [], LABCLIP.encode_image
    with monkeypatch.context() as patch:
        patch.setattr(LABCLIP, "encode_image", lambda *a, **k: encoded.append(len(a[1])) or own(*a, **k))
        features = run(model, data)
    # Each once, though 9.png is named twice and 7.png and 0.png have captions; 10.png shows no negative.
    assert sum(encoded) == N + 2
    images = images_of(model, scenes)
    assert features.images.shape == (N, 256)  # what no caption describes is no image of a gallery
    assert np.abs(features.images - images[:N]).max() < UNIT
    assert features.has_negative_image[:, 0].tolist() == [True, True, False, False, True, True, False, True, False]
    wanted = images[[7, 8, 2, 3, 9, 9, 6, 0, 1]]  # where there is none, the caption's own
    assert np.abs(features.negative_images[:, 0] - wanted).max() < UNIT
    missing = ~features.has_negative_image[:, 0]
    assert np.array_equal(features.negative_images[missing, 0], features.images[features.image_index][missing])
    assert isinstance(features.negative_images, np.memmap)
    names = [json.loads(line)["image"] for line in (data / "features" / "images.jsonl").read_text().splitlines()]
    assert names == [f"{number}.png" for number in range(N)]
    lines = [json.loads(line) for line in (data / "features" / "captions.jsonl").read_text().splitlines()]
    assert (lines[4]["negatives"], lines[4]["negative_images"]) == ([scenes.swapped_captions[4]], ["9.png"])
    assert lines[3]["negative_images"] == [None]
    assert features.manifest["columns"]["negative_images"] == ["shown"]
    assert sorted(contents(data / "features")) == sorted([*features.manifest["files"], "manifest.json"])
    assert len(Features.load(data / "features", base=model, verify=True)) == N + 1


def test_without_the_option_nothing_changes(model, data):
    features = run(model, data, negative_images=None)
    assert features.negative_images is None
    assert "negative_images" not in features.manifest["columns"]  # a folder made before the option is still its own
    with pytest.raises(ValueError, match="has features already, but its negative_images is"):
        run(model, data)
    write(data, [["0.png", "a red cube", "a blue cube", ""]])
    assert run(model, data, "none").negative_images is None  # the column names no image


def read(path, **columns):
    """(negatives, names of their images) of every caption, and what is wrong."""
    items = list(read_items(path, **columns))
    good = [
        (list(negatives), [image and image.name for image in images])
        for item in items
        for negatives, images in zip(item.negatives, item.negative_images, strict=True)
    ]
    return good, [item.problem for item in items if item.problem]


def lines(path, *rows):
    path.write_text("\n".join(json.dumps({"image": "a.png", "caption": "x", **row}) for row in rows))
    return path


def test_lists_and_several_columns(tmp_path):
    path = lines(
        tmp_path / "c.jsonl",
        {"negatives": ["one", "", "two", "one"], "shown": ["1.png", "no.png", None, "2.png"]},
        {"negatives": "one", "shown": "1.png"},
        {"caption": ["x", "y"], "negatives": [["one", "two"], None], "shown": [["1.png", "2.png"], None]},
        {"negatives": ["one", "two"], "shown": ["1.png"]},
        {"negatives": "one", "shown": 7},
    )
    good, bad = read(path, negative_images=("shown",))
    assert good == [(["one", "two"], ["1.png", None]), (["one"], ["1.png"]), (["one", "two"], ["1.png", "2.png"]),
                    ([], [])]  # fmt: skip
    assert [what[:40] for what in bad] == [
        "has 2 in 'negatives' but 1 in 'shown'; n",
        "has an image that is a int, not a path",
    ]
    two = lines(
        tmp_path / "two.jsonl",
        {"negative": "one", "negative_2": "two", "first": "", "second": "2.png"},
        {"negative_2": "two", "second": "2.png"},
    )
    good, bad = read(two, negative_images=("first", "second"))
    assert good == [(["one", "two"], [None, "2.png"])]
    assert bad == ["names an image in 'second', but lacks the column of negatives that it belongs to"]
    (item,) = read_items(
        lines(path, {"negatives": ["...", "A ball.", "a ball"], "shown": ["1.png", None, "2.png"]}),
        negative_images=("shown",), clean=True,
    )  # fmt: skip
    assert item.negatives == (("a ball",),)
    assert item.negative_images[0][0].name == "2.png"
