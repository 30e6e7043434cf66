"""The workshop of the bug museum: a small translator of the grammar, to be given one fault."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from transformer_lib.attention import MultiHeadAttention
from transformer_lib.batching import Batch, IdPair, collate, epoch_batches
from transformer_lib.config import ModelConfig
from transformer_lib.lessons import probes
from transformer_lib.lessons.grammar import grammar_corpus
from transformer_lib.lessons.running import vocabularies
from transformer_lib.model import Transformer
from transformer_lib.training import TrainConfig, evaluate, make_optimizer, train_step
from transformer_lib.vocab import BOS_ID, EOS_ID

__all__ = [
    "Specimen",
    "exact_share",
    "examine",
    "grammar_ids",
    "gradients",
    "held_out",
    "own_check",
    "small_translator",
    "train_broken",
    "translate",
    "with_fault",
]

SIZES = {"d_model": 64, "n_heads": 4, "n_layers": 2, "d_ff": 128, "dropout": 0.0, "max_len": 64}
MAX_TOKENS = 800  # of a batch


@dataclass
class Specimen:
    """A trained model, in evaluation mode, and its losses step by step."""

    model: Transformer
    losses: list[float]


@cache
def grammar_ids(split: str = "train", size: int | None = None) -> list[IdPair]:
    """Return the first pairs of a split as ids: a source with `<eos>`, a target framed."""
    german, english = vocabularies()
    return [
        (german.encode(pair.source, eos=True), english.encode(pair.target, bos=True, eos=True))
        for pair in getattr(grammar_corpus(), split)[:size]
    ]


@cache
def held_out(size: int = 100) -> Batch:
    """Return the first validation pairs as one batch."""
    return collate(grammar_ids("val", size))


def small_translator(model_class: type[Transformer] = Transformer, seed: int = 0) -> Transformer:
    """Build a translator from German to English with fresh weights."""
    torch.manual_seed(seed)
    return model_class(ModelConfig(*map(len, vocabularies()), norm_first=True, **SIZES))


def train_broken(
    model_class: type[Transformer] = Transformer,
    *,
    steps: int,
    spoil: Callable[[nn.Module], None] | None = None,
) -> Specimen:
    """Train a small translator; `spoil` changes the model before the first step."""
    model, losses, epoch = small_translator(model_class), [], 0
    if spoil:
        spoil(model)
    config = TrainConfig(
        peak_rate=5e-3, warmup=40, cooldown=(steps // 2, steps), smoothing=0.0, max_grad_norm=1.0
    )
    optimizer = make_optimizer(model.train(), config)
    while len(losses) < steps:
        batches = epoch_batches(grammar_ids(), MAX_TOKENS, seed=0, epoch=epoch)
        for step, batch in zip(range(len(losses) + 1, steps + 1), batches, strict=False):
            losses.append(train_step(model, optimizer, batch, step, config).loss)
        epoch += 1
    return Specimen(model.eval(), losses)


def with_fault(
    model: Transformer,
    model_class: type[Transformer] = Transformer,
    attention_class: type[MultiHeadAttention] = MultiHeadAttention,
) -> Transformer:
    """Return a copy with the same weights whose classes are replaced by faulty ones."""
    broken = copy.deepcopy(model)
    broken.__class__ = model_class
    for module in broken.modules():
        if isinstance(module, MultiHeadAttention):
            module.__class__ = attention_class
    return broken


@torch.no_grad()
def translate(
    model: Transformer, src: Tensor, *, start: int = BOS_ID, cached: bool = False
) -> list[list[int]]:
    """Decode greedily through the model's own `decode`, from the token `start` on."""
    memory = model.encode(src)
    limit = min(src.size(1) + 8, model.config.max_len - 1)
    ids = torch.full((len(src), 1), start)
    cache = model.start_cache(memory, limit) if cached else None
    for _ in range(limit):
        hidden = model.decode(ids[:, -1:] if cached else ids, memory, src, cache)
        ids = torch.cat([ids, model.output_projection(hidden[:, -1:]).argmax(-1)], dim=1)
    rows = ids[:, 1:].tolist()
    return [row[: row.index(EOS_ID)] if EOS_ID in row else row for row in rows]


def exact_share(model: Transformer, batch: Batch | None = None, **decoding) -> float:
    """Return the share of held-out sentences whose translation is right to the last token."""
    batch = batch or held_out()
    right = [[id for id in row if id > EOS_ID or id == 1] for row in batch.tgt.tolist()]
    found = translate(model, batch.src, **decoding)
    return sum(map(list.__eq__, found, right)) / len(right)


def examine(
    model: Transformer, which: Sequence[Callable[..., probes.ProbeResult]] = probes.ALL, **decoding
) -> list[str]:
    """Print loss and translations of a model and the probes that fire; return their names."""
    loss = evaluate(model, [held_out()]).loss
    share = exact_share(model, **decoding)
    print(f"held-out loss {loss:.3f}, {share:.0%} of the sentences translated exactly")
    results = [probe(model) for probe in which]
    fired = [result for result in results if not result]
    print("\n".join(map(str, fired)) or f"✓ none of {len(results)} probes fires")
    return [result.name for result in fired]


def own_check(fires: object) -> list[str]:
    """Return the row of the table for a check that is no probe, if it fires."""
    return ["special check"] if fires else []


def gradients(model: nn.Module, *losses: Callable[[], Tensor]) -> Tensor:
    """Add up the gradients of several losses, as one long vector."""
    model.zero_grad()
    for loss in losses:
        loss().backward()
    vector = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return vector
