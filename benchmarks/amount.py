"""How many captions does a fit need? The default recipe on 300 to 10,000 captions, measured on other scenes.

    python benchmarks/amount.py [--captions 300 600 1000 ...] [--seeds 1 2 3] [--json FILE]

The scenes are those of `labclip sample`, each with a caption and the same with its colours swapped. A seed draws the
scenes and the fit. Fits are measured by `labclip evaluate scenes`, on scenes that no fit saw.

    worth using   number of seeds whose fit says so
    grounded      binding above the mean image, of pairs that were in the fit, and of unseen pairs
"""

import statistics
import tempfile
import time
from pathlib import Path

from table import new_parser, save

import labclip

METRICS = {
    "binding": "binding", "grounded": "binding_grounded", "grounded, unseen pairs": "binding_heldout_grounded",
    "search mAP": "search_map", "R@1 t2i": "t2i_r1", "R@1 i2t": "i2t_r1",
}  # fmt: skip


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--captions", type=int, nargs="+", default=[300, 600, 1000, 3000, 10_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="not 0: it draws the test scenes")
    arguments = parser.parse_args()
    model = labclip.LABCLIP.from_pretrained("scenes")
    alignments, rows = {}, [{"captions": "0 (base)", "worth using": "", "seconds": None}]
    with tempfile.TemporaryDirectory() as scratch:
        for count in arguments.captions:
            worthwhile, seconds = [], []
            for seed in arguments.seeds:
                folder = Path(scratch) / f"{count}-{seed}"
                captions = labclip.scenes.sample(count, seed=seed).save(folder)
                features = labclip.embed(model, captions, folder / "features", progress=False)
                start = time.perf_counter()
                result = labclip.fit(features, seed=seed, progress=False)
                seconds.append(time.perf_counter() - start)
                worthwhile.append(result.worthwhile)
                alignments[f"{count:,}, seed {seed}"] = result.alignment
                print(f"{count:,} captions, seed {seed}: {worthwhile[-1]}, {seconds[-1]:.0f} s", flush=True)
            worth_using = f"{sum(worthwhile)} of {len(worthwhile)}"
            rows.append({"captions": f"{count:,}", "worth using": worth_using, "seconds": statistics.mean(seconds)})
    report = labclip.evaluate(model, "scenes", alignments=alignments, progress=False)["scenes"]
    for key, metric in METRICS.items():
        values = (estimate.value for estimate in report.metric(metric).estimates)
        rows[0][key] = next(values)
        for row in rows[1:]:
            row[key] = statistics.mean(next(values) for _ in arguments.seeds)
    for row in rows:
        print(row)
    save(arguments.json, {"seeds": arguments.seeds, "rows": rows})


if __name__ == "__main__":
    main()
