"""The time of an epoch of a fit relative to its bare matrix products and to the published loop, and its peak memory.

    python benchmarks/fit.py [--json FILE] [--pairs 100000] [--gigabytes 10]

Embeddings are random: neither times nor memory depend on their values.
"""

import itertools
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from ratios import ratio_of
from table import new_parser, write

DIM, BATCH = 512, 1024


def products(images, texts, negatives, matrix, steps):
    """The floor: x A^T, v y^T, and the products of their two gradients, batch after batch."""
    for step in range(steps):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        text = torch.cat([texts[rows], negatives[rows]])
        image = images[rows]
        aligned = text @ matrix.T
        logits = image @ aligned.T
        pull = logits.T @ image
        pull.T @ text


class Pairs(torch.utils.data.Dataset):
    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        return tuple(array[index] for array in self.arrays)


def published(images, texts, negatives, steps):
    """The published loop: DataLoader, autograd, Adam. Source: arXiv:2502.03566."""
    loader = torch.utils.data.DataLoader(Pairs(images, texts, negatives), batch_size=BATCH, shuffle=True)
    matrix = torch.nn.Linear(DIM, DIM, bias=False)
    torch.nn.init.eye_(matrix.weight)
    log_scale = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([*matrix.parameters(), log_scale], lr=1e-3)
    target = torch.arange(BATCH)
    for step, (image, text, negative) in enumerate(loader):
        if step == steps:
            break
        aligned = F.normalize(matrix(torch.cat([text, negative])), dim=-1)
        logits = log_scale.exp() * image @ aligned.T
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :BATCH].T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fit(images, texts, negatives, **options):
    """One epoch of the published recipe by default."""
    import labclip

    features = labclip.Features.from_arrays(
        images=images, texts=texts, negatives=negatives, has_negative=torch.ones(len(texts), dtype=torch.bool)
    )
    return labclip.fit(features, **{"recipe": "paper", "epochs": 1, "batch_size": BATCH} | options, progress=False)


def random_arrays(rows):
    """Images, texts and negatives, unit-length [rows, DIM]."""
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(rows, DIM, generator=generator), dim=-1) for _ in range(3)]


def epochs(pairs):
    """The rows of one epoch."""
    arrays, steps = random_arrays(pairs), pairs // BATCH
    runs = {
        "products": lambda: products(*arrays, torch.eye(DIM), steps),
        "fit": lambda: fit(*arrays),
        "distilled": lambda: fit(*arrays, distill=1.0, negative_weight=12),
        "published": lambda: published(*arrays, steps),
    }
    seconds = {name: [] for name in runs}
    for turn in range(4):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    yield "one epoch of fit", "its bare matrix products", 1.7, ratio_of(seconds["fit"], seconds["products"])
    yield "the same with distillation", "bare matrix products", 2.3, ratio_of(seconds["distilled"], seconds["products"])
    yield "the published loop", "one epoch of fit", 1.8, ratio_of(seconds["published"], seconds["fit"])


def default_fit(captions=12_000):
    """The row of the default fit: all candidates, their frontiers and the selection."""
    arrays = random_arrays(captions)
    start = time.perf_counter()
    fit(*arrays, recipe="labclip", epochs=None, batch_size=None)
    seconds = time.perf_counter() - start
    yield f"the default fit, {captions:,} captions", "seconds", 60, (seconds, seconds, None)


_MEMORY = """
import sys, numpy, torch, labclip
mapped = [numpy.lib.format.open_memmap(f"{sys.argv[1]}/{name}.npy", mode="r") for name in ("i", "t", "n")]
features = labclip.Features.from_arrays(
    images=mapped[0], texts=mapped[1], negatives=mapped[2], has_negative=numpy.ones(len(mapped[1]), bool)
)
labclip.fit(features, recipe="paper", epochs=1, batch_size=1024, progress=False)
with open("/proc/self/status") as file:
    print(next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")))
"""


def memory(gigabytes):
    """The row of the peak resident memory of a fit on memory-mapped files."""
    import numpy as np

    rows = int(gigabytes * 1e9 / (3 * DIM * 4))
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(0)
        for name in ("i", "t", "n"):
            file = np.lib.format.open_memmap(f"{folder}/{name}.npy", mode="w+", dtype="<f4", shape=(rows, DIM))
            for start in range(0, rows, 100_000):
                file[start : start + 100_000] = generator.standard_normal((min(100_000, rows - start), DIM), "f4")
            file.flush()
            del file
        start = time.perf_counter()
        command = [sys.executable, "-W", "ignore", "-c", _MEMORY, folder]
        peak = int(subprocess.run(command, check=True, capture_output=True).stdout)
        seconds = time.perf_counter() - start
    yield f"peak memory, {gigabytes:g} GB of files", "gigabytes", 1.5, (peak / 1e9, seconds, None)


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=100_000, help="captions with negatives, of dim 512")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the memory-mapped files; 0: no files")
    arguments = parser.parse_args()
    parts = [epochs(arguments.pairs), default_fit()] + ([memory(arguments.gigabytes)] if arguments.gigabytes else [])
    write(itertools.chain.from_iterable(parts), arguments.json)


if __name__ == "__main__":
    main()
