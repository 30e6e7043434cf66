"""Scores: BLEU and chrF through sacrebleu, exact match, and how well attention finds words.

A BLEU score says nothing without its signature (tokeniser, case, version), so the two travel
together. sacrebleu is imported when a score is asked for, not with the library.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from transformer_lib.vocab import SPECIALS

__all__ = [
    "SPECIAL_TOKENS",
    "TOKENIZERS",
    "AlignmentScore",
    "Link",
    "Score",
    "alignment_recall_precision",
    "attention_links",
    "bleu",
    "chrf",
    "exact_match",
]

SPECIAL_TOKENS = (*SPECIALS, "<s>", "</s>", "<sos>")
TOKENIZERS = ("13a", "intl", "char", "none")  # sacrebleu's others download a model
Link = tuple[int, int]  # (source position, target position), counted from 0


@dataclass(frozen=True)
class Score:
    """A score from sacrebleu.

    Attributes:
        value: 0 to 100, higher is better.
        signature: how it was computed; belongs beside the number wherever that is reported.
        detail: sacrebleu's own line; for BLEU with precisions, brevity penalty and lengths.
    """

    value: float
    signature: str
    detail: str

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.signature})"


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    lowercase: bool = False,
    tokenize: str = "13a",
    *,
    special_tokens: Collection[str] = SPECIAL_TOKENS,
) -> Score:
    """Corpus BLEU (Papineni et al., 2002), the paper's measure (section 6.1).

    The n-gram counts are summed over all sentences before anything is divided. Give plain
    text: sacrebleu cuts it into tokens itself, so that two systems are counted alike.

    Args:
        hypotheses: the translations.
        references: one reference for each, as it was written by a person, never decoded
            from ids: `<unk>` for `<unk>` would count as a right word.
        lowercase: compare without case.
        tokenize: one of `TOKENIZERS`; "none" for text that is tokenised already, as in
            Multi30k's `lc.norm.tok` files.
        special_tokens: refused in both texts, in any case; they are not words, and counting
            them raises the score. Pass () if the texts hold them as plain text.

    Raises:
        ValueError: no sentences, unequal numbers, special tokens, or no such tokenizer.
    """
    if tokenize not in TOKENIZERS:
        raise ValueError(f"no tokenizer {tokenize!r}; choose from {', '.join(TOKENIZERS)}")
    _check_texts(hypotheses, references, special_tokens)
    from sacrebleu.metrics import BLEU

    tokenised = tokenize == "none"  # then sacrebleu need not warn that the text looks so
    metric = BLEU(lowercase=lowercase, tokenize=tokenize, force=tokenised)
    return _score(metric, hypotheses, references)


def chrf(
    hypotheses: Sequence[str],
    references: Sequence[str],
    lowercase: bool = False,
    word_order: int = 0,
    *,
    special_tokens: Collection[str] = SPECIAL_TOKENS,
) -> Score:
    """Corpus chrF (Popović, 2015): F-score of character n-grams; it needs no tokeniser.

    Arguments and errors as in `bleu`. A `word_order` of 0 is chrF; 2 counts single words and
    word pairs too, which is chrF++.
    """
    _check_texts(hypotheses, references, special_tokens)
    from sacrebleu.metrics import CHRF

    return _score(CHRF(lowercase=lowercase, word_order=word_order), hypotheses, references)


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Score(result.score, str(metric.get_signature()), str(result))


def exact_match(predictions: Sequence, references: Sequence) -> float:
    """Share of predictions that equal their reference, 0 to 1.

    Raises:
        ValueError: nothing to compare, or unequal numbers.
    """
    _check_counts(predictions, references)
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


@dataclass(frozen=True)
class AlignmentScore:
    """Counts of links between words, of one sentence pair or many: `a + b` adds them up.

    Add the counts of all sentences before reading a share; a mean of shares would let a
    short sentence weigh as much as a long one.

    Attributes:
        hits: gold links (s, t) whose target word t has a predicted link to *some* source
            word that gold aligns with t.
        correct: predicted links that are gold links.
        predicted: predicted links.
        gold: gold links.
    """

    hits: int
    correct: int
    predicted: int
    gold: int

    def __add__(self, other: AlignmentScore) -> AlignmentScore:
        return AlignmentScore(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def found(self) -> float:
        """Share of gold links that are hits, 0 to 1: attention's share of the right words.

        An argmax chooses one source word for each target word. Where gold aligns two, it is
        a hit for both links if it is one of them; `recall` would count one as lost.
        """
        return _share(self.hits, self.gold, "gold links")

    @property
    def recall(self) -> float:
        """Share of gold links that were predicted, 0 to 1."""
        return _share(self.correct, self.gold, "gold links")

    @property
    def precision(self) -> float:
        """Share of predicted links that are gold links, 0 to 1."""
        return _share(self.correct, self.predicted, "predicted links")

    @property
    def aer(self) -> float:
        """Alignment error rate (Och and Ney, 2003), 0 is perfect and 1 is all wrong.

        With gold links that are all "sure" it is 1 - 2 correct / (predicted + gold) = 1 - F1.
        """
        return 1 - _share(2 * self.correct, self.predicted + self.gold, "links")


def attention_links(attention: Float[Tensor, "T S"]) -> frozenset[Link]:
    """For each target position the source position it looks at most: {(argmax of row t, t)}.

    Of equal weights the first column wins; a row of zeros (all masked) has no link.

    Args:
        attention: one cross-attention map, rows are queries (target), columns are keys
            (source); a head, or the mean of several. Row t must be the query that *predicts*
            target word t: with decoder input `<bos> y_0 y_1 …` that is row t, unshifted. Cut
            off the rows and columns of padding, and the row that predicts `<eos>`. If the
            source ends with `<eos>`, its column may stay: looking there is a miss.

    Raises:
        ValueError: raw scores or a transposed map: rows are weights and add up to at most 1.
    """
    if attention.ndim != 2 or attention.shape[1] == 0:
        raise ValueError(f"an attention map here is (T, S), got {tuple(attention.shape)}")
    if not torch.isfinite(attention).all() or (attention < 0).any():
        raise ValueError("attention weights are finite and not negative; these are not")
    sums = attention.double().sum(dim=1)
    if (sums > 1.01).any():  # 1 % for half precision; a cut column only lowers a sum
        row = int(sums.argmax())
        found = f"attention row {row} adds up to {sums[row]:.2f}, expected at most 1"
        raise ValueError(f"{found}; rows are queries (target): is the map transposed?")
    best = attention.argmax(dim=1).tolist()
    return frozenset((s, t) for t, s in enumerate(best) if sums[t] > 0)


def alignment_recall_precision(
    predicted: Float[Tensor, "T S"] | Iterable[Link], gold: Iterable[Link]
) -> AlignmentScore:
    """Compares an attention map, or links, with the gold word alignment of one sentence pair.

    `sum(scores, start=AlignmentScore(0, 0, 0, 0))` gives the score of a whole corpus.

    Args:
        predicted: a map, see `attention_links`, or links (source position, target position).
        gold: the right links; a word may have none or several.

    Raises:
        ValueError: a gold link outside the map (both are named), or not a map.
    """
    gold = frozenset(gold)
    if isinstance(predicted, Tensor):
        links, (T, S) = attention_links(predicted), predicted.shape
        outside = [(s, t) for s, t in sorted(gold) if not (0 <= s < S and 0 <= t < T)]
        if outside:
            raise ValueError(f"gold link (s, t) = {outside[0]} is outside the ({T}, {S}) map")
    else:
        links = frozenset(predicted)
    right_rows = {t for _, t in links & gold}
    hits = sum(t in right_rows for _, t in gold)
    return AlignmentScore(hits, len(links & gold), len(links), len(gold))


def _share(part: int, whole: int, what: str) -> float:
    if whole == 0:
        raise ValueError(f"no {what} to count: a share of nothing has no value")
    return part / whole


def _check_counts(hypotheses: Sequence, references: Sequence) -> None:
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("give a list of sentences, not one string")
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} references")
    if len(hypotheses) == 0:
        raise ValueError("no sentences to score")


def _check_texts(
    hypotheses: Sequence[str], references: Sequence[str], special_tokens: Collection[str]
) -> None:
    """Sentences that can be scored: as many of each, plain strings, no special tokens."""
    _check_counts(hypotheses, references)
    for what, texts in (("hypothesis", hypotheses), ("reference", references)):
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"{what} {i} is a {type(text).__name__}, expected one string")
            for token in special_tokens:
                if token.lower() in text.lower():
                    raise ValueError(
                        f"{what} {i} holds {token!r}, which is not a word and changes the score; "
                        "take it out, or pass special_tokens=() if it is plain text"
                    )
