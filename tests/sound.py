"""A folder with one of everything that commands read, and the commands that write."""

import os
import re
from pathlib import Path

import numpy as np
import torch

import labclip
from labclip import LABCLIP, scenes

TABLE = b"caption,image\na red cube and a blue ball,ok/0.png\na green cube and a red ball,ok/1.png\n"
QUICK = ["evaluate", "scenes", "--model", "scenes", "--option", "n=4"]
WRITERS = {
    "negatives": ["negatives", "plain.csv", "out.csv", "--method", "swap", "--attributes", "red,blue"],
    "transform": ["transform", "texts.npy", "out.npy", "--alignment", "al"],
    "convert": ["convert", "matrix.pt", "out"],
    "fold": ["fold", "--model", "scenes", "out"],
    "embed": ["embed", "--model", "scenes", "--captions", "ok/captions.csv", "out"],
    "fit": ["fit", "feat", "out", "--epochs", "1", "--anyway"],
    "evaluate": [*QUICK, "--no-cache", "--items", "out.csv"],
}


def make(folder):
    """Six scenes `ok`, a table of two of them, their features, an alignment, a model, a checkpoint, stored rows."""
    scenes.sample(6, seed=1).save(folder / "ok")
    (folder / "plain.csv").write_bytes(TABLE)
    model = LABCLIP.from_pretrained("scenes")
    model.alignment.save_pretrained(folder / "al")
    model.save_pretrained(folder / "whole")
    torch.save({"linear.weight": torch.eye(16) * 2, "t": torch.tensor(3.0)}, folder / "matrix.pt")
    np.save(folder / "texts.npy", np.random.default_rng(0).normal(size=(5, 256)).astype("f4"))
    labclip.embed(model, folder / "ok" / "captions.csv", folder / "feat", progress=False)


def left(folder):
    """Paths under a final name, `out` or `out.csv`, that a command left; an unfinished folder of features is none."""
    paths = {os.path.relpath(path, folder) for path in Path(folder).glob("out*/**/*")} | {
        path.name for path in Path(folder).glob("out*") if path.is_file()
    }
    if any("unfinished" in path for path in paths):
        return set()
    return {path for path in paths if not re.search(r"[.]labclip-|[.]part$", path)}
