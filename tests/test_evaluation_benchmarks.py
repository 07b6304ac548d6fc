"""Readers of what people have: formats, rules and splits, each on a few items whose answers are worked out."""

import itertools
import json
import random
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from evaluated import counts, features, image_file, read, values

from labclip.data.cleaning import comparable
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.benchmarks.order import MAX_WORDS, SHUFFLES, shuffles_of, tag_words
from labclip.evaluation.tasks import Retrieval
from labclip.negatives import clean
from labclip.negatives.taggers import spacy_model

REAL = Path(__file__).parents[2] / "shared" / "data"
SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def says(*true):
    """Cosine 1 where (end of the image's name, caption) is one of those given, else 0."""
    return lambda name, caption: float(any(name.endswith(end) and caption == text for end, text in true))


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=-1)


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_the_table_is_complete():
    named = {
        "sugarcrepe", "sugarcrepe-pp", "vg-a", "vg-r", "coco-order", "flickr30k-order", "coco", "flickr30k",
        "coco-negatives", "winoground", "colorswap", "whatsup", "negation", "zero-shot", "clevr", "pug-spar",
        "pug-spare", "scenes", "csv", "negation-voc", "negation-retrieval",
    }  # fmt: skip
    assert named <= set(BENCHMARKS)
    for name, one in BENCHMARKS.items():
        assert name == one.name
        assert all((one.title, one.wants, one.source, one.licence, one.paper, one.headline))
        assert one.measures in ("binding", "retrieval", "classification")


def sugarcrepe(folder, **changed):
    """Two items a subset, the second named "2": there is a hole."""
    for number, name in enumerate(SUBSETS):
        items = {
            key: {"filename": f"{number}.jpg", "caption": f"{name} {key}", "negative_caption": f"not {name} {key}"}
            for key in ("0", "2")
        }
        image_file(folder / f"{number}.jpg")
        dump(folder / f"{name}.json", changed.get(name, items))


@pytest.mark.skipif(not (REAL / "sugarcrepe").is_dir(), reason="SugarCrepe's files are not here")
def test_sugarcrepes_own_files(tmp_path):
    names = {item["filename"] for name in SUBSETS
             for item in json.loads((REAL / "sugarcrepe" / f"{name}.json").read_text()).values()}  # fmt: skip
    for name in names:
        (tmp_path / name).touch()  # read, not opened
    task = read("sugarcrepe", REAL / "sugarcrepe", tmp_path)
    (choice, gallery) = task.questions
    assert {name: int((group >= 0).sum()) for name, group in choice.metrics.items()} == {
        "add_att": 692, "add_obj": 2062, "replace_att": 788, "replace_obj": 1652, "replace_rel": 1406,
        "swap_att": 666, "swap_obj": 245, "add": 2754, "replace": 3846, "swap": 911, "macro": 7511, "micro": 7511,
    }  # fmt: skip
    assert len(task.images) == len(names)
    words = [[sorted(clean(task.captions[row]).split()) for row in pair] for pair in choice.options]
    assert 500 < sum(own == other for own, other in words) < 650
    said = [set() for _ in gallery.images]
    for text, place in zip(gallery.texts, gallery.image_index, strict=True):
        said[place].add(text)
    assert all(said)
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(said, 2))


@pytest.mark.skipif(not (REAL / "sugarcrepe-pp").is_dir(), reason="SugarCrepe++'s files are not here")
def test_sugarcrepe_pps_own_files(tmp_path):
    """Two rows of swap_obj have a negative that is the caption; all 245 count."""
    files = {name: json.loads((REAL / "sugarcrepe-pp" / f"{name}.json").read_text())
             for name in ("replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")}  # fmt: skip
    for name in {item["filename"] for items in files.values() for item in items}:
        (tmp_path / name).touch()
    task = read("sugarcrepe-pp", REAL / "sugarcrepe-pp", tmp_path)
    found = {name: int((group >= 0).sum()) for name, group in task.questions[0].metrics.items()}
    assert {name: found[name] for name in (*files, "micro")} == {
        "replace_att": 788, "replace_obj": 1652, "replace_rel": 1406, "swap_att": 666, "swap_obj": 245, "micro": 4757,
    }  # fmt: skip
    assert "2 items have the right caption among the wrong ones: a tie, so wrong." in task.notes
    rows = np.flatnonzero([one[2] in one[:2] for one in task.questions[0].texts])
    images, texts = torch.randn(2, len(task.captions), 16, generator=torch.Generator().manual_seed(0))
    itt, *_, tot = task.questions[0].score(unit(images[: len(task.images)]), unit(texts))
    assert len(rows) == 2
    assert not itt.correct[rows].any()
    assert not tot.correct[rows].any()


def test_sugarcrepe_pp_by_its_longer_names(tmp_path):
    item = {"filename": "a.jpg", "caption": "a", "caption2": "b", "negative_caption": "c"}
    for name in ("replace_attribute", "replace_object", "replace_relation", "swap_attribute"):
        dump(tmp_path / f"{name}.json", [item])
    image_file(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"1 of 5 files are missing: .*swap_obj\.json"):
        read("sugarcrepe-pp", tmp_path)


def vg(relation=None, attributes=None, file="1.jpg", number=0, box=(1, 2, 3, 4)):
    item = {"image_path": file, "true_caption": f"true {number}", "false_caption": f"false {number}"}
    item |= dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True))
    return item | ({"attributes": attributes} if attributes else {"relation_name": relation})


def test_vg_r_with_and_without_symmetric_relations(tmp_path):
    symmetric = {*BENCHMARKS["vg-r"].read.args[0]["left_out"]}
    assert {"next to", "near", "with"} <= symmetric
    assert symmetric.isdisjoint({"on", "in", "behind", "eating"})
    relations = ["on", "on", "behind", "near"]
    dump(tmp_path / "visual_genome_relation.json", [vg(one, number=i) for i, one in enumerate(relations)])
    image_file(tmp_path / "images" / "1.jpg")
    task = read("vg-r", tmp_path)
    found = values(task, lambda _, caption: float(caption in ("true 0", "true 2")))
    assert found["micro"] == 2 / 4
    assert found["macro"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["macro_no_symmetric"] == pytest.approx((1 / 2 + 1) / 2)
    parts = values(read("vg-r", tmp_path, breakdown=True), lambda _, caption: float(caption in ("true 0", "true 2")))
    assert parts == found | {"relation_on": 0.5, "relation_behind": 1.0, "relation_near": 0.0}
    assert [one.box for one in task.images] == [(1, 2, 3, 4)]
    assert task.images[0].decode(task.images[0].read()).size == (3, 4)


def test_vg_a_counts_pairs_with_25_items(tmp_path):
    items = [vg(attributes=["red", "old"], number=i, box=(0, 0, 1 + i % 5, 8)) for i in range(25)]
    items += [vg(attributes=["old", "red"], number=i) for i in range(25, 49)]  # in the other order: 24 of another pair
    dump(tmp_path / "visual_genome_attribution.json", items)
    image_file(tmp_path / "1.jpg")
    task = read("vg-a", tmp_path)
    found = values(task, lambda _, caption: float(caption in [f"true {i}" for i in range(5, 49)]))
    assert found["macro"] == 20 / 25
    assert found["micro"] == 44 / 49
    parts = values(read("vg-a", tmp_path, breakdown=True), lambda _, caption: float(caption in ["true 5", "true 30"]))
    assert parts["attributes_red_old"] == 1 / 25
    assert "attributes_old_red" not in parts
    assert len(task.images) == 6
    assert set(task.questions[0].unit) == {0}  # crops of one image are drawn together
    assert task.notes == ["macro: 1 of 2 pairs of attributes have 25 items."]


@pytest.mark.parametrize(
    "box", [(1, 2, 0, 4), (1, 2, 3, -4), ("1", 2, 3, 4), (1, 2, 3, None), (True, 2, float("nan"), 1)]
)
def test_vg_boxes_are_checked(tmp_path, box):
    dump(tmp_path / "visual_genome_relation.json", [vg("on", box=box)])
    image_file(tmp_path / "1.jpg")
    with pytest.raises(ValueError, match=r"visual_genome_relation\.json item 0: the box"):
        read("vg-r", tmp_path)


CAPTIONS = [f"caption {letter}" for letter in "abcdefg"]


def karpathy(folder, form):
    """Two images in COCO's val2014, seven captions and five; in the original form one each of other splits too.

    CLIP_benchmark's has a row a caption, in the order of COCO's annotations.
    """
    rows = [("COCO_val2014_1.jpg", CAPTIONS), ("COCO_val2014_2.jpg", [f"other {letter}" for letter in "abcde"])]
    if form == "list":
        dump(folder / "coco_karpathy_test.json", [{"image": f"val2014/{n}", "caption": c} for n, c in rows])
    elif form == "coco":
        images = [{"id": number, "file_name": name} for number, (name, _) in enumerate(rows)]
        said = [{"image_id": number, "id": at, "caption": text}
                for number, (_, texts) in enumerate(rows) for at, text in enumerate(texts)]  # fmt: skip
        dump(
            folder / "coco_test_karpathy.json",
            {"images": images, "annotations": sorted(said, key=lambda one: one["id"])},
        )
    else:
        images = [
            {"filepath": "val2014", "filename": name, "split": split, "sentences": [{"raw": text} for text in texts]}
            for (name, texts), split in zip(
                [*rows, ("COCO_val2014_3.jpg", ["third"]), ("COCO_val2014_4.jpg", ["fourth"])],
                ["test", "test", "restval", "val"], strict=True,
            )
        ]  # fmt: skip
        dump(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    for number in range(1, 5):
        image_file(folder / "val2014" / f"COCO_val2014_{number}.jpg")


@pytest.mark.parametrize("form", ["list", "whole", "coco"])
@pytest.mark.parametrize("below", ["", "val2014"])
def test_coco_takes_all_captions_or_the_first_five_of_every_form(tmp_path, form, below):
    karpathy(tmp_path, form)
    assert read("coco", tmp_path, tmp_path / below).captions == [*CAPTIONS, *(f"other {letter}" for letter in "abcde")]
    task = read("coco", tmp_path, tmp_path / below, captions=5)
    assert [Path(one.name).name for one in task.images] == ["COCO_val2014_1.jpg", "COCO_val2014_2.jpg"]
    assert task.captions == [*CAPTIONS[:5], *(f"other {letter}" for letter in "abcde")]
    (question,) = task.questions
    assert question.image_index.tolist() == [0] * 5 + [1] * 5
    # Two captions of the first image are found, and one of the second: by text 3 of 10, by image both at 1.
    found = values(task, says(("1.jpg", "caption a"), ("1.jpg", "caption b"), ("2.jpg", "other e")))
    assert (found["t2i_r1"], found["i2t_r1"], found["t2i_r5"]) == (0.3, 1.0, 1.0)


def test_restval_lies_in_val2014(tmp_path):
    karpathy(tmp_path, "whole")
    task = read("coco", tmp_path, split="restval")
    assert [Path(one.name).parts[-2:] for one in task.images] == [("val2014", "COCO_val2014_3.jpg")]


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    karpathy(tmp_path, "whole")
    with pytest.raises(ValueError, match=r"split is 'train'.*options=..split.: VALUE} with one of test, val, restval"):
        read("coco", tmp_path, split="train")
    dump(tmp_path / "dataset_coco.json", {"images": [{"filename": "a", "split": "test", "sentences": [{"raw": "x"}]}]})
    with pytest.raises(ValueError, match="has no row of split 'val'; it has test"):
        read("coco", tmp_path, split="val")


def test_captions_said_of_two_images_are_counted(tmp_path):
    dump(
        tmp_path / "flickr30k_test.json", [{"image": f"flickr30k-images/{n}.jpg", "caption": ["same"]} for n in (1, 2)]
    )
    for number in (1, 2):
        image_file(tmp_path / "images" / f"{number}.jpg")
    task = read("flickr30k", tmp_path, tmp_path / "images")
    assert [note.partition(",")[0] for note in task.notes] == ["1 captions also belong to an earlier image: a tie"]


def test_flickr30k_as_clip_benchmark_has_it(tmp_path):
    lines = ["image,caption", '5.jpg,A dog, in "quotes", runs.', "5.jpg,A cat", "", "6.jpg, two men"]
    (tmp_path / "flickr30k_test_karpathy.txt").write_text("\n".join(lines))
    for number in (5, 6):
        image_file(tmp_path / f"{number}.jpg")
    task = read("flickr30k", tmp_path)
    assert task.captions == ['A dog, in "quotes", runs.', "A cat", "two men"]
    assert task.questions[0].image_index.tolist() == [0, 0, 1]
    assert read("flickr30k", tmp_path, captions=1).captions == ['A dog, in "quotes", runs.', "two men"]
    (tmp_path / "flickr30k_test_karpathy.txt").write_text("image,caption\n5.png,A dog\n")
    with pytest.raises(ValueError, match=r"karpathy\.txt line 2 is '5\.png,A dog', not NAME\.jpg,CAPTION"):
        read("flickr30k", tmp_path)


def test_flickr30ks_original_form_names_no_folder(tmp_path):
    images = [{"filename": "5.jpg", "split": "test", "sentences": [{"raw": "a dog"}, {"raw": "a cat"}]}]
    dump(tmp_path / "dataset_flickr30k.json", {"images": images})
    image_file(tmp_path / "flickr30k-images" / "5.jpg")
    assert read("flickr30k", tmp_path).captions == ["a dog", "a cat"]


WORDS = {"dog": "NN", "cat": "NN", "cats": "NN", "red": "JJ", "old": "JJ", "big": "JJ"}


def tag(words):
    return [WORDS.get(word, "X") for word in words]


tagged = partial(tag_words, tag)
RAW = "A Red dog and an old cat, with the big cats"


def test_each_shuffle_moves_what_it_says():
    own, found = shuffles_of(RAW, tagged, 0)
    assert own == "a red dog and an old cat, with the big cats"
    words = own.replace(",", " ,").split()
    by_name = dict(zip(SHUFFLES, (text.split() for text in found), strict=True))
    assert all(sorted(text) == sorted(words) for text in by_name.values())
    for kind in ("NN", "JJ"):
        places = [at for at, word in enumerate(words) if WORDS.get(word) == kind]
        moved = by_name["shuffle_nouns_and_adj"]
        assert sorted(moved[at] for at in places) == sorted(words[at] for at in places)
    still = [at for at, word in enumerate(words) if word not in WORDS]
    assert all(by_name["shuffle_nouns_and_adj"][at] == words[at] for at in still)
    assert all(by_name["shuffle_allbut_nouns_and_adj"][at] == words[at] for at in set(range(len(words))) - set(still))


def test_shuffles_of_three_words():
    caption = "one two three four five six seven"
    for seed in range(30):
        _, found = shuffles_of(caption, tagged, seed)
        by_name = dict(zip(SHUFFLES, found, strict=True))
        within, whole = (by_name[name].split() for name in ("shuffle_within_trigrams", "shuffle_trigrams"))
        assert [sorted(within[at : at + 3]) for at in (0, 3, 6)] == [
            ["one", "three", "two"], ["five", "four", "six"], ["seven"],
        ]  # fmt: skip
        assert "one two three" in " ".join(whole)
        assert "four five six" in " ".join(whole)
        assert by_name["shuffle_nouns_and_adj"] is None  # it has none


def test_shuffles_depend_on_seed_and_caption_alone():
    assert shuffles_of(RAW, tagged, 1) == shuffles_of(RAW, tagged, 1)
    assert len({tuple(shuffles_of(RAW, tagged, seed)[1]) for seed in range(10)}) > 5


def test_an_order_is_never_the_caption_again():
    rng = random.Random(0)
    for _ in range(200):
        caption = " ".join(rng.choices(["dog", "red", "a", "a", ",", "cat"], k=rng.randint(1, 6)))
        own, found = shuffles_of(caption, tagged, 0)
        assert all(text is None or comparable(text) != comparable(own) for text in found)


def test_captions_are_cut_at_30_words():
    own, found = shuffles_of(" ".join(f"word{number}" for number in range(50)), tagged, 0)
    assert {len(text.split()) for text in (own, *filter(None, found))} == {MAX_WORDS}


def test_coco_order_with_the_default_tagger(tmp_path):
    dump(tmp_path / "coco_karpathy_test.json", [
        {"image": "1.jpg", "caption": ["A red dog sits on a small table.", "Dog."]},
        {"image": "2.jpg", "caption": ["Two men ride brown horses along the beach."]},
    ])  # fmt: skip
    for number in (1, 2):
        image_file(tmp_path / f"{number}.jpg")
    task = read("coco-order", tmp_path, protocol="labclip", seed=3)
    true = {"1.jpg": "a red dog sits on a small table", "2.jpg": "two men ride brown horses along the beach"}
    (choice, gallery) = task.questions
    assert choice.options.shape == (2, 5)
    assert values(task, says(*true.items())) == {
        "accuracy": 1.0, **{f"{side}_r{k}": 1.0 for side in ("t2i", "i2t") for k in (1, 5, 10)}
    }  # fmt: skip
    assert values(task, lambda name, caption: 0.5)["accuracy"] == 0.0  # all tie
    assert isinstance(gallery, Retrieval)
    assert "1 captions with no other order are left out." in task.notes
    assert any(note.startswith("Shuffled with seed 3, parts of speech by hanta.") for note in task.notes)
    assert choice.score(*features(task, lambda name, caption: 0.5))[0].by_index.all()  # the caption is the first
    assert [note for note in task.notes if note.startswith("Shuffles equal to their caption")]


class Token(NamedTuple):
    text: str
    tag_: str


@pytest.fixture
def spacy(monkeypatch):
    """A stand-in of spaCy, whose model is on no package registry: its words are not ours, its tags are of words."""
    model = lambda text: [Token(word, WORDS.get(word.lower(), "X")) for word in text.replace(".", " .").split()]  # noqa: E731
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name, exclude: model))
    spacy_model.cache_clear()
    yield model
    spacy_model.cache_clear()


def test_coco_order_as_aros_code_has_it(tmp_path, spacy):
    """spaCy's words and tags, one draw of each shuffle, and an equal one in the caption's place is right."""
    captions = ["A red dog and an old cat.", "Dog.", "Cat and the dog's cat"]
    dump(tmp_path / "coco_karpathy_test.json", [{"image": "1.jpg", "caption": captions}])
    image_file(tmp_path / "1.jpg")
    asked, equal = set(), 0
    for seed in range(20):
        task = read("coco-order", tmp_path, tagger="", seed=seed)
        (choice,) = task.questions
        assert len(choice.options) == 3  # none is left out
        asked.add(tuple(task.captions[row] for row in choice.options[0] if row >= 0))
        assert [task.captions[row] for row in choice.options[1] if row >= 0] == ["dog"]
        equal += (choice.options[[0, 2]] < 0).sum()
        # Nothing but equal shuffles: ARO's `argmax` takes the caption, which is the first.
        scores = choice.score(*features(task, lambda name, caption: 0.5))[0]
        assert scores.by_index.all()
        assert scores.correct.tolist() == [False, True, False]
    # Two nouns and two adjectives: a quarter of the draws moves none of them, and is not drawn again.
    assert len(asked) > 10
    assert equal > 5
    assert "1 captions with no other order are right." in task.notes
    assert task.notes[0].startswith("Shuffles equal to their caption count as right, as in ARO's code: ")
    assert task.notes[-1].endswith("parts of speech by spacy. As ARO's code, but for the seed.")
    # Taggers and draws apart: HanTa's tags in the paper's protocol, spaCy's in the other.
    hanta = read("coco-order", tmp_path, tagger="hanta")
    assert len(hanta.questions[0].options) == 3
    assert any("parts of speech by hanta. Not as ARO's code" in note for note in hanta.notes)


def test_without_spacy_one_line_says_what_to_type(tmp_path, monkeypatch):
    dump(tmp_path / "coco_karpathy_test.json", [{"image": "1.jpg", "caption": ["A dog."]}])
    monkeypatch.setitem(sys.modules, "spacy", None)
    spacy_model.cache_clear()
    with pytest.raises(ValueError, match=r"need it installed\. Type: pip install spacy .*; or pass options=.*labclip"):
        read("coco-order", tmp_path, tagger="")


def test_winoground_as_jsonl_and_as_parquet(tmp_path):
    row = {"image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "a b", "caption_1": "b a", "id": 0}
    (tmp_path / "examples.jsonl").write_text(json.dumps(row))
    for number in (0, 1):
        image_file(tmp_path / "images" / f"ex_0_img_{number}.png")
    right, wrong = (says(("img_0.png", one), ("img_1.png", other)) for one, other in (("a b", "b a"), ("b a", "a b")))
    task = read("winoground", tmp_path)
    assert [values(task, right)[name] for name in ("text", "image", "group", "t2i_r1")] == [1.0] * 4
    assert [values(task, wrong)[name] for name in ("text", "image", "group", "t2i_r1")] == [0.0] * 4
    # Both images like the first caption, the first one more: the caption is right for the first, no more.
    half = values(task, lambda name, caption: {"a b": 0.5, "b a": 0.2}[caption] + name.endswith("img_0.png") * 0.1)
    assert [half[name] for name in ("text", "image", "group")] == [0.0, 0.0, 0.0]

    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{
        **row, "image_0": {"bytes": (tmp_path / "images/ex_0_img_0.png").read_bytes(), "path": "0.png"},
        "image_1": {"bytes": (tmp_path / "images/ex_0_img_1.png").read_bytes(), "path": "1.png"},
    }]  # fmt: skip
    (tmp_path / "hub" / "data").mkdir(parents=True)
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    packed = read("winoground", tmp_path / "hub")
    assert packed.captions == task.captions
    assert [one.read() for one in packed.images] == [one.read() for one in task.images]
    assert packed.images[0].decode(packed.images[0].read()).size == (8, 8)


def test_winogrounds_folder_of_the_hub_and_its_tags(tmp_path):
    tags = [{"collapsed_tag": "Object", "num_main_preds": 1, "secondary_tag": ""},
            {"collapsed_tag": "Relation", "num_main_preds": 1, "secondary_tag": "Series"}]  # fmt: skip
    rows = [{"id": n, "caption_0": f"a b {n}", "caption_1": f"b a {n}", "image_0": f"ex_{n}_img_0",
             "image_1": f"ex_{n}_img_1", "tag": "Noun", **tag} for n, tag in enumerate(tags)]  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for number, at in itertools.product((0, 1), (0, 1)):
        image_file(tmp_path / "data" / "images" / f"ex_{number}_img_{at}.png")
    right = says(("ex_0_img_0.png", "a b 0"), ("ex_0_img_1.png", "b a 0"))
    assert [values(read("winoground", at), right)["group"] for at in (tmp_path, tmp_path / "data")] == [0.5, 0.5]
    found = values(read("winoground", tmp_path, breakdown=True), right)
    assert {name: value for name, value in found.items() if name.endswith("_group")} == {
        "collapsed_tag_Object_group": 1.0, "collapsed_tag_Relation_group": 0.0, "num_main_preds_1_group": 0.5,
        "secondary_tag_Series_group": 0.0,
    }  # fmt: skip
    assert found["collapsed_tag_Object_text"] == 1.0
    del rows[1]["num_main_preds"]
    (tmp_path / "data" / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"examples\.jsonl line 2 has no num_main_preds"):
        read("winoground", tmp_path, breakdown=True)


def test_colorswap_pairs_the_second_with_the_second(tmp_path):
    row = {"id": 0, "image_1": "1.png", "image_2": "2.png", "caption_1": "x y", "caption_2": "y x"}
    dump(tmp_path / "test.json", [row])
    for number in (1, 2):
        image_file(tmp_path / f"{number}.png")
    task = read("colorswap", tmp_path)
    assert values(task, says(("1.png", "x y"), ("2.png", "y x")))["group"] == 1.0
    dump(tmp_path / "test.json", [row, {**row, "caption_2": "x y"}])
    task = read("colorswap", tmp_path)
    assert values(task, says(("1.png", "x y"), ("2.png", "y x")))["text"] == 0.5
    assert "1 items have the right caption among the wrong ones: a tie, so wrong." in task.notes
    with pytest.raises(ValueError, match="split is 'val'"):
        read("colorswap", tmp_path, split="val")


PLACES = ("left_of", "right_of", "on", "under")


def whatsup(folder):
    """The four places of one pair of things, and two of another's."""
    items = []
    for one, other, places in (("mug", "plate", PLACES), ("cup", "dog_bowl", PLACES[:2])):
        for place in places:
            name = f"{one}_{place}_{other}.jpeg"
            image_file(folder / "controlled_images" / name)
            wrong = [f"{one} {w} {other}" for w in PLACES if w != place]
            items.append({"image_path": f"data/controlled_images/{name}",
                          "caption_options": [f"{one} {place} {other}", *wrong]})  # fmt: skip
    dump(folder / "controlled_images_dataset.json", items)
    dump(folder / "coco_qa_one_obj.json", [[139, "a dog on the left", "a dog on the right"]])
    image_file(folder / "val2017" / "000000000139.jpg")


def test_whatsup_asks_for_what_it_lacks(tmp_path):
    whatsup(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"vg_qa_two_obj\.json.*Get it there"):
        read("whatsup", tmp_path, subset="vg_two")
    with pytest.raises(ValueError, match=r"subset is 'c'.*one of all, a, b, coco_one"):
        read("whatsup", tmp_path, subset="c")
    (tmp_path / "controlled_images_dataset.json").rename(tmp_path / "mine.json")
    with pytest.raises(ValueError, match=r"mine\.json has no usual name.*options=..subset.: VALUE}"):
        read("whatsup", tmp_path / "mine.json", tmp_path)
    assert "a" in counts(read("whatsup", tmp_path / "mine.json", tmp_path, subset="a"))
    dump(tmp_path / "coco_qa_one_obj.json", [[139, "only one"]])
    with pytest.raises(ValueError, match=r"item 0 has no 2: \[139, 'only one'\] is too short"):
        read("whatsup", tmp_path / "coco_qa_one_obj.json", tmp_path)


NEGATION = "image_path,caption_0,caption_1,caption_2,caption_3,correct_answer,correct_answer_template"
MCQ = "COCO_val_mcq_llama3.1_rephrased.csv"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.jpg,a,b,c,d,4,hybrid", "line 2: correct_answer is '4', not a number from 0 to 3"),
        ("a.jpg,a,b,c,d,-1,hybrid", "correct_answer is '-1'"),
        ("a.jpg,a,b,c,d,yes,hybrid", "correct_answer is 'yes'"),
        ("a.jpg,a,,c,d,0,hybrid", "line 2: the caption is ''"),
        ("a.jpg,a,b,c,d,0,hybrid,more", "more cells than the header"),
        ("", "has no row"),
    ],
)
def test_negation_rows_are_checked(tmp_path, row, said):
    (tmp_path / MCQ).write_text(f"{NEGATION}\n{row}\n")
    image_file(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=said):
        read("negation", tmp_path)


AUTHORS = "/data/healthy-ml/scratch/kumail/coco/images/val2017"


def test_negbenchs_absolute_paths_are_names_in_a_folder_that_is_named(tmp_path):
    rows = [f"{AUTHORS}/a.jpg,a,b,a,d,2,hybrid", f"{tmp_path}/images/sub/b.jpg,e,f,g,h,0,positive"]
    for file, ways in ((MCQ, "images"), ("VOC2007_mcq_llama3.1_rephrased.csv", "images/VOCdevkit/VOC2007/JPEGImages")):
        (tmp_path / file).write_text("\n".join([NEGATION, *rows[: 2 if file == MCQ else 1]]))
        image_file(tmp_path / ways / "a.jpg")
    image_file(tmp_path / "images" / "sub" / "b.jpg")
    task = read("negation", tmp_path, tmp_path / "images")
    assert [str(one.file.relative_to(tmp_path)) for one in task.images] == ["images/a.jpg", "images/sub/b.jpg"]
    # The right caption stands third and is the first one again: a tie, which the authors' code, that puts the right
    # one first, has right.
    tied = features(task, lambda name, caption: float(caption in "ae"))
    (scores, *_) = task.questions[0].score(*tied)
    assert (scores.correct.tolist(), scores.by_index.tolist()) == ([False, True], [True, True])
    assert "1 items have the right caption among the wrong ones: a tie, so wrong." in task.notes
    assert counts(read("negation-voc", tmp_path, tmp_path / "images")) == {"accuracy": 1, "hybrid": 1}
    with pytest.raises(ValueError, match=r"line 2: the image's name .* leads out of .*Pass images=DIR"):
        read("negation", tmp_path)


def test_kinds_of_negation_that_are_written_differently_are_one(tmp_path):
    rows = ["a.jpg,a,b,c,d,0,Positive", "a.jpg,e,f,g,h,0,positive"]
    (tmp_path / MCQ).write_text("\n".join([NEGATION, *rows]))
    image_file(tmp_path / "a.jpg")
    assert counts(read("negation", tmp_path)) == {"accuracy": 2, "positive": 2}


@pytest.mark.parametrize("name", ["sugarcrepe", "sugarcrepe-pp"])
def test_subsets_of_which_nothing_is_left_are_named(tmp_path, name):
    """A mean over fewer subsets than its name says must not pass for one over all."""
    for number, subset in enumerate(SUBSETS):
        item = {"filename": f"{number}.jpg", "caption": "a", "caption2": "c", "negative_caption": "b"}
        dump(tmp_path / f"{subset}.json", [item])
        if subset != "swap_obj":
            image_file(tmp_path / f"{number}.jpg")
    task = read(name, tmp_path, on_missing="skip")
    assert task.notes[0].startswith("1 of")
    assert "No item is left of swap_obj: means over subsets are of the others alone." in task.notes
