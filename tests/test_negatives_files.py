"""Captions and negatives from and to files: nothing lost, nothing half written, bad input named with its line."""

import json
import os
from functools import partial

import commands
import pytest
import rows
from hypothesis import given
from hypothesis import strategies as st

from labclip.negatives import Shuffler, add, read, swap

COLOURS = ["red", "blue", "green"]
ROWS = [
    {"id": "1", "image": "a.jpg", "caption": 'A red cube, "near" a blue ball.', "note": "x,y\tz"},
    {"id": "2", "image": "b.jpg", "caption": "a red cube", "note": ""},
    {"id": "3", "image": "c.jpg", "caption": "", "note": "ünï"},
    {"id": "4", "image": "d.jpg", "caption": "a green cup\non a red tray", "note": "[1]"},
    {"id": "5", "image": "d.jpg", "caption": "a red cup on a green tray", "note": ""},
]
NEGATIVES = ['A blue cube, "near" a red ball.', None, None, "a red cup\non a green tray", "a green cup on a red tray"]
FORMATS = [".csv", ".tsv", ".jsonl", ".parquet"]


def said(item):
    """The one caption of an item, its negatives and its image's name."""
    (caption,), (negatives,) = item.captions, item.negatives
    return caption, negatives, item.image and item.image.name


run = partial(commands.run, "negatives")


def swaps(source, out, *more, code=0):
    return run(source, out, "--method", "swap", "--attributes", ",".join(COLOURS), *more, code=code)


fails = partial(commands.fails, "negatives")


@pytest.mark.parametrize("out", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_rows_and_columns_stay_and_a_negative_is_added(source, out, tmp_path):
    path = rows.write(tmp_path / f"in{source}", ROWS)
    result = swaps(path, tmp_path / f"out{out}", "--image-column", "id")
    assert "5/5" in result.stderr
    assert result.stdout == f"{tmp_path / f'out{out}'}: 3 negatives for 3 captions, none for 2\n"
    empty = "" if out in (".csv", ".tsv") else None
    expected = [{**row, "negative": negative or empty} for row, negative in zip(ROWS, NEGATIVES, strict=True)]
    assert rows.read(tmp_path / f"out{out}") == expected


@pytest.mark.parametrize("source", [".jsonl", ".parquet"])
def test_a_list_of_one_caption_is_cleaned_to_a_text_in_parquet(source, tmp_path):
    path = rows.write(tmp_path / f"in{source}", [{"image": "1", "captions": ["A red cup on a green tray."]}])
    swaps(path, tmp_path / "out.parquet", "--clean")
    assert rows.read(tmp_path / "out.parquet")[0]["captions"] == "a red cup on a green tray"


def test_captions_of_one_image_are_no_negatives_of_one_another(tmp_path):
    table = [{"image": "1", "title": title} for title in ("a red cup on a green tray", "A GREEN cup on a red tray!")]
    path = rows.write(tmp_path / "in.csv", table)
    swaps(path, tmp_path / "out.csv")
    assert [row["negative"] for row in rows.read(tmp_path / "out.csv")] == ["", ""]
    swaps(path, tmp_path / "all.csv", "--image-column", "title")
    assert "" not in [row["negative"] for row in rows.read(tmp_path / "all.csv")]


def test_more_negatives_are_more_columns_and_odd_rows_of_jsonl_stay(tmp_path):
    row = {"caption": "a red cup on a blue and a green tray", "image_id": 7, "x": [1, {"y": None}]}
    path = rows.write(tmp_path / "in.jsonl", [row, {"caption": None, "z": 0.1}])
    result = swaps(path, tmp_path / "out.jsonl", "--k", 3, "--json")
    counts = {"captions": 2, "with_negative": 1, "negatives": 2, "same_meaning": 0}
    assert json.loads(result.stdout) == {"out": str(tmp_path / "out.jsonl"), **counts}
    first, second = rows.read(tmp_path / "out.jsonl")
    trays = {"a blue cup on a red and a green tray", "a green cup on a blue and a red tray"}
    assert {first.pop("negative"), first.pop("negative_2")} == trays
    assert (first, second["z"]) == ({**row, "negative_3": None}, 0.1)
    assert [item.image.name for item in read(tmp_path / "out.jsonl")] == ["7"]


def test_shuffles_that_mean_the_same_are_counted_and_left_out(tmp_path):
    (tmp_path / "in.txt").write_text("a dog and a cat\na dog on the left of a cat\n")
    kinds = {"dog": "NN", "cat": "NN", "left": "NN"}
    counts = add(tmp_path / "in.txt", tmp_path / "out.csv", Shuffler(lambda words: [kinds.get(w, "X") for w in words]))
    assert (counts.with_negative, counts.same_meaning) == (1, 1)
    assert rows.read(tmp_path / "out.csv")[1]["negative"] == "a cat on the left of a dog"  # words of position stay


def test_lines_of_text_are_captions_and_attributes(tmp_path):
    (tmp_path / "in.txt").write_bytes("\ufeffa red cup on a blue tray\r\n\r\nA dog left of a cup".encode())
    (tmp_path / "words.txt").write_text("red\nblue\n\nleft/right\n")
    run(tmp_path / "in.txt", tmp_path / "out.tsv", "--method", "swap", "--attributes", tmp_path / "words.txt")
    assert rows.read(tmp_path / "out.tsv") == [
        {"caption": "a red cup on a blue tray", "negative": "a blue cup on a red tray"},
        {"caption": "", "negative": ""},
        {"caption": "A dog left of a cup", "negative": "A dog right of a cup"},
    ]


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    path, out = rows.write(tmp_path / "in.csv", ROWS), tmp_path / "out.csv"
    out.write_text("precious")
    arguments = ("--method", "swap", "--attributes", "red,blue")
    assert "already exists. Pass another file, or --force" in fails(path, out, *arguments)
    assert out.read_text() == "precious"
    (tmp_path / "link.csv").symlink_to(path)
    assert "already exists" in fails(path, tmp_path / "link.csv", *arguments)
    assert rows.read(path) == ROWS
    for target in (out, tmp_path / "link.csv"):
        run(path, target, *arguments, "--force")
    assert (tmp_path / "link.csv").is_symlink()
    assert path.read_text() == out.read_text()


def test_a_failure_half_way_leaves_nothing(tmp_path):
    """The flaw stands behind the first batch; a run that fails while writing, too, must take its part file along."""
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"caption": "a red cup on a blue tray"})] * 3000
    path.write_text("\n".join([*lines, "{broken"]))
    arguments = ("--method", "swap", "--attributes", "red,blue")
    assert "in.jsonl line 3001 is not JSON" in fails(path, tmp_path / "out.csv", *arguments)
    path.write_text("\n".join([*lines, '{"caption": "x", "new": 1}']))
    result = run(path, tmp_path / "out.csv", *arguments, code=2)
    assert "line 3001 has a column 'new' that the first row lacks. Write OUT as .jsonl" in result.stderr
    path.write_text("\n".join([*lines, '{"caption": "x", "negative": "y"}']))
    run(path, tmp_path / "out.jsonl", *arguments, code=2)
    assert os.listdir(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"caption\n", "in.csv has no captions."),
        ("in.json", b'{"one": {"caption": ["x", "y"]}}', "in.json item one has 2 captions. Write one caption per row."),
        ("in.csv", b"caption,negative\nx,y\n", "in.csv already has a column 'negative'."),
        ("in.tar", b"x", "in.tar is not a table"),
    ],
)
def test_bad_input_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in fails(tmp_path / name, tmp_path / "out.csv", "--method", "swap", "--attributes", "red,blue")
    assert os.listdir(tmp_path) == [name]


def test_parquet_keeps_types_metadata_and_what_it_does_not_understand(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "caption": pa.array(["a red cup on a blue tray", None] * 1500, pa.large_string()),
            "image": pa.array([{"bytes": b"\x00\xff"}] * 3000),
            "when": pa.array([1_700_000_000_123_456_789] * 3000, pa.timestamp("ns")),
            "kind": pa.array(["x", "y"] * 1500).dictionary_encode(),
        }
    ).replace_schema_metadata({"pandas": "kept"})
    pq.write_table(table, tmp_path / "in.parquet")
    before = pq.read_table(tmp_path / "in.parquet")
    swaps(tmp_path / "in.parquet", tmp_path / "out.parquet")
    after = pq.read_table(tmp_path / "out.parquet")
    assert after.drop_columns("negative").equals(before, check_metadata=True)
    assert after["negative"].to_pylist() == ["a blue cup on a red tray", None] * 1500
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 1
    pq.write_table(table.select(["caption", "image"]), tmp_path / "image.parquet")
    stderr = swaps(tmp_path / "image.parquet", tmp_path / "o.csv", code=2).stderr
    assert "holds an image in 'image'. Only Parquet can" in stderr
    # Images may be told apart by their bytes, where that is asked for; an empty caption stays as it is, cleaned or not.
    more = ("--image-column", "image", "--clean")
    swaps(tmp_path / "in.parquet", tmp_path / "same.parquet", *more)
    assert pq.read_table(tmp_path / "same.parquet").equals(after)


def test_read_of_ones_own_columns(tmp_path):
    table = [{"text": "A dog on a bed.", "hard": ["A bed on a dog.", "a dog on a bed"], "negative": "[sic] a dog"}]
    path = rows.write(tmp_path / "in.jsonl", table)
    (item,) = read(path, column="text", negative_column="hard")
    assert said(item) == ("A dog on a bed.", ("A bed on a dog.",), None)
    (item,) = read(path, column="text")
    assert said(item) == ("A dog on a bed.", ("[sic] a dog",), None)
    (item,) = read(path, column="text", negative_column="hard", clean=True)
    assert said(item) == ("a dog on a bed", ("a bed on a dog",), None)
    with pytest.raises(ValueError, match=r"has no column 'soft'; it has 'text', 'hard', 'negative'"):
        read(path, column="text", negative_column="soft")


@given(
    st.lists(
        st.fixed_dictionaries(
            {"caption": st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1)}
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([".csv", ".tsv", ".jsonl"]),
)
def test_any_text_survives(tmp_path_factory, table, ending):
    folder = tmp_path_factory.mktemp("any")
    path = rows.write(folder / f"in{ending}", table)
    swaps(path, folder / f"out{ending}")
    captions = [row["caption"] for row in table if row["caption"].strip()]
    assert not captions or [said(item)[0] for item in read(folder / f"out{ending}")] == captions
    expected = swap([row["caption"] for row in table], COLOURS)
    assert [row["negative"] or None for row in rows.read(folder / f"out{ending}")] == expected
