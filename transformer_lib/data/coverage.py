"""Coverage of a text by a vocabulary: how much is unknown, and into how many tokens words split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from transformer_lib.vocab import Vocab

__all__ = ["Coverage", "count", "coverage"]

MANY_UNKNOWN = 0.1  # share of all tokens
MANY_TOKENS = 2.5  # tokens per word; text like that in training has about 1.5 with 8,000 subwords
# In scripts without spaces (Thai, Lao, Burmese, Khmer, kana, Han), every character is a word.
NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
WORD = re.compile(f"[{NO_SPACES}]|[^{NO_SPACES}\\s]+")


@dataclass(frozen=True)
class Coverage:
    """Counts of a text: its tokens without `<bos>` and `<eos>`, the unknown ones, its words.

    Words are separated by spaces; in scripts without spaces, every character counts as a word.
    """

    tokens: int = 0
    unknown: int = 0
    words: int = 0

    def __add__(self, other: Coverage) -> Coverage:
        names = (field.name for field in fields(self))
        return Coverage(*(getattr(self, name) + getattr(other, name) for name in names))

    def __str__(self) -> str:
        return f"{self.unknown_share:.1%} unknown, {self.tokens_per_word:.2f} tokens per word"

    @property
    def unknown_share(self) -> float:
        """Share of tokens that are `<unk>`, from 0 to 1; 0 for no token."""
        return self.unknown / max(1, self.tokens)

    @property
    def tokens_per_word(self) -> float:
        """Tokens per word; 0 for no word."""
        return self.tokens / max(1, self.words)

    def warning(self, training: Coverage | None = None) -> str | None:
        """Return why the text may be in another language or on another subject, or None.

        Args:
            training: coverage of the training text, to compare with; when left out, a limit that
                suits 8,000 subwords.
        """
        if self.unknown_share > MANY_UNKNOWN:
            return f"{self.unknown_share:.0%} of the tokens are unknown to the vocabulary"
        limit = 1.5 * training.tokens_per_word if training else MANY_TOKENS
        if self.tokens_per_word > limit:
            return f"words are split into {self.tokens_per_word:.1f} tokens, as rare words are"
        return None


def coverage(vocab: Vocab, sentences: Iterable[str]) -> Coverage:
    """Count the tokens, unknown tokens and words of a text under a vocabulary."""
    return sum((count(vocab, text, vocab.encode(text)) for text in sentences), Coverage())


def count(vocab: Vocab, sentence: str, ids: list[int]) -> Coverage:
    """Count one sentence that is encoded already; `<bos>` and `<eos>` do not count."""
    n_tokens = len(ids) - ids.count(vocab.bos_id) - ids.count(vocab.eos_id)
    return Coverage(n_tokens, ids.count(vocab.unk_id), len(WORD.findall(sentence)))
