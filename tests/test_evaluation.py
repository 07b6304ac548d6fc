"""Base against alignments, and what is told of bad questions."""

import json

import pytest
import torch
from PIL import Image

from labclip import LABCLIP, Alignment, scenes
from labclip.data.images import ImageSource
from labclip.encode.cache import Cache, encode
from labclip.evaluation import BENCHMARKS, Where, evaluate, tables
from labclip.features import embed

SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


@pytest.fixture
def model():
    return LABCLIP.from_pretrained("scenes")


@pytest.fixture
def sugarcrepe(tmp_path):
    """Two items a subset of SugarCrepe's layout, on seven pictures that every subset shares."""
    drawn = scenes.sample(14, seed=5)
    for row in range(7):
        Image.fromarray(drawn.images[row]).save(tmp_path / f"{row}.png")
    for number, name in enumerate(SUBSETS):
        items = {
            str(3 * place): {
                "filename": f"{number}.png",
                "caption": drawn.captions[number] + " ." * place,
                "negative_caption": drawn.swapped_captions[number] + " ." * place,
            }
            for place in (0, 1)
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(items))
    return tmp_path


def pictures_of(drawn):
    return [ImageSource(f"scene {row}", data=image) for row, image in enumerate(drawn.images)]


def rounding(model, monkeypatch):
    """Makes every pass come out a little different, as products of other sizes do on two threads or a GPU."""
    own, passes = model.encode_text, iter(range(1, 100))

    def text(captions, **options):
        features = own(captions, **options)
        return features + 1e-4 * next(passes) * torch.linspace(-1, 1, features.shape[1])

    monkeypatch.setattr(model, "encode_text", text)


def test_base_and_labclip_stand_side_by_side(sugarcrepe):
    report = evaluate("sugarcrepe", "scenes", data=sugarcrepe, cache=None, progress=False)
    assert report.models == ("base", "labclip")
    found = report.as_json()["sugarcrepe"]
    assert {*SUBSETS, "add", "replace", "swap", "macro", "micro"} <= set(found["base"])
    assert found["pictures"] == 7
    right = found["labclip"]["micro"] * 14
    assert right == pytest.approx(round(right))
    assert found["differences"]["labclip"]["micro"]["value"] == pytest.approx(
        found["labclip"]["micro"] - found["base"]["micro"]
    )


def test_every_number_is_the_one_counted_by_hand(sugarcrepe, model):
    """Two items a subset; right where the caption's cosine is above its negative's."""
    report = evaluate("sugarcrepe", model, data=sugarcrepe, cache=None, progress=False).as_json()["sugarcrepe"]
    shares = {}
    for name in SUBSETS:
        right = 0
        for item in json.loads((sugarcrepe / f"{name}.json").read_text()).values():
            with torch.no_grad():
                image = model.encode_image(Image.open(sugarcrepe / item["filename"]), normalize=True)
                said = model.encode_text([item["caption"], item["negative_caption"]], normalize=True)
            good, bad = (said @ image[0]).tolist()
            right += good > bad
        shares[name] = right / 2
    assert {name: report["labclip"][name] for name in SUBSETS} == shares
    assert report["labclip"]["replace"] == pytest.approx(
        (shares["replace_att"] + shares["replace_obj"] + shares["replace_rel"]) / 3
    )
    assert report["labclip"]["micro"] == pytest.approx(sum(shares.values()) / 7)  # all subsets are of one size here


def test_strength_zero_is_the_base_on_every_metric(model):
    report = evaluate("scenes", model, options={"n": 300}, strengths=[0.0], cache=None, progress=False)
    found = report.as_json()["scenes"]
    assert found["base"] == found["labclip"]
    assert not any(one["measurable"] for one in found["differences"]["labclip"].values())


def test_several_alignments_and_strengths_have_a_column_each(model, tmp_path):
    other = Alignment.identity(256)
    other.save_pretrained(tmp_path / "none")
    report = evaluate(
        "scenes", "scenes", options={"n": 300}, alignments=["scenes", tmp_path / "none"], strengths=[0.5, 1],
        cache=None, progress=False,
    )  # fmt: skip
    assert report.models == ("base", "scenes@0.5", "scenes@1", f"{tmp_path / 'none'}@0.5", f"{tmp_path / 'none'}@1")
    found = report.as_json()["scenes"]
    assert found[report.models[3]] == pytest.approx(found["base"])
    assert found["scenes@1"]["binding"] > found["base"]["binding"] + 0.2


def test_a_base_without_a_matrix_is_measured_alone(model):
    bare = LABCLIP(model.clip, Alignment.identity(256), tokenizer=model.tokenizer)
    report = evaluate("scenes", bare, options={"n": 300}, cache=None, progress=False)
    assert report.models == ("base",)
    assert not report.results[0].compared[0].differences


def test_an_alignment_of_another_base_is_refused():
    with pytest.raises(ValueError, match=r"dim 8 .*embeds in 256"):
        evaluate("scenes", "scenes", alignments=Alignment.identity(8), cache=None, progress=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sugarcrap", "scenes"), r"no benchmark 'sugarcrap'. Did you mean 'sugarcrepe'"),
        (({}, "scenes"), "No benchmark was named"),
        (({"scenes": Where(options={"m": 3})}, "scenes"), "scenes has no option 'm'. It has n, seed"),
        (({"scenes": Where(options={"n": "many"})}, "scenes"), "option n is 'many'. Type a number"),
        (({"sugarcrepe": Where()}, "scenes"), "No data was given"),
        (({"sugarcrepe": Where("/nowhere/at/all")}, "scenes"), r"There is no .*nowhere.*SugarCrepe wants"),
    ],
)
def test_bad_questions_are_told_in_one_line(arguments, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        evaluate(*arguments, cache=None, progress=False)
    assert "\n" not in str(caught.value)


def test_all_missing_files_are_named_at_once(tmp_path):
    (tmp_path / "swap_att.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"6 of 7 files are missing.*add_att.*swap_obj.*RAIVNLab"):
        evaluate("sugarcrepe", "scenes", data=tmp_path, cache=None, progress=False)


def test_missing_pictures_are_counted_or_left_out_with_a_note(sugarcrepe):
    (sugarcrepe / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 7 pictures are missing, for example .*0\.png"):
        evaluate("sugarcrepe", "scenes", data=sugarcrepe, cache=None, progress=False)
    report = evaluate("sugarcrepe", "scenes", data=sugarcrepe, on_missing="skip", cache=None, progress=False)
    found = report.as_json()["sugarcrepe"]
    assert found["about"]["data"] == str(sugarcrepe)
    assert found["about"]["weights_sha256"] == report.weights_sha256
    assert "1 of 7 pictures are missing" in found["notes"][0]
    assert found["n"]["micro"] == 12
    assert "add_att" not in found["base"]


def test_no_picture_at_all_is_an_error_whatever_is_skipped(sugarcrepe):
    for path in sugarcrepe.glob("*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"All 7 pictures are missing, .* Pass --images DIR"):
        evaluate("sugarcrepe", "scenes", data=sugarcrepe, on_missing="skip", cache=None, progress=False)


def test_captions_that_are_one_to_the_model_are_noted(sugarcrepe):
    long = "a red cube left of a blue sphere and a " + "very " * 20
    (sugarcrepe / "add_att.json").write_text(
        json.dumps({"0": {"filename": "0.png", "caption": long + "green cone", "negative_caption": long + "red cone"}})
    )
    with pytest.warns(UserWarning, match="longer than the 16 tokens"):
        report = evaluate("sugarcrepe", "scenes", data=sugarcrepe, cache=None, progress=False)
    found = report.as_json()["sugarcrepe"]
    assert found["base"]["add_att"] == 0  # a tie is wrong
    assert any("have the very embedding of another" in note for note in found["notes"])


def test_every_benchmark_says_what_it_wants():
    for name, one in BENCHMARKS.items():
        assert one.name == name
        assert one.measures in ("binding", "retrieval", "classification")
        assert all((one.title, one.wants, one.source, one.licence, one.headline))


def test_a_feature_folder_gives_what_its_pictures_give(tmp_path, model):
    drawn = scenes.sample(40, seed=8)
    lines = ["image,caption,negative"]
    for row in range(40):
        Image.fromarray(drawn.images[row]).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{drawn.captions[row]},{drawn.swapped_captions[row]}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    embed(model, captions=tmp_path / "own.csv", out=tmp_path / "features", progress=False)
    folder = evaluate("features", model, data=tmp_path / "features", cache=None, progress=False).as_json()["features"]
    own = evaluate("csv", model, data=tmp_path / "own.csv", cache=None, progress=False).as_json()["csv"]
    assert folder["base"]["binding"] == own["base"]["binding"]
    assert folder["labclip"]["binding"] == own["labclip"]["binding"]
    with torch.no_grad():
        model.clip.visual.conv1.weight[0, 0, 0, 0] += 0.5
    with pytest.raises(ValueError, match=r"weights of SHA-256 .*Embed again"):
        evaluate("features", model, data=tmp_path / "features", cache=None, progress=False)


def test_a_negative_that_only_shouts_is_a_tie_and_noted(model, tmp_path, monkeypatch):
    monkeypatch.setattr("labclip.encode.cache.BLOCK", 3)
    rounding(model, monkeypatch)
    drawn = scenes.sample(8, seed=9)
    lines = ["image,caption,negative"]
    for row in range(8):
        Image.fromarray(drawn.images[row]).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{drawn.captions[row]},{drawn.captions[row].upper()}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    found = evaluate("csv", model, data=tmp_path / "own.csv", cache=None, progress=False).as_json()["csv"]
    assert (found["base"]["binding"], found["labclip"]["binding"]) == (0, 0)
    assert any(note.startswith("8 of 16 captions have the very embedding") for note in found["notes"])


def test_the_same_picture_under_two_names_is_noted(tmp_path):
    drawn = scenes.sample(3, seed=10)
    lines = ["image,caption"]
    for row, name in ((0, "a"), (1, "b"), (2, "c"), (0, "copy")):
        Image.fromarray(drawn.images[row]).save(tmp_path / f"{name}.png")
        lines.append(f"{name}.png,{drawn.captions[row]}{' again' * (name == 'copy')}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    notes = evaluate("csv", "scenes", data=tmp_path / "own.csv", cache=None, progress=False).results[0].notes
    assert any(note.startswith("1 of 4 pictures of the gallery have the very embedding") for note in notes)


def test_an_alignment_called_as_the_report_calls_something_is_refused(model, tmp_path, monkeypatch):
    """Its numbers would stand where the base's do."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "other"):
        Alignment.identity(256).save_pretrained(name)
    with pytest.raises(ValueError, match=r"The alignment base has a name that the report uses itself\. Type \./base"):
        evaluate("scenes", model, options={"n": 20}, alignments=["base", "other"], cache=None, progress=False)
    report = evaluate("scenes", model, options={"n": 20}, alignments=["./base", "other"], cache=None, progress=False)
    assert report.models == ("base", "./base", "other")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"strengths": [0.5, 0.5]}, "strength 0.5 is asked for twice"), ({"seed": -1}, "seed is -1. Pass a whole number")],
)
def test_settings_that_are_none_are_told_before_the_work(model, arguments, said):
    with pytest.raises(ValueError, match=said):
        evaluate("scenes", model, options={"n": 20}, cache=None, progress=False, **arguments)


def test_a_full_disk_loses_no_result(model, tmp_path, monkeypatch):
    asked = pictures_of(scenes.sample(60, seed=11)), scenes.sample(60, seed=11).captions
    whole = encode(model, *asked, progress=False)
    with Cache(tmp_path, model) as cache:
        cache._file.execute("PRAGMA max_page_count = 12")
        with pytest.warns(UserWarning, match=r"can't be written \(.*full.*\); what follows is not kept") as told:
            found = encode(model, *asked, cache=cache, batch_size=8, progress=False)
    assert len(told) == 1
    assert torch.allclose(found[0], whole[0], atol=1e-6)
    assert torch.allclose(found[1], whole[1], atol=1e-6)
    with Cache(tmp_path, model) as cache:  # and what was kept is sound
        assert torch.allclose(encode(model, *asked, cache=cache, progress=False)[0], whole[0], atol=1e-6)


def test_a_matrix_that_names_no_base_is_told(model):
    bare = Alignment(model.alignment.fitted)
    said = [
        tables.terminal(
            evaluate("scenes", model, options={"n": 20}, alignments=one, cache=None, progress=False), width=500
        )
        for one in (bare, model.alignment)
    ]
    assert ["does not say which base it was fitted on" in one for one in said] == [True, False]
