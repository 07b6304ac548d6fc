"""Fit the paper's matrix and labclip's for any OpenCLIP base on COCO: negatives, embeddings, two fits, metrics.

    pip install "labclip[negatives]"
    python weights/coco.py --coco COCO --model ViT-B-32:openai --out OUT --sugarcrepe sugar-crepe/data --aro aro

COCO holds the images, in `train2014` and `val2014` or in `train2017` and `val2017`, and the captions. If Karpathy's
`dataset_coco.json` is there, the fit is on his splits train and restval and the test on his split test, as published;
else on `annotations/captions_train2017.json` and `captions_val2017.json`. SugarCrepe has images of val2017: many of
them are in Karpathy's training splits, none in train2017. OUT gets the folders `paper` and `labclip`, ready for
`labclip push`, and the table as `table.md`. A command that was stopped goes on where it was when it is started again.

The time was not measured. An estimate for ViT-B/32 on a laptop with a GPU and eight cores: an hour, most of it for
reading 113,000 images and 1.1 million captions and negatives. Without a GPU it takes many hours.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

import labclip
from labclip import LABCLIP, Alignment, Features, negatives
from labclip.alignment import with_record
from labclip.data import read_items
from labclip.evaluation import Report
from labclip.io.published import REPORTED, REPORTED_SOURCE
from labclip.report import Page, Section, Table, markdown, terminal

RECIPES = ("paper", "labclip")
FOLDERS = ("train2014", "val2014", "train2017", "val2017")
PUBLISHED = ("base", "labclip", "NegCLIP")


def captions_of(coco: Path) -> dict[str, tuple[Path, tuple[str, ...] | None]]:
    """The file of captions to fit on and the one to test on, each with the splits to read: Karpathy's, else 2017's."""
    for path in (coco / "dataset_coco.json", coco / "annotations" / "dataset_coco.json"):
        if path.is_file():
            return {"train": (path, ("train", "restval")), "test": (path, ("test",))}
    years = {"train": "captions_train2017.json", "test": "captions_val2017.json"}
    return {side: (coco / "annotations" / name, None) for side, name in years.items()}


def read_captions(coco: Path, path: Path, split: tuple[str, ...] | None, limit: int | None) -> dict[str, list[str]]:
    """The captions of each image, keyed by its path in the folder, without those that are empty after cleaning."""
    captions: dict[str, list[str]] = {}
    for item in read_items(path, negative_columns=(), split=split):
        if not item.empty and item.checked().image is not None:
            captions.setdefault(item.name, []).extend(filter(negatives.clean, item.captions))
    files = {f"{folder}/{name}" for folder in FOLDERS if (coco / folder).is_dir() for name in os.listdir(coco / folder)}
    captions_of_file = {}
    for name, texts in [pair for pair in captions.items() if pair[1]][:limit]:
        # COCO_val2014_000000000042.jpg is 000000000042.jpg in the folders of 2017.
        paths = (name, f"train2017/{name[-16:]}", f"val2017/{name[-16:]}")
        if (file := next((path for path in paths if path in files), None)) is None:
            raise FileNotFoundError(
                f"{coco} has no image {name}, which {path.name} describes. Unpack train2014 and val2014, or train2017 "
                f"and val2017, of cocodataset.org there."
            )
        captions_of_file[file] = texts
    return captions_of_file


def write_captions(coco: Path, out: Path, limit: int | None) -> None:
    """Write `train.jsonl`, one caption per line, and `test.json`, one image per entry, as benchmark coco reads it."""
    files = captions_of(coco)
    train, test = read_captions(coco, *files["train"], limit), read_captions(coco, *files["test"], None)
    lines = (json.dumps({"image": image, "caption": text}) for image, texts in train.items() for text in texts)
    (out / "train.jsonl").write_text("\n".join(lines) + "\n")
    (out / "test.json").write_text(json.dumps([{"image": image, "caption": texts} for image, texts in test.items()]))


def fit_once(features: Features, recipe: str, out: Path, device: str) -> Alignment:
    """The matrix of a recipe, from its folder if it is there."""
    if not (out / recipe / "config.json").is_file():
        result = labclip.fit(features, recipe=recipe, device=device, checkpoint=out / "checkpoints" / recipe)
        print(result)
        data = f"COCO, {result.alignment.metadata['data']}: its nouns and adjectives shuffled"
        with_record(result.alignment, metadata=result.alignment.metadata | {"data": data}).save_pretrained(out / recipe)
    return Alignment.from_pretrained(out / recipe)


def beside_published(report: Report) -> Page:
    """The main metrics of each benchmark: of the base, of both matrices, and as published."""
    reported = {(entry.benchmark, entry.measured_as or entry.metric): entry.values for entry in REPORTED}
    rows = []
    for result in report.results:
        for comparison in result.compared:
            if comparison.metric in result.benchmark.headline:
                published = reported.get((result.benchmark.name, comparison.metric), {})
                values = [*(estimate.value for estimate in comparison.estimates), *map(published.get, PUBLISHED)]
                rows.append([result.benchmark.title, comparison.metric, *values])
    heads = ("benchmark", "metric", *report.models, *(f"published {name}" for name in PUBLISHED))
    table = Table("Fractions of 1; a tie is wrong. The published ones are of ViT-B/32.", heads, rows, (0, 1), 1)
    return Page(f"COCO: {report.base}", REPORTED_SOURCE, [Section("Measured beside published", tables=[table])])


def make(
    coco: Path, model: str, out: Path, sugarcrepe: Path | None, aro: Path | None, device: str, images: int | None
) -> Page:
    """Do all steps that are not done yet, and return the table."""
    for folder in filter(None, (coco, sugarcrepe, aro)):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
    if images is not None and images < 1:
        raise ValueError(f"--images is {images}. Pass 1 or more.")
    base = LABCLIP.from_pretrained(model, device=device)
    settings = {"model": model, "captions": [path.name for path, _ in captions_of(coco).values()], "images": images}
    record, table = out / "asked.json", out / "negatives.jsonl"
    if not record.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_captions(coco, out, images)
        record.write_text(json.dumps(settings))
    if (earlier := json.loads(record.read_text())) != settings:
        raise ValueError(f"{out} was made with {earlier}, not with {settings}. Pass another --out.")
    data = dict.fromkeys(("coco", "coco-negatives"), out / "test.json")
    folders = dict.fromkeys(data, coco)
    if sugarcrepe:
        data["sugarcrepe"], folders["sugarcrepe"] = sugarcrepe, coco / "val2017"
    if aro:
        data |= dict.fromkeys(("vg-a", "vg-r"), aro)
    options = {"coco": {"captions": 5}}  # as published
    measure = partial(
        labclip.evaluate, base, list(data), data=data, images=folders, options=options, cache=out / "cache"
    )
    measure()  # so that missing files are reported before hours of work
    if not table.is_file():
        negatives.add(out / "train.jsonl", table, negatives.Shuffler(), clean=True, progress=True)
    features = labclip.embed(base, table, out / "features", images=coco)
    matrices = {recipe: fit_once(features, recipe, out, device) for recipe in RECIPES}
    report = measure(alignments=matrices)
    measured = report.to_json()
    for recipe, alignment in matrices.items():
        results = {
            name: {"base": benchmark["models"]["base"], "labclip": benchmark["models"][recipe]}
            for name, benchmark in measured["benchmarks"].items()
        }
        with_record(alignment, metadata=alignment.metadata | {"results": results}).save_pretrained(out / recipe)
    page = beside_published(report)
    (out / "report.json").write_text(json.dumps(measured))
    (out / "table.md").write_text(markdown(page))
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True, help="folder of COCO's images and captions")
    parser.add_argument("--model", required=True, help="base: MODEL:TAG of OpenCLIP, or any name that labclip takes")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, a different one for each base")
    parser.add_argument("--sugarcrepe", type=Path, help="folder of SugarCrepe's seven json files")
    parser.add_argument("--aro", type=Path, help="folder of ARO's two json files, its images in it or in `images`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, help="for a trial: fit on this many images, the first ones")
    try:
        print(terminal(make(**vars(parser.parse_args(arguments)))))
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
