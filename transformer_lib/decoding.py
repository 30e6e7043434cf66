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
    """Most tokens of each translation, `<eos>` included: its source's and `extra` more.

    The limit depends on the sentence alone, so it is the same in every batch.
    """
    return [length + extra for length in (src != pad_id).sum(dim=1).tolist()]


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
    cache = model.start_cache(memory, max(limits))
    said = src.new_full((len(src), max(limits)), eos_id)
    log_prob, limit = memory.new_zeros(len(src)).float(), src.new_tensor(limits)
    going_on, rows = limit > 0, torch.arange(len(src), device=src.device)  # rows in the batch
    token = torch.full_like(rows, bos_id)
    for length in range(max(limits)):
        best, token = next_log_probs(model, token[:, None], memory, src, cache).max(dim=-1)
        said[rows, length] = token
        log_prob[rows] += best.masked_fill(~going_on[rows], 0.0).float()
        going_on[rows] &= (token != eos_id) & (limit[rows] > length + 1)
        left = going_on[rows].nonzero().flatten()
        if len(left) == 0:
            break
        if len(left) <= 0.75 * len(rows):  # dropping rows costs about as much as a step with them
            rows, token, memory, src = (x[left] for x in (rows, token, memory, src))
            for part in itertools.chain(*cache):
                part.select(left)
    model.train(was_training)
    ids = [[*row[:most], eos_id] for row, most in zip(said.tolist(), limits, strict=True)]
    ids = [row[: row.index(eos_id)] for row in ids]  # one that is as long as its limit is cut off
    return [
        Hypothesis(row, total, total, len(row) < most)
        for row, total, most in zip(ids, log_prob.tolist(), limits, strict=True)
    ]
