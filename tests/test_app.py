"""What the page of `labclip app` computes, without the page; the page itself is in test_app_browser."""

import io
import math
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from close import UNIT
from PIL import Image

from labclip import LABCLIP, scenes
from labclip.app import markup, work
from labclip.app.answers import Answers
from labclip.app.pair import Gallery, ModelPair, Scores, captions_in, parts_in, swapped, with_swapped
from labclip.app.work import Upload, Worker
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


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


# Compare


def test_scores_are_the_models_own(pair):
    model, scene = pair.model, scenes.sample(1, seed=8)
    image, (texts, cut) = pair.image(ImageSource("scene", data=scene.images[0])), pair.texts([RIGHT, WRONG])
    base, ours = pair.scores(image, texts, model.alignment.strength)
    shown = model.encode_image(Image.fromarray(scene.images[0]))
    expected = model.similarity(shown, model.encode_text([RIGHT, WRONG]))[0]
    assert ours.cosines == pytest.approx(expected.tolist(), abs=UNIT)
    assert ours.shares == pytest.approx(torch.softmax(expected * model.logit_scale.exp(), 0).tolist(), abs=UNIT * 100)
    expected = model.similarity(shown, model.encode_text([RIGHT, WRONG], aligned=False))[0]
    assert base.cosines == pytest.approx(expected.tolist(), abs=UNIT)
    assert cut == ""
    nothing = pair.scores(image, texts, 0.0)[1]
    assert nothing.cosines == pytest.approx(base.cosines, abs=UNIT)
    assert nothing.shares == pytest.approx(base.shares, abs=UNIT * 100)


def test_a_tie_is_a_tie():
    scores = Scores.of(torch.tensor([0.5, 0.1, 0.5 + 1e-7]), math.log(100))
    assert scores.best == [0, 2]
    assert Scores.of(torch.tensor([0.5, 0.1]), 0.0).best == [0]
    assert "Both choose none: 2 captions tie." in markup.bars(["a", "b", "a"], scores, scores)


def test_a_caption_that_is_cut_is_told(pair):
    assert "Texts longer than the 16 tokens of the model: 1." in pair.texts(["a red cube " * 20])[1]


@pytest.mark.parametrize(("text", "message"), [(" \n\n", "There is no caption"), ("a cat\n" * 500, "500 captions")])
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
    shown = markup.part("note", "<script>${alert(1)}</script>{{value}}\x1b[31m").removeprefix('<p class="l-note">')
    assert "&#36;&#123;alert" in shown
    assert not set("<{$\x1b") & set(shown.removesuffix("</p>"))


# Search


def test_the_scenes_are_pairs_with_their_colours_swapped(pair):
    gallery = pair.index_scenes(6)
    assert len(gallery.names) == len(gallery.shown) == len(gallery.rows) == 6
    drawn = scenes.sample(3, seed=2024, split="all")
    assert gallery.names == drawn.captions + drawn.swapped_captions
    alone = pair.image(ImageSource("scene", data=drawn.images[1]))
    assert torch.allclose(gallery.rows[1], alone, atol=UNIT)


def test_a_search_finds_what_the_models_query_is_nearest_to(pair):
    gallery = pair.index_scenes(60)
    parts, without = ["red cube", "star"], ["purple"]
    texts, _ = pair.texts(parts + without)
    base, ours = pair.search(gallery, texts[:2], texts[2:], pair.alignment.strength, top=5)
    query = pair.model.encode_query(parts, without=without)
    assert [hit.index for hit in ours] == torch.topk(gallery.rows @ query, 5).indices.tolist()
    assert ours[0].cosine == pytest.approx(float(gallery.rows[ours[0].index] @ query), abs=UNIT)
    plain = LABCLIP.from_pretrained("scenes", strength=0).encode_query(parts, without=without)
    assert [hit.index for hit in base] == torch.topk(gallery.rows @ plain, 5).indices.tolist()
    ranks = {hit.index: rank for rank, hit in enumerate(base, 1)}
    assert [hit.other for hit in ours] == [ranks.get(hit.index) for hit in ours]
    shown = markup.results(gallery, base, ours)
    assert shown.count("l-changed") == sum(hit.other is None for hit in (*base, *ours))
    same, also = pair.search(gallery, texts[:1], None, 0.0)
    assert [hit.index for hit in same] == [hit.index for hit in also]
    assert "0 are not among the base&#39;s and 0 have another rank" in markup.results(gallery, same, also)


def test_parts_stand_on_lines_or_between_commas():
    assert parts_in(" red cube,\n a star ,, ") == ["red cube", "a star"]


def test_images_that_are_none_are_left_out_and_told(pair, tmp_path):
    scene = png(scenes.sample(1).images[0])
    files = {"a.png": scene, "b.png": b"?", "c": b"", ".d.png": b"", "__MACOSX/a.png": b""}
    files = [uploaded(tmp_path, "two.zip", zipped(files)), uploaded(tmp_path, "d.png", scene)]
    gallery = pair.index(work.images_in(files))
    assert gallery.names == ["a.png", "d.png"]
    assert [one.split(" (")[0] for one in gallery.left_out] == [
        "b.png is not a whole image of a format that is read; convert HEIC, SVG or PDF to PNG"
    ]
    with pytest.raises(ValueError, match=r"None of the images can be used: b.png"):
        pair.index([("b.png", b"?")])
    shown = markup.results(
        Gallery(["<7>"], ["data:,"], gallery.rows[:1], []), *pair.search(gallery, gallery.rows[:1], None, 1.0, 1)
    )
    assert "&lt;7&gt;" in shown


# Uploads


@pytest.mark.parametrize(("limit", "value"), [("FILE_BYTES", 1_000_000), ("ALL_BYTES", 1_000_000), ("IMAGES", 1)])
def test_zips_are_bounded(tmp_path, monkeypatch, limit, value):
    bomb = uploaded(tmp_path, "bomb.zip", zipped({"a.png": bytes(600_000), "b.png": bytes(3_000_000)}))
    monkeypatch.setattr(work, limit, value)
    with pytest.raises(ValueError, match=r"more than [\d,]+ images or"):
        list(work.images_in([bomb]))


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "b/../../a.png", "C:\\a.png", "..\\a.png"])
def test_no_name_leads_out(name, tmp_path):
    table = tmp_path / "captions.csv"
    table.write_text(f"image,caption,negative\n{name},a cat,a dog\n")
    for act in (
        lambda: work.unpack([uploaded(tmp_path, "photos.zip", zipped({name: b"1"}))], tmp_path / "images"),
        lambda: work.unpack([Upload(name, table)], tmp_path / "images"),
        lambda: work.check_table(table, tmp_path),
    ):
        with pytest.raises(ValueError, match="leads out"):
            act()


def test_a_broken_zip_is_told(tmp_path):
    whole = zipped({"a.png": bytes(range(256)) * 40})
    for data in (b"no zip", whole[: len(whole) // 2], whole.replace(whole[60:70], bytes(10))):
        with pytest.raises(ValueError, match=r"photos.zip is not a whole zip"):
            list(work.images_in([uploaded(tmp_path, "photos.zip", data)]))
    with pytest.raises(ValueError, match=r"There is no image in empty.zip"):
        list(work.images_in([uploaded(tmp_path, "empty.zip", zipped({"notes": b"hi"}))]))


# Long work


def test_a_command_is_told_as_it_goes_and_ended_where_nobody_waits(tmp_path):
    worker = Worker()
    steps = worker.run(tmp_path, ["diagnose", "--model", "scenes"])
    assert next(steps).what == "labclip diagnose begins"
    (process,) = worker._running
    steps.close()
    assert process.poll() is not None
    steps = worker.run(tmp_path, ["diagnose", "--model", "scenes"])
    next(steps)
    worker.close()
    with pytest.raises(ValueError, match="labclip diagnose ended with code -15"):
        list(steps)
    assert not worker._running


def test_a_command_that_fails_says_so_itself(tmp_path):
    with pytest.raises(ValueError, match=r"^There is no file none.csv"):
        list(Worker().run(tmp_path, ["negatives", "none.csv", "out.csv", "--method", "swap", "--attributes", "red,a"]))


@pytest.mark.parametrize("model", [["--model", "scenes"], ["--model", "ViT-B-32", "--device", "cpu"]])
def test_the_commands_are_labclips_own(model):
    asked = work.diagnosis(model, ["--alignment", "scenes"], 500) + work.fit(
        model, Path("a.csv"), Path("b"), clean=True
    )
    assert [words[0] for words in asked] == ["diagnose", "embed", "fit"]
    for name, *words in asked:
        parent = main.make_context("labclip", [name])
        assert main.commands[name].make_context(name, words, parent).params["as_json"]


def test_progress_and_losses_are_read_from_the_bar():
    losses = []
    for loss in ("2.0", "1.25"):
        step = work._step("fit", f"fit:  12%|#2        | 55/448 [00:03<00:21, 18.1batch/s, loss={loss}]", losses)
    assert step == ("fit: 55/448, 00:21 left", 12, [2.0, 1.25])
    shown = markup.step(step, 3.0)
    assert 'value="12"' in shown
    assert "Loss: 2.000 to 1.250" in shown
    assert "svg" not in markup.step(work.Step("fit begins"), 3.0)


# Sessions


def test_sessions_do_not_see_each_other(answers, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "_scenes", answers.pair.index_scenes(4))
    one, other = answers.session("one"), answers.session("other")
    assert answers.session("one") is one
    photo = uploaded(tmp_path, "mine.png", png(scenes.sample(1).images[0]))
    assert 'alt="mine.png"' in answers.photo(one, [photo], RIGHT, 1.0)[0]
    with pytest.raises(ValueError, match="There is no image"):
        answers.compared(other, RIGHT, 1.0)
    assert "Your images that are searched: 1." in answers.indexed(one, [photo])
    assert "mine.png" in answers.searched(one, RIGHT, "")
    assert "mine.png" not in answers.searched(other, RIGHT, "")
    answers.photos(one, [photo])
    assert "Captions: words.csv." in answers.table(one, [uploaded(tmp_path, "../words.csv", b"image")])
    assert sorted(path.name for path in one.folder.rglob("*") if path.is_file()) == ["mine.png", "words.csv"]
    one.spent.append(photo.path)
    answers.end("one")
    assert not one.folder.exists()
    assert not photo.path.parent.exists()
    assert answers.session("one") is not one


def test_one_session_too_many_ends_the_oldest(answers, monkeypatch):
    monkeypatch.setattr("labclip.app.answers.SESSIONS", 2)
    first, second = answers.session("1"), answers.session("2")
    assert answers.session("3") is not first
    assert (first.folder.exists(), answers.session("2") is second) == (False, True)


def test_captions_are_encoded_once(answers, monkeypatch):
    session = answers.session("one")
    answers.scene(session, 0.5)
    first = answers.compared(session, RIGHT, 0.5)
    assert first.strip().startswith('<p role="status">There is one caption.')
    monkeypatch.setattr(answers.pair, "texts", None)
    assert answers.compared(session, f" {RIGHT}\n", 1.0) != first
    monkeypatch.undo()


def test_a_fit_says_what_it_lacks(answers, tmp_path):
    session = answers.session("one")
    with pytest.raises(ValueError, match="Upload a file of captions"):
        next(answers.fit(session, 1, 500, False))
    with pytest.raises(ValueError, match=r"words.pkl is of no kind"):
        answers.table(session, [Upload("words.pkl", Path("none"))])
    answers.table(session, [uploaded(tmp_path, "words.csv", b"image,words\n0.png,a cat")])
    answers.photos(session, [uploaded(tmp_path, "0.png", b"")])
    with pytest.raises(ValueError, match=r"^words.csv has no column 'caption'"):
        next(answers.fit(session, 1, 500, False))


def test_work_that_is_left_leaves_nothing(answers):
    steps = answers.diagnosis(answers.session("one"), 500)
    assert "labclip diagnose begins" in next(steps)
    assert len(list(answers.root.glob("work-*"))) == 1
    began = time.monotonic()
    steps.close()
    assert not list(answers.root.glob("work-*"))
    assert time.monotonic() - began < 10


def test_a_model_without_a_matrix_is_told():
    assert "no matrix" in markup.part("heading", "mine", True)
    assert "no matrix" not in markup.part("heading", "mine", False)


# The command


def test_the_command_tells_its_commands_the_same_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("scenes").mkdir()  # the embedded model's name wins
    LABCLIP.from_pretrained("scenes").alignment.save_pretrained("mine")
    served = []
    page = SimpleNamespace(
        LOCAL=(), check_free=lambda *_: None, serve=lambda *given, **named: served.append((given[1:], named))
    )
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
