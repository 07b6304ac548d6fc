"""How much R@1 may a strength lose, by the estimate on held-out images? What each rule truly loses and refuses.

    python benchmarks/allowance.py [--json FILE]

`fit` accepts a strength if its loss, an estimate with a standard error, is at most 1 - keep. Here the truth is known:
the mean over all draws of as many images. There are two matrices on unit-length embeddings. One loses more the greater
the strength; the other changes every cosine and loses nothing at strength 1.

    loses         what the strongest accepted strength truly loses of R@1, mean over the draws
    worst tenth   the same, mean over the tenth of the draws that lose most
    5% passes     how often the strength is accepted whose true loss is nearest to 5%
    0% passes     how often the harmless matrix is accepted at strength 1
"""

import torch
import torch.nn.functional as F
from table import new_parser, save

from labclip.features import Features
from labclip.training.frontier import KEEP, frontier
from labclip.training.rows import read_data

DRAWS = {50: 800, 100: 800, 200: 800, 500: 300, 1000: 100}
RULES = {"lost - error": -1.0, "lost": 0.0, "lost + error / 2": 0.5, "lost + error": 1.0}
STRENGTHS = [round(0.1 * step, 1) for step in range(11)]
CONTENT, REST = 64, 32  # dimensions that image and caption share, and of each half of the others


def draw_data(n, generator):
    """Images with a caption each."""

    def unit(dim):
        return F.normalize(torch.randn(n, dim, generator=generator), dim=-1)

    content = unit(CONTENT)
    images, texts = (F.normalize(torch.cat([content, 1.6 * unit(2 * REST)], dim=1), dim=-1) for _ in range(2))
    return read_data(Features.from_arrays(images=images, texts=texts))


def draw_matrices(generator):
    """A matrix that adds a random direction to each text, and one that swaps the dimensions that are not content."""
    dim = CONTENT + 2 * REST
    losing = torch.eye(dim) + 0.6 * torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    harmless = torch.eye(dim)[[*range(CONTENT), *range(CONTENT + REST, dim), *range(CONTENT, CONTENT + REST)]]
    return losing, harmless


def measure(matrix, strengths, n, generator):
    """R@1, the estimated loss and its standard error, each [draws, strengths]."""
    rows = []
    for _ in range(DRAWS[n]):
        points = frontier({"set": draw_data(n, generator)}, matrix, strengths)
        rows.append([(sum(point.recalls["set"]), *point.lost["set"]) for point in points])
    return torch.tensor(rows, dtype=torch.float64).unbind(dim=-1)


def rows(n):
    """The row of each rule, with n images."""
    generator = torch.Generator().manual_seed(n)
    losing, harmless = draw_matrices(generator)
    recall, lost, error = measure(losing, STRENGTHS, n, generator)
    _, harmless_lost, harmless_error = measure(harmless, [1.0], n, generator)
    true_loss = 1 - recall.mean(dim=0) / recall[:, 0].mean()
    five_percent = int((true_loss - 0.05).abs().argmin())
    for rule, factor in RULES.items():
        passes = lost + factor * error <= 1 - KEEP
        strongest = torch.where(passes, torch.arange(len(STRENGTHS)), 0).amax(dim=1)
        loses = true_loss[strongest].sort(descending=True).values
        yield {
            "images": n,
            "rule": rule,
            "loses": float(loses.mean()),
            "worst tenth": float(loses[: len(loses) // 10].mean()),
            "5% passes": float(passes[:, five_percent].double().mean()),
            "0% passes": float((harmless_lost + factor * harmless_error <= 1 - KEEP).double().mean()),
        }


def main():
    parser = new_parser(__doc__)
    arguments, table = parser.parse_args(), []
    for n in DRAWS:
        for row in rows(n):
            print({name: value if isinstance(value, int | str) else round(value, 4) for name, value in row.items()})
            table.append(row)
    save(arguments.json, table)


if __name__ == "__main__":
    main()
