"""What people have is read as they mean it: every kind of file, every row accounted for."""

import csv
import io
import json
import tarfile

import commands
import models
import numpy as np
import pytest
import torch
from close import UNIT
from PIL import Image

from labclip import LABCLIP, Alignment, negatives, scenes
from labclip.data import Columns, find_inputs, read_items, streaming
from labclip.data.rows import READERS
from labclip.features import embed

SIZE = 8


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read(path, **columns):
    """(image's name, caption, negatives) of every caption, and what was wrong."""
    good, bad = [], []
    for found in read_items(path, columns=Columns(**columns)):
        if found.problem:
            bad.append((found.place, found.name, found.problem))
        else:
            pairs = zip(found.captions, found.negatives, strict=True)
            good += [(found.image.name, caption, list(negatives)) for caption, negatives in pairs]
    return good, bad


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


ROWS = [("a.png", "a red cube", ["a blue cube"]), ("b.png", "a naïve, “quoted”\ncaption", [])]


def test_csv_and_tsv(tmp_path):
    text = 'image,caption,negative\r\na.png,a red cube,a blue cube\r\nb.png,"a naïve, “quoted”\ncaption",\r\n'
    assert read(written(tmp_path / "c.csv", "\ufeff" + text)) == (ROWS, [])
    tsv = text.replace(", ", "\0").replace(",", "\t").replace("\0", ", ")
    assert read(written(tmp_path / "c.tsv", tsv)) == (ROWS, [])


def test_jsonl_and_json(tmp_path):
    objects = [{"filename": name, "title": caption, "negative": n or None} for name, caption, n in ROWS]
    lines = "\n\n".join(json.dumps(one) for one in objects) + "\n"
    assert read(written(tmp_path / "c.jsonl", lines)) == (ROWS, [])
    assert read(written(tmp_path / "c.json", json.dumps(objects, indent=3))) == (ROWS, [])
    keyed = {str(number): one for number, one in enumerate(objects)}  # as SugarCrepe has it
    assert read(written(tmp_path / "c.json", json.dumps(keyed))) == (ROWS, [])


def test_negatives_by_their_usual_names(tmp_path):
    header = "image,caption,negative_10,negative,negative_2,other\n"
    good, _ = read(written(tmp_path / "c.csv", header + "a.png,right,ten,one,,none\n"))
    assert good == [("a.png", "right", ["one", "ten"])]
    published = (
        "\ttitle\tfilepath\tneg_caption\tneg_image\n0\tA dog .\tcoco/1.jpg\t['A cat .', \"A dog's .\"]\t[1, 2]\n"
    )
    assert read(written(tmp_path / "c.tsv", published)) == ([("coco/1.jpg", "A dog .", ["A cat .", "A dog's ."])], [])
    chosen, _ = read(tmp_path / "c.csv", caption="other", negatives=("caption",))
    assert chosen == [("a.png", "none", ["right"])]
    assert read(written(tmp_path / "d.csv", 'image,caption\na.png,"[1] a dog"\n'))[0] == [("a.png", "[1] a dog", [])]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet", "tar"])
@pytest.mark.parametrize("column", ["negative", "negatives", "neg_caption", "negative_caption"])
def test_a_list_of_negatives_is_read_everywhere(tmp_path, ending, column):
    path, listed = tmp_path / f"c.{ending}", ["a cat's", 'a "cow"']
    row = {"image": "a.png", "caption": "a dog", column: listed}
    if ending == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif ending == "tar":
        pack(path, [("a.png", picture(0)), ("a.json", json.dumps(row).encode())])
    elif ending in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if ending == "csv" else "\t")
            writer.writerows([("image", "caption", column), ("a.png", "a dog", json.dumps(listed)),
                              ("a.png", "a dog", str(listed))])  # fmt: skip
    else:
        path.write_text(json.dumps([row] if ending == "json" else row))
    good, bad = read(path)
    assert not bad
    assert set(map(str, good)) == {str(("a.png", "a dog", listed))}
    assert [item.negatives for item in negatives.read(path)] == [(tuple(listed),)] * len(good)


def test_karpathys_columns_in_any_file(tmp_path):
    """The image is `filepath/filename`, unless one of them says it all."""
    rows = [
        ({"filepath": "val2014", "filename": "1.jpg"}, "val2014/1.jpg"),
        ({"filepath": "", "filename": "1.jpg"}, "1.jpg"),
        ({"filepath": "val2014/1.jpg", "filename": "1.jpg"}, "val2014/1.jpg"),
        ({"filepath": "val2014/1.jpg"}, "val2014/1.jpg"),
        ({"image": "own.jpg", "filepath": "val2014", "filename": "1.jpg"}, "own.jpg"),
    ]
    path = written(tmp_path / "c.jsonl", "\n".join(json.dumps({**row, "caption": "x"}) for row, _ in rows))
    assert [name for name, _, _ in read(path)[0]] == [name for _, name in rows]
    assert [item.image.name for item in negatives.read(path)] == [name for _, name in rows]


@pytest.mark.parametrize(
    ("row", "captions", "taken"),
    [
        ({"file_name": "a.png", "text": "a red cube"}, 1, "captions from 'text', images from 'file_name'"),
        ({"image": "a.png", "captions": ["a red cube", "a cube"]}, 2, "captions from 'captions', images from 'image'"),
        ({"filename": "a.png", "sentences": ["a red cube"], "url": "x"}, 1, "captions from 'sentences', images"),
        (
            {"image": "a.png", "sentences": [{"raw": "a red cube", "tokens": []}]},
            1,
            "captions from 'sentences', images",
        ),
        ({"image": "a.png", "caption": ["a red cube", "b"], "text": "c"}, 2, "captions from 'caption', images"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_hugging_faces_columns_mean_the_same_to_every_command(tmp_path, row, captions, taken, ending):
    for name, pixels in zip(("a.png", "b.png"), scenes.sample(2).images, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    other = json.loads(
        json.dumps(row)
        .replace("a.png", "b.png")
        .replace("red", "blue")
        .replace('"a cube"', '"a ball"')
        .replace('"b"', '"d"')
    )
    rows = [row, other]
    path = tmp_path / f"metadata.{ending}"
    if ending == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    item, _ = negatives.read(path)
    assert (item.image.name, item.captions[0], len(item.captions)) == ("a.png", "a red cube", captions)
    done = commands.run("embed", "--model", "scenes", "--captions", path, tmp_path / "out", "--json")
    assert json.loads(done.stdout)["captions"] == 2 * captions
    assert done.stderr.count(f"metadata.{ending}: {taken}") == 1
    done = commands.run("evaluate", "csv", "--model", "scenes", "--data", path, "--json")
    assert "t2i_r1" in json.loads(done.stdout)["benchmarks"]["csv"]["models"]["base"]
    assert done.stderr.count(f"metadata.{ending}: {taken}") == 1
    if isinstance(row.get("text"), str) and captions == 1:
        done = commands.run("negatives", path, tmp_path / "o.csv", "--method", "swap", "--attributes", "red,blue")
        assert done.stderr.count(f"metadata.{ending}: {taken}") == 1


def test_one_name_in_two_folders_is_two_images(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder / "c.csv", "image,caption\na.png,x\na.png,y\n")
    items = list(read_items([tmp_path / "one" / "c.csv", tmp_path / "two" / "c.csv"]))
    assert len({item.image.key for item in items}) == 2
    assert [item.image.file.parent.name for item in items] == ["one", "one", "two", "two"]
    assert len({item.image.key for item in read_items(tmp_path / "*" / "c.csv", images=tmp_path)}) == 1


def test_what_only_identifies_an_image_is_no_path(tmp_path):
    path = written(tmp_path / "c.jsonl", '{"caption": "x", "image_id": 7}\n{"caption": "y"}\n')
    assert [item.image and item.image.name for item in read_items(path, require_image=False)] == ["7", None]
    with pytest.raises(ValueError, match="has no column 'image', 'filename', 'filepath', 'image_path' or 'file_name'"):
        read(path)


def test_several_captions_a_row(tmp_path):
    row = {"image": "a.png", "caption": ["one", "", "three"], "negative": [["no", "nor"], None, "never"]}
    good, bad = read(written(tmp_path / "c.jsonl", json.dumps(row)))
    assert good == [("a.png", "one", ["no", "nor"]), ("a.png", "three", ["never"])]
    assert bad == [("c.jsonl line 1", "a.png", "has an empty caption")]
    row["negative"] = ["no"]
    _, bad = read(written(tmp_path / "c.jsonl", json.dumps(row)))
    assert "has 3 captions, so 'negative' must be a list of as many" in bad[0][2]


def test_coco_and_karpathy(tmp_path):
    images = [{"id": 7, "file_name": "7.jpg"}, {"id": 3, "file_name": "3.jpg"}]
    annotations = [{"image_id": 3, "id": 1, "caption": "x"}, {"image_id": 7, "id": 2, "caption": "y"}, {"image_id": 9}]
    for order in ("images", "annotations"), ("annotations", "images"):
        coco = {"info": {"caption": "no row", "image": "no"}, "licenses": [{"id": 1}]}
        coco |= {key: {"images": images, "annotations": annotations}[key] for key in order}
        good, bad = read(written(tmp_path / "c.json", json.dumps(coco)))
        assert good == [("3.jpg", "x", []), ("7.jpg", "y", [])]
        assert bad == [("c.json row 3", "", "names no image")]
    karpathy = {
        "images": [
            {"filepath": "val2014", "filename": "1.jpg", "split": "test", "sentences": [{"raw": "a"}, {"raw": "b"}]},
            {"filename": "2.jpg", "split": "restval", "sentences": [{"raw": "c"}], "cocoid": 2},
        ],
        "dataset": "coco",
    }
    path = written(tmp_path / "dataset_coco.json", json.dumps(karpathy))
    assert read(path) == ([("val2014/1.jpg", "a", []), ("val2014/1.jpg", "b", []), ("2.jpg", "c", [])], [])
    assert read(path, split=("train", "restval")) == ([("2.jpg", "c", [])], [])


@pytest.mark.parametrize("chunk", [1, 3, 10_000])
def test_json_is_read_in_pieces(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(streaming, "_CHUNK", chunk)
    value = {"a": [1, 23, {"b": [4.5e-3, 'x"]é']}], "c": {"d": None}, "e": [], "f": 123}
    elements = list(streaming.stream_json(written(tmp_path / "c.json", json.dumps(value, indent=1))))
    assert elements == [(("a",), 1), (("a",), 23), (("a",), value["a"][2]), ("c", value["c"]), ("f", 123)]
    assert list(streaming.stream_json(written(tmp_path / "c.json", " [ ] "))) == []
    for broken in ('[{"a": 1}', '{"a": [1 2]}', "[1] 2", "3", "", '{"a": 1', "[1,]"):
        with pytest.raises(ValueError, match=r"c\.json is not JSON as it should be"):
            list(streaming.stream_json(written(tmp_path / "c.json", broken)))


def test_unsound_tables_are_errors_that_name_the_file(tmp_path):
    for name, text, message in (
        (
            "c.csv",
            "a,b\n1,2\n",
            r"c\.csv has no column 'caption', 'title', .* or 'text'; it has 'a', 'b'. Pass column=NAME",
        ),
        ("c.csv", "caption,b\n1,2\n", r"no column 'image', 'filename', .*Pass image_column=NAME"),
        ("c.csv", "image;caption\n1;2\n", r"Its columns seem to be separated by ';': write it with commas\.$"),
        ("c.csv", "", r"c\.csv is empty\. Pass a file with captions"),
        ("c.csv", "caption,caption\n1,2\n", "has several columns 'caption'"),
        ("c.csv", 'image,caption\na.png,"open\nb.png,swallowed\n', r"c\.csv near line \d is not sound"),
        ("c.jsonl", '{"caption": "x"}\n', r"it has 'caption'"),
    ):
        with pytest.raises(ValueError, match=message):
            read(written(tmp_path / name, text))
    (tmp_path / "c.csv").write_bytes("image,caption\na.png,na\xefve\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"c\.csv near line \d is not sound: 'utf-8' codec"):
        read(tmp_path / "c.csv")
    with pytest.raises(ValueError, match=r"c\.doc is of no kind that is read"):
        read(written(tmp_path / "c.doc", "a"))
    with pytest.raises(ValueError, match=r"c\.txt has no column 'image', .*; it has 'caption'"):
        read(written(tmp_path / "c.txt", "a"))
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match=r"is a folder with no tars.*Name the files, for example .*c\.csv\."):
        find_inputs(tmp_path)
    with pytest.raises(ValueError, match="names no file, or one twice"):
        find_inputs([tmp_path / "c.txt".replace("txt", "csv")] * 2)
    good, bad = read(written(tmp_path / "c.jsonl", '{"caption": "x", "image": "a"}\nnonsense\n3\n{"caption": 3}\n'))
    assert len(good) == 1
    assert [place for place, _, _ in bad] == ["c.jsonl line 2", "c.jsonl line 3", "c.jsonl line 4"]
    with pytest.MonkeyPatch.context() as patch:  # 16 MiB in truth, as a cell of a csv file
        patch.setattr("labclip.data.rows.LIMIT", 60)
        for name, long in (
            ("c.jsonl", '{"image": "a", "caption": "%s"}\n'),
            ("c.txt", "%s"),
            ("c.csv", "caption\n%s\n"),
        ):
            path = written(tmp_path / name, long % ("a" * 61))
            with pytest.raises(ValueError, match=rf"{name} near line \d is not sound: .*(limit|longer)"):
                list(READERS[path.suffix](path, lambda _: True))
    surrogate = '{"caption": "\\ud800", "image": "a"}'
    assert "not valid Unicode" in read(written(tmp_path / "c.jsonl", surrogate))[1][0][2]


def pack(path, members, **options):
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_tars(tmp_path):
    members = [
        ("d/0.png", picture(0)),
        ("d/0.txt", b"a red cube\n"),
        ("d/0.cls", b"1"),
        ("README", b"no sample"),
        ("d/1.json", json.dumps({"caption": ["x", "y"], "negative": ["xx", "yy"]}).encode()),
        ("d/1.PNG", picture(1)),
        ("d/2.txt", b"without a picture"),
        ("d/3.png", picture(3)),
        ("n" * 120 + "/4.png", picture(4)),
        ("n" * 120 + "/4.txt", b"a long name"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labclip.data.rows.LIMIT", 15)
        _, bad = read(pack(tmp_path / "s.tar", members))
        assert "has a .json of more than 15 bytes" in [reason for _, _, reason in bad]
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        good, bad = read(pack(tmp_path / "s.tar", members, format=kind))
        assert good[:3] == [("d/0.png", "a red cube", []), ("d/1.PNG", "x", ["xx"]), ("d/1.PNG", "y", ["yy"])]
        assert good[3][1] == "a long name"
        assert [place for place, _, _ in bad] == ["s.tar sample d/2", "s.tar sample d/3"]
        assert bad[0][2] == "has no image, only txt"
        assert bad[1][2] == "has an empty caption"


def test_tars_that_end_early_are_errors(tmp_path):
    path = pack(tmp_path / "s.tar", [("0.png", picture(0)), ("0.txt", b"x"), ("1.png", picture(1)), ("1.txt", b"y")])
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        second = tar.getmembers()[2].offset
    for data in (whole[:second], whole[: second + 600], whole[:second] + b"\xff" * 2048):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"s\.tar (is cut off or damaged|is not a whole)"):
            read(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("0.png"))
    with pytest.raises(ValueError, match="is not a whole, uncompressed tar"):
        read(path)


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
    pq.write_table(pa.table({"words": ["x"]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=r"no column 'caption', .* it has 'words'"):
        read(tmp_path / "p.parquet")
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"p\.parquet is not a whole Parquet file"):
        read(tmp_path / "p.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from labclip import cli

    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    path = written(tmp_path / "c.parquet", "x")
    with pytest.raises(ImportError, match=r'Type: pip install "labclip\[data\]"'):
        read(path)
    result = CliRunner().invoke(cli.main, ["embed", "--model", "scenes", "--captions", str(path), str(tmp_path / "o")])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == 'Error: Parquet files need pyarrow. Type: pip install "labclip[data]"'


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


def test_the_plan_is_gone_when_the_folder_is_finished(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(0))
    path = written(tmp_path / "c.csv", "image,caption\na.png,x\n")
    embed(model(), captions=path, out=tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").glob("unfinished*"))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "unfinished.sqlite").write_bytes(b"no database, but long enough to look like one" * 99)
    with pytest.raises(ValueError, match="is damaged"):
        embed(model(), captions=path, out=tmp_path / "new", progress=False)


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
