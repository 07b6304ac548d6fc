"""Each kind of text tower gives the numbers that it gave: a change in torch, OpenCLIP or transformers is noticed.

`python tests/test_towers.py` writes them again, for a kind that is new.
"""

import zlib
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from close import MOST, assert_close
from safetensors.numpy import load_file, save_file

from labclip import LABCLIP, Alignment

STORED = Path(__file__).parent / "towers.safetensors"


def drawn(name, shape):
    """Values from -1 to 1 for a name, the same everywhere and for ever: whole numbers, mixed and cut to 24 bits."""
    count = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    for factor in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93):
        count = (count ^ (count >> np.uint64(32))) * np.uint64(factor)
    return torch.from_numpy((count >> np.uint64(40)).astype(np.float32) / 2**23 - 1).view(shape)


def texts_of(kind):
    """The embeddings of `models.CAPTIONS`, [4, 16], of the base, with a matrix, and with it folded in."""
    clip, tokens = models.make(kind), models.tokens()
    with torch.no_grad():
        for name, value in clip.named_parameters():
            if value.ndim > 1 or not name.endswith("weight"):  # else it is a norm's
                value.copy_(drawn(name, value.shape) / (3 if value.ndim > 1 else 10))
        model = LABCLIP(clip, Alignment(torch.eye(16) + drawn("matrix", (16, 16)) / 2), tokenizer=models.tokenizer())
        features = {"base": clip, "aligned": model, "folded": model.fold()}
        features = {name: tower.encode_text(tokens) for name, tower in features.items()}
    return {f"{kind}.{name}": rows.numpy().copy() for name, rows in features.items()}


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_tower_gives_the_numbers_that_it_gave(kind):
    stored = load_file(STORED)
    assert torch.equal(models.tokens(), torch.from_numpy(stored["tokens"]))
    for name, rows in texts_of(kind).items():
        assert_close(rows, stored[name])


@pytest.mark.parametrize("kind", ["scenes", *models.KINDS])
def test_no_model_of_the_tests_has_longer_sums_than_tolerances_allow_for(kind):
    model = LABCLIP.from_pretrained("scenes") if kind == "scenes" else models.make(kind)
    sums = {name: weight[0].numel() for name, weight in model.named_parameters() if weight.ndim > 1}
    assert sum(terms for name, terms in sums.items() if "text_decoder" not in name) <= MOST


if __name__ == "__main__":
    tensors = {"tokens": models.tokens().numpy()}
    for kind in models.KINDS:
        tensors |= texts_of(kind)
    save_file(tensors, STORED)
