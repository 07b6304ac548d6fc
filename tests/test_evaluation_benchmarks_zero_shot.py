"""Zero-shot classification of folders of images, of WebDatasets, and of CIFAR as it was published."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from evaluated import counts, image_file, lay, read, scored
from models import Bomb
from torchvision import datasets


def folders(root, **classes):
    lay(root, {f"{name}/{name}{number}.png": None for name, images in classes.items() for number in range(images)})
    return root


def test_folders_are_classes(tmp_path):
    root = folders(tmp_path / "in", polar_bear=1, cat=3)
    lay(root, {"cat/notes.txt": "no image"})
    task = read("zero-shot", root)
    assert task.captions == ["a photo of a cat.", "a photo of a polar bear."]
    assert task.questions[0].label.tolist() == [0, 0, 0, 1]
    assert task.notes == ["2 classes, 1 prompt each."]


def test_folders_that_are_numbers_stand_by_size(tmp_path):
    """As ImageNetV2's do: sorted as text, 10 would come before 2."""
    root = folders(tmp_path / "in", **{str(number): 1 for number in range(11)})
    lay(root, {"names.txt": "\n".join(f"name {number}" for number in range(11))})
    task = read("zero-shot", root, classes="names.txt")
    labels = zip(task.images, task.questions[0].label, strict=True)
    shown = {Path(image.name).parent.name: int(label) for image, label in labels}
    assert shown == {str(number): number for number in range(11)}


NAMES = {
    "names.txt": "ant\nbee\n", "names.json": {"n2": "bee", "n1": "ant"}, "tabs.txt": "n2\tbee\nn1\tant\n",
    "one.json": ["ant", "bee"],
}  # fmt: skip
PROMPTS = {
    "": (["a photo of a ant.", "a photo of a bee."], [[0], [1]]),
    "prompts.txt": (["a photo of a ant.", "the ant.", "a photo of a bee.", "the bee."], [[0, 1], [2, 3]]),
    "prompts.json": (["a ant.", "the ant.", "a bee.", "the bee."], [[0, 1], [2, 3]]),
    "own.json": (["an ant", "a bee", "a buzzing bee"], [[0, -1], [1, 2]]),
}
FILES = {
    **NAMES,
    "prompts.txt": "a photo of a {}.\nthe {c}.\n",
    "prompts.json": ["a {c}.", "the {c}."],
    "own.json": {"ant": ["an ant"], "bee": ["a bee", "a buzzing bee"]},
}


@pytest.mark.parametrize("templates", PROMPTS)
@pytest.mark.parametrize("classes", NAMES)
def test_names_and_prompts(tmp_path, classes, templates):
    root = folders(tmp_path / "in", n1=1, n2=1)
    lay(root, FILES)
    task = read("zero-shot", root, classes=classes, templates=templates and str(root / templates))
    captions, prompts = PROMPTS[templates]
    assert (task.captions, task.questions[0].prompts.tolist()) == (captions, prompts)
    by_order = ("names" in classes and classes.endswith("txt")) or classes == "one.json"
    assert (f"Names of {classes} by the order of folders, for example n1: ant." in task.notes) == by_order
    # The mean of a class's own prompts.
    items = scored(task, lambda name, text: float({"n10": "ant", "n20": "bee"}[Path(name).stem] in text))
    assert items["acc1"].value("acc1") == 1.0


def test_imagenets_own_lists(tmp_path):
    root = folders(tmp_path / "in", **{f"n{number:08}": 1 for number in range(3)})
    for number in range(3, 1000):
        (root / f"n{number:08}").mkdir()
    task = read("zero-shot", root, classes="imagenet", templates="imagenet")
    assert task.questions[0].prompts.shape == (1000, 80)
    assert "a bad photo of a tench." in task.captions
    assert any("n00000000: tench" in note for note in task.notes)
    assert any("2 names stand for several classes, for example 'missile'" in note for note in task.notes)
    assert "acc5" in counts(task)
    cifar = read("zero-shot", folders(tmp_path / "c", cat=1, dog=1), templates="cifar")
    assert cifar.questions[0].prompts.shape == (2, 18)
    assert {"a photo of a cat.", "a low contrast photo of the dog.", "a photo of the big cat."} <= {*cifar.captions}


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
    lay(root, {"classnames.txt": "tabby_cat\ndog\n", "zeroshot_classification_templates.txt": "one {c}.\nthe {c}.\n"})
    for data in (root, root / "test", root / "test" / "0.tar"):
        task = read("zero-shot", data)
        assert task.captions == ["one tabby_cat.", "the tabby_cat.", "one dog.", "the dog."]
        assert task.questions[0].label.tolist() == [1, 0, 1]
        assert [image.decode(image.read()).size for image in task.images] == [(8, 8)] * 3
        assert task.images[0].read() == (tmp_path / "0.png").read_bytes()
    assert read("zero-shot", root, templates="cifar").questions[0].prompts.shape == (2, 18)
    lay(root, {"classnames.txt": "cat\n"})
    with pytest.raises(ValueError, match=r"has 2 classes, but .*classnames\.txt has 1 names"):
        read("zero-shot", root)
    with pytest.raises(ValueError, match=r"0\.tar sample s0000001 must have an image, and the number of its class"):
        read("zero-shot", webdataset(tmp_path / "bad", [b"1", b"cat"]))
    with pytest.raises(ValueError, match=r"empty has no item\. Get it there"):
        read("zero-shot", webdataset(tmp_path / "empty", []))


def cifar(root, monkeypatch, *, hundred=False):
    """A CIFAR of four images with three classes, whose published hashes are those of these files."""
    kind = datasets.CIFAR100 if hundred else datasets.CIFAR10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    key, meta, meta_key = "fine_labels" if hundred else "labels", kind.meta["filename"], kind.meta["key"]

    def write(name, value):
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    hashes = [[name, write(name, {"data": rows, key: [2, 0, 1, 2]})] for name, _ in kind.test_list]
    known = write(meta, {meta_key: ["airplane", "bird", "cat"]})
    monkeypatch.setattr(kind, "test_list", hashes)
    monkeypatch.setattr(kind, "meta", {"filename": meta, "key": meta_key, "md5": known})
    monkeypatch.setattr(kind, "train_list", [])
    return rows, folder


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar(tmp_path, monkeypatch, hundred):
    rows, folder = cifar(tmp_path, monkeypatch, hundred=hundred)
    for data in (tmp_path, folder):
        task = read("zero-shot", data)
        assert task.captions == ["a photo of a airplane.", "a photo of a bird.", "a photo of a cat."]
        assert task.questions[0].label.tolist() == [2, 0, 1, 2]
        first = np.asarray(task.images[0].decode(task.images[0].read()))
        assert first.shape == (32, 32, 3)
        # Red of all pixels row by row, then green, then blue.
        assert first[1, 5].tolist() == [rows[0, 32 + 5], rows[0, 1024 + 32 + 5], rows[0, 2048 + 32 + 5]]


def test_cifar_that_is_not_as_published_is_not_opened(tmp_path, monkeypatch, capsys):
    _, folder = cifar(tmp_path, monkeypatch)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": Bomb()}, protocol=2))
    with pytest.raises(ValueError, match=r"cifar-10-batches-py is not CIFAR as it was published .*Fetch it again"):
        read("zero-shot", tmp_path)
    assert Bomb.WORDS not in capsys.readouterr().out
