"""Exercises of notebook 03: counting a mask, windows, packed rows, leaks, the masks of a batch."""

from functools import partial

import torch
from torch import nn

from transformer_lib.batching import pad
from transformer_lib.lessons.exercises.checker import Exercise
from transformer_lib.lessons.running import vocabularies
from transformer_lib.masks import causal_mask, padding_mask, target_mask, teacher_forcing

INVERTED = "True and False are the wrong way round: True means *may attend*."


def true_cells(n, T):
    """Count the cells of the library's mask."""
    return target_mask(torch.tensor([[1] * n + [0] * (T - n)])).sum().item()


def window_mask(n, width):
    return causal_mask(n).triu(1 - width)


def packed_mask(numbers, causal=True):
    same = numbers[:, :, None] == numbers[:, None, :]
    return (same & causal_mask(numbers.size(1)) if causal else same)[:, None]


class Suspect(nn.Module):
    """A small translator whose decoder mask may differ between the modes; both go by `tril`."""

    def __init__(self, train, evaluation):
        super().__init__()
        self.diagonals = {True: train, False: evaluation}
        self.embedding = nn.Embedding(len(vocabularies()[0]) + len(vocabularies()[1]), 8)

    def forward(self, src, tgt):
        mask = torch.ones(tgt.size(1), tgt.size(1)).tril(self.diagonals[self.training])
        mixed = mask / mask.sum(dim=1, keepdim=True) @ self.embedding(tgt)
        return (mixed + self.embedding(src).mean(dim=1, keepdim=True)) @ self.embedding.weight.T


def suspects():
    """The right mask, one column too many, and leaks in one mode only; found in either mode."""
    cases = []
    for n, modes in ((5, (0, 0)), (7, (1, 1)), (5, (0, 9)), (6, (9, 0)), (4, (0, 1))):
        for mode in (True, False):
            src, tgt = torch.arange(4, 4 + n)[None], torch.arange(5, 5 + n)[None]
            cases.append((Suspect(*modes).train(mode), src, tgt))
    return cases


def leaks(model, src, tgt, modes=("train", "eval"), restore=True):
    before, found = model.training, []
    changed = tgt.clone()
    changed[:, -1] = tgt[:, -1] - 1
    for mode in modes:
        model.train(mode == "train" if mode else before)
        difference = (model(src, tgt) - model(src, changed))[:, :-1].abs().max()
        if difference > 1e-6:
            found.append(mode or ("train" if before else "eval"))
    if restore:
        model.train(before)
    return found


def leaks_and_mode(answer, model, src, tgt):
    """Return the modes in any order and container, and whether the model's mode is restored."""
    before = model.training
    with torch.no_grad():
        found = answer(model, src, tgt)
    if found is None:
        return None
    if isinstance(found, list | tuple | set) and all(isinstance(mode, str) for mode in found):
        found = sorted(found)
    return found, model.training == before


def batch_masks(sources, targets, sees=teacher_forcing, **changes):
    """Pad, shift and mask; the changes replace parts of the right result by wrong ones."""
    src, (tgt_in, tgt_out) = pad(sources), sees(pad(targets))
    parts = {
        "src": src,
        "tgt_in": tgt_in,
        "tgt_out": tgt_out,
        "src_mask": padding_mask(src),
        "tgt_mask": target_mask(tgt_in),
    }
    return tuple((parts | {k: change(parts) for k, change in changes.items()}).values())


def batch_inputs():
    def rows(*lengths):
        return [[2, *range(5, 5 + n), 3] for n in lengths]

    return [(rows(3, 1), rows(2, 4)), (rows(2, 5, 4), rows(1, 6, 3)), (rows(1), rows(2))]


EXERCISES = {
    "3.1": Exercise(
        true_cells,
        passed="12 cells for n = 3 and T = 5, and right for all sizes up to 8",
        hint="count row by row: row i has i + 1 cells that are not in the future; n are real.",
        inputs=lambda: [(n, T) for T in (5, *range(1, 9)) for n in range(1, T + 1)],
        mistakes={
            "padded rows are not empty: they still see the n real tokens.": (
                lambda n, T: n * (n + 1) // 2
            ),
            "padded columns are False, in every row.": lambda n, T: T * (T + 1) // 2,
            "the future is hidden: row i has i + 1 cells at most.": (
                lambda n, T: n * T,
                lambda n, T: n * n,
            ),
            "row i sees itself, too: it has i + 1 cells.": lambda n, T: (
                n * (n - 1) // 2 + (T - n) * n
            ),
        },
    ),
    "3.2a": Exercise(
        window_mask,
        passed="one key, two keys, then always the last `width` keys",
        hint="two conditions on the distance i - j: at least 0, and less than `width`.",
        inputs=lambda: [(8, 3), (5, 2), (6, 1), (4, 7)],
        mistakes={
            "width is an argument, and 3 only one of its values.": lambda n, width: window_mask(
                n, 3
            ),
            "the window is one too wide: the position itself counts.": (
                lambda n, width: window_mask(n, width + 1)
            ),
            "the future must stay hidden: i - j is at least 0.": (
                lambda n, width: window_mask(n, width) | window_mask(n, width).T,
                lambda n, width: torch.ones(n, n).triu(1 - width).bool(),
            ),
            "this is the whole past. Hide what is `width` or more positions back.": (
                lambda n, width: causal_mask(n)
            ),
            "this looks ahead: rows are queries, columns are keys.": (
                lambda n, width: window_mask(n, width).T
            ),
            "each position also sees itself.": lambda n, width: window_mask(n, width).tril(-1),
            INVERTED: lambda n, width: ~window_mask(n, width),
        },
    ),
    "3.2b": Exercise(
        lambda width, layers: layers * (width - 1) + 1,
        passed="a window of 3 and 3 layers: 7 positions, as the gradient says",
        hint="each layer lets you look width - 1 positions further back.",
        inputs=lambda: [(3, 1), (3, 2), (3, 3), (2, 4), (5, 2), (1, 3)],
        mistakes={
            "windows overlap in one position: the second layer adds width - 1 only.": (
                lambda width, layers: width * layers
            ),
            "the reach grows by the same amount with each layer; it does not multiply.": (
                lambda width, layers: width**layers
            ),
            "the position itself counts, too.": lambda width, layers: layers * (width - 1),
            "layers add up: what one layer saw, the next can see through it.": (
                lambda width, layers: width
            ),
        },
    ),
    "3.3": Exercise(
        packed_mask,
        passed="one triangle for each sentence",
        hint="compare all pairs of positions, hide the future, and add a dimension for heads.",
        inputs=lambda: [
            (torch.tensor([[1, 1, 1, 2, 2, 3], [1, 1, 1, 1, 1, 1]]),),
            (torch.tensor([[1, 2, 2, 2], [1, 1, 2, 2], [1, 1, 1, 2]]),),
            (torch.tensor([[1, 1]]),),
        ],
        mistakes={
            "the heads are missing: the shape is (B, 1, T, T).": lambda n: packed_mask(n)[:, 0],
            "each sentence's own future must stay hidden.": partial(packed_mask, causal=False),
            "sentences see each other. Compare their numbers.": (
                lambda n: causal_mask(n.size(1)).expand(len(n), 1, -1, -1)
            ),
            "rows are queries: the triangle is transposed.": lambda n: packed_mask(n).mT,
            INVERTED: lambda n: ~packed_mask(n),
            "every row of the batch has its own mask.": (
                lambda n: packed_mask(n)[:1].expand(len(n), -1, -1, -1)
            ),
        },
    ),
    "3.4": Exercise(
        leaks,
        passed="ten models judged, each left in the mode it was in",
        hint="change the last target word in both modes; no output before it may move.",
        inputs=suspects,
        measure=leaks_and_mode,
        mistakes={
            "the verdict is right, but the model must be left in the mode you found it in.": (
                partial(leaks, restore=False),
                lambda *args: leaks(args[0], *args[1:]) + (args[0].train() and []),
            ),
            "try both modes, not only the one the model is in.": partial(leaks, modes=(None,)),
            "a model may leak in evaluation, too.": partial(leaks, modes=("train",)),
            "a model may leak in training, too.": partial(leaks, modes=("eval",)),
            "every model is reported. The output *at* the changed word may move.": (
                lambda *args: ["train", "eval"]
            ),
            "no leak is found yet.": lambda *args: [],
            "return the names of the modes, not True or False.": lambda *args: bool(leaks(*args)),
        },
    ),
    "3.5": Exercise(
        batch_masks,
        passed="padded, shifted and masked: ready for the Transformer",
        hint="pad, split the targets by `teacher_forcing`, then mask the source and the input.",
        inputs=batch_inputs,
        mistakes={
            "the target mask belongs to the decoder's input, which is one shorter.": (
                lambda s, t: batch_masks(s, t, tgt_mask=lambda parts: target_mask(pad(t)))
            ),
            "the decoder must not see its future.": (
                lambda s, t: batch_masks(s, t, tgt_mask=lambda p: padding_mask(p["tgt_in"])),
            ),
            "the target mask must hide padding, too.": (
                lambda s, t: batch_masks(s, t, tgt_mask=lambda p: causal_mask(p["tgt_in"].size(1))),
                lambda s, t: batch_masks(
                    s,
                    t,
                    tgt_mask=lambda p: causal_mask(p["tgt_in"].size(1)).expand_as(p["tgt_mask"]),
                ),
            ),
            "a source mask of shape (B, S) meets the queries, not the keys. Use (B, 1, 1, S).": (
                lambda s, t: batch_masks(s, t, src_mask=lambda p: p["src"] != 0)
            ),
            "the encoder reads the whole source; only the decoder must not see its future.": (
                lambda s, t: batch_masks(s, t, src_mask=lambda p: target_mask(p["src"]))
            ),
            "input and targets are shifted by one: `<bos> a b` and `a b <eos>`.": (
                partial(batch_masks, sees=lambda ids: (ids, ids)),
                partial(batch_masks, sees=lambda ids: teacher_forcing(ids)[::-1]),
            ),
            INVERTED: lambda s, t: batch_masks(
                s, t, src_mask=lambda p: ~p["src_mask"], tgt_mask=lambda p: ~p["tgt_mask"]
            ),
        },
    ),
}
