"""What nobody meant to pass: wrong types, hostile names, broken files. Errors name file and item; nothing crashes."""

import json

import pytest
from evaluated import features, image_file, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.sources import Sources
from labclip.files import read_json

BOX = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 4, "bbox_h": 4}
CAPTIONED = {"filename": "a.jpg", "caption": "one", "negative_caption": "two"}
PLUS = {**CAPTIONED, "caption2": "three"}
FILES = {
    "sugarcrepe": [f"{name}.json" for name in ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel",
                                               "swap_att", "swap_obj")],
    "sugarcrepe-pp": [f"{name}.json" for name in ("replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")],
    "vg-r": ["visual_genome_relation.json"],
    "vg-a": ["visual_genome_attribution.json"],
    "coco": ["coco_karpathy_test.json"],
    "coco-negatives": ["coco_karpathy_test.json"],
    "flickr30k-order": ["flickr30k_test.json"],
    "colorswap": ["test.json"],
    "whatsup": ["controlled_images_dataset.json"],
    "eqben": ["all_select.json"],
    "naturalbench": ["metadata.json"],
    "valse": [name for (name,) in BENCHMARKS["valse"].read.args[0]["files"]],
}  # fmt: skip
ITEMS = {
    "sugarcrepe": CAPTIONED,
    "sugarcrepe-pp": PLUS,
    "vg-r": {"image_path": "a.jpg", "true_caption": "x", "false_caption": "y", "relation_name": "on", **BOX},
    "vg-a": {"image_path": "a.jpg", "true_caption": "x", "false_caption": "y", "attributes": ["red", "old"], **BOX},
    "coco": {"image": "a.jpg", "caption": ["one dog", "two cats"]},
    "coco-negatives": {"image": "a.jpg", "caption": ["a red dog and a blue cat", "two"]},
    "flickr30k-order": {"image": "a.jpg", "caption": ["a red dog and a blue cat", "two"]},
    "colorswap": {"image_1": "a.jpg", "image_2": "b.jpg", "caption_1": "x y", "caption_2": "y x"},
    "whatsup": {"image_path": "mug_on_plate.jpeg", "caption_options": ["one", "two"]},
    "eqben": {"image0": "a.jpg", "image1": "b.jpg", "caption0": "x y", "caption1": "y x"},
    "naturalbench": {"image_0": "a.jpg", "image_1": "b.jpg", "caption_0": "x y", "caption_1": "y x"},
    "valse": {"image_file": "a.jpg", "caption": "one", "foil": "two", "mturk": {"caption": 3}},
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["../../x", "/etc/passwd", "a\0b", "..", ".", "", " ", "a.jpg/..", "\ud800", "a" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def write(folder, name, items):
    for file in FILES[name]:
        (folder / file).write_text(json.dumps(items))
    for image_name in ("a.jpg", "b.jpg", "mug_on_plate.jpeg"):
        image_file(folder / image_name)


@pytest.mark.parametrize("name", FILES)
def test_a_sound_item_is_read(tmp_path, name):
    write(tmp_path, name, [ITEMS[name]])
    assert read(name, tmp_path).questions


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_is_read_or_refused(tmp_path, name, data):
    """Refused is a ValueError or a FileNotFoundError; anything else is a crash."""
    field = data.draw(st.sampled_from(sorted(ITEMS[name])))
    item = {**ITEMS[name], field: data.draw(anything)}
    write(tmp_path, name, data.draw(st.sampled_from([[ITEMS[name], item], {"k": item}])))
    task, said = None, ""
    try:
        task = read(name, tmp_path)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    if task is None:
        assert any(
            part in said for part in (*FILES[name], "images are missing", "has no item", "no item has a negative")
        )
    else:
        assert task.questions
        assert all(one.file.resolve().parent == tmp_path.resolve() for one in task.images)


def test_items_that_ask_nothing_are_refused(tmp_path):
    """One image with one caption that no shuffle changes: nothing to choose from, and no gallery."""
    write(tmp_path, "coco-negatives", [{"image": "a.jpg", "caption": ["0"]}])
    with pytest.raises(ValueError, match="no item has a negative, and retrieval needs at least two images"):
        read("coco-negatives", tmp_path)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=anything)
def test_any_file_is_read_or_refused(tmp_path, name, value):
    write(tmp_path, name, value)
    with pytest.raises((ValueError, FileNotFoundError)):
        read(name, tmp_path)


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, item in ITEMS.items() for field in item])
def test_a_field_that_is_not_there_is_named(tmp_path, name, field):
    item = {key: value for key, value in ITEMS[name].items() if key != field}
    write(tmp_path, name, [ITEMS[name], item])
    with pytest.raises(ValueError, match=rf"{FILES[name][0]} (item 1|row 2) has no {field}; it has"):
        read(name, tmp_path)


@pytest.mark.parametrize("name", ["sugarcrepe", "sugarcrepe-pp", "vg-r", "vg-a"])
def test_a_caption_that_is_its_negative_is_a_tie_that_the_notes_count(tmp_path, name):
    wrong = {"caption": "same", "negative_caption": "same", "true_caption": "same", "false_caption": "same"}
    write(tmp_path, name, [ITEMS[name], {**ITEMS[name], **wrong}])
    task = read(name, tmp_path)
    images, texts = features(task, lambda name, caption: float(caption in ("one", "three", "x", "same")))
    scores = task.questions[0].score(images, texts)[0]
    assert scores.correct.tolist() == [True, False] * (len(scores.correct) // 2)
    files = len(FILES[name])
    assert f"{files:,} items have the right caption among the wrong ones: a tie, so wrong." in task.notes


@pytest.mark.parametrize("hostile", ["../../x", "/etc/passwd", "..", ".", "a/../../b.jpg"])
def test_a_name_that_leads_out_of_the_folder(tmp_path, hostile):
    write(tmp_path, "sugarcrepe", {"0": {**CAPTIONED, "filename": hostile}})
    with pytest.raises(ValueError, match=r"add_att\.json item 0: the image's name .* leads out of .*images=DIR"):
        read("sugarcrepe", tmp_path)


@pytest.mark.parametrize("hostile", ["a\0.jpg", "", "  ", None, ["a.jpg"]])
def test_a_name_that_is_none(tmp_path, hostile):
    write(tmp_path, "sugarcrepe", {"0": {**CAPTIONED, "filename": hostile}})
    with pytest.raises(ValueError, match=r"item 0: the image's name is .*Every item must name its image"):
        read("sugarcrepe", tmp_path)


def test_every_missing_file_is_named_with_where_to_get_it(tmp_path):
    write(tmp_path, "sugarcrepe", {"0": CAPTIONED})
    for name in ("add_obj", "swap_att"):
        (tmp_path / f"{name}.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"2 of 7 files are missing: .*add_obj\.json, .*swap_att\.json\. Get it"
    ):
        read("sugarcrepe", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere\. Get it there"):
        read("sugarcrepe", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"No data was given. Pass data=PATH. Get it there"):
        read("sugarcrepe", None)


@pytest.mark.parametrize("empty", [{}, []])
def test_an_empty_subset_is_an_error(tmp_path, empty):
    write(tmp_path, "sugarcrepe", {"0": CAPTIONED})
    (tmp_path / "swap_obj.json").write_text(json.dumps(empty))
    with pytest.raises(ValueError, match=r"swap_obj\.json has no item"):
        read("sugarcrepe", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1,\n "b": }', r"x\.json is not JSON: Expecting value: line 2 column 7"),
        (b"", "is not JSON: Expecting value: line 1 column 1"),
        (b'"\xff"', "is not JSON: .*position 1"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_none(tmp_path, content, said):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("name", sorted(FILES))
def test_all_images_missing_is_an_error_even_when_skipping(tmp_path, name):
    write(tmp_path, name, [ITEMS[name]])
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="images are missing"):
        read(name, tmp_path, tmp_path / "none", on_missing="skip")


def test_links_inside_the_folder_are_followed(tmp_path):
    elsewhere = image_file(tmp_path / "elsewhere" / "a.jpg")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.jpg").symlink_to(elsewhere)
    assert Sources(tmp_path / "here").image("a.jpg", "x") == 0


TABLES = {
    "clevr": ("labels.csv", "filename,object1_color,object1_shape,object2_color,object2_shape"),
    "pug-spar": (
        "labels.csv",
        "filename,world_name,character_name,character2_name,character_texture,character2_texture",
    ),
    "negation": ("COCO_val_mcq_llama3.1_rephrased.csv", "image_path,caption_0,caption_1,correct_answer"),
    "csv": ("mine.csv", "image,caption,negative"),
}
cells = st.text(st.sampled_from("ab,\"'\n\r\t;[]{}\0é"), max_size=6) | st.sampled_from(
    ["a.jpg", "0", "../x", "red", "blue"]
)


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(cells, max_size=7).map(",".join), max_size=4), headed=st.booleans())
def test_any_table_is_read_or_refused(tmp_path, name, rows, headed):
    file, header = TABLES[name]
    (tmp_path / file).write_text("\n".join([header, *rows] if headed else rows), newline="")
    image_file(tmp_path / "a.jpg")
    task, said = None, ""
    try:
        task = read(name, tmp_path / file)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    assert task.questions if task else said


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(["image_filename", "objects", "split"]), value=anything)
def test_any_scene_is_read_or_refused(tmp_path, field, value):
    scene = {"image_filename": "a.jpg", "split": "val", "objects": [{"color": "red", "shape": "cube"}]}
    (tmp_path / "CLEVR_val_scenes.json").write_text(json.dumps({"scenes": [scene, {**scene, field: value}]}))
    image_file(tmp_path / "a.jpg")
    said = ""
    try:
        read("clevr", tmp_path)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    assert said  # one thing has no swap, and one image is no gallery
