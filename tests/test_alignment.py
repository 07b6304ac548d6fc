"""The matrix algebra, queries put together from parts, what goes in and comes out, and every input that is refused."""

import copy
import math
import pickle

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import labclip
from labclip import Alignment, Base

DIM = 8
BASE = Base("ViT-B-32-quickgelu", "openai", quick_gelu=True, embed_dim=DIM)
PROBE = torch.eye(DIM)[2]
FEW = settings(max_examples=40, deadline=None)

floats = st.floats(-100.0, 100.0, width=32)
strengths = st.floats(-2.0, 3.0)
matrices = arrays.arrays(np.float32, (DIM, DIM), elements=st.floats(-8.0, 8.0, width=32))
shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3).map(lambda shape: (*shape, DIM))
features = shapes.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=floats))


def skewed(seed=0, dim=DIM):
    """A matrix far from the identity and from symmetry, float32 [dim, dim]."""
    return torch.eye(dim) + 0.5 * torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed))


def full(**changes):
    """An alignment with everything in it."""
    options = {"base": BASE, "logit_scale": 4.25, "strength": 0.5, "fingerprint": PROBE, "metadata": {"seed": 3}}
    return Alignment(skewed(), **options | changes)


def close(got, exact, scale):
    """Equal to float32 rounding of sums whose terms add up to `scale`."""
    np.testing.assert_allclose(got, exact, rtol=0, atol=4e-7 * DIM * max(float(scale), 1e-6))


# Algebra


@FEW
@given(features)
def test_identity_changes_nothing_exactly(x):
    aligned = Alignment.identity(DIM)(x)
    assert np.array_equal(aligned, x)
    assert aligned.shape == x.shape


@FEW
@given(matrices, features)
def test_the_product_is_text_times_matrix_transposed(matrix, x):
    close(Alignment(matrix)(x), x.astype(np.float64) @ matrix.astype(np.float64).T, np.abs(x).max(initial=0) * 64)


@FEW
@given(matrices, features, st.floats(0.01, 100.0))
def test_the_direction_does_not_depend_on_the_scale(matrix, x, scale):
    alignment = Alignment(matrix)
    lengths = np.linalg.norm(x.astype(np.float64) @ matrix.T.astype(np.float64), axis=-1)
    sound = lengths > 1e-2 * np.linalg.norm(x, axis=-1) + 1e-6
    aligned = alignment(x, normalize=True)[sound]
    other = alignment((x * np.float32(scale)), normalize=True)[sound]
    np.testing.assert_allclose(aligned, other, rtol=0, atol=2e-3)


@FEW
@pytest.mark.filterwarnings("ignore:strength is:UserWarning")
@given(matrices, strengths, strengths)
def test_strength_blends_with_the_identity_from_the_fitted_matrix(matrix, first, second):
    got = Alignment(matrix).at(first).at(second)
    exact = np.eye(DIM) + second * (matrix.astype(np.float64) - np.eye(DIM))
    np.testing.assert_allclose(got.matrix.numpy(), exact, rtol=1e-6, atol=4e-6)
    assert torch.equal(got.matrix, Alignment(matrix, strength=second).matrix)
    assert got.strength == second
    assert torch.equal(got.fitted, torch.from_numpy(matrix))
    assert torch.equal(got.at(0).matrix, torch.eye(DIM))
    assert torch.equal(got.at(1).matrix, torch.from_numpy(matrix))


@FEW
@given(matrices, features)
def test_normalized_rows_have_unit_length_and_zero_rows_stay_zero(matrix, x):
    lengths = np.linalg.norm(Alignment(matrix)(x, normalize=True).astype(np.float64), axis=-1)
    long = np.linalg.norm(Alignment(matrix)(x), axis=-1) > 1e-6
    np.testing.assert_allclose(lengths[long], 1.0, atol=1e-5)
    zeros = Alignment(matrix)(np.zeros_like(x), normalize=True)
    assert np.array_equal(zeros, np.zeros_like(x))


def test_the_identity_is_told_from_what_is_nearly_it():
    nearly = torch.eye(DIM)
    nearly[0, 1] = 1e-30
    assert Alignment.identity(DIM).is_identity
    assert not Alignment(nearly).is_identity


# What goes in and comes out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(DIM,), (0, DIM), (3, DIM), (2, 0, 3, DIM), (2, 1, 3, DIM)])
def test_tensors_keep_dtype_and_shape(dtype, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    aligned = Alignment(skewed())(x)
    assert (aligned.dtype, aligned.shape, aligned.device) == (dtype, x.shape, x.device)
    assert torch.equal(aligned, (x.float() @ skewed().T).to(dtype))


VIEWS = {
    "reversed": lambda x, path: x[::-1, ..., ::-1],
    "strided": lambda x, path: np.repeat(x, 2, axis=1)[:, ::2],
    "fortran": lambda x, path: np.asfortranarray(x),
    "broadcast": lambda x, path: np.broadcast_to(x[:1], (5, *x.shape[1:])),
    "mapped": lambda x, path: (np.save(path, x), np.load(path, mmap_mode="r"))[1],
}


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
@pytest.mark.parametrize("shape", [(3, DIM), (2, 3, DIM)])
@pytest.mark.parametrize("view", VIEWS)
def test_arrays_keep_dtype_and_shape_whatever_their_layout_and_are_not_written_to(view, shape, dtype, tmp_path):
    x = VIEWS[view](np.random.default_rng(1).normal(size=shape).astype(dtype), tmp_path / "text.npy")
    before, aligned = x.copy(), Alignment(skewed())(x)
    assert isinstance(aligned, np.ndarray)
    assert (aligned.dtype, aligned.shape) == (x.dtype, x.shape)
    exact = before.astype(np.float32) @ skewed().numpy().T
    np.testing.assert_allclose(aligned.astype("<f8"), exact, atol=1e-2 if dtype == "<f2" else 1e-5, rtol=1e-3)
    Alignment.identity(DIM)(x)[:] = 0  # a plain array of its own, not a window on the file
    assert np.array_equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_float32_under_autocast(dtype):
    x = torch.randn(64, DIM, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        aligned, unit = Alignment(skewed())(x), Alignment(skewed())(x, normalize=True)
    exact = x.float() @ skewed().T
    assert aligned.dtype == unit.dtype == dtype
    assert torch.equal(aligned, exact.to(dtype))
    torch.testing.assert_close(unit, F.normalize(exact, dim=-1).to(dtype))


def test_gradients_reach_the_input_and_a_matrix_that_asks_for_them():
    x = torch.randn(3, DIM, requires_grad=True)
    Alignment(skewed())(x).sum().backward()
    torch.testing.assert_close(x.grad, skewed().sum(0).expand(3, DIM))
    assert not Alignment(skewed()).matrix.requires_grad
    for strength in (1.0, 0.5, 0.0):
        alignment = Alignment(skewed().requires_grad_(), strength=strength)
        alignment(torch.ones(2, DIM)).sum().backward()
        assert torch.equal(alignment.matrix.grad, torch.full((DIM, DIM), 2.0))


# A value


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_the_matrix_is_a_float32_copy_of_its_own(dtype):
    array = skewed().numpy().astype(dtype)
    for source in [array, array.T] + ([] if dtype == ">f4" else [torch.from_numpy(array), torch.from_numpy(array).T]):
        alignment, shown = Alignment(source), np.asarray(source, dtype=np.float32).copy()
        assert alignment.matrix.dtype == torch.float32
        assert alignment.matrix.is_contiguous()
        source *= 2
        assert np.array_equal(alignment.matrix.numpy(), shown)


def test_it_is_immutable():
    with pytest.raises(AttributeError, match="cannot assign to field 'matrix'"):
        full().matrix = None


@pytest.mark.parametrize("wants_grad", [False, True])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)), lambda v: v.at(0.5)]
)
def test_copies_have_the_record_and_are_independent(copied, wants_grad):
    record = {"base": BASE, "logit_scale": 4.25, "strength": 0.5, "metadata": {"seed": 3}}
    alignment = Alignment(skewed().requires_grad_(wants_grad), fingerprint=PROBE, **record)
    other = copied(alignment)
    assert {name: getattr(other, name) for name in record} == record
    for name in ("matrix", "fitted", "fingerprint"):
        assert torch.equal(getattr(other, name), getattr(alignment, name))
    assert other.matrix.requires_grad == wants_grad
    other.matrix.data.zero_()
    other.metadata["seed"] = 4
    assert alignment.matrix.abs().sum() > 0
    assert alignment.metadata == {"seed": 3}


def test_repr_says_what_it_is():
    assert repr(Alignment.identity(3)) == "Alignment(dim=3)"
    assert repr(full()) == "Alignment(dim=8, base='ViT-B-32-quickgelu (openai)', strength=0.5)"
    assert str(Base("own", "", quick_gelu=False, embed_dim=3)) == "own"


@pytest.mark.parametrize("scale", [np.float64(4.25), torch.nn.Parameter(torch.tensor([4.25]))])
def test_the_logit_scale_may_come_straight_from_a_model(scale):
    assert Alignment(skewed(), logit_scale=scale).logit_scale == 4.25


# What is refused


def options(**changes):
    return lambda: Alignment(skewed(), **changes)


REFUSED = {
    r"has shape \[3, 4\], not \[dim, dim\]": lambda: Alignment(torch.randn(3, 4)),
    r"has shape \[0, 0\], not": lambda: Alignment.identity(0),
    "has values that are NaN or infinite": lambda: Alignment(torch.full((2, 2), math.nan)),
    "has values that are NaN .* The fit diverged": lambda: Alignment(np.full((2, 2), 1e300)),
    r"is a ndarray of int32 \[2, 2\]. Pass a \[dim, dim\] tensor": lambda: Alignment(np.eye(2, dtype=np.int32)),
    "is a list of a list of a float. Pass": lambda: Alignment([[1.0, 0.0], [0.0, 1.0]]),
    r"logit_scale is 71.24, but it is a logarithm.*Pass math.log\(71.24\)": options(logit_scale=71.24),
    "strength is nan. Pass a finite number": options(strength=math.nan),
    "8 x 8 but base is Base.*embed_dim=512": options(base=Base("tiny", "own", quick_gelu=False, embed_dim=512)),
    "base is 'ViT-B-32'. Pass the labclip.Base": options(base="ViT-B-32"),
    "length 2.82843. Pass the base's unit-length text embedding": options(fingerprint=torch.ones(DIM)),
    r"shape \[3, 4\], but the alignment has dim 8, fitted on ViT-B-32.*\(openai\)": lambda: full()(torch.randn(3, 4)),
    r"a Tensor of torch.int64 \[3, 8\].*call model.encode_text": lambda: full()(torch.ones(3, DIM).long()),
    "are a str. Pass embeddings.*call model.encode_text": lambda: full()("a red cube"),
    "there are no parts": lambda: labclip.compose(torch.empty(0, 4)),
    r"embeddings are a Tensor of torch.float32 \[4\]": lambda: labclip.compose(torch.ones(4)),
    r"are a Tensor of torch.float32 \[1, 3\]": lambda: labclip.compose(torch.ones(1, 4), torch.ones(1, 3)),
    "cancel": lambda: labclip.compose(torch.ones(1, 4), torch.ones(2, 4)),
    "embeddings are a list of a list of a float. Pass tensors, or NumPy": lambda: labclip.compose([[1.0, 2.0]]),
    r"a ndarray of float64 \[1, 4\]": lambda: labclip.compose(torch.ones(1, 4), np.ones((1, 4))),
    "call model.encode_query": lambda: labclip.compose(np.ones((1, 4), dtype=int)),  # all would become 0
}


@pytest.mark.parametrize("message", REFUSED)
def test_mistakes_are_told(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_a_list_comes_back_as_a_list():
    features = torch.randn(2, 3, DIM)
    assert full()(features.tolist(), normalize=True) == full()(features.double(), normalize=True).tolist()
    assert full()([]) == []


@pytest.mark.parametrize("strength", [-0.01, 5])
def test_a_strength_out_of_the_usual_is_a_warning(strength):
    with pytest.warns(UserWarning, match=f"strength is {strength}. Usual values are 0, the base, to 1") as warned:
        assert full().at(strength).strength == strength
    assert warned[0].filename == __file__
    assert full().at(1.5).strength == 1.5  # without a word


# Queries put together from parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_compose_is_the_sum_of_unit_length_parts_minus_what_is_left_out(dtype):
    generator = torch.Generator().manual_seed(0)
    parts, without = torch.randn(3, 8, generator=generator).to(dtype), torch.randn(2, 8, generator=generator).to(dtype)
    wanted = F.normalize(parts.float(), dim=-1).sum(0) - 0.5 * F.normalize(without.float(), dim=-1).sum(0)
    query = labclip.compose(parts, without)
    assert query.dtype == dtype
    torch.testing.assert_close(query, F.normalize(wanted, dim=-1).to(dtype))
    torch.testing.assert_close(labclip.compose(parts * 4, without * 2), query)  # the scale of an embedding says nothing
    as_array = labclip.compose(parts.numpy(), without.numpy())
    assert as_array.dtype == parts.numpy().dtype
    np.testing.assert_array_equal(as_array, query.numpy())


def test_compose_takes_many_queries_at_once():
    parts = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.stack([labclip.compose(query, parts[0], weight=0.1) for query in parts])
    torch.testing.assert_close(labclip.compose(parts, parts[0], weight=0.1), rows)


def test_encode_query_composes_aligned_embeddings(model):
    parts, without = ["a red cube", "a blue ring"], ["a green star"]
    wanted = labclip.compose(model.encode_text(parts), model.encode_text(without), weight=0.3)
    torch.testing.assert_close(model.encode_query(parts, without, weight=0.3), wanted)
    torch.testing.assert_close(model.encode_query(parts, "a green star", weight=0.3), wanted)
    rows = model.encode_query([parts, ["a red cube"], ["a pink heart"]], without, weight=0.3)
    assert rows.shape == (3, 256)
    torch.testing.assert_close(rows[0], wanted)
    torch.testing.assert_close(model.encode_query("a red cube"), model.encode_text("a red cube", normalize=True)[0])
    with pytest.raises(ValueError, match="no parts"):
        model.encode_query([])
