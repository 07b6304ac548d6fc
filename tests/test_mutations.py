"""Bytes of what labclip stores, changed at random: a ValueError, or the same numbers, never others."""

import random
import warnings

import models
import numpy as np
import planted
import pytest

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


def alignment(folder, *, save=False):
    """The numbers that a hash guards; strength, base and metadata are the user's to edit."""
    if save:
        base = Base("ViT-B-32", "openai", quick_gelu=True, embed_dim=models.DIM)
        Alignment(models.matrix(), base=base, logit_scale=4.25).save_pretrained(folder)
    loaded = Alignment.from_pretrained(folder)
    return [loaded.fitted.numpy(), np.asarray(loaded.logit_scale)]


def features(folder, *, save=False):
    if save:
        planted.drawn(20).save(folder)
    loaded = Features.load(folder, verify=True)
    return [np.array(getattr(loaded, name)) for name in ("images", "texts", "negatives", "image_index")]


@pytest.mark.parametrize("numbers", [alignment, features])
def test_changed_bytes_are_an_error_or_change_nothing(numbers, tmp_path):
    wanted, draw, refused = numbers(tmp_path, save=True), random.Random(0), 0
    files = sorted(path for path in tmp_path.iterdir() if path.name != "README.md")
    for number in range(COUNT):
        file = files[number % len(files)]
        content = file.read_bytes()
        file.write_bytes(changed(content, draw))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that a newer labclip might know
            try:
                found = numbers(tmp_path)
            except ValueError:
                refused += 1
            else:
                assert all(map(np.array_equal, found, wanted)), (number, file)
        file.write_bytes(content)
    assert refused > COUNT / 2
