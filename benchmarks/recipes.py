"""What each part of the recipe earns: binding and retrieval, inside and outside the domain of the fit.

    python benchmarks/recipes.py [--world scenes turned planted] [--seeds 0 1] [--synthetic 0.025] [--json FILE]

Three worlds. `scenes` is the embedded model on fresh scenes: binding on seen and on unseen pairs, and as the other
domain captions that do not bind. `turned` and `planted` have binding planted in random embeddings: in
`turned` what repairs it helps the other domain too, in `planted` the other domain uses every dimension and can only
lose. Fits never see what the table is measured on.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from worlds import planted

import labclip
from labclip.features import Features
from labclip.scenes import measure
from labclip.training import frontier as frontiers
from labclip.training import recipes
from labclip.training.frontier import HeldOut, frontier
from labclip.training.rows import read_data

RECIPES = {
    "published": {"recipe": "paper-clevr"},
    "labclip": {},
    "labclip, full rank": {"rank": 256},
    "labclip, no penalty": {"identity_penalty": 0.0},
    "labclip, temperature learnt": {"recipe": "learnt"},
    "labclip, other domain retained": {"retain": True},
}
recipes.RECIPES["learnt"] = replace(recipes.RECIPES["labclip"], logit_scale=None)


class Setting(NamedTuple):
    """One world: what is fitted on, and what is measured."""

    fit: Features
    retain: Features
    tests: dict


def features(images, texts, negatives=None):
    return Features.from_arrays(images=images, texts=texts, negatives=negatives)


def held_out(images, texts, negatives=None):
    return HeldOut.of(read_data(features(images, texts, negatives)))


def scenes_setting(count, seed):
    """Fresh scenes, embedded by the embedded model."""
    model = labclip.LABCLIP.from_pretrained("scenes")

    def embedded(number, split, offset):
        scenes = labclip.scenes.sample(number, seed=1_000 * (seed + 1) + offset, split=split)
        texts = [measure.embed_texts(model, part) for part in (scenes.captions, scenes.swapped_captions, scenes.tags)]
        return measure.embed_images(model, scenes.images), *texts

    fit, seen, new = embedded(count, "seen", 0), embedded(2000, "seen", 1), embedded(2000, "heldout", 2)
    other = embedded(1000, "seen", 3)
    tests = {
        "seen": held_out(*seen[:3]),
        "unseen pairs": held_out(*new[:3]),
        "other": held_out(seen[0][:1000], seen[3][:1000]),
    }
    return Setting(features(*fit[:3]), features(other[0], other[3]), tests)


def planted_setting(count, seed, *, turned=False):
    """A planted world."""
    world = planted(count + 2000, turned=turned, seed=seed)
    tests = {
        "seen": held_out(*world.rows(slice(count, None))),
        "other": held_out(world.other_images[-1000:], world.other_texts[-1000:]),
    }
    other = features(world.other_images[:1000], world.other_texts[:1000])
    return Setting(features(*world.rows(slice(0, count))), other, tests)


SETTINGS = {"scenes": scenes_setting, "turned": partial(planted_setting, turned=True), "planted": planted_setting}


def measured(setting, matrix, strength):
    """The row of a matrix at a strength."""
    row = {}
    for name, held in setting.tests.items():
        point = frontier(held, matrix, [strength])[0]
        if point.binding is not None:
            row[f"binding, {name}"] = point.binding
        if name != "unseen pairs":
            row[f"R@1 t2i, {name}"], row[f"R@1 i2t, {name}"] = point.t2i_r1, point.i2t_r1
    return row


def rows_of(world, count, seed, names):
    """The recipes on one world and seed."""
    setting = SETTINGS[world](count, seed)
    identity = torch.eye(setting.fit.dim)
    yield "base", measured(setting, identity, 0.0) | {"strength": 0.0, "||A - I||": 0.0}
    for name in names:
        options, start = RECIPES[name], time.perf_counter()
        retain = {"other": setting.retain} if options.get("retain") else {}
        result = labclip.fit(setting.fit, **options | {"retain": retain}, seed=seed, progress=False)
        alignment = result.alignment
        distance = float((alignment.matrix - identity).norm())
        row = measured(setting, alignment.fitted, alignment.strength)
        seconds = time.perf_counter() - start
        yield name, row | {"strength": alignment.strength, "||A - I||": distance, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", nargs="+", default=[*SETTINGS], choices=[*SETTINGS])
    parser.add_argument("--recipes", nargs="+", default=[*RECIPES], choices=[*RECIPES], metavar="RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--count", type=int, default=10_000, help="scenes to fit on")
    parser.add_argument("--synthetic", type=float, default=frontiers.SYNTHETIC_WEIGHT, help="weight of synthetic pairs")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    frontiers.SYNTHETIC_WEIGHT = arguments.synthetic
    tables = {}
    for world in arguments.world:
        found = {}
        for seed in arguments.seeds:
            for name, row in rows_of(world, arguments.count, seed, arguments.recipes):
                print(world, seed, name, {key: round(value, 3) for key, value in row.items()}, flush=True)
                found.setdefault(name, []).append(row)
        tables[world] = {
            name: {key: statistics.mean(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()
        }
    if arguments.json:
        record = {"seeds": arguments.seeds, "count": arguments.count, "worlds": tables}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
