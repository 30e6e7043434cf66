"""Masks against their definition in loops and against torch."""

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from transformer_lib.masks import causal_mask, padding_mask, target_mask, teacher_forcing


@st.composite
def batches(draw):
    """Draw an id of padding and ids (B, T), with padding anywhere."""
    pad_id = draw(st.sampled_from([0, 7]))
    width = draw(st.integers(1, 12))
    row = st.lists(st.one_of(st.just(pad_id), st.integers(0, 50)), min_size=width, max_size=width)
    return pad_id, torch.tensor(draw(st.lists(row, min_size=1, max_size=4)))


@settings(max_examples=50, deadline=None)
@given(batches())
def test_padding_and_target_masks_are_their_definitions(batch):
    pad_id, ids = batch
    B, T = ids.shape
    padding = torch.zeros(B, 1, 1, T, dtype=torch.bool)
    target = torch.zeros(B, 1, T, T, dtype=torch.bool)
    for b, row in enumerate(ids.tolist()):
        for j in range(T):
            padding[b, 0, 0, j] = row[j] != pad_id
            for i in range(T):
                target[b, 0, i, j] = row[j] != pad_id and j <= i
    assert torch.equal(padding_mask(ids, pad_id), padding)
    assert torch.equal(target_mask(ids, pad_id), target)
    if pad_id == 0:  # the default
        assert torch.equal(padding_mask(ids), padding)
        assert torch.equal(target_mask(ids), target)


@pytest.mark.parametrize("n_keys", range(1, 9))
def test_causal_mask_is_its_definition(n_keys):
    for n_queries in range(1, n_keys + 1):
        rows = [[j <= i + n_keys - n_queries for j in range(n_keys)] for i in range(n_queries)]
        assert torch.equal(causal_mask(n_queries, n_keys), torch.tensor(rows))


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_causal_mask_is_torchs(n):
    ours = torch.where(causal_mask(n), 0.0, float("-inf"))
    assert torch.equal(ours, nn.Transformer.generate_square_subsequent_mask(n))


def test_causal_mask_refuses_fewer_keys_than_queries():
    with pytest.raises(ValueError, match="3 queries, 2 keys"):
        causal_mask(3, 2)


def test_masks_are_made_on_the_device_asked_for():
    assert causal_mask(3).device.type == "cpu"
    assert causal_mask(3, 4, device="meta").device.type == "meta"
    ids = torch.zeros(2, 3, dtype=torch.long, device=torch.device("meta"))
    assert target_mask(ids).device.type == "meta"


def test_teacher_forcing_shifts_by_one():
    inputs, targets = teacher_forcing(torch.tensor([[2, 11, 12, 3], [2, 13, 3, 0]]))
    assert inputs.tolist() == [[2, 11, 12], [2, 13, 3]]
    assert targets.tolist() == [[11, 12, 3], [13, 3, 0]]


@pytest.mark.parametrize("function", [padding_mask, target_mask, teacher_forcing])
@pytest.mark.parametrize("ids", [torch.ones(2, 3), torch.ones(3).long()])
def test_shapes_and_types_are_checked_in_tests(function, ids):
    with pytest.raises(jaxtyping.TypeCheckError):
        function(ids)
