"""Whether the divergence on held-out captions foretells what retrieval loses on other data, whatever made the matrix.

    python benchmarks/divergence.py [--dataset scenes turned ...] [--seeds 0] [--photos FOLDER] [--json FILE]

Nine weightings of the loss, each at many strengths, on the data sets of recipes.py: the points are sorted by their
divergence on the captions that the fit held out, and the table shows what R@1 they keep of the base's, in the domain of
the fit and in others, on data that the fit never saw: the mean over a row's points, and the worst of them.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import recipes

import labclip

WEIGHTS = [
    (1, 0, 1e-4),
    (1, 0, 3e-4),
    (1, 0, 1e-3),
    (1, 1, 0),
    (4, 0.3, 0),
    (4, 1, 0),
    (12, 1, 0),
    (12, 1, 1e-4),
    (40, 3, 0),
]
EDGES = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]


def points(setting, seed):
    """(divergence, recall kept in the domain of the fit, recall kept elsewhere) of every matrix at every strength."""
    base = recipes.measured(setting, *recipes.fitted(setting, "base", seed))
    for negatives, distill, penalty in WEIGHTS:
        result = labclip.fit(
            setting.fit, negative_weight=negatives, distill=distill, identity_penalty=penalty, seed=seed, progress=False
        )
        for point in result.frontier[2::2]:
            row = recipes.measured(setting, result.alignment.fitted, point.strength)
            own = [row[key] / base[key] for key in ("R@1 t2i, seen", "R@1 i2t, seen")]
            yield point.divergence, statistics.mean(own), row["recall elsewhere, of the base's"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", nargs="+", choices=[*recipes.SETTINGS, "photos"], help="by default all there are")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=6000, help="scenes to fit on")
    parser.add_argument("--photos", type=Path, help="folder of the embeddings of photos")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    settings = dict(recipes.SETTINGS)
    if arguments.photos:
        settings = {"photos": partial(recipes.photos_setting, arguments.photos)} | settings
    results = {}
    for dataset in arguments.dataset or settings:
        measured = [
            point for seed in arguments.seeds for point in points(settings[dataset](arguments.count, seed), seed)
        ]
        rows = []
        for low, high in zip([0.0, *EDGES], [*EDGES, float("inf")], strict=True):
            inside = [point[1:] for point in measured if low < point[0] <= high]
            if inside:
                own, other = ({"mean": statistics.mean(side), "worst": min(side)} for side in zip(*inside, strict=True))
                rows.append({"above": low, "points": len(inside), "own": own, "elsewhere": other})
                print(dataset, rows[-1], flush=True)
        results[dataset] = rows
    if arguments.json:
        record = {"seeds": arguments.seeds, "count": arguments.count, "datasets": results}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
