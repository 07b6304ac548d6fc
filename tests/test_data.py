"""What people have is read as they mean it: every kind of file, every row accounted for."""

import json
import tarfile

import pytest
import rows
from packed import pack, picture

from labclip import negatives
from labclip.checks import NOTE
from labclip.data import find_inputs, read_items


def read(path, **columns):
    """(image's name, caption, negatives) of every caption, and (position, image's name, what is wrong)."""
    good, bad = [], []
    for item in read_items(path, clean=False, **columns):
        if item.problem:
            bad.append((item.location.removeprefix(f"{path.name} "), item.name, item.problem))
        good += [(item.name, text, list(wrong)) for text, wrong in zip(item.captions, item.negatives, strict=True)]
    return good, bad


def lines(*rows):
    return "\n\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


ROWS = [("a.png", "a red cube", ["a blue cube"]), ("b.png", "a naïve, “quoted”\ncaption", [])]
OBJECTS = [{"filename": name, "title": caption, "negative": n or None} for name, caption, n in ROWS]
CSV = '\ufeffimage,caption,negative\r\na.png,a red cube,a blue cube\r\nb.png,"a naïve, “quoted”\ncaption",\r\n'
COCO = {
    "info": {"caption": "no row", "image": "no"},
    "licenses": [{"id": 1}],
    "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 3, "file_name": "3.jpg"}],
    "annotations": [{"image_id": 3, "caption": "x"}, {"image_id": 7, "caption": "y"}, {"image_id": 9}],
}
KARPATHY = {
    "images": [
        {"filepath": "val2014", "filename": "1.jpg", "split": "test", "sentences": [{"raw": "a"}, {"raw": "b"}]},
        {"filename": "2.jpg", "split": "restval", "sentences": [{"raw": "c"}], "cocoid": 2},
    ],
    "dataset": "coco",
}
SEVERAL = {"image": "a.png", "caption": ["one", "two", "three"], "negative": [["no", "nor"], None, "never"]}
NEGCLIP = """\ttitle\tfilepath\tneg_caption\tneg_image\n0\tA dog .\tcoco/1.jpg\t['A cat .', "A dog's ."]\t[1, 2]\n"""
PLACED = [  # what only one of Karpathy's columns says, or both
    ({"filepath": "val2014", "filename": "1.jpg"}, "val2014/1.jpg"),
    ({"filepath": "", "filename": "1.jpg"}, "1.jpg"),
    ({"filepath": "val2014/1.jpg", "filename": "1.jpg"}, "val2014/1.jpg"),
    ({"filepath": "val2014/1.jpg"}, "val2014/1.jpg"),
    ({"image": "own.jpg", "filepath": "val2014", "filename": "1.jpg"}, "own.jpg"),
]


@pytest.mark.parametrize(
    ("name", "text", "columns", "good", "bad"),
    [
        ("c.csv", CSV, {}, ROWS, []),
        ("c.tsv", CSV.replace(", ", "\0").replace(",", "\t").replace("\0", ", "), {}, ROWS, []),
        ("c.jsonl", lines(*OBJECTS), {}, ROWS, []),
        ("c.json", json.dumps(OBJECTS, indent=3), {}, ROWS, []),
        ("c.json", json.dumps({str(n): entry for n, entry in enumerate(OBJECTS)}), {}, ROWS, []),  # SugarCrepe's form
        ("c.csv", "image,caption,negative_10,negative,negative_2\na,b,ten,1,\n", {}, [("a", "b", ["1", "ten"])], []),
        ("c.csv", "image,caption,x\na,b,c\n", {"column": "x", "negative_columns": ["caption"]},
         [("a", "c", ["b"])], []),
        ("c.csv", 'image,caption\na.png,"[1] a dog"\n', {}, [("a.png", "[1] a dog", [])], []),
        ("c.tsv", NEGCLIP, {}, [("coco/1.jpg", "A dog .", ["A cat .", "A dog's ."])], []),
        ("c.jsonl", lines(*({**row, "caption": "x"} for row, _ in PLACED)), {}, [(n, "x", []) for _, n in PLACED], []),
        ("c.json", json.dumps(COCO), {}, [("3.jpg", "x", []), ("7.jpg", "y", [])], [("item 2", "", "names no image")]),
        ("c.json", json.dumps(dict(reversed(COCO.items()))), {}, [("3.jpg", "x", []), ("7.jpg", "y", [])],
         [("item 2", "", "names no image")]),
        ("c.json", json.dumps(KARPATHY), {},
         [("val2014/1.jpg", "a", []), ("val2014/1.jpg", "b", []), ("2.jpg", "c", [])], []),
        ("c.json", json.dumps(KARPATHY), {"split": ("train", "restval")}, [("2.jpg", "c", [])], []),
        ("c.jsonl", lines(SEVERAL), {}, [("a.png", "one", ["no", "nor"]), ("a.png", "two", []),
         ("a.png", "three", ["never"])], []),
        ("c.jsonl", lines({**SEVERAL, "caption": ["one", "", {"raw": " "}]}, {**SEVERAL, "caption": []}), {}, [],
         [(f"line {line}", "a.png", "has an empty list of captions, or an empty one in it") for line in (1, 3)]),
        ("c.jsonl", lines({**SEVERAL, "negative": ["no"]}), {}, [],
         [("line 1", "a.png", "has 3 captions, so 'negative' must be a list of 3, one for each")]),
        ("c.jsonl", lines({"image": "a", "caption": "x"}, {"image": "b", "title": 3}), {}, [("a", "x", [])],
         [("line 3", "b", "has a int where a text should be")]),
        ("c.jsonl", '{"caption": "\\ud800", "image": "a"}', {}, [],
         [("line 1", "a", "holds '\\ud800', which is not valid Unicode")]),
    ],
)  # fmt: skip
def test_every_row_is_read_as_it_is_meant(tmp_path, name, text, columns, good, bad):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read(tmp_path / name, **columns) == (good, bad)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.csv", b"a,b\n1,2\n", r"c\.csv has no column 'caption', .* or 'text'; it has 'a', 'b'. Pass column=NAME"),
        ("c.csv", b"caption,b\n1,2\n", r"no column 'image', 'filename', .*Pass image_column=NAME"),
        ("c.csv", b'image,caption\na.png,"open\nb.png,swallowed\n', r"c\.csv is malformed near line \d"),
        ("c.csv", b"image,caption\na\nb,c\n", "line 2 has fewer cells than the header: 1 for 2 columns"),
        ("c.jsonl", b'{"caption": "x", "image": "y"}\n{\n', "line 2 is not JSON"),
        ("c.json", b"3", r"c\.json holds a int, not a list of rows"),
        ("c.doc", b"a", r"c\.doc can.t be read: its ending is none of"),
        ("c.parquet", b"no parquet", r"c\.parquet is not a complete Parquet file"),
    ],
)
def test_unsound_tables_are_errors_that_name_the_file(tmp_path, name, data, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_missing_and_ambiguous_inputs_are_refused(tmp_path):
    (tmp_path / "c.csv").write_text("image,caption\na,b\n")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match=r"is a folder without tars.*Pass its files"):
        find_inputs(tmp_path)
    with pytest.raises(ValueError, match=r"c\.csv has no column 'split'"):
        read(tmp_path / "c.csv", split=("test",))
    (tmp_path / "c.csv").write_text("image,caption,split\na,b,train\n")
    with pytest.raises(ValueError, match="has no row of split 'test'; it has train"):
        read(tmp_path / "c.csv", split=("test",))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet", "tar"])
@pytest.mark.parametrize("column", ["negative", "neg_caption"])
def test_a_list_of_negatives_is_read_everywhere(tmp_path, ending, column):
    path, listed = tmp_path / f"c.{ending}", ["a cat's", 'a "cow"']
    row = {"image": "a.png", "caption": "a dog", column: listed}
    if ending == "tar":
        pack(path, [("a.png", picture(0)), ("a.json", json.dumps(row).encode())])
    elif ending in ("csv", "tsv"):
        rows.write(path, [row | {column: json.dumps(listed)}, row | {column: str(listed)}])
    else:
        rows.write(path, [row])
    good, bad = read(path)
    assert not bad
    assert set(map(str, good)) == {str(("a.png", "a dog", listed))}
    assert [item.negatives for item in negatives.read(path)] == [(tuple(listed),)] * len(good)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_usual_names_of_columns_are_taken_in_order_and_told(tmp_path, caplog, ending):
    caplog.set_level(NOTE)
    for row, captions, taken in (
        ({"file_name": "a.png", "text": "a red cube"}, ["a red cube"], "'text', images from 'file_name'"),
        ({"image": "a.png", "sentences": [{"raw": "a cube"}]}, ["a cube"], "'sentences', images from 'image'"),
        ({"image": "a.png", "captions": ["a cube", "red"], "text": "c"}, ["a cube", "red"], "'captions', images from"),
    ):
        (item,) = read_items(rows.write(tmp_path / f"metadata.{ending}", [row]))
        assert (item.image.name, list(item.captions)) == ("a.png", captions)
        assert f"metadata.{ending}: captions from {taken}" in caplog.messages[-1]


def test_one_name_in_two_folders_is_two_images(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.csv").write_text("image,caption\na.png,x\na.png,y\n")
    items = list(read_items([tmp_path / "one" / "c.csv", tmp_path / "two" / "c.csv"]))
    assert len({item.image.key for item in items}) == 2
    assert [item.image.file.parent.name for item in items] == ["one", "one", "two", "two"]
    assert len({item.image.key for item in read_items(tmp_path / "*" / "c.csv", images=tmp_path)}) == 1


def test_what_only_identifies_an_image_is_no_path(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"caption": "x", "image_id": 7}\n{"caption": "y"}\n')
    assert [item.image and item.image.name for item in read_items(path, require_image=False)] == ["7", None]
    with pytest.raises(ValueError, match="has no column 'image', 'filename', 'filepath', 'image_path' or 'file_name'"):
        read(path)


SHOWN = [  # columns, and the negatives with their images, or what is wrong
    ({"negatives": ["one", "", "two", "one"], "shown": ["1", "0", None, "2"]}, (["one", "two"], ["1", None])),
    ({"caption": ["x", "y"], "negatives": [["one", "two"], None], "shown": [["1", "2"], None]},
     (["one", "two"], ["1", "2"])),
    ({"negatives": ["...", "A ball.", "a ball"], "shown": ["1", None, "2"]}, (["a ball"], ["2"])),
    ({"negatives": ["one", "two"], "shown": ["1"]}, "has 2 in 'negatives' but 1 in 'shown'"),
    ({"negatives": "one", "shown": 7}, "has an image that is a int, not a path"),
    ({"negative": "one", "negative_2": "two", "shown": "", "second": "2"}, (["one", "two"], [None, "2"])),
    ({"negative_2": "two", "shown": "", "second": "2"}, "names an image in 'second', but has no column of negatives"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "wanted"), SHOWN)
def test_images_of_negatives_are_read_beside_them(tmp_path, row, wanted):
    (tmp_path / "c.jsonl").write_text(json.dumps({"image": "a.png", "caption": "x"} | row))
    columns = ("shown", "second") if "second" in row else ("shown",)
    (item,) = read_items(tmp_path / "c.jsonl", negative_images=columns, clean=True)
    if isinstance(wanted, str):
        assert item.problem.startswith(wanted)
    else:
        images = [image and image.name for image in item.negative_images[0]]
        assert (list(item.negatives[0]), images, item.problem) == (*wanted, "")


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
        ("5.png", picture(2)),
        ("5.txt", b"caf\xe9"),
        ("n" * 120 + "/4.png", picture(4)),
        ("n" * 120 + "/4.txt", b"a long name"),
    ]
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        good, bad = read(pack(tmp_path / "s.tar", members, format=kind))
        assert good[:3] == [("d/0.png", "a red cube", []), ("d/1.PNG", "x", ["xx"]), ("d/1.PNG", "y", ["yy"])]
        assert good[3][1] == "a long name"
        assert [place for place, _, _ in bad] == ["sample d/2", "sample d/3", "sample 5"]
        assert [problem for *_, problem in bad[:2]] == ["names no image", "has an empty caption"]
        assert "is not valid Unicode" in bad[2][2]


def test_tars_that_end_early_are_errors(tmp_path):
    path = pack(tmp_path / "s.tar", [("0.png", picture(0)), ("0.txt", b"x"), ("1.png", picture(1)), ("1.txt", b"y")])
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        second = tar.getmembers()[2].offset
    for data in (whole[:second], whole[: second + 600], whole[:second] + b"\xff" * 2048):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"s\.tar (is cut off or damaged|is not a complete)"):
            read(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("0.png"))
    with pytest.raises(ValueError, match="is not a complete, uncompressed tar"):
        read(path)


def test_an_image_in_parquet_is_read_where_it_lies_and_known_by_its_bytes(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": picture(number), "path": None} for number in (0, 1, 0)]
    pq.write_table(pa.table({"image": images, "caption": ["x", "y", "z"]}), tmp_path / "c.parquet", row_group_size=2)
    items = list(read_items(tmp_path / "c.parquet"))
    assert [item.image.data for item in items] == [None] * 3  # a file of them may be larger than memory
    assert [item.image.read() for item in items] == [picture(0), picture(1), picture(0)]
    assert items[0].image.key == items[2].image.key != items[1].image.key
