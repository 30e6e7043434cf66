"""Exercises of notebook 02: wavelengths, tasks without positions, a shift, rotary positions."""

import math
from functools import partial

import torch

from transformer_lib.lessons.exercises.checker import Exercise, Hint, draw, numbers
from transformer_lib.positional import sinusoidal_table


def wavelength(dimension, d_model, turn=2 * math.pi):
    return turn * 10_000 ** (dimension // 2 * 2 / d_model)


TASKS = {
    "own letter": lambda source: source,
    "mirrored letter": lambda source: source.flip(1),
    "rank": lambda source: (source[:, None, :] < source[:, :, None]).sum(dim=2),
}


def moves_along(task):
    """True if shuffling the letters shuffles the right answers in the same way."""
    source, order = torch.tensor([[5, 2, 9, 7, 1]]), torch.tensor([3, 0, 4, 1, 2])
    return torch.equal(TASKS[task](source[:, order]), TASKS[task](source)[:, order])


def predicted(**changes):
    return {task: moves_along(task) for task in TASKS} | changes


def shift_matrix(k, d_model):
    """The matrix that moves rows of the table by k: one rotation per pair of dimensions."""
    angles = k * 10_000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    sine, cosine = angles.sin(), angles.cos()
    blocks = torch.stack([cosine, sine, -sine, cosine], dim=1).view(-1, 2, 2)
    return torch.block_diag(*blocks)


def look_back(k, d_model):
    return shift_matrix(k, d_model)


def offsets(answer, k, d_model, n=40):
    """Return where the rows look, relative to themselves, and check the matrix's shape."""
    found = answer(k, d_model)
    W = numbers(found)
    if W is None or W.shape != (d_model, d_model):
        return found
    table = sinusoidal_table(n, d_model, torch.float64)
    scores = table @ W.double() @ table.T
    if scores.isnan().any() or scores.std() < 1e-6:
        raise Hint("all scores are the same: W must move the rows, not erase them.")
    distance = (scores.argmax(dim=1) - torch.arange(n))[k : n - k]
    return distance.unique().tolist()


def rotate(x, table, sign=1):
    sine, cosine = sign * table[:, 0::2], table[:, 1::2]
    a, b = x[:, 0::2], x[:, 1::2]
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(1)


def rotate_halves(x, table):
    """The layout of many libraries: entry i and entry i + D/2 are a pair."""
    half = x.size(1) // 2
    order = torch.arange(2 * half).view(2, half).T.flatten()
    return rotate(x[:, order], table)[:, order.argsort()]


def not_interleaved(x, table):
    turned = rotate(x, table)
    return torch.cat([turned[:, 0::2], turned[:, 1::2]], dim=1)


EXERCISES = {
    "2.1": Exercise(
        wavelength,
        passed="dimension 100 of 512 repeats every 38.0 positions",
        hint="a wave repeats when its angle has grown by 2π. Compare wavelength(0, 512) with 2π.",
        inputs=lambda: [(0, 512), (1, 512), (100, 512), (7, 64), (5, 16), (15, 16)],
        tolerance=1e-5,
        mistakes={
            "d_model is an argument, and 512 only one of its values.": (
                lambda dimension, d_model: wavelength(dimension, 512)
            ),
            "a sine and its cosine share one wavelength: columns 6 and 7 both have 2m = 6.": (
                lambda dimension, d_model: 2 * math.pi * 10_000 ** (dimension / d_model)
            ),
            "the exponent is 2m / d_model, and m is half the column, rounded down.": (
                lambda dimension, d_model: 2 * math.pi * 10_000 ** (dimension // 2 / d_model)
            ),
            "this is the number of positions for one radian. A whole turn has 2π.": (
                partial(wavelength, turn=1.0)
            ),
            "this is a frequency. The wavelength is 2π divided by it.": (
                lambda dimension, d_model: 1 / wavelength(dimension, d_model, turn=1.0),
                lambda dimension, d_model: 1 / wavelength(dimension, d_model),
            ),
        },
    ),
    "2.2": Exercise(
        predicted,
        passed="after 250 steps, such an encoder got 100 %, 15 % and 100 % right",
        hint="shuffle the row in your head: does each right answer move along with its letter?",
        mistakes={
            "without positions, no letter can find the mirrored position. A guess is right one "
            "time in seven.": lambda: predicted(**{"mirrored letter": True}),
            "the rank depends on the letter and on the others, not on any position.": (
                lambda: predicted(rank=False)
            ),
            "each position sees its own letter, wherever it is.": (
                lambda: predicted(**{"own letter": False})
            ),
            'use the three task names as keys: "own letter", "mirrored letter", "rank".': (
                lambda: list(predicted().values()),
                lambda: {"own": True, "mirrored": False, "rank": True},
            ),
        },
    ),
    "2.3": Exercise(
        look_back,
        passed="each position looks exactly k back, wherever it is",
        hint="W must move row t to row t - k, so that its product with that row is the largest.",
        inputs=lambda: [(1, 64), (2, 32), (5, 128)],
        measure=offsets,
        mistakes={
            "your rows look k ahead. Transpose W.": lambda k, d_model: look_back(k, d_model).T,
            "your rows look at themselves. W has to move them by k.": (
                lambda k, d_model: torch.eye(d_model)
            ),
            "k is an argument. Your W looks back by the same distance for every k.": (
                lambda k, d_model: look_back(1, d_model),
                lambda k, d_model: look_back(2, d_model),
            ),
        },
    ),
    "2.4": Exercise(
        rotate,
        passed="each pair is turned by its angle: these are rotary positions",
        hint="compare one pair with the formula: signs, sine and cosine, which entries are a pair.",
        inputs=lambda: [
            (draw(p, d), sinusoidal_table(p + 2, d)[2:]) for p, d in ((3, 4), (7, 10), (1, 2))
        ],
        mistakes={
            "the vectors turn the wrong way. Check the two signs.": partial(rotate, sign=-1),
            "sine and cosine are swapped: the sines are in the even columns.": (
                lambda x, table: rotate(x, table.unflatten(1, (-1, 2)).flip(2).flatten(1))
            ),
            "neighboring entries are a pair: 0 and 1, 2 and 3.": rotate_halves,
            "the numbers are right, but the pairs must be interleaved again.": not_interleaved,
            "this adds the table. Multiply by its sines and cosines.": lambda x, table: x + table,
            "the vectors are not turned yet.": lambda x, table: x,
        },
    ),
}
