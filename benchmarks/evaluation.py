"""How fast benchmarks are asked: SugarCrepe against the official loop's way, metrics alone, retrieval and its memory.

    python benchmarks/evaluation.py [--sugarcrepe DIR] [--json FILE]

Items are of SugarCrepe's number and kind; with --sugarcrepe they are its own. Images are drawn here. The model is the
embedded one. The official loop takes one item at a time and encodes its image, its caption and its negative at the
full context; both sides must come to the same answers. Random embeddings of ViT-B-32's width serve for the rest.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from table import write
from torch.nn import functional as F

from labclip import LABCLIP, metrics, scenes
from labclip.evaluation import BENCHMARKS, Choice, Sources
from labclip.evaluation.scores import compare, one_group
from labclip.features.cache import encode

ITEMS, IMAGES = 7511, 1560  # SugarCrepe's
LOOP_ITEMS = 400  # of the official loop, whose time is the same for every item


def draw_images(folder, names):
    """JPEGs of COCO's size."""
    drawn = scenes.sample(min(len(names), 64), seed=0).render(64)
    for place, name in enumerate(names):
        image = Image.fromarray(drawn[place % len(drawn)]).resize((640, 480))
        image.putpixel((place % 640, place // 640), (255, 255, 255))  # none is another's copy
        image.save(folder / name, quality=90)


def own_files(folder):
    """SugarCrepe's seven files with captions of scenes: the same number of items an image."""
    import json

    drawn = scenes.sample(ITEMS, seed=1)
    sizes = dict(zip(("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"),
                     (692, 2062, 788, 1652, 1406, 666, 245), strict=True))  # fmt: skip
    row = 0
    for name, size in sizes.items():
        items = {}
        for key in range(size):
            items[str(key)] = {
                "filename": f"{row % IMAGES:012}.jpg",
                "caption": drawn.captions[row],
                "negative_caption": drawn.swapped_captions[row],
            }
            row += 1
        (folder / f"{name}.json").write_text(json.dumps(items))


@torch.no_grad()
def official(model, task, count):
    """One item at a time, three encodings, as SugarCrepe's own script does it; seconds for all items, and answers."""
    choice = task.questions[0]
    start, right = time.perf_counter(), []
    for image, (caption, negative) in zip(choice.image[:count], choice.options[:count], strict=True):
        shown = Image.open(task.images[image].file)
        features = F.normalize(model.clip.encode_image(model.preprocess(shown)[None]), dim=-1)
        scores = [
            (features * F.normalize(model.clip.encode_text(model.tokenizer([task.captions[row]])), dim=-1)).sum()
            for row in (caption, negative)
        ]
        right.append(bool(scores[0] > scores[1]))
    return (time.perf_counter() - start) / count * len(choice.image), np.array(right)


def sugarcrepe(folder):
    """Seconds of labclip from files to answers, and of the official way."""
    with tempfile.TemporaryDirectory() as name:
        images = Path(name)
        data = folder or images
        if folder is None:
            own_files(images)
        needed = {path.name for path in _missing(data, images)}
        draw_images(images, sorted(needed))
        model = LABCLIP.from_pretrained("scenes")
        start = time.perf_counter()
        task = BENCHMARKS["sugarcrepe"].read(Sources(data, images))
        features = encode(model, task.images, task.captions, progress=False)
        scores = task.questions[0].score(*features)[0]
        ours = time.perf_counter() - start
        theirs, right = official(model, task, LOOP_ITEMS)
        different = int((right != scores.correct[:LOOP_ITEMS]).sum())
        if different:
            raise SystemExit(f"{different} of {LOOP_ITEMS} answers differ from the official loop's.")
    return theirs / ours, ours, theirs


def _missing(data, images):
    sources = Sources(data, images, "skip")
    try:
        BENCHMARKS["sugarcrepe"].read(sources)
    except FileNotFoundError:
        return sources.missing
    return []


def rows(n, seed, dim=512):
    drawn = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return drawn.div_(drawn.norm(dim=-1, keepdim=True))


def metrics_alone():
    """Seconds for all metrics of SugarCrepe and ARO (VG-A, VG-R), base and aligned, with intervals."""
    draw = np.random.default_rng(0)
    parts = (("sugarcrepe", ITEMS, 7, IMAGES), ("vg-a", 28748, 117, 8000), ("vg-r", 23937, 48, 8000),
             ("orders", 18000, 1, 6000))  # fmt: skip
    asked = []
    for _, items, groups, count in parts:
        group = draw.integers(0, groups, items)
        options = np.stack([np.arange(items), np.arange(items) + items], axis=1)
        asked.append((Choice(draw.integers(0, count, items), options, {"macro": group, "micro": one_group(items)}),
                      rows(count, 1), rows(2 * items, 2)))  # fmt: skip
    start = time.perf_counter()
    for choice, images, texts in asked:
        base, aligned = choice.score(images, texts), choice.score(images, texts.roll(1, 0))
        for both in zip(base, aligned, strict=True):
            compare(both)
    seconds = time.perf_counter() - start
    return seconds, seconds, None


def retrieval():
    """COCO's 5,000 x 25,000 in both directions against its bare product."""
    images, texts, index = rows(5000, 0), rows(25000, 1), torch.arange(25000) // 5
    found = []
    for _ in range(7):
        start = time.perf_counter()
        texts @ images.T
        middle = time.perf_counter()
        metrics.ranks(images, texts, index)
        found.append((time.perf_counter() - middle, middle - start))
    ours, theirs = (min(column) for column in zip(*found, strict=True))
    return ours / theirs, ours, theirs


def memory():
    """Gigabytes of a process of its own that ranks 100,000 x 100,000, Python, torch and embeddings included."""
    start = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, __file__, "--hundred-thousand"], check=True, capture_output=True, text=True
    )
    return float(answer.stdout), time.perf_counter() - start, None


def hundred_thousand():
    images, texts = rows(100_000, 0), rows(100_000, 1)
    metrics.ranks(images, texts, torch.arange(100_000))
    # The peak of this process alone; getrusage's would carry over what the one that started it held.
    with open("/proc/self/status", encoding="ascii") as file:
        print(next(int(line.split()[1]) / 1e6 for line in file if line.startswith("VmHWM")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sugarcrepe", type=Path, help="folder of SugarCrepe's seven files")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    parser.add_argument("--hundred-thousand", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hundred_thousand:
        return hundred_thousand()
    return write(
        (
            (what, against, aim, measure())
            for what, against, aim, measure in (
                ("SugarCrepe, one item at a time", "labclip evaluate", 5.0, lambda: sugarcrepe(arguments.sugarcrepe)),
                ("metrics of 78,196 items, 2 models", "seconds", 2.0, metrics_alone),
                ("R@k of 5,000 x 25,000, both ways", "its bare matrix product", 1.5, retrieval),
                ("R@k of 100,000 x 100,000, both ways", "gigabytes in all", 1.0, memory),
            )
        ),
        arguments.json,
    )


if __name__ == "__main__":
    main()
