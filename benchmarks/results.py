"""What can be measured here, kept for docs/results.md: the embedded model on its scenes, with no download.

python benchmarks/results.py
python docs/reference.py
"""

import json
from pathlib import Path

from labclip.evaluation import evaluate

FOLDER = Path(__file__).parent / "results"
# File name -> benchmark and model.
MEASURED = {"scenes": ("scenes", "scenes")}


def main():
    for name, (benchmark, model) in MEASURED.items():
        report = evaluate(model, benchmark, cache=None, progress=True).to_json()
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {len(report['benchmarks'][benchmark]['n'])} metrics, {FOLDER / name}.json")


if __name__ == "__main__":
    main()
