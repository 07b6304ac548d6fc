"""Zero-shot classification of folders, CIFAR and CLIP_benchmark's WebDatasets: the cost where nothing is bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip

from labclip.data.images import ImageSource
from labclip.data.rows import tar_rows, text_rows
from labclip.evaluation.benchmarks.forms import one_of
from labclip.evaluation.questions import NONE, Classification
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task
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

_CIFAR = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}
_IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))


class _Labelled(NamedTuple):
    """Rows of images with their labels, what the data calls the classes, and the file of prompts that it comes with."""

    rows: Sequence[tuple[int | None, int]]
    classes: Sequence[str]
    templates: str = ""


def read(sources: Sources, *, split: str = "test", classes: str = "", templates: str = "") -> Task:
    """`acc1`, `acc5` where there are more than five classes, and `mean_per_class`.

    Args:
        sources: The files: a folder with one folder a class, a CIFAR, or a WebDataset as CLIP_benchmark has them.
        split: "test" or "train" of a CIFAR or a WebDataset.
        classes: A file of class names, in the order of the sorted folders (numbers by size) or labels: one a line, or
            "folder<TAB>name" lines, or JSON, a list or an object of folder: name. "imagenet" is OpenAI's names of the
            1,000 classes. "" takes the folders' names.
        templates: A file of prompts with `{}` or `{c}` for the class, one a line, or JSON, a list or an object of
            class: its prompts. "imagenet" and "cifar" are OpenAI's. "" takes those that come with a WebDataset, else
            "a photo of a {}."
    """
    one_of("split", split, ("test", "train"))
    folder = sources.images or sources.folder
    shards, cifar = _shards(sources.data, split), _cifar_in(folder)
    if shards:
        samples = _samples(sources, shards)
    elif cifar is not None:
        samples = _cifar(sources, *cifar, split)
    elif split == "test":
        samples = _folders(sources, folder)
    else:
        raise ValueError(
            f"{folder} is no CIFAR and no WebDataset; which alone have splits. Pass data=FOLDER with that of the split."
        )
    if not samples.rows:
        return sources.task()
    names = samples.classes if shards else [name.replace("_", " ") for name in samples.classes]
    if classes:
        names = _names(classes, samples.classes, sources)
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        sources.notes.append(
            f"{len(repeated):,} names stand for several classes, for example {repeated[0]!r}: a tie, which is wrong. "
            f"Code that takes the first of them has higher figures."
        )
    prompts = _prompts(templates or samples.templates, names, sources)
    width = max(map(len, prompts))
    rows = np.full((len(names), width), NONE)
    for row, name, several in zip(rows, names, prompts, strict=True):
        row[: len(several)] = [sources.caption(prompt, f"class {name!r}") for prompt in several]
    sources.notes.append(f"{len(names):,} classes, {width:,} prompt{'s' if width > 1 else ''} each.")
    images, labels = np.array(samples.rows, dtype=np.int64).T
    return sources.task(Classification(images, labels, rows))


def _folders(sources: Sources, folder: Path) -> _Labelled:
    """One folder a class, in the order of their names; what is not an image is passed over."""
    if sources.images is None and sources.data != folder:
        raise FileNotFoundError(f"{sources.data} is not a folder. {sources.hint}")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if all(path.name.isdecimal() for path in folders):  # ImageNetV2's, whose 10 is not behind 1
        folders.sort(key=lambda path: int(path.name))
    shown = [sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES) for folder in folders]
    if len(folders) < 2 or not any(shown):
        count = sum(map(len, shown))
        raise ValueError(f"{folder} has {len(folders)} folders with {count} images, not one folder a class.")
    if empty := [path.name for path, images in zip(folders, shown, strict=True) if not images]:
        example = f"for example {empty[0]}; their classes stay options."
        sources.notes.append(f"{len(empty):,} folders have no image, {example}")
    files = [(path, label) for label, images in enumerate(shown) for path in images]
    labelled = [(sources.add(ImageSource(str(path), path)), label) for path, label in files]
    return _Labelled(labelled, [path.name for path in folders])


def _shards(data: Path | None, split: str) -> list[Path]:
    """The tars of a WebDataset: the one that `data` is, or those in the folder of the split."""
    if data is None or not data.is_dir():
        return [data] if data is not None and data.suffix.lower() == ".tar" else []
    whole = not any(path.is_dir() for path in data.iterdir())  # else a tar beside folders of classes, as it was fetched
    return sorted((data / split).glob("*.tar")) or sorted(data.glob("*.tar") if whole else ())


def _samples(sources: Sources, shards: Sequence[Path]) -> _Labelled:
    """Images of tars with the number of their class in `.cls`; names and prompts lie beside them or a folder above."""
    samples = []
    for location, cells in (row for shard in shards for row in tar_rows(shard)):
        if cells["image"] is None or not str(cells.get("cls")).strip().isdecimal():
            raise ValueError(f"{location} must have an image, and the number of its class in .cls.")
        samples.append((sources.add(cells["image"]), int(cells["cls"])))
    files = {path.name: path for at in (shards[0].parent.parent, shards[0].parent) for path in at.glob("*.txt")}
    listed, count = files.get("classnames.txt"), 1 + max((label for _, label in samples), default=0)
    names = _lines(listed) if listed else [str(number) for number in range(count)]
    if count > len(names):
        raise ValueError(f"{shards[0]} has {count} classes, but {listed} has {len(names)} names. Fetch both again.")
    return _Labelled(samples, names, str(files.get("zeroshot_classification_templates.txt", "")))


def _cifar_in(folder: Path) -> tuple[Path, str] | None:
    """The folder that holds a CIFAR's own folder, and the name of that one, where `folder` is either."""
    known = ((root, name) for name in _CIFAR for root in (folder, folder.parent))
    fitting = ((root, name) for root, name in known if folder in (root, root / name) and (root / name).is_dir())
    return next(fitting, None)


def _cifar(sources: Sources, folder: Path, name: str, split: str) -> _Labelled:
    from torchvision import datasets  # type: ignore[import-untyped]

    try:
        # Checks the published MD5 of each file before it opens any: what is pickled there is known.
        dataset = getattr(datasets, _CIFAR[name])(folder, train=split == "train", download=False)
    except RuntimeError as error:
        raise ValueError(f"{folder / name} is not CIFAR as it was published ({error}). Fetch it again.") from error
    pixels = map(np.ascontiguousarray, dataset.data)
    rows = [sources.image_in_memory(image, f"{name} {split} {number}") for number, image in enumerate(pixels)]
    return _Labelled(list(zip(rows, dataset.targets, strict=True)), dataset.classes)


def _names(file: str, classes: Sequence[str], sources: Sources) -> list[str]:
    names = list(open_clip.IMAGENET_CLASSNAMES) if file == "imagenet" else _listed(file, sources)
    if isinstance(names, list) and all("\t" in line for line in names):
        names = dict(line.split("\t", 1) for line in names)
    if isinstance(names, dict):
        return [_of_class(names, name, str, file) for name in classes]
    if len(names) != len(classes):
        raise ValueError(
            f"{file} has {len(names)} names for {len(classes)} classes. Write one per line, in the folders' order."
        )
    if other := [index for index, (name, folder) in enumerate(zip(names, classes, strict=True)) if name != folder]:
        if {*names} == {*classes}:
            raise ValueError(
                f"{file} has the names of the folders in another order: line {other[0] + 1} would rename a class to "
                f"another. Sort it, or write folder<TAB>name lines, which need no order."
            )
        example = f"{classes[other[0]]}: {names[other[0]]}"
        sources.notes.append(f"Names of {Path(file).name} by the order of folders, for example {example}.")
    return list(names)


def _prompts(file: str, names: Sequence[str], sources: Sources) -> list[list[str]]:
    known = {"": [TEMPLATE], "cifar": CIFAR_TEMPLATES}
    if file == "imagenet":
        known[file] = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    lines = known.get(file) or _listed(file, sources)
    if isinstance(lines, dict):
        return [_of_class(lines, name, list, file) for name in names]
    lines = [line.strip().replace("{c}", "{}") for line in lines]
    if not lines or (wrong := [line for line in lines if "{}" not in line]):
        raise ValueError(f"{file}: {wrong[0] if lines else 'no line'!r} has no {{}} where the class's name goes.")
    return [[line.replace("{}", name) for line in lines] for name in names]


def _of_class(value: dict[str, Any], name: str, kind: type, file: str) -> Any:
    if not isinstance(value.get(name), kind) or not value[name]:
        raise ValueError(f"{file} has nothing for the class {name!r}, but {', '.join(list(value)[:5])} and so on.")
    return value[name]


def _listed(file: str, sources: Sources) -> Any:
    """The entries of a file, its lines or JSON; its path as given or in the data folder."""
    path = next((path for path in (Path(file).expanduser(), sources.folder / file) if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"There is no file {file}, here or in {sources.folder}.")
    return read_json(path) if path.suffix.lower() == ".json" else _lines(path)


def _lines(path: Path) -> list[str]:
    return [cells["caption"].strip() for _, cells in text_rows(path) if cells["caption"].strip()]
