import math

import planted
import pytest
import torch
import torch.nn.functional as F

import labclip
from labclip.training.objective import DISTILLED_SCALE, Batch, Weights, loss_of

PLAIN = Weights()


def draw(n, dim, m, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def unit(rows):
        return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=-1)

    matrix = torch.eye(dim).double() + 0.3 * torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return unit(n), unit(n * (1 + m)), matrix.requires_grad_()


def own_softmax(logits, columns):
    """CLIP's loss, as a user writes it."""
    rows = torch.arange(len(columns))
    return (F.cross_entropy(logits, columns) + F.cross_entropy(logits[:, columns].T, rows)) / 2


def batch_of(images, texts, n, paired=(), absent=(), skipped=(), mean=None):
    """A batch of n captions; `images` are theirs and of those texts that are `paired`, by number."""
    rows, there = torch.tensor([*range(n), *paired]), torch.ones(len(texts), dtype=torch.bool)
    there[list(absent)] = False
    with_image = torch.isin(torch.arange(len(texts)), rows)
    left_out = (~there).repeat(len(rows), 1)
    for row, column in skipped:
        left_out[row, column] = True
    left_out = left_out if left_out.any() else None
    mean = images.new_zeros(images.shape[1]) if mean is None else mean
    return Batch(images, texts, rows, n, with_image, ~there, left_out, mean)


def gradients(objective, batch, matrix, *others, weights=PLAIN):
    """The loss and its derivatives."""
    free = [value.detach().clone().requires_grad_() for value in (matrix, *others)]
    loss = loss_of(objective, batch, batch.texts @ free[0].T, *free[1:], weights=weights)
    return loss.detach(), *torch.autograd.grad(loss, free)


def slow_loss(batch, matrix, log_scale, bias, weights, objective):
    """The loss of a batch and what is added to it, from plain masks and torch's own losses."""
    n, rows, own = batch.captions, torch.arange(len(batch.images)), batch.columns
    unit = F.normalize(batch.texts @ matrix.T, dim=-1)
    logits = log_scale.exp() * batch.images @ unit.T
    hard = (own // n)[:, None] != torch.arange(len(unit)) // n
    there = torch.ones_like(hard) if batch.skipped is None else ~batch.skipped
    kept = torch.zeros((), dtype=torch.float64)
    if weights.grounded:
        shown, alone = log_scale.exp() * unit @ batch.mean, ~batch.absent & ~batch.paired
        logits = logits + torch.where(alone, shown[torch.arange(len(unit)) % n] - shown, 0.0)
    if weights.mean_image:
        moved = [
            DISTILLED_SCALE * batch.mean @ (unit[t] - batch.texts[t]) for t in range(len(unit)) if not batch.absent[t]
        ]
        kept = weights.mean_image * sum(change**2 for change in moved) / len(moved)
    if weights.distill:
        before, after = (DISTILLED_SCALE * batch.images[:n] @ x[:n].T for x in (batch.texts, unit))
        kept = kept + weights.distill * sum(
            F.kl_div(after.log_softmax(axis), before.log_softmax(axis), log_target=True, reduction="sum")
            for axis in (0, 1)
        ) / (2 * n)  # fmt: skip
    if objective == "sigmoid":
        sign = -torch.ones_like(logits)
        sign[rows, own] = 1.0
        terms = -F.logsigmoid(sign * (logits + bias)) * torch.where(hard, weights.negatives, 1.0) * there
        return terms.sum() / len(rows) + kept
    return own_softmax((logits + math.log(weights.negatives) * hard).masked_fill(~there, -math.inf), own) + kept


FULL = Weights(negatives=6.0, distill=0.7, grounded=True, mean_image=0.4)
PAIRS = [(1, 0), (2, 9)]
CASES = {
    "no negatives": (8, 0, PLAIN, {}),
    "two": (2, 1, PLAIN, {}),
    "plain": (8, 1, PLAIN, {}),
    "skipped": (8, 1, Weights(negatives=6.0, distill=0.7), {"skipped": PAIRS}),
    "everything": (8, 1, FULL, {"skipped": PAIRS, "absent": [9, 13]}),
    "several negatives": (8, 2, FULL, {"absent": [9, 20]}),
    "images of negatives": (8, 1, Weights(negatives=5.0), {"paired": range(8, 16)}),
    "images of some": (8, 1, FULL, {"paired": [8, 10, 11, 13, 14, 15], "absent": [12], "skipped": [(9, 11)]}),
}


@pytest.mark.parametrize("objective", ["softmax", "sigmoid", own_softmax])
@pytest.mark.parametrize("t", [0.0, 2.5, math.log(100), 6.9])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_torchs_own_losses(case, t, objective):
    n, m, weights, parts = CASES[case]
    images, texts, matrix = draw(n, 6, m)
    images = torch.cat([images, draw(n, 6, 0, seed=1)[0][: len(parts.get("paired", ()))]])
    log_scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (t, -3.0))
    batch = batch_of(images, texts, n, mean=0.3 * draw(1, 6, 0, seed=2)[0][0], **parts)
    loss = slow_loss(batch, matrix, log_scale, bias, weights, objective)
    free = (matrix, log_scale, *((bias,) if objective == "sigmoid" else ()))
    ours = gradients(objective, batch, *free, weights=weights)
    for got, wanted in zip(ours, (loss.detach(), *torch.autograd.grad(loss, free)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_a_weighted_negative_counts_as_so_many(objective):
    images, texts, matrix = draw(8, 6, 1)
    free = [torch.tensor(value, dtype=torch.float64) for value in (2.0, -3.0)][: 2 if objective == "sigmoid" else 1]
    once, thrice = batch_of(images, texts, 8), batch_of(images, torch.cat([texts, texts[8:], texts[8:]]), 8)
    weighted = gradients(objective, once, matrix, *free, weights=Weights(negatives=3.0))
    torch.testing.assert_close(weighted, gradients(objective, thrice, matrix, *free))


def test_logits_far_apart_do_not_underflow_in_float32():
    # Image 0 sees nothing like itself, so that against the common maximum its whole row is zero in float32.
    images = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), dim=-1)
    texts = F.normalize(torch.tensor([[-1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.2, 0.0], [0.0, 1.0, 0.1]]), dim=-1)
    matrix, t = torch.eye(3), torch.tensor(math.log(100))
    ours = gradients("softmax", batch_of(images, texts, 2), matrix, t)
    exact = gradients("softmax", batch_of(images.double(), texts.double(), 2), matrix.double(), t.double())
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=1e-3, atol=1e-3)


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
    options = {"epochs": 5, "batch_size": 64, "learning_rate": 3e-3, "identity_penalty": 1e-3} | options
    options["progress"] = False
    ours = labclip.fit(data, objective=own_softmax, **options)
    theirs = labclip.fit(data, objective="softmax", **options)
    torch.testing.assert_close(ours.alignment.fitted, theirs.alignment.fitted, rtol=1e-4, atol=2e-5)
    for own, other in zip(ours.history, theirs.history, strict=True):
        assert own["loss"] == pytest.approx(other["loss"], rel=1e-4)
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
        (lambda logits, columns: logits.sum(dim=1), r"returns \[64\]. Return a scalar tensor"),
        (lambda logits, columns: logits.detach().sum(), "by operations that torch differentiates"),
        (lambda logits, columns: torch.ones((), requires_grad=True), "by operations that torch differentiates"),
        (lambda logits, columns: logits.sum() * math.nan, "diverged in epoch 1: its loss is nan"),
    ],
)
def test_an_objective_that_returns_no_loss_is_an_error_and_leaves_no_checkpoint(objective, message, tmp_path):
    settings = {"batch_size": 64, "epochs": 1, "progress": False, "checkpoint": tmp_path}
    with pytest.raises(ValueError, match=message):
        labclip.fit(planted.drawn(200), objective=objective, **settings)
    labclip.fit(planted.drawn(200), **settings)  # nothing of the failed fit is in the way
