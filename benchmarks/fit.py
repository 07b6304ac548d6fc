"""What an epoch of a fit costs, against its bare matrix products and against the published loop, and its peak memory.

    python benchmarks/fit.py [--json FILE] [--pairs 100000] [--gigabytes 10]

Embeddings are random: neither times nor memory depend on their values.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from table import write

DIM, BATCH = 512, 1024


def products(images, texts, negatives, matrix, steps):
    """The floor: x A^T, v y^T, and the products of their two gradients, a batch after the other."""
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
        every = F.normalize(matrix(torch.cat([text, negative])), dim=-1)
        logits = log_scale.exp() * image @ every.T
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :BATCH].T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def ours(images, texts, negatives, **options):
    import labclip

    features = labclip.Features.from_arrays(
        images=images, texts=texts, negatives=negatives, has_negative=torch.ones(len(texts), dtype=torch.bool)
    )
    return labclip.fit(features, **{"recipe": "paper", "epochs": 1, "batch_size": BATCH} | options, progress=False)


def epochs(pairs):
    draw = torch.Generator().manual_seed(0)
    arrays = [F.normalize(torch.randn(pairs, DIM, generator=draw), dim=-1) for _ in range(3)]
    steps = pairs // BATCH
    runs = {
        "products": lambda: products(*arrays, torch.eye(DIM), steps),
        "fit": lambda: ours(*arrays),
        "distilled": lambda: ours(*arrays, distill=1.0, negative_weight=12),
        "published": lambda: published(*arrays, steps),
    }
    seconds = {name: [] for name in runs}
    for turn in range(4):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    pairs_of_runs = ("fit", "products"), ("distilled", "products"), ("published", "fit")
    ratio = [statistics.median(a / b for a, b in zip(seconds[x], seconds[y], strict=True)) for x, y in pairs_of_runs]
    median = {name: statistics.median(times) for name, times in seconds.items()}
    yield "one epoch of fit", "its bare matrix products", 1.7, (ratio[0], median["fit"], median["products"])
    yield "the same with distillation", "bare matrix products", 2.3, (ratio[1], median["distilled"], median["products"])
    yield "the published loop", "one epoch of fit", 1.8, (ratio[2], median["published"], median["fit"])


def default(captions=12_000):
    """The default fit, all its candidates, their frontiers and the selection."""
    draw = torch.Generator().manual_seed(0)
    arrays = [F.normalize(torch.randn(captions, DIM, generator=draw), dim=-1) for _ in range(3)]
    start = time.perf_counter()
    ours(*arrays, recipe="labclip", epochs=None, batch_size=None)
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
    """Peak resident memory of a fit on files that are memory-mapped."""
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
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", _MEMORY, folder], check=True, capture_output=True)
        seconds = time.perf_counter() - start
    yield f"peak memory, {gigabytes:g} GB of files", "gigabytes", 1.5, (int(done.stdout) / 1e9, seconds, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="captions with negatives, of dim 512")
    parser.add_argument(
        "--gigabytes", type=float, default=10.0, help="size of the memory-mapped files; 0 leaves it out"
    )
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    parts = [epochs(arguments.pairs), default()] + ([memory(arguments.gigabytes)] if arguments.gigabytes else [])
    write(itertools.chain.from_iterable(parts), arguments.json)


if __name__ == "__main__":
    main()
