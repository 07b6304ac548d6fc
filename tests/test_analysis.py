"""The measures, each on embeddings whose answer is known, against slow obvious loops, and on bad input."""

import itertools
import math

import numpy as np
import planted_scenes
import pytest
import torch
import torch.nn.functional as F

from labclip import Alignment, analysis

SCENES = planted_scenes.contents(repeat=3)
LABELS = analysis.labels_of(SCENES)


@pytest.fixture(scope="module")
def bound():
    return planted_scenes.embedded(SCENES)


def test_a_scene_and_the_swapped_one_share_a_combination_and_no_combination_is_in_two_folds():
    combinations = {}
    for scene, number in zip(SCENES, LABELS.combination.tolist(), strict=True):
        key = (tuple(sorted(a for a, _ in scene)), tuple(sorted(o for _, o in scene)))
        assert combinations.setdefault(key, number) == number
    assert len(combinations) == len(set(combinations.values())) == LABELS.combinations == 150
    fold = analysis.folds_of(LABELS, 4, seed=3)
    sizes = [set(LABELS.combination[fold == number]) for number in range(4)]
    assert sum(map(len, sizes)) == 150
    assert max(map(len, sizes)) - min(map(len, sizes)) <= 1
    assert not np.array_equal(fold, analysis.folds_of(LABELS, 4, seed=4))


def test_the_bag_of_words_baseline_is_one_in_the_number_of_objects():
    mixed = analysis.labels_of([(("red", "cube"), ("red", "ball"), ("blue", "cone")), (("blue", "cube"),)])
    assert mixed.bag_chance() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1.0])
    assert LABELS.bag_chance().tolist() == [0.5] * len(LABELS.scene)


def test_a_probe_reads_binding_where_it_is_and_no_more_than_words_where_it_is_not(bound):
    bag = planted_scenes.embedded(SCENES, image=False, text=False)
    read, words = (analysis.probe(data.texts["captions"], LABELS) for data in (bound, bag))
    assert read.accuracy.value > 0.9
    assert read.accuracy.low > 0.85
    assert words.accuracy.high < 0.6
    assert (read.bag_chance, read.accuracy.chance, read.accuracy.n) == (0.5, 1 / 6, len(LABELS.scene))
    assert read.kept() == pytest.approx(2 * read.accuracy.value - 1)
    assert set(read.by_object) == set(planted_scenes.OBJECTS)
    mean = sum(estimate.value * estimate.n for estimate in read.by_object.values()) / read.accuracy.n
    assert mean == pytest.approx(read.accuracy.value)


def test_a_probe_that_learnt_the_scenes_by_heart_gains_nothing():
    # Every combination has an embedding of its own: within a combination anything can be learnt, across them nothing.
    rng = np.random.default_rng(0)
    own = rng.normal(size=(LABELS.combinations, 2, 40))
    first = np.array([scene[0] < scene[1] for scene in SCENES]).astype(int)
    features = own[LABELS.combination, first]
    assert analysis.probe(features, LABELS).accuracy.high < 0.4


def test_probes_of_many_objects_and_of_objects_there_twice():
    rng = np.random.default_rng(1)
    scenes = []
    for _ in range(400):
        names = [f"object{number}" for number in rng.integers(12, size=10)]
        scenes.append(tuple((str(rng.choice(["red", "blue", "green"])), name) for name in names))
    labels = analysis.labels_of(scenes)
    code = np.zeros((labels.n, 36), dtype=np.float32)
    np.add.at(code, (labels.scene, 3 * labels.object + labels.attribute), 1)
    read = analysis.probe(code + 0.01 * rng.normal(size=code.shape), labels, folds=2)
    assert read.accuracy.value > 0.95
    alone = sum(names.count(name) == 1 for names in ([o for _, o in scene] for scene in scenes) for name in names)
    assert read.accuracy.n == alone
    assert read.left_out == len(labels.scene) - alone


def test_a_tie_of_attributes_is_wrong():
    scenes = [
        ((a, "cube"), (b, "ball")) for a, b in [("red", "blue"), ("blue", "red"), ("red", "red"), ("blue", "blue")]
    ]
    same = np.ones((40, 3), dtype=np.float32)  # nothing tells: every score is the prior's
    read = analysis.probe(same, analysis.labels_of(scenes * 10), folds=3)
    assert read.accuracy.value <= 0.5


def test_permutation_similarity_against_a_loop(bound):
    captions, swapped = bound.texts["captions"], bound.texts["swapped"]
    matrix = torch.randn(captions.shape[1], captions.shape[1], generator=torch.Generator().manual_seed(0))
    similarity = analysis.permutation_similarity(3 * captions, swapped, Alignment(matrix))
    for when, a in (("before", torch.eye(len(matrix))), ("after", matrix)):
        pairs = zip(captions, swapped, strict=True)
        slow = [F.cosine_similarity(a @ caption, a @ other, dim=0).item() for caption, other in pairs]
        for share, value in similarity[when].quantiles.items():
            assert value == pytest.approx(np.quantile(slow, share), abs=1e-5)
        bins = itertools.pairwise(similarity[when].edges)
        counted = [sum(low <= value < high for value in slow) for low, high in bins]
        assert np.abs(similarity[when].histogram * len(slow) - counted).sum() <= 4  # rounding at an edge
        assert similarity[when].histogram.sum() == pytest.approx(1)
    same = analysis.permutation_similarity(captions, captions)
    assert list(same) == ["before"]
    assert same["before"].histogram[-1] == 1  # where rounding takes a cosine past 1


def test_words_are_shuffled_and_kept():
    captions = ["a red cube and a blue ball"] * 20 + ["cube", "", "the the"]
    shuffled = analysis.shuffled_words(captions, seed=1)
    assert shuffled[-3:] == [None, None, None]
    for caption, other in zip(captions[:-3], shuffled[:-3], strict=True):
        assert other != caption
        assert sorted(other.split()) == sorted(caption.split())
    assert len(set(shuffled[:-3])) > 10
    assert shuffled == analysis.shuffled_words(captions, seed=1)


def test_the_gap_of_one_cloud_and_of_two_and_a_matrix_moves_the_captions_alone():
    rng = np.random.default_rng(0)
    texts, shift = rng.normal(size=(300, 12)), 9 * np.eye(12)[0]
    assert analysis.modality_gap(texts, rng.normal(size=(300, 12)))["before"].separability < 0.6
    far = analysis.modality_gap(texts + shift, texts - shift)["before"]
    assert far.separability == 1
    means = [F.normalize(torch.from_numpy(side), dim=1).mean(dim=0) for side in (texts + shift, texts - shift)]
    assert far.distance == pytest.approx(float(torch.dist(*means)), abs=1e-6)
    assert far.distance > 1.5
    turn = np.diag([-1.0] + [1.0] * 11).astype(np.float32)
    gap = analysis.modality_gap(texts + shift, texts + shift, turn)
    assert gap["before"].distance == 0
    assert (gap["after"].distance > 1, gap["after"].separability) == (True, 1)


def test_the_spectrum_of_known_matrices():
    identity = analysis.spectrum(Alignment.identity(5))
    assert (identity.distance, identity.change_rank, identity.rotation) == (0, 0, 0)
    assert identity.rank == pytest.approx(5)
    stretched = analysis.spectrum(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
    assert stretched.singular_values.tolist() == [4, 2, 1]
    assert stretched.rotation == 0
    assert stretched.distance == pytest.approx(math.sqrt(10))
    skew = analysis.spectrum(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.eye(2))
    assert skew.text_angle == pytest.approx(90)


def test_confusions_against_a_loop():
    rng = np.random.default_rng(2)
    right = rng.random(LABELS.n) < 0.7
    pairs = analysis.confusions(right, LABELS)
    assert len(pairs) == 15
    assert [estimate.value for estimate in pairs.values()] == sorted(estimate.value for estimate in pairs.values())
    for pair, estimate in pairs.items():
        hits = [ok for scene, ok in zip(SCENES, right, strict=True) if {a for a, _ in scene} == set(pair)]
        assert (estimate.n, estimate.value) == (len(hits), pytest.approx(np.mean(hits)))
        assert estimate.low < estimate.value < estimate.high
    assert sum(estimate.n for estimate in analysis.confusions(right, LABELS, by="object").values()) == LABELS.n


PAIR = analysis.labels_of([(("red", "cube"), ("blue", "ball"))] * 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.probe(np.full((900, 4), np.nan), LABELS), "row 0 is not finite"),
        (lambda: analysis.probe(np.ones((3, 4)), LABELS), "3 rows, but there are 900 scenes"),
        (lambda: analysis.probe(np.ones((9, 4)), PAIR), "There are 1 different combinations"),
        (lambda: analysis.folds_of(LABELS, 1), "folds=1"),
        (lambda: analysis.modality_gap(np.eye(4), np.eye(4)), "too few to tell from captions"),
        (lambda: analysis.labels_of([(("red", "cube"), ("red", "ball"))]), "same attribute, 'red'.*at least two"),
    ],
)
def test_what_can_not_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
