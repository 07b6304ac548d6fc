"""The demo: its figures are those of `evaluate`, its report, its picture."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

import labclip
from labclip import demo, scenes
from labclip.demo import finding
from labclip.scenes import captions, vocabulary


@pytest.fixture(scope="session")
def run():
    return demo.run(n=64, seed=3)


def test_figures_are_those_of_evaluate_and_show_the_finding_and_the_repair(run):
    results = json.loads(json.dumps(run.results))
    assert set(results) == {"base", "labclip", "chance", "probes", "n", "seed"}
    base, aligned, probes = results["base"], results["labclip"], results["probes"]
    assert set(base) == set(aligned) == set(results["chance"]) == set(finding.ROWS)
    report = labclip.evaluate("scenes", "scenes", options={"n": 64, "seed": 3}, cache=None, progress=False)
    for name in base.keys() - {"binding_three"}:
        measured = report["scenes"].metric(name).estimates
        assert [base[name], aligned[name]] == [round(estimate.value, 4) for estimate in measured]
        chance = measured[0].chance
        assert results["chance"][name] == (None if chance is None else round(chance, 4))
    assert base["binding"] < 0.75  # 64 scenes: three standard errors above 0.6
    assert aligned["binding"] > max(0.9, aligned["binding_three"])
    assert aligned["binding_heldout"] > base["binding_heldout"] + 0.1
    assert min(probes["image"], probes["text"]) > 0.9 > probes["chance"]


def test_the_search_is_that_of_the_query_which_confuses_the_base_most(run):
    model, drawn = labclip.LABCLIP.from_pretrained("scenes"), scenes.sample(64, seed=3, split="all")
    images = model.encode_image([Image.fromarray(image) for image in drawn.images])
    large = drawn.render(256)
    unseen, accuracy = vocabulary.HELD_OUT | vocabulary.VALIDATION, {}
    for (c, colour), (s, shape) in itertools.product(enumerate(scenes.COLOURS), enumerate(scenes.SHAPES)):
        if unseen[c, s] or not any((colour, shape) in objects for objects in drawn.objects):
            continue
        for aligned in (False, True):
            text = model.encode_text(captions.noun_phrase(colour, shape), aligned=aligned)
            top = model.similarity(images, text)[:, 0].topk(5).indices.tolist()
            answers = ["right" if (colour, shape) in objects else "confused" if {colour, shape} <= words else "neither"
                       for objects in (drawn.objects[number] for number in top)
                       for words in [{word for pair in objects for word in pair}]]  # fmt: skip
            accuracy[captions.noun_phrase(colour, shape), aligned] = answers, large[top]
    assert run.search.query == max((query for query, aligned in accuracy if not aligned),
                                   key=lambda query: accuracy[query, False][0].count("confused"))  # fmt: skip
    for name, aligned in (("base", False), ("labclip", True)):
        answers, shown = accuracy[run.search.query, aligned]
        assert run.search.answers[name] == answers
        assert np.array_equal(run.search.images[name], shown)


def test_the_report_says_it_all(run):
    text = str(run)
    for key, (label, of) in finding.ROWS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{label} ({of})"))
        assert f"{run.results['base'][key]:.3f}" in line
        assert f"{run.results['labclip'][key]:.3f}" in line
    flat = " ".join(text.split())
    assert all(caption in text for example in run.examples[:7] for caption in example.captions)
    assert f"{run.search.query!r}" in text
    assert ", ".join(run.search.answers["labclip"]) in flat
    assert max(map(len, text.splitlines())) <= 100


def test_the_figure_has_a_dark_and_a_narrow_form(run, tmp_path):
    sizes, corners = {}, {}
    for dark, narrow in itertools.product((False, True), repeat=2):
        path = demo.draw(run, tmp_path / f"{dark}{narrow}.png", dark=dark, narrow=narrow)
        assert path.stat().st_size < 1_500_000
        with Image.open(path) as image:
            sizes[dark, narrow], corners[dark, narrow] = image.size, image.convert("L").getpixel((0, 0))
            assert len(image.convert("RGB").getcolors(1 << 22)) > 1000
            # Nothing is cut off: the frame is empty.
            frame = [image.crop(box) for box in ((0, 0, image.width, 20), (0, image.height - 12, *image.size))]
            assert {len(part.getcolors()) for part in frame} == {1}
    assert {size[0] for form, size in sizes.items() if not form[1]} == {1560}
    assert sizes[False, True] == sizes[True, True] > (1039, 2 * 1040)
    assert min(corners[False, narrow] for narrow in (False, True)) > 230
    assert max(corners[True, narrow] for narrow in (False, True)) < 40
