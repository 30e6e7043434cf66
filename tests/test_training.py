"""One training step, evaluation and averaging: parity first, then what must not matter."""

import contextlib
import math
from dataclasses import replace

import helpers
import pytest
import torch
from torch import nn

from transformer_lib import (
    Batch,
    TrainConfig,
    average_weights,
    evaluate,
    inverse_sqrt_rate,
    make_optimizer,
    train_step,
    training,
)

CONFIG = TrainConfig(peak_rate=2e-3, warmup=20)


def tiny(dropout=0.0, dtype=torch.float64, **changes):
    return helpers.tiny(n_layers=1, dropout=dropout, max_len=100, **changes).to(dtype)


def batch_of(*lengths, seed=0):
    torch.manual_seed(seed)
    ids = torch.zeros(len(lengths), max(lengths) + 2, dtype=torch.long)
    for row, n in zip(ids, lengths, strict=True):
        row[: n + 2] = torch.tensor([2, *torch.randint(4, 20, (n,)).tolist(), 3])
    return Batch(ids[:, 1:], ids)


def updated(model, batches, steps=1, config=CONFIG):
    optimizer = make_optimizer(model, config)
    results = [train_step(model, optimizer, batches, step, config) for step in range(1, steps + 1)]
    return dict(model.named_parameters()), results


def test_a_step_is_what_torch_does_by_hand():
    mine, theirs = tiny(), tiny()
    batch = batch_of(3, 5)
    weights, (result,) = updated(mine, batch)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=2e-3 / 20, betas=(0.9, 0.98), eps=1e-9)
    criterion = nn.CrossEntropyLoss(ignore_index=0, label_smoothing=0.1)
    loss = criterion(theirs(batch.src, batch.tgt[:, :-1]).flatten(0, 1), batch.tgt[:, 1:].flatten())
    loss.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in theirs.parameters()))
    optimizer.step()
    assert result.loss == pytest.approx(loss.item())
    assert result.grad_norm == pytest.approx(norm)
    assert (result.n_tokens, result.rate) == (4 + 6, 1e-4)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(weights[name], parameter, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("whole", "cuts"),
    [
        (batch_of(2, 9, 5, 1), [1, 3]),  # two batches, as unequal as can be
        (batch_of(*[31] * 128), [32] * 4),  # 1 x 4096 target tokens against 4 x 1024
        (batch_of(*range(1, 91)), [60, 20, 7, 3]),  # 4185 in all
    ],
)
def test_it_does_not_matter_how_the_tokens_are_cut_into_batches(whole, cuts):
    """Accumulated batches, however unequal, give the update of all tokens at once."""
    parts = list(map(Batch, whole.src.split(cuts), whole.tgt.split(cuts)))
    one, (result, *_) = updated(tiny(), whole, steps=3)
    two, _ = updated(tiny(), parts, steps=3)
    assert result.n_tokens == int((whole.tgt[:, 1:] != 0).sum())
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-10)


def test_the_step_decides_the_rate_which_can_cool_down():
    config = replace(CONFIG, cooldown=(20, 30))
    _, results = updated(tiny(), batch_of(4), steps=30, config=config)
    assert [r.rate for r in results[:20]] == [inverse_sqrt_rate(s, 2e-3, 20) for s in range(1, 21)]
    assert results[24].rate == pytest.approx(inverse_sqrt_rate(25, 2e-3, 20) / 2)
    assert results[29].rate == 0


def test_long_gradients_are_cut():
    config = replace(CONFIG, max_grad_norm=0.01)
    model = tiny()
    _, (result,) = updated(model, batch_of(4), config=config)
    assert result.grad_norm > 0.01
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_the_same_seed_gives_the_same_losses_to_the_bit():
    runs = []
    for _ in range(2):
        model = tiny(dropout=0.1, dtype=torch.float32)
        torch.manual_seed(5)
        runs.append([r.loss for r in updated(model, batch_of(5, 7), steps=10)[1]])
    assert runs[0] == runs[1]


def test_an_infinite_loss_with_finite_gradients_updates_nothing(monkeypatch):
    """As where a target has probability 0: the gradient of its logit is -1."""
    loss = training.batch_loss
    monkeypatch.setattr(training, "batch_loss", lambda *given: loss(*given) + math.inf)
    model, before = tiny(), [*tiny().parameters()]
    with pytest.raises(FloatingPointError, match=r"loss inf, gradient norm \d\S+ at step 1"):
        updated(model, batch_of(4))
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_no_number_updates_nothing(poison):
    model = tiny()
    with torch.no_grad():
        model.tgt_embedding.weight[5, 0] = poison
    before = [p.clone() for p in model.parameters()]
    batch = Batch(torch.tensor([[5, 3]]), torch.tensor([[2, 5, 3]]))
    with pytest.raises(FloatingPointError, match=r"at step 1, rate 0\.0001: nothing was updated"):
        updated(model, batch)
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p.nan_to_num(), old.nan_to_num())


def test_evaluate_is_a_mean_over_tokens_not_over_batches():
    model, parts = tiny(dropout=0.5), [batch_of(1), batch_of(9, 8)]
    found = evaluate(model, parts)
    model.eval()
    losses, right = [], []
    for batch in parts:
        for src, tgt in zip(batch.src, batch.tgt, strict=True):
            src, tgt = src[src != 0][None], tgt[tgt != 0][None]
            log_probs = model(src, tgt[:, :-1]).log_softmax(-1)[0]
            losses += (-log_probs[range(tgt.size(1) - 1), tgt[0, 1:]]).tolist()
            right += (log_probs.argmax(-1) == tgt[0, 1:]).tolist()
    assert found.loss == pytest.approx(sum(losses) / len(losses))
    assert found.accuracy == pytest.approx(sum(right) / len(right))
    assert (found.n_tokens, found.perplexity) == (len(losses), pytest.approx(math.exp(found.loss)))


@pytest.mark.parametrize("fails", [False, True])
def test_evaluate_restores_the_mode_of_every_part_also_after_an_error(fails):
    """A frozen encoder stays frozen, and the rest stays in training."""
    model = tiny(dropout=0.5)
    model.encoder.eval()
    before = [module.training for module in model.modules()]
    batch = Batch(torch.tensor([[99, 3]]), torch.tensor([[2, 5, 3]])) if fails else batch_of(3)
    with pytest.raises(IndexError) if fails else contextlib.nullcontext():
        evaluate(model, [batch])
    assert [module.training for module in model.modules()] == before
    assert {True, False} == {*before}
    assert all(p.grad is None for p in model.parameters())
    updated(model, batch_of(3))  # a training step leaves it alone, too
    assert [module.training for module in model.modules()] == before


def test_nothing_cannot_be_evaluated():
    with pytest.raises(ValueError, match="no batch holds a target token"):
        evaluate(tiny(), [])


def test_averaging_is_the_mean_of_every_entry():
    states = [{"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(4.0)} for _ in range(3)]
    states[0]["a"] = torch.tensor([4.0, 8.0])
    mean = average_weights(states)
    assert mean["a"].tolist() == [2.0, 4.0]
    assert mean["b"].dtype == torch.float32


def test_tied_weights_are_one_after_averaging():
    models = [tiny(), tiny()]
    with torch.no_grad():
        models[0].tgt_embedding.weight += 1
    model = tiny()
    model.load_state_dict(average_weights([m.state_dict() for m in models]))
    assert model.output_projection.weight is model.src_embedding.weight
    expected = (models[0].tgt_embedding.weight + models[1].tgt_embedding.weight) / 2
    torch.testing.assert_close(model.tgt_embedding.weight, expected)


@pytest.mark.parametrize("states", [[], [{"a": torch.ones(1)}, {"b": torch.ones(1)}]])
def test_unequal_states_are_not_averaged(states):
    with pytest.raises(ValueError, match="same entries"):
        average_weights(states)


def test_all_problems_of_a_config_are_told_at_once():
    with pytest.raises(ValueError, match=r"peak_rate.*warmup.*smoothing.*betas.*cooldown"):
        TrainConfig(peak_rate=-1.0, warmup=0, smoothing=1.5, betas=(0.9, 1.0), cooldown=(9, 3))


def test_a_batch_without_targets_is_refused_and_changes_nothing():
    model, before = tiny(), [*tiny().parameters()]
    for batches in ([], Batch(torch.tensor([[5, 3]]), torch.tensor([[2, 0, 0]]))):
        with pytest.raises(ValueError, match="no target token"):
            updated(model, batches)
    assert all(map(torch.equal, before, model.parameters()))
