"""Bytes of what labclip stores, changed at random: a ValueError, or the same numbers, never others."""

import random
import shutil
import warnings

import models
import numpy as np
import planted
import pytest
import torch

from labclip import Alignment, Base, Features

COUNT = 1000


def changed(content, draw):
    """A file's bytes with one of them, or a stretch, changed, gone, or there twice."""
    start = draw.randrange(len(content))
    stop = start + draw.choice([1, 1, 1, 8, 200])
    held = content[start:stop]
    new = draw.choice(
        [bytes([held[0] ^ (1 << draw.randrange(8))]) + held[1:], b"", draw.randbytes(len(held)), 2 * held]
    )
    return content[:start] + new + content[stop:]


def numbers_of_alignment(folder):
    """The numbers that a hash guards; strength, base and metadata are the user's to edit."""
    alignment = Alignment.from_pretrained(folder)
    return [alignment.fitted.numpy(), np.asarray(alignment.logit_scale), alignment.fingerprint.numpy()]


def numbers_of_features(folder):
    features = Features.load(folder, verify=True)
    return [np.array(getattr(features, name)) for name in ("images", "texts", "negatives", "image_index")]


def save_alignment(folder):
    base = Base("ViT-B-32", "openai", quick_gelu=True, embed_dim=models.DIM)
    fingerprint = torch.nn.functional.normalize(torch.arange(1.0, models.DIM + 1), dim=0)
    Alignment(models.matrix(), base=base, logit_scale=4.25, fingerprint=fingerprint).save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "numbers"),
    [
        (save_alignment, numbers_of_alignment),
        (lambda folder: planted.features(*planted.world(20)).save(folder), numbers_of_features),
    ],
    ids=["alignment", "features"],
)
def test_changed_bytes_are_an_error_or_change_nothing(save, numbers, tmp_path):
    save(tmp_path / "sound")
    shutil.copytree(tmp_path / "sound", tmp_path / "copy")
    files = sorted(path.name for path in (tmp_path / "sound").iterdir() if path.name != "README.md")
    wanted, draw, refused = numbers(tmp_path / "sound"), random.Random(0), 0
    for number in range(COUNT):
        name = files[number % len(files)]
        content = (tmp_path / "sound" / name).read_bytes()
        (tmp_path / "copy" / name).write_bytes(changed(content, draw))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that a newer labclip might know
            try:
                found = numbers(tmp_path / "copy")
            except ValueError:
                refused += 1
            else:
                assert all(map(np.array_equal, found, wanted)), (number, name)
        (tmp_path / "copy" / name).write_bytes(content)
    assert refused > COUNT / 2
