"""Metrics against slow, obvious loops: random data, ties, the smallest sizes; and one case by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labclip import metrics
from labclip.evaluation.questions import Choice, Pairs, Retrieval, Search
from labclip.evaluation.scores import ScoredItems, compare, one_group

few = settings(max_examples=60, deadline=None)


def unit(features):
    return torch.nn.functional.normalize(features, dim=-1)


def drawn(seed, *sizes, dim=3):
    """Unit-length features of few distinct directions, so that many cosines are exactly equal."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randint(-1, 2, (sum(sizes), dim), generator=generator).float()
    axes[axes.abs().sum(dim=1) == 0] = 1.0
    return unit(axes).split(sizes)


def dot(image, text):
    """A cosine as a loop has it, in double precision."""
    return float((image.double() * text.double()).sum())


def above(cosine, other):
    """Strictly higher; cosines that differ by rounding alone are equal."""
    return cosine > other + 1e-6


@few
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.integers(1, 12), st.integers(1, 5))
def test_choices_are_those_of_a_loop(seed, count, captions, n, k):
    images, texts = drawn(seed, count, captions)
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, count, n))
    options = torch.from_numpy(rng.integers(-1, captions, (n, k)))
    options[:, 0] = options[:, 0].clamp_min(0)
    margins = metrics.choice_margins(images, texts, image, options)[0]
    for item in range(n):
        own = dot(images[image[item]], texts[options[item, 0]])
        others = [dot(images[image[item]], texts[o]) for o in options[item, 1:].tolist() if o >= 0]
        assert (margins[item] > 0) == all(above(own, other) for other in others)
        assert float(margins[item]) == pytest.approx(own - max(others, default=-math.inf), abs=1e-5)


def test_the_same_caption_is_a_tie_whatever_the_block():
    images, texts = unit(torch.randn(600, 40, generator=torch.Generator().manual_seed(0))).split(300)
    rows = torch.arange(300)
    doubled = torch.cat([texts, texts])
    assert not (metrics.choice_margins(images, doubled, rows, torch.stack([rows, rows + 300], dim=1))[0] > 0).any()
    by_text, by_image, *_ = metrics.ranks(images, doubled, torch.cat([rows, (rows + 1) % 300]))
    assert (by_text >= 0).all()
    # Each image's own two captions are those of others too, and a tie with one of them counts against it.
    best = torch.maximum((images * texts).sum(-1), (images * texts.roll(1, dims=0)).sum(-1))
    slow = ((images @ doubled.T) >= best[:, None] - metrics.TIE).sum(dim=1) - 1
    assert torch.equal(by_image, slow)


def by_loop(own, others):
    """The rank and the margin of the best of an item's own cosines among those of others."""
    best = max(own, default=-2.0)
    return sum(not above(best, other) for other in others), best - max(others, default=-math.inf)


@few
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 14), st.integers(1, 20))
def test_ranks_and_margins_are_those_of_a_loop(seed, count, captions, block):
    """Of an image without a caption the rank is the number of captions, and there is no margin."""
    images, texts = drawn(seed, count, captions)
    index = torch.from_numpy(np.random.default_rng(seed).integers(0, count, captions))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_BLOCK", block)  # products and looks of a few cosines: every edge is met
        text_rank, image_rank, text_margin, image_margin = metrics.ranks(images, texts, index)
    cosine, mine = images.double() @ texts.double().T, index == torch.arange(count)[:, None]
    for text in range(captions):
        rank, margin = by_loop(cosine[mine[:, text], text].tolist(), cosine[~mine[:, text], text].tolist())
        assert (int(text_rank[text]), float(text_margin[text])) == (rank, pytest.approx(margin, abs=1e-5))
    for image in range(count):
        rank, margin = by_loop(cosine[image, mine[image]].tolist(), cosine[image, ~mine[image]].tolist())
        assert int(image_rank[image]) == rank
        assert not mine[image].any() or float(image_margin[image]) == pytest.approx(margin, abs=1e-5)


def test_ranks_over_several_blocks_of_images():
    generator = torch.Generator().manual_seed(0)
    images, texts = (unit(torch.randn(n, 8, generator=generator)) for n in (9000, 50))
    image_index = torch.arange(50) * 179  # up to 8771: own images in both blocks of 8192
    by_text, by_image, *_ = metrics.ranks(images, texts, image_index)
    cosine = texts @ images.T
    own = cosine.gather(1, image_index[:, None])
    assert torch.equal(by_text, (cosine >= own - metrics.TIE).sum(dim=1) - 1)
    assert by_image[8771] == (cosine[:, 8771] >= own[49] - metrics.TIE).sum() - 1


@few
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
def test_class_ranks_are_those_of_a_loop(seed, n, count):
    images, classes = drawn(seed, n, count)
    label = torch.from_numpy(np.random.default_rng(seed).integers(0, count, n))
    ranks, margins = metrics.class_ranks(images, classes, label)
    for row, own in enumerate(label.tolist()):
        others = [dot(images[row], classes[number]) for number in range(count) if number != own]
        rank, margin = by_loop([dot(images[row], classes[own])], others)
        assert (int(ranks[row]), float(margins[row])) == (rank, pytest.approx(margin, abs=1e-5))


def test_two_copies_of_an_image_are_a_tie_whatever_the_rounding_of_their_batches():
    image, texts = unit(torch.randn(1, 64)), unit(torch.randn(2, 64))
    for sign in (-1, 1):
        copies = torch.cat([image, image + sign * 1e-7 * (texts[:1] - texts[1:])])
        both = torch.tensor([[0, 1]])
        _, by_image, group = metrics.pairs(copies, texts, both, both)
        assert (by_image.tolist(), group.tolist()) == ([False], [False])
        scores = {name: scored for scored in Pairs(*[both.numpy()] * 2).score(copies, texts) for name in scored.metrics}
        assert not scores["image"].correct.any()
        assert not scores["group"].correct.any()


def scored(correct, unit=None, group=None):
    """Items of one metric, by default each of an image of its own and in one group."""
    n = len(correct)
    unit, group = (np.arange(n) if unit is None else unit), (one_group(n) if group is None else group)
    return ScoredItems(np.asarray(correct), np.asarray(unit), {"m": group}, 0.5)


def estimate(*how):
    return compare([scored(*how)])[0].estimates[0]


def difference(base, other):
    return compare([scored(base), scored(other)])[0].differences[0]


def test_a_difference_is_paired():
    base = np.random.default_rng(0).random(400) < 0.5
    better = base | (np.arange(400) < 30)
    gain = difference(base, better)
    assert gain.value == pytest.approx(int((base != better).sum()) / 400)
    assert gain.measurable
    # Unpaired, an interval of 400 items would be 0.1 wide and hold zero.
    assert 0 < gain.high - gain.low < 0.06


@pytest.mark.parametrize("moved", [0, 1, 5, 6])
def test_a_difference_on_fewer_than_six_images_is_none(moved):
    assert difference(np.zeros(1000, dtype=bool), np.arange(1000) < moved).measurable == (moved >= 6)


def test_one_item_and_a_metric_without_items():
    (metric,) = compare([ScoredItems(np.array([True]), np.array([7]), {"a": one_group(1), "none": np.array([-1])})])
    assert (metric.metric, metric.estimates[0].value, metric.estimates[0].n) == ("a", 1.0, 1)
    assert metric.estimates[0].low == pytest.approx(0.025, abs=1e-5)  # exact: right once of once


def test_a_macro_interval_is_near_that_of_a_slow_bootstrap():
    rng = np.random.default_rng(3)
    correct, group, unit_of = rng.random(600) < 0.6, rng.integers(0, 3, 600), rng.integers(0, 250, 600)
    interval = estimate(correct, unit_of, group)
    members = [np.flatnonzero(unit_of == u) for u in np.unique(unit_of)]
    slow = []
    for _ in range(1000):
        rows = np.concatenate([members[u] for u in rng.integers(0, len(members), len(members))])
        slow.append(np.mean([correct[rows][group[rows] == g].mean() for g in np.unique(group[rows])]))
    assert [interval.low, interval.high] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.01)


def clustered(rng, p, units, each):
    """Items of `units` images, those of one image mostly alike."""
    return rng.random(units * each) < rng.beta(2 * p, 2 * (1 - p), units).repeat(each), np.arange(units).repeat(each)


@pytest.mark.parametrize(("p", "units", "each", "least"), [
    (0.5, 100, 1, 0.95), (0.97, 100, 1, 0.95), (0.99, 30, 1, 0.95),  # bootstrap percentiles: .94, .87, .26
    (0.6, 60, 8, 0.95), (0.6, 60, 20, 0.95), (0.9, 200, 8, 0.94),
])  # fmt: skip
def test_an_interval_holds_the_truth_as_often_as_it_says(p, units, each, least):
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        interval = estimate(*(clustered(rng, p, units, each) if each > 1 else (rng.random(units) < p,)))
        held += interval.low <= p <= interval.high
    # Of 400 draws at 95% fewer than 93% hold it once in fifty.
    assert held / 400 >= least - 0.02


@pytest.mark.parametrize(("won", "lost"), [(0.0, 0.0), (0.01, 0.0), (0.05, 0.02), (0.2, 0.0), (0.3, 0.3)])
def test_the_interval_of_a_difference_holds_the_truth(won, lost):
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        kind = rng.choice(4, 100, p=[won, lost, 0.6 * (1 - won - lost), 0.4 * (1 - won - lost)])
        interval = difference(np.isin(kind, (1, 2)), np.isin(kind, (0, 2)))
        held += interval.low <= won - lost <= interval.high
    assert held / 400 >= 0.92


_TEN = 0.025 ** (1 / 10)


@pytest.mark.parametrize(
    ("right", "unit_of", "low", "high"),
    [
        (np.arange(100) < 99, None, 0.9455, 0.99975),  # Clopper and Pearson's, as tables have them
        (np.arange(100) < 50, None, 0.3983, 0.6017),
        (np.full(20, True), np.arange(20) // 2, _TEN, 1),  # items of one image are one: 10 out of 10
        (np.full(20, False), np.arange(20) // 2, 0, 1 - _TEN),
    ],
)
def test_an_interval_of_independent_items_is_the_exact_one(right, unit_of, low, high):
    interval = estimate(right, unit_of)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_items_with_a_common_image_are_one_unit():
    """A hub image in eight pairs, pairs that a chain of images joins, and copies of one image in several rows."""
    hub = [[0, number] for number in range(1, 9)]
    chain = [[9 + number, 10 + number] for number in range(50)]
    images = np.array([*hub, *chain, [70, 71]])
    (text, *_) = Pairs(images, np.zeros_like(images)).score(torch.eye(72), torch.eye(72))
    assert len(set(text.unit[:8])) == len(set(text.unit[8:58])) == 1
    assert len(set(text.unit)) == 3
    copied, pair = torch.eye(3)[[0, 1, 0, 2]], np.array([[0, 1], [2, 3]])
    (text, *_) = Pairs(pair, np.zeros_like(pair)).score(copied, torch.eye(3))
    assert len(set(text.unit)) == 1
    choice = Choice(np.array([0, 2, 3]), np.zeros((3, 2), dtype=np.int64), {"m": one_group(3)})
    assert choice.score(copied, copied)[0].unit.tolist() == [0, 0, 3]


def test_chance_of_retrieval_is_what_random_orders_give():
    """Three images with 1, 4 and 2 of 7 captions; the chance of an order is counted over many."""
    index = np.array([0, 1, 1, 1, 1, 2, 2])
    scores = Retrieval(np.arange(3), np.arange(7), index).score(*drawn(0, 3, 7))
    chance = {name: scored.chance for scored in scores for name in scored.metrics}
    orders = np.argsort(np.random.default_rng(0).random((20_000, 7)), axis=1)
    for k in (1, 5):
        hit = np.mean([[(index[order[:k]] == image).any() for image in range(3)] for order in orders[:4000]])
        assert chance[f"i2t_r{k}"] == pytest.approx(hit, abs=0.02)
    assert chance["i2t_r1"] == pytest.approx((1 + 4 + 2) / 7 / 3)
    assert chance["i2t_r10"] == 1
    assert chance["t2i_r1"] == pytest.approx(1 / 3)
    assert chance["t2i_r5"] == 1


def test_the_linear_probe_against_gradient_descent():
    """Multinomial logistic regression on standardised features, C = 1, by ten thousand plain steps in float64."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 6, generator=generator)
    label = torch.arange(240) % 4
    features = 5 + 2 * (centres[label] + 1.5 * torch.randn(240, 6, generator=generator))
    train, test = slice(0, 60), slice(60, None)
    right = metrics.linear_probe(features[train], label[train], features[test], label[test])

    x, y = features.double(), label[train]
    x = (x - x[train].mean(dim=0)) / x[train].std(dim=0, correction=0)
    weight, bias = torch.zeros(4, 6, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for _ in range(10_000):
        error = (x[train] @ weight.T + bias).softmax(dim=1) - torch.eye(4, dtype=torch.float64)[y]
        weight -= 0.01 * (error.T @ x[train] + weight)
        bias -= 0.01 * error.sum(dim=0)
    slow = (x[test] @ weight.T + bias).argmax(dim=1) == label[test]
    assert 0.5 < slow.double().mean() < 0.95
    assert (right == slow).double().mean() > 0.99
    moved = metrics.linear_probe(3 * features[train] - 1, y, 3 * features[test] - 1, label[test])
    assert (moved == right).double().mean() > 0.99


def test_a_linear_probe_reads_no_tie_and_no_class_it_was_not_trained_on():
    same, label = torch.ones(8, 3), torch.arange(8) % 2
    assert not metrics.linear_probe(same, label, same, label).any()
    apart = torch.eye(2)[label]
    assert metrics.linear_probe(apart, label, apart, label).all()
    assert metrics.linear_probe(apart, label, apart, 2 * label).tolist() == [True, False] * 4
    assert not metrics.linear_probe(apart, torch.ones(8).long(), apart, torch.zeros(8).long()).any()
    for mode in (torch.inference_mode, torch.no_grad):  # it learns where gradients are off
        with mode():
            features, label = 2 * torch.eye(2).repeat(4, 1), torch.arange(8) % 2
            right = metrics.linear_probe(features, label, features, label)
        assert right.all()
        assert not right.requires_grad


REFUSED = {
    "row 1 is all zeros": lambda: metrics.unit_length(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "Captions"),
    "row 0 is not finite": lambda: metrics.unit_length(torch.tensor([[math.nan, 0.0], [math.inf, 1.0]]), "Captions"),
    r"float32 \[3\]": lambda: metrics.unit_length(torch.ones(3), what="Captions"),
    r"int64 \[2, 2\]": lambda: metrics.unit_length(torch.ones(2, 2, dtype=torch.int64), "Captions"),
    r"shapes \[2\] and \[1\]. Pass scores of the same": lambda: metrics.same_threshold([0.1, 0.2], [0.1], 0.5),
    "None of the 2 base scores reaches 0.5": lambda: metrics.same_threshold([0.1, 0.2], [0.1, 0.2], 0.5),
}


@pytest.mark.parametrize("message", REFUSED)
def test_features_and_scores_that_are_none_are_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_the_same_threshold_lets_as_many_false_matches_through():
    generator = torch.Generator().manual_seed(0)
    base, aligned = torch.rand(1000, generator=generator) * 0.4, torch.rand(1000, generator=generator) * 0.2 - 0.1
    for threshold in (0.39, 0.3, 0.1, 0.0):
        moved = metrics.same_threshold(base, aligned, threshold)
        assert int((aligned >= moved).sum()) == int((base >= threshold).sum())


def test_items_that_are_right_in_part_have_normal_intervals():
    rng, held, paired = np.random.default_rng(0), 0, 0
    for _ in range(300):
        base, other = rng.beta(2, 1, 150), rng.beta(3, 1, 150)
        (metric,) = compare([scored(base), scored(other)])
        held += metric.estimates[0].low <= 2 / 3 <= metric.estimates[0].high
        paired += metric.differences[0].low <= 3 / 4 - 2 / 3 <= metric.differences[0].high
    assert held / 300 > 0.92
    assert paired / 300 > 0.92


def test_controls_stand_beside_their_metric_where_there_are_other_images():
    (items,), (alone,) = (
        Choice(np.arange(n), np.array([[0, 1]] * n), {"m": one_group(n)}).score(torch.eye(2)[:n], torch.eye(2))
        for n in (2, 1)
    )
    assert [(metric.metric, metric.side) for metric in compare([items])] == [
        ("m", ""), ("m_blind", "control"), ("m_grounded", "control")
    ]  # fmt: skip
    assert not alone.controls


def search(right, confused):
    """Queries among images; which are right and which confused, a row a query."""
    right, confused = np.array(right, dtype=bool), np.array(confused, dtype=bool)
    return Search(np.arange(right.shape[1]), np.arange(len(right)), right, confused, {"": one_group(len(right))})


def test_fewer_confused_images_are_a_gain():
    asked = search([[1, 0, 0, 0, 0, 0, 0]] * 12, [[0, 1, 0, 0, 0, 0, 0]] * 12)
    near = torch.tensor([[0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5]])
    far = near - torch.tensor([[0, 1.0, 0, 0, 0, 0, 0]])
    (moved,) = compare([asked.score(cosine.T, torch.ones(12, 1))[2] for cosine in (near, far)])[0].differences
    assert (moved.value, moved.gain) == (pytest.approx(-0.2), pytest.approx(0.2))


def test_queries_are_items():
    """A query is right where all that answers it comes first; its margin is that of the best of it."""
    asked = search([[1, 1, 0], [1, 0, 1]], [[0, 0, 1], [0, 1, 0]])
    scored, *others = asked.score(torch.eye(3), torch.tensor([[0.9, 0.5, 0.1]] * 2))
    assert (scored.correct == 1).tolist() == [True, False]
    assert scored.margin == pytest.approx([0.8, 0.4])
    assert scored.rows.captions.tolist() == [[0], [1]]
    assert all(scored_items.rows is None for scored_items in others)
