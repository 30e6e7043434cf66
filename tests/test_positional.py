"""Positions: the table against the formula by loops, the rotations that move it, both layers."""

import math

import pytest
import torch
from torch import nn

from transformer_lib.positional import (
    LearnedPositionalEncoding,
    SinusoidalPositionalEncoding,
    position_rows,
    sinusoidal_table,
)

both = pytest.mark.parametrize("layer", [SinusoidalPositionalEncoding, LearnedPositionalEncoding])


def formula(position, d_model):
    """Section 3.5, entry by entry, in Python's float64."""
    row = []
    for m in range(d_model // 2):
        angle = position / 10_000 ** (2 * m / d_model)
        row += [math.sin(angle), math.cos(angle)]
    return torch.tensor(row, dtype=torch.float64)


def rotation(k, d_model):
    """The matrix U with PE(t + k) = U PE(t): a turn by k · ω_m for each pair."""
    matrix = torch.zeros(d_model, d_model, dtype=torch.float64)
    for even in range(0, d_model, 2):
        angle = k / 10_000 ** (even / d_model)
        matrix[even, even] = matrix[even + 1, even + 1] = math.cos(angle)
        matrix[even, even + 1], matrix[even + 1, even] = math.sin(angle), -math.sin(angle)
    return matrix


# The table


@pytest.mark.parametrize("d_model", [2, 4, 64, 512])
def test_the_table_is_the_formula(d_model):
    # An angle is at most 4999, precise to 9e-13 in float64; a few roundings more on each side.
    # In float32 the rows are rounded once: half a unit in the last place below 1.
    exact, rounded = (sinusoidal_table(5_000, d_model, t) for t in (torch.float64, torch.float32))
    for position in (0, 1, 2, 31, 500, 4_999):
        expected = formula(position, d_model)
        torch.testing.assert_close(exact[position], expected, rtol=0, atol=1e-11)
        assert (rounded[position].double() - expected).abs().max() < 3e-8


def test_a_default_type_does_not_reach_the_angles():
    exact = sinusoidal_table(1_000, 64, torch.float64)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(sinusoidal_table(1_000, 64, torch.float64), exact)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("k", [1, 7, 100, -3])
@pytest.mark.parametrize("d_model", [16, 512])
def test_moving_by_k_is_one_rotation(d_model, k):
    table = sinusoidal_table(5_000, d_model, torch.float64)
    start, end = (table[:-k], table[k:]) if k > 0 else (table[-k:], table[:k])
    assert (start @ rotation(k, d_model).T - end).abs().max() < 1e-10


@pytest.mark.parametrize("make", [lambda d: sinusoidal_table(10, d), SinusoidalPositionalEncoding])
def test_an_odd_width_is_refused(make):
    with pytest.raises(ValueError, match="even d_model, got 511"):
        make(511)


# Both layers


@both
def test_the_rows_are_added(layer):
    positions, x = layer(8, max_len=20), torch.randn(3, 5, 8)
    assert torch.equal(positions(x), x + positions.table[:5])
    assert torch.equal(positions(x, offset=6), x + positions.table[6:11])


@both
def test_max_len_is_reached_and_not_passed(layer):
    positions = layer(8, max_len=10)
    assert positions(torch.zeros(1, 10, 8)).shape == (1, 10, 8)
    assert positions(torch.zeros(1, 1, 8), offset=9).shape == (1, 1, 8)
    for length, offset in ((11, 0), (1, 10)):
        with pytest.raises(ValueError, match="11 positions, but max_len is 10: shorten"):
            positions(torch.zeros(1, length, 8), offset)


def test_no_rows_for_no_tokens():
    assert position_rows(torch.zeros(10, 8), 10, 0).shape == (0, 8)


def test_learned_positions_are_trained_and_saved_and_sinusoids_are_neither():
    learned, sinusoids = LearnedPositionalEncoding(8, 20), SinusoidalPositionalEncoding(8, 20)
    assert [tuple(p.shape) for p in learned.parameters()] == [(20, 8)]
    assert learned.state_dict().keys() == {"table"}
    assert not sinusoids.state_dict() and not list(sinusoids.parameters())
    assert dict(sinusoids.named_buffers()).keys() == {"table"}  # but moved with the model


def test_learned_positions_are_an_embedding_of_the_position():
    learned, x = LearnedPositionalEncoding(8, max_len=20), torch.randn(2, 6, 8)
    embedding = nn.Embedding(20, 8)
    embedding.weight = nn.Parameter(learned.table.detach().clone())
    ours, theirs = learned(x, offset=3), x + embedding(torch.arange(3, 9))
    assert torch.equal(ours, theirs)
    upstream = torch.randn(2, 6, 8)
    ours.backward(upstream)
    theirs.backward(upstream)
    torch.testing.assert_close(learned.table.grad, embedding.weight.grad)


def test_learned_positions_start_at_the_size_of_the_sinusoids():
    for table in (LearnedPositionalEncoding(512, 1_000).table, sinusoidal_table(1_000, 512)):
        assert table.square().mean().item() == pytest.approx(0.5, rel=0.01)
