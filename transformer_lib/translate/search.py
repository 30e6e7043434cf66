"""Greedy decoding and beam search for a whole batch at once.

The same searches as in notebook 07 (`greedy_sentence`, `beam_sentence`), with the same results:
one new token per step, keys and values cached, sentences that are done leave the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from transformer_lib.config import ModelConfig, is_whole
from transformer_lib.data.reading import NotFiniteError
from transformer_lib.decoding import Hypothesis, length_penalty
from transformer_lib.model import Transformer
from transformer_lib.translate.inference import BatchDecoder, decoder_for
from transformer_lib.vocab import BOS_ID, EOS_ID

__all__ = ["beam_search", "check_search", "greedy_decode"]

TextOf = Callable[[list[int]], str]
BLOCK = 32  # scores that `top_k_of_blocks` looks at together


def length_limits(src: Int[Tensor, "B S"], extra: int, decoder: BatchDecoder) -> list[int]:
    """Most tokens of each translation, `<eos>` included: `extra` more than its source has.

    At least one, and at most as many as the model has positions. It does not depend on the batch.
    """
    config = decoder.model.config
    lengths = (src != config.pad_id).sum(dim=1).tolist()
    return [min(max(1, length + extra), config.max_len) for length in lengths]


@torch.inference_mode()
def greedy_decode(
    model: Transformer | BatchDecoder,
    src: Int[Tensor, "B S"],
    *,
    extra: int = 50,
    bos_id: int = BOS_ID,
    eos_id: int = EOS_ID,
    scores: bool = True,
) -> list[Hypothesis]:
    """Decode greedily, one hypothesis per sentence (section 3.1); ties go to the lower id.

    Args:
        model: in either mode, which stays as it is; or what `decoder_for` made of it.
        src: source ids, padded at the end.
        extra: a translation may be this many tokens longer than its source.
        scores: whether to compute log-probabilities, a tenth of the time; without, they are NaN.
    """
    decoder = decoder_for(model)
    src = check_source(src, decoder.model.config, extra)
    check_ids(decoder.model.config, bos_id=bos_id, eos_id=eos_id)
    limits = length_limits(src, extra, decoder)
    if not limits:
        return []
    ids, log_probs = [[] for _ in limits], [0.0] * len(limits)
    rows = list(range(len(limits)))  # the sentence of each row
    unfinished = set(rows)
    token = src.new_full((len(src), 1), bos_id)
    with decoder.start(src, max(limits)) as step:
        while unfinished:
            logits = step(token)
            best, token = highest(logits)
            check_numbers(best - best)  # NaN for infinity, too
            next_ids, nats = token[:, 0].tolist(), [math.nan] * len(rows)
            if scores:
                nats = log_softmax(logits).gather(1, token)[:, 0].tolist()
            for sentence, id, log_prob in zip(rows, next_ids, nats, strict=True):
                if sentence in unfinished:
                    ids[sentence].append(id)
                    log_probs[sentence] += log_prob
                    if id == eos_id or len(ids[sentence]) == limits[sentence]:
                        unfinished.remove(sentence)
            if 0 < len(unfinished) <= 0.75 * len(rows):  # dropping rows costs about a step
                kept = [i for i, row in enumerate(rows) if row in unfinished]
                rows = [rows[i] for i in kept]
                kept_rows = src.new_tensor(kept)
                token = token[kept_rows]
                step.select(kept_rows, kept)
    return [
        Hypothesis([i for i in row if i != eos_id], total, total, row[-1:] == [eos_id])
        for row, total in zip(ids, log_probs, strict=True)
    ]


def log_softmax(logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
    """Log-probabilities, in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


def check_numbers(scores: Tensor) -> None:
    """Raise if the model computes NaN: no search can rank its translations."""
    if scores.isnan().any():
        reason = "its weights hold NaN, infinity or numbers that are too large"
        raise NotFiniteError(f"the model computes NaN instead of probabilities: {reason}")


def highest(scores: Float[Tensor, "R V"]) -> tuple[Float[Tensor, "R 1"], Int[Tensor, "R 1"]]:
    """Return the highest score of every row and its index; ties go to the lower index.

    It is `Tensor.max`, in less than half the time for many rows: maxima of blocks are vectorized.
    """
    if len(scores) < 16 or scores.size(1) % BLOCK:
        return scores.max(dim=1, keepdim=True)
    blocks = scores.unflatten(1, (-1, BLOCK))
    best, chosen = blocks.amax(dim=2).max(dim=1, keepdim=True)
    inside = blocks.take_along_dim(chosen[:, :, None], dim=1)[:, 0]
    return best, chosen * BLOCK + inside.argmax(dim=1, keepdim=True)


def first_top_k(
    scores: Float[Tensor, "B N"], k: int
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """Return the k highest scores of every row and their indices; ties go to the lower index.

    `torch.topk` leaves the order of ties open, and then a beam would not be reproducible.
    """
    if scores.size(1) > 8 * k * BLOCK:
        return top_k_of_blocks(scores, k)
    scores, found = scores.clone(), []
    for _ in range(k):
        found.append(scores.max(dim=1, keepdim=True))
        scores.scatter_(1, found[-1].indices, -torch.inf)
    return torch.cat([f.values for f in found], 1), torch.cat([f.indices for f in found], 1)


def top_k_of_blocks(
    scores: Float[Tensor, "B N"], k: int
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """Return the same as `first_top_k`: the best lie in the k blocks with the highest maxima."""
    if missing := -scores.size(1) % BLOCK:
        scores = F.pad(scores, (0, missing), value=-torch.inf)
    blocks = scores.unflatten(1, (-1, BLOCK))
    best, chosen = first_top_k(blocks.amax(dim=-1), k)
    chosen, order = chosen.sort(dim=1)  # of ties in several blocks, the first comes first
    nothing = best.gather(1, order) == -torch.inf  # fewer than k blocks: one was chosen twice
    inside = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK))
    inside = inside.masked_fill(nothing[:, :, None], -torch.inf)
    values, index = first_top_k(inside.flatten(1), k)
    return values, chosen.gather(1, index // BLOCK) * BLOCK + index % BLOCK


def among_the_best(
    endings: Float[Tensor, "n p"],
    eos_index: Int[Tensor, "n p"],
    continuing: Float[Tensor, "n k"],
    index: Int[Tensor, "n k"],
) -> Bool[Tensor, "n p"]:
    """True where fewer than k continuations of the sentence are ahead of an ending.

    Ahead is a higher score or, of ties, a lower index: the rule of `first_top_k`.
    """
    rivals = torch.cat([continuing, endings], dim=1)[:, None, :]  # (n, 1, k + p)
    rival_index = torch.cat([index, eos_index], dim=1)[:, None, :]
    score, own_index = endings[:, :, None], eos_index[:, :, None]  # (n, p, 1)
    ahead = (rivals > score) | ((rivals == score) & (rival_index < own_index))
    return (ahead.sum(-1) < continuing.size(1)) & endings.isfinite()


class Beams:
    """The open prefixes of every sentence that is still searched: p rows of the batch for each.

    At first it is one, the empty prefix, then k.
    """

    def __init__(self, n_sentences: int, beam_size: int, bos_id: int, like: Tensor) -> None:
        self.size = beam_size
        self.sentences = list(range(n_sentences))  # sentence i owns rows i·p … i·p + p - 1
        self.ids = like.new_full((n_sentences, 1), bos_id)
        self.log_probs = torch.zeros((n_sentences, 1), device=like.device)

    def extend(
        self, log_probs: Float[Tensor, "rows V"], eos_id: int
    ) -> tuple[Int[Tensor, " nk"], Float[Tensor, "n p"], Bool[Tensor, "n p"]]:
        """Keep the k best continuations of every sentence, `<eos>` apart.

        Prefix j continued by id v has the index j · V + v.

        Returns:
            The row each prefix continues, the log-probability of ending each of the *old*
            prefixes here, and whether that ending is among its sentence's k best continuations.
        """
        k, v = self.size, log_probs.size(1)
        n, p = self.log_probs.shape
        endings = self.log_probs + log_probs[:, eos_id].view(n, p)
        log_probs[:, eos_id] = -torch.inf
        best, ids = first_top_k(log_probs, k)  # (n p, k): no row can give more than k
        totals = self.log_probs[:, :, None] + best.view(n, p, k)
        self.log_probs, chosen = first_top_k(totals.view(n, p * k), k)  # (n, k); NaN comes first
        check_numbers(self.log_probs)
        index = chosen // k * v + ids.view(n, p * k).gather(1, chosen)
        eos_index = (torch.arange(p, device=index.device) * v + eos_id).expand_as(endings)
        ends = among_the_best(endings, eos_index, self.log_probs, index)
        parents = (index // v + torch.arange(n, device=index.device)[:, None] * p).flatten()
        self.ids = torch.cat([self.ids[parents], (index % v).view(-1, 1)], dim=1)
        return parents, endings, ends

    def keep(self, numbers: list[int]) -> Int[Tensor, " rows"]:
        """Drop all sentences but these, and return the rows that stay."""
        kept = self.ids.new_tensor(numbers)
        first_rows = kept[:, None] * self.size
        rows = (first_rows + torch.arange(self.size, device=kept.device)).flatten()
        self.sentences = [self.sentences[i] for i in numbers]
        self.ids, self.log_probs = self.ids[rows], self.log_probs[kept]
        return rows

    def unfinished(self, i: int, alpha: float) -> list[Hypothesis]:
        """Return the prefixes of sentence i as hypotheses that reached the limit."""
        rows = self.ids[i * self.size : (i + 1) * self.size, 1:].tolist()
        return [
            Hypothesis(ids, total, total / length_penalty(len(ids), alpha), False)
            for ids, total in zip(rows, self.log_probs[i].tolist(), strict=True)
            if total > -torch.inf
        ]


def collect(
    results: list[list[Hypothesis]],
    beams: Beams,
    before: Int[Tensor, "rows T"],
    endings: Float[Tensor, "n p"],
    ends: Bool[Tensor, "n p"],
    alpha: float,
    best: dict[int, float],
) -> None:
    """Add the hypotheses that end in this step to the results; `before` are their prefixes.

    For sentences with a score in `best`, none with a higher score is added.
    """
    length = before.size(1)  # <bos> is not counted, <eos> is
    i, j = ends.nonzero(as_tuple=True)  # all at once: a GPU is waited for once, not for each
    rows, totals = before[i * endings.size(1) + j, 1:].tolist(), endings[i, j].tolist()
    for number, ids, total in zip(i.tolist(), rows, totals, strict=True):
        score, sentence = total / length_penalty(length, alpha), beams.sentences[number]
        if score <= best.get(sentence, torch.inf):
            results[sentence].append(Hypothesis(ids, total, score, True))


def different(hypotheses: list[Hypothesis], text_of: TextOf | None) -> list[Hypothesis]:
    """Return the first hypothesis of every text; all of them without `text_of`."""
    if text_of is None:
        return hypotheses
    first: dict[str, Hypothesis] = {}
    for hypothesis in hypotheses:
        first.setdefault(text_of(hypothesis.ids), hypothesis)
    return [*first.values()]


def check_search(n_best: int, beam_size: int, alpha: float, vocab_size: int) -> None:
    """Raise ValueError for a beam that cannot be, or a length penalty that ranks nothing."""
    if not (is_whole(n_best) and is_whole(beam_size) and 1 <= n_best <= beam_size <= vocab_size):
        raise ValueError(
            f"need 1 <= n_best <= beam_size <= vocabulary size, got n_best={n_best!r}, "
            f"beam_size={beam_size!r}, vocabulary size {vocab_size}"
        )
    # ((5 + n) / 6)^100 still is a float for a million tokens
    if not isinstance(alpha, Real) or not 0 <= alpha <= 100:
        raise ValueError(f"alpha must be a number between 0 and 100, got {alpha!r}")


def check_source(src: Tensor, config: ModelConfig, extra: int) -> Tensor:
    """Return the source of a search, at least one column wide, or raise ValueError."""
    if not isinstance(src, Tensor):
        raise ValueError(f"src must hold whole numbers (B, S), got {type(src).__name__}")
    if src.dim() != 2 or src.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"src must hold whole numbers (B, S), got {src.dtype} {[*src.shape]}")
    if not is_whole(extra):
        raise ValueError(f"extra must be a whole number, got {extra!r}")
    if not src.numel():
        return src.new_full((len(src), 1), config.pad_id)
    first, last = (int(id) for id in src.aminmax())
    if first < 0 or last >= config.src_vocab_size:
        id = first if first < 0 else last
        raise ValueError(f"id {id} is out of range: the vocabulary has {config.src_vocab_size} ids")
    return src


def check_ids(config: ModelConfig, **ids: object) -> None:
    """Raise ValueError for what is no id of the target vocabulary."""
    for name, id in ids.items():
        if not (is_whole(id) and 0 <= id < config.tgt_vocab_size):
            raise ValueError(f"{name} must be an id below {config.tgt_vocab_size}, got {id!r}")


@torch.inference_mode()
def beam_search(
    model: Transformer | BatchDecoder,
    src: Int[Tensor, "B S"],
    *,
    beam_size: int = 4,
    alpha: float = 0.6,
    n_best: int = 1,
    extra: int = 50,
    bos_id: int = BOS_ID,
    eos_id: int = EOS_ID,
    text_of: TextOf | None = None,
) -> list[list[Hypothesis]]:
    """Search for the `n_best` translations of all sentences at once (section 6.1).

    A sentence is done with `beam_size` finished hypotheses, or at its length + `extra` tokens.
    Finished hypotheses come first, then those with a higher score.

    Args:
        model: in either mode, which stays as it is; or what `decoder_for` made of it.
        src: source ids, padded at the end.
        alpha: exponent of the length penalty, 0 to 100.
        text_of: turns ids into a text. With it, no two of the n best have the same text: the
            search continues until it has found `n_best` texts, and the best stays the best. At
            the length limit there may be fewer.

    Raises:
        ValueError: impossible widths, or such an alpha.
        NotFiniteError: the model computes NaN.
    """
    decoder = decoder_for(model)
    check_search(n_best, beam_size, alpha, decoder.model.config.tgt_vocab_size)
    src = check_source(src, decoder.model.config, extra)
    check_ids(decoder.model.config, bos_id=bos_id, eos_id=eos_id)
    limits = length_limits(src, extra, decoder)
    if not limits:
        return []
    results, beams = [[] for _ in limits], Beams(len(src), beam_size, bos_id, like=src)
    best: dict[int, float] = {}  # of sentences that go on only for more texts
    with decoder.start(src, max(limits)) as step:
        while beams.sentences:
            before = beams.ids
            parents, endings, ends = beams.extend(log_softmax(step(before[:, -1:])), eos_id)
            collect(results, beams, before, endings, ends, alpha, best)
            remaining = []
            for i, sentence in enumerate(beams.sentences):
                found = results[sentence]
                if before.size(1) == limits[sentence]:
                    found += beams.unfinished(i, alpha)
                elif len(found) < beam_size:
                    remaining.append(i)
                elif len(different(found, text_of)) < n_best:
                    remaining.append(i)
                    best[sentence] = max(h.score for h in found)
            dropped = len(remaining) < len(beams.sentences)
            parents = parents[beams.keep(remaining)]
            step.select(parents, remaining if dropped else None)
    ranked = (sorted(found, key=lambda h: (not h.finished, -h.score)) for found in results)
    return [different(found, text_of)[:n_best] for found in ranked]
