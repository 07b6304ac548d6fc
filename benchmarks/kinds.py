"""Captions, parts and keywords in one fit: what each adds, and how often each text should stand in it.

    python benchmarks/kinds.py [--parts FOLDER] [--scenes 4000] [--seeds 0 1 2] [--json FILE]

The scenes are those of `labclip sample`, with the parts and keywords that `labclip embed --parts` makes of their
captions; what is measured is `labclip evaluate scenes`. FOLDER holds embeddings of photos, their captions and parts
(fit.safetensors: images, texts, negatives, has_negative, image_index, parts, part_negatives, part_image_index); 600
photos are held out of each fit to measure on and 200 to select on. It is left out if it is not there.

    1 : 2 : 1   each caption once, each part twice, each list of keywords once
    parts       the phrase beats its wrong one; of photos by what the image adds, as captions do
    whole truth both objects beat one of them alone
    search      mAP of phrases that three photos have
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import labclip
from labclip import metrics
from labclip.training.frontier import frontier
from labclip.training.rows import read_data

MIXTURES = ((1, 0, 0), (1, 1, 0), (2, 1, 0), (1, 2, 0), (1, 4, 0), (1, 1, 1), (1, 1, 2))
METRICS = {
    "captions": "binding", "unseen pairs": "binding_heldout", "parts": "part_swap",
    "parts, unseen": "part_swap_heldout", "whole truth": "whole_truth", "search": "search_map", "R@1": "t2i_r1",
    "R@1 of keywords": "tags_t2i_r1",
}  # fmt: skip


def mixed(features, mixture):
    """The texts of each kind as often as `mixture` says: captions, parts, keywords."""
    often = torch.tensor(mixture)[torch.as_tensor(np.array(features.kind)).long()]
    rows = torch.arange(len(often)).repeat_interleave(often).numpy()
    return labclip.Features.from_arrays(
        images=features.images, texts=features.texts[rows], negatives=features.negatives[rows],
        has_negative=features.has_negative[rows], image_index=features.image_index[rows], kind=features.kind[rows],
    )  # fmt: skip


def on_scenes(count, seeds):
    """The figures of the base and of every mixture, means over seeds of the fit and of its scenes."""
    model, fits = labclip.LABCLIP.from_pretrained("scenes"), {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            folder = Path(scratch, str(seed))
            captions = labclip.scenes.sample(count, seed=seed).save(folder)
            features = labclip.embed(model, captions, folder / "features", parts=True, progress=False)
            for mixture in MIXTURES:
                fits[mixture, seed] = labclip.fit(mixed(features, mixture), seed=seed, progress=False).alignment
    named = {f"{mixture}, {seed}": alignment for (mixture, seed), alignment in fits.items()}
    report = labclip.evaluate(model, "scenes", alignments=named, progress=False)["scenes"]
    values = {key: [one.value for one in report.metric(name).estimates] for key, name in METRICS.items()}
    table = {"base": {key: of_key[0] for key, of_key in values.items()}}
    for mixture in MIXTURES:
        of = [at for at, (its, _) in enumerate(fits, 1) if its == mixture]
        table[mixture] = {key: statistics.mean(of_key[at] for at in of) for key, of_key in values.items()}
    return table


class Photos:
    """Photos with their captions and parts, any of which make features."""

    def __init__(self, folder):
        self.parts = {key: value.float() for key, value in load_file(folder / "fit.safetensors").items()}
        self.of_caption, self.of_part = (self.parts[key].long() for key in ("image_index", "part_image_index"))

    def features(self, photos):
        """All captions and parts of some photos."""
        number = torch.full((len(self.parts["images"]),), -1).index_copy(0, photos, torch.arange(len(photos)))
        captions, parts = (torch.isin(of, photos).nonzero().flatten() for of in (self.of_caption, self.of_part))
        there = self.parts["has_negative"].flatten()[captions].bool()
        return labclip.Features.from_arrays(
            images=self.parts["images"][photos],
            texts=torch.cat([self.parts["texts"][captions], self.parts["parts"][parts]]),
            negatives=torch.cat([self.parts["negatives"][captions], self.parts["part_negatives"][parts]]),
            has_negative=torch.cat([there, torch.ones(len(parts), dtype=torch.bool)]),
            image_index=number[torch.cat([self.of_caption[captions], self.of_part[parts]])],
            kind=np.repeat([0, 1], [len(captions), len(parts)]),
        )

    def search(self, photos, alignment):
        """Mean average precision of the phrases that three of some photos have."""
        found = {}
        for row in torch.isin(self.of_part, photos).nonzero().flatten().tolist():
            found.setdefault(self.parts["parts"][row].numpy().tobytes(), []).append(row)
        images, precisions = metrics.unit_length(self.parts["images"][photos], "photos"), []
        for rows in found.values():
            right = torch.isin(photos, self.of_part[rows])
            if right.sum() >= 3:
                order = (images @ alignment(self.parts["parts"][rows[0]])).argsort(descending=True)
                places = right[order].nonzero().flatten() + 1
                precisions.append((torch.arange(1, len(places) + 1) / places).mean().item())
        return statistics.mean(precisions)


def on_photos(folder, seeds):
    """As `on_scenes`; the seed is also of which photos are held out."""
    photos, rows = Photos(folder), {}
    for seed in seeds:
        order = torch.randperm(len(photos.parts["images"]), generator=torch.Generator().manual_seed(seed))
        select, test, rest = photos.features(order[:200]), order[200:800], photos.features(order[800:])
        held = read_data(photos.features(test))
        for mixture in [(0, 0, 0), *(one for one in MIXTURES if not one[2])]:
            alignment = labclip.Alignment.identity(rest.dim).at(0.0)
            if any(mixture):
                chosen = mixed(select, [int(often > 0) for often in mixture])
                alignment = labclip.fit(mixed(rest, mixture), validation=chosen, seed=seed, progress=False).alignment
            (point,) = frontier({"validation": held}, alignment.fitted, [alignment.strength])
            rows.setdefault(mixture if any(mixture) else "base", []).append({
                "captions": point.grounded, "captions, blind": point.blind, "parts": point.parts[2],
                "search": photos.search(test, alignment), "R@1": point.recalls["validation"][0],
            })  # fmt: skip
    return {name: {key: statistics.mean(one[key] for one in found) for key in found[0]} for name, found in rows.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, help="folder of photos with parts")
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    tables = {"scenes": on_scenes(arguments.scenes, arguments.seeds)}
    if arguments.parts and (arguments.parts / "fit.safetensors").exists():
        tables["photos-parts"] = on_photos(arguments.parts, arguments.seeds)
    tables = {
        name: {key if key == "base" else " : ".join(map(str, key)): row for key, row in table.items()}
        for name, table in tables.items()
    }
    for name, table in tables.items():
        for mixture, row in table.items():
            print(f"{name:12} {mixture:10}", {key: round(value, 3) for key, value in row.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": arguments.seeds, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
