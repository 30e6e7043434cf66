"""LayerNorm, the feed-forward network and the residual frame against torch's own and formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer_lib import (
    EncoderLayer,
    FeedForward,
    ModelConfig,
    Residual,
    layer_norm,
    padding_mask,
)

D, HIDDEN = 16, 40
orders = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def close(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def gradients(output, inputs):
    towards = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad(output, inputs, towards)


def unsettled(module):
    """In float64, and no LayerNorm at 1, no bias at 0: what is mixed up shows."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


# LayerNorm


@pytest.mark.parametrize("shape", [(D,), (3, D), (2, 3, D), (2, 1, 3, D)])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm_equals_torch_in_outputs_and_gradients(shape, eps):
    x, weight, bias = inputs = random(*shape), random(D), random(D)
    output, expected = layer_norm(x, weight, bias, eps), F.layer_norm(x, (D,), weight, bias, eps)
    close(output, expected)
    close(gradients(output, inputs), gradients(expected, inputs))


def test_layer_norm_equals_the_module_that_the_layers_run():
    """With the eps that nobody named; vectors near 0 show it."""
    x, module = random(4, 5, D) * 1e-3, unsettled(nn.LayerNorm(D))
    close(layer_norm(x, module.weight, module.bias), module(x))


def test_layer_norm_gradcheck():
    assert torch.autograd.gradcheck(layer_norm, (random(2, 5), random(5), random(5)))


def test_layer_norm_gives_mean_0_and_variance_1_whatever_the_scale():
    x, one, zero = random(6, D), torch.ones(D).double(), torch.zeros(D).double()
    y = layer_norm(x, one, zero, eps=0.0)
    close(y.mean(-1), torch.zeros(6).double())
    close(y.square().mean(-1), torch.ones(6).double())
    close(layer_norm(5 * x - 3, one, zero, eps=0.0), y)


def test_a_constant_vector_becomes_the_bias():
    bias = random(D)
    close(layer_norm(torch.full((2, D), 7.0).double(), random(D), bias), bias.expand(2, D))


def test_the_much_copied_layer_norm_is_told_apart():
    """A negative control: unbiased deviation and eps outside of the root each show."""
    x, one, zero = random(50, D).detach(), torch.ones(D).double(), torch.zeros(D).double()
    centred, right = x - x.mean(-1, keepdim=True), layer_norm(x, one, zero)
    unbiased = centred / (x.var(-1, keepdim=True) + 1e-5).sqrt()
    outside = centred / (x.std(-1, keepdim=True, correction=0) + 1e-5)
    both = centred / (x.std(-1, keepdim=True) + 1e-6)
    for wrong, least in [(unbiased, 0.05), (outside, 1e-6), (both, 0.05)]:
        assert (wrong - right).abs().max() > least
    close(unbiased * (D / (D - 1)) ** 0.5, right, 1e-5)  # nearly a constant factor


# The feed-forward network


def test_feed_forward_equals_loops():
    network = unsettled(FeedForward(D, HIDDEN))
    (W1, b1), (W2, b2) = [(m.weight.T, m.bias) for m in (network.expand, network.contract)]
    x = random(2, 3, D)
    output = network(x)
    assert W1.shape == (D, HIDDEN) and W2.shape == (HIDDEN, D)
    for b, t in [(0, 0), (1, 2)]:
        inner = [max(0.0, (x[b, t] @ W1[:, j] + b1[j]).item()) for j in range(HIDDEN)]
        assert 0.0 in inner  # the cut is seen at work
        close(output[b, t], sum(inner[j] * W2[j] for j in range(HIDDEN)) + b2)


def test_feed_forward_gradcheck():
    network = unsettled(FeedForward(3, 5))
    assert torch.autograd.gradcheck(network, (random(2, 3),))


def test_every_position_alone_and_all_by_the_same_network():
    network, x, order = unsettled(FeedForward(D, HIDDEN)), random(2, 5, D), torch.randperm(5)
    together = network(x)
    for t in range(5):
        close(network(x[:, t]), together[:, t])
    close(network(x[:, order]), together[:, order])
    (seen,) = torch.autograd.grad(together[:, 2].sum(), x)
    assert seen[:, 2].all() and not seen[:, [0, 1, 3, 4]].any()


# The frame around every sub-layer


@orders
def test_residual_equals_the_formula(norm_first):
    frame, matrix = unsettled(Residual(D, 0.0, norm_first)), random(D, D)
    x = random(2, 3, D)
    norm = lambda y: layer_norm(y, frame.norm.weight, frame.norm.bias)  # noqa: E731
    expected = x + norm(x) @ matrix if norm_first else norm(x + x @ matrix)
    output = frame(x, lambda y: y @ matrix)
    inputs = [x, matrix, *frame.parameters()]
    close(output, expected)
    close(gradients(output, inputs), gradients(expected, inputs))


def test_post_norm_is_the_default():
    """The paper's order."""
    close(Residual(D).double()(x := random(1, 2, D), torch.zeros_like), F.layer_norm(x, (D,)))


@orders
def test_dropout_works_in_training_alone(norm_first):
    x, doubled = torch.randn(2, 3, D), lambda y: 2 * y
    with_dropout, without = (Residual(D, rate, norm_first) for rate in (0.5, 0.0))
    assert not torch.equal(with_dropout(x, doubled), without(x, doubled))
    assert torch.equal(with_dropout.eval()(x, doubled), without(x, doubled))


def test_dropout_is_on_the_output_of_the_sublayer_alone():
    """Every entry of x stays; to each one 0 is added, or twice the 1 that the sub-layer says."""
    x = torch.randn(40, 50, D)
    seen = []
    frame = Residual(D, 0.5, norm_first=True)
    output = frame(x, lambda y: seen.append(y) or torch.ones_like(y))
    close(seen[0], frame.norm(x), 1e-6)  # what the sub-layer reads is whole
    added = output - x
    dropped = added.abs() < 1e-5
    close(added[~dropped], torch.full_like(added[~dropped], 2.0), 1e-5)
    assert dropped.float().mean() == pytest.approx(0.5, abs=0.02)

    frame = Residual(D, 0.5)
    frame.norm = nn.Identity()  # post-norm, seen before its LayerNorm
    output = frame(x, lambda y: seen.append(y) or torch.ones_like(y))
    assert torch.equal(seen[1], x)
    assert (output - x).round().unique().tolist() == [0.0, 2.0]


def test_the_default_rate_is_the_papers():
    dropped = Residual(D, norm_first=True)(torch.zeros(200, 50, D), torch.ones_like) == 0
    assert dropped.float().mean() == pytest.approx(0.1, abs=0.005)


# All of it at once


@orders
def test_an_encoder_layer_equals_torchs(norm_first):
    config = ModelConfig(
        9, 9, d_model=D, n_heads=4, d_ff=HIDDEN, dropout=0.0, norm_first=norm_first
    )
    ours = unsettled(EncoderLayer(config))
    theirs = nn.TransformerEncoderLayer(
        D, 4, HIDDEN, dropout=0.0, batch_first=True, norm_first=norm_first
    ).double()
    attention, network = ours.self_attention, ours.feed_forward
    pairs = {
        "self_attn.in_proj_": [attention.query, attention.key, attention.value],
        "self_attn.out_proj.": [attention.output],
        "linear1.": [network.expand],
        "linear2.": [network.contract],
        "norm1.": [ours.residuals[0].norm],
        "norm2.": [ours.residuals[1].norm],
    }
    parts = {
        name + part: [getattr(module, part) for module in modules]
        for name, modules in pairs.items()
        for part in ("weight", "bias")
    }
    theirs.load_state_dict({name: torch.cat(tensors) for name, tensors in parts.items()})
    x, real = random(2, 5, D), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    output = ours(x, padding_mask(real))
    expected = theirs(x, src_key_padding_mask=real == 0)
    close(output, expected)
    names, others = zip(*theirs.named_parameters(), strict=True)
    flat = [tensor for name in names for tensor in parts[name]]
    found, wanted = gradients(output, [x, *flat]), gradients(expected, [x, *others])
    close(found[0], wanted[0])
    of = dict(zip(map(id, flat), found[1:], strict=True))
    for name, gradient in zip(names, wanted[1:], strict=True):
        close(torch.cat([of[id(tensor)] for tensor in parts[name]]), gradient)
