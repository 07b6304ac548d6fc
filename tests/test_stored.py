"""Stored embeddings: every format keeps all but its embeddings, whatever goes wrong says so, a kill changes no byte."""

import json
import os
import signal
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from close import UNIT, rounding
from folders import contents
from safetensors import safe_open
from safetensors.torch import save_file

import labclip
from labclip import Alignment, Base
from labclip.features import Features
from labclip.files import path_of
from labclip.io.folder import matrix_sha256
from labclip.stored import formats

DIM = 6
BASE = Base("tiny", "random", quick_gelu=False, embed_dim=DIM)
MATRIX = Alignment(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0)), base=BASE)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder, blocks of a few rows, and the alignment in the folder A."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(formats, "BLOCK_BYTES", 4 * 4 * DIM)
    MATRIX.save_pretrained("A")
    return tmp_path


def drawn(rows=10, dtype=np.float16, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, DIM)).astype(dtype)


def transform(source, target, alignment=MATRIX, **options):
    return labclip.transform(source, target, alignment, progress=False, **options)


def embeddings(folder):
    """All but the manifest, which holds the times of the source files."""
    return {name: data for name, data in contents(folder).items() if name != "_labclip.json"}


def clip_retrieval(folder="in", shards=4, rows=9):
    for name in ("text_emb", "img_emb", "metadata"):
        Path(folder, name).mkdir(parents=True)
    for number in range(shards):
        np.save(f"{folder}/text_emb/text_emb_{number}.npy", drawn(rows, seed=number))
        np.save(f"{folder}/img_emb/img_emb_{number}.npy", drawn(rows, seed=100 + number))
        Path(folder, "metadata", f"metadata_{number}.parquet").write_bytes(b"captions %d" % number)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("normalize", [False, True])
def test_npy_is_aligned_as_in_memory_and_keeps_its_dtype(dtype, normalize):
    rows = drawn(11).astype(dtype)
    np.save("in.npy", rows)
    (shard,) = transform("in.npy", "out.npy", normalize=normalize)["shards"]
    aligned = np.load("out.npy")
    assert aligned.dtype == np.dtype(dtype)
    allowance = rounding(DIM, np.linalg.norm(rows) * MATRIX.matrix.norm())
    np.testing.assert_allclose(aligned, MATRIX(rows, normalize=normalize), atol=4e-3 if dtype == "<f2" else allowance)
    assert not np.allclose(aligned, rows, atol=0.1)
    assert (shard["name"], shard["rows"]) == ("in.npy", 11)
    assert shard["bytes"] == Path("out.npy").stat().st_size == Path("in.npy").stat().st_size
    assert {path.name for path in Path().iterdir()} == {"A", "in.npy", "out.npy", "_out.npy.labclip.json"}


def test_the_manifest_says_what_was_made_of_what(here):
    np.save("in.npy", drawn())
    manifest = transform("in.npy", "out.npy", "A", strength=0.5)
    assert json.loads(Path("_out.npy.labclip.json").read_text()) == manifest
    assert (manifest["source"], manifest["alignment"], manifest["strength"]) == ("in.npy", "A", 0.5)
    assert (manifest["base"], manifest["matrix_sha256"]) == (vars(BASE), matrix_sha256(MATRIX.fitted))
    np.testing.assert_allclose(np.load("out.npy"), MATRIX.at(0.5)(drawn()), atol=4e-3)
    assert str(here) not in json.dumps(manifest)
    np.save("none.npy", drawn(0))
    assert transform("none.npy", "none-out.npy")["shards"][0]["rows"] == 0


@pytest.mark.parametrize("column", [None, "text"])
def test_safetensors_keep_all_but_the_one_tensor(column):
    others = {"ids": torch.arange(10), "z": torch.rand(3), "image": torch.rand(10, DIM)}
    others |= {"a": torch.rand(10, DIM)} if column else {}
    save_file({"text": torch.from_numpy(drawn()), **others}, "in.safetensors", metadata={"model": "M"})
    transform("in.safetensors", "out.safetensors", column=column)
    with safe_open("out.safetensors", framework="pt") as written:
        assert written.metadata() == {"model": "M"}
        for name, tensor in others.items():
            assert torch.equal(written.get_tensor(name), tensor)
        torch.testing.assert_close(written.get_tensor("text"), MATRIX(torch.from_numpy(drawn())), rtol=1e-3, atol=4e-3)


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_parquet_keeps_other_columns_schema_and_row_groups(kind, dtype):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = drawn(10, dtype)
    value = pa.from_numpy_dtype(dtype)
    kinds = {"list": pa.list_(value), "large": pa.large_list(value), "fixed": pa.list_(value, DIM)}
    # pa.array makes no fixed lists of float16 rows.
    flat = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM).cast(kinds[kind])
    mask = np.arange(10) == 3
    vectors = flat.filter(pa.array(~mask)).take(pa.array([None if m else i - (i > 3) for i, m in enumerate(mask)]))
    table = pa.table({"caption": [f"c{n}" for n in range(10)], "v": vectors, "image_emb": flat})
    table = table.replace_schema_metadata({"k": "v"})
    try:
        parquet.write_table(table, "in.parquet", row_group_size=6, compression="zstd")
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"pyarrow {pa.__version__}: {error}")
    transform("in.parquet", "out.parquet")
    before, after = parquet.read_table("in.parquet"), parquet.read_table("out.parquet")
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after.select(["caption", "image_emb"]).equals(before.select(["caption", "image_emb"]))
    lists = after["v"].to_pylist()
    assert lists[3] is None
    expected = MATRIX(rows)
    for number in set(range(10)) - {3}:
        np.testing.assert_allclose(lists[number], expected[number], atol=4e-3)
    groups = [parquet.ParquetFile(name).metadata for name in ("in.parquet", "out.parquet")]
    assert [[file.row_group(n).num_rows for n in range(file.num_row_groups)] for file in groups] == [[6, 4], [6, 4]]
    assert groups[1].row_group(0).column(1).compression == "ZSTD"


def test_a_clip_retrieval_folder_keeps_its_numbers_and_metadata():
    clip_retrieval(shards=11)
    manifest = transform("in", "out")
    names = [f"text_emb/text_emb_{number}.npy" for number in range(11)]
    assert {shard["name"] for shard in manifest["shards"] if shard["rows"]} == set(names)
    files = contents("out")
    assert set(files) == {*names, *(f"metadata/metadata_{number}.parquet" for number in range(11)), "_labclip.json"}
    assert files["metadata/metadata_10.parquet"] == b"captions 10"
    for number, name in enumerate(names):
        np.testing.assert_allclose(np.load(f"out/{name}"), MATRIX(drawn(9, seed=number)), atol=4e-3)


def feature_folder(name="features", base=BASE):
    rows, negatives = drawn(10, np.float32), drawn(20, np.float32, 1).reshape(10, 2, DIM)
    Features.from_arrays(images=rows, texts=rows, negatives=negatives, negative_images=negatives, base=base).save(name)


BY_NAME = "holds image embeddings, by its name"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("in/img_emb", BY_NAME),
        ("image_features.npy", BY_NAME),
        ("features/negative_image_features.npy", BY_NAME),
        ("features", r"image_features\.npy holds image embeddings, by its name"),
        ("other/text_features.npy", r"holds embeddings of M \(x\), as its manifest\.json says, but .* fitted on tiny"),
    ],
)
def test_image_embeddings_and_those_of_another_base_are_left_alone(source, message):
    clip_retrieval()
    np.save("image_features.npy", drawn())
    feature_folder()
    feature_folder("other", Base("M", "x", quick_gelu=False, embed_dim=DIM))
    with pytest.raises(ValueError, match=message):
        transform(source, "out.npy" if source.endswith(".npy") else "out")
    assert not list(Path().glob("*out*"))
    transform("features/text_features.npy", "out.npy")
    np.testing.assert_allclose(np.load("out.npy"), MATRIX(np.load("features/text_features.npy")), atol=UNIT)


def several(path):
    save_file({name: torch.from_numpy(drawn()) for name in ("a", "b", "image")}, path)


def uneven(path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"u": [[1.0] * DIM, [1.0]], "n": [1, 2]}), path)


def array(make):
    return lambda path: np.save(path, make())


def with_rows(values, dtype=np.float16):
    def make():
        rows = drawn(40, dtype)
        for row, value in values.items():
            rows[row] = value
        return rows

    return array(make)


LARGE = np.sign(MATRIX.matrix[0].numpy())
TWO_TENSORS = r"has several tensors of embeddings, .*'a', .*'b'.* Name one, as in column="
REFUSED = [
    ("in.npy", array(lambda: np.ones((3, 8), "f2")), {}, "embeddings of dim 8, but the alignment has dim 6"),
    ("in.npy", array(lambda: np.ones((3, DIM), int)), {}, r"holds int64, not float16, float32 or float64"),
    ("in.npy", array(lambda: np.asfortranarray(drawn())), {}, r"holds its array column by column"),
    ("in.npy", with_rows({17: np.nan, 30: np.inf}), {}, r"row 17, counted from 0, numbers that are not finite"),
    ("in.npy", with_rows({4: LARGE * 65504}), {}, r"row 4, .* too large for float16. .* out; .* normalize=True"),
    ("in.npy", lambda path: (array(drawn)(path), os.truncate(path, 247)), {}, "in.npy is truncated: row 9 of 10 is"),
    ("in.safetensors", several, {}, TWO_TENSORS),
    ("in.safetensors", several, {"column": "image"}, r"has image embeddings in 'image', by its name"),
    ("in.parquet", uneven, {"column": "u"}, r"has embeddings of different dimensions, 1 to 6"),
    ("in.parquet", uneven, {"column": "n"}, r"has 'n' as int64, not as one column of lists of floats"),
]


@pytest.mark.parametrize(("name", "make", "options", "message"), REFUSED)
def test_what_cannot_be_aligned_is_told_and_nothing_is_left(name, make, options, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    make(Path(name))
    with pytest.raises(ValueError, match=message):
        transform(name, f"out.{name[3:]}", **options)
    assert {path.name for path in Path().iterdir()} == {"A", name}


def test_what_is_aligned_already_is_refused():
    clip_retrieval()
    np.save("in.npy", drawn())
    result = commands.run("transform", "in.npy", "out.npy", "--alignment", "A")
    assert result.stdout == "out.npy: 10 embeddings, aligned by A at strength 1\n"
    transform("in", "out", "A")
    for source in ("out.npy", "out", "out/text_emb", ".", "out/text_emb/text_emb_2.npy"):
        target = "x.npy" if source.endswith(".npy") else "x"
        with pytest.raises(ValueError, match=r"is aligned already, by A at strength 1.0.* as .* says. Pass the base's"):
            transform(source, target)


def test_a_target_that_is_there_is_refused_or_made_again():
    clip_retrieval()
    np.save("in.npy", drawn())
    np.save("out.npy", drawn(2))
    os.symlink("in.npy", "link.npy")
    Path("photos").mkdir()
    Path("photos/1.jpg").touch()
    before = contents(".")
    for source, target, force, message in (
        ("in.npy", "link.npy", True, r"is the input itself\. Pass another path"),
        ("in", "in/text_emb", True, "in/text_emb exists, and transform did not write it"),
        ("in", "photos", True, "photos exists, and transform did not write it"),
        ("in.npy", "out.txt", True, "out.txt does not end in .npy"),
        ("in.npy", "out.npy", False, r"out\.npy exists, and .* Pass another path, or force=True"),
    ):
        with pytest.raises(ValueError, match=message):
            transform(source, target, force=force)
    assert contents(".") == before
    transform("in.npy", "out.npy", force=True)
    message = r"out\.npy is aligned by .* at strength 1\.0.*: its strength is 1\.0, not 0\.5"
    with pytest.raises(ValueError, match=message):
        transform("in.npy", "out.npy", strength=0.5)
    Path("out.npy").unlink()  # its manifest is then in nobody's way
    assert transform("in.npy", "out.npy", strength=0.5)["strength"] == 0.5
    transform("in", "out")
    Path("in/text_emb/text_emb_3.npy").unlink()
    transform("in", "out", force=True)
    assert not Path("out/text_emb/text_emb_3.npy").exists()


def test_a_shard_that_cannot_be_read_is_named_and_the_others_are_done():
    clip_retrieval()
    transform("in", "whole")
    broken = Path("in/text_emb/text_emb_1.npy")
    data = broken.read_bytes()
    broken.write_bytes(data[:150])
    result = commands.run("transform", "in", "out", "--alignment", "A", code=2)
    text = "text_emb/text_emb_1.npy is truncated: row 1 of 9 is not complete. 7 of 8 files are done: repair the others "
    assert text + "and type the same command again.\n" in result.stderr
    aligned = embeddings("whole")
    aligned.pop("text_emb/text_emb_1.npy")
    assert embeddings("out") == aligned
    broken.write_bytes(data)
    written_at = Path("out/text_emb/text_emb_0.npy").stat().st_mtime_ns
    manifest = transform("in", "out", "A")
    assert embeddings("out") == embeddings("whole")
    # The same call does only what is not done.
    assert transform("in", "out", "A") == manifest
    Path("out/text_emb/text_emb_1.npy").unlink()
    np.save("in/text_emb/text_emb_3.npy", drawn(9, seed=7))  # written again, so read again
    transform("in", "out", "A")
    assert Path("out/text_emb/text_emb_0.npy").stat().st_mtime_ns == written_at
    transform("in", "again", "A")
    assert contents("out") == contents("again")


def test_paths_are_urls_of_fsspec_too():
    pytest.importorskip("upath")
    clip_retrieval()
    transform("in", "out")
    memory = path_of("memory://stored").fs
    memory.put("in/", "/stored/in/", recursive=True)
    memory.pipe_file("/stored/in/text_emb/text_emb_2.npy", b"")
    with pytest.raises(ValueError, match=r"text_emb_2.npy is not a complete NumPy file .* 7 of 8 files are done"):
        transform("memory://stored/in", "memory://stored/out")
    memory.put_file("in/text_emb/text_emb_2.npy", "/stored/in/text_emb/text_emb_2.npy")
    transform("memory://stored/in", "memory://stored/out")
    transform(f"file://{Path('in').absolute()}", "local")
    assert embeddings("local") == embeddings("out")
    for name, data in embeddings("out").items():
        assert memory.cat_file(f"/stored/out/{name}") == data
    assert len(memory.find("/stored/out")) == len(contents("out"))
    with pytest.raises(ValueError, match=r"memory://stored/out is aligned already"):
        transform("memory://stored/out", "again")
    with pytest.raises(ValueError, match=r"zz://x can't be opened \(Protocol not known: zz\)"):
        transform("zz://x", "out")


KILLED = """
import os, sys
import kills, torch
torch.set_num_threads(1)
from labclip.stored import transform
source, target = sys.argv[1:]
kills.fatal(os, "fsync", "replace")
print(*kills.until_done(lambda: transform(source, target, "A", progress=False), 0, 9))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("ending", ["", ".npy", ".parquet"])
def test_killed_again_and_again_the_bytes_are_those_of_an_unbroken_run(ending):
    if ending == ".parquet":
        parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        parquet.write_table(pa.table({"v": drawn(900, np.float32).tolist()}), "in.parquet", row_group_size=30)
    elif ending:
        np.save("in.npy", drawn(600))
    else:
        clip_retrieval(shards=5)
    transform(f"in{ending}", f"whole{ending}", "A")
    assert len(commands.python(KILLED, f"in{ending}", f"out{ending}").split()) >= 4
    left = {name: data for name, data in contents(".").items() if not name.startswith(("A/", "in"))}
    complete = {name: data for name, data in left.items() if name.lstrip("_").startswith("whole")}
    assert {name.replace("out", "whole"): data for name, data in left.items() if name not in complete} == complete


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own use of Ray
def test_over_ray_the_files_are_the_same(monkeypatch):
    """On a local cluster of its own, with a file that can't be read, which is repaired."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(formats, "BLOCK_BYTES", 4 << 20)  # as the workers have it
    clip_retrieval(shards=6)
    transform("in", "whole", "A")
    broken = Path("in/text_emb/text_emb_1.npy")
    data = broken.read_bytes()
    broken.write_bytes(data[:150])
    handler = signal.getsignal(signal.SIGTERM)  # which Ray takes
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(ValueError, match=r"text_emb_1.npy is truncated.* 11 of 12 files are done"):
            transform("in", "out", "A", engine="ray")
        broken.write_bytes(data)
        transform("in", "out", "A", engine="ray")
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)
    assert embeddings("out") == embeddings("whole")
