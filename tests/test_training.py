"""One training step, evaluation and averaging: parity first, then what must not matter."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from transformer_lib import (
    Batch,
    ModelConfig,
    TrainConfig,
    Transformer,
    average_weights,
    evaluate,
    inverse_sqrt_rate,
    make_optimizer,
    train_step,
)
from transformer_lib.train.runs import InPrecision

CONFIG = TrainConfig(peak_rate=2e-3, warmup=20)


def tiny(dropout=0.0, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    sizes = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 32, "dropout": dropout}
    return Transformer(ModelConfig.tiny(20, **(sizes | changes))).to(dtype)


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


def test_a_divisor_takes_the_place_of_the_number_of_tokens():
    """Two processes, whose gradients are averaged afterwards, divide by half of all tokens."""
    whole = batch_of(2, 9, 5, 1)
    parts = [Batch(whole.src[:1], whole.tgt[:1]), Batch(whole.src[1:], whole.tgt[1:])]

    def gradients(batch, divisor=None):
        model = tiny()
        result = train_step(model, make_optimizer(model, CONFIG), batch, 1, CONFIG, divisor=divisor)
        return result, [parameter.grad for parameter in model.parameters()]

    together, expected = gradients(whole)
    both = [gradients(part, together.n_tokens / 2) for part in parts]
    assert sum(result.n_tokens for result, _ in both) == together.n_tokens
    for whole_grad, *grads in zip(expected, *(grads for _, grads in both), strict=True):
        torch.testing.assert_close(sum(grads) / 2, whole_grad, rtol=0, atol=1e-12)


def test_the_rate_depends_on_the_step_alone():
    _, results = updated(tiny(), batch_of(4), steps=30)
    assert [r.rate for r in results] == [inverse_sqrt_rate(s, 2e-3, 20) for s in range(1, 31)]


def test_the_rate_can_cool_down():
    config = replace(CONFIG, cooldown=(20, 30))
    _, results = updated(tiny(), batch_of(4), steps=30, config=config)
    assert results[19].rate == 2e-3
    assert results[24].rate == pytest.approx(inverse_sqrt_rate(25, 2e-3, 20) / 2)
    assert results[29].rate == 0


def test_long_gradients_are_cut():
    config = replace(CONFIG, max_grad_norm=0.01)
    model = tiny()
    _, (result,) = updated(model, batch_of(4), config=config)
    assert result.grad_norm > 0.01
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_one_batch_can_be_learned_by_heart():
    config = TrainConfig(peak_rate=5e-3, warmup=20, smoothing=0.0)
    _, results = updated(tiny(dtype=torch.float32), batch_of(5, 7, 6), steps=300, config=config)
    assert results[-1].loss < 0.01


def test_the_same_seed_gives_the_same_losses_to_the_bit():
    runs = []
    for _ in range(2):
        model = tiny(dropout=0.1, dtype=torch.float32)
        torch.manual_seed(5)
        runs.append([r.loss for r in updated(model, batch_of(5, 7), steps=10)[1]])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_no_number_updates_nothing(poison):
    model = tiny()
    with torch.no_grad():
        model.tgt_embedding.weight[5, 0] = poison
    before = {name: p.clone() for name, p in model.named_parameters()}
    batch = Batch(torch.tensor([[5, 3]]), torch.tensor([[2, 5, 3]]))
    with pytest.raises(FloatingPointError, match=r"at step 1, rate 0\.0001: nothing was updated"):
        updated(model, batch)
    for name, p in model.named_parameters():
        assert torch.equal(p.nan_to_num(), before[name].nan_to_num())


def scaled_step(scale, config=CONFIG):
    """One step with a loss multiplied by `scale` on its way back."""
    model = tiny(dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    step = model, make_optimizer(model, config), batch_of(3, 5), 1, config, scaler
    return before, model, scaler, step


def test_a_scaled_loss_gives_the_same_step():
    """A power of two changes no digit; the length that is cut is the true one."""
    config = replace(CONFIG, max_grad_norm=0.01)
    weights, (plain,) = updated(tiny(dtype=torch.float32), batch_of(3, 5), config=config)
    _, model, scaler, step = scaled_step(2.0**10, config)
    result = train_step(*step)
    assert result == plain and scaler.get_scale() == 2.0**10
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])


def test_too_large_a_scale_updates_nothing_and_is_halved():
    before, model, scaler, (_, *step) = scaled_step(2.0**24)
    result = train_step(InPrecision(model, torch.float16), *step)
    assert math.isfinite(result.loss) and not math.isfinite(result.grad_norm)
    assert scaler.get_scale() == 2.0**23
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_scale_that_cannot_help_is_an_error():
    _, model, _, step = scaled_step(1.5)
    with torch.no_grad():
        model.tgt_embedding.weight[3, 0] = math.inf
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        train_step(*step)


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


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_keeps_the_mode_and_the_gradients(training):
    model = tiny().train(training)
    evaluate(model, [batch_of(3)])
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


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
    model = tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for batches in ([], Batch(torch.tensor([[5, 3]]), torch.tensor([[2, 0, 0]]))):
        with pytest.raises(ValueError, match="no target token"):
            updated(model, batches)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
