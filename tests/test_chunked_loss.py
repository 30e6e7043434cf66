"""The loss that never holds all logits: the same numbers and gradients as the plain one."""

import pytest
import torch

from transformer_lib import ModelConfig, TrainConfig, Transformer, collate, label_smoothed_loss
from transformer_lib.data.corpora import ParallelText
from transformer_lib.data.prepared import learn_vocabularies, prepare
from transformer_lib.train.chunked_loss import ChunkedLoss, chunked_batch_loss
from transformer_lib.train.consistency import choose_loss, loss_rows
from transformer_lib.train.runs import InPrecision, RunConfig
from transformer_lib.train.trainer import Trainer
from transformer_lib.training import batch_loss

BATCH = collate([([9, 3], [2, 4, 3]), ([5, 6, 7, 3], [2, 8, 9, 10, 3])])  # padding in between


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("rows", [1, 4, 9, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_plain_loss(rows, smoothing):
    hidden, weight = random(9, 4), random(7, 4)
    targets = torch.randint(1, 7, (9,))
    expected, _ = label_smoothed_loss(hidden @ weight.T, targets, smoothing)
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    total = ChunkedLoss.apply(hidden, weight, targets, smoothing, rows)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    for found, exact in zip(torch.autograd.grad(3 * total, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_gradients_are_numerically_right():
    targets = torch.tensor([1, 3, 2])
    torch.autograd.gradcheck(
        lambda h, w: ChunkedLoss.apply(h, w, targets, 0.1, 2), (random(3, 4), random(5, 4))
    )


@pytest.mark.parametrize("tie", [True, False])
def test_a_batch_has_the_loss_and_gradients_of_its_real_targets(tie):
    torch.manual_seed(0)
    config = ModelConfig.tiny(20, n_layers=1, d_model=16, d_ff=32, dropout=0.0, tie_embeddings=tie)
    model = Transformer(config).double()
    losses = [of(model, BATCH, TrainConfig()) for of in (batch_loss, chunked_batch_loss(2))]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)
    plain, chunked = (torch.autograd.grad(loss, [*model.parameters()]) for loss in losses)
    for a, b in zip(plain, chunked, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if torch.is_tensor(result):
            self.size = max(self.size, result.numel())
        return result


def test_at_most_so_many_rows_of_logits_exist():
    hidden, weight = torch.randn(64, 4), torch.randn(1000, 4)
    with Largest() as largest:
        ChunkedLoss.apply(hidden, weight, torch.ones(64, dtype=torch.long), 0.1, 8)
    assert largest.size == 8 * 1000


def test_bf16_is_as_near_as_autocast_is():
    torch.manual_seed(0)
    model = Transformer(ModelConfig.tiny(20, n_layers=1, d_model=16, d_ff=32, dropout=0.0))
    exact = batch_loss(model, BATCH, TrainConfig())
    exact.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = chunked_batch_loss(2)(InPrecision(model, torch.bfloat16), BATCH, TrainConfig())
    assert loss.dtype == torch.float32
    assert 0 < abs(loss.item() - exact.item()) < 0.02 * exact.item()
    loss.backward()
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert p.grad.dtype == torch.float32
        assert float((p.grad - gradient).norm()) < 0.05 * float(gradient.norm()) + 1e-3


def test_under_autocast_the_products_are_short_and_nothing_else():
    hidden, weight = torch.randn(9, 4), torch.randn(7, 4)
    targets = torch.randint(1, 7, (9,))
    with torch.autocast("cpu", torch.bfloat16):
        found = ChunkedLoss.apply(hidden, weight, targets, 0.1, 4)
        logits = hidden @ weight.T
    assert logits.dtype == torch.bfloat16 and found.dtype == torch.float32
    expected, _ = label_smoothed_loss(logits.float(), targets, 0.1)
    torch.testing.assert_close(found, expected)


def test_it_is_chosen_by_its_flag_and_not_with_r_drop():
    assert choose_loss(0.0, 0) is batch_loss
    assert choose_loss(0.0, 5).__qualname__.startswith("chunked_batch_loss")


@pytest.mark.parametrize(
    "device, compiled, few", [("cpu", False, True), ("cpu", True, False), ("cuda", False, False)]
)
def test_left_out_it_is_chosen_where_it_pays(device, compiled, few):
    assert (loss_rows(None, torch.device(device), compiled) > 0) == few
    for told in (0, 7):
        assert loss_rows(told, torch.device(device), compiled) == told


def test_a_run_on_the_cpu_has_few_logits_at_a_time_unless_told(tmp_path):
    text = ParallelText(("a b c", "b c") * 9, ("c b a", "c b") * 9, "text")
    vocabularies = learn_vocabularies(text, "words", 20, ("de", "en"))
    corpus = prepare({"train": text, "val": text}, vocabularies, tmp_path / "data", say=len)
    for rows, expected in ((None, "chunked_batch_loss.<locals>.loss_of"), (0, "batch_loss")):
        run = RunConfig(steps=1, max_tokens=30, loss_rows=rows)
        config = ModelConfig.tiny(len(corpus.src_vocab), n_layers=1, d_model=16)
        made = Trainer(corpus, config, TrainConfig(), run, tmp_path / "run")
        assert made.loss_of.__qualname__ == expected


def test_impossible_rows_are_refused():
    with pytest.raises(ValueError, match="loss_rows must be 0 or above, and 0 with r_drop: 5"):
        RunConfig(loss_rows=5, r_drop=1.0)
    with pytest.raises(ValueError, match="loss_rows must be 0 or above"):
        RunConfig(loss_rows=-1)
