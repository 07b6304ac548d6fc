"""Captions a second on one core that negatives are made for, and of how many captions none exist.

    python benchmarks/negatives.py [--captions FILE] [--json FILE]

FILE is anything that `labclip.negatives.read` reads; without it captions are generated in the manner of COCO's.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from labclip.negatives import RELATIONS, Shuffler, add, read, shuffle, swap

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "gray", "black")
OBJECTS = ("man", "woman", "child", "dog", "cat", "horse", "table", "bus", "bench", "umbrella", "kitchen", "skateboard")
ADJECTIVES = (*COLOURS, "small", "large", "old", "young", "wooden", "empty")
VERBS = ("sitting", "standing", "riding", "holding", "looking", "walking")
PLACES = ("next to", "on top of", "in front of", "to the left of", "near", "with")


def generated(count):
    """Sentences of 9 to 16 words, most of them different."""
    draw = random.Random(0)

    def phrase():
        adjective = f"{draw.choice(ADJECTIVES)} " if draw.random() < 0.5 else ""
        return f"{draw.choice(('a', 'the', 'two'))} {adjective}{draw.choice(OBJECTS)}"

    return [
        f"{phrase()} {draw.choice(VERBS)} {draw.choice(PLACES)} {phrase()} and {phrase()}.".capitalize()
        for _ in range(count)
    ]


def seconds(run):
    """The least processor time of three runs, and what the last gave."""
    times = []
    for _ in range(3):
        start = time.process_time()
        result = run()
        times.append(time.process_time() - start)
    return min(times), result


def rows(captions):
    """What was done, captions a second, captions without a negative, and the aim if there is one."""
    attributes = [*COLOURS, *RELATIONS.items()]
    took, found = seconds(lambda: shuffle(captions))
    yield "shuffle", len(captions) / took, found.count(None), 1000
    took, many = seconds(lambda: shuffle(captions, k=4))
    yield "shuffle, k=4", len(captions) / took, many.count([]), None
    took, found = seconds(lambda: swap(captions, attributes))
    yield "swap, colours and relations", len(captions) / took, found.count(None), None
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        path.write_text("".join(json.dumps({"image": i, "caption": c}) + "\n" for i, c in enumerate(captions)))
        took, counts = seconds(lambda: add(path, out, Shuffler(), force=True))
        yield "shuffle, jsonl to jsonl", len(captions) / took, counts.captions - counts.with_negative, 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, help="a csv, tsv, jsonl, json, parquet or txt file")
    parser.add_argument("--count", type=int, default=5000, help="captions to generate where no file is given")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    source = arguments.captions
    captions = [caption for item in read(source) for caption in item.captions] if source else generated(arguments.count)
    shuffle(captions[:1])  # loads the tagger
    table = []
    print(f"{len(captions)} captions {f'from {source.name}' if source else 'generated'}, on one core")
    print(f"{'':28} {'captions/s':>10} {'aim':>6} {'none exists':>12}")
    for what, rate, without, aim in rows(captions):
        print(f"{what:28} {rate:10,.0f} {f'{aim:,}' if aim else '':>6} {without:12}", flush=True)
        table.append({"what": what, "rate": rate, "aim": aim, "without": without, "captions": len(captions)})
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
