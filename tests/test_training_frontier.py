from dataclasses import replace

import planted
import pytest
import torch
import torch.nn.functional as F

from labclip import Alignment
from labclip.training.frontier import GALLERY, HeldOut, Point, frontier, select, synthetic
from labclip.training.rows import read_data


def held(n=9, captions=2, k=2, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    unit = lambda *shape: F.normalize(torch.randn(*shape, generator=generator), dim=-1)  # noqa: E731
    index = torch.arange(n).repeat_interleave(captions)
    present = torch.rand(n * captions, k, generator=generator) < 0.8
    return HeldOut(unit(n, dim), unit(n * captions, dim), index, unit(n * captions, k, dim), present)


def slow(part, matrix, strength):
    """Binding, text to image and image to text with loops; the first of equals is not right."""
    align = Alignment(matrix).at(strength)
    texts = F.normalize(align(part.texts), dim=-1)
    cosine = (part.images.double() @ texts.double().T).tolist()
    rows, columns = range(len(part.images)), range(len(texts))
    own = part.image_index.tolist()
    bound = []
    for column in columns:
        for negative, present in zip(part.negatives[column], part.has_negative[column], strict=True):
            if present:
                wrong = part.images[own[column]] @ F.normalize(align(negative[None]), dim=-1)[0]
                bound.append(cosine[own[column]][column] > float(wrong))
    t2i = [all(cosine[own[c]][c] > cosine[r][c] for r in rows if r != own[c]) for c in columns]
    i2t = [
        max(cosine[r][c] for c in columns if own[c] == r) > max(cosine[r][c] for c in columns if own[c] != r)
        for r in rows
    ]
    return tuple(sum(part) / len(part) for part in (bound, t2i, i2t))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 1.25])
def test_a_point_is_what_slow_loops_count(seed, strength):
    part = held(seed=seed)
    matrix = torch.eye(6) + 0.4 * torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
    point = frontier(part, matrix, [strength])[0]
    binding, t2i, i2t = slow(part, matrix, strength)
    assert point.binding == pytest.approx(binding)
    assert point.t2i_r1 == pytest.approx(t2i)
    assert point.i2t_r1 == pytest.approx(i2t)
    assert point.distance == pytest.approx(strength * float((matrix - torch.eye(6)).norm()))


def test_ties_are_wrong_and_absent_negatives_do_not_count():
    images = torch.eye(3)
    texts = torch.eye(3)
    negatives = torch.stack([texts[0], -texts[1], texts[2]])[:, None]
    present = torch.tensor([False, True, False])[:, None]
    point = frontier(HeldOut(images, texts, torch.arange(3), negatives, present), torch.eye(3), [0])[0]
    assert point.binding == 1.0  # one of three counts
    every = torch.ones(3, 1, dtype=torch.bool)
    tied = frontier(HeldOut(images, texts, torch.arange(3), negatives, every), torch.eye(3), [0])[0]
    assert tied.binding == pytest.approx(1 / 3)
    twice = HeldOut(images[[0, 0, 1]], texts[[0, 0, 1]], torch.arange(3))
    point = frontier(twice, torch.eye(3), [0])[0]
    assert point.binding is None
    assert point.t2i_r1 == pytest.approx(1 / 3)
    assert point.i2t_r1 == pytest.approx(1 / 3)


def test_a_gallery_takes_whole_images_with_all_their_captions():
    n = GALLERY + 50
    features = F.normalize(torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    index = torch.arange(n).repeat_interleave(2).flip(0)
    data = read_data(planted.features(features, features[index], None, index))
    part = HeldOut.of(data, seed=3)
    assert len(part.images) == GALLERY
    assert len(part.texts) == 2 * GALLERY
    torch.testing.assert_close(part.images[part.image_index], part.texts)
    assert torch.equal(part.images, HeldOut.of(data, seed=3).images)
    assert not torch.equal(part.images, HeldOut.of(data, seed=4).images)


def points(*rows):
    return [Point(s, s * 2.0, b, r, r, {}, b) for s, b, r in rows]


def test_the_point_of_the_highest_score_that_costs_no_retrieval_is_selected():
    table = points((0, 0.5, 0.80), (0.5, 0.899, 0.81), (1.0, 0.900, 0.80), (1.25, 0.95, 0.70))
    assert select(table).strength == 1.0  # 1.25 costs retrieval
    lost = [replace(point, synthetic_r1=0.9 - 0.1 * point.strength) for point in table]
    assert select(lost).strength == 0.5  # half the distance costs less elsewhere than 0.001 of binding is worth
    assert select(points((0, 0.5, 0.8), (0.5, 0.9, 0.80), (1.0, 0.9, 0.8))).strength == 0.5  # the nearer of equals
    assert select(points((0, 0.5, 0.8), (0.5, 0.9, 0.78))).strength == 0


def test_smoothed_binding_tells_points_apart_where_accuracy_does_not():
    images = F.normalize(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    every = torch.ones(300, 1, dtype=torch.bool)
    found = [
        frontier(HeldOut(images, images, torch.arange(300), F.normalize(images - far * noise, dim=-1)[:, None], every),
                 torch.eye(8), [0])[0]
        for far in (0.1, 1.0)
    ]  # fmt: skip
    assert [point.binding for point in found] == [1.0, 1.0]
    assert 0.5 < found[0].smoothed_binding < found[1].smoothed_binding < 1


def test_synthetic_pairs_are_hard_have_the_same_centres_and_feel_every_change():
    part = held(n=200, captions=1, dim=16)
    part = replace(part, images=F.normalize(part.images + torch.eye(16)[0], dim=-1))
    made = synthetic(part, seed=1)
    torch.testing.assert_close(made.images.mean(0), part.images.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(made.texts.mean(0), part.texts.mean(0), atol=0.05, rtol=0)
    draw = torch.Generator().manual_seed(0)
    change = torch.randn(16, 16, generator=draw) * 0.3
    base, scaled, moved = (
        frontier(part, matrix, [1.0], pairs=made)[0].synthetic_r1
        for matrix in (torch.eye(16), 3 * torch.eye(16), torch.eye(16) + change)
    )
    assert base == pytest.approx(0.9, abs=0.02)
    assert scaled == base
    assert moved < base - 0.1
    assert torch.equal(made.images, synthetic(part, seed=1).images)


def test_every_set_and_direction_counts():
    base = Point(0, 0, 0.5, 0.8, 0.8, {"other": (0.9, 0.9)}, 0.5)
    better = replace(base, strength=1, distance=2, smoothed_binding=0.9)
    assert select([base, better]).strength == 1
    for change in ({"t2i_r1": 0.75}, {"i2t_r1": 0.75}, {"retain": {"other": (0.85, 0.9)}},
                   {"retain": {"other": (0.9, 0.85)}}):  # fmt: skip
        assert select([base, replace(better, **change)]).strength == 0
