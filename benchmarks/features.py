"""The speed of `labclip embed` relative to the bare model for images, and to open_clip's own loop for captions.

    python benchmarks/features.py [--captions FILE.tsv] [--model ViT-B-32] [--images N] [--device cuda] [--json FILE]

Weights are random and of the real shape, images are generated JPEGs of COCO's size. Both take turns on equal batches.
The bare model gets decoded images, so a ratio below 1 is the cost of reading, decoding and writing.
"""

import csv
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from ratios import captions
from table import new_parser, save

from labclip import LABCLIP, Alignment
from labclip.features import embed, embedding

BATCH = 32
ROUNDS = 3


def write_images(folder, count):
    """JPEGs of 640 x 480, about 70 kB each: smooth colours with some noise."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
        noisy = np.asarray(coarse, dtype=np.int16) + generator.integers(-6, 6, (480, 640, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def write_table(path, texts, count):
    """A csv file in which each image has at least one caption."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([f"{row % count}.jpg", text] for row, text in enumerate(texts))


class TimedStage:
    """Takes the place of a stage of `embed`, runs it and records its seconds."""

    def __init__(self, name):
        self.stage = getattr(embedding, name)
        self.seconds = []
        setattr(embedding, name, self)

    def __call__(self, *arguments, **options):
        start = time.perf_counter()
        self.stage(*arguments, **options)
        self.seconds.append(time.perf_counter() - start)


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--captions", type=Path, help="tab-separated file with a column 'title'")
    parser.add_argument("--model", default="ViT-B-32", help="OpenCLIP architecture")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # OpenCLIP warns of random weights
    warnings.filterwarnings("ignore", message=".* captions with a negative")  # the few captions are enough here
    torch.manual_seed(0)
    clip, _, preprocess = open_clip.create_model_and_transforms(arguments.model, load_weights=False)
    clip = clip.eval().to(arguments.device)
    tokenizer = open_clip.get_tokenizer(arguments.model)
    model = LABCLIP(clip, Alignment.identity(clip.text_projection.shape[1]), tokenizer=tokenizer)
    texts = captions(arguments.captions)[: arguments.texts]
    rows = []
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        write_images(folder, arguments.images)
        decoded = [preprocess(Image.open(folder / f"{number}.jpg")) for number in range(arguments.images)]
        batches = torch.stack(decoded).to(arguments.device).split(BATCH)

        def run_embed(texts, n_images):
            table = folder / "captions.csv"
            write_table(table, texts, n_images)
            options = {"batch_size": BATCH, "workers": arguments.workers, "force": True, "progress": False}
            embed(model, table, folder / "features", **options)

        def bare():
            for batch in batches:
                clip.encode_image(batch)
            if arguments.device != "cpu":
                torch.cuda.synchronize()

        def loop():
            for start in range(0, len(texts), BATCH):
                clip.encode_text(tokenizer(texts[start : start + BATCH]).to(arguments.device))
            if arguments.device != "cpu":
                torch.cuda.synchronize()

        n = arguments.images
        stage = TimedStage("write_images")
        rows.append(measure("images/s of the bare model's", bare, lambda: run_embed(["x"] * n, n), stage, 0.9))
        stage = TimedStage("write_texts")
        rows.append(measure("captions/s of open_clip's loop", loop, lambda: run_embed(texts, 1), stage, 5.0))
    for row in rows:
        print(f"{row['what']:32} {row['ratio']:6.2f} (aim {row['aim']})  {row['ours']:.2f} s / {row['other']:.2f} s")
    save(arguments.json, rows)


def measure(what, baseline, run, stage, aim):
    """The rate of a stage of `run` as a ratio to that of the baseline: the median of the rounds after a warm-up."""
    rounds = []
    for turn in range(ROUNDS + 1):
        baseline_seconds = seconds_of(baseline) if turn % 2 else None
        run()
        baseline_seconds = baseline_seconds or seconds_of(baseline)
        rounds.append((baseline_seconds / stage.seconds[-1], stage.seconds[-1], baseline_seconds))
    ratio, stage_seconds, baseline_seconds = sorted(rounds[1:])[ROUNDS // 2]
    return {"what": what, "aim": aim, "ratio": ratio, "ours": stage_seconds, "other": baseline_seconds}


def seconds_of(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
