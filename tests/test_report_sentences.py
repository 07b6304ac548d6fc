"""The first sentence of a report, its three figures and its example: true for every verdict and every sign."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from labclip import Alignment
from labclip.analysis import report as diagnosis
from labclip.data.images import ImageSource
from labclip.evaluation import Choice, Task, summary
from labclip.evaluation.example import choose, example_of, thumbnail
from labclip.evaluation.scores import Compared, Difference, Estimate
from labclip.evaluation.sources import Benchmark

BETTER, WORSE = Difference(0.38, 0.35, 0.41, True), Difference(-0.1, -0.12, -0.08, True)
NONE = Difference(0.004, -0.011, 0.02, False)


def estimate(value, low=None, high=None, chance=0.5):
    return Estimate(value, value - 0.02 if low is None else low, value + 0.02 if high is None else high, 1000, chance)


def shown(value, metric="binding", *, of="scenes", measures="binding", headline=(), side="binding", **interval):
    benchmark = Benchmark(of, of.upper(), measures, lambda sources: None, headline=headline)
    return summary.Shown(benchmark, Compared(metric, [estimate(value, **interval)]), side, metric)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("t2i_r1", "image search by captions (R@1)"), ("tags_i2t_r10", "tag search by image (R@10)"),
        ("acc1", "top-1 accuracy"), ("one_object_mean_per_class", "one object: mean accuracy of the classes"),
        ("binding_heldout", "binding unseen pairs"), ("macro_no_symmetric", "mean over kinds without symmetric"),
        ("a_pairs", "a pairs"), ("", ""),
    ],
)  # fmt: skip
def test_a_metric_has_words(metric, words):
    assert summary.worded(metric) == words


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (shown(0.58), "This model confuses which attribute belongs to which object: 58% right where a coin gets 50 "
                      "(SCENES)."),
        (shown(0.51), "This model confuses which attribute belongs to which object: 51% right where a coin gets "
                      "50 (SCENES)."),
        (shown(0.0), "This model confuses which attribute belongs to which object: 0% right where a coin gets 50 "
                     "(SCENES)."),
        (shown(0.95), "This model tells which attribute belongs to which object: 95% right where a coin gets 50 "
                      "(SCENES)."),
        (shown(0.624, "swap", of="sugarcrepe"), "This model confuses right and wrong captions: 62.4% right where a "
                                                "coin gets 50 (SUGARCREPE, swap)."),
        (shown(0.08, "group", of="winoground", chance=1 / 6),
         "This model confuses right and wrong captions: 8% right where guessing gets 16.7 "
         "(WINOGROUND, group)."),
        (shown(0.97, "micro", of="vg", chance=None),
         "This model tells right captions from wrong ones: 97% right (VG, all items)."),
        (shown(0.304, "t2i_r5", of="coco", side="retrieval", chance=0.001),
         "This model gets 30.4% in image search by captions (R@5) where guessing gets 0.1 (COCO)."),
    ],
)  # fmt: skip
def test_the_first_sentence_is_true_of_every_figure(one, said):
    assert summary.opening(one) == said


def test_the_sentence_tells_binding_or_swap_before_the_first_headline_metric():
    sugarcrepe = [shown(0.5, name, of="sugarcrepe", headline=("add", "swap")) for name in ("add", "swap", "swap_att")]
    aro = [shown(0.5, name, of="vg-r", headline=("macro", "micro")) for name in ("micro", "macro", "to the left of")]
    coco = [shown(0.5, "t2i_r1", of="coco", side="retrieval", measures="retrieval")]
    found = [summary.lead_metric(chosen).compared.metric for chosen in (sugarcrepe, aro, coco, coco + aro)]
    assert found == ["swap", "macro", "t2i_r1", "macro"]


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        (BETTER, "With the matrix 98.5%."), (WORSE, "With the matrix 98.5%, which is worse."),
        (NONE, "With the matrix 98.5%, no measurable difference."),
    ],
)  # fmt: skip
def test_what_a_matrix_makes_of_it_has_its_sign(moved, said):
    assert summary.gain_sentence("With the matrix", estimate(0.985), moved) == said


@pytest.mark.parametrize(
    ("others", "said", "key"),
    [
        ({}, "What it costs was not measured.", ("?", "what it costs was not measured")),
        ({"a": NONE, "b": BETTER}, "It costs nothing measurable in 2 other figures.",
         ("0 of 2", "other figures are measurably worse")),
        ({"a": NONE}, "It costs nothing measurable in 1 other figure.",
         ("0 of 1", "other figures are measurably worse")),
        ({"a": NONE, "tag search (R@1)": WORSE}, "It costs 10 points in tag search.",
         ("-10 points", "the one loss: tag search")),
        ({"a": WORSE, "b": Difference(-0.01, -0.02, -0.001, True)},
         "It costs 10 points in a, and no more than that in 1 other.",
         ("-10 points", "the largest of 2 losses: a")),
        ({"a": Difference(-0.01, -0.02, -0.001, True)}, "It costs 1 point in a.", ("-1 point", "the one loss: a")),
        ({"a": Difference(-0.9, -0.95, 0.1, False)}, "It costs nothing measurable in 1 other figure.",
         ("0 of 1", "other figures are measurably worse")),
    ],
)  # fmt: skip
def test_what_it_costs_is_the_largest_measurable_loss(others, said, key):
    assert summary.cost_sentence(others) == said
    assert summary.key_cost(others) == key


def diagnosed(headline, binding, costs=(), after=""):
    """What the first sentence of a diagnosis looks at."""
    retrieval = [Compared(f"{kind}_t2i_r1", [], costs) for kind in ("captions", "tags") if costs]
    repair = SimpleNamespace(binding=binding, retrieval=retrieval, models=["base", after])
    probe = SimpleNamespace(accuracy=estimate(0.75))
    return SimpleNamespace(
        verdict=SimpleNamespace(headline=headline), repair=repair,
        after=after, probes={"image": probe, "text": probe},
    )  # fmt: skip


def test_a_diagnosis_says_what_was_found_and_where():
    lead, key = diagnosis._lead(diagnosed("Somewhere.", Compared("binding", [estimate(0.58)])))
    said = "confuses which attribute belongs to which object: 58% right where a coin gets 50. Somewhere."
    assert lead == f"This model {said}"
    assert [figure for figure, _ in key] == ["58%", "75%", "75%"]


@pytest.mark.parametrize(
    ("after", "moved", "costs", "said"),
    [
        ("own", BETTER, (WORSE, NONE), "With the model's own matrix 96%. It costs 10 points in image search by "
                                       "captions, and no more than that in 1 other."),
        ("fitted", NONE, (BETTER,), "With a matrix fitted on other combinations 96%, no measurable difference. It "
                                    "costs nothing measurable in 2 other figures."),
        ("fitted", WORSE, (NONE,), "With a matrix fitted on other combinations 96%, which is worse. It costs nothing "
                                   "measurable in 2 other figures."),
    ],
)  # fmt: skip
def test_a_diagnosis_says_what_the_matrix_does(after, moved, costs, said):
    binding = Compared("binding", [estimate(0.58), estimate(0.96)], [moved])
    lead, key = diagnosis._lead(diagnosed("Somewhere.", binding, costs, after))
    assert lead.endswith(f"Somewhere. {said}")
    assert [figure for figure, _ in key[:2]] == ["58%", "96%"]
    assert len(key) == 3


@pytest.mark.parametrize(
    ("right", "row", "said"),
    [
        (("1100", "1011"), 2, "The first of 2 of 4 items that the base gets wrong and the matrix right. The "
                              "other way round: 1."),
        (("1100", "0100"), 2, "The first of 2 of 4 items that the base gets wrong; none of them is right with "
                              "the matrix."),
        (("1100",), 2, "The first of 2 of 4 items that the base gets wrong."),
        (("1111", "0000"), 0, "The first of 4 items; the base gets all of them right."),
        (("0100", "1001", "0001"), 3, "The first of 1 of 4 items that the base gets wrong and every matrix right. The "
                                      "other way round: 1."),
        (("0100", "1000", "0100"), 0, "The first of 3 of 4 items that the base gets wrong; none of them is right "
                                      "with every matrix."),
    ],
)  # fmt: skip
def test_an_example_is_chosen_by_a_rule_that_it_states(right, row, said):
    assert choose([np.array([one == "1" for one in each]) for each in right]) == (row, said)


def test_an_example_shows_the_item_that_the_matrix_repairs(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.new("RGB", (900, 600), "red").save(path)
    swap = Alignment(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    question = Choice(np.array([0, 1]), np.array([[0, 1, -1], [0, 1, 2]]), {"binding": np.zeros(2, dtype=np.int64)})
    task = Task([ImageSource(str(path), path) for path in paths], ["one", "other", "third"], [question])
    images, texts = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    found = example_of(task, images, texts, {"labclip": swap})
    # The second image prefers "other" and most of all "third"; after the swap it prefers "one".
    right, wrong, prefers = found.tables[0].rows
    assert right == ["right: one", pytest.approx(0.6), pytest.approx(0.8)]
    assert wrong == ["wrong: third", pytest.approx(1.0), pytest.approx(0.0)]
    assert prefers == ["prefers", "the wrong one", "the right one"]
    assert found.figures[0].media_type == "image/jpeg"
    for path in paths:
        path.unlink()
    without = example_of(task, images, texts, {"labclip": swap})
    assert (without.figures, without.tables) == ([], found.tables)


def test_an_item_with_its_caption_as_the_only_wrong_one_shows_nothing(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    question = Choice(np.array([0]), np.array([[0, 0]]), {"binding": np.zeros(1, dtype=np.int64)})
    assert (
        example_of(Task([ImageSource("a", path)], ["one"], [question]), torch.ones(1, 2), torch.ones(1, 2), {}) is None
    )


def test_an_example_keeps_no_metadata_of_a_photograph(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010F], exif[0x8825] = "A camera", {1: "N"}
    Image.new("RGB", (1200, 800), "green").save(path, exif=exif, comment=b"a secret")
    data = thumbnail(ImageSource("photo", path))
    with Image.open(io.BytesIO(data)) as small:
        assert small.size == (320, 213)
        assert not small.getexif()
        assert "comment" not in small.info
    assert b"secret" not in data
    assert b"camera" not in data
