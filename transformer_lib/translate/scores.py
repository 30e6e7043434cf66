"""BLEU and chrF through sacrebleu, each with its signature.

A BLEU score means nothing without its signature (tokeniser, case, version), so the two are kept
together. sacrebleu is imported when a score is computed, not with the library.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lib.data.extras import needs
from transformer_lib.vocab import SPECIALS

__all__ = ["SPECIAL_TOKENS", "TOKENIZERS", "Score", "bleu", "chrf"]

SPECIAL_TOKENS = (*SPECIALS, "<s>", "</s>", "<sos>")
TOKENIZERS = ("13a", "intl", "char", "none")  # sacrebleu's others download a model


@dataclass(frozen=True)
class Score:
    """A corpus score from sacrebleu.

    Attributes:
        value: 0 to 100, higher is better.
        signature: how it was computed; report it beside the value.
    """

    value: float
    signature: str

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
    """Return corpus BLEU (Papineni et al., 2002), the paper's measure (section 6.1).

    The n-gram counts are summed over all sentences before anything is divided. Pass plain
    text: sacrebleu tokenises it itself, so that two systems are scored alike.

    Args:
        references: one reference for each, as a person wrote it. Never decode references
            from ids: `<unk>` against `<unk>` would count as a correct word.
        tokenize: one of `TOKENIZERS`; "none" for text that is already tokenised, such as
            Multi30k's `lc.norm.tok` files.
        special_tokens: refused in both texts, in any case. They are not words, and counting
            them raises the score. Pass () if the texts contain them as plain text.

    Raises:
        ValueError: no sentences, unequal numbers, special tokens, or an unknown tokenizer.
    """
    if tokenize not in TOKENIZERS:
        raise ValueError(f"no tokenizer {tokenize!r}; choose from {', '.join(TOKENIZERS)}")
    _check_texts(hypotheses, references, special_tokens)
    with needs("cli"):
        from sacrebleu.metrics import BLEU

    quiet = tokenize == "none"  # sacrebleu warns about tokenised text
    metric = BLEU(lowercase=lowercase, tokenize=tokenize, force=quiet)
    return _score(metric, hypotheses, references)


def chrf(
    hypotheses: Sequence[str],
    references: Sequence[str],
    lowercase: bool = False,
    word_order: int = 0,
    *,
    special_tokens: Collection[str] = SPECIAL_TOKENS,
) -> Score:
    """Return corpus chrF (Popović, 2015), the F-score of character n-grams.

    It needs no tokeniser. Arguments and errors as in `bleu`. A `word_order` of 0 is chrF; 2 adds
    single words and word pairs, which is chrF++.
    """
    _check_texts(hypotheses, references, special_tokens)
    with needs("cli"):
        from sacrebleu.metrics import CHRF

    return _score(CHRF(lowercase=lowercase, word_order=word_order), hypotheses, references)


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Score(result.score, str(metric.get_signature()))


def _check_texts(
    hypotheses: Sequence[str], references: Sequence[str], special_tokens: Collection[str]
) -> None:
    """Raise unless both sides are equally many plain strings without special tokens."""
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("give a list of sentences, not one string")
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} references")
    if len(hypotheses) == 0:
        raise ValueError("no sentences to score")
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
