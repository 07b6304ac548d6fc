"""What the page of `labclip app` computes, without the page; the page itself is in test_app_browser."""

import io
import json
import math
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from close import UNIT
from PIL import Image

from labclip import LABCLIP, Alignment, scenes
from labclip.app import answers as answers_module
from labclip.app import jobs, markup, search, uploads
from labclip.app.answers import Answers
from labclip.app.compare import ModelPair, Scores, captions_in, swapped, with_swapped
from labclip.app.jobs import Workplace
from labclip.app.uploads import Upload
from labclip.cli import main
from labclip.data.images import ImageSource

RIGHT, WRONG = "a red heart with a white ring", "a white heart with a red ring"


@pytest.fixture(scope="module")
def pair():
    return ModelPair(LABCLIP.from_pretrained("scenes"))


@pytest.fixture
def answers(pair, tmp_path):
    there = tmp_path / "sessions"
    there.mkdir()
    yield (made := Answers(pair, there, ["--model", "scenes"]))
    made.close()
    assert not list(there.iterdir())


def uploaded(folder, name, data):
    path = folder / f"upload-{len(list(folder.iterdir()))}" / Path(name).name
    path.parent.mkdir()
    path.write_bytes(data)
    return Upload(name, path)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_png", ".png"), data)
    return buffer.getvalue()


# Compare


def test_scores_are_the_models_own(pair):
    model, scene = pair.encoder.model, scenes.sample(1, seed=8)
    image, (texts, cut) = pair.image(ImageSource("scene", data=scene.images[0])), pair.texts([RIGHT, WRONG])
    base, ours = pair.scores(image, texts, model.alignment.strength)
    shown = model.encode_image(Image.fromarray(scene.images[0]))
    expected = model.similarity(shown, model.encode_text([RIGHT, WRONG]))[0]
    assert ours.cosines == pytest.approx(expected.tolist(), abs=UNIT)
    assert ours.shares == pytest.approx(torch.softmax(expected * model.logit_scale.exp(), 0).tolist(), abs=UNIT * 100)
    expected = model.similarity(shown, model.encode_text([RIGHT, WRONG], aligned=False))[0]
    assert base.cosines == pytest.approx(expected.tolist(), abs=UNIT)
    assert cut == ""


def test_strength_0_is_the_base(pair):
    image, (texts, _) = torch.nn.functional.normalize(torch.ones(256), dim=0), pair.texts([RIGHT, WRONG])
    base, ours = pair.scores(image, texts, 0.0)
    assert ours.cosines == pytest.approx(base.cosines, abs=UNIT)
    assert ours.shares == pytest.approx(base.shares, abs=UNIT * 100)


def test_a_tie_is_a_tie():
    scores = Scores.of(torch.tensor([0.5, 0.1, 0.5 + 1e-7]), math.log(100))
    assert scores.best == [0, 2]
    assert Scores.of(torch.tensor([0.5, 0.1]), 0.0).best == [0]
    assert "Both choose none: 2 captions tie." in markup.bars(["a", "b", "a"], scores, scores)


def test_a_caption_that_is_cut_is_told(pair):
    assert "1 caption is longer than the 16 tokens" in pair.texts(["a red cube " * 20])[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n\n", "There is no caption"),
        ("a cat\n" * 500, "There are 500 captions, and 32 are compared"),
        ("a" * 1001, "more than 1,000 characters"),
    ],
)
def test_captions_are_bounded(text, message):
    with pytest.raises(ValueError, match=message):
        captions_in(text)


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        (RIGHT, WRONG),
        ("A big dog and a small cat.", "A small dog and a big cat."),
        ("a cup left of a plate", "a cup right of a plate"),
        ("an open door and a closed window", "a closed door and an open window"),
        ("a dog on a sofa", None),
    ],
)
def test_swapped(caption, other):
    assert swapped(caption) == other


def test_swapped_captions_are_added_once():
    assert with_swapped(RIGHT) == f"{RIGHT}\n{WRONG}"
    assert with_swapped(f"{RIGHT}\n{WRONG}") == f"{RIGHT}\n{WRONG}"
    with pytest.raises(ValueError, match="Type the other caption yourself"):
        with_swapped("a dog on a sofa")


def test_what_people_write_is_plain_text():
    shown = markup.text("<script>${alert(1)}</script>{{value}}\x1b[31m")
    assert "<" not in shown
    assert "{" not in shown
    assert "$" not in shown
    assert "\x1b" not in shown


# Search


def test_the_scenes_are_pairs_with_their_colours_swapped(pair):
    gallery = search.scene_gallery(pair, 6)
    assert len(gallery.names) == len(gallery.shown) == len(gallery.rows) == 6
    for right, wrong in zip(gallery.names[::2], gallery.names[1::2], strict=True):
        assert right != wrong
        assert sorted(right.split()) == sorted(wrong.split()) or {"a", "an"} & {*right.split()}
    drawn = scenes.sample(3, seed=2024, split="all")
    alone = pair.image(ImageSource("scene", data=drawn.images[1]))
    assert torch.allclose(gallery.rows[2], alone, atol=UNIT)


def test_search_says_what_changed(pair):
    rows = torch.nn.functional.normalize(torch.randn(30, 256, generator=torch.Generator().manual_seed(0)), dim=1)
    gallery = search.Gallery([f"<{n}>" for n in range(30)], ["data:,"] * 30, rows, [])
    text = rows[7:8]
    base, ours = search.search(pair, gallery, text, 1.0, top=5)
    assert base[0].place == 7
    assert [hit.place for hit in ours] == torch.topk(rows @ pair.align(text, 1.0)[0], 5).indices.tolist()
    there = {hit.place: rank for rank, hit in enumerate(base, 1)}
    assert [hit.other for hit in ours] == [there.get(hit.place) for hit in ours]
    shown = markup.results(gallery, base, ours)
    assert shown.count("l-changed") == sum(hit.other is None for hit in (*base, *ours)) > 0
    assert "&lt;7&gt;" in shown
    same, also = search.search(pair, gallery, text, 0.0)
    assert [hit.place for hit in same] == [hit.place for hit in also]
    assert "0 are not among the base&#x27;s and 0 have another rank" in markup.results(gallery, same, also)


def test_images_that_are_none_are_left_out_and_told(pair, tmp_path):
    scene = png(scenes.sample(1).images[0])
    files = [uploaded(tmp_path, "two.zip", zipped(a_png=scene, b_png=b"?", c=b"")), uploaded(tmp_path, "d.png", scene)]
    gallery = search.index(pair, uploads.images_in(files))
    assert gallery.names == ["a.png", "d.png"]
    assert [one.split(" (")[0] for one in gallery.left_out] == [
        "b.png is not a whole image of a format that is read; convert HEIC, SVG or PDF to PNG"
    ]
    with pytest.raises(ValueError, match=r"None of the images can be used: b.png"):
        search.index(pair, [("b.png", b"?")])


# Uploads


def test_an_image_is_bounded(tmp_path):
    with pytest.raises(ValueError, match=r"large.png has more than 25 MB"):
        uploads.image_in(uploaded(tmp_path, "large.png", bytes(30_000_000)))
    size = struct.pack(">II", 9000, 8000) + b"\x08\x02\x00\x00\x00"  # a header alone
    chunk = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    with pytest.raises(ValueError, match="9,000 x 8,000 pixels"):
        uploads.image("wide.png", b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT")


def test_zips_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "IMAGE_BYTES", 1_000_000)
    bomb = uploaded(tmp_path, "bomb.zip", zipped(a_png=bytes(3_000_000)))
    ((_, data),) = uploads.images_in([bomb])
    assert len(data) == 1_000_001  # no more is unpacked, whatever there is
    monkeypatch.setattr(uploads, "ALL_BYTES", 1_000_000)
    with pytest.raises(ValueError, match="more than 2,000 images or 1 MB"):
        list(uploads.images_in([bomb]))
    monkeypatch.setattr(uploads, "IMAGES", 1)
    two = uploaded(tmp_path, "two.zip", zipped(a_png=b"1", b_png=b"2"))
    with pytest.raises(ValueError, match="more than 1 images"):
        list(uploads.images_in([two]))
    monkeypatch.setattr(uploads, "_MEMBERS", 1)
    with pytest.raises(ValueError, match=r"two.zip holds 2 files"):
        list(uploads.images_in([two]))


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "b/../../a.png", "C:\\a.png", "..\\a.png"])
def test_no_name_leads_out(name, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"1")
    table = tmp_path / "captions.csv"
    table.write_text(f"image,caption,negative\n{name},a cat,a dog\n")
    for act in (
        lambda: uploads.unpack([uploaded(tmp_path, "photos.zip", buffer.getvalue())], tmp_path / "images"),
        lambda: uploads.unpack([Upload(name, table)], tmp_path / "images"),
        lambda: uploads.check_table(table, tmp_path),
    ):
        with pytest.raises(ValueError, match="leads out"):
            act()


def test_a_broken_zip_is_told(tmp_path):
    whole = zipped(a_png=bytes(range(256)) * 40)
    for data in (b"no zip", whole[: len(whole) // 2], whole.replace(whole[60:70], bytes(10))):
        with pytest.raises(ValueError, match=r"photos.zip is not a whole zip"):
            list(uploads.images_in([uploaded(tmp_path, "photos.zip", data)]))
    with pytest.raises(ValueError, match=r"There is no image in empty.zip"):
        list(uploads.images_in([uploaded(tmp_path, "empty.zip", zipped(notes=b"hi"))]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("image,words\n0.png,a cat", "captions.csv has no column 'caption'"),
        ("image,caption\n0.png,a cat", "no negative beside a caption"),
        ("image,caption,negative\n1.png,a cat,a dog", "'1.png', which is not among the uploaded"),
        ("image,caption,negative\n0.png,,a dog", "line 2 has an empty caption. No row"),
        ("image,caption,negative", "captions.csv has no row"),
    ],
)
def test_a_table_is_looked_through(rows, message, tmp_path):
    (tmp_path / "0.png").touch()
    table = tmp_path / "captions.csv"
    table.write_text(rows)
    with pytest.raises(ValueError, match=message) as raised:
        uploads.check_table(table, tmp_path)
    assert str(tmp_path) not in str(raised.value)


# Long work


def test_a_command_is_told_as_it_goes_and_cancelled(tmp_path):
    place = Workplace(tmp_path)
    for step in place.run(["embed", "features", "--model", "scenes", "--captions", "none.csv"]):
        assert step.what == "labclip embed begins"
        place.cancel()
        break
    with pytest.raises(ValueError, match="Cancelled"):
        list(place.run(["list"]) if place.cancel() else _cancelled(place))
    place.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="Cancelled"):
        place.folder.exists()


def _cancelled(place):
    steps = place.run(["diagnose", "--model", "scenes"])
    yield next(steps)
    place.cancel()
    yield from steps


def test_a_command_that_fails_says_so_itself(tmp_path):
    place = Workplace(tmp_path)
    with pytest.raises(ValueError, match=r"^There is no file none.csv"):
        list(place.run(["negatives", "none.csv", "out.csv", "--method", "swap", "--attributes", "red,blue"]))
    place.close()


@pytest.mark.parametrize("model", [["--model", "scenes"], ["--model", "ViT-B-32", "--device", "cpu"]])
def test_the_commands_are_labclips_own(model):
    asked = jobs.diagnosis(model, ["--alignment", "mine"], 500) + jobs.fit(model, Path("a.csv"), Path("b"), clean=True)
    assert [words[0] for words in asked] == ["diagnose", "embed", "fit"]
    for name, *words in asked:
        parent = main.make_context("labclip", [name])
        assert main.commands[name].make_context(name, words, parent).params["as_json"]


def test_a_command_that_is_killed_is_told():
    assert jobs._told("fit", "fit:  12%|#2 |", -9).startswith("labclip fit ended with code -9.")


def test_progress_is_read_from_the_bar(tmp_path):
    bar = b"x\rfit:  12%|#2        | 55/448 [00:03<00:21, 18.1batch/s, loss=0.9]"
    (tmp_path / "stderr").write_bytes(bar)
    step = jobs._step("fit", tmp_path)
    assert (step.what, step.percent) == ("fit: 55/448, 00:21 left", 12)
    assert 'value="12"' in markup.step(step, 3.0)


def test_the_curve_is_read_from_the_checkpoints(tmp_path):
    from safetensors.torch import save_file

    for number, losses in enumerate(([2.0, 1.0], [2.0, 1.5, 1.25]), 1):
        folder = tmp_path / f"candidate-{number}"
        folder.mkdir()
        state = json.dumps({"history": [{"loss": loss} for loss in losses]})
        save_file({"a": torch.zeros(1)}, folder / "fit.safetensors", metadata={"state": state})
    assert jobs.curves_in(tmp_path) == [[2.0, 1.0], [2.0, 1.5, 1.25]]
    drawn = markup.curve(jobs.curves_in(tmp_path))
    assert drawn.count("<polyline") == 2
    assert "2.000 to 1.250" in drawn
    assert markup.curve([[1.0]]) == ""


# Sessions


def test_sessions_do_not_see_each_other(answers, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "_scenes", search.scene_gallery(answers.pair, 4))
    one, other = answers.session("one"), answers.session("other")
    assert answers.session("one") is one
    photo = uploaded(tmp_path, "mine.png", png(scenes.sample(1).images[0]))
    assert 'alt="mine.png"' in answers.photo(one, [photo], RIGHT, 1.0)[0]
    with pytest.raises(ValueError, match="There is no image"):
        answers.compared(other, RIGHT, 1.0)
    assert "Images of yours that are searched: 1." in answers.indexed(one, [photo])
    assert "mine.png" in answers.searched(one, RIGHT)
    assert "mine.png" not in answers.searched(other, RIGHT)
    answers.photos(one, [photo])
    assert (
        answers.table(one, [uploaded(tmp_path, "../words.csv", b"image")])
        == '<p class="l-note">Captions: words.csv.</p>'
    )
    folder = one.place.folder
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["mine.png", "words.csv"]
    one.spent.append(photo.path)
    answers.end("one")
    assert not folder.exists()
    assert not photo.path.parent.exists()
    assert answers.session("one") is not one


def test_the_quietest_session_is_dropped(answers, monkeypatch):
    monkeypatch.setattr(answers_module, "SESSIONS", 2)
    first = answers.session("1")
    folder = first.place.folder
    answers.session("2")
    answers.session("3")
    assert not folder.exists()
    assert answers.session("1") is not first


def test_captions_are_encoded_once(answers, monkeypatch):
    session = answers.session("one")
    answers.first(session, 0.5)
    first = answers.compared(session, RIGHT, 0.5)
    monkeypatch.setattr(answers.pair, "texts", None)
    assert answers.compared(session, f" {RIGHT}\n", 1.0) != first
    monkeypatch.undo()


def test_a_fit_wants_both_files(answers):
    with pytest.raises(ValueError, match="Upload a file of captions"):
        next(answers.fit(answers.session("one"), 1, 500, False))
    with pytest.raises(ValueError, match=r"words.pkl is of no kind"):
        answers.table(answers.session("one"), [Upload("words.pkl", Path("none"))])


def test_a_model_without_a_matrix_is_told(model):
    model.alignment = Alignment.identity(256)
    assert ModelPair(model).alignment.is_identity
    assert "no matrix" in markup.heading("mine", without_matrix=True)


# The command


def test_the_command_tells_its_commands_the_same_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("scenes").mkdir()  # the embedded model's name wins
    LABCLIP.from_pretrained("scenes").alignment.save_pretrained("mine")
    served = []
    page = SimpleNamespace(LOCAL=(), serve=lambda *given, **named: served.append((given[1:], named)))
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "labclip.app.page", page)
    shown = CliRunner().invoke(main, ["app", "--alignment", "mine", "--port", "1", "--host", "0.0.0.0"])
    assert shown.exit_code == 0, shown.output
    (((typed, other), named),) = served
    assert (typed, other) == (["--model", "scenes"], ["--alignment", str(tmp_path / "mine")])
    assert (named["name"], named["port"], named["share"]) == ("scenes with mine", 1, False)
    assert "asks for no password" in shown.stderr


def test_without_gradio_the_command_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    shown = CliRunner().invoke(main, ["app"])
    assert shown.exit_code == 2
    assert shown.stderr == 'Error: The page needs gradio. Type: pip install "labclip[app]"\n'
