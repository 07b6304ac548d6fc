"""Does the divergence on held-out captions predict what retrieval loses on other data, whatever the loss weights?

    python benchmarks/divergence.py [--dataset scenes turned ...] [--seeds 0] [--photos FOLDER] [--json FILE]

Fits with nine combinations of loss weights, each at many strengths, on the datasets of recipes.py. Points are sorted
into bins by their divergence on the captions that the fit held out. The table has the recall that each bin keeps, as a
fraction of the base's, in the domain of the fit and in others, on data that no fit saw: the mean, and the worst point.
"""

import statistics
from itertools import pairwise
from pathlib import Path

import recipes
from table import new_parser, save

import labclip

# Weights of negatives, of distillation and of the penalty on ||A - I||^2.
WEIGHTS = (
    (1, 0, 1e-4), (1, 0, 3e-4), (1, 0, 1e-3), (1, 1, 0), (4, 0.3, 0), (4, 1, 0), (12, 1, 0), (12, 1, 1e-4), (40, 3, 0),
)  # fmt: skip
EDGES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, float("inf"))


def points(setting, seed):
    """The divergence, the recall kept in the domain of the fit, and the recall kept elsewhere, of each fit's points."""
    base = recipes.measure(setting, *recipes.fit(setting, "base", seed))
    for negatives, distill, penalty in WEIGHTS:
        result = labclip.fit(
            setting.fit, negative_weight=negatives, distill=distill, identity_penalty=penalty, seed=seed, progress=False
        )
        for point in result.frontier[2::2]:
            row = recipes.measure(setting, result.alignment.fitted, point.strength)
            own = statistics.mean(row[key] / base[key] for key in ("R@1 t2i, seen", "R@1 i2t, seen"))
            yield point.divergence, own, row["recall elsewhere, of the base's"]


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--dataset", nargs="+", choices=[*recipes.SETTINGS, "photos"], help="by default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=6000, help="scenes to fit on")
    parser.add_argument("--photos", type=Path, help="folder of the embeddings of photos")
    arguments = parser.parse_args()
    settings = recipes.all_settings(arguments.photos)
    tables = {}
    for dataset in arguments.dataset or settings:
        measured = [
            point for seed in arguments.seeds for point in points(settings[dataset](arguments.count, seed), seed)
        ]
        tables[dataset] = []
        for low, high in pairwise(EDGES):
            kept = [recalls for divergence, *recalls in measured if low < divergence <= high]
            if kept:
                own, elsewhere = (
                    {"mean": statistics.mean(side), "worst": min(side)} for side in zip(*kept, strict=True)
                )
                row = {"above": low, "points": len(kept), "own": own, "elsewhere": elsewhere}
                print(dataset, row, flush=True)
                tables[dataset].append(row)
    save(arguments.json, {"seeds": arguments.seeds, "count": arguments.count, "datasets": tables})


if __name__ == "__main__":
    main()
