"""The feature folder: what is in it is what the model says, item by item, whatever happens on the way."""

import json
import os
import re
import shutil
import sys

import commands
import models
import numpy as np
import pytest
import torch
from close import UNIT
from folders import contents, draw, run, tiny, write
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment, Base
from labclip.data import read_items
from labclip.data.images import ImageSource
from labclip.features import Features, embed, embedding, folder
from labclip.features.encoder import Encoder
from labclip.features.folder import Writer

N = 12


@pytest.fixture(scope="module")
def scenes():
    return labclip.scenes.sample(N, seed=3)


@pytest.fixture
def data(tmp_path, scenes):
    """Twelve images, two captions each and not beside each other; the second has no negative."""
    draw(tmp_path, scenes)
    rows = [[f"{number}.png", scenes.captions[number], scenes.swapped_captions[number]] for number in range(N)]
    return write(tmp_path, rows + [[f"{number}.png", scenes.tags[number], ""] for number in range(N)])


@torch.no_grad()
def test_rows_are_the_models_own(model, data, scenes, monkeypatch):
    seen, image, text = [], LABCLIP.encode_image, LABCLIP.encode_text
    with monkeypatch.context() as patch:  # each image and each distinct text is encoded once
        patch.setattr(LABCLIP, "encode_image", lambda *a, **k: seen.append(len(a[1])) or image(*a, **k))
        patch.setattr(LABCLIP, "encode_text", lambda *a, **k: seen.append(len(a[1])) or text(*a, **k))
        features = run(model, data)
    assert seen == [5, 5, 2, len({*scenes.captions, *scenes.tags, *scenes.swapped_captions})]
    images = model.encode_image([Image.fromarray(image) for image in scenes.images], normalize=True)
    texts = model.encode_text([*scenes.captions, *scenes.tags], normalize=True, aligned=False)
    negatives = model.encode_text(scenes.swapped_captions, normalize=True, aligned=False)
    assert np.abs(features.images - images.numpy()).max() < UNIT
    assert np.abs(features.texts - texts.numpy()).max() < UNIT
    assert np.abs(features.negatives[:N, 0] - negatives.numpy()).max() < UNIT
    assert np.array_equal(features.negatives[N:, 0], features.texts[N:])  # none: the caption itself
    assert features.has_negative.ravel().tolist() == [True] * N + [False] * N
    assert features.image_index.tolist() == [*range(N), *range(N)]
    assert features.base == model.alignment.base
    with monkeypatch.context() as patch:
        patch.setattr(LABCLIP, "encode_image", None)  # nothing is encoded again
        assert len(run(model, data)) == 2 * N
    for array in (features.images, features.texts, features.negatives):
        assert isinstance(array, np.memmap)
        assert array.dtype == np.float32
        assert not array.flags.writeable
        assert np.abs(np.linalg.norm(array, axis=-1) - 1).max() < UNIT
    names = [json.loads(line)["image"] for line in (data / "features" / "images.jsonl").read_text().splitlines()]
    assert names == [f"{number}.png" for number in range(N)]


def texts(folder):
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def test_a_negative_that_is_true_of_its_image_counts_as_missing(model, data):
    rows = [
        ["1.png", "A red cube.", "a red cube"],
        ["1.png", "a blue cube", "a red cube ."],
        ["1.png", "a cube", ""],
        ["2.png", "a green cube", "a red cube"],
        ["2.png", "an owl", "A cube"],
        ["2.png", "a cube", ""],
    ]
    features = run(model, write(data, rows))
    assert features.has_negative.ravel().tolist() == [False, False, False, True, False, False]
    missing = ~features.has_negative[:, 0]
    assert np.array_equal(features.negatives[missing, 0], features.texts[missing])
    assert features.manifest["counts"]["true_negatives"] == 3
    assert texts(data / "features")[1] == {"caption": "a blue cube", "negatives": ["a red cube ."]}  # as it was read
    write(data, [["1.png", "a red cube", ""]])
    assert run(model, data, force=True).negatives is None


def test_images_that_negatives_describe(model, data, scenes):
    """From a column of the captions file; those of no caption stand in no gallery."""
    # The negative of the first image is shown by one that comes later, of the third by its own, of the fourth by none.
    shown = ["7.png", "8.png", "2.png", "", "9.png", "9.png", "10.png", "0.png"]
    rows = [[f"{i}.png", scenes.captions[i], scenes.swapped_captions[i], shown[i]] for i in range(8)]
    rows[6][2] = ""  # no negative, so its image is of no use
    true = ["1.png", scenes.tags[1], scenes.captions[1], "9.png"]  # a caption of its image, so no negative
    write(data, [*rows, true], "image,caption,negative,shown")
    features = run(model, data, negative_images="shown")
    with torch.no_grad():
        images = model.encode_image([Image.fromarray(image) for image in scenes.images], normalize=True).numpy()
    assert np.abs(features.images - images[:8]).max() < UNIT
    there = features.has_negative_image[:, 0]
    assert there.tolist() == [True, True, False, False, True, True, False, True, False]
    wanted = images[[7, 8, 2, 3, 9, 9, 6, 0, 1]]  # where there is none, the caption's own
    assert np.abs(features.negative_images[:, 0] - wanted).max() < UNIT
    assert np.array_equal(features.negative_images[~there, 0], features.images[features.image_index][~there])
    assert [line["negative_images"] for line in texts(data / "features")[3:5]] == [[None], ["9.png"]]
    with pytest.raises(ValueError, match="has other features: their"):
        run(model, data)
    write(data, [rows[3]], "image,caption,negative,shown")
    assert run(model, data, "none", negative_images="shown").negative_images is None


RAW, CLEANED = "A red cube on a blue ball.", "a blue cube on a red ball"


def test_raw_captions_beside_cleaned_negatives_are_an_error_unless_one_says_how(model, data):
    write(data, [["1.png", RAW, CLEANED], ["2.png", "A cube.", "a cube"], ["3.png", "x", "..."], ["4.png", "...", ""]])
    with pytest.raises(ValueError, match=r"^captions\.csv line 2: .* is not cleaned.*clean=True .*clean=False "):
        run(model, data, on_error="skip")
    assert not (data / "features").exists()
    run(model, data, "as_is", clean=False)
    assert [line["caption"] for line in texts(data / "as_is")] == [RAW, "A cube.", "x", "..."]
    with pytest.raises(ValueError, match=r"line 5 \(4\.png\) has an empty caption: cleaning leaves nothing of"):
        run(model, data, "cleaned", clean=True)
    run(model, data, "cleaned", clean=True, on_error="skip")
    assert texts(data / "cleaned") == [
        {"caption": "a red cube on a blue ball", "negatives": [CLEANED]},
        {"caption": "a cube", "negatives": ["a cube"]},
        {"caption": "x", "negatives": []},
    ]


# ---- A run that stops, and goes on.

KILLED = """
import os, sys, warnings
warnings.simplefilter("ignore")
import kills, torch
torch.set_num_threads(1)
from labclip import LABCLIP
from labclip.features import embed, embedding, folder
from labclip.features.corpus import Corpus
folder.KEEP_SECONDS = 0.0
embedding.BLOCK = 7
data, model = sys.argv[1], LABCLIP.from_pretrained("scenes")
for owner, names in ((os, ("fsync", "replace")), (Corpus, ("__init__",)),
                     (folder.Writer, ("begin", "append", "note", "_keep", "finish", "__exit__"))):
    kills.fatal(owner, *names)
for step in (1, 6):
    print(*kills.until_done(lambda: embed(
        model, data + "/captions.csv", f"{data}/killed{step}", images=data + "/photos", batch_size=5, progress=False,
        on_error="skip", negative_images="shown",
    ), step, 71))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_again_and_again_it_gives_the_same_bytes(model, data, monkeypatch):
    """With images of negatives: of the first five in files of their own, of the others among those with captions."""
    monkeypatch.setattr(embedding, "BLOCK", 7)
    header, *rows = (data / "captions.csv").read_text().splitlines()
    shown = [f"shown-{number}.png" if number < 5 else f"{number - 5}.png" for number in range(2 * N)]
    for number in range(5):
        shutil.copy(data / "photos" / f"{number + 6}.png", data / "photos" / f"shown-{number}.png")
    write(data, zip(rows, shown, strict=True), header=f"{header},shown")
    (data / "photos" / "4.png").write_bytes(b"no image")
    run(model, data, "unbroken", on_error="skip", negative_images="shown")
    killed = commands.python(KILLED, data).split()
    assert len(killed) >= 20
    writing = {"begin", "append", "note", "_keep", "finish", "__exit__"}
    assert set(killed) == writing | {"__init__", "fsync", "replace"}
    assert contents(data / "killed1") == contents(data / "unbroken")
    assert contents(data / "killed6") == contents(data / "unbroken")
    features = Features.load(data / "killed6")
    assert features.manifest["counts"]["images"] == N - 1
    assert features.has_negative_image.sum() == N - 2  # without the broken image, and the negative that it would show


def test_what_raised_goes_on_when_repaired_and_when_skipped(model, data, monkeypatch):
    repaired = data / "photos" / "7.png"
    whole = repaired.read_bytes()
    run(model, data, "whole")
    repaired.unlink()
    with pytest.raises(ValueError, match=r"7\.png \(captions\.csv line 9\) can't be read \(No such file"):
        run(model, data)
    with pytest.raises(ValueError, match=r"is not finished\. Run the same labclip\.embed again"):
        Features.load(data / "features")
    repaired.write_bytes(whole[: len(whole) // 2])
    encoded, own = [], LABCLIP.encode_image
    with monkeypatch.context() as patch:
        patch.setattr(LABCLIP, "encode_image", lambda *a, **k: encoded.append(len(a[1])) or own(*a, **k))
        with pytest.raises(ValueError, match=r"7\.png \(captions\.csv line 9\) is not a complete image"):
            run(model, data)
    assert sum(encoded) == N - 5 - 1  # the batch of five before it was kept
    skipped = run(model, data, "skipped", on_error="skip")
    (entry,) = skipped.manifest["skipped"]
    assert (entry["where"], entry["image"], entry["captions"]) == ("captions.csv line 9", "7.png", 2)
    with monkeypatch.context() as patch:  # what a batch that was broken off left out is looked at again
        patch.setattr(Writer, "note", lambda state, **values: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(model, data, on_error="skip")
    repaired.write_bytes(whole)
    features = run(model, data)
    assert contents(data / "features") == contents(data / "whole")
    assert np.abs(skipped.images - np.delete(features.images, 7, axis=0)).max() < UNIT
    assert np.abs(skipped.texts - np.delete(features.texts, [7, N + 7], axis=0)).max() < UNIT
    assert skipped.image_index.tolist() == [*range(N - 1), *range(N - 1)]
    with pytest.raises(ValueError, match=r'line 9 is not a complete image.*earlier run with on_error="skip" left'):
        run(model, data, "skipped")


def test_a_machine_in_trouble_is_no_reason_to_leave_images_out(model, data, monkeypatch):
    read = ImageSource.read

    def fails(self):
        if int(self.file.stem) >= 7:
            raise OSError(24, "Too many open files", self.name)
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(ImageSource, "read", fails)
        with pytest.raises(OSError, match=r"Too many open files: '7\.png'"):
            run(model, data, on_error="skip")
    assert len(run(model, data, on_error="skip").images) == N


def stopped(model, data):
    """A run that stops at its eighth image, which is there again."""
    image = data / "photos" / "7.png"
    image.rename(data / "seven.png")
    with pytest.raises(ValueError, match=r"7\.png \(captions\.csv \w+ \d+\) can't be read"):
        run(model, data)
    (data / "seven.png").rename(image)


def test_a_moved_folder_of_images_goes_on_and_a_table_that_reads_differently_does_not(model, data, monkeypatch):
    stopped(model, data)
    run(model, data, "whole")
    moved = data.rename(data.with_name("moved"))
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "read_items", lambda *a, **k: reversed([*read_items(*a, **k)]))
        with pytest.raises(ValueError, match=r"has an unfinished run, but the rows of .* are read differently now"):
            run(model, moved)
    run(model, moved)
    assert contents(moved / "features") == contents(moved / "whole")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("caption", "their caption is None, not 'negative'"),
        ("clean", "their clean is None, not True"),
        ("weights_sha256", "their weights_sha256 is "),
        ("inputs", "has features of other captions: the content of captions.csv differs"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_features_of_something_else_are_never_mixed(model, data, monkeypatch, other, message, finished):
    (run if finished else stopped)(model, data)
    before = contents(data / "features")
    if other == "inputs":
        write(data, [["1.png", "a red cube", ""]])
    options = {"caption": {"column": "negative"}, "clean": {"clean": True}}.get(other, {}) | {"on_error": "skip"}
    if other == "weights_sha256":
        with torch.no_grad():
            model.clip.visual.conv1.weight[0, 0, 0, 0] += 0.5
    with pytest.raises(ValueError, match=f"{message}.* or force=True to start from scratch"):
        run(model, data, **options)
    assert contents(data / "features") == before
    with monkeypatch.context() as patch:  # the earlier run is forgotten before its files are touched
        patch.setattr(Writer, "append", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(model, data, force=True, **options)
    assert contents(run(model, data, **options).folder) == contents(run(model, data, "alone", **options).folder)


@pytest.mark.parametrize("force", [False, True])
def test_two_processes_do_not_write_one_folder(model, data, monkeypatch, force):
    """A second run, of another table or model, is refused before it touches a file, at any moment of the first."""
    run(model, data, "alone")
    (data / "other.csv").write_text("image,caption\n1.png,a red cube\n")
    refused = []

    def beside(function):
        def call(*arguments, **options):
            for table, other in (("other.csv", model), ("captions.csv", tiny())):
                with pytest.raises(ValueError, match="is being written by another process") as caught:
                    embed(other, data / table, data / "features", images=data / "photos", force=force, progress=False)
                refused.append(caught)
            return function(*arguments, **options)

        return call

    for module, stage in ((embedding, "write_images"), (embedding, "write_texts"), (folder, "atomic_file")):
        monkeypatch.setattr(module, stage, beside(getattr(module, stage)))
    run(model, data)
    assert len(refused) == 6
    assert contents(data / "features") == contents(data / "alone")


def test_files_of_somebody_else_are_never_taken_for_those_of_a_run(model, data):
    write(data, [["1.png", "a red cube", ""]])
    run(model, data, "alone")
    for name in ("image_features.npy", "negative_features.npy"):
        (data / "photos" / name).write_bytes(b"of somebody else")
    with pytest.raises(ValueError, match=r"photos is not a feature folder: it holds 0\.png, .* force=True"):
        run(model, data, "photos")
    run(model, data, "photos", force=True)
    assert contents(data / "alone").items() <= contents(data / "photos").items()
    assert not (data / "photos" / "negative_features.npy").exists()
    assert (data / "photos" / "1.png").exists()
    assert len(run(model, data, "photos")) == 1  # features of these captions, whatever lies beside them


def test_bad_rows_are_named(model, data):
    write(data, [["1.png", "a red cube", ""], ["2.png", " ", ""], ["", "a cube", ""]])
    with pytest.raises(ValueError, match=r"captions\.csv line 3 \(2\.png\) has an empty caption\. Repair it"):
        run(model, data)
    assert not (data / "features").exists()
    features = run(model, data, on_error="skip")
    reasons = [(item["where"], item["reason"][:14]) for item in features.manifest["skipped"]]
    assert reasons == [("captions.csv line 3", "has an empty c"), ("captions.csv line 4", "names no image")]
    assert len(features.images) == len(features.texts) == 1
    for name, row in (("nowhere", ["nowhere.png", "a red cube", ""]), ("1", ["1.png", "", ""])):
        none = rf"captions.csv has no caption .* used; captions\.csv line 2: {name}\.png (can't|has an empty)"
        with pytest.raises(ValueError, match=none):
            run(model, write(data, [row]), name, on_error="skip")


@pytest.mark.parametrize(
    ("encode", "value", "item"),
    [("encode_image", float("nan"), r"2\.png \(captions\.csv line 4\)"), ("encode_text", 0.0, ".*")],
)
def test_embeddings_that_are_not_finite_name_their_item(model, data, monkeypatch, encode, value, item):
    own = getattr(LABCLIP, encode)

    def third(*arguments, **options):
        features = own(*arguments, **options)
        features[2] = value
        return features

    monkeypatch.setattr(LABCLIP, encode, third)
    with pytest.raises(ValueError, match=f"The embedding of '{item}' is all zeros or not finite"):
        run(model, data, on_error="skip")


BASE = Base("ViT-B-32", "openai", quick_gelu=False, embed_dim=models.DIM)


def test_features_of_another_base_are_refused(data):
    model, other, half = tiny(base=BASE), tiny(base=BASE), tiny(base=BASE)
    folder = run(model, data).folder
    half.clip.bfloat16()
    for same in (model, half, Base("ViT-B-32", "OpenAI", quick_gelu=False, embed_dim=models.DIM)):
        assert Features.load(folder, base=same).base == BASE
    with torch.no_grad():
        other.clip.visual.proj[0, 0] += 1e-3
        half.clip.text_projection.copy_(torch.randn(half.clip.text_projection.shape))
    for wrong, message in (
        (Base("ViT-B-16", "openai", quick_gelu=False, embed_dim=models.DIM), "is ViT-B-16 .openai.: another base"),
        (other, r"with weights \w{12}\.\.\., but the model is ViT-B-32.*: other weights"),
        (half, "other weights: the fingerprints have cosine"),
        ("ViT-B-32", r"base is a str\. Pass a model, or a Base"),
    ):
        with pytest.raises(ValueError, match=message):
            Features.load(folder, base=wrong)


def test_wrong_arguments_say_what_is_right(model, data):
    bare = LABCLIP(models.make("clip"), Alignment.identity(models.DIM), tokenizer=models.tokenizer())
    for options, message in (
        ({"on_error": "ignore"}, "on_error is 'ignore'. Pass one of raise, skip"),
        ({"engine": "dask"}, "engine is 'dask'. Pass one of local, ray"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"model": models.make("clip")}, "model is a CLIP"),
        ({"model": bare}, "The model has no preprocess"),
        ({"images": data / "nowhere"}, "no folder of images"),
        ({"out": "captions.csv"}, r"captions\.csv is a file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(**{"model": model, "data": data} | options)
    assert not (data / "features").exists()


@pytest.mark.parametrize("kind", ["siglip", "coca", "main", "hf"])
def test_every_class_of_base_is_embedded(kind, data):
    model = tiny(kind)
    model.train()
    write(data, [["1.png", models.CAPTIONS[0], models.CAPTIONS[3]], ["2.png", models.CAPTIONS[1], ""]])
    features = run(model, data)
    assert model.training
    model.eval()
    with torch.no_grad():
        wanted = model.clip.encode_text(models.tokens()[:2], normalize=True)
    assert np.abs(features.texts - wanted.numpy()).max() < UNIT
    assert features.base is None


def test_cut_captions_and_too_few_of_them_warn_once(data, monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 1)
    long = "a very long caption of a red cube that goes on and on and on and on and on"
    write(data, [["1.png", long + " one", ""], ["2.png", "a red cube", ""], ["3.png", long + " two", ""]])
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        features = run(tiny(), data)
    cut, few = (str(warning.message) for warning in caught)
    assert cut.startswith("2 of 3 captions and negatives are longer than the 16 tokens of the context")
    assert re.search(r"has 0 captions with a negative and 3 images: with fewer than 1,000 and 500, .* Embed more", few)
    assert features.manifest["counts"]["texts_cut"] == 2


def test_the_manifest_says_what_went_in_and_not_where_it_lay(model, data, monkeypatch):
    run(model, data, "one")
    monkeypatch.chdir(data)
    embed(model, captions="captions.csv", images="photos", out="two", batch_size=5, progress=False)
    assert contents(data / "one") == contents(data / "two")
    text = (data / "one" / "manifest.json").read_text()
    assert str(data) not in text
    assert json.loads(text)["inputs"][0]["bytes"] == (data / "captions.csv").stat().st_size


def test_memory_is_bounded_by_batches(model, data, monkeypatch):
    """However many images there are, no more than three batches are decoded and not yet encoded."""
    write(data, [[f"{'../photos/' * (row // N)}{row % N}.png", "a red cube", ""] for row in range(20 * N)])
    decoded, encoded, most = [0], [0], [0]
    decode, encode_image = Encoder._decode, LABCLIP.encode_image

    def counted(self, *args):
        decoded[0] += 1
        most[0] = max(most[0], decoded[0] - encoded[0])
        return decode(self, *args)

    def counted_images(self, image, **kwargs):
        encoded[0] += len(image)
        return encode_image(self, image, **kwargs)

    monkeypatch.setattr(Encoder, "_decode", counted)
    monkeypatch.setattr(LABCLIP, "encode_image", counted_images)
    assert len(run(model, data, workers=2, batch_size=8).images) == 20 * N
    assert 8 <= most[0] <= 3 * 8 + 2


@pytest.mark.filterwarnings("default")  # as people see them
def test_the_command_makes_what_the_function_makes(model, data, monkeypatch):
    (data / "photos" / "4.png").unlink()
    arguments = ["embed", "--model", "scenes", "--captions", data / "captions.csv", "--images", data / "photos"]
    done = commands.run(*arguments, "--on-error", "skip", "--batch-size", 5, "--device", "cpu", data / "out")
    assert "Left out: captions.csv line 6 (4.png) can't be read" in done.stderr
    assert "11 captions with a negative and 11 images" in done.stderr
    assert (
        "11 images, 22 captions, 11 of them with negatives, 1 items left out; embedded by scenes (embedded)"
        in done.stdout
    )
    run(model, data, on_error="skip")
    assert contents(data / "out") == contents(data / "features")
    printed = json.loads(commands.run(*arguments, "--on-error", "skip", "--json", data / "out").stdout)
    assert (printed["images"], printed["skipped"][0]["image"]) == (N - 1, "4.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    missing = commands.run(*arguments, "--engine", "ray", data / "o", code=2)
    assert "Engine 'ray' needs Ray. Type: pip install \"labclip[ray]\"" in missing.stderr
    write(data, [["1.png", "a red cube", "a red cube"]])
    assert "Not counted: 1 negatives that equal a caption of their" in commands.run(*arguments, data / "true").stderr
