"""What can be measured here, kept for docs/results.md: the embedded model on its scenes, with no download.

python benchmarks/results.py
python docs/reference.py
"""

import json
from pathlib import Path

from labclip.evaluation import evaluate
from labclip.evaluation.kept import as_json

FOLDER = Path(__file__).parent / "results"
# File name -> benchmark, model, and the options of evaluate; the command says the same.
MEASURED = {"scenes": ("scenes", "scenes")}


def main():
    for name, (benchmark, model) in MEASURED.items():
        report = as_json(evaluate(benchmark, model, cache=None, progress=True))
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {len(report['results'][benchmark]['n'])} metrics, {FOLDER / name}.json")


if __name__ == "__main__":
    main()
