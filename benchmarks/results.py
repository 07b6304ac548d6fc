"""Measure docs/results.md: the embedded model on its scenes, which needs no download.

python benchmarks/results.py
python docs/reference.py
"""

from pathlib import Path

from table import save

from labclip.evaluation import evaluate

PATH = Path(__file__).parent / "results" / "scenes.json"


def main():
    report = evaluate("scenes", "scenes", cache=None, progress=True).to_json()
    save(PATH, report)
    print(f"{len(report['benchmarks']['scenes']['n'])} metrics, {PATH}")


if __name__ == "__main__":
    main()
