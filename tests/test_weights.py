"""The scripts of weights/: what the embedded matrix is fitted on, that what ships is what they say, and coco.py."""

import importlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from close import assert_close
from evaluated import SUBSETS, lay
from huggingface_hub import ModelCard
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment
from labclip.io.published import PUBLISHED, REPORTED, find_entry
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
    swapped = described.swapped_scenes(layout, seed=0)

    def objects(row, colours):
        return set(zip(colours[row].tolist(), layout.shapes[row].tolist(), strict=True))

    for row in range(0, len(layout), 997):
        assert objects(row, layout.colours[:, ::-1]) == objects(swapped[row], layout.colours)
    assert not np.array_equal(swapped, described.swapped_scenes(layout, seed=1))


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
    for name in fitting.keys() & settings.keys():
        assert settings[name] == fitting[name]
    for name, option in (("negatives", "negative_weight"), ("distill", "distill"), ("identity", "identity_penalty")):
        assert weights[name] == fitting[option]


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
    assert {name: set(files) for name, files in hub.repos.items()} == {row.hub_repo: {"README.md"} for row in PUBLISHED}
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
    layout = labclip.scenes.sample(measure.CANDIDATES, split="all").layout
    rows = measure.gallery_rows(layout)
    words = {(*sorted(layout.colours[row]), *sorted(layout.shapes[row])) for row in rows}
    assert len(words) == len(rows) == size
    prompts = F.normalize(torch.randn(120, 64, generator=draw), dim=-1)
    single = labclip.scenes.sample(40, n_objects=1, split="all").layout
    shown = prompts[single.colours[:, 0] * 10 + single.shapes[:, 0]]
    assert [measure.single_object(side, prompts, single) for side in (shown, -shown)] == [1, 0]
    model = LABCLIP.from_pretrained("scenes")
    pixels = labclip.scenes.sample(3).images
    expected = model.encode_image([Image.fromarray(image) for image in pixels], normalize=True).detach()
    assert_close(measure.embed_images(model, pixels), expected)


# coco.py from end to end, on a COCO of a hundred rendered images with the embedded model as base


TRAIN, TEST = 80, 20


@pytest.fixture(scope="module")
def drawn():
    return labclip.scenes.sample(TRAIN + TEST, seed=11)


@pytest.fixture
def coco(tmp_path, drawn):
    """COCO as of 2017: numbered JPEG files, two captions an image; SugarCrepe and ARO of the same images beside it."""
    root = tmp_path / "coco"
    for side, numbers in (("train2017", range(TRAIN)), ("val2017", range(TRAIN, TRAIN + TEST))):
        (root / side).mkdir(parents=True)
        for number in numbers:
            Image.fromarray(drawn.images[number]).save(root / side / file(number), quality=95)
        captions = [
            {"image_id": number, "id": 2 * number + place, "caption": f"{text[0].upper()}{text[1:]}."}
            for number in numbers
            for place, text in enumerate((drawn.captions[number], drawn.tags[number]))
        ]
        images = [{"id": number, "file_name": file(number), "license": 1} for number in numbers]
        written = {"info": {}, "images": images, "licenses": [], "annotations": captions}
        lay(root, {f"annotations/captions_{side}.json": written})
    for subset, number in zip(SUBSETS, range(TRAIN, TRAIN + len(SUBSETS)), strict=True):
        pair = {"caption": drawn.captions[number], "negative_caption": drawn.swapped_captions[number]}
        lay(tmp_path, {f"sugarcrepe/{subset}.json": {"0": {"filename": file(number), **pair}}})
    shutil.copytree(root / "val2017", tmp_path / "aro" / "images")
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 64, "bbox_h": 64}
    for name, kind in (("relation", {"relation_name": "left of"}), ("attribution", {"attributes": ["red", "blue"]})):
        texts = [
            {"true_caption": drawn.captions[n], "false_caption": drawn.swapped_captions[n]}
            for n in range(TRAIN, TRAIN + TEST)
        ]
        items = [{"image_path": file(TRAIN + n), **box, **both, **kind} for n, both in enumerate(texts)]
        lay(tmp_path, {f"aro/visual_genome_{name}.json": items * 2})  # VG-A's macro is over pairs with 25 items
    return tmp_path


def file(number):
    return f"{number:012d}.jpg"


@pytest.fixture
def coco_script(script):
    pytest.importorskip("HanTa")
    return script("coco")


def run(script, folder, *more, out="out", model="scenes"):
    arguments = ["--coco", folder / "coco", "--out", folder / out, "--model", model, "--device", "cpu", *more]
    script.main(list(map(str, arguments)))


def table(text):
    """The figures of `table.md` by benchmark and metric."""
    figures, benchmark = {}, ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8:
            benchmark = cells[0] or benchmark
            figures[benchmark, cells[1]] = cells[2:]
    return figures


@pytest.mark.slow
def test_from_a_folder_of_images_to_two_matrices_and_on_where_it_stopped(coco_script, coco, drawn, capsys, monkeypatch):
    def stop(*arguments, **settings):
        raise ValueError("stopped")

    everything = ("--sugarcrepe", coco / "sugarcrepe", "--aro", coco / "aro")
    for owner, name in (
        (coco_script.negatives, "add"),
        (labclip, "embed"),
        (labclip, "fit"),
        (coco_script, "beside_published"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop)
            with pytest.raises(SystemExit, match="Error: stopped"):
                run(coco_script, coco, *everything)
    run(coco_script, coco, *everything, out="whole")
    capsys.readouterr()
    run(coco_script, coco, *everything)
    printed, out = capsys.readouterr().out, coco / "out"
    assert "Measured beside published" in printed
    # Cleaned captions beside shuffled negatives, of the training images alone.
    rows = [json.loads(line) for line in (out / "negatives.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * TRAIN
    assert rows[0]["caption"] == drawn.captions[0]
    assert (
        sum(sorted(row["negative"].split()) == sorted(row["caption"].split()) for row in rows if row["negative"])
        > TRAIN
    )
    features = labclip.Features.load(out / "features", base=LABCLIP.from_pretrained("scenes"), verify=True)
    assert len(features.images) == TRAIN
    # Two matrices on this base, each by its recipe, with what was measured in its card.
    for recipe in ("paper", "labclip"):
        alignment = Alignment.from_pretrained(out / recipe)
        assert alignment.metadata["recipe"] == recipe
        assert alignment.base.model == "scenes"
        assert alignment.metadata["results"].keys() == {"coco", "coco-negatives", "sugarcrepe", "vg-a", "vg-r"}
        assert "160 captions of 80 images" in alignment.metadata["data"] or recipe == "labclip"
        in_card = ModelCard.load(out / recipe / "README.md").data.eval_results
        assert ("vg-a", "macro", alignment.metadata["results"]["vg-a"]["labclip"]["macro"]) in {
            (result.dataset_type, result.metric_type, result.metric_value) for result in in_card
        }
        unbroken = Alignment.from_pretrained(coco / "whole" / recipe)
        assert alignment.fitted.equal(unbroken.fitted)
        assert alignment.metadata["results"] == unbroken.metadata["results"]
        LABCLIP.from_pretrained("scenes", alignment=out / recipe).encode_text("a red cube")
    # The table has each benchmark's figures, those of the report, beside the published ones.
    report = json.loads((out / "report.json").read_text())["benchmarks"]
    figures = table((out / "table.md").read_text())
    for (benchmark, metric), name in {
        ("COCO retrieval", "t2i_r1"): "coco", ("VG-Attribution", "macro"): "vg-a", ("SugarCrepe", "swap"): "sugarcrepe",
        ("COCO hard negatives", "binding"): "coco-negatives", ("VG-Relation", "macro"): "vg-r",
    }.items():  # fmt: skip
        models = report[name]["models"]
        wanted = [f"{models[side][metric]:.3f}" for side in ("base", "paper", "labclip")]
        assert figures[benchmark, metric][:3] == wanted
    (published,) = (figure.values for figure in REPORTED if (figure.benchmark, figure.metric) == ("sugarcrepe", "swap"))
    assert figures["SugarCrepe", "swap"][3:] == [f"{published[side]:.3f}" for side in ("base", "labclip", "NegCLIP")]
    assert figures["COCO hard negatives", "binding"][3:] == ["", "", ""]
    # Again: nothing is made, embedded or fitted a second time, and the table is the same.
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.parent.name != "cache"}
    for owner, name in (
        (coco_script.negatives, "add"),
        (labclip, "fit"),
        (LABCLIP, "encode_image"),
        (coco_script, "write_captions"),
    ):
        monkeypatch.setattr(owner, name, None)
    run(coco_script, coco, *everything)
    assert printed.endswith(capsys.readouterr().out)
    assert {path: path.read_bytes() for path in before} == before
    # Other captions or another base do not go into the same folder.
    with pytest.raises(
        SystemExit, match=r"was made with .*'images': None.*, not with .*'images': 5.* Pass another --out"
    ):
        run(coco_script, coco, "--images", 5)


def test_karpathys_split_is_taken_where_it_is(coco_script, coco, drawn):
    images = [
        {"filepath": "val2014" if number % 2 else "train2014", "filename": f"COCO_val2014_{file(number)}",
         "split": split, "sentences": [{"raw": text} for text in (drawn.captions[number], ".", drawn.tags[number])],
        } for number, split in ((0, "train"), (1, "restval"), (2, "val"), (TRAIN, "test"))
    ]  # fmt: skip
    (coco / "coco" / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    coco_script.write_captions(coco / "coco", coco, None)
    rows = [json.loads(line) for line in (coco / "train.jsonl").read_text().splitlines()]
    wanted = ["train2017/000000000000.jpg", "train2017/000000000001.jpg"]
    assert [row["image"] for row in rows] == [name for name in wanted for _ in range(2)]
    assert [row["caption"] for row in rows] == [text for n in (0, 1) for text in (drawn.captions[n], drawn.tags[n])]
    (test,) = json.loads((coco / "test.json").read_text())
    assert (test["caption"], test["image"]) == ([drawn.captions[TRAIN], drawn.tags[TRAIN]], "val2017/000000000080.jpg")


def test_what_is_missing_is_one_message(coco_script, coco):
    (coco / "empty").mkdir()
    for more, model, message in (
        (("--sugarcrepe", coco / "none"), "scenes", f"There is no folder {coco / 'none'}"),
        (("--images", -5), "scenes", "--images is -5. Pass 1 or more."),
        ((), "ViT-B-33:openai", "OpenCLIP has no model 'ViT-B-33'"),
        (("--sugarcrepe", coco / "empty"), "scenes", "has no add_att.json"),
    ):
        with pytest.raises(SystemExit, match=f"^Error: .*{message}"):
            run(coco_script, coco, *more, model=model)
    assert not (coco / "out" / "features").exists()  # it is said before the work
    shutil.rmtree(coco / "out")
    (coco / "coco" / "train2017" / file(3)).unlink()
    with pytest.raises(
        SystemExit, match=r"coco has no image 000000000003.jpg, which captions_train2017.json describes"
    ):
        run(coco_script, coco)
