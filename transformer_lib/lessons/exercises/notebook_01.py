"""Exercises of notebook 01: gradients of the embedding, softmax, neighbors, tying, subwords."""

import copy
from functools import partial

import torch
from torch import nn

from transformer_lib.embeddings import TokenEmbedding
from transformer_lib.lessons.exercises.checker import Exercise, Hint, draw
from transformer_lib.lessons.running import vocabularies


def gradients(factor=4.0, the=1.0, pad=0.0):
    """Entries of the gradient, by the library, for another factor and with other shares."""
    english = vocabularies()[1]
    layer = TokenEmbedding(len(english), 16)
    ids = [*english.encode("the dog sees the cat"), english.pad_id]
    layer(torch.tensor([ids])).sum().backward()
    rows = [*english.encode("the sees man"), english.pad_id]
    found = layer.weight.grad[rows, 0] / layer.scale * factor
    found += factor * torch.tensor([the - 1, 0, 0, pad])
    return dict(zip(("the", "sees", "man", "<pad>"), found.tolist(), strict=True))


def softmax(scores, temperature=1.0, shift=torch.max):
    scores = scores / temperature
    powers = torch.exp(scores - shift(scores))
    return powers / powers.sum()


def nearest(word, weight, vocab, k=3, power=1.0, skip=1):
    directions = weight / weight.norm(dim=1, keepdim=True) ** power
    best = (directions @ directions[vocab.token_to_id(word)]).argsort(descending=True).tolist()
    return [vocab.id_to_token(id) for id in best[skip : k + skip]]


def farthest(word, weight, vocab, k=3):
    return nearest(word, weight, vocab, len(vocab) - 1)[: -k - 1 : -1]


def nearest_inputs():
    german, english = vocabularies()
    table = draw(len(english), 8) * torch.arange(1, len(english) + 1)[:, None].sqrt()
    return [("dog", table, english, 4), ("Hund", draw(len(german), 6), german, 5)]


def after_tying(answer, vocab_size, width):
    """Return what is shared after tying a new model, and after a deep copy of it."""
    out = nn.Linear(width, vocab_size, bias=False)
    model = nn.ModuleDict({"embed": nn.Embedding(vocab_size, width), "out": out})
    answer(model)
    if not isinstance(model["out"], nn.Linear):
        raise Hint("the output must stay an `nn.Linear`. Share its weight only.")
    twin = copy.deepcopy(model)
    equal = torch.equal(model["out"].weight, model["embed"].weight)
    return twin["out"].weight is twin["embed"].weight, len(list(model.parameters())), equal


def tie(model):
    model["out"].weight = model["embed"].weight


def tie_data(model):
    model["out"].weight.data = model["embed"].weight.data


def join(pieces, pair, once=False):
    """Join the pair wherever it occurs, from the left."""
    joined = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair and not (once and "".join(pair) in joined):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def segment(word, merges, once=False):
    pieces = list(word)
    for pair in merges:
        pieces = join(pieces, pair, once)
    return pieces


def longest_first(word, merges):
    known, pieces = {"".join(pair) for pair in merges}, []
    while word:
        size = next(n for n in range(len(word), 0, -1) if n == 1 or word[:n] in known)
        pieces, word = [*pieces, word[:size]], word[size:]
    return pieces


def segment_inputs():
    german = [("a", "u"), ("h", "au"), ("hau", "s"), ("b", "o"), ("bo", "o"), ("boo", "t")]
    letters = [("b", "a"), ("a", "b"), ("a", "n"), ("ba", "n")]
    words = [(word, german) for word in ("bootshaus", "haushaus", "tee")]
    return [*words, ("ababanan", letters), ("aban", letters[1:])]


EXERCISES = {
    "1.1": Exercise(
        gradients,
        passed="each lookup adds √16 = 4 to every entry of its row",
        hint="count how often each row is looked up; each lookup adds √16 to every entry.",
        mistakes={
            "the lookup multiplies by √d_model, and so the gradient does, too.": (
                lambda: gradients(factor=1.0)
            ),
            "the factor is √d_model, not d_model.": lambda: gradients(factor=16.0),
            "*the* is looked up twice, and both lookups add to its gradient.": (
                lambda: gradients(the=0.0)
            ),
            "<pad> is looked up, but the layer keeps its gradient at 0.": lambda: gradients(
                pad=1.0
            ),
        },
    ),
    "1.2": Exercise(
        softmax,
        passed="right, for scores of 5000 too",
        hint="divide by the temperature, subtract the largest score, take exp, divide by the sum.",
        inputs=lambda: [
            (torch.tensor([1000.0, 999.0, -1000.0]), 2.0),
            (torch.tensor([-5000.0, -5001.0, -5002.0, -4999.0]), 0.5),
            (draw(7), 3.0),
        ],
        tolerance=5e-3,  # exp(s - logsumexp) loses digits in float32
        forbidden=dict.fromkeys(
            ("softmax", "log_softmax", "Softmax", "softmin"), "use `torch.exp`"
        ),
        mistakes={
            "exp(1000) is inf. Subtract the largest score first.": (
                partial(softmax, shift=lambda scores: 0.0),
                lambda s, t=1.0: softmax(s, t, lambda scores: 0.0).nan_to_num(),
            ),
            "for some scores, exp still overflows or gives 0. Subtract the largest of them.": (
                partial(softmax, shift=lambda scores: 1000.0),
                lambda s, t=1.0: softmax(s, t, lambda scores: 1000.0 / t),
                partial(softmax, shift=torch.mean),
                partial(softmax, shift=torch.min),
            ),
            "the temperature has no effect yet. Divide the scores by it.": (
                lambda s, t=1.0: softmax(s)
            ),
            "divide by the temperature; you multiply by it.": lambda s, t=1.0: softmax(s, 1 / t),
            "these are log-probabilities. Take exp.": lambda s, t=1.0: (s / t).log_softmax(0),
            "the numbers do not add up to 1. Divide them by their sum.": (
                lambda s, t=1.0: torch.exp((s - s.max()) / t)
            ),
        },
    ),
    "1.3": Exercise(
        nearest,
        passed="right for two vocabularies",
        hint="return k words, the most similar first, without the word itself.",
        inputs=nearest_inputs,
        mistakes={
            "long vectors win. Scale all rows to length 1 before you multiply.": (
                partial(nearest, power=0.0)
            ),
            "the word itself does not count. Leave it out.": (
                partial(nearest, skip=0),
                lambda word, w, v, k=3: nearest(word, w, v, k + 1, skip=0),
            ),
            "these are ids. Turn them into words with `vocab.id_to_token`.": (
                lambda word, w, v, k=3: [v.token_to_id(near) for near in nearest(word, w, v, k)]
            ),
            "these are the least similar words. Start from the largest cosine.": farthest,
            "k says how many words to return.": lambda word, w, v, k=3: nearest(word, w, v, 3),
            "the most similar word comes first.": lambda *args: nearest(*args)[::-1],
        },
    ),
    "1.4": Exercise(
        tie,
        passed="one parameter, also after deepcopy",
        hint="there are still two parameters. Assign `.weight` itself, not its numbers.",
        inputs=lambda: [(100, 8), (37, 4)],
        measure=after_tying,
        mistakes={
            "the numbers are shared, but there are two parameters, which deepcopy separates. "
            "Assign `.weight` itself, not a copy and not `.data`.": tie_data,
            "the model is unchanged. Assign to `model['out'].weight`.": lambda model: None,
        },
    ),
    "1.5": Exercise(
        segment,
        passed="bootshaus → boot·s·haus, and four words more",
        hint="start with the letters; apply each merge to the whole word, in the order learned.",
        inputs=segment_inputs,
        mistakes={
            "only the first merge is applied. Loop over all of them.": (
                lambda word, merges: segment(word, merges[:1])
            ),
            "a merge joins its pair wherever it occurs, not only once.": partial(
                segment, once=True
            ),
            "apply the merges in the order in which they were learned.": (
                lambda word, merges: segment(word, merges[::-1])
            ),
            "BPE does not look for the longest subword. Apply the merges in order.": longest_first,
            "return the subwords as a list, not joined to one text.": (
                lambda word, merges: "·".join(segment(word, merges)),
                lambda word, merges: " ".join(segment(word, merges)),
            ),
            "these are the letters. No merge is applied yet.": lambda word, merges: list(word),
        },
    ),
}
