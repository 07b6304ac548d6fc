"""Zero-shot classification of folders, CIFAR and CLIP_benchmark's WebDatasets, which an alignment may make worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip

from labclip.checks import check_choice
from labclip.data.images import ImageSource
from labclip.data.rows import tar_rows, text_rows
from labclip.evaluation.questions import NONE, Classification
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task
from labclip.files import read_json

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


class _Samples(NamedTuple):
    """Rows of images with their labels, the names of the classes, and the file of prompts that comes with the data."""

    rows: Sequence[tuple[int | None, int]]
    classes: Sequence[str]
    templates: str = ""


def read(sources: Sources, *, split: str = "test", classes: str = "", templates: str = "") -> Task:
    """`acc1`, `acc5` where there are more than five classes, and `mean_per_class`.

    Args:
        sources: The files: a folder with one folder for each class, a CIFAR, or a WebDataset of CLIP_benchmark.
        split: "test" or "train" of a CIFAR or a WebDataset.
        classes: A file of class names: one name a line, in the order of the sorted folders (numbers by size) or of the
            labels; or lines "folder<TAB>name"; or JSON, a list or an object {folder: name}. "imagenet" is OpenAI's
            names of the 1,000 classes. "" takes the folders' names.
        templates: A file of prompts with `{}` or `{c}` for the class: one prompt a line; or JSON, a list or an object
            {class: its prompts}. "imagenet" and "cifar" are OpenAI's prompts. "" takes those that come with a
            WebDataset, else "a photo of a {}."
    """
    check_choice("The option split", split, ("test", "train"))
    folder = sources.images or sources.folder
    shards, cifar = _shards(sources.data, split), _find_cifar(folder)
    if shards:
        samples = _read_shards(sources, shards)
    elif cifar is not None:
        samples = _read_cifar(sources, *cifar, split)
    elif split == "test":
        samples = _read_folders(sources, folder)
    else:
        raise ValueError(
            f"{folder} is neither a CIFAR nor a WebDataset, and only these have splits. Pass data=FOLDER with the "
            f"images of the split."
        )
    if not samples.rows:
        return sources.task()
    names = samples.classes if shards else [name.replace("_", " ") for name in samples.classes]
    if classes:
        names = _class_names(classes, samples.classes, sources)
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        sources.notes.append(
            f"{len(repeated):,} names stand for several classes, for example {repeated[0]!r}: a tie, which is wrong. "
            f"Code that takes the first of them has higher figures."
        )
    prompts = _class_prompts(templates or samples.templates, names, sources)
    width = max(map(len, prompts))
    rows = np.full((len(names), width), NONE)
    for row, name, class_prompts in zip(rows, names, prompts, strict=True):
        row[: len(class_prompts)] = [sources.caption(prompt, f"class {name!r}") for prompt in class_prompts]
    sources.notes.append(f"{len(names):,} classes, {width:,} prompt{'s' if width > 1 else ''} each.")
    images, labels = np.array(samples.rows, dtype=np.int64).T
    return sources.task(Classification(images, labels, rows))


def _read_folders(sources: Sources, folder: Path) -> _Samples:
    """One folder for each class, in the order of their names; files that are no images are ignored."""
    if sources.images is None and sources.data != folder:
        raise FileNotFoundError(f"{sources.data} is not a folder. {sources.hint}")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if all(path.name.isdecimal() for path in folders):  # ImageNetV2's: as texts, 10 would come before 2
        folders.sort(key=lambda path: int(path.name))
    files = [sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES) for folder in folders]
    if len(folders) < 2 or not any(files):
        count = sum(map(len, files))
        raise ValueError(f"{folder} has {len(folders)} folders with {count} images, not one folder for each class.")
    if empty := [path.name for path, images in zip(folders, files, strict=True) if not images]:
        example = f"for example {empty[0]}; their classes stay options."
        sources.notes.append(f"{len(empty):,} folders have no image, {example}")
    labelled = [(path, label) for label, images in enumerate(files) for path in images]
    rows = [(sources.add(ImageSource(str(path), path)), label) for path, label in labelled]
    return _Samples(rows, [path.name for path in folders])


def _shards(data: Path | None, split: str) -> list[Path]:
    """The tars of a WebDataset: `data` itself, or those in the folder of the split."""
    if data is None or not data.is_dir():
        return [data] if data is not None and data.suffix.lower() == ".tar" else []
    # A tar next to folders of classes may be their download.
    has_folders = any(path.is_dir() for path in data.iterdir())
    return sorted((data / split).glob("*.tar")) or sorted(() if has_folders else data.glob("*.tar"))


def _read_shards(sources: Sources, shards: Sequence[Path]) -> _Samples:
    """Images of tars, with their class number in `.cls`; names and prompts are in their folder or the one above."""
    rows = []
    for location, cells in (row for shard in shards for row in tar_rows(shard)):
        if cells["image"] is None or not str(cells.get("cls")).strip().isdecimal():
            raise ValueError(f"{location} must have an image, and the number of its class in .cls.")
        rows.append((sources.add(cells["image"]), int(cells["cls"])))
    files = {path.name: path for folder in (shards[0].parent.parent, shards[0].parent) for path in folder.glob("*.txt")}
    file, count = files.get("classnames.txt"), 1 + max((label for _, label in rows), default=0)
    names = _lines(file) if file else [str(number) for number in range(count)]
    if count > len(names):
        raise ValueError(f"{shards[0]} has {count} classes, but {file} has {len(names)} names. Fetch both again.")
    return _Samples(rows, names, str(files.get("zeroshot_classification_templates.txt", "")))


def _find_cifar(folder: Path) -> tuple[Path, str] | None:
    """The folder that holds a CIFAR's own folder, and that one's name; `folder` may be either of the two."""
    for name in _CIFAR:
        for root in (folder, folder.parent):
            if folder in (root, root / name) and (root / name).is_dir():
                return root, name
    return None


def _read_cifar(sources: Sources, folder: Path, name: str, split: str) -> _Samples:
    from torchvision import datasets  # type: ignore[import-untyped]

    try:
        # Checks the published MD5 of each file before opening any, so nothing unknown is unpickled.
        dataset = getattr(datasets, _CIFAR[name])(folder, train=split == "train", download=False)
    except RuntimeError as error:
        raise ValueError(f"{folder / name} is not CIFAR as it was published ({error}). Fetch it again.") from error
    pixels = map(np.ascontiguousarray, dataset.data)
    rows = [sources.image_in_memory(image, f"{name} {split} {number}") for number, image in enumerate(pixels)]
    return _Samples(list(zip(rows, dataset.targets, strict=True)), dataset.classes)


def _class_names(file: str, folders: Sequence[str], sources: Sources) -> list[str]:
    """The names that a file gives to classes, which the data names `folders`."""
    names = list(open_clip.IMAGENET_CLASSNAMES) if file == "imagenet" else _read_entries(file, sources)
    if isinstance(names, list) and all("\t" in line for line in names):
        names = dict(line.split("\t", 1) for line in names)
    if isinstance(names, dict):
        return [_entry_of_class(names, folder, str, file) for folder in folders]
    if len(names) != len(folders):
        raise ValueError(
            f"{file} has {len(names)} names for {len(folders)} classes. Write one per line, in the folders' order."
        )
    if renamed := [index for index, (name, folder) in enumerate(zip(names, folders, strict=True)) if name != folder]:
        if {*names} == {*folders}:
            raise ValueError(
                f"{file} has the names of the folders in another order: line {renamed[0] + 1} would rename a class to "
                f"another. Sort it, or write folder<TAB>name lines, which need no order."
            )
        example = f"{folders[renamed[0]]}: {names[renamed[0]]}"
        sources.notes.append(f"Names of {Path(file).name} by the order of folders, for example {example}.")
    return list(names)


def _class_prompts(file: str, names: Sequence[str], sources: Sources) -> list[list[str]]:
    """The prompts of each class."""
    templates = {"": ["a photo of a {}."], "cifar": CIFAR_TEMPLATES}
    if file == "imagenet":
        templates[file] = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    lines = templates.get(file) or _read_entries(file, sources)
    if isinstance(lines, dict):
        return [_entry_of_class(lines, name, list, file) for name in names]
    lines = [line.strip().replace("{c}", "{}") for line in lines]
    if not lines or (without := [line for line in lines if "{}" not in line]):
        raise ValueError(f"{file}: {without[0] if lines else 'no line'!r} has no {{}} where the class's name goes.")
    return [[line.replace("{}", name) for line in lines] for name in names]


def _entry_of_class(entries: dict[str, Any], name: str, kind: type, file: str) -> Any:
    if not isinstance(entries.get(name), kind) or not entries[name]:
        raise ValueError(f"{file} has nothing for the class {name!r}, but {', '.join(list(entries)[:5])} and so on.")
    return entries[name]


def _read_entries(file: str, sources: Sources) -> Any:
    """The lines or the JSON value of a file; its path is relative to the working folder or to the data folder."""
    path = next((path for path in (Path(file).expanduser(), sources.folder / file) if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"There is no file {file}, here or in {sources.folder}.")
    return read_json(path) if path.suffix.lower() == ".json" else _lines(path)


def _lines(path: Path) -> list[str]:
    return [cells["caption"].strip() for _, cells in text_rows(path) if cells["caption"].strip()]
