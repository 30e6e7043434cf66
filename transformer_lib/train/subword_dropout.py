"""The same sentence in other pieces each time it is seen (BPE-dropout, Provilkov et al., 2020).

Sentencepiece can do this too, but what it draws cannot be repeated in another process, and a
training that was interrupted has to go on as if it had not been.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from transformer_lib.batching import IdPair
from transformer_lib.vocab import SPECIALS, SubwordVocab, Vocab

__all__ = ["SubwordDropout", "WordCutter"]


class WordCutter:
    """Byte-pair merges of single words, some of them left out.

    Args:
        vocab: pieces in the order in which they were learned, as byte-pair encoding has them.
        rate: probability that a possible merge is left out, drawn anew at every step.
        n_variants: how many cuts of a word there are to choose from; made when first needed.
    """

    def __init__(self, vocab: SubwordVocab, rate: float, n_variants: int = 64) -> None:
        pieces = ((id, vocab.id_to_token(id)) for id in range(len(SPECIALS), len(vocab)))
        self._rank = {piece: id for id, piece in pieces if len(piece) > 1}
        self._id = vocab.token_to_id
        self.rate, self.n_variants = rate, n_variants
        self.variant = lru_cache(maxsize=1 << 18)(self._variant)

    def cut(self, word: str, draw: random.Random) -> list[str]:
        """Merges the best two neighbours again and again, as long as any are left to merge."""
        pieces = list(word)
        while True:
            pairs = ((a + b, i) for i, (a, b) in enumerate(pairwise(pieces)))
            possible = [
                (self._rank[merged], i, merged)
                for merged, i in pairs
                if merged in self._rank and draw.random() >= self.rate
            ]
            if not possible:
                return pieces
            _, i, merged = min(possible)
            pieces[i : i + 2] = [merged]

    def _variant(self, word: str, number: int) -> tuple[int, ...]:
        """Cut `number` of a word as ids: a pure function, so that a draw can be repeated."""
        return tuple(map(self._id, self.cut(word, random.Random(f"{number} {word}"))))

    def __call__(self, text: str, draw: random.Random) -> list[int]:
        """Ids of a sentence, every word in one of its cuts."""
        words = (f"▁{word}" for word in text.split(" "))
        return [id for w in words for id in self.variant(w, draw.randrange(self.n_variants))]


class SubwordDropout:
    """Cuts training sentences anew, leaving out each merge of two pieces with some probability.

    A rare word is then seen in many cuts, its letters among them. So a model learns what pieces
    mean from more examples, and cannot learn a small corpus by heart so easily. The sentences
    get longer: `docs/training.md` has measured by how much.

    Args:
        src_vocab, tgt_vocab: the vocabularies the pairs were encoded with.
        rate: probability of leaving out a merge.
        max_len: a side that would have more ids than this keeps its usual pieces.

    Raises:
        ValueError: the vocabularies have no pieces.
    """

    def __init__(self, src_vocab: Vocab, tgt_vocab: Vocab, rate: float, max_len: int) -> None:
        if not isinstance(src_vocab, SubwordVocab) or not isinstance(tgt_vocab, SubwordVocab):
            raise ValueError("subword dropout needs subwords: prepare with --vocab subwords")
        joint = src_vocab.to_bytes() == tgt_vocab.to_bytes()
        cutter = WordCutter(src_vocab, rate)
        other = cutter if joint else WordCutter(tgt_vocab, rate)
        self.sides = [(src_vocab, cutter), (tgt_vocab, other)]
        self.max_len = max_len

    def __call__(self, pairs: Sequence[IdPair], key: str) -> list[IdPair]:
        """The pairs in other pieces. The same key gives the same pieces."""
        draw = random.Random(key)
        cut: list[IdPair] = []
        for src, tgt in pairs:
            src, tgt = (
                self._cut(ids, *side, draw)
                for ids, side in zip((src, tgt), self.sides, strict=True)
            )
            cut.append((src, tgt))
        return cut

    def _cut(
        self, ids: Sequence[int], vocab: Vocab, cutter: WordCutter, draw: random.Random
    ) -> Sequence[int]:
        if vocab.unk_id in ids:  # what was there is not known any more
            return ids
        start, end = ids[0] == vocab.bos_id, ids[-1] == vocab.eos_id
        found = cutter(vocab.decode(ids), draw)
        found = [vocab.bos_id] * start + found + [vocab.eos_id] * end
        return found if len(found) <= self.max_len else ids
