"""The loss that is trained: few logits at a time, 16 bits, fast dropout; equal to the plain one."""

import copy

import helpers
import pytest
import torch
from helpers import close, random
from torch import nn
from torch.nn import functional as F

from transformer_lib import TrainConfig, collate, label_smoothed_loss
from transformer_lib.masks import teacher_forcing
from transformer_lib.train import losses
from transformer_lib.train.dropout import FastDropout, use_fast_dropout
from transformer_lib.train.losses import ChunkedLoss, FastProducts, TrainingLoss, choose_rows
from transformer_lib.training import batch_loss

BATCH = collate([([9, 3], [2, 4, 3]), ([5, 6, 7, 3], [2, 8, 9, 10, 3])])  # padding in between
CONFIG = TrainConfig()


def tiny(dropout=0.0, **changes):
    return helpers.tiny(n_layers=1, n_heads=2, d_ff=32, dropout=dropout, **changes)


def loss_of(model, **options):
    return TrainingLoss(model, CONFIG, **options)(BATCH.src, *teacher_forcing(BATCH.tgt))


@pytest.mark.parametrize("rows", [1, 4, 9, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_plain_loss(rows, smoothing):
    hidden, weight = random(9, 4), random(7, 4)
    targets = torch.randint(1, 7, (9,))
    expected, _ = label_smoothed_loss(hidden @ weight.T, targets, smoothing)
    total = ChunkedLoss.apply(hidden, weight, targets, smoothing, rows)
    close(total, expected)
    both = [torch.autograd.grad(3 * loss, (hidden, weight)) for loss in (total, expected)]
    close(*both)


@pytest.mark.parametrize("tie", [True, False])
def test_a_batch_has_the_loss_and_gradients_of_its_real_targets(tie):
    model = tiny(tie_embeddings=tie).double()
    losses = batch_loss(model, BATCH, CONFIG), loss_of(model), loss_of(model, rows=2)
    grads = [torch.autograd.grad(loss, [*model.parameters()]) for loss in losses]
    assert torch.equal(losses[0], losses[1]) and all(map(torch.equal, grads[0], grads[1]))
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(grads[2], grads[0], rtol=1e-10, atol=1e-12)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the size of the largest tensor."""

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


@pytest.mark.parametrize("rows", [0, 2])
def test_bf16_rounds_the_products_and_nothing_else(rows):
    model = tiny()
    exact = batch_loss(model, BATCH, CONFIG)
    exact.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = loss_of(model, dtype=torch.bfloat16, rows=rows)
    assert loss.dtype == torch.float32
    assert 0 < abs(loss.item() - exact.item()) < 0.02 * exact.item()
    loss.backward()
    for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert p.grad.dtype == torch.float32
        if name.endswith("key.bias"):  # softmax does not see it: its gradient is all rounding
            continue
        assert float((p.grad - gradient).norm()) < 0.05 * float(gradient.norm()) + 1e-3
    logits = TrainingLoss(model, CONFIG, torch.bfloat16)(BATCH.src, BATCH.tgt)
    assert logits.dtype == torch.float32 and not torch.equal(logits, model(*BATCH))
    assert torch.equal(TrainingLoss(model, CONFIG)(BATCH.src, BATCH.tgt), model(*BATCH))


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts oneDNN's products."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += "mkldnn::_linear_pointwise" in str(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("rows", [0, 2])
def test_faster_products_have_the_loss_and_gradients_of_float64(monkeypatch, rows):
    monkeypatch.setattr(losses, "has_fast_onednn", lambda: True)
    monkeypatch.setattr(losses, "ONEDNN_WORK", 0)
    model = tiny()
    exact, calls = copy.deepcopy(model).double(), Calls()
    with calls:
        loss_of(model, rows=rows).backward()
    n_linear = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert calls.n >= 3 * (n_linear - 1)  # forward and both gradients; the logits may be chunked
    loss = loss_of(exact)
    loss.backward()
    assert loss_of(model, rows=rows).item() == pytest.approx(loss.item(), rel=1e-6)
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-5, atol=3e-6)


def test_attention_of_16_bits_is_computed_in_32_on_a_cpu():
    q, k, v = (torch.randn(2, 2, 3, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    with torch.autocast("cpu", torch.bfloat16), FastProducts():
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert torch.is_autocast_enabled("cpu")
    assert output.dtype == torch.bfloat16 and torch.equal(output, expected.bfloat16())
    assert not torch.equal(output, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


@pytest.mark.parametrize(
    "device, compiled, few", [("cpu", False, True), ("cpu", True, False), ("cuda", False, False)]
)
def test_by_default_there_are_few_logits_where_it_pays(device, compiled, few):
    assert (choose_rows(None, torch.device(device), compiled) > 0) == few
    assert [choose_rows(n, torch.device(device), compiled) for n in (0, 7)] == [0, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9999])
def test_fast_dropout_keeps_the_mean(p, dtype):
    x = torch.ones(2**21, dtype=dtype, requires_grad=True)
    y = FastDropout(p)(x)
    kept = 1 - round(p * 65536) / 65536
    one = torch.tensor(1 / kept, dtype=torch.float64).to(dtype)
    assert {*y.tolist()} == {0.0, one.item()}
    spread = (len(x) * kept * (1 - kept)) ** 0.5
    assert abs(int((y != 0).sum()) - len(x) * kept) < 5 * spread
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, y)
    assert FastDropout(p).eval()(x) is x


def test_every_dropout_of_a_model_becomes_fast_and_keeps_its_mode():
    model = tiny(dropout=0.3)
    model.encoder.eval()
    before = {name: m.training for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    use_fast_dropout(model)
    after = {name: m.training for name, m in model.named_modules() if type(m) is FastDropout}
    assert before == after and {True, False} == {*after.values()}
    assert all(m.p == 0.3 for m in model.modules() if type(m) is FastDropout)
