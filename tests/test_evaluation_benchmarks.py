"""The files of the benchmarks: what each form is read as, and what is said of one that is not sound.

What the metrics are is in test_evaluation_plain_loops.py.
"""

import json
import random
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaluated import SUBSETS, asked, counts, lay, read

import labclip
from labclip.data.cleaning import comparable
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.benchmarks.order import MAX_WORDS, SHUFFLES, shuffles_of, tag_words
from labclip.negatives.taggers import spacy_model

REAL = Path(__file__).parents[2] / "shared" / "data"
AUTHORS = "/data/healthy-ml/scratch/kumail/coco/images/val2017"
MCQ = "COCO_val_mcq_llama3.1_rephrased.csv"
NEGATION = "image_path,caption_0,caption_1,caption_2,caption_3,correct_answer,correct_answer_template"


# The forms that files come in, beside those of the plain loops


def held(name):
    """An image as Hugging Face's data sets hold it."""
    return {"bytes": name.encode(), "path": name}


WINOGROUND = {"image_0": "ex_0", "image_1": "ex_1", "caption_0": "a b", "caption_1": "b a"}
BIVLC = {"image": held("a"), "caption": "a", "negative_caption": "b", "negative_image": held("b"), "type": "add"}
KARPATHY = [
    {"filepath": "val2014", "filename": f"{n}.jpg", "split": name, "sentences": [{"raw": f"{n} {m}"} for m in range(7)]}
    for n, name in enumerate(("test", "test", "restval", "val"))
]
SAID = [([f"{n}.jpg"], [f"{n} {m}" for m in range(7)]) for n in range(2)]
ENTRIES = [{"image": f"val2014/{images[0]}", "caption": captions} for images, captions in SAID]
FOUR = {f"val2014/{n}.jpg": None for n in range(4)}
ROWS = [{"filepath": f"{name}.jpg", "title": f"a {name}", "neg_caption": [f"no {name}"]} for name in ("dog", "cat")]
OWN = [([f"{name}.jpg"], [f"a {name}", f"no {name}"]) for name in ("dog", "cat")]
FLICKR = {"filename": "5.jpg", "split": "test", "sentences": [{"raw": "a dog"}]}
PETS = {"dog.jpg": None, "cat.jpg": None}
NEGCLIP = """\ttitle\tfilepath\tneg_caption\tneg_image
0\tA dog holding a cat.\tcoco/val2014/1.jpg\t['A cat holding a dog .', 'a dog holding a cat .']\t[1]
1\tA cup.\tcoco/val2014/2.jpg\t[]\t[2]
2\tA red cup and a blue jug.\tcoco/val2014/2.jpg\t["A blue cup and a red jug ."]\t[2]
"""
CLEANED = [
    (["1.jpg"], ["a dog holding a cat", "a cat holding a dog", "a dog holding a cat"]),
    (["2.jpg"], ["a red cup and a blue jug", "a blue cup and a red jug"]),
]
PLUS = {"filename": "a.jpg", "caption": "a", "caption2": "b", "negative_caption": "c"}
LONG = ("replace_attribute", "replace_object", "replace_relation", "swap_attribute", "swap_object")
FORMATS = {
    "winoground's Parquet": (
        "winoground", {"data/test-0-of-1.parquet": [WINOGROUND | {"image_0": held("x"), "image_1": held("y")}]},
        [(["test-0-of-1.parquet row 1 image_0", "test-0-of-1.parquet row 1 image_1"], ["a b", "b a"])],
    ),
    "bivlc's shards": (
        "bivlc", {"data/test-0-of-2.parquet": [BIVLC], "data/test-1-of-2.parquet": [BIVLC | {"caption": "c"}]},
        [([f"test-{n}-of-2.parquet row 1 {what}" for what in ("image", "negative_image")], [text, "b"])
         for n, text in enumerate("ac")],
    ),
    "mmvp's statements with commas and quotes": (
        "mmvp-vlm",
        {"Questions.csv": 'Question ID,Type,Statement\n1,Camera View,"a dog, its back"\n2,Camera View,"""a"" dog"\n',
         "MMVP_VLM_Images/Camera View/1.jpg": None, "MMVP_VLM_Images/Camera View/2.jpg": None},
        [(["1.jpg", "2.jpg"], ["a photo of a dog, its back", 'a photo of "a" dog'])],
    ),
    "sugarcrepe-pp by its longer names": (
        "sugarcrepe-pp", {"a.jpg": None, **{f"{name}.json": [PLUS] for name in LONG}},
        [(["a.jpg"], ["a", "b", "c"])] * 5,
    ),
    "negbench's paths on its authors' machine": (
        "negation",
        {MCQ: f"{NEGATION}\n{AUTHORS}/a.jpg,a,b,e,d,2,Hybrid\n{{here}}/in/sub/b.jpg,e,f,g,h,0,hybrid\n",
         "in/val2017/a.jpg": None, "in/val2017/b.jpg": None, "in/sub/b.jpg": None},
        [(["a.jpg"], ["e", "a", "b", "d"]), (["b.jpg"], ["e", "f", "g", "h"])], "in",
    ),
    "negbench's VOC": (
        "negation-voc",
        {"VOC2007_mcq_llama3.1_rephrased.csv": f"{NEGATION}\n{AUTHORS}/a.jpg,a,b,e,d,0,hybrid\n",
         "in/VOCdevkit/VOC2007/JPEGImages/a.jpg": None},
        [(["a.jpg"], ["a", "b", "e", "d"])], "in",
    ),
    "coco, with the folder of val2014": (
        "coco", {"coco_karpathy_test.json": ENTRIES, **FOUR}, SAID,
        "val2014",
    ),
    "coco, as COCO has its annotations": (
        "coco",
        {"coco_test_karpathy.json": {
            "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(2)],
            "annotations": [{"image_id": n, "caption": text} for n in range(2) for text in SAID[n][1]],
        }, **FOUR},
        SAID, "val2014",
    ),
    "coco, the original": ("coco", {"dataset_coco.json": {"images": KARPATHY}, **FOUR}, SAID),
    "coco's restval lies in val2014": (
        "coco", {"dataset_coco.json": {"images": KARPATHY}, **FOUR},
        [(["2.jpg"], [f"2 {m}" for m in range(5)])], "", {"split": "restval", "captions": 5},
    ),
    "flickr30k's lines": (
        "flickr30k",
        {"flickr30k_test_karpathy.txt": 'image,caption\n5.jpg,A dog, in "quotes", runs.\n5.jpg,A cat\n\n6.jpg, two men',
         "5.jpg": None, "6.jpg": None},
        [(["5.jpg"], ['A dog, in "quotes", runs.', "A cat"]), (["6.jpg"], ["two men"])],
    ),
    "flickr30k's original names no folder": (
        "flickr30k",
        {"dataset_flickr30k.json": {"images": [FLICKR]}, "flickr30k-images/5.jpg": None},
        [(["5.jpg"], ["a dog"])],
    ),
    "parts of all captions of an image together": (
        "parts",
        {"m.json": [{"image": "dog.jpg", "captions": ["A red cup and a blue bed.", "A green red cup, a big bed."]},
                    {"image": "cat.jpg", "captions": ["A dog."]}], **PETS},
        [(["dog.jpg"], ["a red cup", "a blue cup"]), (["dog.jpg"], ["a blue bed", "a red bed"])],
    ),
    "an own table": ("csv", {"m.jsonl": ROWS, **PETS}, OWN),
    "an own table's columns by name": (
        "csv", {"m.csv": "pic,words,wrong,worse\ndog.jpg,a dog,a cat,a cow\n", **PETS},
        [(["dog.jpg"], ["a dog", "a cat", "a cow"])], "",
        {"column": "words", "image_column": "pic", "negative_column": "wrong, worse"},
    ),
    **{
        f"negclip's table with images in '{root}'": (
            "coco-negatives", {"v.tsv": NEGCLIP, "coco/val2014/1.jpg": None, "coco/val2014/2.jpg": None}, CLEANED, root
        )
        for root in ("", "coco", "coco/val2014")
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_a_form_is_read(tmp_path, form):
    name, files, wanted, *more = FORMATS[form]
    lay(tmp_path, {file: content.replace("{here}", str(tmp_path)) if isinstance(content, str) else content
                   for file, content in files.items()})  # fmt: skip
    root, options = [*more, *("", {})[len(more) :]]
    data = tmp_path / next(iter(files)) if name in ("csv", "coco-negatives", "parts") else tmp_path
    items = asked(read(name, data, tmp_path / root, **options))
    assert [item for item in items if name != "parts" or item in wanted] == wanted


OWN_FILES = {
    "sugarcrepe": {
        "add_att": 692, "add_obj": 2062, "replace_att": 788, "replace_obj": 1652, "replace_rel": 1406,
        "swap_att": 666, "swap_obj": 245, "add": 2754, "replace": 3846, "swap": 911, "macro": 7511, "micro": 7511,
    },
    "sugarcrepe-pp": {
        "replace_att": 788, "replace_obj": 1652, "replace_rel": 1406, "swap_att": 666, "swap_obj": 245, "micro": 4757,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_FILES)
def test_sugarcrepes_own_files(tmp_path, name):
    if not (REAL / name).is_dir():
        pytest.skip("its files are not here")
    for path in (REAL / name).glob("*.json"):
        items = json.loads(path.read_text())
        for item in items.values() if isinstance(items, dict) else items:
            (tmp_path / item["filename"]).touch()  # read, not opened
    task = read(name, REAL / name, tmp_path)
    counted = {metric: int((group >= 0).sum()) for metric, group in task.questions[0].metrics.items()}
    assert counted.items() >= OWN_FILES[name].items()
    # Two rows of swap_obj of SugarCrepe++ have a negative that is the caption; all 245 count.
    tied = "2 items have the right caption among the wrong ones: a tie, so wrong."
    assert (tied in task.notes) == (name == "sugarcrepe-pp")


VALSE = {
    "existence": "visual7w/images/v7w_{}.jpg", "plurals": "val2017/00000000000{}.jpg",
    "counting-hard": "visual7w/images/v7w_1{}.jpg", "counting-small-quant": "visual7w/images/v7w_2{}.jpg",
    "counting-adversarial": "visual7w/images/v7w_3{}.jpg", "relations": "val2017/00000000001{}.jpg",
    "action-replacement": "images_512/exercising_{}.jpg", "actant-swap": "images_512/rotting_{}.jpg",
    "coreference-standard": "train2014/COCO_train2014_{}.jpg", "foil-it": "val2014/COCO_val2014_{}.jpg",
    "coreference-hard": "VisualDialog_val2018/VisualDialog_val2018_{}.jpg",
}  # fmt: skip


def test_valse_finds_the_images_of_each_source(tmp_path):
    """A mean over fewer subsets than its name says must not pass for one over all."""
    for name, path in VALSE.items():
        file = Path(path).name
        votes = {f"{name} {n}": {"image_file": file.format(n), "caption": "a", "foil": "b", "mturk": {"caption": n}}
                 for n in range(3)}  # fmt: skip
        lay(tmp_path, {f"data/{name}.json": votes, f"images/{path.format(2)}": None})
    places = tmp_path / "data", tmp_path / "images"
    assert counts(read("valse", *places))["macro"] == 11
    (tmp_path / "images" / "val2017" / "000000000012.jpg").unlink()
    task = read("valse", *places, on_missing="skip")
    assert counts(task)["macro"] == 10
    assert "No item is left of relations: means over subsets are of the others alone." in task.notes


def test_vg_items_are_crops_of_images_whose_crops_are_one_unit(tmp_path):
    box = {"bbox_x": 1, "bbox_y": 2, "bbox_h": 4}
    items = [{"image_path": "1.jpg", "true_caption": f"a {n}", "false_caption": f"b {n}", "attributes": ["red", "old"],
              "bbox_w": 1 + n % 5, **box} for n in range(25)]  # fmt: skip
    items += [item | {"attributes": ["old", "red"]} for item in items[1:]]
    lay(tmp_path, {"visual_genome_attribution.json": items, "images/1.jpg": None})
    task = read("vg-a", tmp_path, breakdown=True)
    assert sorted(image.box for image in task.images) == [(1, 2, width, 4) for width in range(1, 6)]
    assert task.images[0].decode(task.images[0].read()).size == (1, 4)
    assert set(task.questions[0].unit) == {0}
    assert task.notes == ["macro: 1 of 2 pairs of attributes have at least 25 items."]
    assert counts(task) == {"macro": 25, "micro": 49, "attributes_red_old": 25}
    symmetric = {*BENCHMARKS["vg-r"].read.args[0].symmetric}
    assert {"next to", "near", "with"} <= symmetric
    assert symmetric.isdisjoint({"on", "in", "behind", "eating"})


def test_whatsup_takes_the_parts_that_are_there(tmp_path):
    name = "mug_left_of_plate.jpeg"
    item = {"image_path": f"data/controlled_images/{name}", "caption_options": ["a", "b", "c", "d"]}
    lay(tmp_path, {"coco_qa_one_obj.json": [[139, "a dog on the left", "a dog on the right"]], "mine.json": [item],
                   "val2017/000000000139.jpg": None, f"controlled_images/{name}": None})  # fmt: skip
    assert counts(read("whatsup", tmp_path, breakdown=True)) == {"coco_one": 1, "coco_one_preposition_left": 1}
    assert counts(read("whatsup", tmp_path / "mine.json", tmp_path, subset="a")) == {"a": 1}
    with pytest.raises(ValueError, match=r"mine\.json has no usual name.*options=..subset.: VALUE}"):
        read("whatsup", tmp_path / "mine.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"vg_qa_two_obj\.json.*Get it there"):
        read("whatsup", tmp_path, subset="vg_two")


def test_youcook2s_frames_are_blue_first(tmp_path):
    entry = {"image0": "y/0.npy", "image1": "y/1.npy", "caption0": ["a", "b"], "caption1": "c"}
    frame = np.full((4, 6, 3), (2, 1, 200), dtype=np.uint8)
    lay(tmp_path, {"all_select.json": [entry], "y/0.npy": frame, "y/1.npy": frame[:1]})
    task = read("eqben", tmp_path)
    assert task.images[0].decode(task.images[0].read()).getpixel((5, 3)) == (200, 1, 2)
    assert counts(task)["y_group"] == 1
    (tmp_path / "y" / "1.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"1\.npy holds no pixels, uint8 .*Fetch it again"):
        read("eqben", tmp_path)


# Own tables and negatives that are made


def test_negatives_of_ones_own_that_are_true_of_the_image_are_left_out(model, tmp_path):
    """By the rule of `embed`: case, punctuation and "a" or "an" say nothing, and any caption of the image counts."""
    lay(tmp_path, {"mine.csv": (
        "image,caption,negative,negative_2\n"
        "a.jpg,a dog,A dog .,a cat\n"
        "b.jpg,a cup,an cup!,\n"
        "a.jpg,an owl on a bed,A Dog,a dog on a bed\n"
        "b.jpg,a mug,a dog,\n"
    ), "a.jpg": None, "b.jpg": None})  # fmt: skip
    path = tmp_path / "mine.csv"
    task = read("csv", path)
    assert task.notes[:2] == ["3 negatives that are true of their image are left out.",
                              "1 of 4 captions have no negative."]  # fmt: skip
    stored = labclip.embed(model, path, tmp_path / "features", progress=False)
    report = labclip.evaluate(model, "csv", data=path, cache=None, progress=False)
    again = labclip.evaluate(model, "features", data=stored, progress=False)
    assert report["csv"].metric("binding") == again["features"].metric("binding")
    assert report["csv"].metric("binding").estimates[0].n == 3


def test_own_images_held_twice_linked_or_missing(tmp_path):
    lay(tmp_path, PETS)
    rows = [{"image": {"bytes": (tmp_path / "dog.jpg").read_bytes(), "path": None}, "caption": f"caption {n}",
             "negative": f"negative {n}"} for n in range(3)]  # fmt: skip
    lay(tmp_path, {"held.parquet": rows})
    task = read("csv", tmp_path / "held.parquet")
    assert (len(task.images), counts(task)) == (1, {"binding": 3})
    (tmp_path / "link.jpg").symlink_to(tmp_path / "dog.jpg")
    lines = f"{tmp_path / 'dog.jpg'},a dog,a cat\nno.jpg,a,b\nlink.jpg,a,b\n"
    lay(tmp_path, {"mine.csv": f"image,caption,negative\n{lines}"})
    assert counts(read("csv", tmp_path / "mine.csv", tmp_path, on_missing="skip"))["binding"] == 2


def test_coco_negatives_made_on_the_spot(tmp_path):
    lay(tmp_path, {"coco_karpathy_test.json": [
        {"image": "1.jpg", "caption": ["A red dog sits on a small table.", "Dog."]},
        {"image": "2.jpg", "caption": ["Two men ride brown horses along the white beach."]},
    ], "1.jpg": None, "2.jpg": None})  # fmt: skip
    task, same, other = (read("coco-negatives", tmp_path, seed=seed) for seed in (0, 0, 5))
    assert task.captions == same.captions != other.captions
    for _, (own, wrong) in asked(task):
        assert own != wrong
        assert sorted(own.split()) == sorted(wrong.split())
    assert "1 of 3 captions have no negative." in task.notes
    assert counts(task)["t2i_r1"] == 3


# The order of words

WORDS = {"dog": "NN", "cat": "NN", "cats": "NN", "red": "JJ", "old": "JJ", "big": "JJ"}
RAW = "A Red dog and an old cat, with the big cats"
tagged = partial(tag_words, lambda words: [WORDS.get(word, "X") for word in words])


def test_each_shuffle_moves_what_it_says():
    own, shuffles = shuffles_of(RAW, tagged, 0)
    assert own == "a red dog and an old cat, with the big cats"
    words = own.replace(",", " ,").split()
    by_name = dict(zip(SHUFFLES, (text.split() for text in shuffles), strict=True))
    assert all(sorted(text) == sorted(words) for text in by_name.values())
    still = [at for at, word in enumerate(words) if word not in WORDS]
    moved = [at for at, word in enumerate(words) if word in WORDS]
    assert all(by_name["shuffle_nouns_and_adj"][at] == words[at] for at in still)
    assert [WORDS.get(word) for word in by_name["shuffle_nouns_and_adj"]] == [WORDS.get(word) for word in words]
    assert all(by_name["shuffle_allbut_nouns_and_adj"][at] == words[at] for at in moved)
    for seed in range(30):
        _, shuffles = shuffles_of("one two three four five six seven", tagged, seed)
        by_name = dict(zip(SHUFFLES, shuffles, strict=True))
        within, whole = (by_name[name].split() for name in ("shuffle_within_trigrams", "shuffle_trigrams"))
        assert [sorted(within[at : at + 3]) for at in (0, 3, 6)] == [
            ["one", "three", "two"], ["five", "four", "six"], ["seven"],
        ]  # fmt: skip
        assert all(three in " ".join(whole) for three in ("one two three", "four five six"))
        assert by_name["shuffle_nouns_and_adj"] is None  # it has none


def test_an_order_is_never_the_caption_again_and_is_cut():
    rng = random.Random(0)
    for _ in range(200):
        caption = " ".join(rng.choices(["dog", "red", "a", "a", ",", "cat"], k=rng.randint(1, 6)))
        own, shuffles = shuffles_of(caption, tagged, 0)
        assert all(text is None or comparable(text) != comparable(own) for text in shuffles)
    own, shuffles = shuffles_of(" ".join(f"word{number}" for number in range(50)), tagged, 0)
    assert {len(text.split()) for text in (own, *filter(None, shuffles))} == {MAX_WORDS}


@pytest.fixture
def spacy(monkeypatch):
    """A stand-in of spaCy, whose model is on no package registry: its words are not ours, its tags are of words."""
    words = lambda text: text.replace(".", " .").split()  # noqa: E731
    model = lambda text: [SimpleNamespace(text=word, tag_=WORDS.get(word.lower(), "X")) for word in words(text)]  # noqa: E731
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name, exclude: model))
    spacy_model.cache_clear()
    yield model
    spacy_model.cache_clear()


def test_coco_order_as_aros_code_has_it(tmp_path, spacy):
    """spaCy's words and tags, one draw of each shuffle, and an equal one in the caption's place is right."""
    captions = ["A red dog and an old cat.", "Dog.", "Cat and the dog's cat"]
    lay(tmp_path, {"coco_karpathy_test.json": [{"image": "1.jpg", "caption": captions}], "1.jpg": None})
    tasks = [read("coco-order", tmp_path, tagger="", seed=seed) for seed in range(20)]
    drawn = [[captions for _, captions in asked(task)] for task in tasks]  # none is left out
    assert {tuple(second) for _, second, _ in drawn} == {("dog",)}
    # Two nouns and two adjectives: a quarter of the draws moves none of them, and is not drawn again.
    assert len({tuple(first) for first, _, _ in drawn}) > 10
    assert sum(10 - len(first) - len(third) for first, _, third in drawn) > 5
    assert "1 captions with no other order are right." in tasks[0].notes
    assert tasks[0].notes[0].startswith("Shuffles equal to their caption count as right, as in ARO's code: ")
    assert tasks[0].notes[-1].endswith("parts of speech by spacy. As ARO's code, but for the seed.")
    again = read("coco-order", tmp_path, tagger="hanta", protocol="labclip")
    assert len(again.questions[0].options) == 2
    assert "1 captions with no other order are left out." in again.notes


def test_without_spacy_one_line_says_what_to_type(tmp_path, monkeypatch):
    lay(tmp_path, {"coco_karpathy_test.json": [{"image": "1.jpg", "caption": ["A dog."]}], "1.jpg": None})
    monkeypatch.setitem(sys.modules, "spacy", None)
    spacy_model.cache_clear()
    with pytest.raises(
        ValueError, match=r"labclip needs spacy\. Type: pip install spacy .*; or pass options=.*labclip"
    ):
        read("coco-order", tmp_path, tagger="")


# What is not sound


def sugarcrepe(**fields):
    """All files, the second item of the first with some fields changed."""
    sound = {"filename": "a.jpg", "caption": "one", "negative_caption": "two"}
    files = {f"{name}.json": [sound] for name in SUBSETS} | {"add_att.json": [sound, sound | fields], "a.jpg": None}
    return "sugarcrepe", files, {}


def negation(row):
    return "negation", {MCQ: f"{NEGATION}\n{row}\n", "a.jpg": None}, {}


def own(text):
    return "csv", {"mine.csv": text, "a.jpg": None}, {}


def mmvp(*rows):
    images = {f"Orientation/{number}.jpg": None for number in (1, 2)}
    return "mmvp-vlm", {"Questions.csv": "\n".join(["Question ID,Type,Statement", *rows]), **images}, {}


def folders(options, content=None):
    """Two classes, and a file of their names or prompts."""
    file = {} if content is None else dict.fromkeys(options.values(), content)
    return "zero-shot", {"a/0.png": None, "b/0.png": None, **file}, options


def clevr(lines, options, file="output_2obj.csv"):
    return "clevr", {file: lines, "images/1.png": None}, options


HEAD = "image,caption,negative\n"
THREE = "1.png,cube,red,sphere,blue,cone,green\n"
ONE_DOG = {"coco_karpathy_test.json": [{"image": "a.jpg", "caption": ["0"]}], "a.jpg": None}
ERRORS = [
    (sugarcrepe(filename="../../x"), r"add_att\.json item 1: the image's name .* leads out of .*images=DIR"),
    (sugarcrepe(negative_caption=" "), r"add_att\.json item 1: the caption is ' '"),
    (("sugarcrepe", {"add_att.json": [{"filename": "a.jpg"}], "a.jpg": None}, {}),
     r"has no \w+_\w+\.json\. Get it there"),
    (("vg-r", {"visual_genome_relation.json": [{"image_path": "a.jpg"}], "a.jpg": None}, {}),
     r"visual_genome_relation\.json item 0 has no relation_name; it has image_path"),
    (("whatsup", {"controlled_images_dataset.json": [{"image_path": "mug.jpeg", "caption_options": ["a", "b"]}]}, {}),
     "does not say what is where"),
    (("colorswap", {}, {"split": "val"}), "split is 'val'"),
    (("bivlc", {}, {}), r"has no test\.parquet\. Get it there"),
    (mmvp("1,Orientation,a dog", "4,Orientation,a cat"), "line 2: questions 1 and 4 are not an odd one and the next"),
    (negation("a.jpg,a,b,c,d,4,hybrid"), "line 2: correct_answer is '4', not a number from 0 to 3"),
    (negation(f"{AUTHORS}/a.jpg,a,b,c,d,0,hybrid"), r"leads out of .*Pass images=DIR"),
    (("coco", {"dataset_coco.json": {"images": KARPATHY[:1]}}, {"split": "train"}),
     "split is 'train'. Pass one of test, val, restval"),
    (("coco", {"dataset_coco.json": {"images": KARPATHY[:1]}}, {"split": "val"}), "has no row of split 'val'"),
    (("coco-negatives", ONE_DOG, {}), "no item has a negative, and retrieval needs at least two images"),
    (own(f"{HEAD},a dog,a cat\n"), r"mine\.csv line 2 names no image"),
    (own(HEAD), r"mine\.csv has no item\. Get it there"),
    (own(f"{HEAD}../up.jpg,a dog,a cat\n"), r"line 2: the image's name '\.\./up\.jpg' leads out of"),
    (("csv", {}, {}), "is not a file"),
    (("parts", {"mine.csv": f"{HEAD}a.jpg,a dog,a cat\n", "a.jpg": None}, {}), "no caption has a part, a noun with a"),
    (("zero-shot", {"a.png": None}, {}), "0 folders with 0 images, not one folder for each class"),
    (folders({"classes": "x.txt"}, "ant\n"), "has 1 names for 2 classes"),
    (folders({"classes": "x.txt"}, "b\na\n"), "in another order: line 1 would rename a class"),
    (folders({"classes": "x.txt"}, "a\tant\nc\tbee\n"), "x.txt has nothing for the class 'b', but a, c and so on"),
    (folders({"classes": "x.json"}, {"a": ["x"], "b": "y"}), "x.json has nothing for the class 'a'"),
    (folders({"classes": "imagenet"}), "imagenet has 1000 names for 2 classes"),
    (folders({"templates": "x.txt"}, "a photo\n"), "'a photo' has no {} where"),
    (folders({"split": "train"}), "is neither a CIFAR nor a WebDataset, and only these have splits"),
    (folders({"split": "val"}), "split is 'val'"),
    (clevr("x,y\n1,2\n", {}, "labels.csv"), "begins with 'x,y', which is not a known format"),
    (clevr("0.png,cube,red,ball,blue\n1.png,cube,red,ball\n", {}), "line 2 has 4 cells"),
    (clevr({"scenes": [{"image_filename": "0.png"}]}, {}, "scenes/CLEVR_val_scenes.json"),
     "scene 0 has no objects; it has image_filename"),
    (clevr("filename,object1_color,object1_shape,object2_color,object2_shape,object1_color_idx\n", {}, "labels.csv"),
     "names no image"),
    (clevr(THREE, {}), r"1 of 1 images do not show two different objects.*protocol.: .labclip"),
    (clevr(THREE, {"objects": 4}), r"has no output_4obj\.csv and no labels\.csv"),
    (clevr("1.png,cube,red,sphere,blue\n", {}), r"too few combinations for split test\. Pass options=..split.: .all"),
    (clevr(THREE, {"protocol": "ours"}), r"protocol is 'ours'.*one of paper, labclip"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "message"), ERRORS, ids=lambda case: case[0] if isinstance(case, tuple) else None)
def test_what_is_not_sound_is_named(tmp_path, case, message):
    name, files, options = case
    lay(tmp_path, files)
    path = tmp_path / "mine.csv"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(name, path if path.exists() else tmp_path, on_missing="skip", **options)
