"""What labclip costs and saves, as ratios to the time of something named, both timed in turn in one run.

    python benchmarks/ratios.py [--captions FILE.tsv] [--model ViT-B-32] [--json FILE]

Weights are random and of the real shape: neither times nor memory depend on their values. Captions come from a
tab-separated file with a column `title`, or are generated with the same lengths.
"""

import argparse
import csv
import itertools
import json
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import write

COUNT = 256
WORDS = [
    "a",
    "the",
    "two",
    "small",
    "red",
    "blue",
    "man",
    "woman",
    "dog",
    "cat",
    "table",
    "sitting",
    "next",
    "to",
    "on",
]


def captions(path):
    """Captions from a file if given, else random words with the lengths of COCO's captions, 8 to 20 words."""
    if path is not None:
        with path.open(newline="", encoding="utf-8") as file:
            return [row["title"] for row in csv.DictReader(file, delimiter="\t")][:COUNT]
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.choice((8, 9, 9, 10, 10, 10, 11, 12, 14, 20)))) for _ in range(COUNT)]


def in_turn(ours, other, rounds):
    """The median over rounds of ours / other, and both medians in seconds; the two take turns, after one warm-up."""
    times = []
    for turn in range(rounds + 1):
        pair = {}
        for run in (ours, other) if turn % 2 else (other, ours):
            start = time.perf_counter()
            run()
            pair[run] = time.perf_counter() - start
        if turn:
            times.append((pair[ours], pair[other]))
    ratio = statistics.median(one / two for one, two in times)
    return ratio, *(statistics.median(column) for column in zip(*times, strict=True))


def model_rows(name, texts):
    """Rows of the table that need one model in memory."""
    import open_clip
    import torch

    from labclip import LABCLIP, Alignment

    torch.manual_seed(0)
    clip = open_clip.create_model(name, load_weights=False).eval()
    dim = clip.text_projection.shape[1]
    tokenizer = open_clip.get_tokenizer(name)
    model = LABCLIP(clip, Alignment(torch.eye(dim) + torch.randn(dim, dim) / 10), tokenizer=tokenizer)
    folded, tokens = model.fold(), tokenizer(texts[:8])
    whole = torch.randint(1, tokens.max(), tokens.shape)  # captions of the context's length, no two alike
    whole[:, -1] = tokens.max()
    # One batch of the function: all thousand names are a hundred such batches, and take a hundred times as long.
    names, templates = open_clip.IMAGENET_CLASSNAMES[::100], open_clip.OPENAI_IMAGENET_TEMPLATES
    images, text_features = torch.randn(5000, dim), torch.randn(5000, dim)

    def plain_similarity():
        return torch.nn.functional.normalize(images, dim=-1) @ torch.nn.functional.normalize(text_features, dim=-1).T

    with torch.no_grad():
        yield (
            "encode_text(tokens), 8 of full length",
            "the wrapped model's",
            1.02,
            in_turn(lambda: model.encode_text(whole), lambda: clip.encode_text(whole), 40),
        )
        yield (
            "similarity, 5k x 5k",
            "normalise and multiply",
            1.02,
            in_turn(lambda: model.similarity(images, text_features), plain_similarity, 15),
        )
        yield (
            "folded.encode_text(tokens), 8 captions",
            "the base's",
            1.00,
            in_turn(lambda: folded.encode_text(tokens), lambda: clip.encode_text(tokens), 40),
        )
        yield (
            f"encode_text({len(texts)} captions)",
            "model.encode_text(tokenizer(texts))",
            1 / 6,
            in_turn(lambda: model.encode_text(texts, aligned=False), lambda: clip.encode_text(tokenizer(texts)), 3),
        )
        yield (
            f"encode_text(tokenizer({len(texts)} captions))",
            "the wrapped model's",
            1 / 6,
            in_turn(lambda: model.encode_text(tokenizer(texts)), lambda: clip.encode_text(tokenizer(texts)), 3),
        )
        yield (
            f"build_zero_shot_classifier, {len(names)} classes",
            "with the wrapped model",
            1 / 12,
            in_turn(
                lambda: open_clip.build_zero_shot_classifier(model, tokenizer, names, templates),
                lambda: open_clip.build_zero_shot_classifier(clip, tokenizer, names, templates),
                2,
            ),
        )
        apart = (model.encode_text(texts, True, aligned=False) - clip.encode_text(tokenizer(texts), True)).abs().max()
    print(f"largest difference of a caption's unit-length embedding, short against full: {apart:.1e}")


# The peak is VmHWM, which a new process starts from zero; getrusage's would include what this process holds.
_LOAD = """
import json, sys, time
import numpy, open_clip, torch, torchvision, labclip.towers.openclip
from labclip import LABCLIP
def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
before = memory("VmRSS")
start = time.perf_counter()
if sys.argv[1] == "labclip":
    model = LABCLIP.from_pretrained(sys.argv[2])
else:
    model = open_clip.create_model("local-dir:" + sys.argv[2])
seconds = time.perf_counter() - start
size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
print(json.dumps([seconds, (memory("VmHWM") - before) / size]))
"""


def loading_rows(name):
    """Rows about loading a saved model, each load in a process of its own."""
    import open_clip

    from labclip import LABCLIP, Alignment

    with tempfile.TemporaryDirectory() as folder:
        clip = open_clip.create_model(name, load_weights=False).eval()
        identity = Alignment.identity(clip.text_projection.shape[1])
        LABCLIP(clip, identity, tokenizer=open_clip.get_tokenizer(name)).save_pretrained(folder, config=name)
        seconds, memory = {"labclip": [], "open_clip": []}, {"labclip": [], "open_clip": []}
        for turn in range(6):
            for which in ("labclip", "open_clip"):
                command = [sys.executable, "-W", "ignore", "-c", _LOAD, which, folder]
                answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                if turn:
                    seconds[which].append(answer[0])
                    memory[which].append(answer[1])
    ratio = statistics.median(one / two for one, two in zip(*seconds.values(), strict=True))
    medians = [statistics.median(values) for values in seconds.values()]
    yield "from_pretrained(folder)", "open_clip.create_model on the same file", 0.5, (ratio, *medians)
    peak = statistics.median(memory["labclip"])
    yield (
        "  its peak memory",
        f"the weights (open_clip {statistics.median(memory['open_clip']):.2f})",
        1.3,
        (peak, None, None),
    )


def start_rows():
    """What a person waits for, in seconds."""
    for label, command, aim in (
        ("import labclip", [sys.executable, "-c", "import labclip"], 0.1),
        ("labclip --help", [sys.executable, "-m", "labclip", "--help"], 0.3),
    ):
        empty = [sys.executable, "-c", "pass"]

        def run(command):
            return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        _, ours, bare = in_turn(run(command), run(empty), 5)
        yield label, f"seconds, Python's own {bare:.3f} included", aim, (ours, None, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, help="tab-separated file with a column 'title'")
    parser.add_argument("--model", default="ViT-B-32", help="OpenCLIP architecture")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    texts = captions(arguments.captions)
    logging.disable(logging.WARNING)  # OpenCLIP says that random weights are random
    parts = (start_rows(), model_rows(arguments.model, texts), loading_rows(arguments.model))
    write(itertools.chain.from_iterable(parts), arguments.json)


if __name__ == "__main__":
    main()
