"""Behaviour checks for any encoder-decoder, ours or the reader's own: each says in words what
failed and what usually causes it.

A model needs `encode(src) -> memory` and `decode(tgt, memory, src) -> hidden or logits`, batch
first. Where it has `attention_maps` or `start_cache` as ours has, those are probed too. Every
probe leaves the model as it found it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transformer_lib.decoding import beam_search, greedy_decode
from transformer_lib.lessons.probes.parts import (
    TOLERANCE,
    causal_maps,
    changed,
    draw_ids,
    first_gap,
    gap_between,
    half_precision,
    only_padding,
    pad_id,
    padded,
    padded_maps,
    quiet,
)


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found. True in a condition when it passed."""

    name: str
    problems: tuple[str, ...]
    cause: str  # what usually causes a failure

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        if self.passed:
            return f"✓ {self.name}"
        return f"✗ {self.name}: {'; '.join(self.problems)}. Usual cause: {self.cause}"


def is_causal(
    model: nn.Module, src: Tensor | None = None, tgt: Tensor | None = None
) -> ProbeResult:
    """Changing a target token must not move any output before it, in training or evaluation.

    Args:
        src, tgt: source (B, S) and target ids (B, T); drawn from the model's config when left out.

    Built for notebook 03's leak; catches a mask that is left out in one mode, has the wrong
    polarity, or is dropped on the way to the attention maps.
    """
    src, tgt = draw_ids(model, src, tgt)
    problems = []
    for mode in ("training", "evaluation"):
        with quiet(model, training=mode == "training"):
            memory = model.encode(src)
            before = model.decode(tgt, memory, src)
            for t in range(1, tgt.size(1)):
                after = model.decode(changed(model, tgt, t), memory, src)
                if (gap := gap_between(before[:, :t], after[:, :t])) > TOLERANCE:
                    problems.append(
                        f"in {mode} mode, changing target {t} moves earlier outputs by {gap:.2g}"
                    )
                    break
            if hasattr(model, "attention_maps"):
                problems += causal_maps(model, src, tgt, mode)
    return ProbeResult(
        "is_causal",
        tuple(problems),
        "the causal mask is missing in that mode, off by one, inverted (True = may attend here, "
        "True = ignore in nn.MultiheadAttention), or not passed on to every layer",
    )


def ignores_padding(
    model: nn.Module, src: Tensor | None = None, tgt: Tensor | None = None
) -> ProbeResult:
    """Padding behind a sentence must not change anything, and padding alone must be harmless.

    Compares each result with and without three more columns of padding, in training and
    evaluation mode; then a source of padding only; then both in half precision.

    Catches maps from a second loop that forgets the mask, masks of the wrong polarity, and scores
    filled with a number that 16 bits cannot hold.
    """
    src, tgt = draw_ids(model, src, tgt)
    pad, n, t = pad_id(model), src.size(1), tgt.size(1)
    more_src, more_tgt = padded(src, pad), padded(tgt, pad)
    problems = []
    for mode in ("training", "evaluation"):
        with quiet(model, training=mode == "training"):
            memory, longer = model.encode(src), model.encode(more_src)
            if (gap := gap_between(memory, longer[:, :n])) > TOLERANCE:
                problems.append(f"in {mode} mode, padding moves the encoder's output by {gap:.2g}")
            short = model.decode(tgt, memory, src)
            long = model.decode(more_tgt, longer, more_src)[:, :t]
            if (gap := gap_between(short, long)) > TOLERANCE:
                problems.append(f"in {mode} mode, padding moves the decoder's output by {gap:.2g}")
    with quiet(model, training=False):
        if hasattr(model, "attention_maps"):
            problems += padded_maps(model, (src, tgt), (more_src, more_tgt))
        problems += only_padding(model, torch.full_like(src, pad), tgt)
        problems += half_precision(model, more_src, tgt)
    return ProbeResult(
        "ignores_padding",
        tuple(problems),
        "the padding mask is missing, inverted, or dropped between layers; or masked scores are "
        "filled with -inf (NaN when nothing is left) or -1e9 (too large for half precision)",
    )


def stepwise_equals_teacher_forced(
    model: nn.Module,
    src: Tensor | None = None,
    tgt: Tensor | None = None,
    step: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] | None = None,
) -> ProbeResult:
    """Output t of one pass over all targets must equal the last output of a pass over the first t.

    Args:
        step: how the model is fed one step: (model, target ids so far, memory, src) -> the newest
            position's output (B, 1, …). Left out: `decode` on all ids so far.

    Catches a step function that puts every token at position 0, and a whole pass that sees the
    future.
    """
    src, tgt = draw_ids(model, src, tgt)
    step = step or (lambda model, ids, memory, src: model.decode(ids, memory, src)[:, -1:])
    with quiet(model, training=False):
        memory = model.encode(src)
        whole = model.decode(tgt, memory, src)
        steps = [step(model, tgt[:, : t + 1], memory, src) for t in range(tgt.size(1))]
    return ProbeResult(
        "stepwise_equals_teacher_forced",
        tuple(first_gap(whole, steps)),
        "every step is given position 0, or the whole pass sees the future",
    )


def cached_equals_uncached(
    model: nn.Module, src: Tensor | None = None, tgt: Tensor | None = None
) -> ProbeResult:
    """Decoding with a key-value cache must equal decoding without, in steps of one and of two.

    Catches steps that all stand at position 0, and `is_causal=True` with one query.

    Raises:
        ValueError: the model has no `start_cache(memory, max_len)`.
    """
    if not hasattr(model, "start_cache"):
        raise ValueError("cached_equals_uncached needs a model with start_cache(memory, max_len)")
    src, tgt = draw_ids(model, src, tgt)
    problems = []
    with quiet(model, training=False):
        memory = model.encode(src)
        whole = model.decode(tgt, memory, src)
        for stride in (1, 2):
            cache = model.start_cache(memory, tgt.size(1))
            steps = [model.decode(ids, memory, src, cache) for ids in tgt.split(stride, dim=1)]
            problems += [f"fed {stride} at a time, {p}" for p in first_gap(whole, steps)]
    return ProbeResult(
        "cached_equals_uncached",
        tuple(problems),
        "positions start at 0 at every step, is_causal=True with one query (it then sees the "
        "first key only), or a cache that is overwritten or read too far",
    )


def beam_one_equals_greedy(model: nn.Module, src: Tensor | None = None) -> ProbeResult:
    """Beam search with one beam must give the ids of greedy decoding.

    For models with the interface of our `Transformer`.
    """
    src, _ = draw_ids(model, src, None)
    with quiet(model, training=False):
        greedy = [h.ids for h in greedy_decode(model, src, extra=8)]
        beam = [beams[0].ids for beams in beam_search(model, src, beam_size=1, extra=8)]
    problems = [
        f"sentence {i}: greedy {a}, beam {b}"
        for i, (a, b) in enumerate(zip(greedy, beam, strict=True))
        if a != b
    ]
    return ProbeResult(
        "beam_one_equals_greedy",
        tuple(problems),
        "the cache is not reordered with the beams, or a length rule differs",
    )


def encoder_is_permutation_equivariant_without_positions(
    model: nn.Module, src: Tensor | None = None, positions: nn.Module | None = None
) -> ProbeResult:
    """Without positions, a permuted source must give the permuted memory, and with them not.

    Args:
        positions: the module that adds the positions; found by its class name when left out. It
            is bypassed during the probe.

    Raises:
        ValueError: no such module is found.
    """
    if positions is None:
        named = [m for m in model.modules() if "position" in type(m).__name__.lower()]
        if not named:
            raise ValueError("no module with 'position' in its class name: pass positions=…")
        positions = named[0]
    src, _ = draw_ids(model, src, None)
    order = torch.arange(src.size(1) - 1, -1, -1, device=src.device)
    with quiet(model, training=False):
        with_positions = gap_between(model.encode(src)[:, order], model.encode(src[:, order]))
        hook = positions.register_forward_hook(lambda module, inputs, output: inputs[0])
        try:
            without = gap_between(model.encode(src)[:, order], model.encode(src[:, order]))
        finally:
            hook.remove()
    problems = []
    if without > TOLERANCE:
        problems.append(f"without positions, order still moves the memory by {without:.2g}")
    if with_positions <= TOLERANCE:
        problems.append("with positions, order makes no difference: they are not added")
    return ProbeResult(
        "encoder_is_permutation_equivariant_without_positions",
        tuple(problems),
        "a causal mask in the encoder, positions added in a second place, or not at all",
    )


ALL = (
    is_causal,
    ignores_padding,
    stepwise_equals_teacher_forced,
    cached_equals_uncached,
    beam_one_equals_greedy,
    encoder_is_permutation_equivariant_without_positions,
)


def run_all(model: nn.Module) -> list[ProbeResult]:
    """Every probe on a model with the interface of our `Transformer`."""
    return [probe(model) for probe in ALL]
