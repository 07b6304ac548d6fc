"""`labclip diagnose`, as a person types it."""

import csv
import json
import re
from functools import partial

import commands
import models
import pytest
from PIL import Image

from labclip import LABCLIP, Alignment, scenes
from labclip.analysis import repair

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


@pytest.fixture
def folder(tmp_path):
    """An OpenCLIP model that knows nothing, with a matrix."""
    model = LABCLIP(models.make("clip"), Alignment(models.matrix()), tokenizer=models.tokenizer())
    model.save_pretrained(tmp_path / "model", config=models.CONFIGS["clip"])
    return tmp_path / "model"


def test_own_images_and_any_model_with_fits(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(repair, "STEPS", 20)
    monkeypatch.setenv("LABCLIP_CACHE", str(tmp_path / "cache"))
    data, drawn = tmp_path / "data", scenes.sample(80, seed=5)
    data.mkdir()
    with (data / "labels.csv").open("w", newline="") as file:  # CLEVR's form
        writer = csv.writer(file)
        writer.writerow(["filename", "object1_color", "object1_shape", "object2_color", "object2_shape"])
        for row, (image, objects) in enumerate(zip(drawn.images, drawn.objects, strict=True)):
            Image.fromarray(image).save(data / f"{row}.png")
            writer.writerow([f"{row}.png", *(word for pair in objects for word in pair)])
    values = json.loads(run("--model", folder, "--data", data, "--folds", 2, "--json").stdout)
    assert (values["scenes"], values["benchmarks"]) == (80, {})
    assert set(values["binding"]) == {"models", "differences"}
    assert set(values["binding"]["models"]) == {"base", "own", "fitted"}
    assert values["verdict"]["code"] != "alignment"  # it was never trained
    assert list((tmp_path / "cache").iterdir())
