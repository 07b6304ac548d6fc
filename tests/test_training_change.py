import itertools
import math
import re
from dataclasses import replace

import planted
import pytest
import torch
import torch.nn.functional as F

import labclip
from labclip.training.change import Change, sign_test
from labclip.training.frontier import Point
from labclip.training.result import advice, judge
from labclip.training.rows import read_data

RECALLS = {"validation": (0.5, 0.5)}
POINTS = [Point(0.0, 0.0, 0.6, RECALLS, grounded=0.6), Point(1.0, 1.0, 0.7, RECALLS, grounded=0.7)]
BOUND = replace(POINTS[0], binding=0.96, grounded=0.96)
TURN = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # swaps the two axes, so that right becomes wrong


def held_out(signs, image_index=None):
    """Captions of one image axis: 1 is right with the base and wrong after `TURN`, -1 the other way, 0 a tie in both.

    The first axis is the image's; a caption leans to it or to the second, and its negative the other way.
    """
    lean = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    tie = F.normalize(torch.ones(2), dim=0)
    texts = torch.stack([tie if sign == 0 else lean[0 if sign > 0 else 1] for sign in signs])
    negatives = torch.stack([tie if sign == 0 else lean[1 if sign > 0 else 0] for sign in signs])
    index = torch.arange(len(signs)) if image_index is None else torch.tensor(image_index)
    count = int(index.max()) + 1
    images, every = torch.tensor([[1.0, 0.0]]).expand(count, 2), torch.ones(len(signs), dtype=torch.bool)
    return read_data(planted.features(images, texts, negatives, index, has_negative=every))


@pytest.mark.parametrize(("ups", "downs"), [(0, 0), (1, 0), (3, 3), (14, 2), (2, 14)])
def test_the_sign_test_counts_all_outcomes_of_a_coin(ups, downs):
    outcomes = itertools.product((0, 1), repeat=ups + downs)
    uneven = [abs(2 * sum(coins) - ups - downs) >= abs(ups - downs) for coins in outcomes]
    assert sign_test(ups, downs) == sum(uneven) / len(uneven)


@pytest.mark.parametrize(
    ("signs", "image_index", "counts", "p"),
    [
        ([-1] * 14 + [1] * 2 + [0] * 34, None, (50, 14, 2), sign_test(14, 2)),
        ([-1] * 2 + [1] * 14 + [0] * 34, None, (50, 2, 14), sign_test(14, 2)),
        ([0] * 1000, None, (1000, 0, 0), 1.0),  # ties are wrong on both sides
        ([-1] * 10, None, (10, 10, 0), 2 / 2**10),
        ([-1] * 10, [0] * 5 + [1] * 5, (10, 10, 0), 0.5),  # captions of one image count as one
        ([-1, 1, -1, 1], [0, 0, 1, 1], (4, 2, 2), 1.0),
        ([-1] * 30 + [1] * 10, [0] * 30 + [*range(1, 11)], (40, 30, 10), 1.0),  # one image against ten
    ],
)
def test_captions_are_counted_and_images_tested(signs, image_index, counts, p):
    change = Change.of(held_out(signs, image_index), TURN, 1.0)
    assert (change.captions, change.became_right, change.became_wrong) == counts
    assert change.p == p
    assert change.is_gain == (counts[1] > counts[2] and p < 0.05)


def test_a_change_has_words_and_an_error():
    change = Change.of(held_out([-1] * 14 + [1] * 2 + [0] * 34), TURN, 1.0)
    assert change.words == "Of 50 held-out captions, 14 became right and 2 wrong (p = 0.004)"
    assert change.error == pytest.approx(math.sqrt((16 / 50 - 0.24**2) / 50))


def test_a_caption_has_to_beat_each_of_its_negatives_that_are_there():
    image, near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8])
    texts, both = near[None], torch.stack([far, image[0]])[None]
    for there, changed in (([True, True], (0, 0)), ([True, False], (0, 1)), ([False, True], (1, 0))):
        held = read_data(planted.features(image, texts, both, has_negative=torch.tensor([there])))
        change = Change.of(held, TURN, 1.0)
        assert (change.became_right, change.became_wrong) == changed
    assert Change.of(held, TURN, 1.0).captions == 1


@pytest.mark.parametrize(
    ("change", "strength", "known", "worth", "sentences"),
    [
        ((1000, 140, 20), 1.0, {}, True, []),
        ((50, 14, 2), 1.0, {}, True, ["Only 50 captions with a negative .* gain is uncertain by .*0.14"]),
        ((1000, 14, 9), 1.0, {}, False, ["not measurably better than the base"]),
        ((1000, 14, 140), 1.0, {}, False, ["not measurably better than the base"]),
        ((1000, 0, 0), 0.0, {}, False, ["No strength binds better and .* for example keep=0.97"]),
        ((1000, 140, 20), 1.0, {"small_sets": {"retain a": 120}}, True, [r"on few images \(120 of retain a\)"]),
        ((1000, 140, 20), 1.0, {"leaked": 12}, True, ["^12 of the held-out captions are also negatives of the fit"]),
        ((1000, 140, 20), 1.0, {"points": [POINTS[0], replace(POINTS[1], grounded=0.61)]}, True, ["from text alone"]),
        ((1000, 140, 20), 1.0, {"points": [BOUND, POINTS[1]]}, True, ["already binds 0.960"]),
        (None, 1.0, {}, True, ["has no negatives, so binding was not measured"]),
        (None, 0.0, {}, False, ["binding was not measured", "No strength keeps enough R@1"]),
    ],
)
def test_advice_says_what_the_paired_test_found(change, strength, known, worth, sentences):
    paired = change and Change(*change, sign_test(*change[1:]))
    advised = advice(strength=strength, change=paired, **{"points": POINTS, "small_sets": {}, "leaked": 0} | known)
    assert judge(paired, strength)[0] == worth
    assert len(advised) == len(sentences)
    for sentence, pattern in zip(advised, sentences, strict=True):
        assert re.search(pattern, sentence)


def test_a_fit_of_chance_is_not_worth_it():
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(500, 24, generator=draw)
    images, texts, negatives = (shared + 0.7 * torch.randn(500, 24, generator=draw) for _ in range(3))
    result = labclip.fit(planted.features(images, texts, negatives), epochs=10, progress=False)
    assert not result.worthwhile
    assert result.change.captions == 50
    assert any("not measurably better" in sentence or "Keep the base" in sentence for sentence in result.advice)
