"""BiVLC, Cola, EqBen, MMVP-VLM, NaturalBench, VALSE, VL-CheckList: official forms, held to plain loops."""

import json
from pathlib import PurePath

import numpy as np
import pytest
from evaluated import counts, image_file, read, values

from labclip.evaluation import evaluate


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def bivlc(folder, n, **changed):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows, items = [], []
    for number in range(n):
        files = [image_file(folder / "made" / f"{number}_{side}.png") for side in (0, 1)]
        kind = ("replace", "swap", "add")[number % 3]
        held = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        captions = [f"caption {number}", f"negative {number}"]
        rows.append({
            "image": held[0], "caption": captions[0], "negative_caption": captions[1], "negative_image": held[1],
            "type": kind, "subtype": "obj", **(changed if number == 2 else {}),
        })  # fmt: skip
        # The row's place is the image's name.
        names = [f"{number // 5} row {number % 5 + 1} {column}" for column in ("image", "negative_image")]
        items.append((names, captions, kind))
    (folder / "data").mkdir()
    for shard in range(0, n, 5):
        table = arrow.Table.from_pylist(rows[shard : shard + 5])
        parquet.write_table(table, folder / "data" / f"test-{shard // 5:05}-of-{(n - 1) // 5 + 1:05}.parquet")
    return items


def cola(folder, n, **changed):
    entries, items = [], []
    for number in range(n):
        names = [f"{number}{side}.jpg" for side in (0, 1)]
        captions = [f"red cup {number}", f"blue cup {number}"]
        links = [f"https://cs-people.bu.edu/array/data/vg_gqa_images/{name}" for name in names]
        entries.append([links[0], captions[0], links[1], captions[1]])
        items.append((names, captions, ""))
        for name in names:
            image_file(folder / name)
    if changed:
        entries[2] = changed["row"]
    dump(folder / "COLA_multiobjects_matching_benchmark.json", entries)
    return items


def eqben(folder, n, **changed):
    entries, items = [], []
    for number in range(n):
        kind = ("eqbensd", "eqbenkubric_cnt", "eqbenyoucook2")[number % 3]
        names = [f"{kind}/{number}_{side}.{'npy' if kind == 'eqbenyoucook2' else 'png'}" for side in (0, 1)]
        captions = [f"before {number}", f"after {number}"]
        # Action Genome's captions are lists.
        said = [[captions[0], "another"], captions[1]] if number == 1 else captions
        entries.append({"image0": names[0], "image1": names[1], "caption0": said[0], "caption1": said[1]})
        items.append((names, captions, kind))
        for side, name in enumerate(names):
            path = folder / "images" / name
            if name.endswith("npy"):
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, np.full((4, 6, 3), (number, side, 200), dtype=np.uint8))
            else:
                image_file(path)
    entries[2].update(changed)
    dump(folder / "all_select.json", entries)
    return items


def mmvp(folder, n, **changed):
    lines, items = ["Question ID,Type,Statement"], []
    for number in range(1, 2 * n, 2):
        kind = ("Orientation", "Camera Perspective")[number // 2 % 2]
        statements = [f"a dog {number}", f'"a dog, its back {number}"']
        lines += [f"{number + side},{kind},{statement}" for side, statement in enumerate(statements)]
        names = [f"{number + side}.jpg" for side in (0, 1)]
        for name in names:
            image_file(folder / "MLLM_VLM Images" / kind / name)
        captions = [f"a photo of {one.strip(chr(34))}" for one in statements]
        items.append((names, captions, kind.lower().replace(" ", "_")))
    if changed:
        lines[5] = changed["row"]
    (folder / "Questions.csv").write_text("\n".join(lines))
    return items


def naturalbench(folder, n, **changed):
    entries, items = [], []
    for number in range(n):
        names = [f"{number}_{side}.jpg" for side in (0, 1)]
        captions = [f"two dogs {number}", f"three dogs {number}"]
        entries.append({"index": number, "image_0": names[0], "image_1": names[1],
                        "caption_0": captions[0], "caption_1": captions[1]})  # fmt: skip
        items.append((names, captions, ""))
        for name in names:
            image_file(folder / "images" / name)
    entries[2].update(changed)
    dump(folder / "metadata.json", entries)
    return items


def test_bivlcs_images_stay_in_their_file_until_they_are_encoded(tmp_path):
    bivlc(tmp_path, 6)
    task = read("bivlc", tmp_path)
    assert all(one.data is None for one in task.images)
    made = [(tmp_path / "made" / f"{number}_{side}.png").read_bytes() for number in range(6) for side in (0, 1)]
    assert [one.read() for one in task.images] == made
    assert read("bivlc", tmp_path / "data" / "test-00001-of-00002.parquet").captions == ["caption 5", "negative 5"]


def test_an_image_that_bivlcs_file_lacks_is_named(tmp_path, model):
    bivlc(tmp_path, 4, negative_image={"bytes": None, "path": None})
    with pytest.raises(ValueError, match=r"test-00000-of-00001\.parquet row 3 negative_image"):
        evaluate(model, "bivlc", data=tmp_path, cache=None, progress=False)


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("bivlc", {"caption": None}, r"test-00000-of-00001\.parquet row 3: the caption is None"),
        (
            "cola",
            {"row": ["a.jpg", "a cup"]},
            r"benchmark\.json item 2 has no 2: \['a\.jpg', 'a cup'\] is too short",
        ),
        ("cola", {"row": [3, "a cup", "b.jpg", "a jug"]}, r"item 2 image 0: the image's name is 3"),
        ("eqben", {"caption1": 7}, r"all_select\.json item 2: the caption is 7"),
        ("eqben", {"image0": "../up.png"}, r"item 2 image 0: the image's name '\.\./up\.png' leads out of"),
        ("mmvp-vlm", {"row": "5b,Orientation,a dog"}, r"Questions\.csv line 6: Question ID is '5b'"),
        ("mmvp-vlm", {"row": "4,Orientation,a dog"}, r"line 7: of questions 5 and 6 only one is there"),
        (
            "mmvp-vlm",
            {"row": "50,Orientation,a dog"},
            r"line 6: of questions 49 and 50 only one is there",
        ),
        ("mmvp-vlm", {"row": "5,Orientation,"}, r"line 6: the caption is ''"),
        ("naturalbench", {"caption_0": ""}, r"metadata\.json item 2: the caption is ''"),
    ],
)
def test_a_malformed_row_of_pairs_is_named(tmp_path, name, changed, said):
    {"bivlc": bivlc, "cola": cola, "eqben": eqben, "mmvp-vlm": mmvp, "naturalbench": naturalbench}[name](
        tmp_path, 4, **changed
    )
    with pytest.raises(ValueError, match=said):
        read(name, tmp_path, on_missing="skip")


def test_a_column_or_file_that_is_not_there(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with pytest.raises(FileNotFoundError, match=r"has no test\.parquet\. Get it there"):
        read("bivlc", tmp_path)
    rows = [{"image": b"", "caption": "a", "negative_caption": "b", "type": "add"}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "test-0.parquet")
    with pytest.raises(ValueError, match=r"test-0\.parquet row 1 has no negative_image"):
        read("bivlc", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no Attribute/vg/color\.json and no other file\. Get it there"):
        read("vl-checklist", tmp_path)


def test_one_caption_twice_counts_as_wrong(tmp_path):
    items = naturalbench(tmp_path, 3, caption_0="same", caption_1="same")
    task = read("naturalbench", tmp_path)
    assert task.notes == ["1 items have the right caption among the wrong ones: a tie, so wrong."]
    right = {(items[n][0][side], items[n][1][side]) for n in (0, 1) for side in (0, 1)}
    found = values(task, lambda name, caption: float((PurePath(name).name, caption) in right or caption == "same"))
    assert found == {"text": 2 / 3, "image": 2 / 3, "group": 2 / 3}


def test_youcook2s_frames_are_blue_first(tmp_path):
    eqben(tmp_path, 3)
    task = read("eqben", tmp_path)
    (frame,) = (one for one in task.images if one.name.endswith("2_1.npy"))
    assert frame.decode(frame.read()).getpixel((5, 3)) == (200, 1, 2)
    path = tmp_path / "images" / "eqbenyoucook2" / "2_1.npy"
    np.save(path, np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"2_1\.npy is uint8 \(4, 4\), not pixels"):
        read("eqben", tmp_path)
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"2_1\.npy is not a whole NumPy array"):
        read("eqben", tmp_path)


VALSE = {
    "existence": "v7w_{}.jpg", "plurals": "00000000000{}.jpg", "counting-hard": "v7w_1{}.jpg",
    "counting-small-quant": "v7w_2{}.jpg", "counting-adversarial": "v7w_3{}.jpg", "relations": "00000000001{}.jpg",
    "action-replacement": "exercising_{}.jpg", "actant-swap": "rotting_{}.jpg",
    "coreference-standard": "COCO_train2014_{}.jpg", "coreference-hard": "VisualDialog_val2018_{}.jpg",
    "foil-it": "COCO_val2014_{}.jpg",
}  # fmt: skip


def valse(folder, n, **changed):
    """The items that count, by file."""
    counted = {}
    for name, file in VALSE.items():
        entries = {}
        for number in range(n):
            entry = {
                "dataset": "some", "image_file": file.format(number), "caption": f"{name} {number}",
                "foil": f"no {name} {number}", "mturk": {"foil": 0, "caption": number % 4, "other": 0},
            }  # fmt: skip
            entries[f"{name}_{number}"] = entry
            image_file(folder / "images" / file.format(number))
            if number % 4 >= 2:
                counted.setdefault(name, []).append(entry)
        if name == "relations":
            entries["relations_2"].update(changed)
        dump(folder / "data" / f"{name}.json", entries)
    return counted


def test_valse_finds_the_images_of_each_source(tmp_path):
    valse(tmp_path, 3)
    folders = {
        "v7w": "visual7w/images", "COCO_train": "train2014", "COCO_val": "val2014",
        "Vis": "VisualDialog_val2018", "0": "val2017", "": "images_512",
    }  # fmt: skip
    for path in (tmp_path / "images").iterdir():
        place = next(folder for start, folder in folders.items() if path.name.startswith(start))
        (tmp_path / "sorted" / place).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "sorted" / place / path.name)
    assert counts(read("valse", tmp_path / "data", tmp_path / "sorted"))["macro"] == 11
    (tmp_path / "sorted" / "val2017" / "000000000012.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 11 images are missing, for example .*000000000012\.jpg"):
        read("valse", tmp_path / "data", tmp_path / "sorted")
    task = read("valse", tmp_path / "data", tmp_path / "sorted", on_missing="skip")
    assert counts(task)["macro"] == 10
    assert "No item is left of relations: means over subsets are of the others alone." in task.notes


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mturk": 3}, r"relations\.json item relations_2 is a int, not an object with caption"),
        ({"mturk": {"foil": 1}}, r"relations_2 has no caption; it has foil"),
        ({"mturk": {"caption": "3"}}, r"relations_2: mturk\.caption is '3', not a number"),
        ({"foil": None}, r"relations_2: the caption is None"),
        ({"image_file": None}, r"relations_2: the image's name is None"),
    ],
)
def test_a_malformed_item_of_valse_is_named(tmp_path, changed, said):
    valse(tmp_path, 4, **changed)
    with pytest.raises(ValueError, match=said):
        read("valse", tmp_path / "data", tmp_path / "images")


CHECKLIST = {
    "Attribute/vg/color": ("vg", "attribute_color_vg"),
    "Attribute/vaw/action": ("vg", "attribute_action_vaw"),
    "Object/Location/hake_location/hake_obj_mid": ("hake", "object_mid_hake"),
    "Object/Size/swig_size/swig_agent/swig_agent_small": ("swig", "object_small_swig"),
    "Object/Size/swig_size/swig_tool/swig_tool_small": ("swig", "object_small_swig"),
    "Object/Size/vg_size/vg_subj_large": ("vg", "object_large_vg"),
    "Relation/vg/spatial": ("vg", "relation_spatial_vg"),
    "Relation/swig_action": ("swig", "relation_action_swig"),
}


def checklist(folder, n, row=None):
    made = {}
    for place, (name, (root, _)) in enumerate(CHECKLIST.items()):
        entries = []
        for number in range(n + place):
            path = f"VG_100K/{place}_{number}.jpg" if root == "vg" else f"{place}_{number}.jpg"
            image_file(folder / "images" / root / path)
            texts = {"POS": [f"red cup {number}", "unused"], "NEG": [f"blue cup {number} {place}", "unused"]}
            entries.append([path, texts])
        if row is not None and name == "Relation/vg/spatial":
            entries[1] = row
        dump(folder / "data" / f"{name}.json", entries)
        made[name] = entries
    dump(folder / "data" / "Object" / "Size" / "swig_size" / "swig_place" / "swig_place_large.json", [])
    return made


def test_vl_checklist_counts_images_that_are_there(tmp_path):
    checklist(tmp_path, 7)
    (tmp_path / "images" / "vg" / "VG_100K" / "0_0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 41 images are missing, for example .*0_0\.jpg"):
        read("vl-checklist", tmp_path / "data", tmp_path / "images", limit=5)
    for limit, n in ((5, 5), (0, 6)):
        task = read("vl-checklist", tmp_path / "data", tmp_path / "images", on_missing="skip", limit=limit)
        assert counts(task)["attribute_color_vg"] == n


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["a.jpg"], r"Relation/vg/spatial\.json item 1 has no 1\.POS\.0: \['a\.jpg'\] is too short"),
        (["a.jpg", {"POS": ["a"]}], r"Relation/vg/spatial\.json item 1 has no NEG; it has POS"),
        (["a.jpg", {"POS": ["a"], "NEG": []}], r"spatial\.json item 1 has no 1\.NEG\.0: \[\] is too short"),
        (["6_1.jpg", {"POS": [3], "NEG": ["a"]}], r"spatial\.json item 1: the caption is 3"),
    ],
)
def test_a_malformed_item_of_vl_checklist_is_named(tmp_path, row, said):
    checklist(tmp_path, 3, row=row)
    image_file(tmp_path / "images" / "vg" / "6_1.jpg")
    with pytest.raises(ValueError, match=said):
        read("vl-checklist", tmp_path / "data", tmp_path / "images", on_missing="skip")
