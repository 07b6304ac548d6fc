"""Zero-shot classification of folders, CIFAR and CLIP_benchmark's WebDatasets: the cost where nothing is bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip

from labclip.data.entries import one_of
from labclip.data.rows import tar_rows
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import NONE, Classification, Task
from labclip.files import read_json

TEMPLATE = "a photo of a {}."
CIFAR_TEMPLATES = [
    form.format(article)
    for article in ("a", "the")
    for form in (
        "a photo of {} {{}}.", "a blurry photo of {} {{}}.", "a black and white photo of {} {{}}.",
        "a low contrast photo of {} {{}}.", "a high contrast photo of {} {{}}.", "a bad photo of {} {{}}.",
        "a good photo of {} {{}}.", "a photo of {} small {{}}.", "a photo of {} big {{}}.",
    )
]  # fmt: skip
"""OpenAI's prompts of CIFAR-10 and CIFAR-100. Source: data/prompts.md of github.com/openai/CLIP."""

TEMPLATES_FILE = "zeroshot_classification_templates.txt"

_CIFAR = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}
_BINARY = ("test_batch.bin", "test.bin", "cifar-10-batches-bin/test_batch.bin", "cifar-100-binary/test.bin")

_NAMED = 50  # data sets in a message
_IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))


class _Found(NamedTuple):
    """Images with their classes: rows, labels, how the data calls the classes, and prompts that it comes with."""

    image: list[int]
    label: list[int]
    classes: list[str]
    templates: str = ""


def read(sources: Sources, *, split: str = "test", classes: str = "", templates: str = "", dataset: str = "") -> Task:
    """`acc1`, `acc5` where there are more than five classes, and `mean_per_class`.

    Args:
        sources: The files: a folder with one folder a class, a CIFAR, or a WebDataset as CLIP_benchmark has them.
        split: "test" or "train" of a CIFAR or a WebDataset.
        classes: A file of class names, in the order of the sorted folders (numbers by size) or labels: one a line, or
            "folder<TAB>name" lines, or JSON, a list, an object of folder: name, or CLIP_benchmark's of data set: list.
            "imagenet" is OpenAI's names of the 1,000 classes. "" takes the folders' names.
        templates: A file of prompts with `{}` or `{c}` for the class, one a line, or JSON, a list, or CLIP_benchmark's
            object of data set: list, or of data set: {class: its prompts}. "imagenet" and "cifar" are OpenAI's. ""
            takes those that come with a WebDataset, else "a photo of a {}."
        dataset: Which data set of a JSON file that has several.
    """
    one_of("split", split, ("test", "train"))
    folder = sources.images or sources.folder
    shards = _shards(sources, split)
    cifar = None if shards else _cifar_in(folder)
    if cifar is None and not shards and split != "test":
        raise ValueError(
            f"{folder} is no CIFAR and no WebDataset; which alone have splits. Pass data=FOLDER with that of the split."
        )
    if cifar is not None:
        found = _cifar(sources, *cifar, split)
    else:
        found = _samples(sources, shards) if shards else _folders(sources, folder)
    names = _names(classes, found.classes, sources, dataset) if classes else found.classes
    if not classes and not shards:
        names = [name.replace("_", " ") for name in names]
    odd = [name for name in names if not isinstance(name, str) or not name.strip()]
    if odd:
        raise ValueError(f"{classes}: the name of a class is {odd[0]!r}. Every name must be a text that is not empty.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        sources.notes.append(
            f"{len(repeated):,} names stand for several classes, for example {repeated[0]!r}: a tie, which is wrong. "
            f"Code that takes the first of them has higher figures."
        )
    prompts = _prompts(templates or found.templates, names, sources, dataset)
    width = max(map(len, prompts))
    rows = [
        [*(sources.caption(one, f"class {name!r}") for one in several), *[NONE] * (width - len(several))]
        for name, several in zip(names, prompts, strict=True)
    ]
    sources.notes.append(f"{len(names):,} classes, {width:,} prompt{'s' if width > 1 else ''} each.")
    return sources.task(Classification(np.array(found.image), np.array(found.label), np.array(rows)))


def _folders(sources: Sources, folder: Path) -> _Found:
    """One folder a class, in the order of their names; what is not an image is passed over."""
    if (sources.images is None and sources.data != folder) or not folder.is_dir():
        raise FileNotFoundError(f"{sources.images or sources.data} is not a folder. {sources.hint}")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if all(path.name.isdecimal() for path in folders):  # ImageNetV2's, whose 10 is not behind 1
        folders.sort(key=lambda path: int(path.name))
    image, label, empty = [], [], []
    for number, path in enumerate(folders):
        shown = sorted(one for one in path.iterdir() if one.suffix.lower() in _IMAGES)
        if not shown:
            empty.append(path.name)
        for one in shown:
            row = sources.file(one)
            assert row is not None
            image.append(row)
            label.append(number)
    if len(folders) < 2 or not image:
        raise ValueError(f"{folder} has {len(folders)} folders with {len(image)} images, not one folder a class.")
    if empty:
        example = f"for example {empty[0]}; their classes stay options."
        sources.notes.append(f"{len(empty):,} folders have no image, {example}")
    return _Found(image, label, [path.name for path in folders])


def _shards(sources: Sources, split: str) -> list[Path]:
    """The tars of a WebDataset: the one that `data` is, or those in the folder of the split."""
    data = sources.data
    if data is None or not data.is_dir():
        return [data] if data is not None and data.is_file() and data.suffix.lower() == ".tar" else []
    whole = not any(path.is_dir() for path in data.iterdir())  # else a tar beside folders of classes, as it was fetched
    return sorted((data / split).glob("*.tar")) or sorted(data.glob("*.tar") if whole else ())


def _samples(sources: Sources, shards: Sequence[Path]) -> _Found:
    """Images of tars with the number of their class in `.cls`; names and prompts lie beside them or a folder above."""
    image, label = [], []
    for shard in shards:
        for location, cells in tar_rows(shard):
            value = cells.get("cls")
            if not isinstance(value, str) or not value.strip().isdecimal():
                raise ValueError(f"{location}: its class, a number in .cls, is {value!r}.")
            if cells["image"] is None:
                raise ValueError(f"{location} has no image.")
            found = sources.add(cells["image"])
            assert found is not None
            image.append(found)
            label.append(int(value))
    if not image:
        raise ValueError(f"{shards[0]} has no image. Fetch it again.")
    beside = [path for at in (shards[0].parent, shards[0].parent.parent) for path in at.glob("*.txt")]
    files = {path.name: path for path in reversed(beside)}
    listed = files.get("classnames.txt")
    names = _listed(str(listed), sources)[1] if listed else [str(number) for number in range(max(label) + 1)]
    if max(label) >= len(names):
        raise ValueError(
            f"{shards[0]} has {len(image)} images of classes up to {max(label)}, but {listed} has "
            f"{len(names)} names, from class 0 on. Fetch both again."
        )
    return _Found(image, label, names, str(files.get(TEMPLATES_FILE, "")))


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


def _names(file: str, classes: Sequence[str], sources: Sources, dataset: str) -> list[str]:
    builtin: tuple[Path, Any] = Path(file), list(open_clip.IMAGENET_CLASSNAMES)
    path, names = builtin if file == "imagenet" else _listed(file, sources)
    names = _of_dataset(path, names, dataset)
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
    other = [index for index, (name, folder) in enumerate(zip(names, classes, strict=True)) if name != folder]
    if other and set(map(str, names)) == set(classes):
        raise ValueError(
            f"{path} has the names of the folders in another order: line {other[0] + 1} would rename a class to "
            f"another. Sort it, or write folder<TAB>name lines, which need no order."
        )
    if other:
        example = f"{classes[other[0]]}: {names[other[0]]}"
        sources.notes.append(f"Names of {path.name} by the order of folders, for example {example}.")
    return names


def _prompts(file: str, names: Sequence[str], sources: Sources, dataset: str) -> list[list[str]]:
    """The prompts of each class."""
    if file in ("", "cifar", "imagenet"):
        imagenet = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
        lines = {"": [TEMPLATE], "cifar": CIFAR_TEMPLATES, "imagenet": imagenet}[file]
        return [[line.replace("{}", name) for line in lines] for name in names]
    path, value = _listed(file, sources)
    if not (isinstance(value, dict) and value.keys() >= set(names)):
        value = _of_dataset(path, value, dataset)
    if isinstance(value, dict):
        lacking = [name for name in names if not _texts(value.get(name))]
        if lacking:
            raise ValueError(f"{path} has no list of prompts of {len(lacking)} classes, for example {lacking[0]!r}.")
        return [value[name] for name in names]
    lines = value if isinstance(value, list) else []
    wrong = [line for line in lines if not isinstance(line, str) or not ("{}" in line or "{c}" in line)]
    if not lines or wrong:
        raise ValueError(f"{path}: {wrong[0] if wrong else 'no line'!r} has no {{}} where the class's name goes.")
    return [[line.strip().replace("{c}", "{}").replace("{}", name) for line in lines] for name in names]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _of_dataset(path: Path, value: Any, dataset: str) -> Any:
    """Of CLIP_benchmark's JSON the part of one data set."""
    if not isinstance(value, dict) or not value or any(isinstance(part, str) for part in value.values()):
        return value
    if not dataset and len(value) == 1:
        return next(iter(value.values()))
    if dataset not in value:
        some = ", ".join(list(value)[:_NAMED])
        raise ValueError(f'{path} has {len(value)} data sets. Pass options={{"dataset": NAME}}, one of {some}.')
    return value[dataset]


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
