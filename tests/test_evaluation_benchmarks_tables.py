"""A user's own table, and COCO's hard negatives."""

import json

import pytest
from evaluated import counts, image_file, read, values
from PIL import Image

import labclip
from labclip.evaluation.tasks import Choice


def table(path, text, *images):
    path.write_text(text)
    for name in images:
        image_file(path.parent / name)
    return path


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "json", "parquet"])
def test_own_table_in_other_formats(tmp_path, ending):
    rows = [{"filepath": f"{name}.jpg", "title": f"a {name}", "neg_caption": [f"no {name}"]} for name in ("dog", "cat")]
    path = tmp_path / f"mine.{ending}"
    if ending == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        lines = ["filepath\ttitle\tneg_caption", *("\t".join(map(str, row.values())) for row in rows)]
        path.write_text({"tsv": "\n".join(lines), "json": json.dumps(rows),
                         "jsonl": "\n".join(map(json.dumps, rows))}[ending])  # fmt: skip
    for name in ("dog", "cat"):
        image_file(tmp_path / f"{name}.jpg")
    task = read("csv", path)
    assert task.captions == ["a dog", "no dog", "a cat", "no cat"]
    assert counts(task)["binding"] == 2
    assert "pairwise" not in counts(task)


def test_negatives_of_ones_own_that_are_true_of_the_image_are_left_out(model, tmp_path):
    """By the rule of `embed`: case, punctuation and "a" or "an" say nothing, and any caption of the image counts."""
    text = (
        "image,caption,negative,negative_2\n"
        "a.jpg,a dog,A dog .,a cat\n"
        "b.jpg,a cup,an cup!,\n"
        "a.jpg,an owl on a bed,A Dog,a dog on a bed\n"
        "b.jpg,a mug,a dog,\n"
    )
    path = table(tmp_path / "mine.csv", text, "a.jpg")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "b.jpg")
    task = read("csv", path)
    assert task.notes[:2] == ["3 negatives that are true of their image are left out.",
                              "1 of 4 captions have no negative."]  # fmt: skip
    features = labclip.embed(model, path, tmp_path / "features", progress=False)
    report = labclip.evaluate(model, "csv", data=path, cache=None, progress=False)
    stored = labclip.evaluate(model, "features", data=features, progress=False)
    assert report["csv"].metric("binding") == stored["features"].metric("binding")
    assert report["csv"].metric("binding").estimates[0].n == 3


def test_own_columns_by_name(tmp_path):
    text = "pic,words,wrong,worse\na.jpg,a dog,a cat,a cow\nb.jpg,a cup,a mug,a jug\n"
    path = table(tmp_path / "mine.csv", text, "a.jpg", "b.jpg")
    with pytest.raises(ValueError, match=r"no column 'caption', .*; it has .*Pass column=NAME"):
        read("csv", path)
    with pytest.raises(ValueError, match=r"Pass image_column=NAME"):
        read("csv", path, column="words")
    task = read("csv", path, column="words", image_column="pic", negative_column="wrong, worse")
    assert task.questions[0].options.shape == (2, 3)


def test_own_table_without_negatives_is_retrieval(tmp_path):
    path = table(tmp_path / "mine.csv", "image,caption\na.jpg,a dog\nb.jpg,a cat\n", "a.jpg", "b.jpg")
    assert set(counts(read("csv", path))) == {f"{side}_r{k}" for side in ("t2i", "i2t") for k in (1, 5, 10)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,caption,negative\na.jpg,a dog,a cat\na.jpg,,a cat\n", r"mine\.csv line 3 has an empty caption"),
        ("image,caption,negative\n,a dog,a cat\n", r"mine\.csv line 2 names no image"),
        ("image,caption,negative\na.jpg,a dog,a cat,more\n", "line 2 has more cells than the header"),
        ('image,caption,negative\na.jpg,"a dog,a cat\n', r"near line 2 is not sound"),
        ("image,caption,negative\n", "has no row"),
        ("image,caption,negative\n../up.jpg,a dog,a cat\n", r"line 2: the image's name '\.\./up\.jpg' leads out of"),
        ("image,caption,negative\n/etc/passwd,a dog,a cat\n", "'/etc/passwd' leads out of"),
        ("image,caption,negative\n.,a dog,a cat\n", "leads out of"),
    ],
)
def test_own_rows_are_checked(tmp_path, text, said):
    path = table(tmp_path / "mine.csv", text, "a.jpg")
    with pytest.raises(ValueError, match=said):
        read("csv", path)


def test_absolute_names_inside_the_folder_of_images(tmp_path):
    inside = image_file(tmp_path / "images" / "a.jpg")
    path = table(tmp_path / "mine.csv", f"image,caption,negative\n{inside},a dog,a cat\n")
    task = read("csv", path, tmp_path / "images")
    assert [one.file or one.data for one in task.images] == [inside]


def test_missing_images_are_counted_and_named(tmp_path):
    lines = "".join(f"{number}.jpg,caption {number},negative {number}\n" for number in range(6))
    path = table(tmp_path / "mine.csv", f"image,caption,negative\n{lines}", "0.jpg", "3.jpg")
    with pytest.raises(FileNotFoundError, match=r"4 of 6 images are missing, for example .*1\.jpg, .*2\.jpg, .*4\.jpg"):
        read("csv", path)
    task = read("csv", path, on_missing="skip")
    assert counts(task)["binding"] == 2
    assert "their items are left out" in task.notes[-1]


NEGCLIP = """\ttitle\tfilepath\tneg_caption\tneg_image
0\tA dog holding a cat.\tcoco/val2014/1.jpg\t['A cat holding a dog .', 'a dog holding a cat .']\t[1]
1\tA cup.\tcoco/val2014/2.jpg\t[]\t[2]
2\tA red cup and a blue jug.\tcoco/val2014/2.jpg\t["A blue cup and a red jug ."]\t[2]
"""


@pytest.mark.parametrize("root", ["", "coco", "coco/val2014"])
def test_coco_negatives_from_negclips_table(tmp_path, root):
    path = tmp_path / "valid_neg_clip.tsv"
    path.write_text(NEGCLIP)
    for number in (1, 2):
        image_file(tmp_path / "coco" / "val2014" / f"{number}.jpg")
    task = read("coco-negatives", path, tmp_path / root)
    said = [[task.captions[row] for row in options if row >= 0] for options in task.questions[0].options]
    assert said == [["a dog holding a cat", "a cat holding a dog", "a dog holding a cat"],
                    ["a red cup and a blue jug", "a blue cup and a red jug"]]  # fmt: skip
    assert task.notes == ["1 of 3 captions have no negative.",
                          "1 items have the right caption among the wrong ones: a tie, so wrong."]  # fmt: skip
    found = values(task, lambda name, text: float(text in ("a dog holding a cat", "a red cup and a blue jug")))
    assert (found["binding"], found["pairwise"]) == (1 / 2, 2 / 3)
    assert counts(task)["t2i_r1"] == 3
    raw = read("coco-negatives", path, tmp_path, clean=False)
    assert "A red cup and a blue jug." in raw.captions


def test_coco_negatives_made_on_the_spot(tmp_path):
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps([
        {"image": "1.jpg", "caption": ["A red dog sits on a small table.", "Dog."]},
        {"image": "2.jpg", "caption": ["Two men ride brown horses along the white beach."]},
    ]))  # fmt: skip
    for number in (1, 2):
        image_file(tmp_path / f"{number}.jpg")
    one, same, other = (read("coco-negatives", tmp_path, seed=seed) for seed in (0, 0, 5))
    assert one.captions == same.captions
    assert counts(other)["binding"] == 2
    for row in one.questions[0].options:
        own, wrong = (one.captions[caption] for caption in row)
        assert own != wrong
        assert sorted(own.split()) == sorted(wrong.split())
    assert "1 of 3 captions have no negative." in one.notes
    assert counts(one)["t2i_r1"] == 3


def test_images_held_twice_are_one(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    held = {"bytes": (tmp_path / "red.png").read_bytes(), "path": None}
    rows = [{"image": held, "caption": f"caption {n}", "negative": f"negative {n}"} for n in range(3)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    task = read("csv", tmp_path / "mine.parquet")
    assert len(task.images) == 1
    assert isinstance(task.questions[0], Choice)
    assert counts(task) == {"binding": 3}
