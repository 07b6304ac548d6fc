"""What `labclip embed` itself can take, whoever encodes: rows read, written and hashed in a second of processor.

    python benchmarks/driver.py [--rows 100000] [--json benchmarks/driver.json]

The encoder of this benchmark gives one vector for all images and captions, so what is left is the table and the files.
Counted is processor time, so that others on the machine do not change it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from labclip import LABCLIP
from labclip.data import find_inputs, read_items
from labclip.features.corpus import Corpus
from labclip.features.embedding import write_images, write_rest, write_texts
from labclip.features.encoder import Encoded, Encoder
from labclip.features.folder import Writer

DIM = 512


class Instant(Encoder):
    """Encodes nothing."""

    row = np.full(DIM, DIM**-0.5, dtype="<f4")

    def images(self, sources):
        for source in sources:
            yield Encoded(source, self.row, bytes(32))

    def texts(self, blocks):
        for captions in blocks:
            yield captions, np.broadcast_to(self.row, (len(captions), DIM))


def main():
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    encoder, found = Instant(LABCLIP.from_pretrained("scenes")), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (f"{number:09d}.jpg,a photo of the red thing number {number}\n" for number in range(options.rows))
        (folder / "captions.csv").write_text("image,caption\n" + "".join(lines))
        (folder / "features").mkdir()

        def measure(what, stage):
            start = time.process_time()
            made = stage()
            found.append({"what": what, "rows": options.rows, "seconds": time.process_time() - start})
            print(f"{what:10} {options.rows / found[-1]['seconds']:10,.0f} rows/s", flush=True)
            return made

        with Writer(folder / "features") as state:
            items = read_items(find_inputs(folder / "captions.csv"))
            table = measure("planned", lambda: Corpus(items, skip=False))
            state.values = {
                "images": 0, "digest": "", "left_out": [], "skipped": [], "texts": 0, "cut": {}, "sizes": {}
            }  # fmt: skip
            measure("images", lambda: write_images(table, state, encoder, skip=False, progress=False))

            def texts():
                write_texts(table, state, encoder, progress=False)
                return write_rest(table, state, dim=DIM, texts_cut=0)

            counts = measure("captions", texts)
            measure("checked", lambda: state.finish({"dim": DIM, "counts": counts}, {}))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
