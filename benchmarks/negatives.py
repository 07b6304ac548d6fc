"""How many captions per second get negatives on one core, and how many captions have none.

    python benchmarks/negatives.py [--captions FILE] [--json FILE]

FILE is anything that `labclip.negatives.read` reads. Without it, captions like those of COCO are generated.
"""

import json
import random
import tempfile
import time
from pathlib import Path

from table import new_parser, save

from labclip.negatives import RELATIONS, Shuffler, add, read, shuffle, swap

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "gray", "black")
OBJECTS = ("man", "woman", "child", "dog", "cat", "horse", "table", "bus", "bench", "umbrella", "kitchen", "skateboard")
ADJECTIVES = (*COLOURS, "small", "large", "old", "young", "wooden", "empty")
VERBS = ("sitting", "standing", "riding", "holding", "looking", "walking")
PLACES = ("next to", "on top of", "in front of", "to the left of", "near", "with")


def generate_captions(count):
    """Sentences of 9 to 16 words, most of them different."""
    generator = random.Random(0)

    def phrase():
        adjective = f"{generator.choice(ADJECTIVES)} " if generator.random() < 0.5 else ""
        return f"{generator.choice(('a', 'the', 'two'))} {adjective}{generator.choice(OBJECTS)}"

    return [
        f"{phrase()} {generator.choice(VERBS)} {generator.choice(PLACES)} {phrase()} and {phrase()}.".capitalize()
        for _ in range(count)
    ]


def run_three_times(run):
    """The shortest processor time of three runs in seconds, and the last result."""
    times = []
    for _ in range(3):
        start = time.process_time()
        result = run()
        times.append(time.process_time() - start)
    return min(times), result


def rows(captions):
    """The name of each run, captions per second, captions without a negative, and the aim if there is one."""
    attributes = [*COLOURS, *RELATIONS.items()]
    seconds, negatives = run_three_times(lambda: shuffle(captions))
    yield "shuffle", len(captions) / seconds, negatives.count(None), 1000
    seconds, lists = run_three_times(lambda: shuffle(captions, k=4))
    yield "shuffle, k=4", len(captions) / seconds, lists.count([]), None
    seconds, negatives = run_three_times(lambda: swap(captions, attributes))
    yield "swap, colours and relations", len(captions) / seconds, negatives.count(None), None
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        path.write_text("".join(json.dumps({"image": i, "caption": c}) + "\n" for i, c in enumerate(captions)))
        seconds, counts = run_three_times(lambda: add(path, out, Shuffler(), force=True))
        yield "shuffle, jsonl to jsonl", len(captions) / seconds, counts.captions - counts.with_negative, 1000


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--captions", type=Path, help="a csv, tsv, jsonl, json, parquet or txt file")
    parser.add_argument("--count", type=int, default=5000, help="captions to generate if no file is given")
    arguments = parser.parse_args()
    source = arguments.captions
    if source:
        captions = [caption for item in read(source) for caption in item.captions]
    else:
        captions = generate_captions(arguments.count)
    shuffle(captions[:1])  # loads the tagger
    table = []
    print(f"{len(captions)} captions {f'from {source.name}' if source else 'generated'}, on one core")
    print(f"{'':28} {'captions/s':>10} {'aim':>6} {'none exists':>12}")
    for name, rate, without, aim in rows(captions):
        print(f"{name:28} {rate:10,.0f} {f'{aim:,}' if aim else '':>6} {without:12}", flush=True)
        table.append({"what": name, "rate": rate, "aim": aim, "without": without, "captions": len(captions)})
    save(arguments.json, table)


if __name__ == "__main__":
    main()
