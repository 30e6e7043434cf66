"""Exercises of notebook 06: maps, encoder runs, a score, a planted bug, one stack for both."""

from functools import partial

import torch

from transformer_lib.config import ModelConfig
from transformer_lib.decoding import greedy_sentence
from transformer_lib.lessons.exercises.checker import Exercise, Hint
from transformer_lib.masks import causal_mask, padding_mask, teacher_forcing
from transformer_lib.model import Transformer


def small_model(seed=0, n_layers=2, n_heads=2, vocab_size=11, **changes):
    """Build a small model with clearly different outputs, in evaluation mode."""
    sizes = {"d_model": 8 * n_heads, "d_ff": 12, "dropout": 0.0, "max_len": 16} | changes
    torch.manual_seed(seed)
    config = ModelConfig.tiny(vocab_size, n_heads=n_heads, n_layers=n_layers, **sizes)
    return Transformer(config).eval()


def number_of_maps(n_layers, n_heads):
    ids = torch.tensor([[5, 6, 7]])
    maps = small_model(0, n_layers, n_heads, d_model=8 * n_heads).attention_maps(ids, ids)
    return sum(kind.size(0) * kind.size(2) for kind in maps)


def encoder_runs():
    """Count how often the encoder runs while the library writes 20 tokens and scores 5."""
    model, runs = small_model(max_len=32), []
    model.encoder.register_forward_hook(lambda *_: runs.append(1))
    src = torch.tensor([[5, 6, 7]])
    greedy_sentence(model, src, 20)
    writing = len(runs)
    memory = model.encode(src)
    for token in range(5):
        model.decode(torch.tensor([[2, token]]), memory, src)
    return writing, len(runs) - writing


def score(model, src, tgt, shift=1, mask=True):
    """The score, with options that plant mistakes."""
    tgt_in, tgt_out = teacher_forcing(tgt)
    log_probs = model(src, tgt_in).log_softmax(-1)
    found = log_probs.gather(-1, (tgt_out if shift else tgt_in)[..., None])[..., 0]
    return (found * (tgt_out != model.config.pad_id) if mask else found).sum(dim=1)


def number_of_tokens(tgt):
    return (tgt[:, 1:] != 0).sum(dim=1)


def score_logits(model, src, tgt):
    tgt_in, tgt_out = teacher_forcing(tgt)
    found = model(src, tgt_in).gather(-1, tgt_out[..., None])[..., 0]
    return (found * (tgt_out != 0)).sum(dim=1)


def batches():
    """Two batches in which S, T and B differ, and both sides hold padding."""
    first = [[5, 6, 7, 3], [8, 3, 0, 0]], [[2, 5, 6, 7, 8, 3], [2, 9, 3, 0, 0, 0]]
    second = [[5, 6, 3], [8, 3, 0], [9, 10, 3]], [[2, 5, 3, 0], [2, 3, 0, 0], [2, 7, 8, 3]]
    models = small_model(1), small_model(2, 3, 4, 12)
    return [
        (m, *map(torch.tensor, batch)) for m, batch in zip(models, (first, second), strict=True)
    ]


def memory_of(answer, config):
    """Return the memory at the real tokens of sources that are padded at either end."""
    bases = answer.__mro__ if isinstance(answer, type) else ()
    if "Transformer" not in (base.__name__ for base in bases):  # the notebook defines its own
        raise Hint("pass the class itself; it must inherit from `Transformer`.")
    torch.manual_seed(0)
    src = torch.tensor([[5, 6, 7, 8, 3, 0], [0, 8, 9, 7, 6, 3]])
    memory = answer(config).eval().encode(src)
    return memory if memory is None else memory[src != config.pad_id]


def with_encoder_mask(mask_of):
    """Return a Transformer whose encoder has another mask."""

    class Changed(Transformer):
        def encode(self, src, maps=None):
            mask = mask_of(padding_mask(src, self.config.pad_id), causal_mask(src.size(1)))
            return self.encoder(self.embed(src, self.src_embedding), mask, maps)

    return Changed


def one_stack(model, src, tgt_in, opened=causal_mask, hide=padding_mask, **changes):
    """Run both sentences through one stack; options and changes plant mistakes."""
    ids, n_src = torch.cat([src, tgt_in], dim=1), src.size(1)
    allowed = opened(ids.size(1))
    allowed[:, : changes.get("columns", n_src)] = True
    x = changes.get("positions", model.positions)(model.tgt_embedding(ids))
    hidden = model.encoder(x, allowed & hide(ids))
    hidden = hidden if changes.get("whole") else hidden[:, n_src:]
    return model.output_projection(hidden) if changes.get("project", True) else hidden


def two_starts(model, src, tgt_in):
    """Count the positions of the target from 0 again."""
    start = src.size(1)

    def restart(x):
        return torch.cat([model.positions(x[:, :start]), model.positions(x[:, start:])], dim=1)

    return one_stack(model, src, tgt_in, positions=restart)


def source_sees_target(model, src, tgt_in):
    """Let the rows of the source see everything."""

    def opened(n):
        mask = causal_mask(n)
        mask[: src.size(1)] = True
        return mask

    return one_stack(model, src, tgt_in, opened)


def at_real_tokens(answer, model, src, tgt):
    """Return the outputs at target tokens that are not padding."""
    with torch.no_grad():
        found = answer(model, src, tgt[:, :-1])
    as_expected = isinstance(found, torch.Tensor) and found.shape[:2] == tgt[:, :-1].shape
    return found[tgt[:, :-1] != model.config.pad_id] if as_expected else found


EXERCISES = {
    "6.1": Exercise(
        number_of_maps,
        passed="144 in the base model",
        hint="an encoder layer has one attention, a decoder layer two, and each has h heads.",
        inputs=lambda: [(2, 4), (6, 8), (1, 3), (3, 1)],
        mistakes={
            "a decoder layer has two attentions: to itself and to the memory.": lambda N, h: (
                2 * N * h
            ),
            "each head has a map of its own.": lambda N, h: 3 * N,
            "there are N encoder layers and N decoder layers.": (
                lambda N, h: N * h,
                lambda N, h: 3 * h,
            ),
            "this fits the base model alone. Use both arguments.": lambda N, h: 144,
        },
    ),
    "6.2": Exercise(
        encoder_runs,
        passed="once per source: this is why encode and decode are two methods",
        hint="look at the arguments of `encode`: none of them depends on the target.",
        mistakes={
            "the memory does not change while words are written: the encoder need not run again.": (
                lambda: (20, 5),
                lambda: (20, 1),
                lambda: (21, 5),
                lambda: (21, 1),
            ),
            "all five translations share one source, and so one memory.": lambda: (1, 5),
            "the decoder needs a memory, so the encoder must run.": lambda: (0, 0),
        },
    ),
    "6.3": Exercise(
        score,
        passed="one log-probability for each sentence, and padding does not count",
        hint="the logits at position t are about token t + 1. Sum their log-probabilities.",
        inputs=batches,
        tolerance=1e-3,
        slack=1e-3,
        mistakes={
            "padding is counted. Leave out the positions where the target is <pad>.": (
                partial(score, mask=False)
            ),
            "this is one number for the whole batch. Sum over the tokens only, dim=1.": (
                lambda *args: score(*args).sum(),
                lambda *args: score(*args, mask=False).sum(),
                lambda *args: score(*args).mean(),
            ),
            "the logits at position t are about token t + 1: gather `tgt_out`.": (
                partial(score, shift=0),
                partial(score, shift=0, mask=False),
            ),
            "this is the mean per token. Sum the log-probabilities.": (
                lambda model, src, tgt: score(model, src, tgt) / number_of_tokens(tgt),
                lambda model, src, tgt: score(model, src, tgt) / (tgt.size(1) - 1),
                lambda model, src, tgt: score(model, src, tgt, mask=False) / (tgt.size(1) - 1),
            ),
            "this is the loss. A log-probability has the other sign.": lambda *args: -score(*args),
            "these are logits. Take `log_softmax(-1)` first.": score_logits,
            "this is a probability. Keep its logarithm.": lambda *args: score(*args).exp(),
        },
    ),
    "6.4": Exercise(
        with_encoder_mask(torch.logical_and),
        passed="the probe encoder_is_permutation_equivariant_without_positions catches it",
        hint="the encoder's mask is padding_mask(src) & causal_mask(src.size(1)).",
        inputs=lambda: [
            (ModelConfig.tiny(v, d_model=16, d_ff=16, n_heads=2, n_layers=n, max_len=32),)
            for v, n in ((20, 2), (30, 1))
        ],
        measure=memory_of,
        tolerance=1e-3,
        mistakes={
            "the encoder still sees the whole source. Change its mask.": Transformer,
            "padding is visible now. Combine both masks with `&`.": (
                with_encoder_mask(lambda padding, causal: causal)
            ),
            "this allows what either mask allows. Combine them with `&`.": (
                with_encoder_mask(torch.logical_or)
            ),
            "a token sees only those *after* it. Use `causal_mask` as it is.": (
                with_encoder_mask(lambda padding, causal: padding & causal.T)
            ),
        },
    ),
    "6.5": Exercise(
        one_stack,
        passed="one stack reads both sentences, as a decoder-only model does",
        hint="join the ids, embed, add positions, build one mask, run `model.encoder`, project.",
        inputs=batches,
        measure=at_real_tokens,
        tolerance=1e-3,
        slack=1e-4,
        mistakes={
            "this is the encoder-decoder. Join both sentences and use `model.encoder` alone.": (
                lambda model, src, tgt_in: model(src, tgt_in)
            ),
            "source tokens see only earlier ones. Open the source's columns in every row.": (
                partial(one_stack, columns=0)
            ),
            "target tokens see their future: the mask of the target's columns is causal.": (
                partial(one_stack, opened=lambda n: torch.ones(n, n).bool())
            ),
            "the source sees the target. Open only the columns of the source.": source_sees_target,
            "padding of the source is visible. Combine with `padding_mask(ids)`.": (
                partial(one_stack, hide=lambda ids: torch.tensor(True))
            ),
            "the positions are missing: `model.positions` adds them.": (
                partial(one_stack, positions=lambda x: x)
            ),
            "the positions start again at the target. Add them to the joined sequence.": two_starts,
            "this has S + T positions. Keep the last T, those of the target.": (
                partial(one_stack, whole=True)
            ),
            "these are hidden vectors. `model.output_projection` turns them into logits.": (
                partial(one_stack, project=False)
            ),
            "these are probabilities. Return the logits.": (
                lambda *args: one_stack(*args).softmax(-1),
                lambda *args: one_stack(*args).log_softmax(-1),
            ),
        },
    ),
}
