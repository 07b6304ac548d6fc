"""How near `labclip embed` comes to the bare model, and how far its captions are ahead of open_clip's own loop.

    python benchmarks/features.py [--captions FILE.tsv] [--model ViT-B-32] [--images N] [--device cuda] [--json FILE]

Weights are random and of the real shape, images are JPEGs made here, of COCO's size. Both sides see the same batches
and take turns; the bare model gets its images decoded, so what is missing to 1 is what reading, decoding and writing
cost beside it.
"""

import argparse
import csv
import json
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

from labclip import LABCLIP, Alignment
from labclip.features import embed, embedding

BATCH = 32
ROUNDS = 3


def images(folder, count):
    """JPEGs of 640 x 480, about 70 kB each: smooth colours with some noise."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
        noisy = np.asarray(coarse, dtype=np.int16) + draw.integers(-6, 6, (480, 640, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def table(path, texts, count):
    """A csv in which every image has at least one caption."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([f"{row % count}.jpg", text] for row, text in enumerate(texts))


class Stage:
    """Runs `embed` again and keeps what one stage of it took, since the other is measured apart."""

    def __init__(self, name):
        self.stage = getattr(embedding, name)
        self.seconds = []
        setattr(embedding, name, self)

    def __call__(self, *arguments, **options):
        start = time.perf_counter()
        self.stage(*arguments, **options)
        self.seconds.append(time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, help="tab-separated file with a column 'title'")
    parser.add_argument("--model", default="ViT-B-32", help="OpenCLIP architecture")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # OpenCLIP says that random weights are random
    warnings.filterwarnings("ignore", message=".* captions with a negative")  # few are enough to measure
    torch.manual_seed(0)
    clip, _, preprocess = open_clip.create_model_and_transforms(arguments.model, load_weights=False)
    clip = clip.eval().to(arguments.device)
    tokenizer = open_clip.get_tokenizer(arguments.model)
    model = LABCLIP(clip, Alignment.identity(clip.text_projection.shape[1]), tokenizer=tokenizer)
    texts = captions(arguments.captions)[: arguments.texts]
    rows = []
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        images(folder, arguments.images)
        decoded = [preprocess(Image.open(folder / f"{number}.jpg")) for number in range(arguments.images)]
        batches = [torch.stack(decoded[start : start + BATCH]) for start in range(0, len(decoded), BATCH)]
        batches = [batch.to(arguments.device) for batch in batches]

        def run(captions_of):
            def once():
                table(folder / "captions.csv", captions_of, arguments.images)
                embed(
                    model,
                    folder / "captions.csv",
                    folder / "features",
                    batch_size=BATCH,
                    workers=arguments.workers,
                    force=True,
                    progress=False,
                )

            return once

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

        stage = Stage("write_images")
        rows.append(measured("images/s of the bare model's", bare, run(["x"] * arguments.images), stage, 0.9))
        stage = Stage("write_texts")
        arguments.images = 1
        rows.append(measured("captions/s of open_clip's loop", loop, run(texts), stage, 5.0))
    for row in rows:
        print(f"{row['what']:32} {row['ratio']:6.2f} (aim {row['aim']})  {row['ours']:.2f} s / {row['other']:.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measured(what, other, ours, stage, aim):
    """The ratio of the rates of one stage and of what it is held against: the median of some rounds after a warm-up."""
    rounds = []
    for turn in range(ROUNDS + 1):
        theirs = seconds_of(other) if turn % 2 else None
        ours()
        theirs = theirs or seconds_of(other)
        rounds.append((theirs / stage.seconds[-1], stage.seconds[-1], theirs))
    ratio, mine, theirs = sorted(rounds[1:])[ROUNDS // 2]
    return {"what": what, "aim": aim, "ratio": ratio, "ours": mine, "other": theirs}


def seconds_of(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
