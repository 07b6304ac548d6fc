"""Embedding from every kind of file."""

import io

import models
import numpy as np
import pytest
import rows
import torch
from close import UNIT
from folders import tiny
from packed import pack, picture
from PIL import Image

from labclip import scenes
from labclip.features import embed


def run(folder, captions, out, **options):
    return embed(tiny(), captions, folder / out, progress=False, **options)


@torch.no_grad()
def of_images(numbers):
    images = [Image.open(io.BytesIO(picture(number))) for number in numbers]
    return tiny().encode_image(images, normalize=True).numpy()


def test_embedding_from_several_tars(tmp_path):
    for shard in range(3):
        members = [((f"{key}.png", picture(shard * 2 + key)), (f"{key}.txt", b"a cube")) for key in (0, 1)]
        pack(tmp_path / f"{shard}.tar", [member for pair in members for member in pair])
    some = run(tmp_path, [tmp_path / "2.tar", tmp_path / "0.tar"], "some", batch_size=3)
    assert np.abs(some.images - of_images([4, 5, 0, 1])).max() < UNIT
    assert not list(tmp_path.rglob("*.png"))  # nothing was extracted


def test_embedding_from_parquet(tmp_path):
    def table(name, content):
        return rows.write(tmp_path / name, content, row_group_size=60)

    content = [{"caption": f"cube {row}", "image": picture(row), "negative": ["a", None]} for row in range(150)]
    whole = run(tmp_path, table("c.parquet", content), "whole")
    assert np.abs(whole.images - of_images(range(150))).max() < UNIT
    assert whole.negatives.shape == (150, 1, models.DIM)
    content[70]["image"] = b"no picture"
    with pytest.raises(ValueError, match=r"row 71 \(broken\.parquet row 71\) is not a complete image"):
        run(tmp_path, table("broken.parquet", content), "some")
    # What is done is kept, so this reads on from the middle of the file.
    some = run(tmp_path, tmp_path / "broken.parquet", "some", on_error="skip")
    assert np.abs(some.images - np.delete(whole.images, 70, axis=0)).max() < UNIT


def test_images_are_read_by_url(model, tmp_path):
    """As a bucket's are: through fsspec, here in memory; another process would find nothing there."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("upath")
    memory, captions = fsspec.filesystem("memory"), scenes.sample(5, seed=2).save(tmp_path / "local")
    (tmp_path / "captions.csv").write_bytes(captions.read_bytes())
    first, *others = sorted((tmp_path / "local").rglob("*.png"))

    def put(image):
        memory.pipe(f"/photos/{image.relative_to(tmp_path / 'local').as_posix()}", image.read_bytes())

    def remote(url="memory://photos"):
        return embed(model, tmp_path / "captions.csv", tmp_path / "remote", images=url, progress=False)

    for image in others:
        put(image)
    with pytest.raises(ValueError, match=rf"{first.name}.*\(No such file or directory\)\. Repair it and run again"):
        remote()
    put(first)
    assert np.array_equal(embed(model, captions, tmp_path / "here", progress=False).images, remote().images)
    memory.rm("/photos", recursive=True)
    with pytest.raises(FileNotFoundError, match="There is no folder of images memory://photos"):
        remote()
    with pytest.raises(ValueError, match=r"none://photos can't be opened .*Pass a path, or a URL that fsspec knows"):
        remote("none://photos")
