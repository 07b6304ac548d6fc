"""How many captions does a fit need? The default recipe on 300 to 10,000 captions, measured on other scenes.

    python benchmarks/amount.py [--captions 300 1000 3000 10000] [--seeds 0 1 2] [--json FILE]

The scenes are those of `labclip sample`, each with a caption and the same with its colours swapped. The seed is of the
scenes and of the fit. What is measured is `labclip evaluate scenes`, on the base's own scenes that no fit saw.

    worth using   fits that say so, of all seeds
    grounded      the caption beats its negative by what the image adds; pairs of the fit, and pairs never fitted
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import labclip

METRICS = {
    "binding": "binding",
    "grounded": "binding_grounded",
    "grounded, unseen pairs": "binding_heldout_grounded",
    "search mAP": "search_map",
    "R@1 t2i": "t2i_r1",
    "R@1 i2t": "i2t_r1",
}


def row(name, found, **more):
    """The figures of some seeds, as means."""
    return {"captions": name, **{key: statistics.mean(one[key] for one in found) for key in found[0]}, **more}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, nargs="+", default=[300, 1000, 3000, 10_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    model = labclip.LABCLIP.from_pretrained("scenes")
    fits, told = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in arguments.captions:
            for seed in arguments.seeds:
                folder = Path(scratch) / f"{count}-{seed}"
                captions = labclip.scenes.sample(count, seed=seed).save(folder)
                features = labclip.embed(model, captions, folder / "features", progress=False)
                started = time.perf_counter()
                result = labclip.fit(features, seed=seed, progress=False)
                fits[f"{count:,}, seed {seed}"] = result.alignment
                told[f"{count:,}, seed {seed}"] = result.worthwhile, time.perf_counter() - started
                print(f"{count:,} captions, seed {seed}: {told[f'{count:,}, seed {seed}']}", flush=True)
    report = labclip.evaluate(model, "scenes", alignments=fits, progress=False)["scenes"]
    values = {
        model: {key: report.metric(metric).estimates[at].value for key, metric in METRICS.items()}
        for at, model in enumerate(("base", *fits))
    }
    rows = [row("0 (base)", [values["base"]], **{"worth using": "", "seconds": None})]
    for count in arguments.captions:
        names = [f"{count:,}, seed {seed}" for seed in arguments.seeds]
        worth = sum(told[name][0] for name in names)
        seconds = statistics.mean(told[name][1] for name in names)
        more = {"worth using": f"{worth} of {len(names)}", "seconds": seconds}
        rows.append(row(f"{count:,}", [values[name] for name in names], **more))
    for one in rows:
        print(one)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": arguments.seeds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
