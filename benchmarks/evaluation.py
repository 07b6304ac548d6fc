"""The speed of evaluation: SugarCrepe against its official loop, metrics alone, retrieval and its memory.

    python benchmarks/evaluation.py [--sugarcrepe DIR] [--json FILE]

Items are generated, as many as SugarCrepe has; with --sugarcrepe they are its own. Images are rendered. The model is
the embedded one. The official loop encodes the image, the caption and the negative of one item at a time, at the full
context; both must give the same answers. The rest runs on random embeddings of ViT-B-32's dimension.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from table import new_parser, write
from torch.nn import functional as F

from labclip import LABCLIP, metrics, scenes
from labclip.evaluation import BENCHMARKS, Choice, Sources
from labclip.evaluation.scores import compare, one_group
from labclip.features.cache import encode

ITEMS, IMAGES = 7511, 1560  # SugarCrepe's
LOOP_ITEMS = 400  # items of the official loop; each item takes the same time


def draw_images(folder, names):
    """JPEGs of COCO's size."""
    pixels = scenes.sample(min(len(names), 64), seed=0).render(64)
    for i, name in enumerate(names):
        image = Image.fromarray(pixels[i % len(pixels)]).resize((640, 480))
        image.putpixel((i % 640, i // 640), (255, 255, 255))  # so that all images differ
        image.save(folder / name, quality=90)


def write_files(folder):
    """SugarCrepe's seven files with captions of scenes, and as many items per image."""
    sample = scenes.sample(ITEMS, seed=1)
    sizes = dict(zip(("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"),
                     (692, 2062, 788, 1652, 1406, 666, 245), strict=True))  # fmt: skip
    row = 0
    for name, size in sizes.items():
        items = {}
        for key in range(size):
            items[str(key)] = {
                "filename": f"{row % IMAGES:012}.jpg",
                "caption": sample.captions[row],
                "negative_caption": sample.swapped_captions[row],
            }
            row += 1
        (folder / f"{name}.json").write_text(json.dumps(items))


@torch.no_grad()
def official(model, task, count):
    """One item at a time with three encodings, as SugarCrepe's own script: seconds for all items, and answers."""
    choice = task.questions[0]
    start, correct = time.perf_counter(), []
    for image, rows in zip(choice.image[:count], choice.options[:count], strict=True):
        pixels = model.preprocess(Image.open(task.images[image].file))
        features = F.normalize(model.clip.encode_image(pixels[None]), dim=-1)
        caption, negative = (
            (features * F.normalize(model.clip.encode_text(model.tokenizer([task.captions[row]])), dim=-1)).sum()
            for row in rows
        )
        correct.append(bool(caption > negative))
    return (time.perf_counter() - start) / count * len(choice.image), np.array(correct)


def sugarcrepe(folder):
    """Seconds of labclip from files to answers, and of the official loop."""
    with tempfile.TemporaryDirectory() as name:
        images = Path(name)
        data = folder or images
        if folder is None:
            write_files(images)
        draw_images(images, sorted({path.name for path in missing_images(data, images)}))
        model = LABCLIP.from_pretrained("scenes")
        start = time.perf_counter()
        task = BENCHMARKS["sugarcrepe"].read(Sources(data, images))
        features = encode(model, task.images, task.captions, progress=False)
        scores = task.questions[0].score(*features)[0]
        seconds = time.perf_counter() - start
        official_seconds, correct = official(model, task, LOOP_ITEMS)
        if differing := int((correct != scores.correct[:LOOP_ITEMS]).sum()):
            raise SystemExit(f"{differing} of {LOOP_ITEMS} answers differ from the official loop's.")
    return official_seconds / seconds, seconds, official_seconds


def missing_images(data, images):
    """The paths of images that the files of SugarCrepe name and that do not exist."""
    sources = Sources(data, images, "skip")
    try:
        BENCHMARKS["sugarcrepe"].read(sources)
    except FileNotFoundError:
        return sources.missing
    return []


def random_rows(n, seed, dim=512):
    """Unit-length float32 [n, dim]."""
    rows = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return rows.div_(rows.norm(dim=-1, keepdim=True))  # in place, for the peak of memory


def metrics_alone():
    """Seconds for all metrics of SugarCrepe and ARO, base and aligned, with intervals."""
    generator, questions = np.random.default_rng(0), []
    # Items, groups and images of SugarCrepe, VG-A, VG-R, and both orders of captions.
    for items, groups, count in ((ITEMS, 7, IMAGES), (28748, 117, 8000), (23937, 48, 8000), (18000, 1, 6000)):
        group = generator.integers(0, groups, items)
        options = np.stack([np.arange(items), np.arange(items) + items], axis=1)
        choice = Choice(generator.integers(0, count, items), options, {"macro": group, "micro": one_group(items)})
        questions.append((choice, random_rows(count, 1), random_rows(2 * items, 2)))
    start = time.perf_counter()
    for choice, images, texts in questions:
        for pair in zip(choice.score(images, texts), choice.score(images, texts.roll(1, 0)), strict=True):
            compare(pair)
    seconds = time.perf_counter() - start
    return seconds, seconds, None


def retrieval():
    """COCO's 5,000 x 25,000 in both directions, against the bare product."""
    images, texts, index = random_rows(5000, 0), random_rows(25000, 1), torch.arange(25000) // 5
    times = []
    for _ in range(7):
        start = time.perf_counter()
        texts @ images.T
        middle = time.perf_counter()
        metrics.ranks(images, texts, index)
        times.append((time.perf_counter() - middle, middle - start))
    seconds, product_seconds = (min(column) for column in zip(*times, strict=True))
    return seconds / product_seconds, seconds, product_seconds


def memory():
    """Peak gigabytes of a process that ranks 100,000 x 100,000, with Python, torch and embeddings."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--hundred-thousand"]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return peak, time.perf_counter() - start, None


def hundred_thousand():
    """Rank 100,000 x 100,000 and print the peak of memory."""
    images, texts = random_rows(100_000, 0), random_rows(100_000, 1)
    metrics.ranks(images, texts, torch.arange(100_000))
    # The peak of this process; that of getrusage would include memory of the process that started it.
    with open("/proc/self/status", encoding="ascii") as file:
        print(next(int(line.split()[1]) / 1e6 for line in file if line.startswith("VmHWM")))


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--sugarcrepe", type=Path, help="folder of SugarCrepe's seven files")
    parser.add_argument("--hundred-thousand", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hundred_thousand:
        hundred_thousand()
        return
    measurements = (
        ("SugarCrepe, one item at a time", "labclip evaluate", 5.0, lambda: sugarcrepe(arguments.sugarcrepe)),
        ("metrics of 78,196 items, 2 models", "seconds", 2.0, metrics_alone),
        ("R@k of 5,000 x 25,000, both ways", "its bare matrix product", 1.5, retrieval),
        ("R@k of 100,000 x 100,000, both ways", "gigabytes in all", 1.0, memory),
    )
    write(((what, against, aim, measure()) for what, against, aim, measure in measurements), arguments.json)


if __name__ == "__main__":
    main()
