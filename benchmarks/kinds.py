"""Captions, parts and keywords in one fit: what each adds, and how often each text should be in it.

    python benchmarks/kinds.py [--rules] [--parts FOLDER] [--scenes 4000] [--seeds 1 2 3] [--json FILE]

The scenes are those of `labclip sample`, with the parts and keywords that `labclip embed --parts` makes of their
captions. Fits are measured by `labclip evaluate scenes`. FOLDER holds embeddings of photos, their captions and parts
(fit.safetensors: images, texts, negatives, has_negative, image_index, parts, part_negatives, part_image_index). 600
photos are held out of each fit to measure on, and 200 to select on. Without FOLDER only scenes are measured.

    1 : 2 : 1   each caption once, each part twice, each list of keywords once
    parts       the part has a higher cosine than its negative; on photos after the mean image's margin is subtracted
    whole truth the caption of both objects has a higher cosine than one of its parts
    search      mean average precision of the phrases that at least three photos have

With `--rules`, rules for the selection of strength and weights are compared instead. They differ in the weight of
`whole_truth` against captions and parts, and in the fraction of the base's whole truth that may be lost.
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from table import new_parser, save

import labclip
from labclip import metrics
from labclip.data.items import Kind
from labclip.training.frontier import frontier, gallery, select
from labclip.training.recipes import RECIPES
from labclip.training.rows import read_data
from labclip.training.splits import split

MIXTURES = ((1, 0, 0), (1, 1, 0), (2, 1, 0), (1, 2, 0), (1, 4, 0), (1, 1, 1), (1, 1, 2))
METRICS = {
    "captions": "binding", "unseen pairs": "binding_heldout", "parts": "part_swap",
    "parts, unseen": "part_swap_heldout", "whole truth": "whole_truth", "search": "search_map", "R@1": "t2i_r1",
    "R@1 of keywords": "tags_t2i_r1",
}  # fmt: skip
RULES = {
    "captions and parts": (0, 1),
    "and whole truth, a third": (1 / 3, 1),
    "and whole truth, a half": (1 / 2, 1),
    "with at most 1% of it lost": (0, 0.01),
}


def mixed(features, mixture):
    """Features with each caption, part and list of keywords as often as the three numbers of `mixture` say."""
    repeats = torch.tensor(mixture)[torch.as_tensor(np.array(features.kind)).long()]
    rows = torch.arange(len(repeats)).repeat_interleave(repeats).numpy()
    return labclip.Features.from_arrays(
        images=features.images, texts=features.texts[rows], negatives=features.negatives[rows],
        has_negative=features.has_negative[rows], image_index=features.image_index[rows], kind=features.kind[rows],
    )  # fmt: skip


def mixture_name(mixture):
    return " : ".join(map(str, mixture))


def embedded_scenes(model, count, seed, scratch):
    folder = Path(scratch, f"{count}-{seed}")
    captions = labclip.scenes.sample(count, seed=seed).save(folder)
    return labclip.embed(model, captions, folder / "features", parts=True, progress=False)


def measure(model, alignments):
    """The metrics of the base, and of each named list of alignments their means."""
    by_label = {f"{name}, {i}": one for name, group in alignments.items() for i, one in enumerate(group)}
    report = labclip.evaluate(model, "scenes", alignments=by_label, progress=False)["scenes"]
    table = {name: {} for name in ("base", *alignments)}
    for key, metric in METRICS.items():
        values = iter([estimate.value for estimate in report.metric(metric).estimates])
        table["base"][key] = next(values)
        for name, group in alignments.items():
            table[name][key] = statistics.mean(next(values) for _ in group)
    return table


def on_scenes(count, seeds):
    """The metrics of the base and of each mixture, means over seeds of the scenes and of the fit."""
    model, alignments = labclip.LABCLIP.from_pretrained("scenes"), {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            features = embedded_scenes(model, count, seed, scratch)
            for mixture in MIXTURES:
                alignment = labclip.fit(mixed(features, mixture), seed=seed, progress=False).alignment
                alignments.setdefault(mixture_name(mixture), []).append(alignment)
    return measure(model, alignments)


def select_by_rules(features, seed):
    """The alignment that each rule selects, from the strengths of all weights that the default recipe tries."""
    held_out = gallery(split(read_data(features), None, 0.1, seed)[1], seed=seed)  # the tenth that `fit` holds out
    parts = held_out.only(Kind.PART)
    parts = replace(parts, kind=torch.zeros_like(parts.kind))  # the frontier measures them as captions
    candidates = []  # alignment, point, smoothed binding of captions and parts, smoothed whole truth
    for weights in RECIPES["labclip"].candidates:
        result = labclip.fit(
            features, negative_weight=weights.negatives, distill=weights.distill, identity_penalty=weights.identity,
            seed=seed, progress=False,
        )  # fmt: skip
        matrix = result.alignment.fitted
        by_kind = (frontier({"validation": data}, matrix) for data in (held_out.only(Kind.CAPTION), parts))
        for point, of_captions, of_parts in zip(result.frontier, *by_kind, strict=True):
            total = of_captions.smoothed_binding + of_parts.smoothed_binding
            alignment = result.alignment.at(point.strength)
            candidates.append((alignment, point, total / 2, 3 * point.smoothed_binding - total))
    base = candidates[0][1].whole_truth
    alignments = {}
    for rule, (weight, loss) in RULES.items():
        allowed = [candidate for candidate in candidates if candidate[1].whole_truth >= (1 - loss) * base]
        points = [
            replace(
                point, smoothed_binding=(1 - weight) * binding + weight * whole_truth,
                whole_truth=point.whole_truth if weight else None,
            )
            for _, point, binding, whole_truth in allowed
        ]  # fmt: skip
        best = select(points)
        alignments[rule] = next(allowed[i][0] for i, point in enumerate(points) if point is best)
    return alignments


def rules_on_scenes(seeds):
    """The metrics of the base and of what each rule selects, by the number of captions, the mixture and the rule."""
    model, alignments = labclip.LABCLIP.from_pretrained("scenes"), {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in (4000, 1000):
            for seed in seeds:
                features = embedded_scenes(model, count, seed, scratch)
                for mixture in ((1, 1, 0), (1, 1, 1)):
                    for rule, alignment in select_by_rules(mixed(features, mixture), seed).items():
                        name = f"{count:,}; {mixture_name(mixture)}; {rule}"
                        alignments.setdefault(name, []).append(alignment)
    return measure(model, alignments)


class Photos:
    """Embeddings of photos, their captions and their parts."""

    def __init__(self, folder):
        self.arrays = {key: value.float() for key, value in load_file(folder / "fit.safetensors").items()}
        self.photo_of_caption, self.photo_of_part = (
            self.arrays[key].long() for key in ("image_index", "part_image_index")
        )

    def features(self, photos):
        """Features of these photos, with all of their captions and parts."""
        new_index = torch.full((len(self.arrays["images"]),), -1).index_copy(0, photos, torch.arange(len(photos)))
        captions, parts = (
            torch.isin(photo, photos).nonzero().flatten() for photo in (self.photo_of_caption, self.photo_of_part)
        )
        has_negative = self.arrays["has_negative"].flatten()[captions].bool()
        return labclip.Features.from_arrays(
            images=self.arrays["images"][photos],
            texts=torch.cat([self.arrays["texts"][captions], self.arrays["parts"][parts]]),
            negatives=torch.cat([self.arrays["negatives"][captions], self.arrays["part_negatives"][parts]]),
            has_negative=torch.cat([has_negative, torch.ones(len(parts), dtype=torch.bool)]),
            image_index=new_index[torch.cat([self.photo_of_caption[captions], self.photo_of_part[parts]])],
            kind=np.repeat([0, 1], [len(captions), len(parts)]),
        )

    def search_map(self, photos, alignment):
        """Mean average precision of the phrases that at least three of these photos have."""
        rows_of_phrase = {}
        for row in torch.isin(self.photo_of_part, photos).nonzero().flatten().tolist():
            rows_of_phrase.setdefault(self.arrays["parts"][row].numpy().tobytes(), []).append(row)
        images, precisions = metrics.unit_length(self.arrays["images"][photos], "photos"), []
        for rows in rows_of_phrase.values():
            is_right = torch.isin(photos, self.photo_of_part[rows])
            if is_right.sum() >= 3:
                order = (images @ alignment(self.arrays["parts"][rows[0]])).argsort(descending=True)
                ranks = is_right[order].nonzero().flatten() + 1
                precisions.append((torch.arange(1, len(ranks) + 1) / ranks).mean().item())
        return statistics.mean(precisions)


def on_photos(folder, seeds):
    """As `on_scenes`, on photos without keywords; the seed also draws the photos that are held out."""
    photos, rows = Photos(folder), {}
    for seed in seeds:
        order = torch.randperm(len(photos.arrays["images"]), generator=torch.Generator().manual_seed(seed))
        validation, test, fit = photos.features(order[:200]), order[200:800], photos.features(order[800:])
        test_data = read_data(photos.features(test))
        alignments = {"base": labclip.Alignment.identity(fit.dim).at(0.0)}
        for mixture in (mixture for mixture in MIXTURES if not mixture[2]):
            kinds = mixed(validation, [int(repeats > 0) for repeats in mixture])
            result = labclip.fit(mixed(fit, mixture), validation=kinds, seed=seed, progress=False)
            alignments[mixture_name(mixture)] = result.alignment
        for name, alignment in alignments.items():
            (point,) = frontier({"validation": test_data}, alignment.fitted, [alignment.strength])
            rows.setdefault(name, []).append({
                "captions": point.grounded, "captions, blind": point.blind, "parts": point.parts[2],
                "search": photos.search_map(test, alignment), "R@1": point.recalls["validation"][0],
            })  # fmt: skip
    return {
        name: {key: statistics.mean(row[key] for row in of_seeds) for key in of_seeds[0]}
        for name, of_seeds in rows.items()
    }


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--rules", action="store_true", help="compare rules of selection instead, on scenes")
    parser.add_argument("--parts", type=Path, help="folder of photos with parts")
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="not 0: it draws the test scenes")
    arguments = parser.parse_args()
    if arguments.rules:
        tables = {"scenes": rules_on_scenes(arguments.seeds)}
    else:
        tables = {"scenes": on_scenes(arguments.scenes, arguments.seeds)}
        if arguments.parts and (arguments.parts / "fit.safetensors").exists():
            tables["photos-parts"] = on_photos(arguments.parts, arguments.seeds)
    for dataset, table in tables.items():
        for name, row in table.items():
            print(f"{dataset:12} {name:10}", {key: round(value, 3) for key, value in row.items()})
    save(arguments.json, {"seeds": arguments.seeds, "tables": tables})


if __name__ == "__main__":
    main()
