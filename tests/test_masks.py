"""Masks against their definition in loops, against torch, and against what must always hold."""

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from transformer_lib.masks import causal_mask, padding_mask, target_mask, teacher_forcing

few = settings(max_examples=25, deadline=None)
sizes = st.integers(1, 12)


@st.composite
def batches(draw, pad_id=0):
    """Ids (B, T), padded at the right; every sentence has at least one token."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    width = max(lengths) + draw(st.integers(0, 3))
    tokens = st.integers(0, 50).filter(lambda id: id != pad_id)
    rows = [
        draw(st.lists(tokens, min_size=n, max_size=n)) + [pad_id] * (width - n) for n in lengths
    ]
    return torch.tensor(rows)


def causal_by_loops(n_queries, n_keys):
    rows = [[j <= i + n_keys - n_queries for j in range(n_keys)] for i in range(n_queries)]
    return torch.tensor(rows)


def target_by_loops(ids, pad_id=0):
    B, T = ids.shape
    mask = torch.zeros(B, 1, T, T, dtype=torch.bool)
    for b in range(B):
        for i in range(T):
            for j in range(T):
                mask[b, 0, i, j] = ids[b, j] != pad_id and j <= i
    return mask


# --- padding


@few
@given(batches())
def test_padding_mask_is_its_definition(ids):
    expected = torch.tensor([[id != 0 for id in row] for row in ids.tolist()])
    mask = padding_mask(ids)
    assert mask.dtype == torch.bool
    assert mask.shape == (ids.size(0), 1, 1, ids.size(1))
    assert torch.equal(mask[:, 0, 0], expected)


@few
@given(batches(pad_id=7))
def test_padding_is_what_pad_id_says(ids):
    assert torch.equal(padding_mask(ids, pad_id=7)[:, 0, 0], ids != 7)
    assert torch.equal(target_mask(ids, pad_id=7), target_by_loops(ids, pad_id=7))


def test_padding_anywhere_is_hidden():
    ids = torch.tensor([[0, 0, 5, 6], [5, 0, 6, 0], [0, 0, 0, 0]])
    expected = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    assert torch.equal(padding_mask(ids)[:, 0, 0], expected)


# --- causal


@pytest.mark.parametrize("n_keys", range(1, 9))
def test_causal_mask_is_its_definition(n_keys):
    for n_queries in range(1, n_keys + 1):
        mask = causal_mask(n_queries, n_keys)
        assert mask.dtype == torch.bool
        assert torch.equal(mask, causal_by_loops(n_queries, n_keys))


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_causal_mask_is_torch_s(n):
    ours = torch.where(causal_mask(n), 0.0, float("-inf"))
    assert torch.equal(ours, nn.Transformer.generate_square_subsequent_mask(n))


@few
@given(sizes, st.integers(0, 12))
def test_causal_mask_is_aligned_at_the_end(n_queries, n_before):
    n_keys = n_queries + n_before
    mask = causal_mask(n_queries, n_keys)
    assert torch.equal(mask, causal_mask(n_keys)[n_before:])  # the last rows of the square
    assert mask.sum(1).tolist() == list(range(n_before + 1, n_keys + 1))


def test_one_new_query_sees_all_cached_keys():
    assert causal_mask(1, 5).all()


def test_causal_mask_refuses_fewer_keys_than_queries():
    with pytest.raises(ValueError, match="3 queries, 2 keys"):
        causal_mask(3, 2)


def test_causal_mask_is_made_on_the_device_asked_for():
    assert causal_mask(3).device.type == "cpu"
    assert causal_mask(3, 4, device="meta").device.type == "meta"
    assert causal_mask(3, device=torch.device("meta")).device.type == "meta"


# --- both


@few
@given(batches())
def test_target_mask_is_its_definition(ids):
    assert torch.equal(target_mask(ids), target_by_loops(ids))


@few
@given(batches())
def test_no_row_is_empty_where_sentences_are_padded_at_the_right(ids):
    mask = target_mask(ids)
    assert mask.any(-1).all()
    assert mask[..., 0].all()  # everybody sees <bos>


@few
@given(batches(), st.integers(1, 4))
def test_target_mask_does_not_depend_on_the_width_of_the_batch(ids, more):
    T = ids.size(1)
    wider = F.pad(ids, (0, more))
    assert torch.equal(target_mask(wider)[..., :T, :T], target_mask(ids))
    assert not target_mask(wider)[..., T:].any()


@few
@given(batches())
def test_target_mask_of_a_row_is_its_own(ids):
    alone = torch.cat([target_mask(row[None]) for row in ids])
    assert torch.equal(alone, target_mask(ids))


def test_target_mask_stays_on_the_device_of_the_ids():
    assert target_mask(torch.zeros(2, 3, dtype=torch.long, device="meta")).device.type == "meta"


# --- in use


@pytest.mark.parametrize("queries", [7, 4])
def test_masks_broadcast_over_heads_and_queries(queries):
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]])
    scores = torch.zeros(2, 3, queries, 5)  # (B, H, Q, K)
    assert scores.masked_fill(~padding_mask(ids), 1.0).shape == scores.shape
    square = torch.zeros(2, 3, 5, 5)
    assert square.masked_fill(~target_mask(ids), 1.0).shape == square.shape
    assert torch.equal(square.masked_fill(~target_mask(ids), 1.0)[1, 2, 4], (ids[1] == 0).float())


def test_true_means_may_attend_in_torch_s_function_and_ignore_in_its_modules():
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
    mask = target_mask(ids)[:, 0]
    module = nn.MultiheadAttention(8, 1, batch_first=True)
    x = torch.randn(2, 4, 8)
    query, key, value = F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    by_function = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    by_module, _ = module(x, x, x, attn_mask=~mask)
    torch.testing.assert_close(module.out_proj(by_function), by_module)


def test_nothing_comes_back_from_the_future_or_from_padding():
    ids = torch.tensor([[5, 6, 7, 8, 0, 0]])
    mask, x = target_mask(ids)[0, 0], torch.randn(6, 4)

    def attend(x):
        return F.scaled_dot_product_attention(x[None], x[None], x[None], attn_mask=mask)[0]

    sizes = torch.autograd.functional.jacobian(attend, x).norm(dim=(1, 3))
    sizes.fill_diagonal_(0)  # a padded query depends on itself: it is what asks
    assert (sizes[~mask] == 0).all()
    assert (sizes[:4, :4].tril(-1) > 0).sum() == 6


# --- teacher forcing


def test_teacher_forcing_shifts_by_one():
    ids = torch.tensor([[2, 11, 12, 3], [2, 13, 3, 0]])
    reads, says = teacher_forcing(ids)
    assert reads.tolist() == [[2, 11, 12], [2, 13, 3]]
    assert says.tolist() == [[11, 12, 3], [13, 3, 0]]


@few
@given(batches())
def test_teacher_forcing_loses_nothing(ids):
    reads, says = teacher_forcing(ids)
    assert reads.shape == says.shape == (ids.size(0), ids.size(1) - 1)
    assert torch.equal(torch.cat([reads, ids[:, -1:]], 1), ids)
    assert torch.equal(torch.cat([ids[:, :1], says], 1), ids)
    assert torch.equal(reads[:, 1:], says[:, :-1])


# --- shapes


@pytest.mark.parametrize("function", [padding_mask, target_mask, teacher_forcing])
@pytest.mark.parametrize(
    "ids", [torch.ones(2, 3), torch.ones(3).long(), torch.ones(2, 3, 4).long()]
)
def test_ids_are_a_batch_of_integers(function, ids):
    with pytest.raises(jaxtyping.TypeCheckError):
        function(ids)
