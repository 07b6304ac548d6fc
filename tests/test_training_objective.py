import math

import planted
import pytest
import torch
import torch.nn.functional as F

import labclip
from labclip.training.objective import (
    DISTILLED_SCALE,
    Batch,
    Ranks,
    Weights,
    custom_gradient,
    sigmoid_gradient,
    softmax_gradient,
)


def draw(n, dim, m, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def unit(rows):
        return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=-1)

    matrix = torch.eye(dim).double() + 0.3 * torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return unit(n), unit(n * (1 + m)), matrix.requires_grad_()


def skip(n, columns, pairs):
    places = torch.zeros(n, columns, dtype=torch.bool)
    for row, column in pairs:
        places[row, column] = True
    return places


@pytest.mark.parametrize(("n", "dim", "m"), [(16, 8, 0), (16, 8, 1), (8, 12, 3), (2, 4, 1)])
@pytest.mark.parametrize("t", [0.0, 2.5, math.log(100), 6.9])
def test_softmax_gradient_is_that_of_two_cross_entropies(n, dim, m, t):
    images, texts, matrix = draw(n, dim, m)
    places = skip(n, n * (1 + m), [(1, 0)] if n > 2 else [])
    log_scale = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    logits = log_scale.exp() * images @ F.normalize(texts @ matrix.T, dim=-1).T
    logits = logits.masked_fill(places, -math.inf)
    target = torch.arange(n)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :n].T, target)) / 2
    loss.backward()
    batch = Batch(images, texts, places.flatten().nonzero().flatten())
    ours = softmax_gradient(batch, matrix.detach(), log_scale.detach(), Ranks())
    torch.testing.assert_close(ours.loss, loss.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.matrix, matrix.grad, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.log_scale, log_scale.grad, rtol=1e-6, atol=1e-8)


def distillation(images, texts, matrix, skipped):
    """Half the mean KL divergence from the base's softmax of the captions to the aligned one, over rows and columns."""
    before, after = (
        (DISTILLED_SCALE * images @ F.normalize(part, dim=-1).T).masked_fill(skipped, -1e30)
        for part in (texts, texts @ matrix.T)
    )
    return sum(
        F.kl_div(after.log_softmax(axis), before.log_softmax(axis), log_target=True, reduction="sum") for axis in (0, 1)
    ) / (2 * len(images))


@pytest.mark.parametrize("t", [0.0, 2.5, math.log(100)])
@pytest.mark.parametrize("objective", ["softmax", "sigmoid", "custom"])
@pytest.mark.parametrize("pairs", [[], [(1, 0), (2, 9)]])
def test_weights_of_negatives_and_distillation(objective, t, pairs):
    n, m, weights = 8, 1, Weights(negatives=6.0, distill=0.7)
    images, texts, matrix = draw(n, 6, m)
    places = skip(n, n * (1 + m), pairs)
    log_scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (t, -3.0))
    logits = log_scale.exp() * images @ F.normalize(texts @ matrix.T, dim=-1).T
    hard = torch.tensor([0.0] * n + [math.log(6.0)] * n * m, dtype=torch.float64)
    target = torch.arange(n)
    if objective == "sigmoid":
        sign = torch.full_like(logits, -1.0)
        sign[target, target] = 1.0
        terms = -F.logsigmoid(sign * (logits + bias)) * hard.exp()  # a hard negative counts six times
        loss = (terms * ~places).sum() / n
    else:
        logits = (logits + hard).masked_fill(places, -math.inf)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :n].T, target)) / 2
    loss.backward()
    of_scale = log_scale.grad.clone()  # the temperature is not distilled
    kept = 0.7 * distillation(images, texts[:n], matrix, places[:, :n])
    kept.backward()
    batch = Batch(images, texts, places.flatten().nonzero().flatten() if pairs else None)
    arguments = batch, matrix.detach(), log_scale.detach()
    if objective == "softmax":
        ours = softmax_gradient(*arguments, Ranks(), weights)
    elif objective == "sigmoid":
        ours = sigmoid_gradient(*arguments, bias.detach(), Ranks(), weights)
        torch.testing.assert_close(ours.bias, bias.grad, rtol=1e-9, atol=1e-11)
    else:
        ours = custom_gradient(own_softmax, *arguments, weights)
    torch.testing.assert_close(ours.loss, (loss + kept).detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.matrix, matrix.grad, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.log_scale, of_scale, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bias", [None, torch.tensor(-3.0, dtype=torch.float64)], ids=["softmax", "sigmoid"])
def test_a_weighted_negative_counts_as_so_many(bias):
    images, texts, matrix = draw(8, 6, 1)
    t = torch.tensor(2.0, dtype=torch.float64)

    def gradient(texts, weights):
        arguments = Batch(images, texts), matrix.detach(), t
        if bias is None:
            return softmax_gradient(*arguments, Ranks(), weights)
        return sigmoid_gradient(*arguments, bias, Ranks(), weights)

    one = gradient(texts, Weights(negatives=3.0))
    three = gradient(torch.cat([texts, texts[8:], texts[8:]]), Weights())
    for ours, theirs in zip(one, three, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("objective", ["softmax", "sigmoid", "custom"])
@pytest.mark.parametrize(("m", "absent"), [(1, []), (2, [1, 11])])
def test_what_the_mean_image_prefers_is_taken_off_and_kept(objective, m, absent):
    n, weights = 6, Weights(negatives=3.0, grounded=True, margin=0.4)
    images, texts, matrix = draw(n, 5, m)
    mean = 0.3 * draw(1, 5, 0, seed=2)[0][0]
    log_scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, -3.0))
    unit = F.normalize(texts @ matrix.T, dim=-1)
    prefers, base = (((side[:n] @ mean).repeat(m) - side[n:] @ mean) for side in (unit, texts))
    away = torch.zeros(n * (1 + m), dtype=torch.bool)
    away[[n + row for row in absent]] = True
    logits = log_scale.exp() * (images @ unit.T + torch.cat([torch.zeros(n, dtype=torch.float64), prefers]))
    target = torch.arange(n)
    if objective == "sigmoid":
        sign = torch.full_like(logits, -1.0)
        sign[target, target] = 1.0
        terms = -F.logsigmoid(sign * (logits + bias)) * torch.tensor([1.0] * n + [3.0] * n * m)
        loss = (terms * ~away).sum() / n
    else:
        logits = (logits + torch.tensor([0.0] * n + [math.log(3.0)] * n * m)).masked_fill(away, -math.inf)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :n].T, target)) / 2
    loss.backward(retain_graph=True)
    of_scale = log_scale.grad.clone()
    kept = 0.4 * (DISTILLED_SCALE * (prefers - base))[~away[n:]].square().mean()
    kept.backward(inputs=[matrix])  # it does not move the temperature
    batch = Batch(images, texts, absent=away if absent else None, mean=mean)
    arguments = batch, matrix.detach(), log_scale.detach()
    if objective == "sigmoid":
        ours = sigmoid_gradient(*arguments, bias.detach(), Ranks(), weights)
    elif objective == "custom":
        ours = custom_gradient(own_softmax, *arguments, weights)
    else:
        ours = softmax_gradient(*arguments, Ranks(), weights)
    for got, wanted in ((ours.loss, (loss + kept).detach()), (ours.matrix, matrix.grad), (ours.log_scale, of_scale)):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


def test_negatives_with_images_are_weighted_both_ways():
    batch, matrix, log_scale, _, _ = with_images(8, 6, 2.5, "softmax", ())
    weight = torch.tensor(math.log(5.0), dtype=torch.float64)
    logits = log_scale.exp() * batch.images @ F.normalize(batch.texts @ matrix.T, dim=-1).T
    half = torch.arange(16) >= 8
    logits = logits + weight * (half[:, None] != half[None, :])
    target = torch.arange(16)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    (wanted,) = torch.autograd.grad(loss, matrix)
    ours = softmax_gradient(batch, matrix.detach(), log_scale.detach(), Ranks(), Weights(negatives=5.0))
    torch.testing.assert_close(ours.loss, loss.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.matrix, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("m", [0, 2])
def test_sigmoid_gradient_is_siglips(m):
    n, dim = 8, 6
    images, texts, matrix = draw(n, dim, m)
    places = skip(n, n * (1 + m), [(2, 5)])
    log_scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.3, -3.0))
    logits = log_scale.exp() * images @ F.normalize(texts @ matrix.T, dim=-1).T + bias
    sign = torch.full_like(logits, -1.0)
    sign[torch.arange(n), torch.arange(n)] = 1.0
    loss = -(F.logsigmoid(sign * logits) * ~places).sum() / n
    loss.backward()
    batch = Batch(images, texts, places.flatten().nonzero().flatten())
    ours = sigmoid_gradient(batch, matrix.detach(), log_scale.detach(), bias.detach(), Ranks())
    for got, wanted in (
        (ours.loss, loss.detach()), (ours.matrix, matrix.grad),
        (ours.log_scale, log_scale.grad), (ours.bias, bias.grad),
    ):  # fmt: skip
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


def with_images(n, dim, t, objective, gaps):
    """Loss and gradients by autograd where negatives have images too, but for those of `gaps`; and the batch."""
    images, texts, matrix = draw(n, dim, 1)
    others = draw(n, dim, 0, seed=1)[0]
    log_scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (t, -3.0))
    everything = torch.cat([images, others])
    there = torch.tensor([True] * n + [row not in gaps for row in range(n)])
    logits = log_scale.exp() * everything[there] @ F.normalize(texts @ matrix.T, dim=-1).T
    target = torch.arange(2 * n)[there]
    if objective == "softmax":
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T[there], torch.arange(len(target)))) / 2
    else:
        sign = torch.full_like(logits, -1.0)
        sign[torch.arange(len(target)), target] = 1.0
        loss = -F.logsigmoid(sign * (logits + bias)).sum() / len(target)
    loss.backward()
    batch = Batch(everything, texts, blocks=2, unpaired=~there if gaps else None)
    return batch, matrix, log_scale, bias, loss.detach()


@pytest.mark.parametrize("t", [0.0, 2.5, 6.9])
@pytest.mark.parametrize("gaps", [(), (1, 4)])
def test_negatives_with_images_are_pairs_of_their_own(t, gaps):
    batch, matrix, log_scale, _, loss = with_images(8, 6, t, "softmax", gaps)
    ours = softmax_gradient(batch, matrix.detach(), log_scale.detach(), Ranks())
    for got, wanted in ((ours.loss, loss), (ours.matrix, matrix.grad), (ours.log_scale, log_scale.grad)):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gaps", [(), (1, 4)])
def test_siglips_loss_has_them_too(gaps):
    batch, matrix, log_scale, bias, loss = with_images(8, 6, 2.3, "sigmoid", gaps)
    ours = sigmoid_gradient(batch, matrix.detach(), log_scale.detach(), bias.detach(), Ranks())
    for got, wanted in ((ours.loss, loss), (ours.matrix, matrix.grad), (ours.log_scale, log_scale.grad),
                        (ours.bias, bias.grad)):  # fmt: skip
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


def test_logits_far_apart_do_not_underflow_in_float32():
    # Image 0 sees nothing like itself, so that against the common maximum its whole row is zero in float32.
    images = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), dim=-1)
    texts = F.normalize(torch.tensor([[-1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.2, 0.0], [0.0, 1.0, 0.1]]), dim=-1)
    matrix, t = torch.eye(3), torch.tensor(math.log(100))
    ours = softmax_gradient(Batch(images, texts, None), matrix, t, Ranks())
    exact = softmax_gradient(Batch(images.double(), texts.double(), None), matrix.double(), t.double(), Ranks())
    assert torch.isfinite(ours.matrix).all()
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.matrix.double(), exact.matrix, rtol=1e-3, atol=1e-3)


def own_softmax(logits, columns):
    """CLIP's loss, as a user writes it."""
    rows = torch.arange(len(columns))
    return (F.cross_entropy(logits, columns) + F.cross_entropy(logits[:, columns].T, rows)) / 2


def hard_data():
    """Two captions an image, a third of the negatives absent, images of some: all that a batch can hold."""
    images, texts, negatives = planted.world(200, k=2)
    negatives[::3] = texts[::3, None]
    index = torch.arange(100).repeat(2)
    others = images[torch.stack([(index + 1 + j) % 100 for j in range(2)], dim=1)]
    others[1::4] = images[index][1::4, None]
    return planted.features(images[:100], texts, negatives, index, negative_images=others)


@pytest.mark.parametrize("options", [{}, {"recipe": "paper"}, {"rank": None, "hard_negatives": 2, "seed": 3}])
@pytest.mark.parametrize("data", [planted.drawn(200, k=2), hard_data()], ids=["plain", "everything"])
def test_an_objective_of_ones_own_fits_the_matrix_of_the_built_in_one(data, options):
    options = {
        "epochs": 5,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "identity_penalty": 1e-3,
        "progress": False,
    } | options
    ours = labclip.fit(data, objective=own_softmax, **options)
    theirs = labclip.fit(data, objective="softmax", **options)
    torch.testing.assert_close(ours.alignment.fitted, theirs.alignment.fitted, rtol=1e-4, atol=2e-5)
    for one, other in zip(ours.history, theirs.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert ours.alignment.metadata["objective"] == "own_softmax"
    assert ours.alignment.logit_scale is None


def test_an_objective_sees_what_its_protocol_says():
    seen = []

    def look(logits, columns):
        seen.append((logits.detach().clone(), columns.clone()))
        return own_softmax(logits, columns)

    with torch.inference_mode():
        labclip.fit(hard_data(), objective=look, batch_size=50, epochs=1, identity_penalty=0.0, progress=False)
        labclip.fit(planted.drawn(100), objective=look, batch_size=50, recipe="paper", epochs=1, progress=False)
    logits, columns = seen[-1]
    assert logits.dtype == torch.float32
    assert logits.shape == (50, 100)
    assert torch.equal(columns, torch.arange(50))
    assert torch.isfinite(logits).all()
    logits, columns = seen[0]
    assert len(logits) == len(columns) > 50  # images of negatives have rows of their own, where there are any
    assert torch.isfinite(logits[torch.arange(len(columns)), columns]).all()
    assert (logits == -math.inf).any()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda logits, columns: 1.0, "returns float. Return a scalar tensor"),
        (lambda logits, columns: logits.sum(dim=1), r"returns shape \[64\]. Return a scalar tensor"),
        (
            lambda logits, columns: logits.detach().sum(),
            "loss that the objective returns does not depend on the logits",
        ),
        (lambda logits, columns: torch.tensor(1.0), "loss that the objective returns does not depend on the logits"),
        (lambda logits, columns: torch.ones((), requires_grad=True), "does not depend on the logits"),
        (lambda logits, columns: logits.sum() * math.nan, "The objective <lambda> returns nan. Return a finite loss"),
        (lambda logits, columns: logits.sum() * 0 - math.inf, "The objective <lambda> returns -inf. Return a finite"),
    ],
)
def test_an_objective_that_returns_no_loss_is_an_error(objective, message):
    with pytest.raises(ValueError, match=message):
        labclip.fit(planted.drawn(200), objective=objective, batch_size=64, epochs=1, progress=False)


def test_an_objective_resumes_to_the_same_bits(tmp_path):
    options = {"objective": own_softmax, "batch_size": 64, "epochs": 3, "progress": False}
    first = labclip.fit(planted.drawn(200), **options)
    for _ in range(2):
        again = labclip.fit(planted.drawn(200), **options, checkpoint=tmp_path)
        assert torch.equal(first.alignment.fitted, again.alignment.fitted)
    with pytest.raises(ValueError, match="belongs to a fit of other data or settings"):
        labclip.fit(planted.drawn(200), **options | {"objective": "softmax"}, checkpoint=tmp_path)
