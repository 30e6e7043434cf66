"""Behavior checks for any encoder-decoder; each says what failed and what usually causes it.

A model needs `encode(src) -> memory` and `decode(tgt, memory, src) -> hidden or logits`, batch
first. If it has `attention_maps` or `start_cache` as ours has, those are probed too. Source ids
(B, S) and target ids (B, T) are drawn from the model's config if omitted. Every probe leaves the
model as it was.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transformer_lib.decoding import Hypothesis, beam_sentence, greedy_sentence

TOLERANCE = 1e-4  # float32 rounding over a few layers stays below 1e-5; the bugs are above 1e-2
N_SPECIALS = 4  # our vocabularies start with <pad>, <unk>, <bos>, <eos>


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe; true in a condition if it passed."""

    name: str
    problems: list[str]
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

    Raises:
        ValueError: fewer than two target tokens, or no second id to change a token to.
    """
    src, tgt = _draw_ids(model, src, tgt)
    if tgt.size(1) < 2:
        raise ValueError("is_causal needs at least two target tokens")

    def leaks() -> list[str]:
        memory = model.encode(src)
        before = model.decode(tgt, memory, src)
        problems = _causal_maps(model, src, tgt) if hasattr(model, "attention_maps") else []
        for t in range(1, tgt.size(1)):
            after = model.decode(_changed(model, tgt, t), memory, src)
            what = f"changing target {t} moves earlier outputs"
            if moved := _moved(before[:, :t], after[:, :t], what):
                return moved + problems
        return problems

    return ProbeResult(
        "is_causal",
        _in_both_modes(model, leaks),
        "the causal mask is missing in that mode, off by one, inverted (True = may attend here, "
        "True = ignore in nn.MultiheadAttention), or not passed on to every layer",
    )


def ignores_padding(
    model: nn.Module, src: Tensor | None = None, tgt: Tensor | None = None
) -> ProbeResult:
    """Check that padding after a sentence changes nothing and that padding alone does no harm.

    Compares each result with and without three more columns of padding, in training and
    evaluation mode; then tries a source of padding only, and half precision.
    """
    src, tgt = _draw_ids(model, src, tgt)
    pad, S, T = _pad_id(model), src.size(1), tgt.size(1)
    more_src, more_tgt = _padded(src, pad), _padded(tgt, pad)

    def moves() -> list[str]:
        memory, longer = model.encode(src), model.encode(more_src)
        short = model.decode(tgt, memory, src)
        long = model.decode(more_tgt, longer, more_src)[:, :T]
        problems = _moved(memory, longer[:, :S], "padding moves the encoder's output")
        return problems + _moved(short, long, "padding moves the decoder's output")

    problems = _in_both_modes(model, moves)
    with _quiet(model, training=False):
        if hasattr(model, "attention_maps"):
            problems += _padded_maps(model, (src, tgt), (more_src, more_tgt))
        problems += _only_padding(model, torch.full_like(src, pad), tgt)
        problems += _half_precision(model, more_src, tgt)
    return ProbeResult(
        "ignores_padding",
        problems,
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

    `step` is (model, target ids so far, memory, src) -> the output (B, 1, …) of the newest
    position; if omitted, `decode` on all ids so far.
    """
    src, tgt = _draw_ids(model, src, tgt)
    step = step or (lambda model, ids, memory, src: model.decode(ids, memory, src)[:, -1:])
    with _quiet(model, training=False):
        memory = model.encode(src)
        whole = model.decode(tgt, memory, src)
        steps = [step(model, tgt[:, : t + 1], memory, src) for t in range(tgt.size(1))]
    return ProbeResult(
        "stepwise_equals_teacher_forced",
        _first_gap(whole, steps),
        "every step gets position 0, or the full pass sees the future",
    )


def cached_equals_uncached(
    model: nn.Module, src: Tensor | None = None, tgt: Tensor | None = None
) -> ProbeResult:
    """Check that decoding with a key-value cache equals decoding without, by one token and by two.

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
        problems,
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

    `greedy` is (model, src (1, S), limit) -> hypothesis: notebook 07's, or your own. `beam` has
    `beam_size` too, and returns a list of hypotheses, best first.
    """
    src, _ = _draw_ids(model, src, None)
    needed = hasattr(model, "config") and hasattr(model, "output_projection")
    if not needed and {greedy, beam} & {greedy_sentence, beam_sentence}:
        raise ValueError("the model has no config or output_projection: pass greedy=… and beam=…")
    problems = []
    with _quiet(model, training=False):
        for i, row in enumerate(src):
            sentence = row[row != _pad_id(model)][None]
            limit = sentence.size(1) + 8
            first = greedy(model, sentence, limit).ids
            if first != (other := beam(model, sentence, limit, beam_size=1)[0].ids):
                problems.append(f"sentence {i}: greedy {first}, beam {other}")
    return ProbeResult(
        "beam_one_equals_greedy",
        problems,
        "the cache is not reordered with the beams, or a length rule differs",
    )


def encoder_is_permutation_equivariant_without_positions(
    model: nn.Module, src: Tensor | None = None, positions: nn.Module | None = None
) -> ProbeResult:
    """Check that a permuted source gives the permuted memory without positions, and only then.

    `positions`, the module that adds them, is bypassed; it is found by its class name if omitted.

    Raises:
        ValueError: no such module, or a source that reads the same backwards.
    """
    if positions is None:
        parts = (part for part in model.modules() if part is not model)
        named = [part for part in parts if "position" in type(part).__name__.lower()]
        if not named:
            raise ValueError("no module with 'position' in its class name: pass positions=…")
        positions = named[0]
    src, _ = _draw_ids(model, src, None)
    if torch.equal(src, src.flip(1)):
        raise ValueError("the source reads the same backwards: pass one whose order matters")

    def moves() -> list[str]:
        what = "without positions, order still moves the memory"
        return _moved(model.encode(src).flip(1), model.encode(src.flip(1)), what)

    with _quiet(model, training=False):
        problems = [] if moves() else ["with positions, order makes no difference"]
        hook = positions.register_forward_hook(lambda module, inputs, output: inputs[0])
        try:
            problems += moves()
        finally:
            hook.remove()
    return ProbeResult(
        "encoder_is_permutation_equivariant_without_positions",
        problems,
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
__all__ = ["ALL", "ProbeResult", "run_all", *(probe.__name__ for probe in ALL)]


def run_all(model: nn.Module) -> list[ProbeResult]:
    """Run every probe on a model with the interface of our `Transformer`."""
    return [probe(model) for probe in ALL]


def _choices(size: int, pad: int) -> Tensor:
    """Return two or more ids to draw from: none of them padding, ordinary ones if possible."""
    for first in (N_SPECIALS, 0):
        ids = [i for i in range(first, size) if i != pad]
        if len(ids) >= 2:
            return torch.tensor(ids)
    raise ValueError("a probe needs at least two different ids besides padding")


def _draw_ids(model: nn.Module, src: Tensor | None, tgt: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the given ids or random ones; the second source sentence is one token shorter."""
    if not (hasattr(model, "encode") and hasattr(model, "decode")):
        raise ValueError("a probe needs a model with encode(src) and decode(tgt, memory, src)")
    config = getattr(model, "config", None)
    if config is None and src is None:
        raise ValueError("the model has no config to draw ids from: pass src=… and tgt=…")
    if config is None:
        return src, src if tgt is None else tgt
    generator, device = torch.Generator().manual_seed(0), next(model.parameters()).device

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


def _in_both_modes(model: nn.Module, find: Callable[[], list[str]]) -> list[str]:
    """Return the problems that are found in training mode and in evaluation mode."""
    problems = []
    for mode in ("training", "evaluation"):
        with _quiet(model, training=mode == "training"):
            problems += [f"in {mode} mode, {problem}" for problem in find()]
    return problems


@contextmanager
def _quiet(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the model into one mode without gradients or dropout; restore it on exit."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
            for kind, name in ((nn.Dropout, "p"), (nn.MultiheadAttention, "dropout")):
                if isinstance(module, kind):
                    stack.callback(setattr, module, name, getattr(module, name))
                    setattr(module, name, 0.0)
        model.train(training)
        yield


def _moved(a: Tensor, b: Tensor, what: str) -> list[str]:
    """Return a problem if two outputs differ; a difference that is not a number is infinite."""
    gap = float(torch.nan_to_num((a - b).abs(), nan=torch.inf).max())
    return [f"{what} by {gap:.2g}"] if gap > TOLERANCE else []


def _first(findings: Iterable[list[str]]) -> list[str]:
    """Return the first finding that has problems."""
    return next(filter(None, findings), [])


def _first_gap(whole: Tensor, steps: list[Tensor]) -> list[str]:
    """Compare one pass with steps that start where the one before ended."""
    sizes = [step.size(1) for step in steps]
    starts = itertools.accumulate(sizes[:-1], initial=0)
    parts = zip(starts, whole.split(sizes, dim=1), steps, strict=True)
    return _first(_moved(a, b, f"step {t} differs from the full pass") for t, a, b in parts)


def _causal_maps(model: nn.Module, src: Tensor, tgt: Tensor) -> list[str]:
    """Check that the decoder's maps put no weight on the future and do not depend on it."""
    t = tgt.size(1) - 1
    before = model.attention_maps(src, tgt).decoder
    after = model.attention_maps(src, _changed(model, tgt, t)).decoder
    what = "changing the last token moves earlier maps"
    problems = _moved(before[..., :t, :], after[..., :t, :], what)
    if (future := float(before.triu(diagonal=1).max())) > TOLERANCE:
        problems.append(f"the maps put a weight of {future:.2g} on the future")
    return problems


def _padded_maps(
    model: nn.Module, short: tuple[Tensor, Tensor], long: tuple[Tensor, Tensor]
) -> list[str]:
    """Check that more padding leaves the maps of real tokens unchanged."""
    problems = []
    maps = model.attention_maps(*short), model.attention_maps(*long)
    for kind, few, many in zip(("encoder", "decoder", "cross"), *maps, strict=True):
        layers = enumerate(zip(few, many[..., : few.size(-2), : few.size(-1)], strict=True), 1)
        what = f"padding moves the {kind} map of layer"
        problems += _first(_moved(*pair, f"{what} {layer}") for layer, pair in layers)
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
