"""How much R@1 a strength may lose by the estimate on held-out images: what each rule promises, and what it refuses.

    python benchmarks/allowance.py [--json FILE]

`fit` lets a strength pass where what it loses, by an estimate with a standard error, is within 1 - keep. Here the truth
is known: it is the mean over all draws of as many images. Two matrices on unit-length embeddings: one loses more and
more with strength, the other moves every cosine and loses nothing at strength 1.

    loses         what the strongest strength that passes truly loses of R@1, mean over the draws
    worst tenth   the same, mean over the tenth of the draws that lose most
    5% passes     how often a strength passes that truly loses 5%, or the one nearest to that
    0% passes     how often the harmless matrix passes at strength 1
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from labclip.features import Features
from labclip.training.frontier import KEEP, frontier
from labclip.training.rows import read_data

DRAWS = {50: 800, 100: 800, 200: 800, 500: 300, 1000: 100}
RULES = {"lost - error": -1.0, "lost": 0.0, "lost + error / 2": 0.5, "lost + error": 1.0}
STRENGTHS = [round(0.1 * step, 1) for step in range(11)]
CONTENT, REST = 64, 32  # dimensions of what image and caption share, and of each half of what they do not


def held_out(n, draw):
    """Images and a caption of each."""

    def unit(dim):
        return F.normalize(torch.randn(n, dim, generator=draw), dim=-1)

    content = unit(CONTENT)
    images, texts = (F.normalize(torch.cat([content, 1.6 * unit(2 * REST)], dim=1), dim=-1) for _ in range(2))
    return read_data(Features.from_arrays(images=images, texts=texts))


def matrices(draw):
    """One that adds a random direction to each text, and one that moves what is no content."""
    dim = CONTENT + 2 * REST
    losing = torch.eye(dim) + 0.6 * torch.linalg.qr(torch.randn(dim, dim, generator=draw)).Q
    harmless = torch.eye(dim)[[*range(CONTENT), *range(CONTENT + REST, dim), *range(CONTENT, CONTENT + REST)]]
    return losing, harmless


def measured(matrix, strengths, n, draw):
    """R@1, what is lost and its error, each [draws, strengths]."""
    rows = []
    for _ in range(DRAWS[n]):
        points = frontier({"set": held_out(n, draw)}, matrix, strengths)
        rows.append([(sum(point.recalls["set"]), *point.lost["set"]) for point in points])
    return torch.tensor(rows, dtype=torch.float64).unbind(dim=-1)


def rows(n):
    """The row of each rule."""
    draw = torch.Generator().manual_seed(n)
    losing, harmless = matrices(draw)
    recall, lost, error = measured(losing, STRENGTHS, n, draw)
    _, none, none_error = measured(harmless, [1.0], n, draw)
    truth = 1 - recall.mean(dim=0) / recall[:, 0].mean()
    five = int((truth - 0.05).abs().argmin())
    for rule, k in RULES.items():
        passes = lost + k * error <= 1 - KEEP
        loses = truth[torch.where(passes, torch.arange(len(STRENGTHS)), 0).amax(dim=1)].sort(descending=True).values
        yield {
            "images": n,
            "rule": rule,
            "loses": float(loses.mean()),
            "worst tenth": float(loses[: len(loses) // 10].mean()),
            "5% passes": float(passes[:, five].double().mean()),
            "0% passes": float((none + k * none_error <= 1 - KEEP).double().mean()),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments, table = parser.parse_args(), []
    for n in DRAWS:
        for row in rows(n):
            print({name: value if isinstance(value, int | str) else round(value, 4) for name, value in row.items()})
            table.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
