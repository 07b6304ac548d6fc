"""The diagnosis: planted data get the verdict they were planted for, by the rules, and the report says the same."""

import itertools
import json
import re
import sys
from dataclasses import replace
from functools import partial

import commands
import models
import planted_scenes
import pytest
import rows
import torch
from PIL import Image

from labclip import LABCLIP, Alignment, analysis, evaluate, scenes
from labclip.analysis import repair, verdict
from labclip.analysis.diagnosis import diagnose_features
from labclip.analysis.probes import Probed
from labclip.data.images import ImageSource
from labclip.evaluation.scene_files import LabelledScenes, labelled_scenes
from labclip.evaluation.scores import Estimate
from labclip.negatives import taggers
from labclip.report.values import percent, signed
from labclip.training.trainer import one_thread

SCENES = planted_scenes.contents(repeat=3)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Fewer steps, for what is tested is what is made of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair, "STEPS", 20)
        yield


@pytest.fixture(scope="module")
def lost_in_alignment():
    return diagnose_features(planted_scenes.embedded(SCENES))


@pytest.mark.parametrize(
    ("world", "code"),
    [
        ({"image": False}, "image"),
        ({"text": False}, "text"),
        ({"image": False, "text": False}, "both"),
        ({"shared": True}, "nothing"),
    ],
)
def test_a_planted_loss_is_found_where_it_was_planted(world, code):
    diagnosis = diagnose_features(planted_scenes.embedded(SCENES, **world), fit=False)
    assert diagnosis.verdict.code == code
    assert diagnosis.repair.models == ["base"]
    assert not diagnosis.verdict.repair


def test_a_loss_of_the_alignment_is_found_and_repaired_on_combinations_and_pairs_never_seen(lost_in_alignment):
    diagnosis = lost_in_alignment
    assert diagnosis.verdict.code == "alignment"
    base, fitted = diagnosis.repair.binding.estimates
    assert base.value < 0.6
    assert fitted.value > 0.9
    assert diagnosis.repair.binding.differences[0].measurable
    assert diagnosis.repair.unseen_pairs.estimates[1].value > 0.75
    assert diagnosis.verdict.repair[0].startswith("Binding with a matrix fitted on other combinations is 9")
    assert (diagnosis.after, len(diagnosis.repair.fitted)) == ("fitted", 3)
    # Retrieval has one scene a combination.
    assert diagnosis.repair.galleries == [50, 50, 50]
    assert {metric.metric: metric.estimates[0].n for metric in diagnosis.repair.retrieval} == dict.fromkeys(
        ("captions_t2i_r1", "captions_i2t_r1", "tags_t2i_r1", "tags_i2t_r1"), 150
    )
    assert diagnosis.repair.retrieval[0].estimates[0].value > 0.9


def test_a_fit_never_sees_what_it_is_measured_on(monkeypatch):
    data = planted_scenes.embedded(SCENES)
    seen = []

    def kept(data, keep, **_):
        seen.append(keep)
        return Alignment.identity(data.images.shape[1])

    monkeypatch.setattr(repair, "fit_on", kept)
    fold = analysis.folds_of(data.labels, 3)
    done = repair.repair(data, fold, None)
    for number in range(3):
        fitted = set(data.labels.combination[seen[number]])
        assert not fitted & set(data.labels.combination[fold == number])
    named = [{(a, o) for a, _ in scene for _, o in scene} for scene in SCENES]
    held = [scene for scene, keep in zip(named, seen[3], strict=True) if not keep]
    pairs = set.union(*(scene for scene, keep in zip(named, seen[3], strict=True) if keep))
    assert held
    assert done.unseen_pairs.estimates[1].n == sum(not set(scene) <= pairs for scene in SCENES)
    assert done.unseen_pairs.differences[0].value == 0  # an identity changes nothing


def test_the_models_own_matrix_is_measured_beside(lost_in_alignment):
    data = planted_scenes.embedded(SCENES)
    diagnosis = diagnose_features(data, lost_in_alignment.repair.fitted[0], fit=False)
    assert (diagnosis.repair.models, diagnosis.after) == (["base", "own"], "own")
    assert diagnosis.repair.binding.estimates[1].value > 0.9
    assert diagnosis.verdict.repair[0].startswith("Binding with the model's own matrix is 9")
    noise = Alignment(torch.randn(35, 35, generator=torch.Generator().manual_seed(0)))
    harmful = diagnose_features(data, noise, fit=False)
    assert re.search(
        r"^Binding with .* 50\..*, no measurable difference\. It costs 100 points", harmful.verdict.repair[0]
    )


def estimate(value, low, high):
    return Estimate(value, low, high, 1000, 1 / 6)


def side(value, low, high, half=None, learnt=512):
    return Probed(estimate(value, low, high), 0.5, {}, 0, learnt, 512, half)


GOOD, BAD = side(0.95, 0.93, 0.97), side(0.55, 0.5, 0.6, half=0.54)
LOW = estimate(0.6, 0.55, 0.65)


@pytest.mark.parametrize(
    ("image", "text", "cosine", "combinations", "code", "why"),
    [
        (GOOD, GOOD, LOW, 30, "alignment", "binding can be read"),
        (GOOD, GOOD, LOW, 29, "unclear", "binding can be read"),
        (GOOD, GOOD, estimate(0.95, 0.9, 0.97), 99, "nothing", "binding can be read"),
        (GOOD, GOOD, estimate(0.9, 0.88, 0.92), 99, "unclear", "binding can be read"),
        (BAD, GOOD, LOW, 99, "image", "binding can't be read"),
        (GOOD, BAD, LOW, 99, "text", "binding can be read"),
        (side(0.55, 0.5, 0.6, half=0.54, learnt=511), GOOD, LOW, 99, "unclear", "learned from 511 scenes per object"),
        (side(0.95, 0.93, 0.97, learnt=99), GOOD, LOW, 99, "alignment", "binding can be read"),  # it is there
        (BAD, BAD, LOW, 99, "both", "binding can't be read"),
        (side(0.76, 0.74, 0.78), GOOD, LOW, 99, "unclear", "has an interval that spans the threshold"),  # .75
        (side(0.76, 0.75, 0.78), GOOD, LOW, 99, "alignment", "binding can be read"),
        (side(0.65, 0.6, 0.7, half=0.61), GOOD, LOW, 99, "unclear", "would read more from more scenes"),
        (side(0.65, 0.6, 0.7, half=0.64), GOOD, LOW, 99, "image", "binding can't be read"),
        (side(0.54, 0.52, 0.56, half=0.3), GOOD, LOW, 99, "image", "can't be read"),  # it knows the words alone
        (side(0.4, 0.38, 0.42, half=0.3), GOOD, LOW, 99, "unclear", "would read more"),  # not even these yet
        (side(0.2, 0.18, 0.22, half=0.19), GOOD, LOW, 99, "image", "not even a scene's attributes"),
    ],
)
def test_the_rules_and_what_they_say_of_the_images(image, text, cosine, combinations, code, why):
    judged = verdict.judge({"image": image, "text": text}, cosine, combinations)
    assert judged.code == code
    assert why in judged.reasons[1]
    assert len(judged.reasons) == 3 + (code == "unclear")


def test_a_text_encoder_that_is_a_bag_of_words_to_the_last_bit_leaves_nothing_to_fit():
    data = planted_scenes.embedded(SCENES, text=False, noise=0)
    diagnosis = diagnose_features(replace(data, texts={**data.texts, "swapped": data.texts["captions"]}))
    assert diagnosis.verdict.code == "text"
    assert diagnosis.repair.binding.estimates[0].value == 0  # ties are wrong
    assert diagnosis.repair.models == ["base"]
    assert any("each caption and its swapped version the same embedding" in note for note in diagnosis.notes)


def test_the_same_seed_gives_the_same_figures(lost_in_alignment):
    data = planted_scenes.embedded(SCENES)
    with one_thread():  # as in a diagnosis: more of them sum in another order
        again = repair.fit_on(data, analysis.folds_of(data.labels, 3) != 0)
    assert torch.equal(again.matrix, lost_in_alignment.repair.fitted[0].matrix)
    few = planted_scenes.embedded(SCENES[:300])
    first, second, other = (diagnose_features(few, fit=False, seed=seed).to_json() for seed in (1, 1, 2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["probes"] != other["probes"]


def test_json_text_page_and_tables_say_the_same(lost_in_alignment, tmp_path):
    diagnosis = lost_in_alignment
    values = json.loads(json.dumps(diagnosis.to_json(), allow_nan=False))
    assert values["verdict"]["code"] == "alignment"
    assert values["binding"]["models"]["fitted"]["value"] == diagnosis.repair.binding.estimates[1].value
    html = diagnosis.write_html(tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("<img ") == 2
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    for text in (str(diagnosis), html):
        assert f"{values['probes']['image']['accuracy']['value']:.3f}" in text
        assert f"{values['binding']['models']['base']['value']:.3f}" in text
        assert " ".join(diagnosis.verdict.headline.split()) in " ".join(text.split())
    markdown = diagnosis.to_markdown(level=2)
    assert markdown.startswith("## Where binding is lost: embeddings\n\nThis model")
    assert sum(line.startswith("**") for line in markdown.splitlines()) == 7  # tables
    moved = diagnosis.repair.retrieval[0].differences[0]
    assert not moved.measurable  # which a table without colours says too
    assert f"no measurable difference | [{signed(moved.low)}, {signed(moved.high)}] |" in markdown
    assert repr(diagnosis) == "<Diagnosis of 'embeddings' on 900 scenes: alignment>"


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (lambda scenes: LabelledScenes([], [], [], [], "nothing"), {}, "There are no scenes"),
        (lambda scenes: replace(scenes, swapped=[None] * 12), {}, "No caption of .* can have two attributes swapped"),
        (lambda scenes: replace(scenes, images=[ImageSource("broken", data=b"no image"), *scenes.images[1:]]), {},
         "broken is not a complete image"),
        (lambda scenes: scenes, {"seed": -1}, "seed is -1"),
        (lambda scenes: None, {"images": "photos"}, r"images is the folder of the images of data=PATH\. Pass"),
    ],
)  # fmt: skip
def test_what_can_not_be_diagnosed(data, options, message):
    with pytest.raises(ValueError, match=message):
        analysis.diagnose("scenes", data(labelled_scenes(12, seed=1)), progress=False, **options)
    with pytest.raises(ValueError, match=r"The model is a object\. Wrap it: LABCLIP\(model, Alignment"):
        analysis.diagnose(object())


METRICS = ["part_swap", "part_foil", "half_truth", "whole_truth", "search_map", "search_p5", "search_confused5"]


@pytest.mark.parametrize("own", [True, False])
def test_parts_and_search_of_drawn_scenes_are_those_of_evaluate(own):
    model = LABCLIP.from_pretrained("scenes", strength=1 if own else 0)
    diagnosis = analysis.diagnose(model, scenes=90, folds=2, seed=3, fit=False, progress=False)
    there = evaluate(model, "scenes", options={"n": 90, "seed": 3}, cache=None, progress=False)["scenes"]
    (measured,) = diagnosis.evaluated.results
    assert [metric.metric for metric in measured.compared if metric.side != "control"] == METRICS
    for compared in measured.compared:
        assert compared == there.metric(compared.metric)
    values = json.loads(json.dumps(diagnosis.to_json()))["benchmarks"]["scenes"]["models"]
    assert set(values) == {"base", "own"} if own else {"base"}
    assert values["base"]["half_truth_grounded"] == there.metric("half_truth_grounded").estimates[0].value
    confused = [f"{percent(estimate.value)}%" for estimate in there.metric("search_confused5").estimates]
    (reason,) = (sentence for sentence in diagnosis.verdict.reasons if sentence.startswith("In a search for a part"))
    assert re.findall(r"[\d.]+%", reason) == confused
    assert re.search(rf"search_map +\d+ +{values['base']['search_map']:.3f}", str(diagnosis))


def test_own_captions_have_parts_search_and_retrieval_and_no_verdict(tmp_path, monkeypatch):
    table = scenes.sample(90, seed=1).save(tmp_path / "captions")
    diagnosis = analysis.diagnose("scenes", table, cache=None, progress=False)
    there = evaluate("scenes", ["parts", "csv"], data={"parts": table, "csv": table}, cache=None, progress=False)
    for name in ("parts", "csv"):
        assert diagnosis.evaluated[name].compared == there[name].compared
    assert (diagnosis.verdict.code, diagnosis.probes, diagnosis.repair, diagnosis.scenes) == ("unclear", {}, None, 90)
    assert "no probe can be trained" in diagnosis.verdict.reasons[0]
    assert "In a search for a part" in diagnosis.verdict.reasons[1]
    html = diagnosis.write_html(tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (str(diagnosis), html):
        assert "Parts of own captions" in text
        assert f"{there['parts'].metric('search_map').estimates[1].value:.3f}" in text
    # Without a tagger the rest is shown, and what to install.
    monkeypatch.setitem(sys.modules, "HanTa.HanoverTagger", None)
    taggers._hanta.cache_clear()
    diagnosis = analysis.diagnose("scenes", table, cache=None, progress=False)
    assert diagnosis.evaluated["csv"].compared == there["csv"].compared
    assert len(diagnosis.evaluated.results) == 1
    assert any("Parts and search were not measured" in note and 'install "labclip[' in note for note in diagnosis.notes)


@pytest.mark.slow
def test_the_embedded_model_is_diagnosed_as_it_was_made():
    diagnosis = analysis.diagnose("scenes", progress=False)
    assert (diagnosis.model, diagnosis.repair.models) == ("scenes (embedded)", ["base", "own", "fitted"])
    assert diagnosis.verdict.code == "alignment"
    assert diagnosis.repair.binding.estimates[2].value > diagnosis.repair.binding.estimates[0].value + 0.1


QUICK = ("--scenes", 90, "--folds", 2, "--no-fit")
run = partial(commands.run, "diagnose")


def test_the_verdict_stands_on_stdout_and_the_page_in_the_file(tmp_path):
    out = tmp_path / "report.html"
    result = run("--model", "scenes", *QUICK, "--out", out)
    assert "Where binding is lost: scenes (embedded)" in result.stdout
    assert re.search(r"Binding with the model's own matrix is [89]\d.*It costs", " ".join(result.stdout.split()))
    assert "search_confused5" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert f"Report: {out}" in result.stderr
    assert "captions" in result.stderr
    html = out.read_text(encoding="utf-8")
    assert "Where binding is lost" in html
    assert "<script" not in html


def test_json_is_one_object_and_a_strength_of_nothing_is_the_base():
    values = json.loads(run("--model", "scenes", *QUICK, "--json", "--strength", 0, "--seed", 3).stdout)
    assert (values["model"], values["scenes"], values["seed"]) == ("scenes (embedded)", 90, 3)
    assert (set(values["binding"]["models"]), values["binding"]["differences"]) == ({"base"}, {})
    assert values["spectrum"] is None


def test_own_images_and_any_model_with_fits(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCLIP_CACHE", str(tmp_path / "cache"))
    stranger = LABCLIP(models.make("clip"), Alignment(models.matrix()), tokenizer=models.tokenizer())
    stranger.save_pretrained(tmp_path / "model", config=models.CONFIGS["clip"])
    drawn, data = scenes.sample(80, seed=5), tmp_path / "data"
    data.mkdir()
    for row, image in enumerate(drawn.images):
        Image.fromarray(image).save(data / f"{row}.png")
    names = ["filename", "object1_color", "object1_shape", "object2_color", "object2_shape"]  # CLEVR's form
    labels = [[f"{row}.png", *itertools.chain(*objects)] for row, objects in enumerate(drawn.objects)]
    rows.write(data / "labels.csv", [dict(zip(names, row, strict=True)) for row in labels])
    values = json.loads(run("--model", tmp_path / "model", "--data", data, "--folds", 2, "--json").stdout)
    assert values["scenes"] == 80
    options = {"protocol": "labclip", "split": "all", "seed": 0}
    there = evaluate(tmp_path / "model", "clevr", data=data, options=options, progress=False)["clevr"]
    base = values["benchmarks"]["clevr"]["models"]["base"]
    assert set(METRICS) <= set(base)
    assert base == {name: there.metric(name).estimates[0].value for name in base}
    assert set(values["binding"]) == {"models", "differences"}
    assert set(values["binding"]["models"]) == {"base", "own", "fitted"}
    assert values["verdict"]["code"] != "alignment"  # it was never trained
    assert list((tmp_path / "cache").iterdir())
