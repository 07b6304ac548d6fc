"""The speed of `labclip embed` without the encoder: rows read, written and hashed per second of processor time.

    python benchmarks/driver.py [--rows 100000] [--json benchmarks/driver.json]

The encoder of this benchmark returns one vector for all images and captions, so only the table and the files take time.
Processor time does not depend on other work of the machine.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from table import new_parser, save

from labclip import LABCLIP
from labclip.data import find_inputs, read_items
from labclip.features.corpus import Corpus
from labclip.features.embedding import write_images, write_rest, write_texts
from labclip.features.encoder import Encoded, Encoder
from labclip.features.folder import Writer

DIM = 512


class ConstantEncoder(Encoder):
    """Returns the same embedding for everything."""

    row = np.full(DIM, DIM**-0.5, dtype="<f4")

    def images(self, sources):
        for source in sources:
            yield Encoded(source, self.row, bytes(32))

    def texts(self, blocks):
        for captions in blocks:
            yield captions, np.broadcast_to(self.row, (len(captions), DIM))


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    encoder, rows = ConstantEncoder(LABCLIP.from_pretrained("scenes")), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (f"{number:09d}.jpg,a photo of the red thing number {number}\n" for number in range(options.rows))
        (folder / "captions.csv").write_text("image,caption\n" + "".join(lines))
        (folder / "features").mkdir()

        def measure(name, stage):
            start = time.process_time()
            result = stage()
            seconds = time.process_time() - start
            rows.append({"what": name, "rows": options.rows, "seconds": seconds})
            print(f"{name:10} {options.rows / seconds:10,.0f} rows/s", flush=True)
            return result

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
    save(options.json, rows)


if __name__ == "__main__":
    main()
