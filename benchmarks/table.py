"""The table that a benchmark prints, a row as soon as it is known, and its file."""

import json


def write(rows, path=None):
    """Print rows, and write them as JSON where a path is given; `docs/reference.py` reads that.

    Args:
        rows: (what, against, aim, (ratio, seconds, seconds of the other)) each; either of the seconds may be None.
        path: The file, or None.
    """
    table = []
    print(f"{'what':38} {'against':44} {'ratio':>6} {'aim':>5}   seconds")
    for what, against, aim, (ratio, ours, other) in rows:
        seconds = "" if ours is None else f"{ours:.4f}" if other is None else f"{ours:.4f} / {other:.4f}"
        print(f"{what:38} {against:44} {ratio:6.3f} {aim:5.2f}   {seconds}", flush=True)
        table.append({"what": what, "against": against, "ratio": ratio, "aim": aim, "seconds": ours})
    if path:
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
