"""Does a gain need the image? Binding, blind and grounded, of each recipe on photos that no fit saw.

    python benchmarks/grounded.py [--photos FOLDER] [--parts FOLDER] [--gap 0.2] [--seeds 0 1] [--json FILE]

FOLDER holds embeddings of real photos, captions and shuffled captions: fit.safetensors (images, texts, negatives,
has_negative, image_index); where it holds dev.safetensors too, that is measured and the other files are domains no fit
saw, else a fifth of the photos of fit.safetensors is kept back. A folder that is not there is left out.

    blind      accuracy with the mean of the photos in the place of each photo: what text alone tells
    grounded   accuracy of the margin above what that mean gives
    elsewhere  R@1, and R@5 of classes, of the base's: the mean over other domains and both directions
    matched    median cosine of captions with their own photo; unmatched: with other photos

These encoders have hardly any modality gap: cosines of unmatched pairs are near 0. `--gap` measures also with one, as
OpenAI's and OpenCLIP's models have it: a constant vector is added to all images and another to all texts.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from recipes import recalls
from safetensors.torch import load_file
from torch.nn import functional as F

import labclip
from labclip import Alignment
from labclip.training.frontier import frontier, gallery, pair_cosines
from labclip.training.rows import read_data

DEV = "", "-other", "-classes"
RECIPES = {"published, settings for COCO": {"recipe": "paper"}, "labclip": {}}


def features(parts, keep=None):
    """Features of a file's photos, or of some of them, with all of their captions."""
    images, index = parts["images"].float(), parts.get("image_index", torch.arange(len(parts["texts"]))).long()
    keep = torch.ones(len(images), dtype=torch.bool) if keep is None else keep
    rows, number = keep[index], keep.cumsum(0) - 1
    negatives, there = (parts[key][rows] if key in parts else None for key in ("negatives", "has_negative"))
    return labclip.Features.from_arrays(
        images=images[keep], texts=parts["texts"].float()[rows], image_index=number[index[rows]],
        negatives=None if negatives is None else negatives.float(),
        has_negative=None if there is None else there.bool(),
    )  # fmt: skip


def load(path, gap):
    """A file's embeddings; with a constant added to each side, by which unmatched pairs have about the cosine `gap`."""
    parts = load_file(path)
    dim = parts["texts"].shape[1]
    image, other = F.normalize(torch.randn(2, dim, generator=torch.Generator().manual_seed(3)), dim=-1)
    text = 2 * gap * image + (1 - 4 * gap**2) ** 0.5 * F.normalize(other - (other @ image) * image, dim=-1)
    for key, added in (("images", image), ("texts", text), ("negatives", text)) if gap else ():
        if key in parts:
            parts[key] = F.normalize(F.normalize(parts[key].float(), dim=-1) + added, dim=-1)
    return parts


def split(folder, gap):
    """What is fitted on, what is measured, and other domains with the k of their recall."""
    parts = load(folder / "fit.safetensors", gap)
    if (folder / "dev.safetensors").exists():
        dev, other, classes = (
            features(load(folder / f"dev{end}.safetensors", gap)) for end in ("", "-other", "-classes")
        )
        return features(parts), dev, [(other, 1), (classes, 5)]
    order = torch.randperm(len(parts["images"]), generator=torch.Generator().manual_seed(5))
    kept = torch.zeros(len(order), dtype=torch.bool)
    kept[order[: len(order) * 4 // 5]] = True
    return features(parts, kept), features(parts, ~kept), []


def row(alignment, dev, others):
    """The figures of a matrix at its strength."""
    point = frontier({"validation": dev}, alignment.fitted, [alignment.strength])[0]
    cosines = pair_cosines(dev, alignment.fitted, alignment.strength)["labclip"]
    shares = [
        ours / theirs for part, k in others for ours, theirs in
        zip(recalls(part, k, alignment), recalls(part, k), strict=True)
    ]  # fmt: skip
    return {
        "binding": point.binding, "blind": point.blind, "grounded": point.grounded,
        "R@1 t2i": point.recalls["validation"][0], "R@1 i2t": point.recalls["validation"][1],
        "elsewhere": statistics.mean(shares) if shares else None, "strength": alignment.strength,
        "matched": cosines["matched"][1], "unmatched": cosines["unmatched"][1],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder with dev.safetensors and other domains")
    parser.add_argument("--parts", type=Path, help="folder of another encoder's photos")
    parser.add_argument("--gap", type=float, help="measure also with this modality gap, for example 0.2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments, tables = parser.parse_args(), {}
    folders = {"photos": (arguments.photos, 0), "photos-parts": (arguments.parts, 0)}
    if arguments.gap:
        folders |= {f"{name}, gap": (folder, arguments.gap) for name, (folder, _) in folders.items()}
    for name, (folder, gap) in folders.items():
        if folder is None or not (folder / "fit.safetensors").exists():
            print(f"{name}: left out, as its folder is not there")
            continue
        fit, dev, others = split(folder, gap)
        dev, others = gallery(read_data(dev)), [(gallery(read_data(part)), k) for part, k in others]
        tables[name] = {"base": row(Alignment.identity(fit.dim).at(0.0), dev, others)}
        for recipe, options in RECIPES.items():
            rows = [
                row(labclip.fit(fit, **options, seed=seed, progress=False).alignment, dev, others)
                for seed in arguments.seeds
            ]
            tables[name][recipe] = {
                key: None if rows[0][key] is None else statistics.mean(one[key] for one in rows) for key in rows[0]
            }
        for recipe, found in tables[name].items():
            print(name, recipe, {key: value and round(value, 3) for key, value in found.items()}, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": arguments.seeds, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
