"""The fit of the embedded matrix with several seeds, on the base that ships: how much of a figure is the seed's.

    python weights/seeds.py [--seeds 0 1 2] [--json FILE]

The seed draws the batches, and the images of the swapped scenes. Measured by `labclip evaluate scenes`, 1,000 scenes;
three objects and two unseen pairs are measured as in `make.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import measure
import torch
from described import describe, swapped_scenes, to_fit
from make import FIT_SCENES, Selection, fit_matrix

import labclip
from labclip.scenes.vocabulary import HELD_OUT

METRICS = (
    *("search_map", "search_confused5", "search_map_heldout", "search_confused5_heldout", "part_swap"),
    *("part_swap_heldout", "half_truth", "half_truth_grounded", "whole_truth", "binding", "binding_heldout"),
    *("t2i_r1", "i2t_r1", "tags_t2i_r1", "tags_i2t_r1", "one_object_acc1"),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    model = labclip.LABCLIP.from_pretrained("scenes")
    learnt, selection = describe(FIT_SCENES, seed=2_000_000, split="seen"), Selection().embed(model)
    scenes, fits = learnt.embed(model), {}
    for seed in arguments.seeds:
        features = to_fit((scenes, scenes.images[swapped_scenes(learnt.layout, seed)]))
        fits[f"seed {seed}"] = fit_matrix(features, selection, seed)
        print(f"seed {seed}: strength {fits[f'seed {seed}'].strength}", flush=True)
    result = labclip.evaluate(model, "scenes", alignments=fits, cache=None, progress=False)["scenes"]
    rows = {metric: [one.value for one in result.metric(metric).estimates] for metric in METRICS}

    heldout = describe(3000, seed=3_000_001, split="heldout")
    both = heldout.embed(model)[torch.from_numpy(HELD_OUT[heldout.layout.colours, heldout.layout.shapes].all(axis=1))]
    three = describe(3000, seed=3_000_005, split="seen", n_objects=3).embed(model)
    rows |= {"binding_heldout_both": [], "query_three": []}
    for matrix in (torch.eye(len(scenes.images[0])), *(one.matrix for one in fits.values())):
        rows["binding_heldout_both"].append(measure.sentence_binding(both, matrix))
        rows["query_three"].append(measure.query_binding(three, matrix))
    table = [
        {"metric": name, "base": base, "mean": statistics.mean(ours), "least": min(ours), "most": max(ours)}
        for name, (base, *ours) in rows.items()
    ]
    for row in table:
        print("  ".join(f"{value:.3f}" if isinstance(value, float) else f"{value:26}" for value in row.values()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": arguments.seeds, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
