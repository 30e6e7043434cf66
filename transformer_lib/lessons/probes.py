"""Behaviour checks for any encoder-decoder; each says what failed and what usually causes it.

A model needs `encode(src) -> memory` and `decode(tgt, memory, src) -> hidden or logits`, batch
first. If it has `attention_maps` or `start_cache` as ours has, those are probed too. Every probe
leaves the model as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transformer_lib.decoding import Hypothesis, beam_sentence, greedy_sentence
from transformer_lib.training import evaluation_mode

__all__ = [
    "ALL",
    "ProbeResult",
    "beam_one_equals_greedy",
    "cached_equals_uncached",
    "encoder_is_permutation_equivariant_without_positions",
    "ignores_padding",
    "is_causal",
    "run_all",
    "stepwise_equals_teacher_forced",
]

TOLERANCE = 1e-4  # float32 rounding over a few layers stays below 1e-5; the bugs are above 1e-2
N_SPECIALS = 4  # our vocabularies start with <pad>, <unk>, <bos>, <eos>


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe; true in a condition if it passed."""

    name: str
    problems: tuple[str, ...]
    cause: str  # the usual cause of a failure

    @property
    def passed(self) -> bool:
        """True if there are no problems."""
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
    """Check that changing a target token moves no output before it, in training and evaluation.

    Catches a mask that is missing in one mode, has the wrong polarity, or is not applied to the
    attention maps.

    Args:
        src, tgt: source (B, S) and target ids (B, T); drawn from the model's config if omitted.

    Raises:
        ValueError: fewer than two target tokens, or no second id to change a token to.
    """
    src, tgt = _draw_ids(model, src, tgt)
    if tgt.size(1) < 2:
        raise ValueError("is_causal needs at least two target tokens")
    problems = []
    for mode in ("training", "evaluation"):
        with _quiet(model, training=mode == "training"):
            memory = model.encode(src)
            before = model.decode(tgt, memory, src)
            for t in range(1, tgt.size(1)):
                after = model.decode(_changed(model, tgt, t), memory, src)
                what = f"in {mode} mode, changing target {t} moves earlier outputs"
                if moved := _moved(before[:, :t], after[:, :t], what):
                    problems += moved
                    break
            if hasattr(model, "attention_maps"):
                problems += _causal_maps(model, src, tgt, mode)
    return ProbeResult(
        "is_causal",
        tuple(problems),
        "the causal mask is missing in that mode, off by one, inverted (True = may attend here, "
        "True = ignore in nn.MultiheadAttention), or not passed on to every layer",
    )


def ignores_padding(
    model: nn.Module, src: Tensor | None = None, tgt: Tensor | None = None
) -> ProbeResult:
    """Check that padding after a sentence changes nothing and that padding alone does no harm.

    Compares each result with and without three more columns of padding, in training and
    evaluation mode; then tries a source of padding only, and half precision.

    Catches maps from a second loop that forgets the mask, masks of the wrong polarity, and scores
    filled with a number that overflows in 16 bits.
    """
    src, tgt = _draw_ids(model, src, tgt)
    pad, S, T = _pad_id(model), src.size(1), tgt.size(1)
    more_src, more_tgt = _padded(src, pad), _padded(tgt, pad)
    problems = []
    for mode in ("training", "evaluation"):
        with _quiet(model, training=mode == "training"):
            memory, longer = model.encode(src), model.encode(more_src)
            short = model.decode(tgt, memory, src)
            long = model.decode(more_tgt, longer, more_src)[:, :T]
            what = f"in {mode} mode, padding moves the"
            problems += _moved(memory, longer[:, :S], f"{what} encoder's output")
            problems += _moved(short, long, f"{what} decoder's output")
    with _quiet(model, training=False):
        if hasattr(model, "attention_maps"):
            problems += _padded_maps(model, (src, tgt), (more_src, more_tgt))
        problems += _only_padding(model, torch.full_like(src, pad), tgt)
        problems += _half_precision(model, more_src, tgt)
    return ProbeResult(
        "ignores_padding",
        tuple(problems),
        "the padding mask is missing, inverted, or dropped between layers; or masked scores are "
        "filled with -inf (NaN if nothing is left) or -1e9 (too large for half precision)",
    )


def stepwise_equals_teacher_forced(
    model: nn.Module,
    src: Tensor | None = None,
    tgt: Tensor | None = None,
    step: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] | None = None,
) -> ProbeResult:
    """Check that output t of one pass over all targets is the last output of a pass over t.

    Catches a step function that puts every token at position 0, and a full pass that sees the
    future.

    Args:
        step: how one step is computed: (model, target ids so far, memory, src) -> the output
            (B, 1, …) of the newest position. If omitted: `decode` on all ids so far.
    """
    src, tgt = _draw_ids(model, src, tgt)
    step = step or (lambda model, ids, memory, src: model.decode(ids, memory, src)[:, -1:])
    with _quiet(model, training=False):
        memory = model.encode(src)
        whole = model.decode(tgt, memory, src)
        steps = [step(model, tgt[:, : t + 1], memory, src) for t in range(tgt.size(1))]
    return ProbeResult(
        "stepwise_equals_teacher_forced",
        tuple(_first_gap(whole, steps)),
        "every step gets position 0, or the full pass sees the future",
    )


def cached_equals_uncached(
    model: nn.Module, src: Tensor | None = None, tgt: Tensor | None = None
) -> ProbeResult:
    """Check that decoding with a key-value cache equals decoding without, by one token and by two.

    Catches steps that are all at position 0, and `is_causal=True` with one query.

    Raises:
        ValueError: the model has no `start_cache(memory, max_len)`.
    """
    if not hasattr(model, "start_cache"):
        raise ValueError("cached_equals_uncached needs a model with start_cache(memory, max_len)")
    src, tgt = _draw_ids(model, src, tgt)
    problems = []
    with _quiet(model, training=False):
        memory = model.encode(src)
        whole = model.decode(tgt, memory, src)
        for stride in (1, 2):
            cache = model.start_cache(memory, tgt.size(1))
            steps = [model.decode(ids, memory, src, cache) for ids in tgt.split(stride, dim=1)]
            problems += [f"fed {stride} at a time, {p}" for p in _first_gap(whole, steps)]
    return ProbeResult(
        "cached_equals_uncached",
        tuple(problems),
        "positions restart at 0 at every step, is_causal=True with one query (it then sees only "
        "the first key), or a cache that is overwritten or read too far",
    )


def beam_one_equals_greedy(
    model: nn.Module,
    src: Tensor | None = None,
    greedy: Callable[..., Hypothesis] = greedy_sentence,
    beam: Callable[..., list[Hypothesis]] = beam_sentence,
) -> ProbeResult:
    """Check that beam search with one beam gives the ids of greedy decoding.

    Args:
        greedy: (model, src (1, S), limit) -> hypothesis; notebook 07's, or your own.
        beam: the same with `beam_size`, and a list of hypotheses, best first.
    """
    src, _ = _draw_ids(model, src, None)
    problems = []
    with _quiet(model, training=False):
        for i, row in enumerate(src):
            sentence = row[row != _pad_id(model)][None]
            limit = sentence.size(1) + 8
            first = greedy(model, sentence, limit).ids
            other = beam(model, sentence, limit, beam_size=1)[0].ids
            if first != other:
                problems.append(f"sentence {i}: greedy {first}, beam {other}")
    return ProbeResult(
        "beam_one_equals_greedy",
        tuple(problems),
        "the cache is not reordered with the beams, or a length rule differs",
    )


def encoder_is_permutation_equivariant_without_positions(
    model: nn.Module, src: Tensor | None = None, positions: nn.Module | None = None
) -> ProbeResult:
    """Check that a permuted source gives the permuted memory without positions, and only then.

    Args:
        positions: the module that adds the positions; found by its class name if omitted. It is
            bypassed during the probe.

    Raises:
        ValueError: no such module, or a source that reads the same backwards.
    """
    if positions is None:
        named = [m for m in model.modules() if "position" in type(m).__name__.lower()]
        if not named:
            raise ValueError("no module with 'position' in its class name: pass positions=…")
        positions = named[0]
    src, _ = _draw_ids(model, src, None)
    if torch.equal(src, src.flip(1)):
        raise ValueError("the source reads the same backwards: pass one whose order matters")
    with _quiet(model, training=False):
        differs = _moved(model.encode(src).flip(1), model.encode(src.flip(1)), "")
        problems = [] if differs else ["with positions, order makes no difference"]
        hook = positions.register_forward_hook(lambda module, inputs, output: inputs[0])
        try:
            permuted = model.encode(src).flip(1), model.encode(src.flip(1))
        finally:
            hook.remove()
    problems += _moved(*permuted, "without positions, order still moves the memory")
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
    """Run every probe on a model with the interface of our `Transformer`."""
    return [probe(model) for probe in ALL]


def _choices(size: int, pad: int) -> Tensor:
    """Return the ids to draw from: at least two, none of them padding, ordinary ones if possible.

    Raises:
        ValueError: the vocabulary is too small.
    """
    for first in (N_SPECIALS, 0):
        ids = [i for i in range(first, size) if i != pad]
        if len(ids) >= 2:
            return torch.tensor(ids)
    raise ValueError("a probe needs at least two different ids besides padding")


def _draw_ids(model: nn.Module, src: Tensor | None, tgt: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the given ids or random ones; the second source sentence is one token shorter."""
    config = getattr(model, "config", None)
    if (src is None or tgt is None) and config is None:
        if src is None:
            raise ValueError("the model has no config to draw ids from: pass src=… and tgt=…")
        return src, src
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device

    def draw(vocab_size: int, length: int) -> Tensor:
        ids = _choices(vocab_size, config.pad_id)
        return ids[torch.randint(len(ids), (2, length), generator=generator)].to(device)

    if src is None:
        src = draw(config.src_vocab_size, 6)
        src[1, -1] = config.pad_id
    if tgt is None:
        tgt = draw(config.tgt_vocab_size, 5)
    return src, tgt


def _changed(model: nn.Module, tgt: Tensor, t: int) -> Tensor:
    """Return tgt with every token from position t on replaced by a different one."""
    size = getattr(getattr(model, "config", None), "tgt_vocab_size", int(tgt.max()) + 1)
    ids = _choices(size, _pad_id(model)).to(tgt.device)
    later = torch.searchsorted(ids, tgt[:, t:].contiguous(), right=True)  # the next larger id
    return torch.cat([tgt[:, :t], ids[later % len(ids)]], dim=1)


def _pad_id(model: nn.Module) -> int:
    return getattr(getattr(model, "config", None), "pad_id", 0)


def _padded(ids: Tensor, pad: int) -> Tensor:
    return torch.cat([ids, ids.new_full((len(ids), 3), pad)], dim=1)


@contextmanager
def _quiet(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the model into one mode without gradients or dropout; restore it on exit."""
    dropout = {nn.Dropout: "p", nn.MultiheadAttention: "dropout"}  # where torch keeps the rate
    rates = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for kind, name in dropout.items()
        if isinstance(module, kind)
    ]
    with evaluation_mode(model), torch.no_grad():  # restores the mode of every sub-module
        try:
            model.train(training)
            for module, name, _ in rates:
                setattr(module, name, 0.0)
            yield
        finally:
            for module, name, rate in rates:
                setattr(module, name, rate)


def _moved(a: Tensor, b: Tensor, what: str) -> list[str]:
    """Return a problem if two outputs differ; a difference that is not a number is infinite."""
    gap = float(torch.nan_to_num((a - b).abs(), nan=torch.inf).max())
    return [f"{what} by {gap:.2g}"] if gap > TOLERANCE else []


def _first_gap(whole: Tensor, steps: list[Tensor]) -> list[str]:
    start = 0
    for step in steps:
        end = start + step.size(1)
        if moved := _moved(whole[:, start:end], step, f"step {start} differs from the full pass"):
            return moved
        start = end
    return []


def _causal_maps(model: nn.Module, src: Tensor, tgt: Tensor, mode: str) -> list[str]:
    """Check that the decoder's maps put no weight on the future and do not depend on it."""
    t = tgt.size(1) - 1
    before = model.attention_maps(src, tgt).decoder
    after = model.attention_maps(src, _changed(model, tgt, t)).decoder
    earlier = before[..., :t, :], after[..., :t, :]
    problems = _moved(*earlier, f"in {mode} mode, changing the last token moves earlier maps")
    if (future := float(before.triu(diagonal=1).max())) > TOLERANCE:
        problems.append(f"in {mode} mode, the maps put a weight of {future:.2g} on the future")
    return problems


def _padded_maps(
    model: nn.Module, short: tuple[Tensor, Tensor], long: tuple[Tensor, Tensor]
) -> list[str]:
    """Check that more padding leaves the maps of real tokens unchanged, layer by layer."""
    problems = []
    for kind, few, many in zip(
        ("encoder", "decoder", "cross"),
        model.attention_maps(*short),
        model.attention_maps(*long),
        strict=True,
    ):
        for layer, (a, b) in enumerate(zip(few, many, strict=True), start=1):
            what = f"padding moves the {kind} map of layer {layer}"
            if moved := _moved(a, b[..., : a.size(-2), : a.size(-1)], what):
                problems += moved
                break
    return problems


def _only_padding(model: nn.Module, src: Tensor, tgt: Tensor) -> list[str]:
    """Check that a source of padding only gives finite outputs that ignore its length."""
    longer = _padded(src, int(src[0, 0]))
    outputs = [model.decode(tgt, model.encode(ids), ids) for ids in (src, longer)]
    if not all(bool(output.isfinite().all()) for output in outputs):
        return ["a source of padding only gives NaN"]
    return _moved(*outputs, "a source of padding only is attended to: its length moves outputs")


def _half_precision(model: nn.Module, src: Tensor, tgt: Tensor) -> list[str]:
    """Check that a copy in float16 gives finite outputs."""
    half = copy.deepcopy(model).half()
    try:
        output = half.decode(tgt, half.encode(src), src)
    except RuntimeError as error:
        if "overflow" in str(error):
            return [f"float16: {error}"]
        raise
    return [] if bool(output.isfinite().all()) else ["float16: outputs are not finite"]
