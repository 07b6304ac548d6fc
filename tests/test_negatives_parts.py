"""Parts of captions: what is taken out, which wrong one is made, and that it is never true of the image."""

import csv
import json
from pathlib import Path

import pytest
import rows
from commands import run

from labclip.data import read_items
from labclip.negatives import FAMILIES, Part, keywords, parts, read

SHARED = Path(__file__).parents[2] / "shared" / "data" / "negclip" / "valid_neg_clip.tsv"
COLOURS = {word for group in FAMILIES["colours"] for word in group}


PARTS_OF = {
    "A man in a red shirt and blue jeans.": ["a red shirt / a blue shirt / swap", "blue jeans / red jeans / swap"],
    "A dog on the grass.": [],  # no modifier
    "A very small dog.": ["a small dog / a big dog / foil"],
    "A black and white cat.": [],  # two colours of one cat
    "An old man and a young woman": [
        "an old man / a young man / swap", "a young woman / an old woman / swap",
    ],
    "An old house.": [],  # nobody types "a young house"
    "A wooden table with a glass vase.": [
        "a wooden table / a glass table / swap", "a glass vase / a wooden vase / swap",
    ],
    "": [],
}  # fmt: skip


@pytest.mark.parametrize("caption", PARTS_OF)
def test_parts_of_a_caption(caption):
    assert [" / ".join(part) for part in parts([caption])[0]] == PARTS_OF[caption]


def test_a_modifier_that_is_true_of_another_object_of_the_name_is_no_negative():
    (cars,) = parts(["A red car and a blue car."])
    assert {part.kind for part in cars} == {"foil"}
    assert {part.negative.split()[1] for part in cars}.isdisjoint({"red", "blue"})
    ((dogs, *others),) = parts(["Two dogs and three cats."])
    assert dogs == Part("two dogs", "three dogs", "swap")
    assert all(part.negative.split()[0] not in ("two", "three") for part in others)  # three cats are also two


def test_captions_of_one_image_rule_each_others_negatives_out():
    captions = ["a man with a red hat and a blue shirt", "a man in a blue hat", "a green shirt"]
    alone, _, _ = parts(captions)
    assert [part.negative for part in alone] == ["a blue hat", "a red shirt"]
    together, _, _ = parts(captions, image_index=[7, 7, 7])
    by_text = {part.text: part for part in together}
    assert by_text["a red hat"].kind == "foil"  # "a blue hat" is said of the same image
    assert by_text["a red hat"].negative.split()[1] not in ("red", "blue", "green")
    assert by_text["a blue shirt"].negative == "a red shirt"
    # "The hat is blue" binds blue to the hat, though it is no noun phrase with a modifier.
    made, _ = parts(["a red hat and a blue shirt", "the hat is blue"], image_index=[0, 0])
    assert [part.kind for part in made if part.text == "a red hat"] == ["foil"]


def test_negatives_depend_on_seed_and_caption_alone():
    captions = ["a red car", "a small boat", "a red car"]
    made = parts(captions)
    assert made == parts(captions)
    assert made[0] == made[2]
    assert made[1:] == parts(captions[1:])
    assert len({parts(["a red car"], seed=seed)[0][0].negative for seed in range(20)}) > 3


@pytest.mark.skipif(not SHARED.exists(), reason="needs real captions, which the project does not ship")
def test_no_wrong_part_is_true_of_its_image_on_real_captions():
    """The words of a wrong part stand in no caption of the image as a phrase, and a foil's modifier stands nowhere."""
    with SHARED.open(newline="", encoding="utf-8") as file:
        captions = [row["title"] for row in csv.DictReader(file, delimiter="\t")][:2000]
    images = [number // 4 for number in range(len(captions))]  # unrelated captions: harder than those of one image
    together = {image: " ".join(captions[image * 4 : image * 4 + 4]).lower() for image in set(images)}
    count = 0
    for image, made in zip(images, parts(captions, image_index=images), strict=True):
        for part in made:
            wrong = part.negative.removeprefix("a ").removeprefix("an ")
            assert wrong not in together[image]
            if part.kind == "foil" and wrong.split()[0] in COLOURS:
                assert f" {wrong.split()[0]} " not in together[image]
            assert part.negative != part.text
            count += 1
    assert count > 700


PARTS = {
    "parts": ["a red shirt", "blue jeans"],
    "part_negatives": ["a blue shirt", "red jeans"],
    "part_kinds": ["swap", "swap"],
    "keywords": ["man", "red", "shirt", "blue", "jeans"],
}


NONE = {name: [] for name in PARTS}


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_file_gets_parts_and_keywords_as_lists(tmp_path, ending):
    pytest.importorskip("HanTa")
    texts = ["A man in a red shirt and blue jeans.", "A dog.", "", "blue jeans"]
    (tmp_path / "in.csv").write_text(
        "id,image,title\n" + "".join(f"{n},{n % 3}.jpg,{t}\n" for n, t in enumerate(texts))
    )
    out = tmp_path / f"out.{ending}"
    counts = json.loads(run("negatives", tmp_path / "in.csv", out, "--method", "parts", "--json").stdout)
    assert (counts["captions"], counts["with_negative"], counts["negatives"]) == (4, 2, 3)
    made = rows.read(out)
    if ending in ("csv", "tsv"):
        made = [row | {name: json.loads(row[name]) for name in PARTS} for row in made]
    assert made[0] == {"id": "0", "image": "0.jpg", "title": texts[0], **PARTS}
    assert made[1] == {"id": "1", "image": "1.jpg", "title": "A dog.", **NONE, "keywords": ["dog"]}
    assert made[2] == {"id": "2", "image": "2.jpg", "title": "", **NONE}
    assert made[3]["part_kinds"] == ["foil"]
    assert made[3]["part_negatives"][0] not in ("red jeans", "blue jeans")  # the first row is of the same image
    assert [row["keywords"] for row in made] == keywords(texts)
    items = list(read(out))
    assert items[0].parts == (Part("a red shirt", "a blue shirt", "swap"), Part("blue jeans", "red jeans", "swap"))
    assert [list(item.keywords) for item in items] == [row["keywords"] for row in made if row["title"]]


def test_parts_that_do_not_fit_one_another_make_a_bad_row(tmp_path):
    path, row = tmp_path / "c.jsonl", {"image": "a.png", "caption": "a red shirt", **PARTS}
    path.write_text(json.dumps({**row, "part_kinds": ["swap"]}) + "\n" + json.dumps({**row, "keywords": [3]}))
    assert [item.problem for item in read_items(path)] == [
        "has lists of different lengths in parts, part_negatives, part_kinds",
        "has a int where a text should be",
    ]
    path.write_text('{"image": "a.png", "caption": "x", "keywords": [3], "parts": 2}')  # columns of somebody else's
    assert [(item.parts, item.keywords, item.problem) for item in read_items(path)] == [((), (), "")]
