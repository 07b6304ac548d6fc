"""The scripts that make the embedded model: what its matrix is fitted on, and that what ships is what they say."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from close import assert_close
from huggingface_hub import ModelCard
from PIL import Image

import labclip
from labclip import LABCLIP
from labclip.io.published import PUBLISHED, find_entry
from labclip.scenes import COLOURS, SHAPES
from labclip.scenes.captions import noun_phrase

WEIGHTS = Path(__file__).parents[1] / "weights"


@pytest.fixture
def script(monkeypatch):
    """Import one of the scripts by its name."""
    monkeypatch.syspath_prepend(str(WEIGHTS))
    return importlib.import_module


def test_a_swapped_scene_shows_the_colours_of_a_scene_the_other_way_round(script):
    described = script("described")
    layout, _ = described.draw_scenes(60_000, seed=1, split="seen")
    found = described.swapped_scenes(layout, seed=0)

    def objects(row, colours):
        return set(zip(colours[row].tolist(), layout.shapes[row].tolist(), strict=True))

    for row in range(0, len(layout), 997):
        assert objects(row, layout.colours[:, ::-1]) == objects(found[row], layout.colours)
    assert not np.array_equal(found, described.swapped_scenes(layout, seed=1))


def test_sentences_and_parts_have_a_negative_with_an_image_and_tags_have_none(script):
    described = script("described")
    made = described.describe(6, seed=3, split="seen")
    scenes = made.embed(LABCLIP.from_pretrained("scenes"))
    others = scenes.images.roll(1, dims=0)
    features = described.to_fit((scenes, others))
    assert features.has_negative.tolist() == features.has_negative_image.tolist() == [[True]] * 24 + [[False]] * 12
    assert features.image_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5] * 3
    assert torch.equal(features.texts[3], scenes.captions[1, 1])
    assert torch.equal(features.negatives[3, 0], scenes.swapped[1, 1])
    assert torch.equal(features.negative_images[3, 0], others[1])
    assert torch.equal(features.texts[12:24].view_as(scenes.parts), scenes.parts)
    assert torch.equal(features.texts[24:], scenes.tags.repeat_interleave(2, dim=0))
    colours, shapes = made.layout.colours[0], made.layout.shapes[0]
    wrong = noun_phrase(COLOURS[colours[1]], SHAPES[shapes[0]])  # its colour is the other object's
    embedded = LABCLIP.from_pretrained("scenes").encode_text(wrong, normalize=True, aligned=False)
    assert_close(scenes.swapped_parts[0, 0], embedded[0])


def test_what_ships_was_made_by_the_recipe_that_the_script_has(script):
    fitting = script("make").FITTING
    config = json.loads((WEIGHTS / "scenes" / "config.json").read_text())
    settings, weights = config["metadata"]["settings"], config["metadata"]["loss_weights"]
    assert {name: settings[name] for name in fitting.keys() & settings.keys()} == {
        name: fitting[name] for name in fitting.keys() & settings.keys()
    }
    assert {name: weights[name] for name in ("negatives", "distill", "identity")} == {
        "negatives": fitting["negative_weight"],
        "distill": fitting["distill"],
        "identity": fitting["identity_penalty"],
    }


def test_the_base_that_ships_is_near_chance_and_its_probes_are_not():
    results = json.loads((WEIGHTS / "scenes" / "results.json").read_text())
    shipped = next(trial for trial in results["trials"] if trial["seed"] == results["shipped"])
    assert shipped["base"]["binding_fit"] <= 0.65
    assert min(shipped["probes"]["image"], shipped["probes"]["text"]) >= 0.95
    assert shipped["labclip"]["binding_seen"] >= 0.96
    assert shipped["scenes"]["labclip"]["search_map"] >= 0.82
    assert shipped["scenes"]["labclip"]["search_confused5"] <= 0.07


def test_what_is_uploaded_is_the_embedded_model_and_cards_alone(script, hub):
    script("push").main([])
    scenes = hub.repos.pop("labclip/labclip-scenes")
    assert scenes == {path.name: path.read_bytes() for path in (WEIGHTS / "scenes").iterdir()}
    assert {name: set(files) for name, files in hub.repos.items()} == {one.hub_repo: {"README.md"} for one in PUBLISHED}
    for entry in PUBLISHED:
        card = hub.repos[entry.hub_repo]["README.md"].decode()
        data = ModelCard(card).data
        assert (data.library_name, data.base_model_relation) == ("labclip", "adapter")
        assert data.base_model.startswith("timm/vit_")
        assert data.base_model.endswith(".openai")
        for fact in (entry.file, f"{entry.size:,} bytes", entry.file_sha256, entry.matrix_sha256, "no licence"):
            assert fact in card
        (name,) = re.findall(r"from_pretrained\('(.*)'\)", card)
        assert find_entry(name) is entry
        assert ("## Published, not measured by labclip" in card) == bool(entry.reported)


def test_the_measures_of_the_card_are_those_of_plain_loops(script):
    measure, size = script("measure"), script("measure").GALLERY
    draw = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(2 * size, 8, generator=draw), dim=-1)
    texts = F.normalize(images + 0.1 * torch.randn(2 * size, 8, generator=draw), dim=-1)
    texts[7] = texts[9]  # a tie between two texts
    similarity = (images.double() @ texts.double().T).numpy()
    right = np.zeros(2)
    for part in (range(size), range(size, 2 * size)):
        for i in part:
            right += [all(similarity[j, i] < similarity[i, i] for j in part if j != i),
                      all(similarity[i, j] < similarity[i, i] for j in part if j != i)]  # fmt: skip
    assert measure.recall_at_1(images, texts) == pytest.approx((right / (2 * size)).tolist(), abs=1e-6)
    assert measure.binding(images, texts, texts) == 0  # ties
    layout = labclip.scenes.sample(320, split="all").layout
    rows = measure.gallery_rows(layout)
    words = {(*sorted(layout.colours[row]), *sorted(layout.shapes[row])) for row in rows}
    assert len(words) == len(rows) == size
    prompts = F.normalize(torch.randn(120, 64, generator=draw), dim=-1)
    one = labclip.scenes.sample(40, n_objects=1, split="all").layout
    shown = prompts[one.colours[:, 0] * 10 + one.shapes[:, 0]]
    assert [measure.single_object(side, prompts, one) for side in (shown, -shown)] == [1, 0]
    model = LABCLIP.from_pretrained("scenes")
    pixels = labclip.scenes.sample(3).images
    expected = model.encode_image([Image.fromarray(image) for image in pixels], normalize=True).detach()
    assert_close(measure.embed_images(model, pixels), expected)
