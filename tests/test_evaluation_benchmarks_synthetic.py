"""Images of which every object is known: the forms of their labels, swaps, splits that do not leak, scenes."""

import hashlib
import itertools
from collections import Counter
from functools import partial

import pytest
from evaluated import asked, counts, lay, read
from hypothesis import given
from hypothesis import strategies as st

from labclip.evaluation.benchmarks.parts import exact_parts
from labclip.evaluation.benchmarks.synthetic import _clevr_split, _pug_split, split_of
from labclip.evaluation.scene_files import SceneEntry, caption, combination, read_labelled_scenes, swapped_caption
from labclip.evaluation.sources import Sources

COLOURS, SHAPES = ("red", "blue", "green"), ("cube", "ball", "cone")
things = st.lists(st.tuples(st.sampled_from(COLOURS), st.sampled_from(SHAPES)), min_size=1, max_size=5).map(tuple)


@given(things)
def test_a_swap_says_something_else_or_is_none(scene):
    swapped = swapped_caption(scene)
    pairs = [(a, b) for a in scene for b in scene if a[0] != b[0] and a[1] != b[1]]
    assert (swapped is None) == (not pairs)
    if swapped is not None:
        assert sorted(swapped.split(" and ")) != sorted(caption(scene).split(" and "))
        assert Counter(swapped.split()) == Counter(caption(scene).split())
        assert [phrase.split()[1] for phrase in swapped.split(" and ")] == [shape for _, shape in scene]


@given(st.lists(things, min_size=1, max_size=40), st.integers(0, 99))
def test_a_combination_and_its_swaps_are_on_one_side(scenes, seed):
    sides = split_of([combination(scene) for scene in scenes], seed)
    side_of = {}
    for scene, side in zip(scenes, sides, strict=True):
        bags = tuple(tuple(sorted(words)) for words in zip(*scene, strict=True))
        assert side_of.setdefault(bags, side) == side


def test_splits_are_80_10_10_of_the_combinations_and_seeded():
    animals = [(str(first), str(other)) for first in range(20) for other in range(first)]
    known = [combination((("red", first), ("blue", other))) for first, other in animals]
    assert Counter(split_of(known, 0)) == {"train": 152, "val": 19, "test": 19}
    assert split_of(known, 0) == split_of(known[::-1], 0)[::-1]  # whatever the order of the rows
    assert split_of(known, 0) != split_of(known, 1)


@given(st.lists(things, min_size=1, max_size=8), st.integers(0, 9))
def test_a_wrong_part_is_never_true_of_its_image(scenes, seed):
    sources, shown = Sources(None), {row: SceneEntry("", scene, "") for row, scene in enumerate(scenes)}
    for choice in exact_parts(sources, shown, "{} {}".format, COLOURS, seed, {*itertools.chain(*scenes)}):
        for metric, group in choice.metrics.items():
            for row, options in zip(choice.image[group >= 0], choice.options[group >= 0], strict=True):
                true, colours = {" ".join(pair) for pair in scenes[row]}, {colour for colour, _ in scenes[row]}
                right, wrong = (sources.captions[option].split(" and ") for option in options)
                assert true.issuperset(right)
                assert true.issuperset(wrong) == (metric == "whole_truth")
                if metric != "whole_truth":  # a swapped attribute is in the image, a foil is not
                    assert (wrong[-1].split()[0] in colours) == (metric == "part_swap")


LINES = ("0.png,cube,red,sphere,blue", "1.png,sphere,blue,cube,red", "2.png,cube,red,sphere,red",
         "3.png,cube,blue,sphere,red", "4.png,cube,red,cube,blue")  # fmt: skip


def authors(folder, lines, objects=2):
    """The authors' form, with its images."""
    images = {f"images_{objects}obj/{line.split(',')[0]}": None for line in lines}
    lay(folder, {f"output_{objects}obj.csv": "\n".join(lines), **images})


def test_clevr_of_the_authors(tmp_path):
    authors(tmp_path, LINES)
    authors(tmp_path, ["9.png,cube,red,sphere,blue,cone,green"], objects=3)
    task = read("clevr", tmp_path, protocol="labclip", split="all")
    assert asked(task) == [
        (["0.png"], ["red cube and blue sphere", "blue cube and red sphere"]),
        (["1.png"], ["blue sphere and red cube", "red sphere and blue cube"]),
        (["3.png"], ["blue cube and red sphere", "red cube and blue sphere"]),
    ]
    assert any("2 of 5 images have no swapped caption" in note for note in task.notes)
    assert any(note.startswith("Not as the paper's code") for note in task.notes)
    # Images 0 and 1 show the same: one of them is the answer to a search.
    assert len(task.questions[1].images) == 4
    assert any("Retrieval: 4 of 5 images" in note for note in task.notes)
    three = {"objects": 3, "split": "all"}
    assert read("clevr", tmp_path, protocol="labclip", **three).captions[0] == "red cube and blue sphere and green cone"


def test_clevr_as_the_papers_code_has_it(tmp_path):
    authors(tmp_path, LINES)
    task = read("clevr", tmp_path, split="all")
    assert (counts(task)["binding"], counts(task)["i2t_r1"]) == (3, 4)
    assert any(note.startswith("1 of 5 images do not show two different objects") for note in task.notes)
    assert any("1 of 4 images have no swapped caption" in note for note in task.notes)
    assert "As the paper's code: captions in one order, recall among 192." in task.notes


def whole_sets():
    """All scenes of CLEVR, of as many animals and textures as PUG:SPARE has, and as PUG:SPAR, once each."""

    def entries(scenes):
        return [SceneEntry(str(number), scene, "") for number, scene in enumerate(scenes)]

    colours = ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow")
    things = list(itertools.product(colours, ("cube", "cylinder", "sphere")))
    clevr = [(pair, other) for pair, other in itertools.product(things, things) if pair < other and pair[1] != other[1]]
    names, textures = (
        [f"{what}{number}" for number in range(count)] for what, count in (("animal", 32), ("texture", 8))
    )
    spare, spar = (
        [tuple(zip(two, animals, strict=True)) for animals in itertools.permutations(names[:count], 2) for two in pairs]
        for count, pairs in (
            (12, list(itertools.permutations(textures, 2))), (32, [("Blue", "Red"), ("Grass", "Stone")])
        )
    )  # fmt: skip
    return {
        "clevr": partial(_clevr_split, entries(clevr)),
        "spare": partial(_pug_split, entries(spare), ordered=True),
        "spar": partial(_pug_split, entries(spar), ordered=False),
    }


# Of the rows that the paper's code, run on these scenes with seed 42, puts on each side.
PAPERS_SPLITS = {
    ("clevr", "train"): "caba016d4320", ("clevr", "val"): "a3aaadaf1ab9", ("clevr", "test"): "6d9ce57c1fe4",
    ("spare", "train"): "ae723350db17", ("spare", "val"): "33964e7d61a7", ("spare", "test"): "819421ebe2ad",
    ("spar", "train"): "83cf902fae6a", ("spar", "val"): "39f2cc1cd230", ("spar", "test"): "154b6cd76813",
}  # fmt: skip


def test_splits_are_those_of_the_papers_code():
    """Row by row, and as often, since SPARE's has some twice."""
    sides = {
        (file, split): hashlib.sha256(" ".join(sorted(entry.image for entry in part)).encode()).hexdigest()[:12]
        for file, split_up in whole_sets().items()
        for split in ("train", "val", "test")
        for part in [split_up(split, 42)]
    }
    assert sides == PAPERS_SPLITS


FOLLOW_UP = "filename,object1_color,object1_shape,object2_color,object2_shape,object1_color_idx\n"
SPAR = "filename,world_name,character_name,character2_name,character1_pos,character_texture,character2_texture\n"
SPARE = "filename,world_name,character_name,character2_name,character_texture,character2_texture,character_pos,x\n"
OBJECTS = [{"color": colour, "shape": shape} for colour, shape in (("red", "cube"), ("blue", "cone"), ("red", "cone"))]
SCENES = [{"image_filename": "0.png", "split": "val", "objects": OBJECTS},
          {"image_filename": "1.png", "split": "val", "objects": OBJECTS[:1]}]  # fmt: skip
CROW = (["Red Crow and Blue Fox"], ["Blue Crow and Red Fox"])
LABELS = {
    "clevr's follow-up": (
        {"labels.csv": f"{FOLLOW_UP}0.png,purple,cube,gray,cylinder,5\n1.png,red,cube,red,cone,6\n",
         "0.png": None, "1.png": None},
        "clevr", (["purple cube and gray cylinder", "red cube and red cone"], ["gray cube and purple cylinder", None]),
    ),
    "clevr's own": (
        {"scenes/CLEVR_val_scenes.json": {"info": {}, "scenes": SCENES}, "images/val/0.png": None,
         "images/val/1.png": None},
        "clevr", (["red cube and blue cone and red cone", "red cube"], ["blue cube and red cone and red cone", None]),
    ),
    "pug-spare": ({"PUG_SPARE.csv": f"{SPARE}0.png,D,Crow,Fox,Red,Blue,,\n", "D/0.png": None}, "pug-spare", CROW),
    "pug-spare's follow-up": (
        {"labels.csv": f"{SPARE}0.png,D,Crow,Fox,Red,Blue,,\n", "0.png": None}, "pug-spare", CROW,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", LABELS)
def test_labels_are_read(tmp_path, form):
    files, kind, captions = LABELS[form]
    lay(tmp_path, files)
    labelled = read_labelled_scenes(tmp_path)
    assert labelled.name.startswith(kind)
    assert (labelled.captions, labelled.swapped) == captions
    assert [caption(objects) for objects in labelled.objects] == labelled.captions
    assert counts(read(kind, tmp_path, protocol="labclip", split="all"))["binding"] == 1


def test_pug_spar_leaves_out_what_binds_nothing(tmp_path):
    lines = ["0.png,Desert,Bear,Cat,left,Blue,Red", "1.png,Desert,Bear,blank,left,Blue,Default",
             "2.png,Desert,Bear,Bear,left,Grass,Stone", "3.png,Desert,Bear,Cat,left,Default,Default",
             "4.png,Arena,Bear,Cat,left,Blue,Red", "5.png,Arena,Cat,Bear,bottom,Grass,Stone"]  # fmt: skip
    lay(tmp_path, {"labels.csv": SPAR + "\n".join(lines), **{f"{number}.png": None for number in range(6)}})
    task = read("pug-spar", tmp_path, protocol="labclip", split="all")
    assert task.captions[:4] == ["Blue Bear and Red Cat", "Red Bear and Blue Cat",
                                 "Grass Cat and Stone Bear", "Stone Cat and Grass Bear"]  # fmt: skip
    recall = {f"{side}_r{k}": 2 for side in ("t2i", "i2t") for k in (1, 5, 10)}
    parts = dict.fromkeys(("part_swap", "part_foil", "half_truth", "whole_truth"), 6)
    assert counts(task) == {"binding": 3, **recall, **parts}
    assert "Search: 4 pairs that fewer than 3 images show are no queries." in task.notes
    assert task.notes[0] == "3 images with one animal, two of a kind, or no texture are left out."
    for other in ("pug-spare", "clevr"):
        with pytest.raises(ValueError, match=f"holds pug-spar, not {other}"):
            read(other, tmp_path)


def test_a_scene_that_spare_has_twice_is_asked_twice_and_every_order_is_a_caption(tmp_path):
    table = SPARE + 2 * "0.png,D,Crow,Fox,Red,Blue,,\n" + "1.png,D,Crow,Fox,Sand,Blue,,\n"
    lay(tmp_path, {"PUG_SPARE.csv": table, "D/0.png": None, "D/1.png": None})
    task = read("pug-spare", tmp_path, split="all")
    assert (counts(task)["binding"], counts(task)["part_swap"]) == (3, 4)
    assert {task.captions[row] for row in task.questions[1].captions} == {
        f"{attribute} {first} and {other} {second}"
        for shade in ("Red", "Sand")
        for attribute, other in itertools.permutations((shade, "Blue"))
        for first, second in itertools.permutations(("Crow", "Fox"))
    }
