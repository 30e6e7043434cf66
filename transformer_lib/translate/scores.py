"""BLEU and chrF through sacrebleu, each with its signature.

A BLEU score means nothing without its signature (tokenizer, case, version), so the two are kept
together. The tokenizer depends on the target language: words without spaces between them would be
one token. sacrebleu is imported when a score is computed, not with the library.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lib.data.coverage import NO_SPACES
from transformer_lib.data.extras import needs
from transformer_lib.data.text import is_list
from transformer_lib.vocab import SPECIALS

__all__ = [
    "SPECIAL_TOKENS",
    "TOKENIZERS",
    "Score",
    "bleu",
    "check_texts",
    "choose_tokenizer",
    "chrf",
    "is_countable",
]

SPECIAL_TOKENS = (*SPECIALS, "<s>", "</s>", "<sos>")
# sacrebleu's others download a model
TOKENIZERS = ("13a", "intl", "char", "none", "zh", "ja-mecab", "ko-mecab")
TOKENIZER_OF = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
    **dict.fromkeys(("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bo", "dz"), "char"),
}
SPACELESS = re.compile(f"[{NO_SPACES}]")


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
    text: sacrebleu tokenizes it itself, so that two systems are scored alike.

    Args:
        references: one reference for each, as a person wrote it. Never decode references
            from ids: `<unk>` against `<unk>` would count as a correct word.
        tokenize: one of `TOKENIZERS`, see `choose_tokenizer`; "none" for text that is already
            tokenized, such as Multi30k's `lc.norm.tok` files.
        special_tokens: refused in both texts, in any case. They are not words, and counting
            them raises the score. Pass () if the texts contain them as plain text.

    Raises:
        ValueError: no sentences, unequal numbers, special tokens, or an unknown tokenizer.
    """
    check_texts(hypotheses, references, special_tokens)
    metric = _bleu_metric(tokenize, lowercase)
    return _score(metric, hypotheses, references)


def _bleu_metric(tokenize: str, lowercase: bool = False) -> Any:
    if tokenize not in TOKENIZERS:
        raise ValueError(f"no tokenizer {tokenize!r}; choose from {', '.join(TOKENIZERS)}")
    with needs("cli"):
        from sacrebleu.metrics import BLEU

    # sacrebleu warns about text that is tokenized, as characters and "none" are
    quiet = tokenize in ("none", "char", "zh")
    try:
        return BLEU(lowercase=lowercase, tokenize=tokenize, force=quiet)
    except RuntimeError as error:  # MeCab is not installed
        extra = tokenize.partition("-")[0]
        raise ValueError(f'{tokenize} needs pip install "sacrebleu[{extra}]"') from error


def choose_tokenizer(language: str | None, references: Sequence[str]) -> str:
    """Return the name of the tokenizer with which BLEU counts words of the target language.

    "zh" for Chinese, MeCab's for Japanese and Korean if it is installed, else "char"; "char" too
    for other text without spaces between words, whatever its language is called; else "13a".

    Args:
        language: ISO code, with or without a region; None if it is not known.
        references: of the text that will be scored.
    """
    code = re.split("[-_]", (language or "").lower())[0]
    if tokenize := TOKENIZER_OF.get(code):
        return tokenize if _is_installed(tokenize) else "char"
    text = "".join(map(str, references))
    spaceless = len(SPACELESS.findall(text))
    return "char" if 4 * spaceless > len(text) else "13a"


def _is_installed(tokenize: str) -> bool:
    try:
        _bleu_metric(tokenize)
    except (ValueError, AssertionError):  # no MeCab, or not the dictionary that sacrebleu expects
        return False
    return True


def is_countable(references: Sequence[str], tokenize: str = "13a") -> bool:
    """True if at least half of the references have the four tokens that BLEU counts.

    The BLEU of a perfect translation of shorter texts is 0, and that of a bad one may be higher.
    """
    split = _bleu_metric(tokenize).tokenizer
    n_long = sum(len(split(text).split()) >= 4 for text in references)
    return 2 * n_long >= len(references)


def chrf(
    hypotheses: Sequence[str],
    references: Sequence[str],
    lowercase: bool = False,
    word_order: int = 0,
    *,
    special_tokens: Collection[str] = SPECIAL_TOKENS,
) -> Score:
    """Return corpus chrF (Popović, 2015), the F-score of character n-grams.

    It needs no tokenizer. Arguments and errors as in `bleu`. A `word_order` of 0 is chrF; 2 adds
    single words and word pairs, which is chrF++.
    """
    check_texts(hypotheses, references, special_tokens)
    with needs("cli"):
        from sacrebleu.metrics import CHRF

    return _score(CHRF(lowercase=lowercase, word_order=word_order), hypotheses, references)


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Score(result.score, str(metric.get_signature()))


def check_texts(
    hypotheses: Sequence[str],
    references: Sequence[str],
    special_tokens: Collection[str] = (),
) -> None:
    """Raise ValueError unless both are equally many plain strings without special tokens."""
    for texts in (hypotheses, references):
        if isinstance(texts, str | bytes):
            raise ValueError("give a list of sentences, not one string")
        if not is_list(texts):
            raise ValueError(f"give a list of sentences, not {type(texts).__name__}")
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
