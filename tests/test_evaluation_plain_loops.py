"""Every benchmark against plain loops over whole numbers, written from its definition: nothing of `labclip.metrics`.

Embeddings are signs in 16 dimensions, captions' of several lengths, so that cosines are sixteenths: exact, and often
equal. Captions repeat, some are their own negatives, and some images are missing.
"""

import csv
import itertools
import json
import random
import zlib
from dataclasses import replace
from functools import cache, partial
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import SUBSETS, lay

from labclip import Alignment, Features, negatives
from labclip.evaluation import BENCHMARKS, Choice, Sources, TwoPositives
from labclip.evaluation.benchmarks.order import shuffles_of, tag_words
from labclip.evaluation.scene_files import labelled_scenes
from labclip.evaluation.tasks import score
from labclip.negatives.taggers import get_tagger
from labclip.scenes import COLOURS, SHAPES, sample
from labclip.scenes.vocabulary import HELD_OUT, VALIDATION

DIM = 16
SYMMETRIC = BENCHMARKS["vg-r"].read.args[0].symmetric
EIGHT = ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow")  # colours of CLEVR
WORDS = ("dog", "cat", "red", "old", "runs", "sits")


def length(caption):
    return random.Random(f"length {caption}").choice((1, 2))


@cache
def drawn(what):
    return random.Random(what).choices((-1, 1), k=DIM)


class World:
    """What a model makes of images and captions; `turn` is the place and the sign that each axis of a caption gets."""

    def __init__(self, turn=()):
        self.turn = turn
        self.is_base = not turn

    def image(self, name):
        return drawn(f"image {name}")

    def text(self, caption):
        plain = drawn(f"text {caption}")
        return [sign * plain[place] for place, sign in self.turn] if self.turn else plain

    def sees(self, image, caption):
        return sum(a * b for a, b in zip(self.image(image), self.text(caption), strict=True))

    def reads(self, caption, other):
        return sum(a * b for a, b in zip(self.text(caption), self.text(other), strict=True))

    def own_length(self):
        return OwnLength() if self.is_base else self


class OwnLength(World):
    """The base whose captions keep their length."""

    def sees(self, image, caption):
        return length(caption) * super().sees(image, caption)


class Controlled:
    """Another world with the mean of its other images in the place of each, or what each has more than that mean."""

    def __init__(self, world, images, control):
        self.world, self.images, self.control, self.totals = world, images, control, {}

    def __getattr__(self, name):
        return getattr(self.world, name)

    def sees(self, image, caption):
        if caption not in self.totals:
            self.totals[caption] = sum(self.world.sees(other, caption) for other in self.images)
        total, own = self.totals[caption], self.world.sees(image, caption)
        return total - own if self.control == "blind" else len(self.images) * own - total  # times the same number

    def own_length(self):
        return Controlled(self.world.own_length(), self.images, self.control)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def by_group(values, groups):
    """The mean of each group's mean."""
    return mean(mean(v for v, g in zip(values, groups, strict=True) if g == group) for group in dict.fromkeys(groups))


def say(rng):
    return " ".join(rng.choices(WORDS, k=3))


def other(rng, caption):
    """A negative, now and then the caption itself."""
    return caption if rng.random() < 0.15 else say(rng)


def there(folder, names, rng):
    """Makes all but some of the images, and says which."""
    names = sorted(names)
    lost = set(rng.sample(names, max(1, len(names) // 8)))
    for name in (name for name in names if name not in lost):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return {Path(name).name for name in names if name not in lost}


def right(world, image, true, wrong):
    return all(world.sees(image, true) > world.sees(image, caption) for caption in wrong)


def right_by_index(world, image, options, place):
    """`argmax`: the first of those that are highest."""
    seen = [world.sees(image, option) for option in options]
    return seen.index(max(seen)) == place


def ahead(seen, best, first, mine, rule):
    """How many of the others are nearer than the best of one's own, or as near; by index of these those before it."""
    return sum(
        cosine > best + 1e-6 or (abs(cosine - best) <= 1e-6 and (not rule or at < first))
        for at, cosine in enumerate(seen)
        if at not in mine
    )


def recall(world, shown, prefix="", texts=None):
    """Of [(image, its captions)]: all others that are nearer, or as near, count; by index only those before it."""
    texts = texts or [(caption, at) for at, (_, captions) in enumerate(shown) for caption in captions]
    metrics = {}
    for rule, k in itertools.product(("", "_index"), (1, 5, 10)):
        hits = []
        for caption, own in texts:
            seen = [world.sees(image, caption) for image, _ in shown]
            hits.append(ahead(seen, seen[own], own, {own}, rule) < k)
        metrics[f"{prefix}t2i_r{k}{rule}"] = mean(hits)
        hits = []
        for at, (image, captions) in enumerate(shown):
            mine = {number for number, (_, own) in enumerate(texts) if own == at}
            seen = [world.sees(image, caption) for caption, _ in texts]
            if captions:
                best = max(seen[number] for number in mine)
                hits.append(ahead(seen, best, min(n for n in mine if seen[n] == best), mine, rule) < k)
        metrics[f"{prefix}i2t_r{k}{rule}"] = mean(hits)
    return metrics


def gallery(world, pairs, prefix=""):
    """Retrieval with one image per distinct caption; a pair may say what captions that mean the same have in common."""
    captions_of = {}
    for image, caption, *meaning in pairs:
        captions_of.setdefault(image, {})[caption] = meaning[0] if meaning else caption
    kept, taken = [], set()
    for image, captions in captions_of.items():
        if not taken & set(captions.values()):
            taken |= set(captions.values())
            kept.append((image, list(captions)))
    return recall(world, kept, prefix) if len(kept) > 1 else {}


def pixels(image):
    return zlib.crc32(image.tobytes())


def dump(path, value):
    path.write_text(json.dumps(value))


def subset_means(hits, kinds, ending=""):
    """Of {subset: hits}: each, the unweighted means of those of a kind and of all, and the mean over items."""
    metrics = {f"{name}{ending}": mean(answers) for name, answers in hits.items()}
    for kind in kinds:
        metrics[f"{kind}{ending}"] = mean(mean(answers) for name, answers in hits.items() if name.startswith(kind))
    metrics[f"macro{ending}"] = mean(map(mean, hits.values()))
    return metrics | {f"micro{ending}": mean(itertools.chain(*hits.values()))}


def sugarcrepe(folder, rng):
    files = {}
    for name in SUBSETS:
        captions = [say(rng) for _ in range(14)]
        files[name] = {
            str(2 * n): {"filename": f"{rng.randrange(16)}.jpg", "caption": text, "negative_caption": other(rng, text)}
            for n, text in enumerate(captions)
        }
        dump(folder / f"{name}.json", files[name])
    images = there(folder, [f"{number}.jpg" for number in range(16)], rng)

    def expected(world):
        items = {n: [i for i in items.values() if i["filename"] in images] for n, items in files.items()}
        hits = {
            name: [right(world, i["filename"], i["caption"], [i["negative_caption"]]) for i in entries]
            for name, entries in items.items()
        }
        pairs = [(i["filename"], i["caption"]) for entries in items.values() for i in entries]
        return subset_means(hits, ("add", "replace", "swap")) | gallery(world, pairs)

    return {}, expected


def sugarcrepe_pp(folder, rng):
    files = {}
    for name in SUBSETS[2:]:
        files[name] = []
        for number in range(14):
            text, two = say(rng), say(rng)
            files[name].append({"id": number, "filename": f"{rng.randrange(16)}.jpg", "caption": text, "caption2": two,
                                "negative_caption": other(rng, rng.choice((text, two)))})  # fmt: skip
        dump(folder / f"{name}.json", files[name])
    images = there(folder, [f"{number}.jpg" for number in range(16)], rng)

    def expected(world):
        items = {n: [i for i in items if i["filename"] in images] for n, items in files.items()}
        itt, tot = {}, {}
        for name, entries in items.items():
            words = [(i["filename"], i["caption"], i["caption2"], i["negative_caption"]) for i in entries]
            itt[name] = [right(world, f, a, [no]) and right(world, f, b, [no]) for f, a, b, no in words]
            tot[name] = [
                world.reads(a, b) > world.reads(a, no) and world.reads(a, b) > world.reads(b, no)
                for _, a, b, no in words
            ]
        pairs = [(i["filename"], i[c]) for entries in items.values() for i in entries for c in ("caption", "caption2")]
        kinds = "replace", "swap"
        return subset_means(itt, kinds, "_itt") | subset_means(tot, kinds, "_tot") | gallery(world, pairs)

    return {}, expected


def visual_genome(file, key, groups):
    def build(folder, rng):
        items = []
        for number in range(90):
            true, group = say(rng), rng.choice(groups)
            box = dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), (rng.randrange(3), 0, 9, 9), strict=True))
            items.append({"image_path": f"{number % 20}.jpg", "true_caption": true, "false_caption": other(rng, true),
                          key: group, **box})  # fmt: skip
        dump(folder / file, items)
        images = there(folder, [f"{number}.jpg" for number in range(20)], rng)

        def expected(world):
            shown = [i for i in items if i["image_path"] in images]
            hits = [
                right(world, (i["image_path"], (i["bbox_x"], 0, 9, 9)), i["true_caption"], [i["false_caption"]])
                for i in shown
            ]
            named = [i[key] if isinstance(i[key], str) else "_".join(i[key]) for i in shown]
            enough = 25 if key == "attributes" else 1
            kept = [(hit, name) for hit, name in zip(hits, named, strict=True) if named.count(name) >= enough]
            metrics = {"micro": mean(hits), "macro": by_group(*zip(*kept, strict=True))}
            if key == "relation_name":
                metrics["macro_no_symmetric"] = by_group(*zip(*(p for p in kept if p[1] not in SYMMETRIC), strict=True))
            prefix = key.removesuffix("_name")
            parts = {name: mean(hit for hit, group in kept if group == name) for name in {name for _, name in kept}}
            return metrics | {f"{prefix}_{name}": value for name, value in parts.items()}

        return {"breakdown": True}, expected

    return build


def order(name):
    def build(folder, rng):
        entries, protocol = [{"image": "0.jpg", "caption": ["Dog."]}], rng.choice(("paper", "labclip"))
        for number in range(6):
            captions = [f"A {say(rng)} on the {say(rng)}." for _ in range(rng.choice((5, 6)))]
            entries.append({"image": f"{number}.jpg", "caption": captions})
        dump(folder / name, entries)
        images = there(folder, [f"{number}.jpg" for number in range(6)], rng)

        def expected(world):
            hits, first, pairs = [], [], []
            for image, raw in merged(entries, images):
                tag = partial(tag_words, get_tagger("hanta"))
                own, shuffled = shuffles_of(raw, tag, 0, **({"draws": 1} if protocol == "paper" else {}))
                others = list(dict.fromkeys(text for text in shuffled if text is not None))
                if others or protocol == "paper":
                    hits.append(right(world, image, own, others))
                    first.append(right_by_index(world, image, [own, *others], 0))
                    pairs.append((image, own))
            return {"accuracy": mean(hits), "accuracy_index": mean(first), **gallery(world, pairs)}

        return {"protocol": protocol, "tagger": "hanta"}, expected

    return build


def merged(entries, images):
    """Each image with each of its captions, the entries of one image together."""
    captions = {}
    for entry in entries:
        if Path(entry["image"]).name in images:
            captions.setdefault(Path(entry["image"]).name, []).extend(entry["caption"])
    return [(image, caption) for image, captions in captions.items() for caption in captions]


def two_and_two(file, entry, where, kinds=(), *, prompt="", retrieval=False):
    """Winoground's scores, of all and of each kind; `entry` is what the file says of an item."""

    def build(folder, rng):
        rows = []
        for number in range(1, 31):
            caption = say(rng)
            images, kind = [f"{2 * number - 1}.jpg", f"{2 * number}.jpg"], [rng.choice(names) for names in kinds]
            rows.append((number, images, [caption, other(rng, caption)], kind))
        content = [entry(*images, *captions, kind) for _, images, captions, kind in rows]
        lay(folder, {file: "".join(["Question ID,Type,Statement\n", *content]) if entry is mmvp else content})
        names = [where.format(name=name, kind=kind[0] if kind else "") for _, two, _, kind in rows for name in two]
        images = there(folder, names, rng) if where else None

        def expected(world):
            scored, pairs = [], []
            for number, (i, j), captions, kind in rows:
                c, d = (prompt + caption for caption in captions)
                if images is None:  # they are inside a table
                    i, j = (f"test-0.parquet row {number} {what}" for what in ("image", "negative_image"))
                if images is None or {i, j} <= images:
                    text = world.sees(i, c) > world.sees(i, d) and world.sees(j, d) > world.sees(j, c)
                    image = world.sees(i, c) > world.sees(j, c) and world.sees(j, d) > world.sees(i, d)
                    scored.append(({"", *kind}, {"text": text, "image": image, "group": text and image}))
                    pairs += [(i, c), (j, d)]
            metrics = {}
            for kind in {kind for several, _ in scored for kind in several} - {None}:
                for name in ("text", "image", "group"):
                    hits = [hit[name] for several, hit in scored if kind in several]
                    metrics[f"{kind}_{name}" if kind else name] = mean(hits)
            return metrics | (gallery(world, pairs) if retrieval else {})

        return {"breakdown": True} if entry is winoground else {}, expected

    return build


TAGS = ("collapsed_tag", "num_main_preds", "secondary_tag")


def winoground(i, j, c, d, kinds):
    tags = {tag: (kind or "").rpartition("_")[2] for tag, kind in zip(TAGS, kinds, strict=True)}
    return {"image_0": i, "image_1": j, "caption_0": c, "caption_1": d} | tags


def colorswap(i, j, c, d, kinds):
    return {"image_1": i, "image_2": j, "caption_1": c, "caption_2": d}


def bivlc(i, j, c, d, kinds):
    held = {"image": {"bytes": b"x"}, "negative_image": {"bytes": b"y"}}
    return held | {"caption": c, "negative_caption": d, "type": kinds[0]}


def cola(i, j, c, d, kinds):
    return [f"https://x/{i}", c, f"https://x/{j}", d]


def eqben(i, j, c, d, kinds):
    return {"image0": f"{kinds[0]}/{i}", "image1": f"{kinds[0]}/{j}", "caption0": c, "caption1": [d]}


def naturalbench(i, j, c, d, kinds):
    return {"image_0": i, "image_1": j, "caption_0": c, "caption_1": d}


def mmvp(i, j, c, d, kinds):
    return "".join(f"{image[:-4]},{kinds[0]},{caption}\n" for image, caption in ((i, c), (j, d)))


VALSE = (
    "existence", "plurals", "counting-hard", "counting-small-quant", "counting-adversarial", "relations",
    "action-replacement", "actant-swap", "coreference-standard", "coreference-hard", "foil-it",
)  # fmt: skip


def valse(folder, rng):
    files = {}
    for name in VALSE:
        captions = [say(rng) for _ in range(10)]
        files[name] = [(f"{rng.randrange(20)}.jpg", text, other(rng, text), rng.randrange(4)) for text in captions]
        items = [
            {"image_file": i, "caption": c, "foil": d, "mturk": {"caption": votes}} for i, c, d, votes in files[name]
        ]
        dump(folder / f"{name}.json", {f"{name}_{number}": item for number, item in enumerate(items)})
    images = there(folder, [f"{number}.jpg" for number in range(20)], rng)

    def expected(world):
        hits = {
            name.replace("-", "_"): [right(world, i, c, [d]) for i, c, d, votes in rows if votes >= 2 and i in images]
            for name, rows in files.items()
        }
        return subset_means({name: answers for name, answers in hits.items() if answers}, ())

    return {}, expected


def vl_checklist(folder, rng):
    names = {
        "Attribute/vg/color.json": ("attribute", "color_vg"),
        "Attribute/vaw/color.json": ("attribute", "color_vaw"),
        "Relation/swig/action.json": ("relation", "action_swig"),
    }
    files, limit = {}, rng.choice((0, 6))
    for name in names:
        captions = [say(rng) for _ in range(12)]
        files[name] = [(f"{rng.randrange(20)}.jpg", caption, other(rng, caption)) for caption in captions]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        dump(folder / name, [[i, {"POS": [c, "more"], "NEG": [d]}] for i, c, d in files[name]])
    images = there(folder, [f"{number}.jpg" for number in range(20)], rng)

    def expected(world):
        hits_of = {}
        for name, (aspect, kind) in names.items():
            hits = [right(world, i, c, [d]) for i, c, d in files[name] if i in images][: limit or None]
            hits_of.setdefault(aspect, []).append(mean(hits))
            hits_of.setdefault(f"{aspect}_{kind}", []).append(mean(hits))
        return {name: mean(values) for name, values in hits_of.items()}

    return {"limit": limit}, expected


def half_truths(folder, rng):
    entries, limit = [], rng.choice((0, 5))
    for number in range(30):
        first, other, wrong = (say(rng) for _ in range(3))
        foils = [{"negative": f"{kind} {wrong}", "change_type": f"{kind}_change"} for kind in ("entity", "object")]
        foils += [{"negative": "a", "change_type": "attribute_change"}] * rng.randrange(2)  # says nothing
        foils += [{"negative": f"Any {wrong}", "change_type": "attribute_change"}] * rng.randrange(3)
        turned = {"subject": first, "relation_type": "under", "object": other, "change_type": "antonym"}
        relation = {"subject": first, "relation_type": "On", "object": other, "negatives": [turned] * rng.randrange(2)}
        entries.append({
            "image_path": f"datasets/COCO/val2014/{number % 20}.jpg", "entities": [first, other],
            "negative_entities": {other: foils} if rng.random() < 0.8 else {}, "relations": [relation],
        })  # fmt: skip
    dump(folder / "coco_val.json", entries)
    images = there(folder, [f"val2014/{number}.jpg" for number in range(20)], rng)

    def expected(world):
        hits, counted = {}, {"entities": set(), "relations": set()}
        for entry in entries:
            image, (first, other) = Path(entry["image_path"]).name, entry["entities"]
            known = {}
            for foil in reversed(entry["negative_entities"].get(other, [])):
                if foil["negative"] != "a" and not foil["change_type"].startswith("entity"):
                    known[foil["change_type"].split("_")[0]] = foil["negative"].lower()
            antonym = {"antonym": f"{first} under {other}"} if entry["relations"][0]["negatives"] else {}
            related = {"swap": f"{other} on {first}"} | antonym
            related |= {"object": f"{first} on {known['object']}"} if known else {}
            if len(related) > 1 and "attribute" in known:
                related["attribute"] = f"{first} on {known['attribute']}"
            asked = {"entities": {kind: f"{first} and {foil}" for kind, foil in known.items()},
                     "relations": related if len(related) > 1 else {}}  # fmt: skip
            for what, foils in asked.items():
                if image in images and foils and image not in counted[what] and len(counted[what]) < (limit or 99):
                    counted[what].add(image)
                    whole = f"{first} {'and' if what == 'entities' else 'on'} {other}"
                    texts = [([f"whole_{what}"], whole, first)]
                    texts += [([what, f"{what}_{kind}"], first, foil) for kind, foil in foils.items()]
                    for names, true, false in texts:
                        for name in names:
                            hits.setdefault(name, []).append(right(world, image, true, [false]))
                            hits.setdefault(f"{name}_index", []).append(right_by_index(world, image, [true, false], 0))
        return {name: mean(several) for name, several in hits.items()}

    return {"limit": limit}, expected


def whatsup(folder, rng):
    places = {"a": ("left_of", "right_of", "on", "under"), "b": ("left_of", "right_of", "in-front_of", "behind")}
    files, names = {}, []
    for part, four in places.items():
        files[part] = []
        for two, place in itertools.product(range(8), four):
            name = f"{part}{two}_{place}_bowl.jpeg"
            captions = [say(rng) for _ in range(4)]
            if rng.random() < 0.2:
                captions[2] = captions[0]
            files[part].append({"image_path": f"data/x/{name}", "caption_options": captions})
            names.append(name)
    dump(folder / "controlled_images_dataset.json", files["a"])
    dump(folder / "controlled_clevr_dataset.json", files["b"])
    ways = {
        "coco_one": {"on the left": "left", "on the top": "top"},
        "coco_two": {"left of a cup": "left", "above a cup": "above", "below a cup": "below"},
        "vg_one": {"on the left": "left", "on the bottom": "bottom"},
        "vg_two": {"in front of a cup": "front", "behind a cup": "behind", "on top of it": "top"},
    }
    for part, several in ways.items():
        files[part] = []
        for number in range(20):
            way = rng.choice([*several])
            files[part].append([number, f"{say(rng)} {way}", f"{say(rng)} away"])
        dump(folder / f"{part.replace('_', '_qa_', 1)}_obj.json", files[part])
        names += [f"val2017/{n:012}.jpg" if "coco" in part else f"vg_images/{n}.jpg" for n in range(20)]
    images = there(folder, set(names), rng)

    def expected(world):
        metrics = {}
        for part in files:
            rows = []
            for item in files[part]:
                if part in places:
                    image, captions = Path(item["image_path"]).name, item["caption_options"]
                    where = next(place for place in places[part] if f"_{place}_" in image)
                else:
                    image = f"{item[0]:012}.jpg" if "coco" in part else f"{item[0]}.jpg"
                    captions = item[1:]
                    where = next(where for way, where in ways[part].items() if captions[0].endswith(way))
                if image in images:
                    hits = right(world, image, captions[0], captions[1:]), right_by_index(world, image, captions, 0)
                    rows.append((image, captions[0], where, hits))
            for at, rule in enumerate(("", "_index")):
                metrics[f"{part}{rule}"] = mean(row[3][at] for row in rows)
                for where in {row[2] for row in rows}:
                    metrics[f"{part}_preposition_{where}{rule}"] = mean(r[3][at] for r in rows if r[2] == where)
                if part in places:
                    hit = {row[0]: row[3][at] for row in rows}
                    for what, groups in (("pairs", (places[part][:2], places[part][2:])), ("sets", (places[part],))):
                        whole = [[f"{part}{n}_{p}_bowl.jpeg" for p in group] for n in range(8) for group in groups]
                        metrics[f"{part}_{what}{rule}"] = mean(
                            all(hit[row] for row in several) for several in whole if {*several} <= hit.keys()
                        )
            if part in places:
                metrics |= gallery(world, [row[:2] for row in rows], f"{part}_")
        return metrics

    return {"breakdown": True}, expected


def negation(file):
    def build(folder, rng):
        rows = []
        for number in range(60):
            captions = [say(rng) for _ in range(4)]
            place = rng.randrange(4)
            if rng.random() < 0.2:
                captions[rng.choice([at for at in range(4) if at != place])] = captions[place]
            kind = rng.choice(("positive", "negative", "hybrid"))
            rows.append((f"/data/authors/{number % 25}.jpg", *captions, place, kind))
        head = "image_path", *(f"caption_{n}" for n in range(4)), "correct_answer", "correct_answer_template"
        with (folder / file).open("w", newline="") as opened:
            csv.writer(opened).writerows([head, *rows])
        images = there(folder, [f"{number}.jpg" for number in range(25)], rng)

        def expected(world):
            shown = [(Path(row[0]).name, row[1:5], row[5], row[6]) for row in rows if Path(row[0]).name in images]
            hits = [
                (right(world, i, c[at], c[:at] + c[at + 1 :]), right_by_index(world, i, [c[at], *c], 0), kind)
                for i, c, at, kind in shown
            ]
            metrics = {}
            for which, rule in enumerate(("", "_index")):
                metrics[f"accuracy{rule}"] = mean(hit[which] for hit in hits)
                for kind in {hit[2] for hit in hits}:
                    metrics[f"{kind}{rule}"] = mean(hit[which] for hit in hits if hit[2] == kind)
            return metrics

        return {}, expected

    return build


def negated_retrieval(folder, rng):
    rows = [(f"/data/authors/{n}.jpg", [say(rng) for _ in range(rng.choice((1, 5)))]) for n in range(20)]
    with (folder / "COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows([("filepath", "captions"), *rows])
    images = there(folder, [f"{number}.jpg" for number in range(20)], rng)
    named = [(Path(path).name, captions) for path, captions in rows]
    return {}, lambda world: recall(world, [row for row in named if row[0] in images])


def karpathy(file):
    def build(folder, rng):
        entries = [
            {"image": f"{n}.jpg", "caption": [say(rng) for _ in range(rng.choice((5, 6, 7)))]} for n in range(15)
        ]
        entries.append({"image": "3.jpg", "caption": [say(rng)]})
        captions = rng.choice((0, 5))
        dump(folder / file, entries)
        images = there(folder, [f"{number}.jpg" for number in range(15)], rng)

        def expected(world):
            captions_of = {}
            for image, caption in merged(entries, images):
                captions_of.setdefault(image, []).append(caption)
            return recall(world, [(image, texts[: captions or None]) for image, texts in captions_of.items()])

        return {"captions": captions}, expected

    return build


def table(file):
    def build(folder, rng):
        rows = []
        for number in range(30):
            caption = say(rng)
            rows.append((f"{number % 18}.jpg", caption, [other(rng, caption) for _ in range(rng.choice((0, 1, 2)))]))
        if file.endswith(".csv"):
            with (folder / file).open("w", newline="") as opened:
                cells = [(image, text, *wrong, *[""] * (2 - len(wrong))) for image, text, wrong in rows]
                csv.writer(opened).writerows([("image", "caption", "negative", "negative_2"), *cells])
        else:
            lines = [f"{n}\t{text}\t{image}\t{wrong}" for n, (image, text, wrong) in enumerate(rows)]
            (folder / file).write_text("\n".join(["\ttitle\tfilepath\tneg_caption", *lines]))
        images = there(folder, [f"{number}.jpg" for number in range(18)], rng)

        def expected(world):
            shown = [(i, text, list(dict.fromkeys(wrong))) for i, text, wrong in rows if i in images]
            if file.endswith(".csv"):  # of one's own table such negatives are left out
                known = {(i, text) for i, text, _ in shown}
                shown = [(i, text, [foil for foil in wrong if (i, foil) not in known]) for i, text, wrong in shown]
            asked = [row for row in shown if row[2]]
            metrics = {
                "binding": mean(right(world, *row) for row in asked),
                "pairwise": mean(right(world, i, text, [negative]) for i, text, wrong in asked for negative in wrong),
            }
            return metrics | gallery(world, [row[:2] for row in shown])

        return {"data": folder / file}, expected

    return build


def zero_shot(folder, rng):
    names = [rng.choice(("ant", "bee", "elk", "fox", "owl", "cow", "hen")) for _ in range(9)]
    (folder / "names.txt").write_text("\n".join(names))
    (folder / "prompts.txt").write_text("a photo of a {}.\nthe {c}.\n")
    shown = [(f"{n}.jpg", rng.randrange(9)) for n in range(60)]
    for name, label in shown:
        (folder / "in" / f"class{label}").mkdir(parents=True, exist_ok=True)
        (folder / "in" / f"class{label}" / name).touch()
    for label in range(9):
        (folder / "in" / f"class{label}").mkdir(exist_ok=True)

    def expected(world):
        classes = []
        for name in names:
            prompts = world.text(f"a photo of a {name}."), world.text(f"the {name}.")
            total = [sum(axis) for axis in zip(*prompts, strict=True)]
            length = sqrt(sum(value * value for value in total)) or 1.0
            classes.append([value / length for value in total])
        metrics = {}
        for rule in ("", "_index"):
            ranks = []
            for image, label in shown:
                seen = [sum(a * b for a, b in zip(world.image(image), prompt, strict=True)) / 4 for prompt in classes]
                ranks.append(ahead(seen, seen[label], label, {label}, rule))
            metrics |= {f"acc{k}{rule}": mean(rank < k for rank in ranks) for k in (1, 5)}
            metrics[f"mean_per_class{rule}"] = by_group([rank < 1 for rank in ranks], [label for _, label in shown])
        return metrics

    options = {"classes": str(folder / "names.txt"), "templates": str(folder / "prompts.txt")}
    return {"data": folder / "in", **options}, expected


def synthetic(kind):
    def build(folder, rng):
        attributes = ("Red", "Blue", "Grey") if kind != "pug-spar" else ("Blue", "Red")
        things = ("ant", "bee", "cow", "doe")
        protocol, palette = rng.choice(("paper", "labclip")), attributes
        if kind == "clevr" and rng.random() < 0.5:  # its own: any of them may be in no image
            attributes, palette = ("red", "blue", "gray"), EIGHT
        scenes = []
        for _ in range(50):
            two = rng.sample(things, 2)
            shades = attributes if kind == "pug-spar" else [rng.choice(attributes) for _ in two]
            if kind == "pug-spare":
                shades = rng.sample(attributes, 2)
            scenes.append(tuple(zip(shades, two, strict=True)))
        if kind == "clevr":
            if protocol == "labclip":
                for n in range(2, 50, 2):
                    scenes[n] = tuple((rng.choice(attributes), rng.choice(things)) for _ in range(rng.randint(1, 5)))
            lines = [",".join([f"{n}.png", *(word for pair in scene for word in pair[::-1])])
                     for n, scene in enumerate(scenes)]  # fmt: skip
            (folder / "output_2obj.csv").write_text("\n".join(lines))
        else:
            head = "filename,world_name,character_name,character2_name,character_texture,character2_texture"
            blank = ["50.png,w,ant,blank,Blue,Default"] if kind == "pug-spar" else []
            lines = [f"{n}.png,w,{b},{d},{a},{c}" for n, ((a, b), (c, d)) in enumerate(scenes)]
            (folder / "labels.csv").write_text("\n".join([head, *lines, *blank]))
        images = there(folder, [f"{number}.png" for number in range(50)], rng)
        sort = protocol == "paper" and kind != "pug-spare"

        def caption(scene):
            return " and ".join(" ".join(pair) for pair in (sorted(scene) if sort else scene))

        def expected(world):
            shown = [(f"{n}.png", scene) for n, scene in enumerate(scenes) if f"{n}.png" in images]
            pairs = sorted({pair for _, scene in shown for pair in scene})
            parts = exact_parts(world, shown, sorted(palette), 42, "{} {}".format)
            parts |= exact_search(world, shown, pairs, "{} {}".format, 3)
            if kind == "clevr" and protocol == "paper":
                world = world.own_length()
            hits, first = [], []
            for image, scene in shown:
                swaps = [(i, j) for i, j in itertools.combinations(range(len(scene)), 2)
                         if scene[i][0] != scene[j][0] and scene[i][1] != scene[j][1]]  # fmt: skip
                for i, j in swaps[:1]:
                    other = list(scene)
                    other[i], other[j] = (scene[j][0], scene[i][1]), (scene[i][0], scene[j][1])
                    options = [caption(scene), caption(other)]
                    hits.append(right(world, image, options[0], options[1:]))
                    first.append(right_by_index(world, image, options, 0))
            metrics = {"binding": mean(hits), **parts}
            if protocol == "labclip":
                captioned = [(image, caption(scene), tuple(sorted(scene))) for image, scene in shown]
                return metrics | gallery(world, captioned)
            if kind == "clevr":
                metrics["binding_index"] = mean(first)
            together = {(scene[0][0], scene[1][0]) for scene in scenes}
            if kind == "clevr":  # any two colours
                together = set(itertools.product(palette, repeat=2))
            every = {
                caption(((shades[at], b), (shades[1 - at], d)))
                for shades, at in itertools.product(together, (0, 1))
                for b, d in itertools.permutations(things, 2)
            }
            for k in (1, 5, 10):
                metrics[f"i2t_r{k}"] = mean(
                    sum(world.sees(image, c) >= world.sees(image, caption(scene)) for c in every - {caption(scene)}) < k
                    for image, scene in shown
                )
            return metrics

        return {"protocol": protocol, "split": "all"}, expected

    return build


def noun(colour, shape):
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def exact_parts(world, shown, attributes, seed, say, ending="", asked=lambda pair: True):
    """Of [(image, its objects)]: each object once, with the next ones of another name in turn."""
    draw, hits = np.random.default_rng([seed, 0xF011]), {}
    for image, objects in shown:
        absent = [attribute for attribute in attributes if attribute not in dict(objects)]
        every = [pair for at, pair in enumerate(objects) if pair not in objects[:at]]
        for at, (attribute, name) in enumerate(every):
            foils = [absent[draw.integers(len(absent))]] if absent else []
            if not asked((attribute, name)):
                continue
            others = [pair for pair in (every + every)[at + 1 : at + len(every)] if pair[1] != name]
            swaps = [other for other, _ in others if say(other, name) not in {say(*pair) for pair in objects}]
            part = say(attribute, name)
            texts = [("part_swap", part, say(swap, name)) for swap in swaps[:1]]
            texts += [("part_foil", part, say(foil, name)) for foil in foils]
            texts += [("half_truth", part, f"{part} and {say(foil, others[0][1])}") for foil in foils if others]
            texts += [("whole_truth", f"{part} and {say(*others[0])}", part) for _ in foils if others]
            for metric, true, wrong in texts:
                hits.setdefault(f"{metric}{ending}", []).append(world.sees(image, true) > world.sees(image, wrong))
    return {metric: mean(values) for metric, values in hits.items()}


def search_values(seen):
    """Average precision, and right and confused of the top five, of one query's [(cosine, is right, is confused)]."""
    # Wrong images come first among equals.
    order = [true for _, true, _ in sorted(seen, key=lambda answer: (-answer[0], answer[1]))]
    ranks = [at + 1 for at, true in enumerate(order) if true]
    fifth = sorted((answer[0] for answer in seen), reverse=True)[:5][-1]
    confused = sum(answer[0] >= fifth and answer[2] for answer in seen)
    return {
        "search_map": mean((at + 1) / rank for at, rank in enumerate(ranks)),
        "search_p5": sum(rank <= 5 for rank in ranks) / 5,
        "search_confused5": min(confused, 5) / 5,
    }


def exact_search(world, shown, pairs, say, least, ending=lambda pair: ""):
    values = {}
    for pair in pairs:
        seen = []
        for image, objects in shown:
            attributes, nouns = zip(*objects, strict=True)
            both = pair[0] in attributes and pair[1] in nouns
            seen.append((world.sees(image, say(*pair)), pair in objects, both and pair not in objects))
        if sum(true for _, true, _ in seen) >= least and ending(pair) is not None:
            for name, value in search_values(seen).items():
                values.setdefault(f"{name}{ending(pair)}", []).append(value)
    return {name: mean(several) for name, several in values.items()}


def end_of_scenes(pair):
    table = COLOURS.index(pair[0]), SHAPES.index(pair[1])
    return "_heldout" if HELD_OUT[table] else None if VALIDATION[table] else ""


def parts_of_captions(folder, rng):
    rows = []
    for number in range(60):
        first, other = (f"{rng.choice(('red', 'blue', 'old'))} {rng.choice(('dog', 'cup', 'shirt'))}" for _ in range(2))
        rows.append((f"{number % 40}.jpg", f"A {first} and a {other} by the {rng.choice(('dog', 'shirt', 'bed'))}."))
    with (folder / "mine.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows([("image", "caption"), *rows])
    images = there(folder, {image for image, _ in rows}, rng)
    rows = [row for row in rows if row[0] in images]
    names, captions = map(list, zip(*rows, strict=True))
    phrases, words_of, wrong = {}, {}, {}
    for image, text, several in zip(names, captions, negatives.parts(captions, image_index=names, seed=3), strict=True):
        words_of.setdefault(image, set()).update(text.lower().replace(".", "").split())
        for part in several:  # "a red dog": two words behind the article
            phrases.setdefault(image, {}).setdefault(tuple(part.text.split()[-2:]), part.text)
            wrong.setdefault((image, part.text), {}).setdefault(part.kind, part.negative)
    for image, several in phrases.items():
        own = [text for name, text in rows if name == image]
        for text in several.values():  # behind the image's own captions, alone: nothing to swap with
            (part,) = negatives.parts([*own, *several.values(), text], image_index=[0] * (len(own) + len(several) + 1),
                                      seed=3)[-1]  # fmt: skip
            assert (part.kind, part.text) == ("foil", text)
            assert part.negative.split()[-2] not in words_of[image]
            wrong[image, text]["foil"] = part.negative

    def expected(world):
        hits, queries = {}, {}
        for image, several in phrases.items():
            every = list(several)
            for at, phrase in enumerate(every):
                sees, text = partial(world.sees, image), several[phrase]
                queries.setdefault(phrase, []).append((image, text))
                for kind, negative in wrong[image, text].items():
                    hits.setdefault(f"part_{kind}", []).append(sees(text) > sees(negative))
                others = [several[words] for words in every[at:] + every[:at] if words[1] != phrase[1]]
                if others:
                    half, whole = f"{text} and {wrong[image, others[0]]['foil']}", f"{text} and {others[0]}"
                    hits.setdefault("half_truth", []).append(sees(text) > sees(half))
                    hits.setdefault("whole_truth", []).append(sees(whole) > sees(text))
        for phrase, having in queries.items():
            if len(having) >= 3:
                names, seen = {image for image, _ in having}, []
                for image, words in words_of.items():
                    bound = any(word == phrase[0] and name != phrase[1] for word, name in phrases.get(image, {}))
                    confused = image not in names and {*phrase} <= words and bound
                    seen.append((world.sees(image, having[0][1]), image in names, confused))
                for name, value in search_values(seen).items():
                    hits.setdefault(name, []).append(value)
        return {name: mean(several) for name, several in hits.items()}

    return {"data": folder / "mine.csv", "seed": 3}, expected


def scenes(folder, rng):
    n, seed = 25, rng.randrange(100)

    def expected(world):
        metrics = {}
        for split, metric in (("seen", "binding"), ("heldout", "binding_heldout")):
            drawn = labelled_scenes(n, seed=seed, split=split)
            words = zip(drawn.images, drawn.captions, drawn.swapped, strict=True)
            metrics[metric] = mean(right(world, pixels(image.data), own, [swapped]) for image, own, swapped in words)
            shown, ending = [pixels(image.data) for image in drawn.images], metric.removeprefix("binding")
            own = partial(lambda ending, pair: end_of_scenes(pair) == ending, ending)
            shown = list(zip(shown, drawn.objects, strict=True))
            metrics |= exact_parts(world, shown, COLOURS, seed, noun, ending, own)
        whole = sample(n, seed=seed, split="all")
        names = list(map(pixels, whole.images))
        bags = [tuple(sorted(word for pair in objects for word in pair)) for objects in whole.objects]
        for prefix, texts in (("", whole.captions), ("tags_", whole.tags)):
            metrics |= gallery(world, zip(names, texts, bags, strict=True), prefix)
        shown, pairs = list(zip(names, whole.objects, strict=True)), itertools.product(COLOURS, SHAPES)
        metrics |= exact_search(world, shown, pairs, noun, 1, end_of_scenes)
        singles = labelled_scenes(n, seed=seed, split="all", n_objects=1)
        classes = list(itertools.product(COLOURS, SHAPES))
        prompts = [noun(colour, shape) for colour, shape in classes]
        for rule in ("", "_index"):
            labels, ranks = [classes.index(objects[0]) for objects in singles.objects], []
            for image, own in zip(singles.images, labels, strict=True):
                seen = [world.sees(pixels(image.data), prompt) for prompt in prompts]
                ranks.append(ahead(seen, seen[own], own, {own}, rule))
            metrics |= {f"one_object_acc{k}{rule}": mean(rank < k for rank in ranks) for k in (1, 5)}
            metrics[f"one_object_mean_per_class{rule}"] = by_group([rank < 1 for rank in ranks], labels)
        return metrics

    return {"data": None, "n": n, "seed": seed}, expected


def features(folder, rng):
    world = World()
    texts = [say(rng) for _ in range(24)]
    image_index = [rng.randrange(12) for _ in texts]
    negatives = [[other(rng, text) if rng.random() < 0.7 else None for _ in range(2)] for text in texts]
    rows = [[world.text(text or "") for text in two] for two in negatives]
    features = Features.from_arrays(
        images=np.float32([world.image(f"image {n}") for n in range(12)]),
        texts=np.float32([world.text(text) for text in texts]),
        negatives=np.float32(rows),
        has_negative=np.array([[negative is not None for negative in two] for two in negatives]),
        image_index=np.array(image_index),
    )

    def expected(world):
        asked = [
            (f"image {at}", text, [negative for negative in two if negative is not None])
            for at, text, two in zip(image_index, texts, negatives, strict=True)
        ]
        pairs = list(zip(texts, image_index, strict=True))
        shown = [(f"image {n}", [text for text, at in pairs if at == n]) for n in range(12)]
        metrics = {"binding": mean(right(world, *item) for item in asked if item[2])}
        return metrics | recall(world, shown, texts=pairs)

    return {"features": features}, expected


WINOGROUND = [(TAGS[0], "Object", "Both"), (TAGS[1], 1, 2), (TAGS[2], "Series", "Symbolic")]
RELATIONS = ("on", "behind", "near", "wearing")
PAIRS = (*[["red", "old"]] * 3, *[["old", "red"]] * 2, ["big", "old"])  # of the last there are too few
CASES = {
    "scenes": scenes,
    "clevr": synthetic("clevr"),
    "pug-spar": synthetic("pug-spar"),
    "pug-spare": synthetic("pug-spare"),
    "sugarcrepe": sugarcrepe,
    "sugarcrepe-pp": sugarcrepe_pp,
    "vg-a": visual_genome("visual_genome_attribution.json", "attributes", PAIRS),
    "vg-r": visual_genome("visual_genome_relation.json", "relation_name", RELATIONS),
    "coco-order": order("coco_karpathy_test.json"),
    "flickr30k-order": order("flickr30k_test.json"),
    "winoground": two_and_two(
        "data/examples.jsonl",
        winoground,
        "data/images/{name}",
        [(f"{tag}_{first}", f"{tag}_{two}", None) for tag, first, two in WINOGROUND],
        retrieval=True,
    ),
    "colorswap": two_and_two("test.json", colorswap, "images/{name}", retrieval=True),
    "half-truths": half_truths,
    "whatsup": whatsup,
    "negation": negation("COCO_val_mcq_llama3.1_rephrased.csv"),
    "negation-voc": negation("VOC2007_mcq_llama3.1_rephrased.csv"),
    "negation-retrieval": negated_retrieval,
    "coco-negatives": table("valid_neg_clip.tsv"),
    "coco": karpathy("coco_karpathy_test.json"),
    "flickr30k": karpathy("flickr30k_test.json"),
    "zero-shot": zero_shot,
    "csv": table("mine.csv"),
    "features": features,
    "parts": parts_of_captions,
    "bivlc": two_and_two("test-0.parquet", bivlc, "", [("REPLACE", "SWAP")]),
    "cola": two_and_two("COLA_multiobjects_matching_benchmark.json", cola, "images/{name}"),
    "eqben": two_and_two("all_select.json", eqben, "{kind}/{name}", [("eqbenag", "eqbensd")]),
    "mmvp-vlm": two_and_two(
        "Questions.csv", mmvp, "MLLM_VLM Images/{kind}/{name}", [("quantity", "text")], prompt="a photo of "
    ),
    "naturalbench": two_and_two("metadata.json", naturalbench, "images/{name}"),
    "valse": valse,
    "vl-checklist": vl_checklist,
}


def test_every_benchmark_has_a_plain_loop():
    assert set(BENCHMARKS) <= set(CASES)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
@pytest.mark.parametrize("name", [name for name in CASES if name in BENCHMARKS])
def test_a_benchmark_is_its_plain_loop(tmp_path, name, seed):
    rng = random.Random(f"{name} {seed}")
    options, expected = CASES[name](tmp_path, rng)
    given = options.pop("features", None)
    data = None if given is not None else options.pop("data", tmp_path)
    images = tmp_path if "negation" in name else None
    task = BENCHMARKS[name].read(Sources(data, images, "skip", features=given), **options)
    turn = list(zip(rng.sample(range(DIM), DIM), rng.choices((-1, 1), k=DIM), strict=True))
    matrix = torch.zeros(DIM, DIM)
    for row, (place, sign) in enumerate(turn):
        matrix[row, place] = sign
    if task.embedded is None:
        world = World()
        shown = [Path(image.name).name if image.data is None else pixels(image.data) for image in task.images]
        keys = [key if image.box is None else (key, image.box) for key, image in zip(shown, task.images, strict=True)]
        seen = torch.tensor([world.image(key) for key in keys], dtype=torch.float32)
        rows = [[length(caption) * value for value in world.text(caption)] for caption in task.captions]
        read = torch.tensor(rows, dtype=torch.float32)
    else:
        seen, read = task.embedded.images, task.embedded.texts
        keys = [f"image {number}" for number in range(len(seen))]
    every = score(task, seen, read, [Alignment(matrix)], ties="index")
    for model, world in enumerate((World(), World(turn))):
        scored = [(metric, scored[model]) for scored in every for metric in scored[model].metrics]
        measured = {metric: items.value(metric) for metric, items in scored if items.count(metric)}
        controls = {
            f"{metric}_{name}": replace(items, correct=right).value(metric)
            for metric, items in scored
            for name, right in items.controls.items()
        }
        assert measured == pytest.approx(expected(world), abs=1e-12)
        for control in ("blind", "grounded"):
            values = expected(Controlled(world, keys, control))
            wanted = {f"{metric}_{control}": values[metric] for metric in _controlled(task.questions)}
            assert {name: controls.pop(name) for name in wanted} == pytest.approx(wanted, abs=1e-12)
        assert not controls


def _controlled(questions):
    """The metrics that let one image choose among captions."""
    for question in questions:
        if isinstance(question, Choice):
            yield from question.metrics
        elif isinstance(question, TwoPositives):
            yield from (f"{name}_itt" for name in question.metrics)
