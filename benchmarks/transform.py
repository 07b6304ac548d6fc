"""The time of `labclip transform` relative to reading, one float32 product and writing, and its peak memory.

    python benchmarks/transform.py [--rows N] [--json FILE]

Both take turns on the same file of random embeddings. The floor reads blocks, multiplies a fixed float32 block (nothing
is converted or checked), writes as many bytes, and waits for the disk, as labclip does. Memory is that of the command
in a process of its own, with Python and torch.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from table import new_parser, write

import labclip

DIM = 512
ROUNDS = 3
BLOCKS = (1024, 4096)  # rows; the faster one is the floor


def make(path, rows):
    """Write random float16 embeddings [rows, DIM] in blocks."""
    generator = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.float16, (rows, DIM))
    for start in range(0, rows, 50_000):
        array[start : start + 50_000] = generator.standard_normal((min(50_000, rows - start), DIM), dtype=np.float32)
    array.flush()


def floor(source, target, rows, matrix):
    """Seconds to read, multiply and write: the work that can't be avoided."""
    best = float("inf")
    for block in BLOCKS:
        target.unlink(missing_ok=True)
        inputs, products = torch.rand(block, DIM), torch.empty(block, DIM)
        memory = np.empty((block, DIM), np.float16).reshape(-1).view(np.uint8)
        start = time.perf_counter()
        with source.open("rb") as file, target.open("wb") as out:
            for _ in range(-(-rows // block)):
                count = file.readinto(memory)
                torch.mm(inputs, matrix.T, out=products)
                out.write(memory[:count])
            out.flush()
            os.fsync(out.fileno())
        best = min(best, time.perf_counter() - start)
    return best


def seconds(folder, rows):
    """The ratio to the floor, median of the rounds after a warm-up, with both times."""
    alignment = labclip.Alignment(torch.randn(DIM, DIM) / DIM**0.5)
    source, target, floor_target = (folder / name for name in ("in.npy", "out.npy", "floor.bin"))
    rounds = []
    for _ in range(ROUNDS + 1):
        floor_seconds = floor(source, floor_target, rows, alignment.matrix)
        start = time.perf_counter()
        labclip.transform(source, target, alignment, force=True, progress=False)
        duration = time.perf_counter() - start
        rounds.append((duration / floor_seconds, duration, floor_seconds))
    return sorted(rounds[1:])[ROUNDS // 2]


MEASURED = """
import sys
from labclip.cli import main
main(sys.argv[1:], standalone_mode=False)
with open("/proc/self/status", encoding="ascii") as file:
    print(next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM")))
"""


def memory(folder, name):
    """Peak memory of the command in megabytes, and its seconds."""
    alignment = folder / "alignment"
    labclip.Alignment(torch.randn(DIM, DIM) / DIM**0.5).save_pretrained(alignment)
    target = folder / f"memory{Path(name).suffix}"
    arguments = ["transform", folder / name, target, "--alignment", alignment, "--force"]
    start = time.perf_counter()
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    target.unlink()
    return float(output.splitlines()[-1]), time.perf_counter() - start, None


def make_parquet(path, source):
    """Write the same embeddings as a column with all rows in one group, as pandas writes a million rows."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = np.load(source)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), DIM)
    parquet.write_table(pa.table({"text_embedding": column}), path, row_group_size=len(rows))


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "in.npy", arguments.rows)
        make_parquet(folder / "in.parquet", folder / "in.npy")
        write(measure(folder, arguments.rows), arguments.json)


def measure(folder, rows):
    yield f"transform of {rows:,} x {DIM} float16", "read, multiply in float32, write", 1.4, seconds(folder, rows)
    for suffix in (".npy", ".parquet"):
        yield f"  its peak memory, {suffix}", "megabytes in all", 400.0, memory(folder, f"in{suffix}")


if __name__ == "__main__":
    main()
