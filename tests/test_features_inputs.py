"""Embedding from every kind of file."""

import io

import models
import numpy as np
import pytest
import torch
from close import UNIT
from packed import pack, picture
from PIL import Image

from labclip import LABCLIP, Alignment, scenes
from labclip.features import embed


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def model():
    alignment = Alignment.identity(models.DIM)
    return LABCLIP(models.make("clip"), alignment, tokenizer=models.tokenizer(), preprocess=_preprocess)


def _preprocess(image):
    return torch.from_numpy(np.array(image.convert("RGB").resize((32, 32)))).permute(2, 0, 1) / 255


@torch.no_grad()
def of_images(numbers):
    images = [Image.open(io.BytesIO(picture(number))) for number in numbers]
    return model().encode_image(images, normalize=True).numpy()


def test_embedding_from_several_tars(tmp_path):
    for shard in range(3):
        keys = [shard * 2, shard * 2 + 1]
        pack(tmp_path / f"{shard}.tar", [
            member for key in keys for member in ((f"{key % 2}.png", picture(key)), (f"{key % 2}.txt", b"a cube"))
        ])  # fmt: skip
    features = embed(model(), captions=tmp_path, out=tmp_path / "out", batch_size=4, progress=False)
    assert np.abs(features.images - of_images(range(6))).max() < UNIT
    again = embed(model(), captions=tmp_path / "[0-2].tar", out=tmp_path / "again", batch_size=4, progress=False)
    assert np.array_equal(again.images, features.images)
    assert not list(tmp_path.rglob("*.png"))  # nothing was extracted
    listed = [tmp_path / "2.tar", tmp_path / "0.tar"]
    some = embed(model(), captions=listed, out=tmp_path / "some", progress=False)
    assert np.abs(some.images - of_images([4, 5, 0, 1])).max() < UNIT


def test_embedding_from_parquet(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"filename": "ignored", "caption": f"cube {row}", "image": {"bytes": picture(row % 5), "path": None}}
        for row in range(150)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=60)
    features = embed(model(), captions=tmp_path / "c.parquet", out=tmp_path / "out", batch_size=2, progress=False)
    assert np.abs(features.images - of_images(range(5))).max() < UNIT  # equal bytes are one picture
    assert features.image_index.tolist() == [row % 5 for row in range(150)]
    rows = [{"caption": f"cube {row}", "image": picture(row), "negative": ["a", None]} for row in range(150)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=60)
    for broken in (70, 149):
        rows[broken]["image"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "broken.parquet", row_group_size=60)
    whole = embed(model(), captions=tmp_path / "c.parquet", out=tmp_path / "whole", progress=False)
    assert np.abs(whole.images - of_images(range(150))).max() < UNIT
    assert whole.negatives.shape == (150, 1, models.DIM)
    with pytest.raises(ValueError, match=r"row 71 \(broken\.parquet row 71\) is not a whole image"):
        embed(model(), captions=tmp_path / "broken.parquet", out=tmp_path / "some", progress=False)
    # What is done is kept, so this reads on from the middle of the file.
    some = embed(model(), captions=tmp_path / "broken.parquet", out=tmp_path / "some", progress=False, on_error="skip")
    assert np.abs(some.images - np.delete(whole.images, (70, 149), axis=0)).max() < UNIT
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(picture(0))
    pq.write_table(pa.table({"title": ["x"], "image_path": ["a.png"]}), tmp_path / "p.parquet")
    paths = embed(
        model(), captions=tmp_path / "p.parquet", images=tmp_path / "photos", out=tmp_path / "paths", progress=False
    )
    assert np.abs(paths.images - of_images([0])).max() < UNIT


def test_paths_may_lie_anywhere_and_name_pictures_once(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "a.png").write_bytes(picture(0))
    rows = f"image,caption\n../a.png,x\n{tmp_path}/a.png,y\n../a.png,z\nhttps://nowhere/a.png,w\n"
    written(tmp_path / "tables" / "c.csv", rows)
    features = embed(
        model(), captions=tmp_path / "tables" / "c.csv", out=tmp_path / "out", on_error="skip", progress=False
    )
    assert features.image_index.tolist() == [0, 1, 0]  # one spelling, one picture
    assert [one["image"] for one in features.manifest["skipped"]] == ["https://nowhere/a.png"]


def test_images_are_read_by_url(model, tmp_path):
    """As a bucket's are: through fsspec, here in memory; another process would find nothing there."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("upath")
    drawn = scenes.sample(5, seed=2)
    captions = drawn.save(tmp_path / "local")
    memory = fsspec.filesystem("memory")
    for image in sorted((tmp_path / "local").rglob("*.png")):
        memory.pipe(f"/photos/{image.relative_to(tmp_path / 'local').as_posix()}", image.read_bytes())
    (tmp_path / "captions.csv").write_bytes(captions.read_bytes())
    local = embed(model, captions, tmp_path / "a", progress=False)
    remote = embed(model, tmp_path / "captions.csv", tmp_path / "b", images="memory://photos", progress=False)
    assert np.array_equal(local.images, remote.images)
    memory.rm("/photos", recursive=True)
    with pytest.raises(FileNotFoundError, match="There is no folder of images memory://photos"):
        embed(model, captions, tmp_path / "c", images="memory://photos", progress=False)
    with pytest.raises(ValueError, match=r"none://photos can't be opened .*Pass a path, or a URL that fsspec knows"):
        embed(model, captions, tmp_path / "c", images="none://photos", progress=False)


def test_an_image_that_a_bucket_lacks_is_named_and_the_run_goes_on(model, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("upath")
    scenes.sample(4, seed=2).save(tmp_path)
    memory, (first, *others) = fsspec.filesystem("memory"), sorted(tmp_path.rglob("*.png"))
    for image in others:
        memory.pipe(f"/some/{image.relative_to(tmp_path).as_posix()}", image.read_bytes())
    with pytest.raises(ValueError, match=rf"{first.name}.*\(No such file or directory\)\. Repair it and run again"):
        embed(model, tmp_path / "captions.csv", tmp_path / "out", images="memory://some", progress=False)
    memory.pipe(f"/some/{first.relative_to(tmp_path).as_posix()}", first.read_bytes())
    found = embed(model, tmp_path / "captions.csv", tmp_path / "out", images="memory://some", progress=False)
    assert len(found.images) == 4
