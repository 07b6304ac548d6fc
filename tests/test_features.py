"""The feature folder: what is in it is what the model says, item by item, whatever happens on the way."""

import copy
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from close import UNIT
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment, Base, cli
from labclip.data.images import ImageSource
from labclip.encode.encoder import Encoder
from labclip.features import Features, embed, embedding
from labclip.features.plan import Plan

N = 12


@pytest.fixture(scope="module")
def model():
    return LABCLIP.from_pretrained("scenes")


@pytest.fixture(scope="module")
def scenes():
    return labclip.scenes.sample(N, seed=3)


@pytest.fixture
def data(tmp_path, scenes):
    """Twelve images, two captions each and not beside each other; the second has no negative."""
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(scenes.images):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    rows = [[f"{number}.png", scenes.captions[number], scenes.swapped_captions[number]] for number in range(N)]
    write(tmp_path, rows + [[f"{number}.png", scenes.tags[number], ""] for number in range(N)])
    return tmp_path


def write(folder, rows):
    lines = ["image,caption,negative", *(",".join(row) for row in rows)]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")


def run(model, data, out="features", **options):
    options = {"batch_size": 5, "progress": False, "images": data / "photos"} | options
    return embed(model, data / "captions.csv", data / out, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@torch.no_grad()
def expected(model, scenes):
    images = model.encode_image([Image.fromarray(image) for image in scenes.images], normalize=True)
    texts = model.encode_text([*scenes.captions, *scenes.tags], normalize=True, aligned=False)
    negatives = model.encode_text(scenes.swapped_captions, normalize=True, aligned=False)
    return images.numpy(), texts.numpy(), negatives.numpy()


def test_rows_are_the_models_own(model, data, scenes):
    features = run(model, data)
    images, texts, negatives = expected(model, scenes)
    assert np.abs(features.images - images).max() < UNIT
    assert np.abs(features.texts - texts).max() < UNIT
    assert np.abs(features.negatives[:N, 0] - negatives).max() < UNIT
    assert np.array_equal(features.negatives[N:, 0], features.texts[N:])  # none: the caption itself
    assert features.has_negative.ravel().tolist() == [True] * N + [False] * N
    assert features.image_index.tolist() == [*range(N), *range(N)]
    assert features.base == model.alignment.base
    for array in (features.images, features.texts, features.negatives):
        assert isinstance(array, np.memmap)
        assert array.dtype == np.float32
        assert not array.flags.writeable
        assert np.abs(np.linalg.norm(array, axis=-1) - 1).max() < UNIT
    names = [json.loads(line)["image"] for line in (data / "features" / "images.jsonl").read_text().splitlines()]
    assert names == [f"{number}.png" for number in range(N)]


def test_each_image_and_each_distinct_text_is_encoded_once(model, data, monkeypatch):
    seen = {"images": 0, "texts": 0}
    encode_image, encode_text = LABCLIP.encode_image, LABCLIP.encode_text

    def counted_images(self, image, *args, **kwargs):
        seen["images"] += len(image)
        return encode_image(self, image, *args, **kwargs)

    def counted_texts(self, text, *args, **kwargs):
        seen["texts"] += len(text)
        return encode_text(self, text, *args, **kwargs)

    monkeypatch.setattr(LABCLIP, "encode_image", counted_images)
    monkeypatch.setattr(LABCLIP, "encode_text", counted_texts)
    write(data, [["1.png", "a red cube", "a blue cube"], ["1.png", "a blue cube", "a red cube"]] * 4)
    features = run(model, data)
    assert seen == {"images": 1, "texts": 2}
    assert features.image_index.tolist() == [0] * 8


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
    write(data, rows)
    features = run(model, data)
    assert features.has_negative.ravel().tolist() == [False, False, False, True, False, False]
    missing = ~features.has_negative[:, 0]
    assert np.array_equal(features.negatives[missing, 0], features.texts[missing])
    assert features.manifest["counts"]["true_negatives"] == 3
    assert texts(data / "features")[1] == {"caption": "a blue cube", "negatives": ["a red cube ."]}  # as it was read
    done = command("--model", "scenes", "--captions", data / "captions.csv", "--images", data / "photos", data / "out")
    assert "Not counted: 3 negatives that say what a caption of the same image says" in done.stderr
    write(data, [["1.png", "a red cube", ""]])
    assert run(model, data, force=True).negatives is None


def shuffled(words):
    return ["NN" if word in ("cube", "ball", "table") else "JJ" if word in ("red", "blue") else "X" for word in words]


def test_raw_captions_beside_cleaned_negatives_are_an_error(model, data):
    raw = "A red cube and a blue ball on a table."
    (negative,) = labclip.negatives.shuffle([raw], tagger=shuffled)
    write(data, [["0.png", "a cube", ""], ["1.png", raw, negative]])
    said = rf"^captions\.csv line 3: the caption {raw!r} is not cleaned, but its negative {negative!r} is"
    with pytest.raises(ValueError, match=f"{said}.*clean=True .*clean=False .*labclip negatives --clean"):
        run(model, data, on_error="skip")
    assert not (data / "features").exists()


@pytest.mark.filterwarnings("ignore:.* were cut")
def test_clean_and_as_is(model, data):
    raw, negative = "A red cube on a blue ball.", "a blue cube on a red ball"
    long = " ".join(["cube"] * 45)
    write(
        data, [["1.png", raw, negative], ["2.png", "A cube.", "a cube"], ["3.png", long, "..."], ["4.png", "...", ""]]
    )
    as_is = run(model, data, "as_is", clean=False)
    assert [one["caption"] for one in texts(data / "as_is")] == [raw, "A cube.", long, "..."]
    assert as_is.has_negative.ravel().tolist() == [True, False, True, False]
    with pytest.raises(
        ValueError, match=r"line 5 \(4\.png\) has an empty caption: cleaning leaves nothing of '\.\.\.'"
    ):
        run(model, data, "cleaned", clean=True)
    cleaned = run(model, data, "cleaned", clean=True, on_error="skip")
    assert texts(data / "cleaned") == [
        {"caption": "a red cube on a blue ball", "negatives": [negative]},
        {"caption": "a cube", "negatives": ["a cube"]},
        {"caption": " ".join(["cube"] * 40), "negatives": []},  # cleaning leaves nothing of "..."
    ]
    assert cleaned.has_negative.ravel().tolist() == [True, False, False]
    wanted = model.encode_text(["a red cube on a blue ball", negative], normalize=True, aligned=False).detach().numpy()
    assert np.abs(cleaned.texts[0] - wanted[0]).max() < UNIT
    assert np.abs(cleaned.negatives[0, 0] - wanted[1]).max() < UNIT
    for option, folder in (("--clean", "cleaned"), ("--as-is", "as_is")):
        arguments = ["--captions", data / "captions.csv", "--images", data / "photos", "--on-error", "skip"]
        assert command("--model", "scenes", option, *arguments, data / option).exit_code == 0
        assert contents(data / option) == contents(data / folder)


KILLED = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from labclip import LABCLIP
from labclip.features import embed, embedding, plan
from labclip.features.folder import Files
from labclip.features.plan import Plan
plan.COMMIT_SECONDS = 0.0
embedding.BLOCK = 7
folder = sys.argv[1]
model = LABCLIP.from_pretrained("scenes")

def fatal(function):
    # Counts the moments at which the state on disk changes, and dies before the one that is due.
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == due or (function.__name__ == "remove" and "remove" not in open(folder + "/report").read()):
            os.write(report, function.__name__.encode() + b" ")
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

os.fsync, os.replace = fatal(os.fsync), fatal(os.replace)
for kind, names in ((Files, ("append", "finish")), (Plan, ("skip", "read", "commit", "remove"))):
    for name in names:
        setattr(kind, name, fatal(getattr(kind, name)))
report = os.open(folder + "/report", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for step in (1, 6):
    due = 1
    while True:
        calls = 0
        child = os.fork()
        if child == 0:
            embed(model, captions=folder + "/captions.csv", images=folder + "/photos", out=f"{folder}/killed{step}",
                  batch_size=5, progress=False, on_error="skip", negative_images="shown")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        due = 1 + (due + step) % 61
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
    table = [f"{header},shown", *(f"{row},{name}" for row, name in zip(rows, shown, strict=True))]
    (data / "captions.csv").write_text("\n".join(table) + "\n")
    (data / "photos" / "4.png").write_bytes(b"no image")
    run(model, data, "unbroken", on_error="skip", negative_images="shown")
    command = [sys.executable, "-c", KILLED, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    kills = (data / "report").read_text().split()
    assert len(kills) >= 20
    assert set(kills) >= {"append", "skip", "read", "commit", "fsync", "replace", "remove"}
    assert contents(data / "killed1") == contents(data / "unbroken")
    assert contents(data / "killed6") == contents(data / "unbroken")
    features = Features.load(data / "killed6")
    assert features.manifest["counts"]["images"] == N - 1
    assert features.has_negative_image.sum() == N - 2  # without the broken image, and the negative that it would show
    assert not (data / "killed6" / "shown.npy.part").exists()


def test_an_unfinished_folder_is_not_read(model, data):
    (data / "photos" / "7.png").unlink()
    with pytest.raises(ValueError, match=r"7\.png \(captions\.csv line 9\) can't be read \(No such file"):
        run(model, data)
    with pytest.raises(ValueError, match=r"is not finished\. Run the same labclip\.embed again"):
        Features.load(data / "features")
    part = data / "features" / "image_features.npy.part"
    assert part.stat().st_size == 128 + 5 * 256 * 4  # the batch before is kept
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ValueError, match="shorter than it was"):
        run(model, data, on_error="skip")


def test_what_raised_goes_on_when_repaired_and_when_skipped(model, data, scenes):
    repaired = data / "photos" / "7.png"
    whole = repaired.read_bytes()
    for broken in (b"", whole[: len(whole) // 2]):
        repaired.write_bytes(broken)
        with pytest.raises(ValueError, match=r"7\.png \(captions\.csv line 9\) is not a whole image"):
            run(model, data)
    skipped = run(model, data, "skipped", on_error="skip")
    repaired.write_bytes(whole)
    features = run(model, data)
    assert np.abs(features.images - expected(model, scenes)[0]).max() < UNIT
    entry = skipped.manifest["skipped"]
    assert [(one["where"], one["image"], one["captions"]) for one in entry] == [("captions.csv line 9", "7.png", 2)]
    assert np.abs(skipped.images - np.delete(features.images, 7, axis=0)).max() < UNIT
    assert np.abs(skipped.texts - np.delete(features.texts, [7, N + 7], axis=0)).max() < UNIT
    assert skipped.image_index.tolist() == [*range(N - 1), *range(N - 1)]
    with pytest.raises(ValueError, match=r'line 9 is not a whole image.*earlier run with on_error="skip" left it out'):
        run(model, data, "skipped")


def test_an_image_left_out_in_a_batch_that_was_broken_off_is_looked_at_again(model, data, monkeypatch):
    path = data / "photos" / "1.png"
    whole = path.read_bytes()
    run(model, data, "whole")
    path.write_bytes(b"no image")
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "note", lambda *arguments, **progress: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(model, data, on_error="skip")
    path.write_bytes(whole)
    run(model, data, on_error="skip")
    assert contents(data / "features") == contents(data / "whole")


def test_a_machine_in_trouble_is_no_reason_to_leave_images_out(model, data, monkeypatch):
    read = ImageSource.read

    def fails(self):
        if int(self.file.stem) >= 7:
            raise OSError(24, "Too many open files", self.name)
        return read(self)

    monkeypatch.setattr(ImageSource, "read", fails)
    with pytest.raises(OSError, match=r"Too many open files: '7\.png'"):
        run(model, data, on_error="skip")
    monkeypatch.undo()
    assert len(run(model, data, on_error="skip").images) == N


def test_bad_rows_are_named(model, data):
    write(data, [["1.png", "a red cube", ""], ["2.png", " ", ""], ["", "a cube", ""]])
    with pytest.raises(ValueError, match=r"captions\.csv line 3 \(2\.png\) has an empty caption\. Repair it"):
        run(model, data)
    assert not (data / "features").exists()
    features = run(model, data, on_error="skip")
    reasons = [(one["where"], one["reason"][:14]) for one in features.manifest["skipped"]]
    assert reasons == [
        ("captions.csv line 3", "has an empty c"),
        ("captions.csv line 4", "names no image"),
    ]
    assert len(features.images) == len(features.texts) == 1
    write(data, [["nowhere.png", "a red cube", ""]])
    with pytest.raises(ValueError, match=r"None of the 1 images can be used; captions\.csv line 2: nowhere\.png can't"):
        run(model, data, "other", on_error="skip")
    write(data, [["1.png", "", ""]])
    with pytest.raises(ValueError, match=r"captions\.csv has no caption that could be embedded"):
        run(model, data, "none", on_error="skip")


def test_embeddings_that_are_not_finite_name_their_item(model, data, monkeypatch):
    encode_image, encode_text = LABCLIP.encode_image, LABCLIP.encode_text

    def third(features, value):
        features[2] = value
        return features

    monkeypatch.setattr(LABCLIP, "encode_image", lambda *a, **k: third(encode_image(*a, **k), float("nan")))
    with pytest.raises(ValueError, match=r"The embedding of 2\.png \(captions\.csv line 4\) is not finite"):
        run(model, data, on_error="skip")
    monkeypatch.setattr(LABCLIP, "encode_image", encode_image)
    monkeypatch.setattr(LABCLIP, "encode_text", lambda *a, **k: third(encode_text(*a, **k), 0.0))
    with pytest.raises(ValueError, match=r"The embedding of '.*' \(captions\.csv line 3\) is all zeros"):
        run(model, data, on_error="skip")


def test_a_finished_folder_is_opened_again_and_never_mixed(model, data, monkeypatch):
    run(model, data)
    before = contents(data / "features")
    with monkeypatch.context() as patch:
        patch.setattr(LABCLIP, "encode_image", None)  # nothing is encoded again
        assert len(run(model, data).images) == N
    with pytest.raises(ValueError, match="has features already, but its clean is None, not True"):
        run(model, data, clean=True)
    write(data, [["1.png", "a red cube", "a blue cube"]])
    with pytest.raises(ValueError, match="has features already, but the captions file has changed since"):
        run(model, data)
    assert contents(data / "features") == before
    assert len(run(model, data, force=True).texts) == 1
    (data / "features" / "manifest.json").unlink()
    with pytest.raises(
        ValueError, match=r"no feature folder: it holds captions\.jsonl and 6 more, and no manifest\.json"
    ):
        run(model, data)


@pytest.mark.parametrize("other", ["columns", "clean", "weights_sha256", "captions file"])
def test_an_unfinished_run_of_something_else_is_not_continued(model, data, other):
    (data / "photos" / "7.png").unlink()
    with pytest.raises(ValueError, match=r"7\.png"):
        run(model, data)
    if other == "captions file":
        write(data, [["1.png", "a red cube", ""]])
    options = {"columns": {"column": "negative"}, "clean": {"clean": True}}.get(other, {}) | {"on_error": "skip"}
    with pytest.raises(ValueError, match=f"has an unfinished run, but (its|the) {other}"):
        run(changed(model) if other == "weights_sha256" else model, data, **options)
    assert len(run(model, data, force=True, **options))


def changed(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.clip.visual.conv1.weight[0, 0, 0, 0] += 0.5
    return other


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("stage", ["write_images", "write_texts", "publish"])
def test_two_processes_do_not_write_one_folder(model, data, monkeypatch, stage, force):
    """A second run, of another table or model, is refused before it touches a file, at any moment of the first."""
    run(model, data, "alone")
    refused, function = [], getattr(embedding, stage)

    def beside(*arguments, **options):
        (data / "other.csv").write_text("image,caption\n1.png,a red cube\n")
        for table, other in (("other.csv", model), ("captions.csv", tiny())):
            with pytest.raises(ValueError, match="is being written by another process") as caught:
                embed(other, data / table, data / "features", images=data / "photos", force=force, progress=False)
            refused.append(caught)
        return function(*arguments, **options)

    monkeypatch.setattr(embedding, stage, beside)
    run(model, data)
    assert len(refused) == 2
    assert contents(data / "features") == contents(data / "alone")


def test_files_of_somebody_else_are_never_taken_for_those_of_a_run(model, data, monkeypatch):
    """What lies under a final name when a run ends is replaced, and what the run has not written is removed."""
    write(data, [["1.png", "a red cube", ""]])
    run(model, data, "alone")
    for forced in (False, True):
        place = data / f"features{forced}"
        place.mkdir()
        if not forced:
            (place / "unfinished.sqlite").touch()  # a run that was killed before it read its table
        for name in ("image_features.npy", "negative_features.npy", "text_features.npy.part"):
            (place / name).write_bytes(b"of somebody else")
        run(model, data, place.name, force=forced)
        assert contents(place) == contents(data / "alone")


def test_a_run_that_waits_for_the_lock_takes_no_file_that_is_gone(tmp_path, monkeypatch):
    """The run before removes the file when it ends: a lock on what is gone keeps nobody out."""
    ended, connect = [], sqlite3.connect

    def opened(path, **options):
        file = connect(path, **options)
        if not ended:
            file.execute("BEGIN EXCLUSIVE")
            file.execute("COMMIT")
            path.unlink()
            ended.append(path)
        return file

    monkeypatch.setattr(sqlite3, "connect", opened)
    (tmp_path / "features").mkdir()
    with Plan(tmp_path / "features") as plan:
        assert plan.path.exists()
        with pytest.raises(ValueError, match="another process"):
            Plan(tmp_path / "features")
    assert ended
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("content", [b"no database, but long enough to look like one" * 99, "user_version = 9", None])
def test_an_unfinished_run_of_another_version_is_one_clear_error(model, data, content):
    (data / "features").mkdir()
    path = data / "features" / "unfinished.sqlite"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        file = sqlite3.connect(path)
        file.execute("CREATE TABLE state (name TEXT)")
        file.execute(f"PRAGMA {content or 'user_version = 3'}")
        file.commit()
        file.close()
    with pytest.raises(ValueError, match=r"unfinished\.sqlite is damaged .*Pass force=True to start from scratch"):
        run(model, data)
    assert len(run(model, data, force=True)) == 2 * N


def tiny(kind="clip", base=None):
    alignment = Alignment(torch.eye(models.DIM), base=base)
    return LABCLIP(models.make(kind), alignment, tokenizer=models.tokenizer(), preprocess=_preprocess)


def _preprocess(image):
    return torch.from_numpy(np.array(image.convert("RGB").resize((32, 32)))).permute(2, 0, 1) / 255


BASE = Base("ViT-B-32", "openai", quick_gelu=False, embed_dim=models.DIM)


def test_features_of_another_base_are_refused(data):
    model = tiny(base=BASE)
    run(model, data)
    folder = data / "features"
    assert Features.load(folder, base=model).base == BASE
    assert Features.load(folder, base=Base("ViT-B-32", "OpenAI", quick_gelu=False, embed_dim=models.DIM)).base == BASE
    with pytest.raises(ValueError, match=r"by ViT-B-32 \(openai\) .* is ViT-B-16 \(openai\): another base"):
        Features.load(folder, base=Base("ViT-B-16", "openai", quick_gelu=False, embed_dim=models.DIM))
    other = tiny(base=BASE)
    with torch.no_grad():
        other.clip.visual.proj[0, 0] += 1e-3
    with pytest.raises(
        ValueError,
        match=r"by ViT-B-32 \(openai\) with weights \w{12}\.\.\., but the model is ViT-B-32.*: other weights",
    ):
        Features.load(folder, base=other)
    with pytest.raises(ValueError, match="has features already, but its weights_sha256 is"):
        run(other, data)
    half = tiny(base=BASE)
    half.clip.bfloat16()
    assert Features.load(folder, base=half).base == BASE
    with torch.no_grad():
        half.clip.text_projection.copy_(torch.randn(half.clip.text_projection.shape))
    with pytest.raises(ValueError, match="other weights: the fingerprints have cosine"):
        Features.load(folder, base=half)


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


def test_half_precision_is_stored_as_unit_length_float32(data):
    model = tiny()
    exact = run(model, data)
    model.clip.bfloat16()
    model.to(torch.bfloat16)
    features = run(model, data, "half")
    assert features.manifest["precision"] == "bfloat16"
    assert np.abs(np.linalg.norm(features.images, axis=1) - 1).max() < UNIT
    assert (features.images * exact.images).sum(axis=1).min() > 0.99


def test_cut_captions_warn_once_for_all(data, monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 1)
    long = "a very long caption of a red cube that goes on and on and on and on and on"
    write(data, [["1.png", long + " one", ""], ["2.png", "a red cube", ""], ["3.png", long + " two", ""]])
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        features = run(tiny(), data)
    assert [str(one.message)[:64] for one in caught] == [
        "2 of 3 captions and negatives are longer than the 16 tokens of t"
    ]
    assert features.manifest["counts"]["texts_cut"] == 2


def test_the_manifest_says_what_went_in_and_not_where_it_lay(model, data, monkeypatch):
    run(model, data, "one")
    monkeypatch.chdir(data)
    embed(model, captions="captions.csv", images="photos", out="two", batch_size=5, progress=False)
    text = (data / "one" / "manifest.json").read_text()
    assert str(data) not in text
    assert contents(data / "one") == contents(data / "two")
    manifest = json.loads(text)
    assert manifest["inputs"][0]["name"] == "captions.csv"
    assert manifest["inputs"][0]["bytes"] == (data / "captions.csv").stat().st_size
    assert manifest["preprocess"]["config"]["size"] == 64


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


def test_workers_do_not_slow_the_model_down(model, data, two_threads):
    run(model, data, workers=2)
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


def test_wrong_arguments_say_what_is_right(model, data):
    for options, message in (
        ({"on_error": "ignore"}, 'on_error is \'ignore\'. Pass "raise" or "skip"'),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": 0}, "workers 0"),
        ({"clean": "yes"}, "clean is 'yes'. Pass True, False or None"),
        ({"column": "text"}, "has no column 'text'; it has 'image', 'caption', 'negative'. Pass column=NAME"),
        ({"split": "val"}, "has no column 'split'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(model, data, **options)
    with pytest.raises(ValueError, match="model is a CLIP"):
        run(models.make("clip"), data)
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        run(model, data, images=data / "nowhere")
    with pytest.raises(ValueError, match="The model has no preprocess"):
        run(LABCLIP(models.make("clip"), Alignment.identity(models.DIM), tokenizer=models.tokenizer()), data)
    assert not (data / "features").exists()
    with pytest.raises(ValueError, match=r"captions\.csv is a file"):
        run(model, data, out="captions.csv")


def command(*arguments):
    with warnings.catch_warnings():
        return CliRunner().invoke(cli.main, ["embed", *map(str, arguments)])


def test_the_command_makes_what_the_function_makes(model, data):
    (data / "photos" / "4.png").unlink()
    arguments = ["--model", "scenes", "--captions", data / "captions.csv", "--images", data / "photos"]
    failed = command(*arguments, data / "out")
    assert failed.exit_code == 2
    assert failed.stderr.splitlines()[-1].startswith("Error: 4.png (captions.csv line 6) can't be read")
    done = command(*arguments, "--on-error", "skip", "--batch-size", 5, "--device", "cpu", data / "out")
    assert done.exit_code == 0, done.stderr
    assert "Left out: captions.csv line 6 (4.png) can't be read" in done.stderr
    assert "11 images, 22 captions, 11 of them with negatives, 1 items left out; of scenes (embedded)" in done.stdout
    run(model, data, on_error="skip")
    assert contents(data / "out") == contents(data / "features")
    printed = json.loads(command(*arguments, "--on-error", "skip", "--json", data / "out").stdout)
    assert printed["images"] == N - 1
    assert printed["skipped"][0]["image"] == "4.png"


def test_the_command_takes_a_base_without_a_matrix(data, tmp_path):
    wrong = command("--model", "ViT-B-33:openai", "--captions", data / "captions.csv", tmp_path / "out")
    assert wrong.exit_code == 2
    assert wrong.stderr == "Error: OpenCLIP knows no model 'ViT-B-33:openai'.\n" or "Did you mean" in wrong.stderr
    model = LABCLIP(models.make("clip"), Alignment.identity(models.DIM), tokenizer=models.tokenizer())
    model.save_pretrained(tmp_path / "plain", config=models.CONFIGS["clip"])
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "plain" / name).unlink()
    (data / "captions.csv").rename(data / "photos" / "captions.csv")
    done = command("--model", tmp_path / "plain", "--captions", data / "photos" / "captions.csv", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert Features.load(tmp_path / "out", base=model).texts.shape == (2 * N, models.DIM)
    assert command("--model", "scenes", "--device", "cuda:99", "--captions", "x", tmp_path / "o").exit_code == 2


def test_docstring_examples_run(tmp_path, monkeypatch):
    import doctest

    monkeypatch.chdir(tmp_path)
    for module in ("embedding", "features"):
        names = {"Path": Path}
        failed, tried = doctest.testmod(sys.modules[f"labclip.features.{module}"], extraglobs=names)
        assert tried > 0
        assert failed == 0
        shutil.rmtree("features")


def test_a_folder_of_other_files_is_refused_unless_forced(model, data):
    before = contents(data / "photos")
    with pytest.raises(ValueError, match=r"photos is no feature folder: it holds 0\.png and 11 more, .* force=True"):
        run(model, data, "photos")
    assert contents(data / "photos") == before
    assert len(run(model, data, "photos", force=True)) == 2 * N
    assert len(run(model, data, "photos")) == 2 * N  # features of these captions, whatever lies beside them
    assert before.items() <= contents(data / "photos").items()
