"""Scores of attention against a gold word alignment: how often it is on the right word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["AlignmentScore", "Link", "alignment_score", "attention_links"]

Link = tuple[int, int]  # (source position, target position), counted from 0


@dataclass(frozen=True)
class AlignmentScore:
    """Counts of links between words, of one sentence pair or many: `a + b` adds them up.

    Add the counts of all sentences before reading the rate; a mean of rates would give a short
    sentence the weight of a long one.
    """

    hits: int  # gold links (s, t) whose t attends most to *some* word that gold aligns with t
    gold: int  # gold links

    def __add__(self, other: AlignmentScore) -> AlignmentScore:
        return AlignmentScore(self.hits + other.hits, self.gold + other.gold)

    @property
    def hit_rate(self) -> float:
        """Share of gold links that are hits, 0 to 1.

        An argmax chooses one source word for each target word. Where gold aligns two, choosing
        either is a hit for both links; plain recall would count one of them as missed.
        """
        if self.gold == 0:
            raise ValueError("no gold links to count: a share of nothing has no value")
        return self.hits / self.gold


def attention_links(attention: Float[Tensor, "T S"]) -> frozenset[Link]:
    """Return the most attended source position of each target position: {(argmax of row t, t)}.

    `attention` is one cross-attention map, of a head or the mean of several. Row t must be the
    query that *predicts* target word t: with decoder input `<bos> y_0 y_1 …` that is row t,
    unshifted. Leave out the rows and columns of padding, and the row that predicts `<eos>`. If the
    source ends with `<eos>`, its column may stay: attending to it is a miss. Ties go to the first
    column; a row of zeros (all masked) has no link.

    Raises:
        ValueError: raw scores or a transposed map; rows are weights and sum to at most 1.
    """
    if attention.ndim != 2 or attention.shape[1] == 0:
        raise ValueError(f"an attention map here is (T, S), got {tuple(attention.shape)}")
    if not torch.isfinite(attention).all() or (attention < 0).any():
        raise ValueError("attention weights are finite and not negative; these are not")
    attention = attention.cpu()  # MPS has no float64
    sums = attention.double().sum(dim=1)
    if (sums > 1.01).any():  # 1 % for half precision; dropping a column only lowers a sum
        row = int(sums.argmax())
        raise ValueError(
            f"attention row {row} sums to {sums[row]:.2f}, expected at most 1; "
            "rows are queries (target): is the map transposed?"
        )
    best = attention.argmax(dim=1).tolist()
    return frozenset((s, t) for t, s in enumerate(best) if sums[t] > 0)


def alignment_score(attention: Float[Tensor, "T S"], gold: Iterable[Link]) -> AlignmentScore:
    """Compare an attention map, see `attention_links`, with the gold alignment of its sentences.

    In `gold` a word may have no link or several. `sum(scores, start=AlignmentScore(0, 0))` gives
    the score of a whole corpus.

    Raises:
        ValueError: a gold link outside the map, or not a map.
    """
    gold = frozenset(gold)
    links, (T, S) = attention_links(attention), attention.shape
    for s, t in sorted(gold):
        if not (0 <= s < S and 0 <= t < T):
            raise ValueError(f"gold link (s, t) = {(s, t)} is outside the ({T}, {S}) map")
    matched_targets = {t for _, t in links & gold}
    return AlignmentScore(sum(t in matched_targets for _, t in gold), len(gold))
