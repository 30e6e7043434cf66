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

BOTH = pytest.mark.parametrize("layer", [SinusoidalPositionalEncoding, LearnedPositionalEncoding])


def formula(position: int, d_model: int) -> list[float]:
    """Section 3.5, entry by entry, in Python's float64."""
    row = []
    for i in range(d_model // 2):
        angle = position / 10_000 ** (2 * i / d_model)
        row += [math.sin(angle), math.cos(angle)]
    return row


def rotation(k: int, d_model: int) -> torch.Tensor:
    """The matrix with PE(p + k) = M PE(p): a turn by k · w_i for each pair."""
    matrix = torch.zeros(d_model, d_model, dtype=torch.float64)
    for i in range(0, d_model, 2):
        angle = k / 10_000 ** (i / d_model)
        matrix[i, i] = matrix[i + 1, i + 1] = math.cos(angle)
        matrix[i, i + 1], matrix[i + 1, i] = math.sin(angle), -math.sin(angle)
    return matrix


# The table


@pytest.mark.parametrize("d_model", [2, 4, 64, 512])
def test_the_table_is_the_formula(d_model: int) -> None:
    # An angle is at most 4999, precise to 9e-13 in float64; a few roundings more on each side.
    table = sinusoidal_table(5_000, d_model, torch.float64)
    for position in (0, 1, 2, 31, 500, 4_999):
        truth = torch.tensor(formula(position, d_model), dtype=torch.float64)
        torch.testing.assert_close(table[position], truth, rtol=0, atol=1e-11)


def test_far_positions_in_float32_are_rounded_once() -> None:
    # Half a unit in the last place below 1. With the angles in float32 it would be 2.5e-4.
    table = sinusoidal_table(5_000, 512)
    for position in (31, 500, 4_999):
        truth = torch.tensor(formula(position, 512), dtype=torch.float64)
        assert (table[position].double() - truth).abs().max() < 3e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_table_has_the_type_that_was_asked_for(dtype: torch.dtype) -> None:
    assert sinusoidal_table(3, 4, dtype).dtype == dtype


def test_a_default_type_does_not_reach_the_angles() -> None:
    exact = sinusoidal_table(1_000, 64, torch.float64)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(sinusoidal_table(1_000, 64, torch.float64), exact)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("k", [1, 7, 100, -3])
@pytest.mark.parametrize("d_model", [16, 512])
def test_moving_by_k_is_one_rotation(d_model: int, k: int) -> None:
    table = sinusoidal_table(5_000, d_model, torch.float64)
    start, end = (table[:-k], table[k:]) if k > 0 else (table[-k:], table[:k])
    assert (start @ rotation(k, d_model).T - end).abs().max() < 1e-10


def test_least_squares_finds_the_same_rotation() -> None:
    table = sinusoidal_table(5_000, 16, torch.float64)
    fitted = torch.linalg.lstsq(table[:-3], table[3:], driver="gelsd").solution.T
    assert (table[:-3] @ fitted.T - table[3:]).abs().max() < 1e-10
    assert (fitted - rotation(3, 16)).abs().max() < 1e-10


def test_dot_products_depend_on_the_distance_alone() -> None:
    table = sinusoidal_table(300, 128, torch.float64)
    dots = table @ table.T
    distance = (torch.arange(300)[:, None] - torch.arange(300)).abs()
    torch.testing.assert_close(dots, dots[0][distance], rtol=0, atol=1e-10)
    torch.testing.assert_close(dots.diagonal(), torch.full((300,), 64.0).double())


def test_no_two_positions_look_the_same() -> None:
    table = sinusoidal_table(5_000, 32)
    assert torch.cdist(table, table).fill_diagonal_(9).min() > 0.1


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="even d_model, got 511"):
        sinusoidal_table(10, 511)
    with pytest.raises(ValueError, match="even d_model, got 7"):
        SinusoidalPositionalEncoding(7)


# Both layers


@BOTH
def test_the_rows_are_added(layer: type[nn.Module]) -> None:
    positions, x = layer(8, max_len=20), torch.randn(3, 5, 8)
    assert torch.equal(positions(x), x + positions.table[:5])
    assert torch.equal(positions(x, offset=6), x + positions.table[6:11])


@BOTH
def test_step_by_step_equals_all_at_once(layer: type[nn.Module]) -> None:
    positions, x = layer(8, max_len=12), torch.randn(2, 12, 8)
    steps = [positions(x[:, t : t + 1], offset=t) for t in range(12)]
    assert torch.equal(torch.cat(steps, dim=1), positions(x))
    chunks = [positions(x[:, :5]), positions(x[:, 5:], offset=5)]
    assert torch.equal(torch.cat(chunks, dim=1), positions(x))


@BOTH
def test_the_length_is_not_the_batch(layer: type[nn.Module]) -> None:
    added = layer(8)(torch.zeros(4, 6, 8))
    assert torch.equal(added[0], added[3])  # the same for every sentence
    assert not torch.isclose(added[0, 0], added[0, 1]).all()  # but not for every position


@BOTH
def test_max_len_is_reached_and_not_passed(layer: type[nn.Module]) -> None:
    positions = layer(8, max_len=10)
    assert positions(torch.zeros(1, 10, 8)).shape == (1, 10, 8)
    assert positions(torch.zeros(1, 1, 8), offset=9).shape == (1, 1, 8)
    with pytest.raises(ValueError, match="11 positions, but max_len is 10: shorten"):
        positions(torch.zeros(1, 11, 8))
    with pytest.raises(ValueError, match="13 positions, but max_len is 10: shorten"):
        positions(torch.zeros(1, 1, 8), offset=12)


def test_no_rows_for_no_tokens() -> None:
    assert position_rows(torch.zeros(10, 8), 10, 0).shape == (0, 8)


# Sinusoids


def test_sinusoids_are_neither_saved_nor_trained() -> None:
    positions = SinusoidalPositionalEncoding(8)
    assert not positions.state_dict()
    assert not list(positions.parameters())
    assert dict(positions.named_buffers()).keys() == {"table"}  # but moved with the model
    SinusoidalPositionalEncoding(8, max_len=50).load_state_dict(positions.state_dict())


def test_sinusoids_of_a_longer_table_begin_with_those_of_a_shorter() -> None:
    x = torch.randn(2, 10, 16)
    short, long = (SinusoidalPositionalEncoding(16, max_len=n) for n in (10, 1_000))
    assert torch.equal(short(x), long(x))


def test_sinusoids_pass_the_gradient_on_unchanged() -> None:
    x = torch.randn(1, 4, 8, requires_grad=True)
    upstream = torch.randn(1, 4, 8)
    SinusoidalPositionalEncoding(8)(x).backward(upstream)
    assert torch.equal(x.grad, upstream)


# Learned positions


def test_learned_positions_are_an_embedding_of_the_position() -> None:
    learned, x = LearnedPositionalEncoding(8, max_len=20), torch.randn(2, 6, 8)
    embedding = nn.Embedding(20, 8)
    embedding.weight = nn.Parameter(learned.table.detach().clone())
    ours, theirs = learned(x, offset=3), x + embedding(torch.arange(3, 9))
    assert torch.equal(ours, theirs)
    upstream = torch.randn(2, 6, 8)
    ours.backward(upstream)
    theirs.backward(upstream)
    torch.testing.assert_close(learned.table.grad, embedding.weight.grad)
    assert not learned.table.grad[:3].any() and not learned.table.grad[9:].any()


def test_learned_positions_are_saved_and_trained() -> None:
    learned = LearnedPositionalEncoding(8, max_len=20)
    assert [tuple(p.shape) for p in learned.parameters()] == [(20, 8)]
    other = LearnedPositionalEncoding(8, max_len=20)
    other.load_state_dict(learned.state_dict())
    assert torch.equal(other.table, learned.table)


def test_learned_positions_start_at_the_size_of_the_sinusoids() -> None:
    learned = LearnedPositionalEncoding(512, max_len=1_000)
    assert learned.table.square().mean().item() == pytest.approx(0.5, rel=0.01)
    assert sinusoidal_table(1_000, 512).square().mean().item() == pytest.approx(0.5, rel=1e-6)


# What they are for


def permutation_error(positions: nn.Module) -> float:
    """How far shuffled input is from giving the same vectors, shuffled."""
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).double().eval()
    x, order = torch.randn(1, 9, 16, dtype=torch.float64), torch.randperm(9)
    with torch.no_grad():
        difference = encoder(positions(x[:, order])) - encoder(positions(x))[:, order]
    return difference.abs().max().item()


@BOTH
def test_order_is_visible_with_positions_alone(layer: type[nn.Module]) -> None:
    assert permutation_error(nn.Identity()) < 1e-12
    assert permutation_error(layer(16).double()) > 0.1
