"""What the page of `labclip app` computes, without the page; the page itself is in test_app_browser."""

import html
import math
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import commands
import pytest
import torch
from close import UNIT
from packed import png, zipped
from PIL import Image

from labclip import LABCLIP, scenes
from labclip.app import work
from labclip.app.pair import CaptionScores, ModelPair, judge
from labclip.app.session import EXAMPLES, Session, Sessions, render
from labclip.cli import main
from labclip.data.images import ImageSource

RIGHT, WRONG = "a red heart with a white ring", "a white heart with a red ring"


@pytest.fixture(scope="module")
def pair():
    return ModelPair(LABCLIP.from_pretrained("scenes"), ["--model", "scenes"])


@pytest.fixture
def session(pair, tmp_path):
    there = tmp_path / "sessions"
    there.mkdir()
    yield (made := Session(pair, there))
    made.close()
    assert not list(there.iterdir())


def uploaded(folder, name, data):
    path = folder / f"upload-{len(list(folder.iterdir()))}" / name
    path.parent.mkdir()
    path.write_bytes(data)
    return name, path


def test_scores_are_the_models_own(pair):
    model, scene = pair.model, scenes.sample(1, seed=8)
    image, (texts, cut) = pair.image(ImageSource("scene", data=scene.images[0])), pair.texts([RIGHT, WRONG])
    base, ours = pair.scores(image, texts, model.alignment)
    shown = model.encode_image(Image.fromarray(scene.images[0]))
    expected = model.similarity(shown, model.encode_text([RIGHT, WRONG]))[0]
    assert ours.cosines == pytest.approx(expected.tolist(), abs=UNIT)
    assert ours.probabilities == pytest.approx(
        torch.softmax(expected * model.logit_scale.exp(), 0).tolist(), abs=UNIT * 100
    )
    expected = model.similarity(shown, model.encode_text([RIGHT, WRONG], aligned=False))[0]
    assert base.cosines == pytest.approx(expected.tolist(), abs=UNIT)
    assert cut == ""
    nothing = pair.scores(image, texts, model.alignment.at(0))[1]
    assert nothing.cosines == pytest.approx(base.cosines, abs=UNIT)
    assert nothing.probabilities == pytest.approx(base.probabilities, abs=UNIT * 100)


def test_a_tie_is_a_tie():
    scores = CaptionScores.of(torch.tensor([0.5, 0.1, 0.5 + 1e-7]), math.log(100))
    assert scores.best == [0, 2]
    assert CaptionScores.of(torch.tensor([0.5, 0.1]), 0.0).best == [0]
    shown = render("comparison", ["a", "b", "c"], scores, scores, {"a": True, "b": False}, "")
    assert shown.count("2 captions tie") == shown.count("is wrong:") == 2


def test_the_examples_are_what_their_titles_say(session):
    verdicts = {}
    for title in EXAMPLES:
        _, captions, shown = session.show_scene(session.alignment.strength, title)
        assert len(captions.splitlines()) == 2
        verdicts[title] = "<b>CLIP is right:" in shown, "<b>LABCLIP is right:" in shown
    wrong_and_right = ["two colours", "two more", "three objects"]
    assert verdicts == dict.fromkeys(wrong_and_right, (False, True)) | {
        "CLIP is right": (True, True), "left or right": (False, False), "without": (False, False)
    }  # fmt: skip


def test_a_caption_of_one_s_own_has_no_verdict(session):
    session.show_scene(0.5)
    assert session.compare("a cat\na dog", 0.5).count("says:") == 2
    with pytest.raises(ValueError, match="There are 33 captions, but at most 32 are compared"):
        session.compare("a cat\n" * 33, 0.5)


def test_what_people_write_is_plain_text():
    shown = render("note", "<script>${alert(1)}</script>{{value}}\x1b[31m").removeprefix('<p class="l-note">')
    assert "&#36;&#123;alert" in shown
    assert not set("<{$\x1b") & set(shown.removesuffix("</p>"))


def test_the_scenes_are_pairs_with_their_colours_swapped(pair):
    gallery, drawn = pair.scenes, scenes.sample(250, seed=2024, split="all")
    assert gallery.names == drawn.captions + drawn.swapped_captions
    assert len(gallery.thumbnails) == len(gallery.rows) == len(gallery.objects) == 500
    assert torch.allclose(gallery.rows[1], pair.image(ImageSource("scene", data=drawn.images[1])), atol=UNIT)
    (colour, shape), (other, also) = gallery.objects[1]
    assert gallery.objects[251] == ((other, shape), (colour, also))


@pytest.mark.parametrize("without", ["", "purple"])
def test_a_search_finds_what_the_models_query_is_nearest_to(pair, session, without):
    shown = session.search("red cube, star", without).split("<h2>")[1:]
    for strength, side in zip((0, None), shown, strict=True):
        model = LABCLIP.from_pretrained("scenes", strength=strength)
        cosines = pair.scenes.rows @ model.encode_query(["red cube", "star"], without=[without] if without else [])
        best = sorted(range(500), key=lambda image: -cosines[image])[:10]
        names = [html.unescape(name) for name in re.findall('alt="(.*?)"', side)]
        assert names == [pair.scenes.names[image] for image in best]
        assert f"<small>{cosines[best[0]]:.3f}" in side


def test_whether_a_scene_is_what_is_asked_for():
    scene = ("red", "cube"), ("blue", "ring")
    assert judge(scene, ["a red cube", "blue ring"], []) is judge(scene, ["ring"], ["purple"]) is True
    assert judge(scene, ["red cube"], ["ring"]) is judge(scene, ["blue cube"], []) is False
    for unknown in ("green cube", "a red cube left of a blue ring", "red thing"):
        assert judge(scene, [unknown], []) is None


def test_images_are_unpacked_and_indexed(pair, tmp_path):
    scene = png(scenes.sample(1).images[0])
    files = {"a/0.png": scene, "b.png": b"?", "c": b"", "notes.txt": b"", ".d.png": b"", "__MACOSX/._a.png": b""}
    files = [uploaded(tmp_path, "two.zip", zipped(files)), uploaded(tmp_path, "d.png", scene)]
    files += [uploaded(tmp_path, ".DS_Store", b"?"), uploaded(tmp_path, "half.png", scene[: len(scene) // 2])]
    (tmp_path / "images").mkdir()
    work.unpack(files, tmp_path / "images")
    gallery = pair.index(tmp_path / "images")
    assert gallery.names == ["a/0.png", "d.png"]
    assert [line.split(" is not a complete image")[0] for line in gallery.left_out] == ["b.png", "half.png"]


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "C:\\a.png"])
def test_no_name_leads_out(name, tmp_path):
    images, table = tmp_path / "within" / "images", tmp_path / "captions.csv"
    images.mkdir(parents=True)
    work.unpack([uploaded(tmp_path, "photos.zip", zipped({name: b"1"}))], images)
    (unpacked,) = tmp_path.rglob("*a.png")
    assert images in unpacked.parents
    table.write_bytes(lines(f"{name},a cat,a dog"))
    with pytest.raises(ValueError, match="leads out"):
        work.match(table, images)


WHOLE = zipped({"a.png": bytes(600_000), "b.png": bytes(3_000_000)})


@pytest.mark.parametrize(
    ("data", "limits", "expected"),
    [
        (b"no zip", {}, "photos.zip is not a complete zip"),
        (WHOLE[: len(WHOLE) // 2], {}, "photos.zip is not a complete zip"),
        (WHOLE[:45] + b"?" + WHOLE[46:], {}, "photos.zip is not a complete zip"),
        (zipped({"notes": b"hi"}), {}, "There is no image in photos.zip"),
        (WHOLE, {"ALL_BYTES": 1_000_000}, "more than 2,000 images or 1 MB"),
        (WHOLE, {"IMAGES": 1}, "more than 1 images or"),
    ],
)
def test_uploads_that_are_refused(data, limits, expected, tmp_path, monkeypatch):
    for name, value in limits.items():
        monkeypatch.setattr(work, name, value)
    with pytest.raises(ValueError, match=expected):
        work.unpack([uploaded(tmp_path, "photos.zip", data)], tmp_path)
    assert not limits or not list(tmp_path.glob("*.png"))


def lines(*rows):
    return "\n".join(("image,caption,negative", *rows)).encode()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("0.png,a cat,a dog", "5.png,a dog,"), "2 captions, 1 of them with a negative, and 1 of 2 images"),
        (("0.png,a cat,a dog", "1.png,,"), "1 captions.*words.csv line 3 has an empty caption"),
        (("0.png,A red cat and a white dog.,a white cat and a red dog",), "1 captions"),
        (("photos/1.png,a cat,a dog", "coco/all/photos\\\\1.png,a cat,a dog"), "2 of 2 images"),
        (("a/2.png,a cat,a dog", "c/0.png,a cat,a dog"), "1 of 2 images"),
        (("0.png,,",), "words.csv can't be used: it has no caption.*line 2 has an empty"),
        (("b/1.png,a cat,a dog",), "words.csv can't be used: no image is called b/1.png"),
        (("2.png,a cat,a dog",), r"2.png may be (a|b)/2.png or (a|b)/2.png.*in words.csv"),
        ((), "words.csv can't be used: it has no caption"),
    ],
)
def test_a_file_of_captions_is_checked_beside_its_images(session, tmp_path, rows, expected):
    names = ("all/0.png", "all/photos/1.png", "a/2.png", "b/2.png")
    photos = zipped({name: png(scenes.sample(1).images[0]) for name in names})
    assert "Upload the other too" in session.take_files([uploaded(tmp_path, "photos.zip", photos)])
    words = uploaded(tmp_path, "words.csv", lines(*rows))
    if "words.csv" in expected and "line 3" not in expected:
        with pytest.raises(ValueError, match=expected) as error:
            session.take_files([words])
        assert str(tmp_path) not in str(error.value)
    else:
        assert re.search(expected, session.take_files([words]))
        (tmp_path / "work").mkdir()
        embed, _ = session.fit_commands(tmp_path / "work", 1, 500)
        assert embed[-1] == ("--clean" if "A red" in rows[0] else "--as-is")


def test_a_command_that_fails_says_so_itself(tmp_path):
    words = ["negatives", "none.csv", "out.csv", "--method", "swap", "--attributes", "red,a"]
    with pytest.raises(ValueError, match=r"^There is no none.csv"):
        list(work.run([words], tmp_path))


def test_commands_tell_how_far_they_are_and_end_when_they_are_closed(tmp_path):
    steps, stderr = work.run([["diagnose", "--model", "scenes"], ["list"]], tmp_path), tmp_path / "stderr"
    title, percent, rest = next(step for step in steps if step[1])
    assert title == "Step 1 of 2, labclip diagnose"
    assert f"{percent}%|" in stderr.read_text()
    assert "/" in rest
    steps.close()
    written = stderr.read_bytes()
    time.sleep(1)
    assert stderr.read_bytes() == written


@pytest.mark.parametrize("own", [0, 1])
def test_the_commands_are_labclips_own(pair, own, tmp_path):
    options = ["--model", "ViT-B-32", "--device", "cpu"], ["--alignment", "scenes"]
    session = Session(ModelPair(pair.model, *options), tmp_path)
    (folder := tmp_path / "work").mkdir()
    if own:
        with pytest.raises(ValueError, match="Upload a file of captions"):
            session.fit_commands(folder, own, 500)
        session.take_files([uploaded(tmp_path, "words.csv", lines("0.png,a cat,a dog"))])
        session.take_files([uploaded(tmp_path, "0.png", png(scenes.sample(1).images[0]))])
    asked = session.diagnosis_commands(folder, 500) + session.fit_commands(folder, own, 500)
    assert [words[0] for words in asked] == ["diagnose", *([] if own else ["sample"]), "embed", "fit"]
    assert sorted(path.name for path in folder.rglob("*.*")) == (["0.png", "words.csv"] if own else [])
    for name, *words in asked:
        parent = main.make_context("labclip", [name])
        assert main.commands[name].make_context(name, words, parent).params


def test_what_a_session_has_no_other_sees(pair, session, tmp_path):
    other = Session(pair, tmp_path)
    photo = uploaded(tmp_path, "mine.png", png(scenes.sample(1).images[0]))
    assert 'alt="mine.png"' in session.show_photo([photo], RIGHT, 1.0)[0]
    with pytest.raises(ValueError, match="There is no image"):
        other.compare(RIGHT, 1.0)
    assert "Images: 1." in session.index_images([photo])
    assert "mine.png" in session.search(RIGHT, "")
    assert "mine.png" not in other.search(RIGHT, "")
    (tmp_path / "report.html").write_text("of a fit that was not worth it")
    assert "there is no matrix" in session.show_fit(tmp_path)
    assert session.fitted is None


def test_one_session_too_many_ends_the_oldest(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("labclip.app.session.SESSIONS", 2)
    sessions = Sessions(lambda: Session(pair, tmp_path))
    first, second, _ = (sessions[key] for key in "123")
    assert (list(sessions), sessions["2"] is second) == (["2", "3"], True)
    assert first is not second
    assert len(list(tmp_path.iterdir())) == 2


def test_the_command_tells_its_commands_the_same_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("scenes").mkdir()  # the embedded model's name wins
    LABCLIP.from_pretrained("scenes").alignment.save_pretrained("mine")
    served = []
    page = SimpleNamespace(serve=lambda *given, **named: served.append((given[1:], named)))
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "labclip.app.page", page)
    shown = commands.run("app", "--alignment", "mine", "--port", "7999", "--host", "0.0.0.0")
    (((typed, other), named),) = served
    assert (typed, other) == (["--model", "scenes"], ["--alignment", str(tmp_path / "mine")])
    assert (named["name"], named["port"], named["share"]) == ("scenes with mine", 7999, False)
    assert "has no password" in shown.stderr


def test_without_gradio_the_command_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert commands.run("app", code=2).stderr.endswith(
        'Error: The page needs gradio. Type: pip install "labclip[app]"\n'
    )


def test_a_port_that_is_taken_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code = f"import sys, labclip.cli as c; c.main(['app', '--port', '{port}'], standalone_mode=False)"
        shown = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert f"can't listen on 127.0.0.1:{port} (Address already in use). Pass another --port" in shown.stderr
    assert "| torch" not in shown.stderr
    assert "| gradio" not in shown.stderr
