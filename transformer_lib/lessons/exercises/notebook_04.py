"""Exercises of notebook 04: weights, costs, a window, chunks, distances, the whole layer."""

import math
from functools import partial

import torch

from transformer_lib.attention import MultiHeadAttention, attention
from transformer_lib.lessons.exercises.checker import Exercise, Hint, draw
from transformer_lib.masks import causal_mask


def five_weights(query, keys):
    return attention(query, keys, keys)[1][0]


def equal_weights(**changes):
    return Exercise(
        lambda: five_weights(torch.zeros(1, 4), draw(5, 4)),
        hint="equal scores give equal weights, and the five weights add up to 1.",
        mistakes={
            "weights add up to 1, after softmax.": (lambda: [1] * 5, lambda: [5] * 5),
            "the scores are equal, so no key can win.": tuple(
                partial(torch.eye(5).__getitem__, i) for i in range(5)
            ),
            "e⁰ is 1, not 0: softmax never gives zeros only.": lambda: [0] * 5,
            "write all five weights, as a list.": (lambda: 0.2, lambda: 1),
        },
        **changes,
    )


def shift_matters():
    q, k = draw(1, 4), draw(5, 4, seed=1)
    return not torch.allclose(five_weights(q, k + 3), five_weights(q, k))


def count_parameters(d_model, n_heads):
    return sum(p.numel() for p in MultiHeadAttention(d_model, n_heads).parameters())


def count_weights(batch, n_heads, length):
    maps, x = [], torch.zeros(batch, length, 2 * n_heads)
    MultiHeadAttention(2 * n_heads, n_heads)(x, x, maps=maps)
    return maps[0].numel()


def window_mask(length, radius):
    return torch.ones(length, length).tril(radius).triu(-radius).bool()


def in_chunks(layer, x, sizes, mask_of=causal_mask, before=True):
    outputs, end = [], 0
    for chunk in x.split(sizes, dim=1):
        end += chunk.size(1)
        source = x[:, :end] if before else chunk
        outputs.append(layer(chunk, source, mask_of(chunk.size(1), source.size(1))))
    return torch.cat(outputs, dim=1)


def chunks_read(answer, layer, x, sizes):
    """Return the output, and the number of queries in every call of the layer."""
    calls = []

    def record(_, args, options):
        calls.append((args[0] if args else options["x"]).size(1))

    layer.register_forward_pre_hook(record, with_kwargs=True)
    with torch.no_grad():
        output = answer(layer, x, sizes)
    if isinstance(output, list | tuple) or getattr(output, "shape", x.shape) != x.shape:
        raise Hint("return one tensor of the shape of x: `torch.cat(outputs, dim=1)`.")
    return output, calls


def chunk_inputs():
    cases = ((9, 4, [9]), (9, 2, [1] * 9), (9, 4, [5, 1, 3]), (4, 1, [2, 2]))
    return [(layer_for(8, h, seed=h), draw(2, n, 8), sizes) for n, h, sizes in cases]


def layer_for(d_model, n_heads, seed):
    layer = MultiHeadAttention(d_model, n_heads)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = draw(*parameter.shape, seed=seed + i) / 2
    return layer


def by_distance(at, known, values, radius, root=1, squares=1.0):
    """Prediction from squared distances, with factors that plant mistakes."""
    distance = squares * known.pow(2).sum(dim=1) - 2 * at @ known.T
    return (-distance / (2 * radius**2) / root).softmax(dim=1) @ values


def distance_inputs():
    cases = ((3, 40, 1, 0.4), (5, 20, 2, 0.8), (2, 30, 3, 1.5))
    return [(draw(t, d), draw(s, d, seed=1), draw(s, 2, seed=2), r) for t, s, d, r in cases]


def heads(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def multi_head(x, W_Q, W_K, W_V, W_O, n_heads, split=heads, width=None):
    """The layer, with another split into heads or another width to scale by."""
    q, k, v = (split(x @ W, n_heads) for W in (W_Q, W_K, W_V))
    q = q * math.sqrt(q.size(-1) / (width or q.size(-1)))
    return attention(q, k, v)[0].transpose(1, 2).flatten(2) @ W_O


def reshaped(x, n_heads):
    return x.reshape(len(x), n_heads, x.size(1), -1)


def merged_wrongly(x, W_Q, W_K, W_V, W_O, n_heads):
    q, k, v = (heads(x @ W, n_heads) for W in (W_Q, W_K, W_V))
    return attention(q, k, v)[0].reshape(x.shape) @ W_O


def along(x, W_Q, W_K, W_V, W_O, n_heads, dim):
    """The layer, with a softmax over the wrong axis."""
    q, k, v = (heads(x @ W, n_heads) for W in (W_Q, W_K, W_V))
    weights = (q @ k.mT / math.sqrt(q.size(-1))).softmax(dim)
    return (weights @ v).transpose(1, 2).flatten(2) @ W_O


def reshaped_twice(x, W_Q, W_K, W_V, W_O, n_heads):
    q, k, v = (reshaped(x @ W, n_heads) for W in (W_Q, W_K, W_V))
    return attention(q, k, v)[0].reshape(x.shape) @ W_O


def not_transposed(x, W_Q, W_K, W_V, W_O, n_heads):
    q, k, v = ((x @ W).unflatten(-1, (n_heads, -1)) for W in (W_Q, W_K, W_V))
    return attention(q, k, v)[0].flatten(2) @ W_O


def multi_head_inputs():
    cases = ((2, 5, 8, 2), (3, 4, 12, 4), (1, 7, 6, 1))
    return [
        (draw(b, t, d), *(draw(d, d, seed=i) / d**0.5 for i in range(1, 5)), h)
        for b, t, d, h in cases
    ]


EXERCISES = {
    "4.1a": equal_weights(passed="all scores are 0: equal scores, equal weights"),
    "4.1b": equal_weights(passed="equal keys get equal weights, whatever the query is"),
    "4.1c": Exercise(
        shift_matters,
        passed="softmax sees differences only; so the bias of the key projection does nothing",
        hint="the same number, q · c, is added to all five scores. Answer True or False.",
    ),
    "4.2a": Exercise(
        count_parameters,
        passed="the number of heads does not change the number of parameters",
        hint="four linear layers, each with d_model inputs, d_model outputs and a bias.",
        inputs=lambda: [(32, 1), (32, 16), (48, 4), (512, 8)],
        mistakes={
            "each of the four layers has a bias.": lambda d, h: 4 * d * d,
            "there are four layers: queries, keys, values and the output.": (
                lambda d, h: 3 * (d * d + d),
                lambda d, h: d * d + d,
            ),
            "heads split the columns of one matrix; they add none.": (
                lambda d, h: 4 * h * (d * d + d),
                lambda d, h: 4 * h * d * d,
                lambda d, h: 4 * d * d // h,
                lambda d, h: 4 * (d * d // h + d // h),
            ),
        },
    ),
    "4.2b": Exercise(
        count_weights,
        passed="16 heads write 16 maps where one head writes one",
        hint="one map of queries × keys for every head of every sentence.",
        inputs=lambda: [(2, 1, 7), (2, 16, 7), (3, 4, 5)],
        mistakes={
            "each head has a map of its own.": lambda b, h, n: b * n * n,
            "each sentence of the batch has maps of its own.": lambda b, h, n: h * n * n,
            "a map has a weight for every pair of query and key.": lambda b, h, n: b * h * n,
            "the causal half is counted; in self-attention without a mask all pairs have one.": (
                lambda b, h, n: b * h * n * (n + 1) // 2
            ),
        },
    ),
    "4.3": Exercise(
        window_mask,
        passed="each query sees itself and its neighbors on both sides",
        hint="True where the distance between query and key, without its sign, is at most radius.",
        inputs=lambda: [(6, 2), (5, 1), (4, 0), (9, 3)],
        mistakes={
            "radius is an argument, and 2 only one of its values.": lambda n, r: window_mask(n, 2),
            "neighbors are on both sides. Take the distance without its sign.": (
                lambda n, r: window_mask(n, r).tril(),
                lambda n, r: window_mask(n, r).triu(),
                lambda n, r: torch.ones(n, n).tril(r).bool(),
                lambda n, r: torch.ones(n, n).triu(-r).bool(),
            ),
            "a key at exactly the distance `radius` still counts.": lambda n, r: window_mask(
                n, r - 1
            ),
            "the window has 2 · radius + 1 keys: `radius` on each side.": (
                lambda n, r: window_mask(n, r // 2),
                lambda n, r: window_mask(n, 2 * r),
            ),
            "a position is its own neighbor, too: its distance is 0.": (
                lambda n, r: window_mask(n, r) & ~window_mask(n, 0)
            ),
            "True and False are the wrong way round: True means *may attend*.": (
                lambda n, r: ~window_mask(n, r)
            ),
        },
    ),
    "4.4": Exercise(
        in_chunks,
        passed="one chunk, single words and uneven chunks give what the whole gives",
        hint="call the layer once for each chunk: its words are the queries, and `source` is x "
        "up to the end of the chunk.",
        inputs=chunk_inputs,
        measure=chunks_read,
        slack=1e-4,
        mistakes={
            "the whole sequence went in at once. Call the layer once for each chunk.": (
                lambda layer, x, sizes: layer(x, x, causal_mask(x.size(1)))
            ),
            "the mask is square, but there are more keys than queries: `causal_mask(T, S)`.": (
                partial(in_chunks, mask_of=lambda queries, keys: causal_mask(queries))
            ),
            "the mask is aligned with the first key, but the last query must see all keys: "
            "`causal_mask(T, S)`.": partial(
                in_chunks, mask_of=lambda queries, keys: torch.ones(queries, keys).tril().bool()
            ),
            "within a chunk, words see their future. Pass a mask.": (
                partial(in_chunks, mask_of=lambda queries, keys: None)
            ),
            "words see their future: `source` ends with the chunk, not with the text.": (
                lambda layer, x, sizes: torch.cat(
                    [layer(chunk, x) for chunk in x.split(sizes, dim=1)], dim=1
                )
            ),
            "a chunk cannot see the chunks before it. Pass x up to its end as the source.": (
                partial(in_chunks, before=False)
            ),
        },
    ),
    "4.5": Exercise(
        by_distance,
        passed="a dot product can measure distance: attention smooths data as a kernel does",
        hint="check the factors: √d_k of the new width, r², and the half in -|xⱼ|²/2.",
        inputs=distance_inputs,
        mistakes={
            "`attention` divides by the root of the new width. Multiply the queries by it.": (
                lambda at, *rest: by_distance(at, *rest, root=math.sqrt(at.size(1) + 1))
            ),
            "the root belongs to the new width, d + 1.": lambda at, *rest: by_distance(
                at, *rest, root=math.sqrt((at.size(1) + 1) / at.size(1))
            ),
            "divide by r², not by r.": (lambda a, k, v, r: by_distance(a, k, v, math.sqrt(r))),
            "the radius has no effect yet.": lambda a, k, v, r: by_distance(a, k, v, 1.0),
            "the term -|xⱼ|²/2 is missing: give every key one more coordinate.": (
                partial(by_distance, squares=0.0)
            ),
            "the new coordinate of a key is -|xⱼ|²/2, not -|xⱼ|².": partial(
                by_distance, squares=2.0
            ),
            "the new coordinate of a key is negative: -|xⱼ|²/2.": partial(
                by_distance, squares=-1.0
            ),
            "`attention` returns output and weights. Return the output alone.": (
                lambda at, known, values, r: (
                    by_distance(at, known, values, r),
                    by_distance(at, known, torch.eye(len(known)), r),
                )
            ),
        },
    ),
    "4.6": Exercise(
        multi_head,
        passed="this is multi-head attention, for any number of heads",
        hint="project, split into heads, attend with √d_k, merge the heads, apply W_O.",
        inputs=multi_head_inputs,
        forbidden=dict.fromkeys(
            ("MultiHeadAttention", "MultiheadAttention", "multi_head_attention_forward"),
            "write its steps",
        ),
        slack=1e-5,
        mistakes={
            "scale by the root of a head's width d_k, not of d_model.": (
                lambda x, *rest: multi_head(x, *rest, width=x.size(-1))
            ),
            "divide by the root of d_k, not by d_k itself.": (
                lambda x, *rest: multi_head(x, *rest, width=(x.size(-1) // rest[-1]) ** 2)
            ),
            "the softmax runs over the keys, the last axis: each row adds up to 1.": (
                partial(along, dim=-2),
                partial(along, dim=1),
            ),
            "move the heads in front of the positions: `transpose(1, 2)`.": not_transposed,
            "the scores are not divided by √d_k.": lambda x, *rest: multi_head(x, *rest, width=1),
            "merge the heads and multiply by W_O at the end.": lambda x, q, k, v, o, h: multi_head(
                x, q, k, v, torch.eye(x.size(-1)), h
            ),
            "there is only one head. Split the columns into n_heads parts.": (
                lambda x, q, k, v, o, h: multi_head(x, q, k, v, o, 1)
            ),
            "this mixes positions and heads. Split the last dimension, then transpose.": (
                partial(multi_head, split=reshaped),
                reshaped_twice,
            ),
            "transpose the heads back before you merge them.": merged_wrongly,
            "multiply by the matrices as they are: x @ W, not x @ W.T.": (
                lambda x, q, k, v, o, h: multi_head(x, q.T, k.T, v.T, o.T, h)
            ),
        },
    ),
}
