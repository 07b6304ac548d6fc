"""Does a gain need the image? Binding, blind and grounded, of each recipe on photos that no fit saw.

    python benchmarks/grounded.py [--photos FOLDER] [--parts FOLDER] [--gap 0.2] [--seeds 0 1] [--json FILE]

FOLDER holds embeddings of real photos, captions and shuffled captions: fit.safetensors (images, texts, negatives,
has_negative, image_index). If it also holds dev.safetensors, the metrics are measured on that file, and
dev-other.safetensors and dev-classes.safetensors are other domains; else on a fifth of the photos of fit.safetensors,
which no fit gets. A folder that does not exist is left out.

    blind      accuracy with the mean of the photos in place of each photo: what text alone tells
    grounded   accuracy after the margin of that mean image is subtracted
    elsewhere  R@1 (R@5 for classes) as a fraction of the base's, mean over other domains and both directions
    matched    median cosine of captions with their own photo; unmatched: with other photos

The strengths of the default recipe are measured too: what stronger binding costs. `lost` is the fraction of the base's
R@1 that is lost, `divergence` how far the softmax moves, both as `labclip.fit` measures them.

These encoders have hardly any modality gap: cosines of unmatched pairs are near 0. `--gap` adds datasets that have
one, as OpenAI's and OpenCLIP's models do: a constant vector is added to all images and another to all texts.
"""

import statistics
from pathlib import Path

import torch
from recipes import recalls
from safetensors.torch import load_file
from table import new_parser, save
from torch.nn import functional as F

import labclip
from labclip import Alignment
from labclip.training.frontier import frontier, gallery, pair_cosines
from labclip.training.rows import read_data

RECIPES = {"published, settings for COCO": {"recipe": "paper"}, "labclip": {}}
STRENGTHS = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def features(arrays, is_kept=None):
    """Features of the photos of a file, or of some of them, with all of their captions."""
    images, index = arrays["images"].float(), arrays.get("image_index", torch.arange(len(arrays["texts"]))).long()
    is_kept = torch.ones(len(images), dtype=torch.bool) if is_kept is None else is_kept
    rows, new_index = is_kept[index], is_kept.cumsum(0) - 1
    negatives, has_negative = (arrays[key][rows] if key in arrays else None for key in ("negatives", "has_negative"))
    return labclip.Features.from_arrays(
        images=images[is_kept], texts=arrays["texts"].float()[rows], image_index=new_index[index[rows]],
        negatives=None if negatives is None else negatives.float(),
        has_negative=None if has_negative is None else has_negative.bool(),
    )  # fmt: skip


def load(path, gap):
    """The arrays of a file. With a gap, constants are added to them so that unmatched pairs have about that cosine."""
    arrays = load_file(path)
    dim = arrays["texts"].shape[1]
    image, other = F.normalize(torch.randn(2, dim, generator=torch.Generator().manual_seed(3)), dim=-1)
    text = 2 * gap * image + (1 - 4 * gap**2) ** 0.5 * F.normalize(other - (other @ image) * image, dim=-1)
    for key, constant in (("images", image), ("texts", text), ("negatives", text)) if gap else ():
        if key in arrays:
            arrays[key] = F.normalize(F.normalize(arrays[key].float(), dim=-1) + constant, dim=-1)
    return arrays


def split(folder, gap):
    """Features to fit on, features to measure on, and other domains, each with the k of its recall."""
    arrays = load(folder / "fit.safetensors", gap)
    if (folder / "dev.safetensors").exists():
        dev, other, classes = (
            features(load(folder / f"dev{suffix}.safetensors", gap)) for suffix in ("", "-other", "-classes")
        )
        return features(arrays), dev, [(other, 1), (classes, 5)]
    order = torch.randperm(len(arrays["images"]), generator=torch.Generator().manual_seed(5))
    in_fit = torch.zeros(len(order), dtype=torch.bool)
    in_fit[order[: len(order) * 4 // 5]] = True
    return features(arrays, in_fit), features(arrays, ~in_fit), []


def measure(alignment, dev, domains):
    """The metrics of an alignment at its strength."""
    point = frontier({"validation": dev}, alignment.fitted, [alignment.strength])[0]
    cosines = pair_cosines(dev, alignment.fitted, alignment.strength)["labclip"]
    ratios = [
        aligned / base for data, k in domains for aligned, base in
        zip(recalls(data, k, alignment), recalls(data, k), strict=True)
    ]  # fmt: skip
    return {
        "binding": point.binding, "blind": point.blind, "grounded": point.grounded,
        "R@1 t2i": point.recalls["validation"][0], "R@1 i2t": point.recalls["validation"][1],
        "elsewhere": statistics.mean(ratios) if ratios else None, "strength": alignment.strength,
        "matched": cosines["matched"][1], "unmatched": cosines["unmatched"][1],
    }  # fmt: skip


def measure_strengths(alignment, dev):
    """What each of STRENGTHS gains and costs, a row for each."""
    return [
        {
            "strength": point.strength, "grounded": point.grounded, "blind": point.blind,
            "R@1 t2i": point.recalls["validation"][0], "R@1 i2t": point.recalls["validation"][1],
            "lost": point.most_lost[0], "divergence": point.divergence,
        }
        for point in frontier({"validation": dev}, alignment.fitted, STRENGTHS)
    ]  # fmt: skip


def mean(rows):
    """The mean of each key over rows."""
    return {key: None if rows[0][key] is None else statistics.mean(row[key] for row in rows) for key in rows[0]}


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder with dev.safetensors and other domains")
    parser.add_argument("--parts", type=Path, help="folder of another encoder's photos")
    parser.add_argument("--gap", type=float, help="measure also with this modality gap, for example 0.2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments, tables, strengths = parser.parse_args(), {}, {}
    folders = {"photos": (arguments.photos, 0), "photos-parts": (arguments.parts, 0)}
    if arguments.gap:
        folders |= {f"{name}, gap": (folder, arguments.gap) for name, (folder, _) in folders.items()}
    for name, (folder, gap) in folders.items():
        if folder is None or not (folder / "fit.safetensors").exists():
            print(f"{name}: left out, its folder does not exist")
            continue
        fit, dev, domains = split(folder, gap)
        dev, domains = gallery(read_data(dev)), [(gallery(read_data(data)), k) for data, k in domains]
        tables[name] = {"base": measure(Alignment.identity(fit.dim).at(0.0), dev, domains)}
        for recipe, options in RECIPES.items():
            alignments = [labclip.fit(fit, **options, seed=seed, progress=False).alignment for seed in arguments.seeds]
            tables[name][recipe] = mean([measure(alignment, dev, domains) for alignment in alignments])
        by_strength = zip(*(measure_strengths(alignment, dev) for alignment in alignments), strict=True)
        strengths[name] = [mean(rows) for rows in by_strength]  # of the last recipe, the default
        for row in (*tables[name].items(), *enumerate(strengths[name])):
            print(name, row[0], {key: value and round(value, 3) for key, value in row[1].items()}, flush=True)
    save(arguments.json, {"seeds": arguments.seeds, "tables": tables, "strengths": strengths})


if __name__ == "__main__":
    main()
