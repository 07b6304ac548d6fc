"""Zero-shot classification of any folder of images, or of CIFAR: what a matrix costs where nothing is bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labclip.data.entries import one_of
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Classification, Task
from labclip.jsonfile import read_json
from labclip.messages import typed

TEMPLATE = "a photo of a {}."

_CIFAR = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}
_BINARY = ("test_batch.bin", "test.bin", "cifar-10-batches-bin/test_batch.bin", "cifar-100-binary/test.bin")

_IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))


class _Found(NamedTuple):
    """Images with their classes: rows, labels, and how the data calls the classes."""

    image: list[int]
    label: list[int]
    classes: list[str]


def read(sources: Sources, *, split: str = "test", classes: str = "", templates: str = "") -> Task:
    """`acc1`, `acc5` where there are more than five classes, and `mean_per_class`.

    Args:
        sources: The files: a folder with one folder a class, or a CIFAR.
        split: "test" or "train" of a CIFAR.
        classes: A file of class names, in the order of the sorted folders or of CIFAR's numbers: one a line, or
            "folder<TAB>name" lines, or JSON, a list or an object of folder: name. "" takes the folders' names.
        templates: A file of prompts with `{}` for the class, one a line, or a JSON list. "" takes "a photo of a {}."
    """
    one_of("split", split, ("test", "train"))
    folder = sources.images or sources.folder
    cifar = _cifar_in(folder)
    if cifar is None and split != "test":
        wanted = typed("data=FOLDER", "--data FOLDER")
        raise ValueError(f"{folder} is not CIFAR; only CIFAR has splits. Pass {wanted}, the folder of the split.")
    found = _folders(sources, folder) if cifar is None else _cifar(sources, *cifar, split)
    names = _names(classes, found.classes, sources) if classes else [name.replace("_", " ") for name in found.classes]
    odd = [name for name in names if not isinstance(name, str) or not name.strip()]
    if odd:
        raise ValueError(f"{classes}: the name of a class is {odd[0]!r}. Every name must be a text that is not empty.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        wanted = typed("classes=FILE", "--option classes=FILE")
        raise ValueError(f"Two classes are called {repeated[0]!r}. Pass {wanted} with names that differ.")
    prompts = _templates(templates, sources) if templates else [TEMPLATE]
    rows = [[sources.captions.row(one.replace("{}", name), f"class {name!r}") for one in prompts] for name in names]
    sources.notes.append(f"{len(names):,} classes, {len(prompts):,} prompt{'s' if len(prompts) > 1 else ''} each.")
    return sources.task(Classification(np.array(found.image), np.array(found.label), np.array(rows)))


def _folders(sources: Sources, folder: Path) -> _Found:
    """One folder a class, in the order of their names; what is not an image is passed over."""
    if (sources.images is None and sources.data != folder) or not folder.is_dir():
        raise FileNotFoundError(f"{sources.images or sources.data} is not a folder. {sources.hint}")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    image, label, empty = [], [], []
    for number, path in enumerate(folders):
        shown = sorted(one for one in path.iterdir() if one.suffix.lower() in _IMAGES)
        if not shown:
            empty.append(path.name)
        for one in shown:
            row = sources.found.file(one)
            assert row is not None
            image.append(row)
            label.append(number)
    if len(folders) < 2 or not image:
        raise ValueError(f"{folder} has {len(folders)} folders with {len(image)} images, not one folder a class.")
    if empty:
        example = f"for example {empty[0]}; their classes stay options."
        sources.notes.append(f"{len(empty):,} folders have no image, {example}")
    return _Found(image, label, [path.name for path in folders])


def _cifar_in(folder: Path) -> tuple[Path, str] | None:
    """The folder that holds a CIFAR's own folder, and the name of that one; or None."""
    for name in _CIFAR:
        for parent in (folder, folder.parent):
            if (parent / name).is_dir() and folder in (parent, parent / name):
                return parent, name
    if binary := next((name for name in _BINARY if (folder / name).is_file()), None):
        raise ValueError(f"{folder / binary} is of CIFAR's binary version. Fetch the Python version, which is read.")
    return None


def _cifar(sources: Sources, folder: Path, name: str, split: str) -> _Found:
    from torchvision import datasets  # type: ignore[import-untyped]

    try:
        # Checks the published MD5 of each file before it opens any: what is pickled there is known.
        found = getattr(datasets, _CIFAR[name])(folder, train=split == "train", download=False)
    except RuntimeError as error:
        raise ValueError(f"{folder / name} is not CIFAR as it was published ({error}). Fetch it again.") from error
    image = [
        sources.image_in_memory(np.ascontiguousarray(pixels), f"{name} {split} {number}")
        for number, pixels in enumerate(found.data)
    ]
    return _Found(image, list(found.targets), list(found.classes))


def _names(file: str, classes: Sequence[str], sources: Sources) -> list[str]:
    path, names = _listed(file, sources)
    if path.suffix.lower() != ".json" and all("\t" in line for line in names):
        names = dict(line.split("\t", 1) for line in names)
    if isinstance(names, dict):
        lacking = [name for name in classes if name not in names]
        if lacking:
            raise ValueError(f"{path} lacks {len(lacking)} of {len(classes)} classes, for example {lacking[0]!r}.")
        return [names[name] for name in classes]
    if not isinstance(names, list) or len(names) != len(classes):
        count = len(names) if isinstance(names, list) else "no"
        raise ValueError(
            f"{path} has {count} names for {len(classes)} classes. Write one a line, in the folders' order."
        )
    other = [place for place, (name, folder) in enumerate(zip(names, classes, strict=True)) if name != folder]
    if other and set(map(str, names)) == set(classes):
        raise ValueError(
            f"{path} has the names of the folders in another order: line {other[0] + 1} would rename a class to "
            f"another. Sort it, or write folder<TAB>name lines, which need no order."
        )
    if other:
        example = f"{classes[other[0]]}: {names[other[0]]}"
        sources.notes.append(f"Names of {path.name} by the order of folders, for example {example}.")
    return names


def _templates(file: str, sources: Sources) -> list[str]:
    path, value = _listed(file, sources)
    lines = value if isinstance(value, list) else []
    wrong = [line for line in lines if not isinstance(line, str) or "{}" not in line]
    if not lines or wrong:
        raise ValueError(f"{path}: {wrong[0] if wrong else 'no line'!r} has no {{}} where the class's name goes.")
    return [line.strip() for line in lines]


def _listed(file: str, sources: Sources) -> tuple[Path, Any]:
    """A file as it is named, or as data, and its JSON value, or its lines that are not blank."""
    path = next((path for path in (Path(file).expanduser(), sources.folder / file) if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"There is no file {file}, here or in {sources.folder}.")
    if path.suffix.lower() == ".json":
        return path, read_json(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start}.") from error
    return path, [line.strip() for line in lines if line.strip()]


BENCHMARK = Benchmark(
    "zero-shot", "Zero-shot classification", "classification", read,
    wants="as data a folder with one folder of images a class, or CIFAR-10 or CIFAR-100 (Python version) unpacked; the "
    "options classes and templates are files of other names and prompts",
    source="your own, image-net.org, www.cs.toronto.edu/~kriz/cifar.html",
    licence="that of the images; ImageNet: non-commercial research",
    paper="arXiv:2103.00020",
    headline=("acc1", "acc5", "mean_per_class"),
)  # fmt: skip
