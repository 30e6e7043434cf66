"""Exercises of notebook 05: LayerNorm, parameters, an identity, dropout, an encoder layer."""

from functools import partial

import torch
from torch.nn import functional as F

from transformer_lib.feed_forward import FeedForward
from transformer_lib.lessons.exercises.checker import Exercise, Hint, draw, numbers


def parameters(d_model, d_ff):
    return sum(p.numel() for p in FeedForward(d_model, d_ff).parameters())


def identity_weights(d_model, signs=(1, -1, 1, -1)):
    a, b, c, d = (sign * torch.eye(d_model) for sign in signs)
    return torch.cat([a, b], dim=1), torch.cat([c, d], dim=0)


def through_network(answer, d_model):
    """Send inputs of both signs through a network with these weights."""
    found = answer(d_model)
    if not isinstance(found, list | tuple) or len(found) != 2:
        raise Hint("return two matrices, W1 and W2.")
    x, W1, W2 = draw(20, d_model), *map(numbers, found)
    if W1 is None or W2 is None:
        raise Hint("return two matrices of numbers, W1 and W2.")
    shapes, right = (
        (tuple(W1.shape), tuple(W2.shape)),
        ((d_model, 2 * d_model), (2 * d_model, d_model)),
    )
    if shapes == right[::-1]:
        raise Hint("the shapes are those of `nn.Linear`, which stores transposes: here, x @ W1.")
    if shapes != right:
        raise Hint(f"for d_model = {d_model}, expected the shapes {right}, got {shapes}.")
    return (x @ W1.float()).relu() @ W2.float()


def average_output(x, p, n=20_000):
    return F.dropout(x.expand(n, -1), p).mean(dim=0)


def averaged(answer, x, p):
    """Average an answer, and look for what cannot be an average."""
    result = answer(x, p)
    found = numbers(result)
    if found is None or found.shape != x.shape:
        return result
    found = found.to(x.dtype)
    if torch.equal(found, x):
        raise Hint("that is x itself: nothing was dropped. A new `nn.Dropout` is in training mode.")
    if (torch.isclose(found, x / (1 - p)) | (found == 0)).all():
        raise Hint("that is a single draw. Expand x before the dropout, so that each row differs.")
    return found


def norm(x, dim=-1, correction=0):
    centered = x - x.mean(dim=dim, keepdim=True)
    return centered / (x.var(dim=dim, keepdim=True, correction=correction) + 1e-5).sqrt()


def encoder_layer(x, attend, feed_forward, norm=norm):
    x = norm(x + attend(x))
    return norm(x + feed_forward(x))


def encoder_layer_inputs():
    def attend(x):
        return (x @ x.mT).softmax(dim=-1) @ x * 2

    def feed_forward(x):
        return x.relu() * 3 - x.roll(1, dims=-1)

    return [(draw(*shape), attend, feed_forward) for shape in ((2, 5, 8), (1, 3, 6), (4, 2, 10))]


EXERCISES = {
    "5.1": Exercise(
        lambda y: y,
        passed="LayerNorm forgets size and shift: only the direction of the deviations is left",
        hint="write (3x + 7) - mean(3x + 7) and see what becomes of the 7, then of the 3.",
        inputs=lambda: [(norm(draw(4, 64)),), (norm(draw(2, 3, 5)),)],
        mistakes={
            "the shift moves the mean, too, and the factor stretches the deviation as well.": (
                lambda y: 3 * y + 7
            ),
            "the standard deviation grows by the factor 3, too, and is divided out.": lambda y: (
                3 * y
            ),
            "the mean moves by 7, too, and is subtracted.": lambda y: y + 7,
            "the deviation is divided once, not twice.": lambda y: y / 3,
        },
    ),
    "5.2": Exercise(
        parameters,
        passed="2,099,712 in each layer of the base model",
        hint="d_model · d_ff twice; the first bias has d_ff entries, the second d_model.",
        inputs=lambda: [(8, 32), (512, 2048), (6, 6)],
        mistakes={
            "both layers have a bias.": lambda d, f: 2 * d * f,
            "each layer has a bias: one has d_ff entries, the other d_model.": (
                lambda d, f: 2 * d * f + f,
                lambda d, f: 2 * d * f + d,
            ),
            "the biases differ in length: d_ff entries and d_model entries.": (
                lambda d, f: 2 * d * f + 2 * f,
                lambda d, f: 2 * d * f + 2 * d,
            ),
            "there are two matrices, one for each layer.": lambda d, f: d * f + d + f,
        },
    ),
    "5.3": Exercise(
        identity_weights,
        passed="what the ReLU cuts from one unit, its twin carries",
        hint="with W1 = [I, -I], one unit of each pair is positive; W2 must restore the sign.",
        inputs=lambda: [(3,), (5,)],
        measure=through_network,
        mistakes={
            "negative inputs come out positive. W2 must restore the sign.": (
                partial(identity_weights, signs=(1, -1, 1, 1))
            ),
            "negative inputs are lost. The other half of the units must carry -x.": (
                partial(identity_weights, signs=(1, 0, 1, 0)),
                partial(identity_weights, signs=(1, 1, 0.5, 0.5)),
            ),
            "both halves carry x, so it is counted twice and negative inputs are lost.": (
                partial(identity_weights, signs=(1, 1, 1, 1))
            ),
            "the sign is reversed: one of the two matrices must change its sign.": (
                partial(identity_weights, signs=(1, -1, -1, 1))
            ),
        },
    ),
    "5.4": Exercise(
        average_output,
        passed="on average the output is x, so evaluation, without dropout, sees the same sizes",
        hint="take the mean over the rows of `nn.Dropout(p)(x.expand(20_000, -1))`.",
        inputs=lambda: [(torch.tensor([1.0, -2.0, 4.0]), 0.1), (3 - torch.arange(5.0), 0.5)],
        measure=averaged,
        tolerance=0.04,
        slack=0.05,
        mistakes={
            "without the factor 1 / (1 - p), the output shrinks. `nn.Dropout` applies it.": (
                lambda x, p: average_output(x, p) * (1 - p)
            ),
            "the factor 1 / (1 - p) is applied twice. `nn.Dropout` applies it itself.": (
                lambda x, p: average_output(x, p) / (1 - p)
            ),
            "this is the mean of all entries. Take it over the draws, dim=0.": (
                lambda x, p: average_output(x, p).mean()
            ),
            "p is the share that is dropped, not the share that is kept.": lambda x, p: (
                average_output(x, p) * (1 - p) / p
            ),
            "this is the sum of the draws. Take their mean.": lambda x, p: (
                20_000 * average_output(x, p)
            ),
        },
    ),
    "5.5": Exercise(
        encoder_layer,
        passed="two sub-layers, each LayerNorm(x + Sublayer(x)): the paper's encoder layer",
        hint="x = LayerNorm(x + attend(x)), then the same around feed_forward.",
        inputs=encoder_layer_inputs,
        forbidden=dict.fromkeys(
            ("layer_norm", "LayerNorm", "Residual"), "write LayerNorm yourself"
        ),
        tolerance=1e-3,
        slack=1e-4,
        mistakes={
            "this is pre-norm. The paper normalizes the sum, after the residual.": (
                lambda x, a, f: x + a(norm(x)) + f(norm(x + a(norm(x))))
            ),
            "a residual is missing: add the sub-layer's input to its output.": (
                lambda x, a, f: norm(f(norm(a(x)))),
                lambda x, a, f: norm(f(norm(x + a(x)))),
                lambda x, a, f: norm(norm(a(x)) + f(norm(a(x)))),
            ),
            "each of the two sub-layers has its own LayerNorm.": (
                lambda x, a, f: norm(x + a(x) + f(x + a(x))),
                lambda x, a, f: norm(x + a(x)) + f(norm(x + a(x))),
            ),
            "there is no LayerNorm yet.": lambda x, a, f: x + a(x) + f(x + a(x)),
            "LayerNorm takes the mean over the features of one token, dim=-1.": (
                partial(encoder_layer, norm=partial(norm, dim=1)),
                partial(encoder_layer, norm=partial(norm, dim=(1, 2))),
                partial(encoder_layer, norm=partial(norm, dim=(0, 1))),
            ),
            "the variance divides by D: use correction=0, not torch's default of D - 1.": (
                partial(encoder_layer, norm=partial(norm, correction=1)),
                partial(
                    encoder_layer, norm=lambda x: (x - x.mean(-1, True)) / x.std(-1, keepdim=True)
                ),
            ),
            "divide by the standard deviation, the root of the variance.": partial(
                encoder_layer, norm=lambda x: norm(x) / (x.var(-1, False, keepdim=True)).sqrt()
            ),
            "the feed-forward network is missing.": lambda x, a, f: norm(x + a(x)),
            "attention comes first, then the feed-forward network.": (
                lambda x, a, f: encoder_layer(x, f, a)
            ),
        },
    ),
}
