"""Search against slow, obvious loops, and ties."""

import numpy as np
import pytest
import torch

from labclip.evaluation.scores import compare
from labclip.evaluation.search import Search


def question(right, confused):
    n = len(right[0])
    return Search(
        images=np.arange(n),
        queries=np.arange(len(right)),
        right=np.array(right, dtype=bool),
        confused=np.array(confused, dtype=bool),
        groups={"": np.zeros(len(right), dtype=np.int64)},
    )


def values(asked, images, texts):
    return {metric: scores.value(metric) for scores in asked.score(images, texts) for metric in scores.metrics}


def plain(cosine, right, confused):
    """Average precision, precision and confusion of the top five of one query without ties."""
    order = sorted(range(len(cosine)), key=lambda image: -cosine[image])
    hits, precisions = 0, []
    for place, image in enumerate(order, 1):
        if right[image]:
            hits += 1
            precisions.append(hits / place)
    top = order[:5]
    return np.mean(precisions), np.mean([right[i] for i in top]), np.mean([confused[i] for i in top])


@pytest.mark.parametrize("n", [7, 40])
def test_search_is_that_of_a_plain_loop(n):
    rng = np.random.default_rng(n)
    images, texts = (torch.from_numpy(rng.standard_normal((rows, 8)).astype(np.float32)) for rows in (n, 12))
    right = rng.random((12, n)) < 0.3
    right[:, 0] = True
    confused = (rng.random((12, n)) < 0.3) & ~right
    cosines = (texts @ images.T).tolist()
    wanted = np.mean([plain(*row) for row in zip(cosines, right, confused, strict=True)], axis=0)
    found = values(question(right, confused), images, texts)
    assert list(found) == ["search_map", "search_p5", "search_confused5"]
    assert list(found.values()) == pytest.approx(wanted)


def test_ties_count_against_the_query():
    images = torch.ones(6, 1)
    right, confused = [[1, 0, 0, 0, 0, 0]], [[0, 1, 1, 0, 0, 0]]
    found = values(question(right, confused), images, torch.ones(1, 1))
    assert found == {"search_map": pytest.approx(1 / 6), "search_p5": 0.0, "search_confused5": pytest.approx(2 / 5)}


def test_groups_stand_behind_the_names():
    asked = question([[1, 0], [0, 1]], [[0, 1], [0, 0]])
    asked.groups.clear()
    asked.groups.update({"": np.array([0, -1]), "_heldout": np.array([-1, 0])})
    images = torch.eye(2)
    found = values(asked, images, images)
    assert found["search_map"] == found["search_map_heldout"] == 1.0
    assert (found["search_confused5"], found["search_confused5_heldout"]) == (0.2, 0.0)


def test_less_confused_is_better():
    asked = question([[1, 0, 0, 0, 0, 0, 0]] * 12, [[0, 1, 0, 0, 0, 0, 0]] * 12)
    near = torch.tensor([[0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5]])
    far = near - torch.tensor([[0, 1.0, 0, 0, 0, 0, 0]])
    models = [asked.score(cosine.T, torch.ones(12, 1))[2] for cosine in (near, far)]
    (moved,) = compare(models)[0].differences
    assert moved.value == pytest.approx(-0.2)
    assert moved.gain == pytest.approx(0.2)


def test_queries_are_items():
    """A query is right where all that answers it comes first; its margin is that of the best of it."""
    asked = question([[1, 1, 0], [1, 0, 1]], [[0, 0, 1], [0, 1, 0]])
    images, texts = torch.eye(3), torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    scored, *others = asked.score(images, texts)
    assert (scored.correct == 1).tolist() == [True, False]
    assert scored.margin == pytest.approx([0.8, 0.4])
    assert scored.asked.captions.tolist() == [[0], [1]]
    assert all(one.asked is None for one in others)
