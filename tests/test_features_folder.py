"""The feature folder as a record: what was changed after it was written is refused, what is in memory can be saved."""

import json
import shutil
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from close import UNIT
from PIL import Image

import labclip
from labclip import LABCLIP, Base, cli
from labclip.features import Features, embed, folder

N = 6
DIM = 4


@pytest.fixture(scope="module")
def model():
    return LABCLIP.from_pretrained("scenes")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """Six images, two captions each, the first with a negative."""
    place = tmp_path_factory.mktemp("finished")
    scenes = labclip.scenes.sample(N, seed=3)
    lines = ["image,caption,negative"]
    for number, image in enumerate(scenes.images):
        Image.fromarray(image).save(place / f"{number}.png")
        lines.append(f"{number}.png,{scenes.captions[number]},{scenes.swapped_captions[number]}")
        lines.append(f"{number}.png,{scenes.tags[number]},")
    (place / "captions.csv").write_text("\n".join(lines) + "\n")
    embed(model, place / "captions.csv", place / "features", progress=False)
    return place


@pytest.fixture
def data(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "data")
    return tmp_path / "data"


def run(model, data, out="features", **options):
    return embed(model, data / "captions.csv", data / out, **({"batch_size": 2, "progress": False} | options))


def contents(place):
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


def flip(path, position=-1):
    """Change one byte."""
    whole = bytearray(path.read_bytes())
    whole[position] ^= 1
    path.write_bytes(whole)


def reverse(path):
    np.save(path, np.load(path)[::-1])


def swap(path):
    other = path.with_name("negative_features.npy")
    one, two = np.load(path), np.load(other)
    np.save(path, two.reshape(one.shape))
    np.save(other, one.reshape(two.shape))


CHANGED = r"was changed after it was written: manifest\.json has another SHA-256"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("image_features.npy", reverse, CHANGED),
        ("text_features.npy", reverse, CHANGED),
        ("negative_features.npy", reverse, CHANGED),
        ("image_index.npy", reverse, CHANGED),
        ("text_features.npy", swap, CHANGED),
        ("text_features.npy", lambda path: path.write_bytes(path.read_bytes()[:-4]), "is missing or cut off"),
        (
            "text_features.npy",
            lambda path: np.save(path, np.zeros((3, 256), "f4")),
            r"float32 \[3, 256\], but .* \[12, 256\]",
        ),
        ("captions.jsonl", lambda path: path.write_text("{}"), r"has 2 bytes, but manifest\.json says [\d,]+ bytes"),
        ("captions.jsonl", Path.unlink, r"is missing, but manifest\.json says"),
    ],
)
def test_changed_files_are_refused_whatever_their_size(data, monkeypatch, name, change, message):
    monkeypatch.setattr(folder, "_SMALL", 0)  # as files above 4 MiB are looked at
    change(data / "features" / name)
    with pytest.raises(ValueError, match=message):
        Features.load(data / "features")


@pytest.mark.parametrize("name", ["image_features.npy", "has_negative.npy", "images.jsonl"])
def test_a_flipped_byte_is_found_in_small_files_and_when_asked(data, monkeypatch, name):
    flip(data / "features" / name)
    with pytest.raises(ValueError, match=CHANGED):
        Features.load(data / "features")
    monkeypatch.setattr(folder, "_SMALL", 0)
    records = json.loads((data / "features" / "manifest.json").read_text())["files"]
    monkeypatch.setattr(folder, "sample_sha256", lambda array: next(
        one["sample_sha256"] for file, one in records.items() if str(array.filename).endswith(file)
    ))  # fmt: skip
    Features.load(data / "features")  # not in the sample
    done = CliRunner().invoke(cli.main, ["embed", "--verify", str(data / "features")])
    assert done.exit_code == 2
    assert f"{name} was changed after it was written" in done.stderr
    flip(data / "features" / name)
    done = CliRunner().invoke(cli.main, ["embed", "--verify", str(data / "features")])
    assert done.stdout == f"{data / 'features'}: every byte is as it was written\n"


def put(**values):
    return lambda manifest: manifest.update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(counts=[1, 2]), r"is not sound \(TypeError"),
        (put(dim="256"), "but manifest.json says"),
        (put(base={"model": "M"}), r"is not sound \(TypeError"),
        (lambda manifest: manifest.pop("fingerprint"), r"is not sound \(KeyError"),
        (put(files={}), "Pass embeddings"),
        (lambda manifest: manifest["files"].update({"image_index.npy": 3}), r"is not sound \(TypeError"),
        (put(format_version=1), "is not the manifest of features in format version 2. Make the folder again"),
        (put(format_version=3), r"has format version 3, and labclip .* reads 2\. Type: pip install --upgrade"),
        (put(precision="float16"), None),
        (lambda manifest: manifest["base"].update(model="ViT-B-16"), None),
        (lambda manifest: manifest.update(files=dict(reversed(manifest["files"].items()))), None),
    ],
)
def test_an_edited_manifest_is_one_clear_error(data, change, message):
    """Also where somebody has made its hash right again; that may then say what it likes of the model."""
    path = data / "features" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"its manifest_sha256 is another|format version"):
        Features.load(data / "features")
    path.write_text(json.dumps(folder.sealed(manifest)))
    if message:
        with pytest.raises(ValueError, match=message):
            Features.load(data / "features")
    else:
        Features.load(data / "features")


# ---- An unfinished run.


def test_a_moved_folder_of_images_goes_on(model, data):
    (data / "4.png").rename(data / "four.png")
    with pytest.raises(ValueError, match=r"4\.png \(captions\.csv \w+ \d+\) can't be read"):
        run(model, data, "some")
    (data / "four.png").rename(data / "4.png")
    run(model, data, "whole")
    moved = data.with_name("moved")
    data.rename(moved)
    run(model, moved, "some")
    assert contents(moved / "some") == contents(moved / "whole")


def test_one_name_in_two_folders_is_two_images(model, data):
    other = data / "other"
    other.mkdir()
    Image.fromarray(labclip.scenes.sample(1, seed=99).images[0]).save(other / "0.png")
    (other / "captions.csv").write_text("image,caption\n0.png,another scene\n")
    features = embed(model, [data / "captions.csv", other / "captions.csv"], data / "both", progress=False)
    assert len(features.images) == N + 1
    assert features.image_index[-1] == N


# ---- Arrays.


def arrays(**changed):
    draw = np.random.default_rng(0)
    images, texts = draw.normal(size=(3, DIM)).astype("f4"), draw.normal(size=(5, DIM)).astype("f4")
    negatives = draw.normal(size=(5, 2, DIM)).astype("f4")
    negatives[1, 1] = 3 * texts[1]
    return {"images": images, "texts": texts, "negatives": negatives, "image_index": [0, 1, 2, 0, 1]} | changed


def test_arrays_are_saved_and_loaded(tmp_path):
    given = arrays(negative_images=np.random.default_rng(1).normal(size=(5, 2, DIM)))
    given["negative_images"][2, 0] = given["images"][2]
    base = Base("ViT-B-32", "openai", quick_gelu=True, embed_dim=DIM)
    features = Features.from_arrays(**given, base=base, fingerprint=torch.eye(DIM)[0])
    saved = features.save(tmp_path / "features")
    loaded = Features.load(tmp_path / "features", base=base, verify=True)
    for name in ("images", "texts", "negative_images"):
        unit = given[name] / np.linalg.norm(given[name], axis=-1, keepdims=True)
        np.testing.assert_allclose(getattr(loaded, name), unit, atol=UNIT)
        assert np.array_equal(getattr(loaded, name), getattr(saved, name))
    assert loaded.image_index.tolist() == given["image_index"]
    assert loaded.has_negative.tolist() == [[True, True], [True, False], *[[True, True]] * 3]
    assert loaded.has_negative_image.tolist() == [[True, True]] * 2 + [[False, True]] + [[True, True]] * 2
    assert np.array_equal(loaded.negatives[1, 1], loaded.texts[1])
    assert loaded.base == base
    assert loaded.fingerprint.tolist() == [1, 0, 0, 0]
    assert repr(loaded) == "Features(3 images, 5 texts, 2 negatives each, dim=4, base='ViT-B-32 (openai)')"
    assert len(loaded) == 5
    with pytest.raises(ValueError, match=r"holds features already, manifest\.json\. Pass another folder"):
        features.save(tmp_path / "features")
    with pytest.raises(ValueError, match=r"but the model is ViT-B-16 .*another base"):
        Features.load(tmp_path / "features", base=Base("ViT-B-16", "openai", quick_gelu=True, embed_dim=DIM))


def test_a_folder_saved_again_is_the_same(finished, tmp_path):
    features = Features.load(finished / "features")
    copied = features.save(tmp_path / "copy")
    one, two = contents(finished / "features"), contents(tmp_path / "copy")
    assert {name for name in one if one[name] != two[name]} == {"manifest.json"}
    facts = ("base", "weights_sha256", "fingerprint", "inputs", "counts", "files", "skipped", "images_sha256")
    assert all(copied.manifest[name] == features.manifest[name] for name in facts)


def test_tensors_of_any_precision_and_memory_maps_are_taken(tmp_path):
    given = {name: torch.tensor(value).bfloat16() if name != "image_index" else torch.tensor(value)
             for name, value in arrays().items()}  # fmt: skip
    given["texts"].requires_grad_()
    loaded = Features.from_arrays(**given).save(tmp_path / "features")
    assert np.abs(np.linalg.norm(loaded.texts, axis=1) - 1).max() < UNIT
    again = Features.from_arrays(
        images=loaded.images, texts=loaded.texts, negatives=loaded.negatives, image_index=loaded.image_index
    )
    assert np.array_equal(again.has_negative, loaded.has_negative)
    assert again.texts is loaded.texts


def test_images_of_negatives_are_compared_a_block_at_a_time(monkeypatch):
    monkeypatch.setattr("labclip.features.features._BLOCK", 2)
    given = arrays()
    given["negative_images"] = given["images"][given["image_index"]][:, None].repeat(2, 1)
    assert not Features.from_arrays(**given).has_negative_image.any()
    assert Features.from_arrays(**given).has_negative.sum() == 9


@pytest.mark.parametrize("name", ["images", "texts", "negatives"])
@pytest.mark.parametrize(("value", "what"), [(np.nan, "not finite"), (-np.inf, "not finite"), (0.0, "all zeros")])
def test_rows_without_a_direction_are_refused(tmp_path, name, value, what):
    """What is not finite at once where it is in memory, all when they are saved."""
    given = arrays()
    given[name][2] = value
    if value != 0.0:
        for kind in (np.asarray, torch.as_tensor):
            with pytest.raises(ValueError, match=f"{name}: row 2 is not finite"):
                Features.from_arrays(**given | {name: kind(given[name])})
    np.save(tmp_path / "rows.npy", given[name])
    features = Features.from_arrays(**given | {name: np.load(tmp_path / "rows.npy", mmap_mode="r")})
    assert features.has_negative[2].all()
    with pytest.raises(ValueError, match=f"{name}: row 2 is {what}"):
        features.save(tmp_path / "features")
    assert not list((tmp_path / "features").iterdir())


def test_absent_negatives_may_be_of_any_kind():
    given = arrays()
    there = np.ones(given["negatives"].shape[:2], dtype=bool)
    there[3, 1], given["negatives"][3, 1] = False, np.nan
    assert len(Features.from_arrays(**given, has_negative=there)) == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu_are_taken(tmp_path):
    given = {name: torch.as_tensor(value).cuda() for name, value in arrays().items()}
    features = Features.from_arrays(**given, negative_images=given["negatives"].clone())
    assert np.array_equal(features.has_negative, Features.from_arrays(**arrays()).has_negative)
    assert len(features.save(tmp_path / "features")) == 5


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_comparing_memory_maps_leaves_none_of_their_pages_in_memory(tmp_path):
    def in_memory():
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
        return int(line.split()[1]) << 10

    paths = [tmp_path / "texts.npy", tmp_path / "negatives.npy"]
    for seed, path in enumerate(paths):
        np.save(path, np.random.default_rng(seed).normal(size=(64 << 10, 128)).astype("f4"))
    texts, negatives = (np.load(path, mmap_mode="r") for path in paths)
    before = in_memory()
    features = Features.from_arrays(images=texts, texts=texts, negatives=negatives)
    assert in_memory() - before < texts.nbytes // 4
    assert features.has_negative.all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": [[1.0]]}, "images is a list of .*Pass embeddings"),
        ({"images": np.ones((3, DIM), dtype=int)}, r"images is a ndarray of int64 \[3, 4\]\. Pass embeddings"),
        ({"texts": np.ones(DIM)}, r"texts has shape \[4\], not \[n, dim\]"),
        ({"texts": np.ones((0, DIM))}, r"texts has shape \[0, 4\]"),
        ({"texts": np.ones((5, 3))}, "images has dim 4 but texts has dim 3"),
        ({"negatives": np.ones((4, DIM))}, "negatives has 4 rows for 5 texts"),
        ({"negatives": np.ones((5, 2, 3))}, "images has dim 4 but negatives has dim 3"),
        ({"negatives": 3}, "negatives is a int"),
        ({"image_index": None}, "There are 3 images and 5 texts. Pass image_index"),
        ({"image_index": [0, 1, 2, 0, 3]}, r"image_index\[4\] is 3, but images has rows 0 to 2"),
        ({"image_index": [0, 1, -1, 0, 0]}, r"image_index\[2\] is -1"),
        ({"image_index": [0.0] * 5}, r"image_index is float64 \[5\]\. Pass 5 whole numbers"),
        ({"image_index": [[0], [1, 2]]}, "image_index is"),
        ({"image_index": [0, 1]}, r"image_index is int64 \[2\]"),
        ({"has_negative": [1] * 5}, r"has_negative is int64 \[5, 1\], not bool \[5, 2\]"),
        ({"negatives": None, "has_negative": [True] * 5}, "has_negative is there, but no negatives"),
        (
            {"negative_images": np.ones((5, 1, DIM))},
            r"negative_images has shape \[5, 1, 4\] for negatives of \[5, 2, 4\]",
        ),
        ({"negatives": None, "negative_images": np.ones((5, DIM))}, "for no negatives"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Features.from_arrays(**arrays(**changed))


def test_features_of_arrays_open_for_any_model_of_their_base(model, tmp_path):
    rows = np.eye(256, dtype="f4")[:2]
    Features.from_arrays(images=rows, texts=rows, base=model.alignment.base).save(tmp_path / "features")
    assert Features.load(tmp_path / "features", base=model).base == model.alignment.base
    other = LABCLIP(models.make("clip"), labclip.Alignment.identity(models.DIM), tokenizer=models.tokenizer())
    with pytest.raises(ValueError, match="The features of"):
        Features.load(tmp_path / "features", base=other)
    with pytest.raises(ValueError, match=r"base is a str\. Pass a model or a Base"):
        Features.load(tmp_path / "features", base="ViT-B-32")
