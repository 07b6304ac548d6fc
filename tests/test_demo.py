"""The demo: its metrics, its report, its figure; and the measures it stands on, against obvious loops."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from labclip import LABCLIP, scenes
from labclip.scenes import demo, figure, measure


@pytest.fixture(scope="session")
def run():
    return demo.run(n=64, seed=3)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_results_have_the_keys_promised_and_are_json(run):
    results = json.loads(json.dumps(run.results))
    assert set(results) == {"base", "labclip", "probes", "n", "seed"}
    figures = {"binding_seen", "binding_heldout", "binding_three", "retrieval_r1", "tags_r1", "single_object"}
    assert set(results["base"]) == set(results["labclip"]) == figures
    assert set(results["probes"]) == {"image", "text", "chance"}
    assert all(0 <= value <= 1 for side in ("base", "labclip", "probes") for value in results[side].values())
    assert (results["n"], results["seed"]) == (64, 3)


def test_the_embedded_model_shows_the_finding_and_the_repair(run):
    base, labclip, probes = run.results["base"], run.results["labclip"], run.results["probes"]
    assert base["binding_seen"] < 0.75  # 64 scenes: three standard errors above 0.6
    assert labclip["binding_seen"] > 0.9
    assert labclip["binding_heldout"] > base["binding_heldout"] + 0.1
    assert labclip["binding_seen"] > labclip["binding_three"]
    assert min(probes["image"], probes["text"]) > 0.9


def test_examples_are_the_first_scenes_of_the_draw(run):
    first = scenes.sample(64, seed=3)
    assert [example.captions for example in run.examples[:3]] == [
        (first.captions[i], first.swapped_captions[i]) for i in range(3)
    ]
    assert np.array_equal(run.examples[0].image, first.render(256)[0])
    three = scenes.sample(64, seed=3, n_objects=3)
    assert [example.captions[0] for example in run.examples[6:]] == three.captions[:3]
    assert np.array_equal(run.examples[8].image, three.render(256)[2])
    assert [example.kind for example in run.examples] == ["seen"] * 3 + ["heldout"] * 3 + ["three"] * 3
    for example in run.examples:
        assert (example.base[0] > example.base[1]) == (example.base_probability > 0.5)
        assert (example.labclip[0] > example.labclip[1]) == (example.labclip_probability > 0.5)


def test_the_report_says_it_all(run):
    text = str(run)
    for key, label, _ in demo.ROWS:
        line = next(line for line in text.splitlines() if line.startswith(label))
        assert f"{run.results['base'][key]:.3f}" in line
        assert f"{run.results['labclip'][key]:.3f}" in line
    assert all(caption in text for example in run.examples[:7] for caption in example.captions)
    assert text.count("(three objects)") == 1
    assert text.count("(unseen pair)") == 3
    assert max(map(len, text.splitlines())) <= 130


def test_the_figure_is_written(run, tmp_path):
    path = figure.draw(run, tmp_path / "labclip-demo.png")
    with Image.open(path) as image:
        assert image.size == (1560, 1454)
        assert len(image.convert("RGB").getcolors(1 << 22)) > 1000
    assert path.stat().st_size < 1_500_000


def test_too_few_scenes_are_refused():
    with pytest.raises(ValueError, match=r"n is 3, .* demo\.run\(n=1000\)"):
        demo.run(n=3)


def test_images_are_embedded_as_the_preprocessing_of_the_model_would():
    model = LABCLIP.from_pretrained("scenes")
    images = scenes.sample(3).images
    expected = model.encode_image([Image.fromarray(image) for image in images], normalize=True)
    torch.testing.assert_close(measure.embed_images(model, images), expected.detach(), atol=1e-5, rtol=0)


def test_binding_counts_a_tie_as_wrong():
    images, captions = unit(4, 8), unit(4, 8, seed=1)
    assert measure.binding(images, captions, captions) == 0
    assert measure.binding(images, images, captions) == 1
    assert measure.binding(images, captions, images) == 0


def test_recall_against_a_loop():
    size = measure.GALLERY
    images = unit(2 * size, 8)
    texts = F.normalize(images + 0.3 * unit(2 * size, 8, seed=1), dim=-1)
    texts[7] = texts[9]  # a tie between two texts
    similarity = (images.double() @ texts.double().T).numpy()
    t2i = i2t = 0
    for start in (0, size):
        part = range(start, start + size)
        for i in part:
            t2i += all(similarity[j, i] < similarity[i, i] for j in part if j != i)
            i2t += all(similarity[i, j] < similarity[i, i] for j in part if j != i)
    assert measure.recall_at_1(images, texts) == pytest.approx((t2i / (2 * size), i2t / (2 * size)), abs=1e-6)
    assert measure.recall_at_1(images, images[0].expand_as(images))[1] == 0  # all texts tie


def test_a_gallery_never_shows_the_same_words_twice():
    layout = scenes.sample(320, split="all").layout
    rows = measure.gallery_rows(layout)
    bags = {
        (*sorted(c), *sorted(s))
        for c, s in zip(layout.colours[rows].tolist(), layout.shapes[rows].tolist(), strict=True)
    }
    assert len(bags) == len(rows) == measure.GALLERY


def test_single_objects_are_told_apart_among_all():
    prompts = unit(120, 64)
    layout = scenes.sample(40, n_objects=1, split="all").layout
    right = prompts[layout.colours[:, 0] * 10 + layout.shapes[:, 0]]
    assert measure.single_object(right, prompts, layout) == 1
    assert measure.single_object(-right, prompts, layout) == 0
    assert len(set(measure.single_prompts())) == 120


def test_a_probe_reads_what_is_there_and_nothing_else():
    layout = scenes.sample(1500, split="all").layout
    code = torch.zeros(len(layout), 120)
    for k in range(2):
        code[torch.arange(len(layout)), torch.from_numpy(layout.colours[:, k] * 10 + layout.shapes[:, k])] = 1
    bag = torch.cat([code.view(-1, 12, 10).sum(dim=1), code.view(-1, 12, 10).sum(dim=2)], dim=1)
    train, test = slice(0, 1000), slice(1000, None)
    for features, low, high in ((code, 0.99, 1.0), (bag, 0.3, 0.6), (unit(len(layout), 32), 0.0, 0.2)):
        accuracy = measure.probe(features[train], layout[train], features[test], layout[test])
        assert low <= accuracy <= high


@pytest.mark.slow
def test_it_says_what_it_does_next():
    said = []
    demo.run(n=8, say=said.append)
    assert len(said) == 4
    assert said[-1] == "Training linear probes on 4,000 more scenes"
