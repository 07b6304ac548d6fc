"""Make the embedded model from scratch: render, pretrain, fit, measure, write the folder and its card.

    python weights/make.py                     # the model that ships, about ten minutes on two cores
    python weights/make.py --seeds 0 1 2       # trains three and writes the best on the validation pairs

Everything is seeded. But another machine or version of torch rounds differently, and training amplifies this: metrics
differ by a hundredth or two, metrics over few scenes by more.
"""

from __future__ import annotations

import os

# On a busy machine, idle threads that spin make each other several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import measure
import open_clip
import torch
from card import write_card
from described import DescribedScenes, describe, swapped_scenes, to_fit, to_select
from evaluate import TestScenes
from measure import EmbeddedScenes, distinct_scenes
from pretrain import MODEL_CFG, Pretraining, pretrain, pretraining_scenes, save_clip
from torch import Tensor

import labclip
from labclip import LABCLIP, Alignment, Base, Features
from labclip.alignment import with_record
from labclip.base import FINGERPRINT_CAPTION
from labclip.files import OPENCLIP_WEIGHTS
from labclip.training.frontier import gallery, kept, pair_cosines
from labclip.training.rows import read_data

log = logging.getLogger("make")
SHIPPED_SEED = 0
FIT_SCENES = 50_000
WEAK_BASE = 0.65  # if the base binds better, there is nothing to repair
FITTING: dict[str, Any] = {
    "rank": 96,
    "batch_size": 512,
    "epochs": 5,
    "logit_scale": 150.0,
    "negative_weight": 12.0,
    "distill": 2.0,
    "identity_penalty": 0.0,
    "keep": 0.97,
}
"""Arguments of `labclip.fit`. The reason for each is in docs/embedded-model.md."""


class Selection:
    """Scenes that a strength is selected on: some with one of the six validation pairs, some to retain tags."""

    def __init__(self) -> None:
        self.unseen = describe(2000, seed=2_000_001, split="validation")
        self.seen = describe(1000, seed=2_000_002, split="seen")

    def embed(self, model: LABCLIP) -> dict[str, Any]:
        """Arguments of `labclip.fit`: sentences of unseen pairs, tags of seen pairs.

        Sentences of seen pairs can't be held out: each is a negative of some scene of the fit.
        """
        unseen = self.unseen.embed(model)[distinct_scenes(self.unseen.layout)]
        seen = self.seen.embed(model)[distinct_scenes(self.seen.layout)]
        tags = Features.from_arrays(images=seen.images, texts=seen.tags)
        return {"validation": to_select(unseen), "retain": {"tags": tags}}


def fit_matrix(features: Features, selection: dict[str, Any], seed: int) -> Alignment:
    """Fit a matrix. Of the strengths that keep enough of R@1, the one with the best binding is taken."""
    result = labclip.fit(features, **selection, **FITTING, seed=seed, progress=False)
    # `fit` takes the least strength near the best, but this model is there to show how much a matrix repairs.
    best = max(kept(result.frontier, FITTING["keep"]), key=lambda point: point.smoothed_binding or 0.0)
    return result.alignment.at(best.strength)


def make_one(
    seed: int, folder: Path, fit_scenes: DescribedScenes, selection: Selection, test: TestScenes
) -> dict[str, Any]:
    """Train one model and its matrix, and measure them. Returns the trial's entry in `results.json`.

    Args:
        seed: Seed of pretraining and fit; the scenes to fit and to measure on are the same for all seeds.
        folder: Where the base and the alignment are written. A base that is already there is used.
        fit_scenes: The scenes of the fit.
        selection: The scenes that its strength is selected on.
        test: The scenes of the measurements.
    """
    started = time.perf_counter()
    pretraining = Pretraining(seed=seed)
    needs_base = not (folder / OPENCLIP_WEIGHTS).exists()
    if needs_base:
        log.info("seed %d: rendering %s scenes and pretraining", seed, f"{pretraining.scenes:,}")
        save_clip(*pretrain(pretraining, *pretraining_scenes(pretraining)), folder)
    pretrained = time.perf_counter()

    # From here on the model is the one that users load: float16 weights, the whole vocabulary.
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    dim = MODEL_CFG["embed_dim"]
    base = Base(model="scenes", pretrained="embedded", quick_gelu=False, embed_dim=dim)
    model = LABCLIP(clip.eval(), Alignment.identity(dim), preprocess=preprocess, tokenizer=tokenizer)
    log.info("seed %d: embedding %s scenes and fitting", seed, f"{len(fit_scenes.layout):,}")
    scenes = fit_scenes.embed(model)
    swapped_images = scenes.images[swapped_scenes(fit_scenes.layout, seed)]
    held_out = selection.embed(model)
    fingerprint = measure.embed_texts(model, [FINGERPRINT_CAPTION])[0]

    def fit(*groups: tuple[EmbeddedScenes, Tensor]) -> Alignment:
        return fit_matrix(replace(to_fit(*groups), base=base, fingerprint=fingerprint), held_out, seed)

    alignment = fit((scenes, swapped_images))
    validation = gallery(read_data(held_out["validation"]))
    record = {
        "cosines": pair_cosines(validation, alignment.fitted, alignment.strength),
        "license": "mit",
        "data": f"{len(fit_scenes.layout):,} scenes of labclip.scenes, with {len(fit_scenes.sentences)} sentences, two "
        "parts and tags each",
        "pretraining": asdict(pretraining),
    }
    model.alignment = with_record(alignment, metadata=alignment.metadata | record)
    model.alignment.save_pretrained(folder)
    fitted = time.perf_counter()
    results = test.results(model, fit_scenes, (scenes, swapped_images), lambda *groups: fit(*groups).matrix)
    results["seed"] = seed
    results["settings"] = {"pretraining": asdict(pretraining), "fitting": FITTING, "fit_scenes": FIT_SCENES}
    results["seconds"] = {
        "render and pretrain": round(pretrained - started) if needs_base else None,
        "embed and fit": round(fitted - pretrained),
        "measure": round(time.perf_counter() - fitted),
    }
    summary = {
        side: {name: value for name, value in results[side].items() if name.startswith("binding")}
        for side in ("base", "labclip")
    }
    log.info("seed %d: %s", seed, json.dumps(summary))
    return results


def _earlier_trials(results_file: Path, trials: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Trials of other seeds by the same recipe, to be kept in the file when one model is made again."""
    if not results_file.exists():
        return {}

    def recipe(trial: dict[str, Any]) -> dict[str, Any]:
        settings = trial["settings"]
        return {part: value | {"seed": None} if isinstance(value, dict) else value for part, value in settings.items()}

    new_recipe = recipe(next(iter(trials.values())))
    return {
        trial["seed"]: trial
        for trial in json.loads(results_file.read_text())["trials"]
        if trial["seed"] not in trials and recipe(trial) == new_recipe
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[SHIPPED_SEED], metavar="SEED", help="models to train")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "scenes", help="folder to write")
    parser.add_argument(
        "--work", type=Path, help="folder to keep a model of each seed; bases that are already there are used"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in ("make", "pretrain"):  # OpenCLIP logs a lot through the root logger
        logging.getLogger(name).setLevel(logging.INFO)
    torch.set_num_threads(arguments.threads)

    log.info("rendering %s scenes for the fit and those for the measurements", f"{FIT_SCENES:,}")
    fit_scenes = describe(FIT_SCENES, seed=2_000_000, split="seen")
    selection, test = Selection(), TestScenes()
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        trials = {seed: make_one(seed, work / str(seed), fit_scenes, selection, test) for seed in arguments.seeds}
        # Chosen on pairs and scenes that no published figure is measured on.
        weak = [seed for seed, trial in trials.items() if trial["base"]["binding_fit"] <= WEAK_BASE]
        best = max(weak or trials, key=lambda seed: trials[seed]["labclip"]["binding_validation"])
        arguments.out.mkdir(parents=True, exist_ok=True)
        for file in (work / str(best)).iterdir():
            shutil.copyfile(file, arguments.out / file.name)
    results_file = arguments.out / "results.json"
    trials |= _earlier_trials(results_file, trials)
    results = {"shipped": best, "trials": [trials[seed] for seed in sorted(trials)]}
    results_file.write_text(json.dumps(results, indent=2) + "\n")
    print(write_card(arguments.out))


if __name__ == "__main__":
    main()
