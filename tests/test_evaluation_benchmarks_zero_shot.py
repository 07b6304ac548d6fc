"""Zero-shot classification of folders of images, and of CIFAR as it was published."""

import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from evaluated import counts, features, image_file, read, values
from torchvision import datasets


def folders(root, **classes):
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(images):
            image_file(root / name / f"{name}{number}.png")
    return root


def test_zero_shot_by_folders(tmp_path):
    root = folders(tmp_path / "in", polar_bear=1, cat=3)
    (root / "cat" / "notes.txt").write_text("no image")
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


def test_classes_of_one_name_tie_and_the_first_of_them_is_right_by_index(tmp_path):
    """ImageNet's "missile" and "sunglasses" stand twice."""
    root = folders(tmp_path / "in", a=1, b=1, c=1)
    (tmp_path / "names.txt").write_text("missile\nmissile\ncat\n")
    task = read("zero-shot", root, classes=str(tmp_path / "names.txt"))
    assert task.captions == ["a photo of a missile.", "a photo of a cat."]
    known = {("a0", "a photo of a missile."), ("b0", "a photo of a missile."), ("c0", "a photo of a cat.")}
    shown = features(task, lambda name, text: float((Path(name).stem, text) in known))
    (question,) = task.questions
    found = [question.score(*shown, by_index=by_index)[0].correct.tolist() for by_index in (False, True)]
    assert found == [[False, False, True], [True, False, True]]
    assert any("1 names stand for several classes, for example 'missile': a tie" in note for note in task.notes)


def test_imagenets_own_lists(tmp_path):
    root = folders(tmp_path / "in", **{f"n{number:08}": 1 for number in range(3)})
    with pytest.raises(ValueError, match="imagenet has 1000 names for 3 classes"):
        read("zero-shot", root, classes="imagenet")
    for number in range(3, 1000):
        (root / f"n{number:08}").mkdir()
    task = read("zero-shot", root, classes="imagenet", templates="imagenet")
    assert task.questions[0].prompts.shape == (1000, 80)
    assert "a bad photo of a tench." in task.captions
    assert any("n00000000: tench" in note for note in task.notes)
    assert any("2 names stand for several classes, for example 'missile'" in note for note in task.notes)
    cifar = read("zero-shot", folders(tmp_path / "c", cat=1, dog=1), templates="cifar")
    assert cifar.questions[0].prompts.shape == (2, 18)
    assert {"a photo of a cat.", "a low contrast photo of the dog.", "a photo of the big cat."} <= {*cifar.captions}


def test_folders_that_are_numbers_stand_by_size(tmp_path):
    """As ImageNetV2's do: sorted as text, 10 would come before 2."""
    root = folders(tmp_path / "in", **{str(number): 1 for number in range(11)})
    (tmp_path / "names.txt").write_text("\n".join(f"name {number}" for number in range(11)))
    task = read("zero-shot", root, classes=str(tmp_path / "names.txt"))
    labels = zip(task.images, task.questions[0].label, strict=True)
    shown = {Path(one.name).parent.name: int(label) for one, label in labels}
    assert shown == {str(number): number for number in range(11)}


def test_lists_of_clip_benchmark(tmp_path):
    root = folders(tmp_path / "in", x1=1, x2=1)
    (tmp_path / "names.json").write_text(json.dumps({"mine": ["cat", "dog"], "other": ["a", "b"]}))
    (tmp_path / "prompts.json").write_text(json.dumps({"mine": ["a {c}.", "the {c}."]}))
    (tmp_path / "own.json").write_text(
        json.dumps({"mine": {"cat": ["a purring cat"], "dog": ["a dog", "a barking dog"]}})
    )
    names, prompts, own = (str(tmp_path / f"{name}.json") for name in ("names", "prompts", "own"))
    task = read("zero-shot", root, classes=names, templates=prompts, dataset="mine")
    assert task.captions == ["a cat.", "the cat.", "a dog.", "the dog."]
    with pytest.raises(
        ValueError, match=r"names\.json has 2 data sets\. Pass options=..dataset.: NAME}, one of mine, other"
    ):
        read("zero-shot", root, classes=names)
    task = read("zero-shot", root, classes=names, templates=own, dataset="mine")
    assert task.captions == ["a purring cat", "a dog", "a barking dog"]
    assert task.questions[0].prompts.tolist() == [[0, -1], [1, 2]]
    # The mean of a class's own prompts: of the dog two, which are as near together as the cat's one.
    found = values(task, lambda name, text: float({"x10": "cat", "x20": "dog"}[Path(name).stem] in text))
    assert found["acc1"] == 1.0
    with pytest.raises(ValueError, match=r"own\.json has no list of prompts of 2 classes, for example 'x1'"):
        read("zero-shot", root, templates=own)


def webdataset(root, rows, split="test"):
    (root / split).mkdir(parents=True)
    with tarfile.open(root / split / "0.tar", "w") as tar:
        for number, value in enumerate(rows):
            image = image_file(root.parent / f"{number}.png").read_bytes()
            for ending, content in (("png", image), ("cls", value)):
                member = tarfile.TarInfo(f"s{number:07}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return root


def test_a_webdataset_of_clip_benchmark(tmp_path):
    root = webdataset(tmp_path / "wds", [b"1", b"0", b"1"])
    (root / "classnames.txt").write_text("tabby_cat\ndog\n")
    (root / "zeroshot_classification_templates.txt").write_text("one {c}.\nthe {c}.\n")
    for data in (root, root / "test", root / "test" / "0.tar"):
        task = read("zero-shot", data)
        assert task.captions == ["one tabby_cat.", "the tabby_cat.", "one dog.", "the dog."]
        assert task.questions[0].label.tolist() == [1, 0, 1]
        assert [one.decode(one.read()).size for one in task.images] == [(8, 8)] * 3
        assert task.images[0].read() == (tmp_path / "0.png").read_bytes()
    assert read("zero-shot", root, templates="cifar").questions[0].prompts.shape == (2, 18)
    (root / "classnames.txt").write_text("cat\n")
    with pytest.raises(ValueError, match=r"has classes up to 1, but .*classnames\.txt has 1 names"):
        read("zero-shot", root)
    with pytest.raises(ValueError, match=r"0\.tar sample s0000001: its class, a number in \.cls, is 'cat'"):
        read("zero-shot", webdataset(tmp_path / "bad", [b"1", b"cat"]))


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


def test_a_folder_without_classes(tmp_path):
    image_file(tmp_path / "a.png")
    with pytest.raises(ValueError, match="0 folders with 0 images, not one folder a class"):
        read("zero-shot", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a\.png is not a folder"):
        read("zero-shot", tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"There is no .*typo"):
        read("zero-shot", tmp_path / "typo")


def test_a_split_is_of_cifar_only(tmp_path):
    with pytest.raises(ValueError, match="is no CIFAR and no WebDataset; which alone have splits"):
        read("zero-shot", folders(tmp_path / "in", a=1, b=1), split="train")
    with pytest.raises(ValueError, match="split is 'val'"):
        read("zero-shot", tmp_path / "in", split="val")


NAMES = ["airplane", "bird", "cat"]


def cifar(root, monkeypatch, *, hundred=False, pixels=None):
    """A CIFAR of four images with three classes, whose published hashes are those of these files."""
    kind = datasets.CIFAR100 if hundred else datasets.CIFAR10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8) if pixels is None else pixels
    key = "fine_labels" if hundred else "labels"
    meta, meta_key = kind.meta["filename"], kind.meta["key"]

    def write(name, value):
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    hashes = [[name, write(name, {"data": rows, key: [2, 0, 1, 2]})] for name, _ in kind.test_list]
    monkeypatch.setattr(kind, "test_list", hashes)
    monkeypatch.setattr(kind, "meta", {"filename": meta, "key": meta_key, "md5": write(meta, {meta_key: NAMES})})
    monkeypatch.setattr(kind, "train_list", [])
    return rows


@pytest.mark.parametrize("hundred", [False, True])
@pytest.mark.parametrize("below", [False, True])
def test_cifar(tmp_path, monkeypatch, hundred, below):
    rows = cifar(tmp_path, monkeypatch, hundred=hundred)
    kind = datasets.CIFAR100 if hundred else datasets.CIFAR10
    task = read("zero-shot", tmp_path / kind.base_folder if below else tmp_path)
    assert task.captions == ["a photo of a airplane.", "a photo of a bird.", "a photo of a cat."]
    assert task.questions[0].label.tolist() == [2, 0, 1, 2]
    first = np.asarray(task.images[0].decode(task.images[0].read()))
    assert first.shape == (32, 32, 3)
    # Red of all pixels row by row, then green, then blue.
    assert first[1, 5].tolist() == [rows[0, 32 + 5], rows[0, 1024 + 32 + 5], rows[0, 2048 + 32 + 5]]


def test_cifar_that_is_not_as_published_is_not_opened(tmp_path, monkeypatch, capsys):
    cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({"data": Hostile()}, protocol=2))
    with pytest.raises(ValueError, match=r"cifar-10-batches-py is not CIFAR as it was published .*Fetch it again"):
        read("zero-shot", tmp_path)
    assert "this ran" not in capsys.readouterr().out


class Hostile:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_tar_without_an_image_says_so(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    with pytest.raises(ValueError, match=r"0.tar has no image. Fetch it again."):
        read("zero-shot", tmp_path / "0.tar")
