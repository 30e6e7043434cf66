"""LayerNorm, the feed-forward network and the residual frame against torch's own and formulas."""

import pytest
import torch
from helpers import close, gradients, random, unsettled
from torch import nn
from torch.nn import functional as F

from transformer_lib import FeedForward, Residual, layer_norm

D, HIDDEN = 16, 40
orders = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])


# LayerNorm


@pytest.mark.parametrize("shape", [(D,), (3, D), (2, 3, D), (2, 1, 3, D)])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm_equals_torch_in_outputs_and_gradients(shape, eps):
    x, weight, bias = inputs = random(*shape), random(D), random(D)
    output, expected = layer_norm(x, weight, bias, eps), F.layer_norm(x, (D,), weight, bias, eps)
    close(output, expected)
    close(gradients(output, inputs), gradients(expected, inputs))


def test_layer_norm_equals_the_module_that_the_layers_run():
    """The default eps is the same; vectors near 0 show it."""
    x, module = random(4, 5, D) * 1e-3, unsettled(nn.LayerNorm(D))
    close(layer_norm(x, module.weight, module.bias), module(x))


def test_layer_norm_gradcheck():
    assert torch.autograd.gradcheck(layer_norm, (random(2, 5), random(5), random(5)))


# The feed-forward network


def test_feed_forward_equals_loops():
    network = unsettled(FeedForward(D, HIDDEN))
    (W1, b1), (W2, b2) = [(m.weight.T, m.bias) for m in (network.expand, network.contract)]
    x = random(2, 3, D)
    output = network(x)
    assert W1.shape == (D, HIDDEN) and W2.shape == (HIDDEN, D)
    for vector, found in zip(x.flatten(0, 1), output.flatten(0, 1), strict=True):
        inner = [max(0.0, (vector @ W1[:, j] + b1[j]).item()) for j in range(HIDDEN)]
        assert 0.0 in inner  # ReLU has clipped something
        close(found, sum(inner[j] * W2[j] for j in range(HIDDEN)) + b2)


def test_feed_forward_gradcheck():
    network = unsettled(FeedForward(3, 5))
    assert torch.autograd.gradcheck(network, (random(2, 3),))


# The frame around every sub-layer


@orders
def test_residual_equals_the_formula(norm_first):
    frame, matrix, x = unsettled(Residual(D, 0.0, norm_first)), random(D, D), random(2, 3, D)

    def norm(y):
        return layer_norm(y, frame.norm.weight, frame.norm.bias)

    expected = x + norm(x) @ matrix if norm_first else norm(x + x @ matrix)
    output = frame(x, lambda y: y @ matrix)
    inputs = [x, matrix, *frame.parameters()]
    close(output, expected)
    close(gradients(output, inputs), gradients(expected, inputs))


def test_the_defaults_are_the_papers():
    close(Residual(D).double()(x := random(1, 2, D), torch.zeros_like), F.layer_norm(x, (D,)))
    dropped = Residual(D, norm_first=True)(torch.zeros(200, 50, D), torch.ones_like) == 0
    assert dropped.float().mean() == pytest.approx(0.1, abs=0.005)


@orders
def test_dropout_works_in_training_alone(norm_first):
    x, doubled = torch.randn(2, 3, D), lambda y: 2 * y
    with_dropout, without = (Residual(D, rate, norm_first) for rate in (0.5, 0.0))
    assert not torch.equal(with_dropout(x, doubled), without(x, doubled))
    assert torch.equal(with_dropout.eval()(x, doubled), without(x, doubled))


@orders
def test_dropout_is_on_the_output_of_the_sublayer_alone(norm_first):
    """Every entry of x stays; to each, either 0 is added or twice the sub-layer's 1."""
    x, inputs, frame = torch.randn(40, 50, D), [], Residual(D, 0.5, norm_first)
    if not norm_first:
        frame.norm = nn.Identity()  # shows what post-norm normalizes
    added = frame(x, lambda y: inputs.append(y) or torch.ones_like(y)) - x
    close(inputs[0], frame.norm(x), 1e-6)  # the sub-layer reads everything
    dropped = added.abs() < 1e-5
    close(added[~dropped], torch.full_like(added[~dropped], 2.0), 1e-5)
    assert dropped.float().mean() == pytest.approx(0.5, abs=0.02)
