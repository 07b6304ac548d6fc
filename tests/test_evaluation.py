"""Encoding once, the cache, and base against alignments."""

import json
import sqlite3

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from labclip import LABCLIP, Alignment, scenes
from labclip.evaluation import BENCHMARKS, Where, evaluate
from labclip.evaluation.cache import Cache
from labclip.evaluation.encoding import encode
from labclip.evaluation.picture import Captions, Picture, Pictures
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
    return [Picture(image, f"scene {row}") for row, image in enumerate(drawn.images)]


class Counted:
    """Counts what goes through the towers."""

    def __init__(self, model, monkeypatch):
        self.images = self.captions = 0
        own_image, own_text = model.encode_image, model.encode_text

        def image(batch, **options):
            self.images += len(batch)
            return own_image(batch, **options)

        def text(block, **options):
            self.captions += len(block)
            return own_text(block, **options)

        monkeypatch.setattr(model, "encode_image", image)
        monkeypatch.setattr(model, "encode_text", text)


def test_encode_is_the_models_own_embedding_of_unit_length_in_order(model):
    drawn = scenes.sample(5, seed=1)
    captions = [*drawn.captions, *drawn.tags]
    images, texts = encode(model, pictures_of(drawn), captions, batch_size=2, progress=False)
    with torch.no_grad():
        own = model.clip.encode_image(torch.stack([model.preprocess(Image.fromarray(i)) for i in drawn.images]))
        said = model.clip.encode_text(model.tokenizer(captions))
    torch.testing.assert_close(images, F.normalize(own.float(), dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, F.normalize(said.float(), dim=-1), atol=1e-5, rtol=0)


def test_a_second_run_encodes_nothing_and_gives_the_same_bits(model, tmp_path, monkeypatch):
    drawn = scenes.sample(6, seed=2)
    asked = pictures_of(drawn), drawn.captions
    with Cache(tmp_path, model) as cache:
        first = encode(model, *asked, cache=cache, progress=False)
    counted = Counted(model, monkeypatch)
    with Cache(tmp_path, model) as cache:
        second = encode(model, *asked, cache=cache, progress=False)
    assert (counted.images, counted.captions) == (0, 0)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_equal_content_is_encoded_once_whatever_it_is_called(model, monkeypatch):
    drawn = scenes.sample(2, seed=3)
    twice = [Picture(drawn.images[0], "one"), Picture(drawn.images[0].copy(), "other"), Picture(drawn.images[1], "b")]
    counted = Counted(model, monkeypatch)
    images, _ = encode(model, twice, ["a red cube"], progress=False)
    assert counted.images == 2
    assert torch.equal(images[0], images[1])


def test_the_cache_of_one_base_is_not_asked_by_another(model, tmp_path):
    other = LABCLIP.from_pretrained("scenes")
    with torch.no_grad():
        other.clip.visual.conv1.weight[0, 0, 0, 0] += 0.5
    assert Cache(tmp_path, model).path != Cache(tmp_path, other).path


def test_another_preprocessing_has_another_cache(model, tmp_path):
    other = LABCLIP(model.clip, model.alignment, preprocess=lambda image: model.preprocess(image))
    assert Cache(tmp_path, model).path != Cache(tmp_path, other).path


def test_a_damaged_row_of_the_cache_is_encoded_anew(model, tmp_path):
    asked = pictures_of(scenes.sample(2, seed=4)), ["a red cube"]
    with Cache(tmp_path, model) as cache:
        whole = encode(model, *asked, cache=cache, progress=False)
    with sqlite3.connect(cache.path) as file:
        file.execute("UPDATE rows SET row = zeroblob(1024)")
    file.close()
    with Cache(tmp_path, model) as cache:
        again = encode(model, *asked, cache=cache, progress=False)
    assert torch.allclose(whole[0], again[0], atol=1e-6)
    assert torch.allclose(whole[1], again[1], atol=1e-6)


def test_a_damaged_cache_says_what_to_delete(model, tmp_path):
    with Cache(tmp_path, model) as cache:
        pass
    cache.path.write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    with pytest.raises(ValueError, match=r"can't be used .*Delete that file"):
        Cache(tmp_path, model)


def test_broken_pictures_are_counted_and_named_and_the_others_kept(model, tmp_path, monkeypatch):
    drawn = scenes.sample(3, seed=6)
    for row in range(3):
        Image.fromarray(drawn.images[row]).save(tmp_path / f"{row}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    asked = [Picture(tmp_path / f"{row}.png", f"{row}.png") for row in range(3)]
    with Cache(tmp_path / "cache", model) as cache, pytest.raises(ValueError, match=r"1 of 3 pictures .*1\.png is no"):
        encode(model, asked, ["a red cube"], cache=cache, progress=False)
    Image.fromarray(drawn.images[1]).save(tmp_path / "1.png")
    counted = Counted(model, monkeypatch)
    with Cache(tmp_path / "cache", model) as cache:
        encode(model, asked, ["a red cube"], cache=cache, progress=False)
    assert counted.images == 1


def test_a_crop_is_cut_before_preprocessing(model):
    large = np.zeros((64, 160, 3), dtype=np.uint8)
    large[:, 50:114] = scenes.sample(1, seed=7).images[0]
    crop, whole = Picture(large, "crop", (50, 0, 64, 64)), Picture(large[:, 50:114].copy(), "whole")
    images, _ = encode(model, [crop, whole], ["a red cube"], progress=False)
    assert torch.allclose(images[0], images[1], atol=1e-6)


def test_a_box_outside_its_picture_is_named(model):
    with pytest.raises(ValueError, match=r"the box .* lies outside its 64 x 64 pixels"):
        encode(model, [Picture(scenes.sample(1).images[0], "p", (70, 0, 5, 5))], ["a"], progress=False)


def test_training_mode_is_left_as_it_was(model):
    model.train()
    encode(model, pictures_of(scenes.sample(1)), ["a red cube"], progress=False)
    assert model.training
    assert model.clip.training


def test_collected_pictures_and_captions_are_kept_once(tmp_path):
    (tmp_path / "a.png").touch()
    pictures, captions = Pictures(), Captions()
    assert [pictures.file(tmp_path / name) for name in ("a.png", "b.png", "a.png", "b.png")] == [0, None, 0, None]
    assert pictures.file(tmp_path / "a.png", (0, 0, 1, 1)) == 1
    assert [path.name for path in pictures.missing] == ["b.png"]
    assert [captions.row(text, "here") for text in ("x", "y", "x")] == [0, 1, 0]
    with pytest.raises(ValueError, match=r"here: the caption is '  '"):
        captions.row("  ", "here")


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
    assert "1 of 7 pictures are missing" in found["notes"][0]
    assert found["n"]["micro"] == 12
    assert "add_att" not in found["base"]


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
