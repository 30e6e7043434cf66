# Written by notebooks/07_training_copy_task_and_translation.ipynb: edit there, then `make export`.
"""From a trained model to text, the likeliest token at a time, on ids alone (section 3.1)."""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer_lib.layers import LayerCache
from transformer_lib.model import Transformer
from transformer_lib.vocab import BOS_ID, EOS_ID

__all__ = ["Hypothesis", "length_limits", "next_log_probs", "greedy_decode"]


class Hypothesis(NamedTuple):
    """One translation, without `<bos>` and `<eos>`."""

    ids: list[int]
    log_prob: float  # of all its tokens, <eos> included, in nats
    score: float  # log_prob over the length penalty: beams are ranked by it
    finished: bool  # False: cut off at the length limit


def length_limits(src: Int[Tensor, "B S"], extra: int, pad_id: int) -> list[int]:
    """Most tokens of each translation, `<eos>` included: its source's and `extra` more; 1 at least.

    The limit depends on the sentence alone, so it is the same in every batch.
    """
    return [max(1, length + extra) for length in (src != pad_id).sum(dim=1).tolist()]


def next_log_probs(
    model: Transformer,
    last: Int[Tensor, "R 1"],
    memory: Float[Tensor, "B S D"],
    src: Int[Tensor, "B S"],
    cache: list[LayerCache],
) -> Float[Tensor, "R V"]:
    """One step further: log-probabilities of what follows the last ids, in float32 or wider."""
    logits = model.output_projection(model.decode(last, memory, src, cache)[:, -1])
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


@torch.inference_mode()
def greedy_decode(
    model: Transformer,
    src: Int[Tensor, "B S"],
    *,
    extra: int = 50,
    bos_id: int = BOS_ID,
    eos_id: int = EOS_ID,
) -> list[Hypothesis]:
    """One hypothesis per sentence: the likeliest token, again and again; of equals, the first.

    Args:
        src: source ids, padded at the end.
        extra: a translation may be this many tokens longer than its source.

    Source: section 3.1, "auto-regressive". Built in notebook 07.
    """
    was_training = model.training
    limits = length_limits(src, extra, model.config.pad_id)
    memory = model.eval().encode(src)
    cache = model.start_cache(memory, max(limits, default=0))
    ids, log_probs = [[] for _ in limits], [0.0] * len(limits)
    rows = list(range(len(limits)))  # the sentence of each row
    going_on = set(rows)
    token = src.new_full((len(src),), bos_id)
    while going_on:
        best, token = next_log_probs(model, token[:, None], memory, src, cache).max(dim=-1)
        for sentence, token_id, nats in zip(rows, token.tolist(), best.tolist(), strict=True):
            if sentence in going_on:
                ids[sentence].append(token_id)
                log_probs[sentence] += nats
                if token_id == eos_id or len(ids[sentence]) == limits[sentence]:
                    going_on.remove(sentence)
        if 0 < len(going_on) <= 0.75 * len(rows):  # dropping rows costs about a step
            kept = src.new_tensor([i for i, row in enumerate(rows) if row in going_on])
            rows = [row for row in rows if row in going_on]
            token, memory, src = (x[kept] for x in (token, memory, src))
            for part in itertools.chain(*cache):
                part.select(kept)
    model.train(was_training)
    return [
        Hypothesis([i for i in row if i != eos_id], total, total, row[-1:] == [eos_id])
        for row, total in zip(ids, log_probs, strict=True)
    ]
