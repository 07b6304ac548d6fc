"""Base, LABCLIP and full fine-tuning (FT) side by side on the embedded world.

    python benchmarks/finetune.py [--count 8000] [--epochs 6] [--json FILE]

Both learn from the same scenes and their colour-swapped captions; everything is measured on scenes neither saw. A tie
is wrong. LABCLIP keeps every image embedding; FT changes them all.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import labclip
from labclip.scenes import measure


def pixels(model, scenes):
    """What the model's own preprocessing makes of rendered scenes: [n, 3, 64, 64]."""
    settings = model.clip.visual.preprocess_cfg
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (torch.from_numpy(scenes.images).permute(0, 3, 1, 2) / 255 - mean) / std


def row(model, seed):
    """The figures of one model, with whatever matrix it has."""
    found = {}
    for split in ("seen", "heldout"):
        scenes = labclip.scenes.sample(2048, seed=9_000 + seed, split=split)
        images = measure.embed_images(model, scenes.images)
        right, wrong, tags = (
            model.encode_text(part, normalize=True) for part in (scenes.captions, scenes.swapped_captions, scenes.tags)
        )
        found[f"binding, {split}"] = measure.binding(images, right, wrong)
        if split == "seen":
            found["R@1 t2i, sentences"], found["R@1 i2t, sentences"] = measure.recall_at_1(images, right)
            found["R@1 t2i, tags"], found["R@1 i2t, tags"] = measure.recall_at_1(images, tags)
    single = labclip.scenes.sample(2048, seed=9_100 + seed, split="all", n_objects=1)
    prompts = model.encode_text(measure.single_prompts(), normalize=True)
    images = measure.embed_images(model, single.images)
    found["one object, of 120"] = measure.single_object(images, prompts, single.layout)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=8000, help="scenes to learn from")
    parser.add_argument("--epochs", type=int, default=6, help="of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    model = labclip.LABCLIP.from_pretrained("scenes")
    scenes = labclip.scenes.sample(arguments.count, seed=8_000 + arguments.seed)
    identity = labclip.Alignment.identity(256)
    start = time.perf_counter()
    with torch.inference_mode():
        sides = [measure.embed_texts(model, part) for part in (scenes.captions, scenes.swapped_captions)]
        images = measure.embed_images(model, scenes.images)
    texts, negatives = (side.clone() for side in sides)
    features = labclip.Features.from_arrays(images=images.clone(), texts=texts, negatives=negatives)
    fitted = labclip.fit(features, seed=arguments.seed, progress=False)
    seconds = {"base": 0.0, "LABCLIP": time.perf_counter() - start}
    start = time.perf_counter()
    tuned = labclip.LABCLIP(
        labclip.training.finetune(
            model, pixels(model, scenes), scenes.captions, scenes.swapped_captions, epochs=arguments.epochs,
            learning_rate=arguments.learning_rate, seed=arguments.seed,
        ),
        identity, preprocess=model.preprocess, tokenizer=model.tokenizer,
    )  # fmt: skip
    seconds["FT"] = time.perf_counter() - start
    models = {"base": identity, "LABCLIP": fitted.alignment, "FT": None}
    table = {}
    with torch.inference_mode():
        for name, alignment in models.items():
            if alignment is not None:
                model.alignment = alignment
            table[name] = row(tuned if alignment is None else model, arguments.seed) | {"seconds": seconds[name]}
            print(name, {key: round(value, 3) for key, value in table[name].items()}, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
