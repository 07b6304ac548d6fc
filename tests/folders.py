"""Images and a table of captions on disk, and what `embed` makes of them."""

from pathlib import Path

import models
import numpy as np
import torch
from PIL import Image

from labclip import LABCLIP, Alignment
from labclip.features import embed


def draw(folder, scenes):
    """An image file for each scene, `photos/0.png` and so on."""
    (folder / "photos").mkdir()
    for number, image in enumerate(scenes.images):
        Image.fromarray(image).save(folder / "photos" / f"{number}.png")


def write(folder, rows, header="image,caption,negative"):
    """The table `captions.csv`."""
    (folder / "captions.csv").write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    return folder


def run(model, data, out="features", **options):
    """`embed` of that table."""
    options = {"batch_size": 5, "progress": False, "images": data / "photos"} | options
    return embed(model, data / "captions.csv", data / out, **options)


def contents(folder):
    """The bytes of every file, at any depth."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def tiny(kind="clip", base=None):
    """A model of dim 16."""
    alignment = Alignment(torch.eye(models.DIM), base=base)
    return LABCLIP(models.make(kind), alignment, tokenizer=models.tokenizer(), preprocess=_preprocess)


def _preprocess(image):
    return torch.from_numpy(np.array(image.convert("RGB").resize((32, 32)))).permute(2, 0, 1) / 255
