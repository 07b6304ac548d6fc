"""What each recipe gains and costs: binding and retrieval, inside and outside the domain of the fit.

    python benchmarks/recipes.py [--dataset scenes turned ...] [--seeds 0 1 2 3] [--photos FOLDER] [--json FILE]

Five datasets are synthetic. `scenes` is the embedded model on new scenes, with seen and with unseen pairs; the other
domain is captions that do not bind. `turned` and `planted` have binding planted in random embeddings: in `turned` a
matrix that repairs it helps the other domain too, in `planted` the other domain uses every dimension and can only lose.
No setting was chosen on `turned, narrow` and `planted, wide`. `photos` are embeddings of real photos and captions in a
folder: fit.safetensors and dev.safetensors with shuffled negatives, dev-other.safetensors and dev-classes.safetensors
of other domains (images, texts, negatives, image_index).

No fit sees the data that the table is measured on. `grounded` is binding above the mean image. Figures are means over
seeds, with the standard error. Recall elsewhere is a fraction of the base's, the mean over the other domains and both
directions: R@1, but R@5 for classes, as the base has few of them first.
"""

import math
import statistics
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from planted_data import planted
from safetensors.torch import load_file
from table import new_parser, save

import labclip
from labclip import Alignment, metrics
from labclip.data.images import ImageSource
from labclip.features import Features
from labclip.features.encoder import Encoder
from labclip.training.frontier import frontier, gallery
from labclip.training.rows import read_data

RECIPES = {
    "published": {"recipe": "paper-clevr"},
    "labclip": {},
    "labclip, keep 0.97": {"keep": 0.97},
    "labclip, other domain retained": {"retain": True},
}


class Setting(NamedTuple):
    """One dataset: features to fit on, features of the other domain to retain, and features to measure on, by name."""

    fit: Features
    retain: Features
    tests: dict


def features(images, texts, negatives=None, image_index=None):
    return Features.from_arrays(images=images, texts=texts, negatives=negatives, image_index=image_index)


def scenes_setting(count, seed):
    """New scenes, embedded by the embedded model."""
    model = labclip.LABCLIP.from_pretrained("scenes")

    def embed(n, split, offset):
        scenes = labclip.scenes.sample(n, seed=1_000 * (seed + 1) + offset, split=split)
        encoder, sources = Encoder(model), [ImageSource("scene", data=image) for image in scenes.images]
        images = np.stack([encoded.row for encoded in encoder.images(sources)])
        texts = encoder.texts((scenes.captions, scenes.swapped_captions, scenes.tags))
        return images, *(rows for _, rows in texts)

    fit, seen, unseen = embed(count, "seen", 0), embed(2000, "seen", 1), embed(2000, "heldout", 2)
    other = embed(1000, "seen", 3)
    tests = {
        "seen": features(*seen[:3]),
        "unseen pairs": features(*unseen[:3]),
        "other": features(seen[0][:1000], seen[3][:1000]),
    }
    return Setting(features(*fit[:3]), features(other[0], other[3]), tests)


def planted_setting(count, seed, **changes):
    """A planted dataset."""
    data = planted(count + 2000, seed=seed, **changes)
    tests = {
        "seen": features(*data.rows(slice(count, None))),
        "other": features(data.other_images[-1000:], data.other_texts[-1000:]),
    }
    other = features(data.other_images[:1000], data.other_texts[:1000])
    return Setting(features(*data.rows(slice(0, count))), other, tests)


def photos_setting(folder, count, seed):
    """Real photos, the same for all seeds."""

    def read(name):
        arrays = load_file(folder / f"{name}.safetensors")
        negatives = arrays["negatives"].float()[:, None] if "negatives" in arrays else None
        return features(arrays["images"].float(), arrays["texts"].float(), negatives, arrays.get("image_index"))

    tests = {"seen": read("dev"), "other": read("dev-other"), "classes": read("dev-classes")}
    return Setting(read("fit"), tests["other"], tests)


SETTINGS = {
    "scenes": scenes_setting,
    "turned": partial(planted_setting, turned=True),
    "planted": planted_setting,
    "turned, narrow": partial(planted_setting, turned=True, dim=128, binding=0.35, noise=0.8),
    "planted, wide": partial(planted_setting, dim=384, binding_dim=64),
}


def all_settings(photos):
    """The datasets, with the photos first if their folder is given."""
    return ({"photos": partial(photos_setting, photos)} if photos else {}) | SETTINGS


def fit(setting, recipe, seed):
    """The matrix and strength of a recipe, or of the base."""
    if recipe == "base":
        return torch.eye(setting.fit.dim), 0.0
    options = RECIPES[recipe]
    retain = {"other": setting.retain} if options.get("retain") else {}
    alignment = labclip.fit(setting.fit, **options | {"retain": retain}, seed=seed, progress=False).alignment
    return alignment.fitted, alignment.strength


def recalls(data, k, alignment=None):
    """R@k, text to image and image to text."""
    images, texts, index = data.tensors()
    ranks = metrics.ranks(images, texts if alignment is None else alignment(texts, normalize=True), index)[:2]
    return [float((direction < k).double().mean()) for direction in ranks]


def measure(setting, matrix, strength):
    """The metrics of a matrix at a strength."""
    row, elsewhere, alignment = {}, [], Alignment(matrix, strength=strength)
    for name, features in setting.tests.items():
        data = gallery(read_data(features))
        if data.n_with_negative:
            point = frontier({"validation": data}, matrix, [strength])[0]
            row[f"binding, {name}"], row[f"grounded, {name}"] = point.binding, point.grounded
        if name == "seen":
            row["R@1 t2i, seen"], row["R@1 i2t, seen"] = recalls(data, 1, alignment)
        elif name != "unseen pairs":
            k = 5 if name == "classes" else 1
            pairs = zip(recalls(data, k, alignment), recalls(data, k), strict=True)
            elsewhere += [aligned / base for aligned, base in pairs]
    return row | {"recall elsewhere, of the base's": statistics.mean(elsewhere), "strength": strength}


def mean_and_error(values):
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "error": error}


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--dataset", nargs="+", choices=[*SETTINGS, "photos"], help="by default all")
    parser.add_argument("--recipes", nargs="+", default=[*RECIPES], choices=[*RECIPES], metavar="RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--count", type=int, default=6000, help="scenes to fit on")
    parser.add_argument("--photos", type=Path, help="folder of the embeddings of photos")
    arguments = parser.parse_args()
    settings = all_settings(arguments.photos)
    tables = {}
    for dataset in arguments.dataset or settings:
        rows = {recipe: [] for recipe in ("base", *arguments.recipes)}
        for seed in arguments.seeds:
            setting = settings[dataset](arguments.count, seed)
            for recipe, of_seeds in rows.items():
                start = time.perf_counter()
                row = measure(setting, *fit(setting, recipe, seed)) | {"seconds": time.perf_counter() - start}
                print(dataset, seed, recipe, {key: round(value, 3) for key, value in row.items()}, flush=True)
                of_seeds.append(row)
        tables[dataset] = {
            recipe: {key: mean_and_error([row[key] for row in of_seeds]) for key in of_seeds[0]}
            for recipe, of_seeds in rows.items()
        }
    save(arguments.json, {"seeds": arguments.seeds, "count": arguments.count, "datasets": tables})


if __name__ == "__main__":
    main()
