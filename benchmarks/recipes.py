"""What each recipe gains and costs: binding and retrieval, inside and outside the domain of the fit.

    python benchmarks/recipes.py [--dataset scenes turned ...] [--seeds 0 1 2 3] [--photos FOLDER] [--json FILE]

Five data sets are synthetic. `scenes` is the embedded model on fresh scenes: binding on seen and on unseen pairs, and
as the other domain captions that do not bind. `turned` and `planted` have binding planted in random embeddings: in
`turned` what repairs it helps the other domain too, in `planted` the other domain uses every dimension and can only
lose. `turned, narrow` and `planted, wide` were drawn only to check: no setting was chosen on them. `photos` are
embeddings of real photos and captions in a folder: fit.safetensors, dev.safetensors with their shuffled negatives, and
dev-other.safetensors and dev-classes.safetensors of other domains (images, texts, negatives, image_index).

Fits never see what the table is measured on. `grounded` is binding by what an image adds to the mean image.
Figures are means over seeds, with the standard error where there are
several. Recall elsewhere is a fraction of the base's, the mean over the other domains and both directions: R@1, but R@5
for classes, of which the base finds few at once.
"""

import argparse
import json
import math
import statistics
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from planted_data import planted

import labclip
from labclip import Alignment, metrics
from labclip.data.images import ImageSource
from labclip.features import Features
from labclip.features.encoder import Encoder
from labclip.training.frontier import frontier, gallery
from labclip.training.rows import read_data

RECIPES = {
    "published": {"recipe": "paper-clevr"},
    "published, settings for COCO": {"recipe": "paper"},
    "labclip": {},
    "labclip, keep 0.97": {"keep": 0.97},
    "labclip, without distillation": {"negative_weight": 1, "distill": 0},
    "labclip, other domain retained": {"retain": True},
}


class Setting(NamedTuple):
    """One data set: what is fitted on, what a fit may choose by, and what is measured."""

    fit: Features
    validation: Features | None
    retain: Features
    tests: dict


def features(images, texts, negatives=None, image_index=None):
    return Features.from_arrays(images=images, texts=texts, negatives=negatives, image_index=image_index)


def scenes_setting(count, seed):
    """Fresh scenes, embedded by the embedded model."""
    model = labclip.LABCLIP.from_pretrained("scenes")

    def embedded(number, split, offset):
        scenes = labclip.scenes.sample(number, seed=1_000 * (seed + 1) + offset, split=split)
        encoder, sources = Encoder(model), [ImageSource("scene", data=one) for one in scenes.images]
        images = np.stack([one.row for one in encoder.images(sources)])
        texts = encoder.texts((scenes.captions, scenes.swapped_captions, scenes.tags))
        return images, *(rows for _, rows in texts)

    fit, seen, new = embedded(count, "seen", 0), embedded(2000, "seen", 1), embedded(2000, "heldout", 2)
    other = embedded(1000, "seen", 3)
    tests = {
        "seen": features(*seen[:3]),
        "unseen pairs": features(*new[:3]),
        "other": features(seen[0][:1000], seen[3][:1000]),
    }
    return Setting(features(*fit[:3]), None, features(other[0], other[3]), tests)


def planted_setting(count, seed, **changes):
    """A planted data set."""
    data = planted(count + 2000, seed=seed, **changes)
    tests = {
        "seen": features(*data.rows(slice(count, None))),
        "other": features(data.other_images[-1000:], data.other_texts[-1000:]),
    }
    other = features(data.other_images[:1000], data.other_texts[:1000])
    return Setting(features(*data.rows(slice(0, count))), None, other, tests)


def photos_setting(folder, count, seed):
    """Real photos; the seed is of the fit alone."""
    from safetensors.torch import load_file

    def read(name):
        parts = load_file(folder / f"{name}.safetensors")
        texts = [parts[key].float() for key in ("images", "texts")]
        negatives = parts["negatives"].float()[:, None] if "negatives" in parts else None
        return features(*texts, negatives, parts.get("image_index"))

    tests = {"seen": read("dev"), "other": read("dev-other"), "classes": read("dev-classes")}
    return Setting(read("fit"), None, tests["other"], tests)


SETTINGS = {
    "scenes": scenes_setting,
    "turned": partial(planted_setting, turned=True),
    "planted": planted_setting,
    "turned, narrow": partial(planted_setting, turned=True, dim=128, binding=0.35, noise=0.8),
    "planted, wide": partial(planted_setting, dim=384, binding_dim=64),
}


def fitted(setting, name, seed):
    """A recipe's matrix and strength."""
    if name == "base":
        return torch.eye(setting.fit.dim), 0.0
    options = RECIPES[name]
    retain = {"other": setting.retain} if options.get("retain") else {}
    alignment = labclip.fit(setting.fit, **options | {"retain": retain}, seed=seed, progress=False).alignment
    return alignment.fitted, alignment.strength


def recalls(part, k, alignment=None):
    """R@k, text to image and image to text."""
    images, texts, index = part.tensors()
    ranks = metrics.ranks(images, texts if alignment is None else alignment(texts, normalize=True), index)[:2]
    return [float((one < k).double().mean()) for one in ranks]


def measured(setting, matrix, strength):
    """The row of a matrix at a strength."""
    row, elsewhere, alignment = {}, [], Alignment(matrix, strength=strength)
    for name, features in setting.tests.items():
        part = gallery(read_data(features))
        if part.n_with_negative:
            point = frontier({"validation": part}, matrix, [strength])[0]
            row[f"binding, {name}"], row[f"grounded, {name}"] = point.binding, point.grounded
        if name == "seen":
            row["R@1 t2i, seen"], row["R@1 i2t, seen"] = recalls(part, 1, alignment)
        elif name != "unseen pairs":
            k = 5 if name == "classes" else 1
            pairs = zip(recalls(part, k, alignment), recalls(part, k), strict=True)
            elsewhere += [ours / theirs for ours, theirs in pairs]
    return row | {"recall elsewhere, of the base's": statistics.mean(elsewhere), "strength": strength}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", nargs="+", choices=[*SETTINGS, "photos"], help="by default all that are there")
    parser.add_argument("--recipes", nargs="+", default=[*RECIPES], choices=[*RECIPES], metavar="RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--count", type=int, default=6000, help="scenes to fit on")
    parser.add_argument("--photos", type=Path, help="folder of the embeddings of photos")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    settings = ({"photos": partial(photos_setting, arguments.photos)} if arguments.photos else {}) | SETTINGS
    tables = {}
    for dataset in arguments.dataset or settings:
        found = {}
        for seed in arguments.seeds:
            setting = settings[dataset](arguments.count, seed)
            for name in ("base", *arguments.recipes):
                start = time.perf_counter()
                row = measured(setting, *fitted(setting, name, seed)) | {"seconds": time.perf_counter() - start}
                print(dataset, seed, name, {key: round(value, 3) for key, value in row.items()}, flush=True)
                found.setdefault(name, []).append(row)
        tables[dataset] = {
            name: {
                key: {
                    "mean": statistics.mean(values := [row[key] for row in rows]),
                    "error": statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
                }
                for key in rows[0]
            }
            for name, rows in found.items()
        }
    if arguments.json:
        record = {"seeds": arguments.seeds, "count": arguments.count, "datasets": tables}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
