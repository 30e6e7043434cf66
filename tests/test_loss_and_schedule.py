"""The label-smoothed loss against its formula and torch; the rate against the paper's formula."""

import math

import pytest
import torch
from torch import nn

from transformer_lib import inverse_sqrt_rate, label_smoothed_loss, noam_rate
from transformer_lib.training import cooldown


def by_formula(logits, targets, smoothing, pad_id=0):
    """(1 - ε) on the right id plus ε / V on every id, one token after the other."""
    total, n = 0.0, 0
    for row, target in zip(logits.flatten(0, -2), targets.flatten(), strict=True):
        if int(target) == pad_id:
            continue
        log_probs = row - torch.log(row.exp().sum())
        wanted = torch.full_like(row, smoothing / len(row))
        wanted[target] += 1 - smoothing
        total, n = total - float((wanted * log_probs).sum()), n + 1
    return total, n


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_equals_the_formula(smoothing):
    logits = torch.randn(3, 4, 7, dtype=torch.float64)
    targets = torch.tensor([[1, 2, 3, 0], [6, 0, 0, 0], [5, 5, 1, 2]])
    total, n = label_smoothed_loss(logits, targets, smoothing)
    assert (float(total), int(n)) == (pytest.approx(by_formula(logits, targets, smoothing)[0]), 8)


def test_loss_equals_torchs_mean_times_the_count_and_so_do_gradients():
    logits = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, 0, 8, 1, 0])
    total, n = label_smoothed_loss(logits, targets, 0.1)
    (mine,) = torch.autograd.grad(total / n, logits)
    theirs = nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=0)(logits, targets)
    torch.testing.assert_close(total / n, theirs)
    torch.testing.assert_close(mine, torch.autograd.grad(theirs, logits)[0])
    assert not mine[targets == 0].any()  # exactly 0 for padding


def test_loss_checks_its_gradient():
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1, 5, 0, 2])
    assert torch.autograd.gradcheck(lambda x: label_smoothed_loss(x, targets, 0.1)[0], logits)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing"):
        label_smoothed_loss(torch.zeros(1, 3), torch.tensor([1]), smoothing)


@pytest.mark.parametrize("step", [1, 10, 3999, 4000, 4001, 100_000])
def test_noam_rate_is_equation_3(step):
    assert noam_rate(step) == pytest.approx(512**-0.5 * min(step**-0.5, step * 4000**-1.5))


def test_the_rate_rises_to_its_peak_at_warmup_and_falls():
    rates = [inverse_sqrt_rate(step, 0.002, 50) for step in range(1, 500)]
    assert max(rates) == rates[49] == 0.002
    assert rates[:50] == sorted(rates[:50])
    assert rates[49:] == sorted(rates[49:], reverse=True)
    assert rates[199] == pytest.approx(0.001)


@pytest.mark.parametrize(("step", "warmup"), [(0, 10), (-1, 10), (1, 0)])
def test_steps_count_from_one(step, warmup):
    with pytest.raises(ValueError, match="from 1"):
        inverse_sqrt_rate(step, 1e-3, warmup)


def test_cooldown_is_one_then_a_straight_line_to_zero():
    assert [cooldown(step, 10, 20) for step in (1, 10, 15, 20, 30)] == [1.0, 1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(("start", "end"), [(20, 20), (30, 20), (-1, 5)])
def test_a_cooldown_that_ends_before_it_starts_is_refused(start, end):
    with pytest.raises(ValueError, match="start < end"):
        cooldown(1, start, end)
