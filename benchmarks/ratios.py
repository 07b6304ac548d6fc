"""What labclip costs and saves: ratios to the time of something else, both timed in turn.

    python benchmarks/ratios.py [--captions FILE.tsv] [--model ViT-B-32] [--json FILE]

Weights are random and of the real shape: neither times nor memory depend on their values. Captions come from a
tab-separated file with a column `title`, or are generated with the same lengths.
"""

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

from table import new_parser, write

COUNT = 256
WORDS = (
    "a", "the", "two", "small", "red", "blue", "man", "woman", "dog", "cat", "table", "sitting", "next", "to", "on"
)  # fmt: skip
LENGTHS = (8, 9, 9, 10, 10, 10, 11, 12, 14, 20)


def captions(path):
    """Captions from a file if given, else random words with the lengths of COCO's captions, 8 to 20 words."""
    if path is not None:
        with path.open(newline="", encoding="utf-8") as file:
            return [row["title"] for row in csv.DictReader(file, delimiter="\t")][:COUNT]
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.choice(LENGTHS))) for _ in range(COUNT)]


def in_turn(run, baseline, rounds):
    """The median ratio of run to baseline, and the median seconds of both. They take turns, after one warm-up."""
    times = []
    for turn in range(rounds + 1):
        seconds = {}
        for function in (run, baseline) if turn % 2 else (baseline, run):
            start = time.perf_counter()
            function()
            seconds[function] = time.perf_counter() - start
        if turn:
            times.append((seconds[run], seconds[baseline]))
    return ratio_of(*zip(*times, strict=True))


def ratio_of(seconds, baseline_seconds):
    """The median ratio of each round, and both medians."""
    ratios = (a / b for a, b in zip(seconds, baseline_seconds, strict=True))
    return tuple(map(statistics.median, (ratios, seconds, baseline_seconds)))


def model_rows(name, texts):
    """The rows that need one model in memory."""
    import open_clip
    import torch

    from labclip import LABCLIP, Alignment

    torch.manual_seed(0)
    clip = open_clip.create_model(name, load_weights=False).eval()
    dim = clip.text_projection.shape[1]
    tokenizer = open_clip.get_tokenizer(name)
    model = LABCLIP(clip, Alignment(torch.eye(dim) + torch.randn(dim, dim) / 10), tokenizer=tokenizer)
    folded, tokens = model.fold(), tokenizer(texts[:8])
    full = torch.randint(1, tokens.max(), tokens.shape)  # captions as long as the context, all different
    full[:, -1] = tokens.max()
    # One batch of the function. All thousand names are a hundred of these batches and take a hundred times as long.
    names, templates = open_clip.IMAGENET_CLASSNAMES[::100], open_clip.OPENAI_IMAGENET_TEMPLATES
    images, text_features = torch.randn(5000, dim), torch.randn(5000, dim)

    def similarity():
        return torch.nn.functional.normalize(images, dim=-1) @ torch.nn.functional.normalize(text_features, dim=-1).T

    def classifier(encoder):
        return lambda: open_clip.build_zero_shot_classifier(encoder, tokenizer, names, templates)

    # What is measured, the baseline, the aim, both functions, and the rounds.
    measurements = (
        ("encode_text(tokens), 8 of full length", "the wrapped model's", 1.02,
         lambda: model.encode_text(full), lambda: clip.encode_text(full), 40),
        ("similarity, 5k x 5k", "normalise and multiply", 1.02,
         lambda: model.similarity(images, text_features), similarity, 15),
        ("folded.encode_text(tokens), 8 captions", "the base's", 1.00,
         lambda: folded.encode_text(tokens), lambda: clip.encode_text(tokens), 40),
        (f"encode_text({len(texts)} captions)", "model.encode_text(tokenizer(texts))", 1 / 6,
         lambda: model.encode_text(texts, aligned=False), lambda: clip.encode_text(tokenizer(texts)), 3),
        (f"encode_text(tokenizer({len(texts)} captions))", "the wrapped model's", 1 / 6,
         lambda: model.encode_text(tokenizer(texts)), lambda: clip.encode_text(tokenizer(texts)), 3),
        (f"build_zero_shot_classifier, {len(names)} classes", "with the wrapped model", 1 / 12,
         classifier(model), classifier(clip), 2),
    )  # fmt: skip
    with torch.no_grad():
        for what, against, aim, run, baseline, rounds in measurements:
            yield what, against, aim, in_turn(run, baseline, rounds)
        short, long = model.encode_text(texts, True, aligned=False), clip.encode_text(tokenizer(texts), True)
    print(f"largest difference of a caption's embedding, short against full context: {(short - long).abs().max():.1e}")


# VmHWM, the peak, starts from zero in a new process. The peak of getrusage would include this process's memory.
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
    """The rows about loading a saved model, each load in a process of its own."""
    import open_clip

    from labclip import LABCLIP, Alignment

    with tempfile.TemporaryDirectory() as folder:
        clip = open_clip.create_model(name, load_weights=False).eval()
        identity = Alignment.identity(clip.text_projection.shape[1])
        LABCLIP(clip, identity, tokenizer=open_clip.get_tokenizer(name)).save_pretrained(folder, config=name)
        seconds, memory = {"labclip": [], "open_clip": []}, {"labclip": [], "open_clip": []}
        for turn in range(6):
            for package in seconds:
                command = [sys.executable, "-W", "ignore", "-c", _LOAD, package, folder]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                if turn:
                    for values, value in zip((seconds, memory), json.loads(output), strict=True):
                        values[package].append(value)
    yield "from_pretrained(folder)", "open_clip.create_model on the same file", 0.5, ratio_of(*seconds.values())
    peak, open_clip_peak = map(statistics.median, memory.values())
    yield "  its peak memory", f"the weights (open_clip {open_clip_peak:.2f})", 1.3, (peak, None, None)


def start_rows():
    """Seconds that a person waits."""

    def run(*arguments):
        return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    for label, arguments, aim in (
        ("import labclip", ("-c", "import labclip"), 0.1),
        ("labclip --help", ("-m", "labclip", "--help"), 0.3),
    ):
        _, seconds, python_seconds = in_turn(run(*arguments), run("-c", "pass"), 5)
        yield label, f"seconds, Python's own {python_seconds:.3f} included", aim, (seconds, None, None)


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--captions", type=Path, help="tab-separated file with a column 'title'")
    parser.add_argument("--model", default="ViT-B-32", help="OpenCLIP architecture")
    arguments = parser.parse_args()
    texts = captions(arguments.captions)
    logging.disable(logging.WARNING)  # OpenCLIP warns of random weights
    parts = (start_rows(), model_rows(arguments.model, texts), loading_rows(arguments.model))
    write(itertools.chain.from_iterable(parts), arguments.json)


if __name__ == "__main__":
    main()
