import statistics
from dataclasses import replace

import planted
import pytest
import torch
import torch.nn.functional as F

from labclip import Alignment
from labclip.training import frontier as module
from labclip.training.frontier import GALLERY, Point, gallery, kept, select
from labclip.training.rows import read_data


def side(images, texts, index=None, negatives=None, present=None):
    return read_data(planted.features(images, texts, negatives, index, has_negative=present))


def held(n=9, captions=2, k=2, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    unit = lambda *shape: F.normalize(torch.randn(*shape, generator=generator), dim=-1)  # noqa: E731
    index = torch.arange(n).repeat_interleave(captions)
    present = torch.rand(n * captions, k, generator=generator) < 0.8
    return side(unit(n, dim), unit(n * captions, dim), index, unit(n * captions, k, dim), present)


def frontier(held, matrix, strengths):
    return module.frontier({"validation": held}, matrix, strengths)


def smoothed(margin):
    """The share of margins above zero, each a normal kernel of Silverman's width."""
    width = 0.9 * margin.std(correction=0) * len(margin) ** -0.2
    return torch.special.ndtr(margin / width)


def slow(part, matrix, strength):
    """Binding, smoothed too, text to image and image to text with loops; the first of equals is not right."""
    align = Alignment(matrix).at(strength)
    images, texts, index = part.tensors()
    texts = F.normalize(align(texts), dim=-1)
    cosine = (images.double() @ texts.double().T).tolist()
    rows, columns, own = range(len(images)), range(len(texts)), index.tolist()
    bound, blind, grounded, margins, mean = [], [], [], [], images.mean(dim=0)
    for column in columns:
        negatives = part.texts.take(part.negative_rows[column])
        for negative, present in zip(negatives, part.has_negative[column], strict=True):
            if present:
                image, apart = images[own[column]], texts[column] - F.normalize(align(negative[None]), dim=-1)[0]
                for hits, shown in ((bound, image), (blind, mean), (grounded, image - mean)):
                    hits.append(float(shown @ apart) > 0)
                margins.append((image - mean) @ apart)
    t2i = [all(cosine[own[c]][c] > cosine[r][c] for r in rows if r != own[c]) for c in columns]
    i2t = [
        max(cosine[r][c] for c in columns if own[c] == r) > max(cosine[r][c] for c in columns if own[c] != r)
        for r in rows
    ]
    shares = bound, blind, grounded, smoothed(torch.stack(margins).double()).tolist(), t2i, i2t
    return tuple(sum(share) / len(share) for share in shares)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 1.25])
def test_a_point_is_what_slow_loops_count(seed, strength):
    part = held(seed=seed)
    matrix = torch.eye(6) + 0.4 * torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
    point = frontier(part, matrix, [strength])[0]
    *bindings, smooth, t2i, i2t = slow(part, matrix, strength)
    assert [point.binding, point.blind, point.grounded] == pytest.approx(bindings)
    assert point.smoothed_binding == pytest.approx(smooth, abs=1e-5)
    assert point.recalls["validation"] == pytest.approx((t2i, i2t))
    assert point.distance == pytest.approx(strength * float((matrix - torch.eye(6)).norm()))


def test_ties_are_wrong_and_absent_negatives_do_not_count():
    images = texts = torch.eye(3)
    negatives = torch.stack([texts[0], -texts[1], texts[2]])
    for present, binding in (([False, True, False], 1.0), ([True, True, True], 1 / 3)):
        point = frontier(side(images, texts, None, negatives, torch.tensor(present)), torch.eye(3), [0])[0]
        assert point.binding == pytest.approx(binding)
    point = frontier(side(images[[0, 0, 1]], texts[[0, 0, 1]]), torch.eye(3), [0])[0]
    assert point.binding is None
    assert point.recalls["validation"] == pytest.approx((1 / 3, 1 / 3))


def test_a_gallery_takes_whole_images_with_all_their_captions():
    n = GALLERY + 50
    features = F.normalize(torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    index = torch.arange(n).repeat_interleave(2).flip(0)
    data = side(features, features[index], index)
    images, texts, of = gallery(data, seed=3).tensors()
    assert len(images) == GALLERY
    assert len(texts) == 2 * GALLERY
    torch.testing.assert_close(images[of], texts)
    assert torch.equal(images, gallery(data, seed=3).tensors()[0])
    assert not torch.equal(images, gallery(data, seed=4).tensors()[0])


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_cosines_of_pairs_are_those_of_slow_loops(strength):
    part = held(n=9, captions=2)
    matrix = torch.eye(6) + 0.4 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    record = module.pair_cosines(part, matrix, strength)
    assert record["strength"] == strength
    images, texts, index = part.tensors()
    for side_, at in (("base", 0.0), ("labclip", strength)):
        cosine = F.cosine_similarity(images[:, None], Alignment(matrix).at(at)(texts)[None], dim=-1).tolist()
        for kind in ("matched", "unmatched"):
            values = [cosine[r][c] for r in range(9) for c in range(18) if (index[c] == r) == (kind == "matched")]
            twentieths = statistics.quantiles(values, n=20, method="inclusive")
            assert record[side_][kind] == pytest.approx([twentieths[0], twentieths[9], twentieths[18]], abs=1e-4)


def points(*rows):
    """Points of strength, binding and R@1, whose divergence is a tenth of the strength."""
    lost = [{"validation": (1 - r / rows[0][2], 0.001)} for _, _, r in rows]
    return [
        Point(s, s * 2.0, b, {"validation": (r, r)}, b, less, s / 10)
        for (s, b, r), less in zip(rows, lost, strict=True)
    ]


@pytest.mark.parametrize(
    ("rows", "keep", "strength"),
    [
        ([(0, 0.5, 0.80), (0.5, 0.80, 0.81), (1.0, 0.900, 0.80), (1.25, 0.95, 0.70)], 0.99, 1.0),  # 1.25 costs R@1
        ([(0, 0.5, 0.80), (0.5, 0.80, 0.81), (1.0, 0.900, 0.80), (1.25, 0.95, 0.70)], 0.8, 1.25),
        ([(0, 0.5, 0.8), (0.5, 0.9, 0.78)], 0.99, 0),
        ([(0, 0.5, 0.8), (0.5, 0.9, 0.796)], 0.99, 0.5),
        ([(0, 0.5, 0.8), (0.5, 0.895, 0.80), (1.0, 0.9, 0.8)], 0.99, 0.5),  # an 80th of the gain for twice the change
        ([(0, None, 0.8), (0.5, None, 0.8), (1.0, None, 0.8), (1.25, None, 0.8)], 0.99, 1.0),  # up to 1 without binding
    ],
)
def test_the_most_binding_point_that_keeps_retrieval_is_selected(rows, keep, strength):
    assert select(points(*rows), keep).strength == strength


def test_no_set_may_lose_more_than_keep_allows():
    base, better = points((0, 0.5, 0.8), (1, 0.9, 0.8))
    for lost, strength in ((0.011, 0), (0.009, 1)):  # an error, however large, excuses nothing
        assert select([base, replace(better, lost=better.lost | {"retain other": (lost, 0.5)})]).strength == strength


def test_a_divergence_that_foretells_losses_elsewhere_is_not_kept():
    table = points((0, 0.5, 0.8), (0.5, 0.7, 0.8), (1.0, 0.9, 0.8))
    far = [replace(point, divergence=0.3 * point.strength) for point in table]
    assert [point.strength for point in kept(far)] == [0, 0.5]
    assert [point.strength for point in kept(far, 0.9)] == [0, 0.5, 1.0]
    assert [point.strength for point in kept(far, 1.0)] == [0, 0.5]
    for lost, strengths in (((-0.03, 0.02), [0, 0.5, 1.0]), ((-0.03, 0.04), [0, 0.5])):  # R@1 rises, or by chance
        rising = [*far[:2], replace(far[2], lost={"validation": lost})]
        assert [point.strength for point in kept(rising)] == strengths


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_divergence_is_what_slow_loops_count(strength):
    part = held(n=9, captions=2)
    matrix = torch.eye(6) + 0.2 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    images, texts, index = part.tensors()
    before, after = (
        50 * images.double() @ F.normalize(Alignment(matrix).at(at)(texts), dim=-1).double().T for at in (0.0, strength)
    )
    directions = []
    for old, new, owner in ((before, after, None), (before.T, after.T, index)):
        divergences = []
        for row in range(len(old)):
            right = index == row if owner is None else torch.arange(9) == owner[row]
            p = old[row].softmax(0)[~right]
            divergences.append(float((p * (old[row][~right].log_softmax(0) - new[row][~right].log_softmax(0))).sum()))
        directions.append(sum(divergences) / len(divergences))
    point = frontier(part, matrix, [strength])[0]
    assert point.divergence == pytest.approx(sum(directions) / 2, rel=1e-4, abs=1e-6)


def test_divergence_is_of_galleries_of_one_size():
    generator = torch.Generator().manual_seed(0)
    images, other = F.normalize(torch.randn(2, 450, 8, generator=generator), dim=-1)
    matrix, texts = torch.eye(8) + 0.3 * torch.randn(8, 8, generator=generator), F.normalize(images + other / 2, dim=-1)
    whole, *parts = (
        frontier(side(images[rows], texts[rows]), matrix, [1.0])[0].divergence
        for rows in (slice(0, 450), slice(0, 200), slice(200, 400))
    )
    assert whole == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_lost_recall_is_that_of_slow_loops_and_its_error_that_of_many_draws():
    part = held(n=60, captions=2, dim=6)
    images, texts, index = part.tensors()
    texts = F.normalize(images[index] + 0.5 * texts, dim=-1)
    part = side(images, texts, index)
    matrix = torch.eye(6) + 0.15 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))

    def margins(strength):
        cosine = images @ F.normalize(Alignment(matrix).at(strength)(texts), dim=-1).T
        own = index[None, :] == torch.arange(60)[:, None]
        for table, right in ((cosine.T, own.T), (cosine, own)):
            rows = [row[mine].max() - row[~mine].max() for row, mine in zip(table, right, strict=True)]
            yield torch.stack(rows).double()

    base, ours = ([smoothed(margin) for margin in margins(strength)] for strength in (0.0, 1.0))
    lost, error = frontier(part, matrix, [1.0])[0].lost["validation"]
    assert lost == pytest.approx(1 - float(sum(s.mean() for s in ours) / sum(s.mean() for s in base)), abs=1e-5)
    change = [(before - other) / len(before) for before, other in zip(base, ours, strict=True)]
    by_image = change[1] + change[0].view(60, 2).sum(dim=1)
    draws = by_image[torch.randint(60, (4000, 60), generator=torch.Generator().manual_seed(1))].sum(dim=1)
    assert error == pytest.approx(float(draws.std() / sum(s.mean() for s in base)), rel=0.1)
    assert frontier(part, matrix, [0.0])[0].lost == {"validation": (0.0, 0.0)}


def test_a_point_that_another_dominates_in_what_is_shown_is_not_selected():
    def point(strength, binding, smoothed, recall, divergence):
        return Point(strength, strength, binding, {"validation": (recall, recall)}, smoothed, {}, divergence)

    base, lower = point(0, 0.567, 0.56, 0.60, 0.0), point(0.3, 0.700, 0.62, 0.60, 0.05)
    upper = point(0.55, 0.667, 0.66, 0.58, 0.1)
    assert select([base, lower, upper]) is lower
    assert select([base, lower, replace(upper, binding=0.7, recalls={"validation": (0.6, 0.61)})]).strength == 0.55
    assert select([base, replace(lower, divergence=0.3), upper]) is upper  # one that is not kept is no choice
    nearer = replace(upper, divergence=0.05, smoothed_binding=0.62)  # dominates, unless whole truth is counted
    assert select([base, replace(upper, whole_truth=0.99), replace(nearer, whole_truth=0.7)]).whole_truth == 0.99
    # A step too small to diverge may beat the base in what is shown, and bind less when smoothed.
    assert select([base, point(0.05, 0.6, 0.559, 0.60, 0.0)]).strength == 0.05
