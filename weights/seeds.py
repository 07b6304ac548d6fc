"""How much the embedded matrix depends on the seed: fits with several seeds, on the base that ships.

    python weights/seeds.py [--seeds 0 1 2] [--json FILE]

The seed draws the batches and the images of the swapped scenes. Metrics are those of `labclip evaluate scenes` with
1,000 scenes. Three objects and two unseen pairs are measured as in `make.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import measure
import torch
from described import describe, swapped_scenes, to_fit
from evaluate import both_unseen
from make import FIT_SCENES, Selection, fit_matrix

import labclip

METRICS = (
    *("search_map", "search_confused5", "search_map_heldout", "search_confused5_heldout", "part_swap"),
    *("part_swap_heldout", "half_truth", "half_truth_grounded", "whole_truth", "binding", "binding_heldout"),
    *("t2i_r1", "i2t_r1", "tags_t2i_r1", "tags_i2t_r1", "one_object_acc1"),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    model = labclip.LABCLIP.from_pretrained("scenes")
    fit_scenes, selection = describe(FIT_SCENES, seed=2_000_000, split="seen"), Selection().embed(model)
    embedded, alignments = fit_scenes.embed(model), {}
    for seed in arguments.seeds:
        features = to_fit((embedded, embedded.images[swapped_scenes(fit_scenes.layout, seed)]))
        alignment = alignments[f"seed {seed}"] = fit_matrix(features, selection, seed)
        print(f"seed {seed}: strength {alignment.strength}", flush=True)
    result = labclip.evaluate(model, "scenes", alignments=alignments, cache=None, progress=False)["scenes"]
    values = {metric: [estimate.value for estimate in result.metric(metric).estimates] for metric in METRICS}

    heldout = describe(3000, seed=3_000_001, split="heldout")
    two_unseen = heldout.embed(model)[both_unseen(heldout)]
    three = describe(3000, seed=3_000_005, split="seen", n_objects=3).embed(model)
    matrices = [torch.eye(model.alignment.dim), *(alignment.matrix for alignment in alignments.values())]
    values["binding_heldout_both"] = [measure.sentence_binding(two_unseen, matrix) for matrix in matrices]
    values["query_three"] = [measure.query_binding(three, matrix) for matrix in matrices]
    table = [
        {"metric": name, "base": base, "mean": statistics.mean(aligned), "least": min(aligned), "most": max(aligned)}
        for name, (base, *aligned) in values.items()
    ]
    for row in table:
        print("  ".join(f"{value:.3f}" if isinstance(value, float) else f"{value:26}" for value in row.values()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": arguments.seeds, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
