"""What the page of `labclip app` computes, without the page; the page itself is in test_app_browser."""

import json
import math
import socket
import subprocess
import sys
import time
from concurrent.futures import CancelledError
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
from labclip.app.answers import EXAMPLES, Answers, duration, part, sample
from labclip.app.pair import ModelPair, Scores, judge
from labclip.app.work import Job, Upload
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


# Compare


def test_scores_are_the_models_own(pair):
    model, scene = pair.model, scenes.sample(1, seed=8)
    image, (texts, cut) = pair.image(ImageSource("scene", data=scene.images[0])), pair.texts([RIGHT, WRONG])
    base, ours = pair.scores(image, texts, model.alignment)
    shown = model.encode_image(Image.fromarray(scene.images[0]))
    expected = model.similarity(shown, model.encode_text([RIGHT, WRONG]))[0]
    assert ours.cosines == pytest.approx(expected.tolist(), abs=UNIT)
    assert ours.shares == pytest.approx(torch.softmax(expected * model.logit_scale.exp(), 0).tolist(), abs=UNIT * 100)
    expected = model.similarity(shown, model.encode_text([RIGHT, WRONG], aligned=False))[0]
    assert base.cosines == pytest.approx(expected.tolist(), abs=UNIT)
    assert cut == ""
    nothing = pair.scores(image, texts, model.alignment.at(0))[1]
    assert nothing.cosines == pytest.approx(base.cosines, abs=UNIT)
    assert nothing.shares == pytest.approx(base.shares, abs=UNIT * 100)


def test_a_tie_is_a_tie():
    scores = Scores.of(torch.tensor([0.5, 0.1, 0.5 + 1e-7]), math.log(100))
    assert scores.best == [0, 2]
    assert Scores.of(torch.tensor([0.5, 0.1]), 0.0).best == [0]
    shown = part("compared", ["a", "b", "c"], scores, scores, {"a": True, "b": False}, "")
    assert shown.count("2 captions tie") == shown.count("is wrong:") == 2


def test_the_examples_are_what_their_titles_say(answers):
    session, found = answers.session("one"), {}
    for title in EXAMPLES:
        _, captions, shown = session.scene(session.alignment.strength, title)
        assert len(captions.splitlines()) == 2
        found[title] = "<b>CLIP is right:" in shown, "<b>LABCLIP is right:" in shown
    wrong_and_right = ["two colours", "two more", "three objects"]
    assert found == dict.fromkeys(wrong_and_right, (False, True)) | {
        "CLIP is right": (True, True), "left or right": (False, False), "without": (False, False)
    }  # fmt: skip


def test_a_caption_of_one_s_own_has_no_verdict(answers):
    session = answers.session("one")
    session.scene(0.5)
    shown = session.compared("a cat\na dog", 0.5)
    assert shown.count("says:") == 2
    assert "is right" not in shown
    assert "There is one caption." in session.compared("a cat", 0.5)


def test_what_people_write_is_plain_text():
    shown = part("note", "<script>${alert(1)}</script>{{value}}\x1b[31m").removeprefix('<p class="l-note">')
    assert "&#36;&#123;alert" in shown
    assert not set("<{$\x1b") & set(shown.removesuffix("</p>"))


# Search


def test_the_scenes_are_pairs_with_their_colours_swapped(pair):
    gallery = pair.scenes
    assert len(gallery.names) == len(gallery.shown) == len(gallery.rows) == len(gallery.objects) == 500
    drawn = scenes.sample(250, seed=2024, split="all")
    assert gallery.names == drawn.captions + drawn.swapped_captions
    alone = pair.image(ImageSource("scene", data=drawn.images[1]))
    assert torch.allclose(gallery.rows[1], alone, atol=UNIT)
    (first, one), (second, other) = gallery.objects[1]
    assert gallery.objects[251] == ((second, one), (first, other))


def test_a_search_finds_what_the_models_query_is_nearest_to(pair):
    gallery, alignment = pair.scenes, pair.model.alignment
    parts, without = ["red cube", "star"], ["purple"]
    texts, _ = pair.texts(parts + without)
    base, ours = pair.search(gallery, texts[:2], texts[2:], alignment, top=5)
    query = pair.model.encode_query(parts, without=without)
    assert [hit.image for hit in ours] == torch.topk(gallery.rows @ query, 5).indices.tolist()
    assert ours[0].cosine == pytest.approx(float(gallery.rows[ours[0].image] @ query), abs=UNIT)
    plain = LABCLIP.from_pretrained("scenes", strength=0).encode_query(parts, without=without)
    assert [hit.image for hit in base] == torch.topk(gallery.rows @ plain, 5).indices.tolist()
    assert [hit.new for hit in ours] == [hit.image not in {one.image for one in base} for hit in ours]
    same, also = pair.search(gallery, texts[:1], None, alignment.at(0))
    assert [hit.image for hit in same] == [hit.image for hit in also]


@pytest.mark.parametrize(
    ("parts", "without", "expected"),
    [
        (["a red cube", "blue ring"], [], True),
        (["ring"], ["purple"], True),
        (["red cube"], ["ring"], False),
        (["green cube"], [], None),
        (["a red cube left of a blue ring"], [], None),
        (["red thing"], [], None),
    ],
)
def test_whether_a_scene_is_what_is_asked_for(parts, without, expected):
    assert judge((("red", "cube"), ("blue", "ring")), parts, without) is expected


# Uploads


def test_what_is_no_image_is_passed_over_and_told(pair, tmp_path):
    scene = png(scenes.sample(1).images[0])
    files = {"a/0.png": scene, "b.png": b"?", "c": b"", "notes.txt": b"", ".d.png": b"", "__MACOSX/a.png": b""}
    files = [uploaded(tmp_path, "two.zip", zipped(files)), uploaded(tmp_path, "d.png", scene)]
    files += [uploaded(tmp_path, ".DS_Store", b"?"), uploaded(tmp_path, "half.png", scene[: len(scene) // 2])]
    told = work.unpack(files, tmp_path / "images")
    assert told == [
        "Images: 3.",
        "Files passed over, as they are no images: 5.",
        "Images that can't be read: 1, for example b.png.",
    ]
    gallery = pair.index(tmp_path / "images")
    assert gallery.names == ["a/0.png", "d.png"]
    (left_out,) = gallery.left_out
    assert left_out.startswith("half.png is not a whole image")


@pytest.mark.parametrize(("limit", "value"), [("FILE_BYTES", 1_000_000), ("ALL_BYTES", 1_000_000), ("IMAGES", 1)])
def test_zips_are_bounded(tmp_path, monkeypatch, limit, value):
    bomb = uploaded(tmp_path, "bomb.zip", zipped({"a.png": bytes(600_000), "b.png": bytes(3_000_000)}))
    monkeypatch.setattr(work, limit, value)
    with pytest.raises(ValueError, match=r"more than [\d,]+ images or"):
        work.unpack([bomb], tmp_path / "images")


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "C:\\a.png"])
def test_no_name_leads_out(name, tmp_path):
    table = tmp_path / "captions.csv"
    table.write_text(f"image,caption,negative\n{name},a cat,a dog\n")
    for act in (
        lambda: work.unpack([uploaded(tmp_path, "photos.zip", zipped({name: b"1"}))], tmp_path / "images"),
        lambda: work.unpack([Upload(name, table)], tmp_path / "images"),
        lambda: work.read_table(table),
    ):
        with pytest.raises(ValueError, match="leads out"):
            act()


def test_uploads_that_are_refused(tmp_path):
    whole = zipped({"a.png": bytes(range(256)) * 40})
    for data in (b"no zip", whole[: len(whole) // 2], whole.replace(whole[60:70], bytes(10))):
        with pytest.raises(ValueError, match=r"photos.zip is not a whole zip"):
            work.unpack([uploaded(tmp_path, "photos.zip", data)], tmp_path / "images")
    with pytest.raises(ValueError, match=r"There is no image that can be read in empty.zip"):
        work.unpack([uploaded(tmp_path, "empty.zip", zipped({"notes": b"hi"}))], tmp_path / "images")
    scene = png(scenes.sample(1).images[0])
    twice = [uploaded(tmp_path, "0.png", scene), uploaded(tmp_path, "0.png", scene)]
    with pytest.raises(ValueError, match=r"Two images are called 0.png. Upload them as a zip"):
        work.unpack(twice, tmp_path / "images")


def lines(*rows):
    return "\n".join(("image,caption,negative", *rows)).encode()


def test_a_file_of_captions_is_checked_when_it_comes(answers, tmp_path):
    session = answers.session("one")

    def ready(data, name="words.csv"):
        return session.taken([uploaded(tmp_path, name, data)])

    assert "words.csv: 2 captions, 1 of them with a negative." in ready(lines("0.png,a cat,a dog", "1.png,a dog,"))
    shown = ready(lines("0.png,a cat,", "1.png,,"))
    assert "1 captions, none of them with a negative." in shown
    assert "Rows that are left out: 1. words.csv line 3 has an empty caption." in shown
    assert "Captions are cleaned" in ready(lines("0.png,A red cat and a white dog.,a white cat and a red dog"))
    for data, message in [
        (b"image,words\n0.png,a cat", r"^words.csv has no column 'caption'.*The columns image, caption and negative"),
        (lines("0.png,,"), "words.csv has no caption. words.csv line 2 has an empty"),
    ]:
        with pytest.raises(ValueError, match=message) as told:
            ready(data)
        assert "column=" not in str(told.value)
        assert str(tmp_path) not in str(told.value)
    with pytest.raises(ValueError, match=r"There is no image that can be read in words.pkl"):
        ready(b"", "words.pkl")


@pytest.mark.parametrize(
    ("name", "there", "expected"),
    [
        ("0.png", ["images/0.png"], "images/0.png"),
        ("photos/0.png", ["0.png"], "0.png"),
        ("photos/0.png", ["all/photos/0.png", "other/0.png"], "all/photos/0.png"),
        ("0.png", ["0.png", "images/0.png"], "0.png"),
        ("a/0.png", ["b/0.png"], "None of the images that words.csv names is there, for example a/0.png"),
        ("0.png", ["a/0.png", "b/0.png"], "0.png may be"),
    ],
)
def test_images_are_found_by_the_names_of_the_table(name, there, expected, tmp_path):
    for one in there:
        (tmp_path / "images" / one).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / one).write_text(one)
    table = work.CaptionsFile(Path("words.csv"), [name], 1, False, [])
    if " " in expected:
        with pytest.raises(ValueError, match=expected):
            work.lay_out(table, tmp_path / "images", tmp_path / "named")
    else:
        assert work.lay_out(table, tmp_path / "images", tmp_path / "named") == ["Images of these captions: 1."]
        assert (tmp_path / "named" / name).read_text() == expected


def test_the_sample_is_what_the_page_reads(answers, tmp_path):
    shown = answers.session("one").taken(
        [uploaded(tmp_path, name, sample(name)) for name in ("sample.csv", "sample.zip")]
    )
    assert "500 captions, 500 of them with a negative" in shown
    assert "Images of these captions: 500." in shown
    assert "A fit takes about" in shown
    assert work.in_page_words("Few rows. Hold out more, or pass validation=X.") == "Few rows. Hold out more."


# Long work


def test_a_command_that_fails_says_so_itself(tmp_path):
    words = ["negatives", "none.csv", "out.csv", "--method", "swap", "--attributes", "red,a"]
    with pytest.raises(ValueError, match=r"^There is no none.csv"):
        Job([words], str, 1).run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_jobs_run_one_at_a_time_and_are_cancelled_wherever_they_are(answers):
    one, other = (answers.add(Job([["diagnose", "--model", "scenes"]], str, 1)) for _ in range(2))
    assert [answers.before(one), answers.before(other)] == [0, 1]
    other.cancel()
    assert other.result.cancelled()
    end = time.monotonic() + 600
    while not one.title:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert one.title == "Step 1 of 1, labclip diagnose"
    one.cancel()
    with pytest.raises(CancelledError):
        one.result.result(600)
    assert not list(answers.root.glob("work-*"))


@pytest.mark.parametrize("own", [0, 1])
def test_the_commands_are_labclips_own(answers, own, tmp_path):
    answers.typed, answers.alignment = ["--model", "ViT-B-32", "--device", "cpu"], ["--alignment", "scenes"]
    session = answers.session("one")
    if own:
        session.taken([uploaded(tmp_path, "words.csv", lines("0.png,a cat,a dog"))])
        session.taken([uploaded(tmp_path, "0.png", png(scenes.sample(1).images[0]))])
    asked = session.diagnosis(500).commands + session.fit(own, 500).commands
    assert [words[0] for words in asked] == ["diagnose", *([] if own else ["sample"]), "embed", "fit"]
    for name, *words in asked:
        parent = main.make_context("labclip", [name])
        assert main.commands[name].make_context(name, words, parent).params


def test_progress_and_losses_are_read_from_the_bar():
    job = Job([], str, 200)
    for loss in ("2.0", "1.25"):
        job.read("Fitting", f"fit:  12%|#2        | 55/448 [00:03<00:21, 18.1batch/s, loss={loss}]")
    assert (job.title, job.percent, job.losses) == ("Fitting: fit 55/448, 00:21 left", 12, [2.0, 1.25])
    shown = part("step", job, 0, 3.2, duration(job.seconds))
    assert "since 3 s; in all about 3 min expected" in shown
    assert 'value="12"' in shown
    assert "Loss: 2.000 to 1.250" in shown
    assert "Place 3 in the queue" in part("step", Job([], str, 1), 2, 0.0, "")


# Sessions


def test_sessions_do_not_see_each_other(answers, tmp_path):
    one, other = answers.session("one"), answers.session("other")
    assert answers.session("one") is one
    photo = uploaded(tmp_path, "mine.png", png(scenes.sample(1).images[0]))
    assert 'alt="mine.png"' in one.photo([photo], RIGHT, 1.0)[0]
    with pytest.raises(ValueError, match="There is no image"):
        other.compared(RIGHT, 1.0)
    assert "Images: 1." in one.indexed([photo])
    assert "mine.png" in one.searched(RIGHT, "")
    assert "mine.png" not in other.searched(RIGHT, "")
    one.taken([photo])
    one.taken([uploaded(tmp_path, "../words.csv", lines("mine.png,a cat,a dog"))])
    assert sorted(path.name for path in one.folder.rglob("*") if path.is_file()) == [
        "mine.png",
        "mine.png",
        "words.csv",
    ]
    answers.end("one")
    assert not one.folder.exists()
    assert answers.session("one") is not one


def test_one_session_too_many_ends_the_oldest(answers, monkeypatch):
    monkeypatch.setattr("labclip.app.answers.SESSIONS", 2)
    first, second = answers.session("1"), answers.session("2")
    assert answers.session("3") is not first
    assert (first.folder.exists(), answers.session("2") is second) == (False, True)


def test_a_fit_needs_both_files_and_keeps_them(answers, tmp_path):
    session, table = answers.session("one"), uploaded(tmp_path, "words.csv", lines("0.png,a cat,a dog"))
    session.taken([table])
    with pytest.raises(ValueError, match="Upload a file of captions"):
        session.fit(1, 500)
    session.jobs["fitted"] = answers.add(session.fit(0, 500))
    with pytest.raises(ValueError, match="A fit uses your files"):
        session.taken([table])


def test_a_fit_that_is_not_worth_it_says_why(answers, tmp_path):
    (tmp_path / "stdout").write_text(json.dumps({"written": False, "advice": ["Too few, or pass keep=0.97."]}))
    (tmp_path / "report.html").write_text("a report")
    shown = answers.session("one").fit(0, 500).finish(tmp_path)
    assert "there is no matrix" in shown
    assert "Too few." in shown
    assert "keep=" not in shown
    assert answers.session("one").fitted is None


# The command


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
    assert "asks for no password" in shown.stderr


def test_without_gradio_the_command_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    said = commands.run("app", code=2).stderr
    assert said.endswith('Error: The page needs gradio. Type: pip install "labclip[app]"\n')


def test_a_port_that_is_taken_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code = f"import sys, labclip.cli as c; c.main(['app', '--port', '{port}'], standalone_mode=False)"
        shown = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert f"can't listen on 127.0.0.1:{port} (Address already in use). Pass another --port" in shown.stderr
    assert "| torch" not in shown.stderr
    assert "| gradio" not in shown.stderr
