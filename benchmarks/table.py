"""What the benchmarks share: their options, printing a table row by row, and JSON files for `docs/reference.py`."""

import argparse
import json
from pathlib import Path


def new_parser(docstring):
    """A parser of arguments that has the first line of a docstring as its description, and the option --json."""
    parser = argparse.ArgumentParser(description=docstring.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="also write what is measured to this file")
    return parser


def save(path, record):
    """Write a record as JSON if a path is given."""
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write(rows, path=None):
    """Print rows as soon as they are measured, and write them as JSON if a path is given.

    Args:
        rows: (what, against, aim, (ratio, seconds, seconds of the other)) each; either of the seconds may be None.
        path: The file, or None.
    """
    table = []
    print(f"{'what':38} {'against':44} {'ratio':>6} {'aim':>5}   seconds")
    for what, against, aim, (ratio, seconds, other_seconds) in rows:
        times = " / ".join(f"{time:.4f}" for time in (seconds, other_seconds) if time is not None)
        print(f"{what:38} {against:44} {ratio:6.3f} {aim:5.2f}   {times}", flush=True)
        table.append({"what": what, "against": against, "ratio": ratio, "aim": aim, "seconds": seconds})
    save(path, table)
