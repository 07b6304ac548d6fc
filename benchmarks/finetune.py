"""Base, LABCLIP and full fine-tuning (FT) side by side on the embedded scenes.

    python benchmarks/finetune.py [--count 8000] [--epochs 6] [--json FILE]

Both learn from the same scenes and their colour-swapped captions, and are measured on scenes that neither saw. A tie is
wrong. LABCLIP keeps every image embedding; FT changes them all.
"""

import time

import numpy as np
import torch
from table import new_parser, save

import labclip
from labclip.data.images import ImageSource
from labclip.features.encoder import Encoder


def pixels(model, scenes):
    """Rendered scenes as the model's own preprocessing gives them: [n, 3, 64, 64]."""
    settings = model.clip.visual.preprocess_cfg
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (torch.from_numpy(scenes.images).permute(0, 3, 1, 2) / 255 - mean) / std


METRICS = "binding", "binding_heldout", "t2i_r1", "i2t_r1", "tags_t2i_r1", "tags_i2t_r1", "one_object_acc1"


def rows(model, seed):
    """The metrics of a model without and with its matrix, by `labclip evaluate scenes`."""
    report = labclip.evaluate(model, "scenes", options={"n": 2048, "seed": 9_000 + seed}, cache=None, progress=False)
    estimates = [report["scenes"].metric(name).estimates for name in METRICS]
    models = [[estimate.value for estimate in model] for model in zip(*estimates, strict=True)]
    return [dict(zip(METRICS, values, strict=True)) for values in models]


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--count", type=int, default=8000, help="scenes to learn from")
    parser.add_argument("--epochs", type=int, default=6, help="of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = labclip.LABCLIP.from_pretrained("scenes")
    scenes = labclip.scenes.sample(arguments.count, seed=8_000 + arguments.seed)
    start = time.perf_counter()
    encoder, sources = Encoder(model), [ImageSource("scene", data=image) for image in scenes.images]
    images = np.stack([encoded.row for encoded in encoder.images(sources)])
    (_, texts), (_, negatives) = encoder.texts((scenes.captions, scenes.swapped_captions))
    features = labclip.Features.from_arrays(images=images, texts=texts, negatives=negatives)
    alignment = labclip.fit(features, seed=arguments.seed, progress=False).alignment
    seconds = {"base": 0.0, "LABCLIP": time.perf_counter() - start}
    start = time.perf_counter()
    finetuned = labclip.LABCLIP(
        labclip.training.finetune(
            model, pixels(model, scenes), scenes.captions, scenes.swapped_captions, epochs=arguments.epochs,
            learning_rate=arguments.learning_rate, seed=arguments.seed,
        ),
        labclip.Alignment.identity(256), preprocess=model.preprocess, tokenizer=model.tokenizer,
    )  # fmt: skip
    seconds["FT"] = time.perf_counter() - start
    model.alignment = alignment
    measured = [*rows(model, arguments.seed), rows(finetuned, arguments.seed)[0]]
    table = {name: row | {"seconds": duration} for (name, duration), row in zip(seconds.items(), measured, strict=True)}
    for name, row in table.items():
        print(name, {key: round(value, 3) for key, value in row.items()})
    save(arguments.json, table)


if __name__ == "__main__":
    main()
