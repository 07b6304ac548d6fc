import math
from dataclasses import asdict, replace

import numpy as np
import planted
import pytest
import torch
import torch.nn.functional as F
from planted import QUICK

import labclip
from labclip.training.frontier import at_strength
from labclip.training.objective import Weights
from labclip.training.recipes import RECIPES, settings_of
from labclip.training.rows import read_data


def fit(*arrays, **changes):
    """A quick fit on images, texts, negatives and their index."""
    return labclip.fit(planted.features(*arrays), **QUICK | changes)


@pytest.mark.parametrize("k", [None, 3])
def test_a_fit_finds_the_planted_matrix_and_keeps_retrieval(k):
    result = labclip.fit(planted.drawn(600, k=k), **QUICK)
    base, ours = result.frontier[0], at_strength(result.frontier, result.alignment.strength)
    assert base.binding < 0.65
    assert ours.binding > 0.9
    assert ours.recalls["validation"][0] >= 0.99 * base.recalls["validation"][0]
    assert result.worthwhile
    new = planted.world(300, seed=5)
    aligned = result.alignment(torch.stack(new[1:]), normalize=True)
    right, wrong = (new[0] * aligned).sum(-1)
    assert (right > wrong).double().mean() > 0.9


def paper_loop(images, texts, negatives, epochs, batch_size, learning_rate, seed):
    """The published procedure as one would write it: autograd and two cross entropies."""
    from labclip.training.batches import _mix_seed

    matrix = torch.eye(images.shape[1], requires_grad=True)
    log_scale = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([matrix, log_scale], lr=learning_rate)
    for epoch in range(epochs):
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(_mix_seed(seed, epoch)))
        for rows in order.split(batch_size):
            if len(rows) < batch_size:
                break
            every = torch.cat([texts[rows], negatives[rows]]) if negatives is not None else texts[rows]
            logits = log_scale.exp() * images[rows] @ F.normalize(every @ matrix.T, dim=-1).T
            target = torch.arange(len(rows))
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(rows)].T, target)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return matrix.detach(), log_scale.item()


@pytest.mark.parametrize("recipe", ["paper", "paper-sb"])
def test_paper_is_the_published_procedure(recipe):
    images, texts, negatives = planted.world(300)
    negatives = None if recipe == "paper-sb" else negatives
    features = planted.features(images, texts, negatives)
    result = labclip.fit(features, recipe=recipe, epochs=3, batch_size=64, seed=7, progress=False)
    matrix, log_scale = paper_loop(images, texts, negatives, 3, 64, 1e-3, 7)
    torch.testing.assert_close(result.alignment.matrix, matrix, rtol=1e-4, atol=1e-5)
    assert result.alignment.logit_scale == pytest.approx(log_scale, abs=1e-5)
    assert result.alignment.strength == 1.0
    assert len(result.history) == 3
    assert result.frontier == []


def test_the_published_settings():
    published = {"paper": (1024, 1e-3, 10), "paper-clevr": (128, 1e-2, 50), "paper-pug": (512, 1e-2, 50)}
    assert RECIPES.keys() == {"labclip", *published, *(f"{name}-sb" for name in published)}
    for name, recipe in RECIPES.items():
        if name != "labclip":
            assert (recipe.batch_size, recipe.learning_rate, recipe.epochs) == published[name.removesuffix("-sb")]
            assert recipe.candidates == (Weights(),)
            assert recipe.published
            assert recipe.hard_negatives == (not name.endswith("-sb"))


def test_same_seed_same_matrix_and_another_seed_another():
    data = planted.world(200, k=2)
    first, again, other = (fit(*data, seed=seed).alignment.fitted for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_maps_and_scale_make_no_difference(tmp_path):
    images, texts, negatives = planted.world(200, k=2)
    expected = fit(images, texts, negatives).alignment.fitted
    np.save(tmp_path / "half.npy", images.repeat_interleave(2, 0).half().numpy())
    every_second = np.load(tmp_path / "half.npy", mmap_mode="r")[::2]
    mapped = fit(every_second, texts.numpy(), negatives.numpy()).alignment.fitted
    assert torch.equal(mapped, fit(images.half().float(), texts, negatives).alignment.fitted)
    longer = fit(images * 3, texts * 7, negatives * 0.5).alignment.fitted
    torch.testing.assert_close(longer, expected, rtol=1e-2, atol=1e-3)


def test_the_temperature_is_the_one_the_loss_is_least_at():
    images, texts, negatives = planted.world(200)
    alignment = fit(images, texts, negatives, validation=planted.drawn(64, seed=1)).alignment
    unit = F.normalize(torch.cat([texts, negatives]) @ alignment.fitted.T, dim=-1)
    losses = []
    for scale in (alignment.logit_scale - 0.2, alignment.logit_scale, alignment.logit_scale + 0.2):
        losses.append(0.0)
        for rows in torch.randperm(200, generator=torch.Generator().manual_seed(0)).split(50):
            logits = math.exp(scale) * images[rows] @ torch.cat([unit[rows], unit[200 + rows]]).T
            target = torch.arange(50)
            losses[-1] += float(F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :50].T, target))
    assert alignment.logit_scale == pytest.approx(math.log(100), abs=1e-3) or losses[1] < min(losses[0], losses[2])


def test_without_held_out_negatives_the_strongest_matrix_that_keeps_retrieval_is_taken():
    held = planted.features(*planted.world(300, seed=1)[:2])
    result = labclip.fit(planted.drawn(200), validation=held, **QUICK)
    assert result.alignment.strength == 1.0
    assert result.worthwhile
    assert "binding was not measured" in result.advice[0]
    # A domain that uses every dimension can only lose.
    draw = torch.Generator().manual_seed(3)
    pairs = [torch.randn(300, planted.DIM, generator=draw) for _ in range(2)]
    retained = {"other": planted.features(pairs[0], pairs[0] + 0.7 * pairs[1])}
    strengths = []
    for keep in (0.5, 0.98, 1.0):
        result = labclip.fit(planted.drawn(200), validation=held, retain=retained, keep=keep, **QUICK)
        strengths.append(result.alignment.strength)
        assert at_strength(result.frontier, strengths[-1]).most_lost[0] <= 1 - keep
        assert result.worthwhile == (strengths[-1] > 0)
    assert strengths[0] == 1.0 > strengths[1] >= strengths[2]


def test_published_recipes_draw_among_all_negatives_even_the_caption_itself():
    images, texts, negatives = planted.world(200, k=2)
    negatives[:, 1] = texts
    first = fit(images, texts, negatives[:, 0], recipe="paper").history[0]["loss"]
    drawn = fit(images, texts, negatives, recipe="paper").history[0]["loss"]
    assert abs(drawn - first) > 1e-5
    ours = fit(images, texts, negatives)
    only = fit(images, texts, negatives[:, 0])
    assert ours.history[0]["loss"] == pytest.approx(only.history[0]["loss"], abs=1e-4)


def test_images_of_negatives_are_used_where_they_are():
    images, texts, _ = planted.world(600)
    images, others, texts, negatives = images[:300], images[300:], texts[:300], texts[300:]

    plain, with_images, with_own = (
        labclip.fit(planted.features(images, texts, negatives, negative_images=shown), **QUICK).alignment.fitted
        for shown in (None, others, images)
    )
    assert not torch.equal(plain, with_images)
    # The caption's own image stands for one that is missing.
    torch.testing.assert_close(with_own, plain, rtol=1e-3, atol=1e-4)


def test_rank():
    result = labclip.fit(planted.drawn(200), rank=3, **QUICK)
    change = result.alignment.fitted / result.alignment.fitted.diagonal().median()
    values = torch.linalg.svdvals(change - torch.eye(planted.DIM))
    # Scaling makes it c (I + low rank): all but three singular values of A / c - I are those of a multiple of I.
    assert (values[3:] - values[3:].median()).abs().max() < 0.2 * values[0]


def test_siglip_gets_its_objective():
    base = labclip.Base("ViT-B-16-SigLIP", "webli", quick_gelu=False, embed_dim=planted.DIM)
    result = labclip.fit(planted.drawn(300, base=base), **QUICK)
    assert result.alignment.metadata["objective"] == "sigmoid"
    assert result.alignment.logit_scale is None
    nowhere = replace(base, model="local-dir:nowhere")  # it is not looked up
    assert labclip.fit(planted.drawn(300, base=nowhere), **QUICK).alignment.base == nowhere
    assert max(point.binding for point in result.frontier) > 0.8


def test_the_alignment_is_saved_with_its_record(tmp_path):
    result = labclip.fit(planted.drawn(200), **QUICK)
    result.alignment.save_pretrained(tmp_path / "a")
    again = labclip.Alignment.from_pretrained(tmp_path / "a")
    assert torch.equal(again.matrix, result.alignment.matrix)
    record = again.metadata
    assert record["settings"]["epochs"] == 10
    assert record["results"]["validation"]["base"]["binding"] == result.frontier[0].binding
    assert record["change"] == asdict(result.change)
    assert record["worthwhile"] is result.worthwhile is True
    words = f"{result.change.words} at strength {result.alignment.strength:g}: worth using"
    assert record["verdict"] == words
    assert words in (tmp_path / "a/README.md").read_text()


BAD = [
    ({"texts": torch.full((200, 24), float("nan"))}, {}, "features.texts: row 0 is not finite"),
    ({"images": torch.zeros(200, 24)}, {}, "features.images: row 0 is all zeros"),
    ({"negatives": None, "has_negative": None}, {}, "with hard_negatives=1 needs that many"),
    ({"base": labclip.Base("ViT-B-32", "openai", True, 512)}, {}, "dim 24, but base is"),
    ({}, {"recipe": "papper"}, "no recipe 'papper'. Did you mean 'paper'"),
    ({}, {"keep": 1.01}, "keep is 1.01. Pass a fraction of 1"),
    ({}, {"rank": 25}, "rank is 25, more than"),
    ({}, {"objective": "triplet"}, "objective is 'triplet'"),
    ({}, {"validation": 3}, "validation is a int. Pass labclip.Features"),
    ({}, {"learning_rate": 1e3, "recipe": "paper"}, "diverged"),
]


@pytest.mark.parametrize(("data", "options", "message"), BAD)
def test_bad_features_and_options_are_one_clear_error(data, options, message):
    with pytest.raises(ValueError, match=message):
        labclip.fit(replace(planted.drawn(200), **data), **QUICK | options)


def test_absent_negatives_are_those_the_features_say():
    images, texts, negatives = planted.world(200)
    there = np.arange(200) % 2 == 0
    few = texts.clone()
    few[there] = negatives[there]
    for recipe in ("labclip", "paper"):
        expected = fit(images, texts, few, recipe=recipe)
        # Rows that differ from the caption, and rows that are no embeddings, stand for nothing where they are absent.
        for junk in (negatives, torch.full_like(texts, float("nan")), torch.zeros_like(texts)):
            rows = torch.where(torch.from_numpy(there)[:, None], negatives, junk)
            result = labclip.fit(planted.features(images, texts, rows, has_negative=there), recipe=recipe, **QUICK)
            assert torch.equal(result.alignment.fitted, expected.alignment.fitted)
            assert result.frontier == expected.frontier


@pytest.mark.parametrize("stored", [torch.Tensor.half, lambda rows: rows * 1.0009])
def test_rows_that_are_nearly_of_unit_length_are_normalised(stored):
    images, texts, _ = planted.world(50)
    data = read_data(planted.features(stored(images), stored(texts)))
    for rows in (data.images, data.texts):
        taken = rows.take(torch.arange(len(rows)))
        assert taken.dtype == torch.float32
        assert (taken.norm(dim=-1) - 1).abs().max() < 1e-6


def test_a_weight_that_is_given_holds_in_every_candidate():
    default = RECIPES["labclip"].candidates
    assert 2 <= len(default) <= 4
    assert settings_of("labclip").candidates == default
    given = settings_of("labclip", negative_weight=3, distill=0.5, identity_penalty=0).candidates
    assert given == (Weights(3.0, 0.5, 0.0, grounded=True, mean_image=0.2),)  # each once
    assert [weights.distill for weights in settings_of("labclip", distill=2).candidates] == [2.0] * len(default)
    assert settings_of("paper", distill=2).candidates == (Weights(1.0, 2.0, 0.0),)


def test_candidates_are_fitted_and_the_kept_one_is_recorded():
    options = {name: value for name, value in QUICK.items() if name not in ("negative_weight", "distill")}
    result = labclip.fit(planted.drawn(300), **options)
    kept = result.alignment.metadata["loss_weights"]
    assert kept in [asdict(replace(candidate, identity=1e-4)) for candidate in RECIPES["labclip"].candidates]
    weights = {"negative_weight": kept["negatives"], "distill": kept["distill"]}
    alone = labclip.fit(planted.drawn(300), **options, **weights)
    assert torch.equal(alone.alignment.fitted, result.alignment.fitted)
    assert alone.alignment.strength == result.alignment.strength


def test_distillation_keeps_the_softmax_of_the_base():
    changes = {distill: fit(*planted.world(300), distill=distill).frontier[-1].divergence for distill in (0, 1, 10)}
    assert changes[0] > changes[1] > changes[10]


def test_cosines_of_unmatched_pairs_stay_where_a_base_with_a_modality_gap_has_them():
    shared = F.normalize(torch.randn(2, planted.DIM, generator=torch.Generator().manual_seed(1)), dim=-1)
    images, *texts = planted.world(600)
    images, texts = images + shared[0], [text + shared.sum(0) for text in texts]
    cosines = fit(images, *texts).alignment.metadata["cosines"]
    assert cosines["base"]["unmatched"][1] > 0.4
    # Without the penalty on the mean image each of the three falls by .025 to .056.
    assert cosines["labclip"]["unmatched"] == pytest.approx(cosines["base"]["unmatched"], abs=0.015)
    assert cosines["labclip"]["matched"][1] > cosines["base"]["matched"][1]


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
@pytest.mark.parametrize("scale", [20, 150])
def test_the_logit_scale_is_held_where_it_is_given(objective, scale):
    result = labclip.fit(planted.drawn(200), logit_scale=scale, objective=objective, **QUICK)
    assert [record["logit_scale"] for record in result.history] == pytest.approx([math.log(scale)] * QUICK["epochs"])
    assert result.alignment.metadata["settings"]["logit_scale"] == scale
