"""Exercises of the appendices: bugs (A), images (B), language models (C)."""

import math

import torch

from transformer_lib.lessons.exercises.checker import Exercise, draw


def length_after(norm, scale, limit):
    return min(norm * scale, limit) / scale


def loss_of_parts(parts):
    return sum(map(sum, parts)) / sum(map(len, parts))


def pair_lines(source, target, split=lambda text: text.removesuffix("\n").split("\n")):
    lines = split(source), split(target)
    if len(lines[0]) != len(lines[1]):
        raise ValueError("the files differ in their number of lines")
    return [(a, b) for a, b in zip(*lines, strict=True) if a.strip() and b.strip()]


def filtered_first(source, target):
    sides = ([line for line in text.split("\n") if line.strip()] for text in (source, target))
    return list(zip(*sides, strict=False))


def paired(answer, source, target):
    """Return the pairs as text, or the word for what was raised."""
    try:
        return [" = ".join(pair) for pair in answer(source, target)]
    except ValueError:
        return "ValueError"


def n_tokens(height, width, size):
    return (height // size) * (width // size) + 1


def patches(image, size):
    cut = image.unfold(0, size, size).unfold(1, size, size)
    return cut.reshape(-1, size * size)


def top_k(logits, k):
    lowest = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < lowest, -torch.inf)


def perplexity(losses):
    return math.exp(loss_of_parts(losses))


EXERCISES = {
    "A.1": Exercise(
        length_after,
        passed="clipping before unscaling makes the limit 65,536 times too strict",
        hint="multiply, take the smaller of this length and the limit, then divide.",
        inputs=lambda: [(1.6, 65536.0, 1.0), (0.5, 1.0, 1.0), (3.0, 2.0, 100.0), (2.0, 4.0, 1.0)],
        mistakes={
            "that is the right order. The bug clips first and divides by the scale afterwards.": (
                lambda norm, scale, limit: min(norm, limit)
            ),
            "divide by the scale again at the end.": (
                lambda norm, scale, limit: min(norm * scale, limit)
            ),
            "a gradient that is shorter than the limit is not clipped.": (
                lambda norm, scale, limit: limit / scale
            ),
        },
    ),
    "A.2": Exercise(
        loss_of_parts,
        passed="sums and one count: the split cannot matter",
        hint="divide the sum of all losses by the number of all tokens.",
        inputs=lambda: [([[1.0, 2.0, 3.0], [6.0]],), ([[2.0], [], [4.0, 0.0, 0.0]],)],
        mistakes={
            "that is a mean of means: tokens of short parts weigh more.": lambda parts: (
                sum(sum(part) / len(part) for part in parts if part) / len([p for p in parts if p])
            ),
            "an empty part is not a part with a loss of 0.": lambda parts: (
                sum(sum(part) / len(part) for part in parts if part) / len(parts)
            ),
            "divide by the number of tokens, not by the number of parts.": lambda parts: (
                sum(map(sum, parts)) / len(parts)
            ),
            "that is the sum; divide it by the number of tokens.": lambda parts: sum(
                map(sum, parts)
            ),
        },
    ),
    "A.3": Exercise(
        pair_lines,
        passed="no line is split, and none is dropped on one side alone",
        hint="split at line feeds, compare the numbers of lines, pair, then filter the pairs.",
        inputs=lambda: [
            ("a\nb\u2028c\n\nd\n", "A\nB\nC\nD\n"),
            ("a\n \nb", "\nB\nC"),
            ("a\nb\n", "A\n"),
            ("a\x0bb\nc\n", "A\nB\n"),
        ],
        measure=paired,
        mistakes={
            "`splitlines` ends a line at other characters, too, such as U+2028.": (
                lambda source, target: pair_lines(source, target, str.splitlines)
            ),
            "each side is filtered on its own, so the pairs shift. Pair first.": filtered_first,
            "raise a ValueError if the numbers of lines differ; `zip` stops at the shorter one.": (
                lambda source, target: [
                    (a, b)
                    for a, b in zip(
                        *(t.removesuffix("\n").split("\n") for t in (source, target)), strict=False
                    )
                    if a.strip() and b.strip()
                ]
            ),
            "a line of spaces is blank, too.": (
                lambda source, target: (
                    [(a, b) for a, b in zip(source.split("\n"), target.split("\n"), strict=True)]
                )
            ),
        },
    ),
    "B.1": Exercise(
        n_tokens,
        passed="a photograph of 224 × 224 pixels in patches of 16 gives 197 tokens",
        hint="patches in a column times patches in a row, and the class token.",
        inputs=lambda: [(8, 8, 2), (224, 224, 16), (32, 64, 8)],
        mistakes={
            "the class token is a token, too.": lambda h, w, size: (h // size) * (w // size),
            "count patches, not pixels.": lambda h, w, size: h * w + 1,
            "an image has patches in two directions: multiply their numbers.": (
                lambda h, w, size: h // size + w // size + 1
            ),
        },
    ),
    "B.2": Exercise(
        patches,
        passed="each row is one patch, read row by row",
        hint="reshape to (rows, size, columns, size), bring the two sizes together, then flatten.",
        inputs=lambda: [(draw(4, 4), 2), (draw(6, 9), 3), (draw(4, 8), 4)],
        mistakes={
            "that cuts the image into runs of pixels along its rows, not into squares.": (
                lambda image, size: image.reshape(-1, size * size)
            ),
            "inside each patch, rows and columns are exchanged.": lambda image, size: (
                image.unfold(0, size, size).unfold(1, size, size).mT.reshape(-1, size * size)
            ),
            "the patches go down the columns of the image; they should go along its rows.": (
                lambda image, size: (
                    image.unfold(0, size, size)
                    .unfold(1, size, size)
                    .transpose(0, 1)
                    .reshape(-1, size * size)
                )
            ),
        },
    ),
    "C.1": Exercise(
        perplexity,
        passed="as if the model chose among this many equally likely words",
        hint="the exponential of the mean loss per token, over all tokens of all sentences.",
        inputs=lambda: [([[0.7, 0.7], [0.7]],), ([[2.0], [0.0, 0.0, 1.0]],)],
        mistakes={
            "average over tokens, not over sentences.": lambda losses: math.exp(
                sum(sum(row) / len(row) for row in losses) / len(losses)
            ),
            "that is the mean loss. Perplexity is its exponential.": loss_of_parts,
            "take the mean first and the exponential of it, not the other way round.": (
                lambda losses: (
                    sum(math.exp(x) for row in losses for x in row) / sum(map(len, losses))
                )
            ),
        },
    ),
    "C.2": Exercise(
        top_k,
        passed="everything but the k best has probability 0",
        hint="find the k-th largest logit of each row; what is lower becomes -inf.",
        inputs=lambda: [(draw(7), 3), (draw(2, 5), 1), (draw(3, 4), 4)],
        mistakes={
            "a logit of 0 still has a probability. Fill with -inf.": lambda logits, k: (
                logits.masked_fill(logits < logits.topk(k).values[..., -1:], 0.0)
            ),
            "return all V logits, so that their places stay the ids.": (
                lambda logits, k: logits.topk(k).values
            ),
            "the k-th best belongs to the k best: keep it.": lambda logits, k: logits.masked_fill(
                logits <= logits.topk(k).values[..., -1:], -torch.inf
            ),
            "keep the largest logits, not the smallest.": lambda logits, k: -top_k(-logits, k),
        },
    ),
}
