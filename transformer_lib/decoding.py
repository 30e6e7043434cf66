# Written by notebooks/07_training_copy_task_and_translation.ipynb: edit there, then `make export`.
"""From a trained model to text, one sentence at a time: greedy decoding and beam search
(sections 3.1 and 6.1)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer_lib.model import Transformer
from transformer_lib.vocab import BOS_ID, EOS_ID

__all__ = [
    "length_penalty",
    "Hypothesis",
    "as_hypothesis",
    "next_log_probs",
    "greedy_sentence",
    "beam_sentence",
]


def length_penalty(length: int, alpha: float) -> float:
    """Return ((5 + length) / 6)^alpha, where the length counts `<eos>`.

    Raises:
        ValueError: alpha is not between 0 and 100, where the result could overflow.

    Source: Wu et al. (2016), equation 14, as in section 6.1. Built in notebook 07.
    """
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 100:
        raise ValueError(f"alpha must be a number between 0 and 100, got {alpha!r}")
    return ((5 + length) / 6) ** alpha


class Hypothesis(NamedTuple):
    """One translation, without `<bos>` and `<eos>`."""

    ids: list[int]
    log_prob: float  # of all its tokens, <eos> included, in nats
    score: float  # log_prob / length penalty: ranks what has ended
    finished: bool  # False: cut off at the length limit


def as_hypothesis(prefix: list[int], log_prob: float, alpha: float = 0.0) -> Hypothesis:
    """Return the prefix, from `<bos>` on, as a result with its score."""
    finished = prefix[-1] == EOS_ID
    score = log_prob / length_penalty(len(prefix) - 1, alpha)
    return Hypothesis(prefix[1:-1] if finished else prefix[1:], log_prob, score, finished)


def next_log_probs(
    model: Transformer,
    prefixes: Int[Tensor, "R T"],
    memory: Float[Tensor, "1 S D"],
    src: Int[Tensor, "1 S"],
) -> Float[Tensor, "R V"]:
    """Return log-probabilities of the token after each prefix, in float32 or wider."""
    n_rows = len(prefixes)
    hidden = model.decode(prefixes, memory.expand(n_rows, -1, -1), src.expand(n_rows, -1))
    logits = model.output_projection(hidden[:, -1])  # (R, V)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


@torch.no_grad()
def greedy_sentence(model: Transformer, src: Int[Tensor, "1 S"], limit: int) -> Hypothesis:
    """Translate one sentence: append the likeliest token until `<eos>`; ties go to the lower id.

    The model should be in evaluation mode.

    Args:
        limit: maximum number of tokens, `<eos>` included.

    Source: section 3.1, "auto-regressive". Built in notebook 07.
    """
    memory, limit = model.encode(src), min(limit, model.config.max_len)
    ids, log_prob = [BOS_ID], 0.0
    while ids[-1] != EOS_ID and len(ids) <= limit:
        prefix = torch.tensor([ids], device=src.device)
        best, token = next_log_probs(model, prefix, memory, src)[0].max(dim=-1)
        ids.append(token.item())
        log_prob += best.item()
    finished = ids[-1] == EOS_ID
    return Hypothesis(ids[1:-1] if finished else ids[1:], log_prob, log_prob, finished)


@torch.no_grad()
def beam_sentence(
    model: Transformer, src: Int[Tensor, "1 S"], limit: int, beam_size: int = 4, alpha: float = 0.6
) -> list[Hypothesis]:
    """Search for the likeliest translations of one sentence, best first.

    Each step extends all open prefixes and keeps the likeliest. A hypothesis ends where `<eos>`
    is among the k = `beam_size` best continuations; at most k of the 2k best can end, so k open
    prefixes remain. The search stops at k finished ones. The model should be in evaluation mode.

    Args:
        limit: maximum number of tokens, `<eos>` included. Prefixes still open at the limit come
            last, as unfinished hypotheses.

    Source: section 6.1. Built in notebook 07.
    """
    memory, limit, finished = model.encode(src), min(limit, model.config.max_len), []
    log_probs, prefixes = [0.0], [[BOS_ID]]
    while len(prefixes[0]) <= limit and len(finished) < beam_size:
        rows = torch.tensor(prefixes, device=src.device)
        totals = next_log_probs(model, rows, memory, src)  # (R, V)
        totals += torch.tensor(log_probs, device=src.device)[:, None]
        order = totals.flatten().argsort(descending=True, stable=True)[: 2 * beam_size].tolist()
        best = [divmod(index, totals.size(1)) for index in order]  # prefix to continue, next id
        extended = [(totals[row, id].item(), [*prefixes[row], id]) for row, id in best]
        ended = [(total, ids) for total, ids in extended[:beam_size] if ids[-1] == EOS_ID]
        finished += [as_hypothesis(ids, total, alpha) for total, ids in ended]
        still_open = [(total, ids) for total, ids in extended if ids[-1] != EOS_ID][:beam_size]
        log_probs, prefixes = map(list, zip(*still_open, strict=True))
    if len(finished) < beam_size:
        finished += map(as_hypothesis, prefixes, log_probs, [alpha] * len(prefixes))
    return sorted(finished, key=lambda h: (not h.finished, -h.score))[:beam_size]
