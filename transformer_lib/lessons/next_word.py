"""A small translator around one attention layer, to see what its heads learn to attend to."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lib.embeddings import TokenEmbedding
from transformer_lib.lessons.grammar import SentencePair
from transformer_lib.lessons.running import vocabularies
from transformer_lib.masks import padding_mask, teacher_forcing
from transformer_lib.positional import SinusoidalPositionalEncoding


class NextWord(nn.Module):
    """Predict each English word from the word before it and one look at the German sentence.

    Args:
        attention: maps (x, source, mask) to (output, weights), all vectors of width d_model.
    """

    def __init__(self, attention: nn.Module, d_model: int) -> None:
        super().__init__()
        german, english = vocabularies()
        self.german = TokenEmbedding(len(german), d_model)
        self.english = TokenEmbedding(len(english), d_model)
        self.positions = SinusoidalPositionalEncoding(d_model, max_len=64)
        self.attention = attention
        self.output = nn.Linear(d_model, len(english))

    def forward(self, src: Tensor, tgt: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and attention weights (B, H, T, S)."""
        x, memory = self.positions(self.english(tgt)), self.positions(self.german(src))
        attended, weights = self.attention(x, memory, padding_mask(src))
        return self.output(x + attended), weights


def to_ids(pairs: Sequence[SentencePair]) -> list[Tensor]:
    """Encode sentence pairs as two padded tensors, framed as in notebook 03."""
    german, english = vocabularies()
    src = [torch.tensor(german.encode(pair.source, eos=True)) for pair in pairs]
    tgt = [torch.tensor(english.encode(pair.target, bos=True, eos=True)) for pair in pairs]
    return [nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in (src, tgt)]


def train_next_word(
    attention: nn.Module, d_model: int, pairs: Sequence[SentencePair], *, steps: int = 300
) -> NextWord:
    """Train a `NextWord` around the layer on sentence pairs and print its loss."""
    model = NextWord(attention, d_model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    sources, targets = to_ids(pairs)
    for step in range(1, steps + 1):
        rows = torch.randint(len(sources), (32,))
        decoder_input, next_words = teacher_forcing(targets[rows])
        logits, _ = model(sources[rows], decoder_input)
        loss = F.cross_entropy(logits.transpose(1, 2), next_words, ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.2f}")
    return model
