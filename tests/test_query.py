"""Queries put together from parts: `labclip.compose` on embeddings, `encode_query` on a model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import labclip


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


@pytest.mark.parametrize(
    ("parts", "without", "message"),
    [
        (torch.empty(0, 4), None, "there are no parts"),
        (torch.ones(4), None, r"embeddings are a Tensor of torch.float32 \[4\]"),
        (torch.ones(1, 4), torch.ones(1, 3), r"embeddings are a Tensor of torch.float32 \[1, 3\]"),
        (torch.ones(1, 4), torch.ones(2, 4), "cancel"),
        ([[1.0, 2.0]], None, "embeddings are a list of a list of a float. Pass tensors, or NumPy arrays"),
        (torch.ones(1, 4), np.ones((1, 4)), r"embeddings are a ndarray of float64 \[1, 4\]"),
        (np.ones((1, 4), dtype=int), None, "call model.encode_query"),  # whole numbers would all become 0
    ],
)
def test_what_is_no_query_is_refused(parts, without, message):
    with pytest.raises(ValueError, match=message):
        labclip.compose(parts, without)


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
