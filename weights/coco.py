"""The paper's matrix and labclip's for any OpenCLIP base, on COCO: negatives, embeddings, two fits, measurements.

    pip install "labclip[negatives]"
    python weights/coco.py --coco COCO --model ViT-B-32:openai --out OUT --sugarcrepe sugar-crepe/data --aro aro

COCO holds the images, in `train2014` and `val2014` or in `train2017` and `val2017`, and the captions. With Karpathy's
`dataset_coco.json` the fit is on his splits train and restval and the test on his test, as published; without it on
`annotations/captions_train2017.json` and `captions_val2017.json`. SugarCrepe asks about images of val2017: many of them
are in Karpathy's training splits, none in train2017. OUT gets the folders `paper` and `labclip`, ready for
`labclip push`, and the table as `table.md`. Stopped at any moment, the same command goes on where it was.

How long it takes was not measured. An estimate for ViT-B/32 on a laptop with a GPU and eight cores: an hour, most of it
spent on reading 113,000 images and on 1.1 million captions and negatives. Without a GPU it is many hours.
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
IMAGES = ("train2014", "val2014", "train2017", "val2017")
PUBLISHED = ("base", "labclip", "NegCLIP")


def captions_of(coco: Path) -> dict[str, tuple[Path, tuple[str, ...] | None]]:
    """The files of captions to fit on and to test with, and which of their splits: Karpathy's, else those of 2017."""
    for path in (coco / "dataset_coco.json", coco / "annotations" / "dataset_coco.json"):
        if path.is_file():
            return {"train": (path, ("train", "restval")), "test": (path, ("test",))}
    years = {"train": "captions_train2017.json", "test": "captions_val2017.json"}
    return {side: (coco / "annotations" / name, None) for side, name in years.items()}


def read_captions(coco: Path, path: Path, split: tuple[str, ...] | None, most: int | None) -> dict[str, list[str]]:
    """The captions of each image, by its path in the folder; empty ones, also once cleaned, are left out."""
    captions: dict[str, list[str]] = {}
    for item in read_items(path, negative_columns=(), split=split):
        if not item.empty and item.checked().image is not None:
            captions.setdefault(item.name, []).extend(filter(negatives.clean, item.captions))
    there = {f"{one}/{name}" for one in IMAGES if (coco / one).is_dir() for name in os.listdir(coco / one)}
    found = {}
    for name, several in [pair for pair in captions.items() if pair[1]][:most]:
        # COCO_val2014_000000000042.jpg is 000000000042.jpg in the folders of 2017.
        ways = (name, f"train2017/{name[-16:]}", f"val2017/{name[-16:]}")
        if (image := next((way for way in ways if way in there), None)) is None:
            raise FileNotFoundError(
                f"{coco} has no image {name}, which {path.name} describes. Unpack train2014 and val2014, or train2017 "
                f"and val2017, of cocodataset.org there."
            )
        found[image] = several
    return found


def write_captions(coco: Path, out: Path, most: int | None) -> None:
    """Write `train.jsonl`, a caption a line, and `test.json`, an image an entry, as the benchmark coco reads it."""
    sides = captions_of(coco)
    train, test = (read_captions(coco, *sides[side], most if side == "train" else None) for side in ("train", "test"))
    lines = (json.dumps({"image": image, "caption": text}) for image, several in train.items() for text in several)
    (out / "train.jsonl").write_text("\n".join(lines) + "\n")
    (out / "test.json").write_text(json.dumps([{"image": image, "caption": texts} for image, texts in test.items()]))


def fitted(features: Features, recipe: str, out: Path, device: str) -> Alignment:
    """The matrix of a recipe; fitted once."""
    if not (out / recipe / "config.json").is_file():
        result = labclip.fit(features, recipe=recipe, device=device, checkpoint=out / "checkpoints" / recipe)
        print(result)
        data = f"COCO, {result.alignment.metadata['data']}: its nouns and adjectives shuffled"
        with_record(result.alignment, metadata=result.alignment.metadata | {"data": data}).save_pretrained(out / recipe)
    return Alignment.from_pretrained(out / recipe)


def beside_published(report: Report) -> Page:
    """The metrics that stand for each benchmark: of the base, of both matrices, and published ones."""
    figures = {(one.benchmark, one.measured_as or one.metric): one.values for one in REPORTED}
    rows = []
    for result in report.results:
        for one in result.compared:
            if one.metric in result.benchmark.headline:
                published = figures.get((result.benchmark.name, one.metric), {})
                values = [*(estimate.value for estimate in one.estimates), *map(published.get, PUBLISHED)]
                rows.append([result.benchmark.title, one.metric, *values])
    heads = ("benchmark", "metric", *report.models, *(f"published {name}" for name in PUBLISHED))
    table = Table("Fractions of 1; a tie is wrong. The published ones are of ViT-B/32.", heads, rows, (0, 1), 1)
    return Page(f"COCO: {report.base}", REPORTED_SOURCE, [Section("Measured beside published", tables=[table])])


def make(
    coco: Path, model: str, out: Path, sugarcrepe: Path | None, aro: Path | None, device: str, images: int | None
) -> Page:
    """All steps, those alone that are not done yet; the table."""
    for folder in filter(None, (coco, sugarcrepe, aro)):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
    if images is not None and images < 1:
        raise ValueError(f"--images is {images}. Pass 1 or more.")
    base = LABCLIP.from_pretrained(model, device=device)
    asked = {"model": model, "captions": [path.name for path, _ in captions_of(coco).values()], "images": images}
    record, table = out / "asked.json", out / "negatives.jsonl"
    if not record.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_captions(coco, out, images)
        record.write_text(json.dumps(asked))
    if (before := json.loads(record.read_text())) != asked:
        raise ValueError(f"{out} was made with {before}, not with {asked}. Pass another --out.")
    data = dict.fromkeys(("coco", "coco-negatives"), out / "test.json")
    folders = dict.fromkeys(data, coco)
    if sugarcrepe:
        data["sugarcrepe"], folders["sugarcrepe"] = sugarcrepe, coco / "val2017"
    if aro:
        data |= dict.fromkeys(("vg-a", "vg-r"), aro)
    five = {"coco": {"captions": 5}}  # as published
    measure = partial(labclip.evaluate, base, list(data), data=data, images=folders, options=five, cache=out / "cache")
    measure()  # what a file lacks is said before hours of work
    if not table.is_file():
        negatives.add(out / "train.jsonl", table, negatives.Shuffler(), clean=True, progress=True)
    features = labclip.embed(base, table, out / "features", images=coco)
    matrices = {recipe: fitted(features, recipe, out, device) for recipe in RECIPES}
    report = measure(alignments=matrices)
    measured = report.to_json()
    for recipe, alignment in matrices.items():
        scores = {name: one["models"] for name, one in measured["benchmarks"].items()}
        results = {name: {"base": one["base"], "labclip": one[recipe]} for name, one in scores.items()}
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
    parser.add_argument("--out", type=Path, required=True, help="folder to write, one for each base")
    parser.add_argument("--sugarcrepe", type=Path, help="folder of SugarCrepe's seven json files")
    parser.add_argument("--aro", type=Path, help="folder of ARO's two json files, its images in it or in `images`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, help="for a trial: fit on the first so many images")
    try:
        print(terminal(make(**vars(parser.parse_args(arguments)))))
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
