# Written by notebooks/07_training_copy_task_and_translation.ipynb: edit there, then `make export`.
"""From a trained model to text: greedy decoding and beam search (sections 3.1 and 6.1)."""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from transformer_lib.layers import LayerCache
from transformer_lib.model import Transformer
from transformer_lib.vocab import BOS_ID, EOS_ID

__all__ = [
    "Hypothesis",
    "length_limits",
    "next_log_probs",
    "greedy_decode",
    "length_penalty",
    "first_top_k",
    "BLOCK",
    "top_k_of_blocks",
    "among_the_best",
    "Beams",
    "collect",
    "unfinished",
    "check_widths",
    "beam_search",
]


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


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha, where the length counts `<eos>`.

    Source: Wu et al. (2016), equation 14, as in section 6.1. Built in notebook 07.
    """
    return ((5 + length) / 6) ** alpha


def first_top_k(
    scores: Float[Tensor, "B N"], k: int
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """The k highest scores of every row and their indices; of equals, the smallest index first.

    `torch.topk` leaves the order of equals open, and then a beam would not be reproducible.
    """
    if scores.size(1) > 8 * k * BLOCK:
        return top_k_of_blocks(scores, k)
    scores, found = scores.clone(), []
    for _ in range(k):
        found.append(scores.max(dim=1, keepdim=True))
        scores.scatter_(1, found[-1].indices, -torch.inf)
    return torch.cat([f.values for f in found], 1), torch.cat([f.indices for f in found], 1)


BLOCK = 32


def top_k_of_blocks(
    scores: Float[Tensor, "B N"], k: int
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """As `first_top_k`, for long rows: it looks at most of a row only once.

    The k best numbers lie in the k blocks with the highest maxima.
    """
    blocks = F.pad(scores, (0, -scores.size(1) % BLOCK), value=-torch.inf).unflatten(1, (-1, BLOCK))
    best, chosen = first_top_k(blocks.amax(dim=-1), k)
    chosen, order = chosen.sort(dim=1)  # of equals in several blocks, the first comes first
    nothing = best.gather(1, order) == -torch.inf  # fewer than k blocks: one was chosen twice
    inside = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK))
    inside = inside.masked_fill(nothing[:, :, None], -torch.inf)
    values, place = first_top_k(inside.flatten(1), k)
    return values, chosen.gather(1, place // BLOCK) * BLOCK + place % BLOCK


def among_the_best(
    endings: Float[Tensor, "n k"],
    eos_index: Int[Tensor, "n k"],
    going_on: Float[Tensor, "n k"],
    index: Int[Tensor, "n k"],
) -> Bool[Tensor, "n k"]:
    """Whether fewer than k continuations of the sentence are ahead of each ending.

    Ahead is a higher score or, of equals, a smaller index: the rule of `first_top_k`.
    """
    rivals = torch.cat([going_on, endings], dim=1)[:, None, :]  # (n, 1, 2k)
    rival_index = torch.cat([index, eos_index], dim=1)[:, None, :]
    score, place = endings[:, :, None], eos_index[:, :, None]  # (n, k, 1)
    ahead = (rivals > score) | ((rivals == score) & (rival_index < place))
    return (ahead.sum(-1) < endings.size(1)) & endings.isfinite()


class Beams:
    """The hypotheses of every sentence that is still searched: k rows of the batch for each."""

    def __init__(self, n_sentences: int, beam_size: int, bos_id: int, like: Tensor) -> None:
        self.size = beam_size
        self.sentences = list(range(n_sentences))  # which sentence owns rows i·k … i·k + k - 1
        self.ids = like.new_full((n_sentences * beam_size, 1), bos_id)
        # One empty hypothesis per sentence, not k equal ones.
        self.log_probs = torch.full((n_sentences, beam_size), -torch.inf, device=like.device)
        self.log_probs[:, 0] = 0.0

    def extend(
        self, log_probs: Float[Tensor, "rows V"], eos_id: int
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, "n k"], Bool[Tensor, "n k"]]:
        """Keeps the k best continuations of every sentence, `<eos>` apart.

        Returns:
            The row each hypothesis continues, the score of ending each of the *old* hypotheses
            here, and whether that ending is among its sentence's k best continuations.
        """
        n, k, v = len(self.sentences), self.size, log_probs.size(1)
        endings = self.log_probs + log_probs[:, eos_id].view(n, k)
        log_probs[:, eos_id] = -torch.inf
        best, ids = first_top_k(log_probs, k)  # (n k, k): no row can give more than k
        totals = self.log_probs[:, :, None] + best.view(n, k, k)
        self.log_probs, place = first_top_k(totals.view(n, k * k), k)  # (n, k)
        index = place // k * v + ids.view(n, k * k).gather(1, place)
        eos_index = (torch.arange(k, device=index.device) * v + eos_id).expand_as(index)
        ends = among_the_best(endings, eos_index, self.log_probs, index)
        parents = (index // v + torch.arange(n, device=index.device)[:, None] * k).flatten()
        self.ids = torch.cat([self.ids[parents], (index % v).view(-1, 1)], dim=1)
        return parents, endings, ends

    def keep(self, numbers: list[int]) -> Int[Tensor, " rows"]:
        """Drops all sentences but these and returns the rows that stay."""
        kept = self.ids.new_tensor(numbers)
        first_rows = kept[:, None] * self.size
        rows = (first_rows + torch.arange(self.size, device=kept.device)).flatten()
        self.sentences = [self.sentences[i] for i in numbers]
        self.ids, self.log_probs = self.ids[rows], self.log_probs[kept]
        return rows


def collect(
    found: list[list[Hypothesis]],
    beams: Beams,
    before: Int[Tensor, "rows T"],
    endings: Float[Tensor, "n k"],
    ends: Bool[Tensor, "n k"],
    alpha: float,
) -> None:
    """Adds the hypotheses that end here to those found; `before` are the ids up to here."""
    length = before.size(1)  # <bos> is not counted, <eos> is
    i, j = ends.nonzero(as_tuple=True)  # all at once: a GPU is asked a few times, not for each
    rows, totals = before[i * beams.size + j, 1:].tolist(), endings[i, j].tolist()
    for number, ids, total in zip(i.tolist(), rows, totals, strict=True):
        score = total / length_penalty(length, alpha)
        found[beams.sentences[number]].append(Hypothesis(ids, total, score, True))


def unfinished(beams: Beams, i: int, alpha: float) -> list[Hypothesis]:
    """The hypotheses of sentence i that reached the length limit without `<eos>`."""
    rows = beams.ids[i * beams.size : (i + 1) * beams.size, 1:].tolist()
    return [
        Hypothesis(ids, total, total / length_penalty(len(ids), alpha), False)
        for ids, total in zip(rows, beams.log_probs[i].tolist(), strict=True)
        if total > -torch.inf
    ]


def check_widths(n_best: int, beam_size: int, vocab_size: int) -> None:
    """Refuses a beam that is wider than the vocabulary, or fewer beams than wanted results."""
    if not 1 <= n_best <= beam_size <= vocab_size:
        raise ValueError(
            f"need 1 <= n_best <= beam_size <= vocabulary size, got n_best={n_best}, "
            f"beam_size={beam_size}, vocabulary size {vocab_size}"
        )


@torch.inference_mode()
def beam_search(
    model: Transformer,
    src: Int[Tensor, "B S"],
    *,
    beam_size: int = 4,
    alpha: float = 0.6,
    n_best: int = 1,
    extra: int = 50,
    bos_id: int = BOS_ID,
    eos_id: int = EOS_ID,
) -> list[list[Hypothesis]]:
    """The `beam_size` likeliest beginnings of all sentences at once (section 6.1).

    A sentence is done with `beam_size` finished hypotheses or at its length + `extra`. Returns
    its `n_best`, finished ones first, then by score. ValueError: impossible widths.
    """
    check_widths(n_best, beam_size, model.config.tgt_vocab_size)
    was_training = model.training
    memory = model.eval().encode(src)  # one row for all beams of a sentence
    limits = length_limits(src, extra, model.config.pad_id)
    found, beams = [[] for _ in limits], Beams(len(src), beam_size, bos_id, like=src)
    cache = model.start_cache(memory, max(limits, default=0), beam_size)
    while beams.sentences:
        before = beams.ids
        log_probs = next_log_probs(model, before[:, -1:], memory, src, cache)
        rows, endings, ends = beams.extend(log_probs, eos_id)
        collect(found, beams, before, endings, ends, alpha)
        going_on = []
        for i, sentence in enumerate(beams.sentences):
            if before.size(1) == limits[sentence]:
                found[sentence] += unfinished(beams, i, alpha)
            elif len(found[sentence]) < beam_size:
                going_on.append(i)
        rows = rows[beams.keep(going_on)]
        if len(going_on) < len(src):
            kept = src.new_tensor(going_on)
            memory, src = memory[kept], src[kept]
            for layer in cache:
                layer.cross_attention.select(kept)
        for layer in cache:
            layer.self_attention.select(rows)
    model.train(was_training)
    return [sorted(h, key=lambda h: (not h.finished, -h.score))[:n_best] for h in found]
