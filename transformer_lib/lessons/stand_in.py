"""Small models with layers from torch, for notebooks 02 and 03, which have no layers yet."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lib.embeddings import OutputProjection, TokenEmbedding
from transformer_lib.lessons.grammar import grammar_corpus
from transformer_lib.lessons.running import vocabularies
from transformer_lib.masks import padding_mask
from transformer_lib.positional import SinusoidalPositionalEncoding

LONGEST, WIDTH = 7, 11  # most tokens of a sentence, and the width to which its ids are padded


class TinyCopier(nn.Module):
    """One encoder layer and one decoder layer, with positions added to the inputs of both.

    Args:
        positions: the module that adds them; `nn.Identity()` adds none.
        n_ids: number of different ids.
    """

    def __init__(self, positions: nn.Module, n_ids: int, d_model: int = 32) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(n_ids, d_model)
        self.positions = positions
        self.body = nn.Transformer(d_model, 2, 1, 1, 64, dropout=0.0, batch_first=True)
        self.to_letters = nn.Linear(d_model, n_ids)

    def forward(self, source: Tensor, written: Tensor) -> Tensor:
        """Return logits (B, T, n_ids) of the letter that follows each prefix."""
        later = nn.Transformer.generate_square_subsequent_mask(written.size(1))
        source, written = (self.positions(self.embedding(ids)) for ids in (source, written))
        return self.to_letters(self.body(source, written, tgt_mask=later, tgt_is_causal=True))


class StandIn(nn.Module):
    """A translator of one encoder layer and one decoder layer from torch.

    Args:
        mask_of: a function from T to the decoder's mask (T, T), where True means "may attend".
    """

    def __init__(self, mask_of: Callable[[int], Tensor], d_model: int = 64) -> None:
        super().__init__()
        german, english = vocabularies()
        self.mask_of = mask_of
        self.source = TokenEmbedding(len(german), d_model)
        self.target = TokenEmbedding(len(english), d_model)
        self.positions = SinusoidalPositionalEncoding(d_model, max_len=32)
        self.encoder = nn.TransformerEncoderLayer(d_model, 4, 128, 0.0, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(d_model, 4, 128, 0.0, batch_first=True)
        self.output = OutputProjection(self.target.weight)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Return logits (B, T, V). In torch's layers, True means "ignore", hence the `~`."""
        padding = ~padding_mask(src)[:, 0, 0]  # (B, S)
        future = ~self.mask_of(tgt.size(1))  # (T, T)
        x, y = self.positions(self.source(src)), self.positions(self.target(tgt))
        memory = self.encoder(x, src_key_padding_mask=padding)
        y = self.decoder(y, memory, tgt_mask=future, memory_key_padding_mask=padding)
        return self.output(y)


def short_sentences(split: str) -> tuple[Tensor, Tensor]:
    """Return the ids of the grammar's short sentence pairs, source and framed target."""
    german, english = vocabularies()
    pairs = [
        pair
        for pair in getattr(grammar_corpus(), split)
        if max(len(pair.source.split()), len(pair.target.split())) <= LONGEST
    ]
    sources = [german.encode(pair.source, eos=True) for pair in pairs]
    targets = [english.encode(pair.target, bos=True, eos=True) for pair in pairs]
    return _padded(sources), _padded(targets)


def _padded(rows: list[list[int]]) -> Tensor:
    return torch.stack([F.pad(torch.tensor(row), (0, WIDTH - len(row))) for row in rows])
