"""`weights/coco.py` from end to end, on a COCO of a hundred rendered images with the embedded model as base."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from evaluated import SUBSETS, lay
from huggingface_hub import ModelCard
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment, scenes
from labclip.io.published import REPORTED

pytest.importorskip("HanTa")
SCRIPT = Path(__file__).parents[1] / "weights" / "coco.py"
TRAIN, TEST = 80, 20


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("weights_coco", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn():
    return scenes.sample(TRAIN + TEST, seed=11)


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
def test_from_a_folder_of_images_to_two_matrices_and_on_where_it_stopped(script, coco, drawn, capsys, monkeypatch):
    def stop(*arguments, **settings):
        raise ValueError("stopped")

    everything = ("--sugarcrepe", coco / "sugarcrepe", "--aro", coco / "aro")
    for owner, name in ((script.negatives, "add"), (labclip, "embed"), (labclip, "fit"), (script, "beside_published")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop)
            with pytest.raises(SystemExit, match="Error: stopped"):
                run(script, coco, *everything)
    run(script, coco, *everything, out="whole")
    capsys.readouterr()
    run(script, coco, *everything)
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
        wanted = [f"{models[one][metric]:.3f}" for one in ("base", "paper", "labclip")]
        assert figures[benchmark, metric][:3] == wanted
    (published,) = (one.values for one in REPORTED if (one.benchmark, one.metric) == ("sugarcrepe", "swap"))
    assert figures["SugarCrepe", "swap"][3:] == [f"{published[one]:.3f}" for one in ("base", "labclip", "NegCLIP")]
    assert figures["COCO hard negatives", "binding"][3:] == ["", "", ""]
    # Again: nothing is made, embedded or fitted a second time, and the table is the same.
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.parent.name != "cache"}
    for owner, name in (
        (script.negatives, "add"),
        (labclip, "fit"),
        (LABCLIP, "encode_image"),
        (script, "write_captions"),
    ):
        monkeypatch.setattr(owner, name, None)
    run(script, coco, *everything)
    assert printed.endswith(capsys.readouterr().out)
    assert {path: path.read_bytes() for path in before} == before
    # Other captions or another base do not go into the same folder.
    with pytest.raises(
        SystemExit, match=r"was made with .*'images': None.*, not with .*'images': 5.* Pass another --out"
    ):
        run(script, coco, "--images", 5)


def test_karpathys_split_is_taken_where_it_is(script, coco, drawn):
    images = [
        {"filepath": "val2014" if number % 2 else "train2014", "filename": f"COCO_val2014_{file(number)}",
         "split": split, "sentences": [{"raw": text} for text in (drawn.captions[number], ".", drawn.tags[number])],
        } for number, split in ((0, "train"), (1, "restval"), (2, "val"), (TRAIN, "test"))
    ]  # fmt: skip
    (coco / "coco" / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    script.write_captions(coco / "coco", coco, None)
    rows = [json.loads(line) for line in (coco / "train.jsonl").read_text().splitlines()]
    wanted = ["train2017/000000000000.jpg", "train2017/000000000001.jpg"]
    assert [row["image"] for row in rows] == [name for name in wanted for _ in range(2)]
    assert [row["caption"] for row in rows] == [text for n in (0, 1) for text in (drawn.captions[n], drawn.tags[n])]
    (test,) = json.loads((coco / "test.json").read_text())
    assert (test["caption"], test["image"]) == ([drawn.captions[TRAIN], drawn.tags[TRAIN]], "val2017/000000000080.jpg")


def test_what_is_missing_is_one_message(script, coco):
    (coco / "empty").mkdir()
    for more, model, message in (
        (("--sugarcrepe", coco / "none"), "scenes", f"There is no folder {coco / 'none'}"),
        (("--images", -5), "scenes", "--images is -5. Pass 1 or more."),
        ((), "ViT-B-33:openai", "OpenCLIP knows no model 'ViT-B-33'"),
        (("--sugarcrepe", coco / "empty"), "scenes", "has no add_att.json"),
    ):
        with pytest.raises(SystemExit, match=f"^Error: .*{message}"):
            run(script, coco, *more, model=model)
    assert not (coco / "out" / "features").exists()  # it is said before the work
    shutil.rmtree(coco / "out")
    (coco / "coco" / "train2017" / file(3)).unlink()
    with pytest.raises(
        SystemExit, match=r"coco has no image 000000000003.jpg, which captions_train2017.json describes"
    ):
        run(script, coco)
