"""A user's own table, COCO's hard negatives, and folders of pictures for zero-shot classification, CIFAR among them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from evaluated import counts, picture, read, values
from PIL import Image

from labclip.evaluation.tasks import Choice


def table(path, text, *pictures):
    path.write_text(text)
    for name in pictures:
        picture(path.parent / name)
    return path


def test_own_csv_with_several_negatives(tmp_path):
    path = table(tmp_path / "mine.csv", (
        "image,caption,negative,negative_2\n"
        "a.jpg,a dog on a bed,a bed on a dog,a cat on a bed\n"
        "b.jpg,a red cup,,\n"
        "a.jpg,two dogs,two cats,\n"
    ), "a.jpg", "b.jpg")  # fmt: skip
    task = read("csv", path)
    # The first caption beats one negative of two, the third its only one.
    found = values(
        task, lambda name, text: {"a dog on a bed": 0.5, "a cat on a bed": 0.5, "two dogs": 0.2}.get(text, 0.0)
    )
    assert found["binding"] == 1 / 2
    assert found["pairwise"] == 2 / 3
    assert {name: counts(task)[name] for name in ("binding", "pairwise", "t2i_r1", "i2t_r1")} == {
        "binding": 2, "pairwise": 3, "t2i_r1": 3, "i2t_r1": 2,
    }  # fmt: skip
    assert task.notes == ["1 of 3 captions have no negative."]


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
        picture(tmp_path / f"{name}.jpg")
    task = read("csv", path)
    assert task.captions == ["a dog", "no dog", "a cat", "no cat"]
    assert counts(task)["binding"] == 2
    assert "pairwise" not in counts(task)


def test_own_columns_by_name(tmp_path):
    text = "pic,words,wrong,worse\na.jpg,a dog,a cat,a cow\nb.jpg,a cup,a mug,a jug\n"
    path = table(tmp_path / "mine.csv", text, "a.jpg", "b.jpg")
    with pytest.raises(ValueError, match=r"no column 'caption' or 'title'; it has .*Pass options={\"column\": NAME}"):
        read("csv", path)
    with pytest.raises(ValueError, match='Pass options={"image_column": NAME}'):
        read("csv", path, column="words")
    task = read("csv", path, column="words", image_column="pic", negative_column="wrong, worse")
    assert task.questions[0].options.shape == (2, 3)


def test_own_table_without_negatives_is_retrieval(tmp_path):
    path = table(tmp_path / "mine.csv", "image,caption\na.jpg,a dog\nb.jpg,a cat\n", "a.jpg", "b.jpg")
    assert set(counts(read("csv", path))) == {f"{side}_r{k}" for side in ("t2i", "i2t") for k in (1, 5, 10)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,caption,negative\na.jpg,a dog,a dog\n", r"mine\.csv line 2: the caption 'a dog' is its own negative"),
        ("image,caption,negative\na.jpg,a dog,a cat\na.jpg,,a cat\n", r"mine\.csv line 3 has an empty caption"),
        ("image,caption,negative\n,a dog,a cat\n", r"mine\.csv line 2 names no image"),
        ("image,caption,negative\na.jpg,a dog,a cat,more\n", "line 2 has more cells than the header"),
        ('image,caption,negative\na.jpg,"a dog,a cat\n', r"near line 2 is not sound"),
        ("image,caption,negative\n", "has no row"),
        ("image,caption,negative\n../up.jpg,a dog,a cat\n", r"line 2: the picture's name '\.\./up\.jpg' leads out of"),
        ("image,caption,negative\n/etc/passwd,a dog,a cat\n", "'/etc/passwd' leads out of"),
        ("image,caption,negative\n.,a dog,a cat\n", "leads out of"),
    ],
)
def test_own_rows_are_checked(tmp_path, text, said):
    path = table(tmp_path / "mine.csv", text, "a.jpg")
    with pytest.raises(ValueError, match=said):
        read("csv", path)


def test_absolute_names_inside_the_folder_of_pictures(tmp_path):
    inside = picture(tmp_path / "pictures" / "a.jpg")
    path = table(tmp_path / "mine.csv", f"image,caption,negative\n{inside},a dog,a cat\n")
    task = read("csv", path, tmp_path / "pictures")
    assert [one.file or one.data for one in task.pictures] == [inside]


def test_missing_pictures_are_counted_and_named(tmp_path):
    lines = "".join(f"{number}.jpg,caption {number},negative {number}\n" for number in range(6))
    path = table(tmp_path / "mine.csv", f"image,caption,negative\n{lines}", "0.jpg", "3.jpg")
    with pytest.raises(
        FileNotFoundError, match=r"4 of 6 pictures are missing, for example .*1\.jpg, .*2\.jpg, .*4\.jpg"
    ):
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
        picture(tmp_path / "coco" / "val2014" / f"{number}.jpg")
    task = read("coco-negatives", path, tmp_path / root)
    said = [[task.captions[row] for row in options] for options in task.questions[0].options]
    assert said == [["a dog holding a cat", "a cat holding a dog"],
                    ["a red cup and a blue jug", "a blue cup and a red jug"]]  # fmt: skip
    assert task.notes == ["1 negatives that say the same as their caption are left out.",
                          "1 of 3 captions have no negative."]  # fmt: skip
    assert counts(task)["t2i_r1"] == 3
    raw = read("coco-negatives", path, tmp_path, clean=False)
    assert "A red cup and a blue jug." in raw.captions


def test_coco_negatives_made_on_the_spot(tmp_path):
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps([
        {"image": "1.jpg", "caption": ["A red dog sits on a small table.", "Dog."]},
        {"image": "2.jpg", "caption": ["Two men ride brown horses along the white beach."]},
    ]))  # fmt: skip
    for number in (1, 2):
        picture(tmp_path / f"{number}.jpg")
    one, same, other = (read("coco-negatives", tmp_path, seed=seed) for seed in (0, 0, 5))
    assert one.captions == same.captions
    assert counts(other)["binding"] == 2
    for row in one.questions[0].options:
        own, wrong = (one.captions[caption] for caption in row)
        assert own != wrong
        assert sorted(own.split()) == sorted(wrong.split())
    assert "1 of 3 captions have no negative." in one.notes
    assert counts(one)["t2i_r1"] == 3


def folders(root, **classes):
    for name, pictures in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(pictures):
            picture(root / name / f"{name}{number}.png")
    return root


def test_zero_shot_by_folders(tmp_path):
    root = folders(tmp_path / "in", polar_bear=1, cat=3)
    (root / "cat" / "notes.txt").write_text("no picture")
    task = read("zero-shot", root)
    assert task.captions == ["a photo of a cat.", "a photo of a polar bear."]
    known = {("cat0", "a photo of a cat."), ("polar_bear0", "a photo of a polar bear.")}
    found = values(task, lambda name, text: float((Path(name).stem, text) in known))
    assert found["acc1"] == 2 / 4  # of the other cats both classes tie
    assert found["mean_per_class"] == pytest.approx((1 / 3 + 1) / 2)
    assert "acc5" not in found
    assert task.notes == ["2 classes, 1 prompt each."]


def test_zero_shot_names_and_prompts(tmp_path):
    root = folders(tmp_path / "in", n01=1, n02=1, n03=1, n04=1, n05=1, n06=1)
    (tmp_path / "names.txt").write_text("\n".join(("ant", "bee", "cat", "dog", "elk", "fox")))
    (tmp_path / "prompts.txt").write_text("a photo of a {}.\na drawing of a {}.\n")
    task = read("zero-shot", root, classes=str(tmp_path / "names.txt"), templates=str(tmp_path / "prompts.txt"))
    assert task.captions[:3] == ["a photo of a ant.", "a drawing of a ant.", "a photo of a bee."]
    assert task.questions[0].prompts.shape == (6, 2)
    assert "Names of names.txt by the order of folders, for example n01: ant." in task.notes
    assert "acc5" in counts(task)
    (root / "names.json").write_text(json.dumps({f"n0{n}": f"thing {n}" for n in range(1, 7)}))
    (root / "tabs.txt").write_text("\n".join(f"n0{n}\tthing {n}" for n in range(6, 0, -1)))
    for file in ("names.json", "tabs.txt"):
        assert read("zero-shot", root, classes=file).captions[0] == "a photo of a thing 1."


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("classes", "ant\n", "has 1 names for 2 classes"),
        ("classes", "b\na\n", "in another order: line 1 would rename a class"),
        ("classes", "ant\nant\n", "Two classes are called 'ant'"),
        ("classes", "a\tant\nc\tbee\n", "lacks 1 of 2 classes, for example 'b'"),
        ("templates", "a photo\n", "'a photo' has no {} where"),
        ("templates", "\n", "'no line' has no"),
    ],
)
def test_zero_shot_files_are_checked(tmp_path, file, text, said):
    folders(tmp_path / "in", a=1, b=1)
    (tmp_path / "in" / "x.txt").write_text(text)
    with pytest.raises(ValueError, match=said):
        read("zero-shot", tmp_path / "in", **{file: "x.txt"})
    with pytest.raises(FileNotFoundError, match=r"There is no file nowhere\.txt"):
        read("zero-shot", tmp_path / "in", **{file: "nowhere.txt"})


@pytest.mark.parametrize(
    ("content", "said"),
    [("[1, 2]", "the name of a class is 1"), ('{"a": ["x"], "b": "y"}', r"the name of a class is \['x'\]"),
     ('["x", " "]', "the name of a class is ' '")],
)  # fmt: skip
def test_names_of_classes_that_are_no_text_are_refused(tmp_path, content, said):
    folders(tmp_path / "in", a=1, b=1)
    (tmp_path / "in" / "x.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read("zero-shot", tmp_path / "in", classes="x.json")


def test_a_file_of_names_that_is_no_text_is_named(tmp_path):
    folders(tmp_path / "in", a=1, b=1)
    (tmp_path / "in" / "x.txt").write_bytes(b"ant\n\xff\n")
    for option in ("classes", "templates"):
        with pytest.raises(ValueError, match=r"x\.txt is no UTF-8 text: byte 4"):
            read("zero-shot", tmp_path / "in", **{option: "x.txt"})


def test_a_folder_without_classes(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="0 folders with 0 pictures, not one folder a class"):
        read("zero-shot", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a\.png is no folder"):
        read("zero-shot", tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"There is no .*typo"):
        read("zero-shot", tmp_path / "typo")


def test_a_split_is_of_cifar_only(tmp_path):
    with pytest.raises(ValueError, match="is no CIFAR, which alone has splits"):
        read("zero-shot", folders(tmp_path / "in", a=1, b=1), split="train")
    with pytest.raises(ValueError, match="split is 'val'"):
        read("zero-shot", tmp_path / "in", split="val")


def pixels(n):
    return np.random.default_rng(0).integers(0, 256, (n, 3072), dtype=np.uint8)


def binary_10(folder, rows, labels):
    (folder / "cifar-10-batches-bin").mkdir(parents=True)
    batch = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], rows], axis=1)
    batch.tofile(folder / "cifar-10-batches-bin" / "test_batch.bin")
    (folder / "cifar-10-batches-bin" / "batches.meta.txt").write_text("airplane\nbird\ncat\n\n")


def binary_100(folder, rows, labels):
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.array(labels, dtype=np.uint8)[:, None]
    np.concatenate([numbers * 0 + 19, numbers, rows], axis=1).tofile(folder / "test.bin")
    (folder / "fine_label_names.txt").write_text("airplane\nbird\ncat\n")


def pickled_10(folder, rows, labels):
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": rows, b"labels": labels}, protocol=2))
    names = {b"label_names": [b"airplane", b"bird", b"cat"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))


def pickled_100(folder, rows, labels):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test").write_bytes(pickle.dumps({b"data": rows, b"fine_labels": labels}, protocol=2))
    names = {b"fine_label_names": [b"airplane", b"bird", b"cat"]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))


@pytest.mark.parametrize("form", [binary_10, binary_100, pickled_10, pickled_100])
def test_cifar_in_its_four_forms(tmp_path, form):
    rows, labels = pixels(4), [2, 0, 1, 2]
    form(tmp_path, rows, labels)
    task = read("zero-shot", tmp_path)
    assert task.captions == ["a photo of a airplane.", "a photo of a bird.", "a photo of a cat."]
    assert task.questions[0].label.tolist() == labels
    first = np.asarray(task.pictures[0].decode(task.pictures[0].read()))
    assert first.shape == (32, 32, 3)
    # Red of all pixels row by row, then green, then blue.
    assert first[1, 5].tolist() == [rows[0, 32 + 5], rows[0, 1024 + 32 + 5], rows[0, 2048 + 32 + 5]]
    with pytest.raises(FileNotFoundError, match="files are missing"):
        read("zero-shot", tmp_path, split="train")


class Hostile:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_hostile_pickle_runs_nothing(tmp_path, capsys):
    pickled_100(tmp_path, pixels(1), [0])
    (tmp_path / "test").write_bytes(pickle.dumps({b"data": Hostile()}, protocol=2))
    with pytest.raises(ValueError, match=r"is no batch of CIFAR: it asks for \w+\.print"):
        read("zero-shot", tmp_path)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps([1]), "holds no uint8"),
        (pickle.dumps({b"data": pixels(2), b"fine_labels": [0]}), "no list of 2 numbers as 'fine_labels'"),
        (pickle.dumps({b"data": pixels(2), b"fine_labels": [0, 9]}), "labels go from 0 to 9, but there are 3 classes"),
        (pickle.dumps({b"data": pixels(2), b"fine_labels": [0, 1]})[:-40], "is no batch of CIFAR"),
        (b"", "is no batch of CIFAR"),
    ],
)
def test_damaged_batches(tmp_path, content, said):
    pickled_100(tmp_path, pixels(1), [0])
    (tmp_path / "test").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read("zero-shot", tmp_path)


def test_a_binary_batch_that_is_cut(tmp_path):
    binary_100(tmp_path, pixels(2), [0, 1])
    (tmp_path / "test.bin").write_bytes((tmp_path / "test.bin").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"has 6,147 bytes, not a number of pictures of 3,074"):
        read("zero-shot", tmp_path)


def test_pictures_held_twice_are_one(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    held = {"bytes": (tmp_path / "red.png").read_bytes(), "path": None}
    rows = [{"image": held, "caption": f"caption {n}", "negative": f"negative {n}"} for n in range(3)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    task = read("csv", tmp_path / "mine.parquet")
    assert len(task.pictures) == 1
    assert isinstance(task.questions[0], Choice)
    assert counts(task) == {"binding": 3}
