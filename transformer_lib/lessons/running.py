"""The running sentence pair and the ledger of its shapes."""

from functools import cache

import torch
from torch import Tensor

from transformer_lib.attention import MultiHeadAttention, attention, split_heads
from transformer_lib.embeddings import TokenEmbedding
from transformer_lib.feed_forward import FeedForward
from transformer_lib.lessons.grammar import RUNNING_PAIR, grammar_corpus
from transformer_lib.masks import padding_mask, target_mask, teacher_forcing
from transformer_lib.positional import SinusoidalPositionalEncoding
from transformer_lib.vocab import WordVocab

PAIR = RUNNING_PAIR  # German source, English target and the gold alignment between their words

Row = tuple[int, str, str, Tensor]  # notebook, name, dimensions, tensor


@cache
def vocabularies() -> tuple[WordVocab, WordVocab]:
    """Return the German and English words of the grammar corpus, from its training split alone."""
    train = grammar_corpus().train
    return (
        WordVocab.train((pair.source for pair in train), "de", min_freq=1),
        WordVocab.train((pair.target for pair in train), "en", min_freq=1),
    )


def running_ids() -> tuple[Tensor, Tensor]:
    """Return the pair in ids: source (1, S) with `<eos>`, target (1, L) with `<bos>`, `<eos>`."""
    german, english = vocabularies()
    src = german.encode(PAIR.source, eos=True)
    tgt = english.encode(PAIR.target, bos=True, eos=True)
    return torch.tensor([src]), torch.tensor([tgt])


class Ledger:
    """The shapes of the running sentence, module by module, at the paper's sizes.

    The ledger of a notebook has the rows of the modules built before, computed by those modules;
    the notebook adds its own. A letter has one size throughout: other rows are refused.
    """

    def __init__(self, notebook: int) -> None:
        self.sizes: dict[str, int] = {}
        self.rows: list[tuple[int, str, str, tuple[int, ...]]] = []
        self.notebook = 0
        for number, name, symbols, tensor in _rows_before(notebook):
            self.notebook = number
            self.add(name, symbols, tensor)
        self.notebook = notebook

    def add(self, name: str, symbols: str, tensor: Tensor) -> None:
        """Add one row; `symbols` are the dimensions of the tensor, such as "B S D".

        Raises:
            ValueError: a letter had another size before, or the number of letters is wrong.
        """
        letters, shape = symbols.split(), tuple(tensor.shape)
        if len(letters) != len(shape):
            raise ValueError(f"{name}: {len(letters)} symbols for a tensor of shape {shape}")
        sizes = dict(self.sizes)  # a refused row must leave no letter behind
        for letter, size in zip(letters, shape, strict=True):
            known = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if known != size:
                raise ValueError(f"{name}: {letter} was {known}, now it is {size}")
        self.sizes = sizes
        self.rows.append((self.notebook, name, symbols, shape))

    def __str__(self) -> str:
        """Format the table; ▶ marks the rows of this notebook."""
        heads = ("", "notebook", "what", "dimensions", "shape")
        cells = [
            ("▶" if n == self.notebook else "", f"{n:02d}", name, symbols, str(shape))
            for n, name, symbols, shape in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (heads, *cells)
        ]
        return "\n".join([f"{PAIR.source}  →  {PAIR.target}", "", *lines])


@torch.no_grad()
def _rows_before(notebook: int) -> list[Row]:
    """Return the rows of the notebooks before this one, computed with the library's modules."""
    src, tgt = running_ids()
    tgt_in, tgt_out = teacher_forcing(tgt)
    with torch.random.fork_rng(devices=[]):  # drawing weights must not move the reader's seed
        x = TokenEmbedding(len(vocabularies()[0]), 512)(src)
        with_positions = SinusoidalPositionalEncoding(512)(x)
        heads = split_heads(with_positions, 8)
        weights = attention(heads, heads, heads, padding_mask(src))[1]
        attended = MultiHeadAttention(512, 8)(with_positions, with_positions)
        feed_forward = FeedForward(512, 2048)
        rows_of_the_model = _rows_of_the_model(src, tgt_in) if notebook > 6 else []
    rows = [
        (1, "source ids", "B S", src),
        (1, "target ids, framed", "B L", tgt),
        (1, "source, embedded", "B S D", x),
        (2, "source with positions", "B S D", with_positions),
        (3, "padding mask", "B 1 1 S", padding_mask(src)),
        (3, "decoder input", "B T", tgt_in),
        (3, "targets", "B T", tgt_out),
        (3, "decoder mask", "B 1 T T", target_mask(tgt_in)),
        (4, "queries of all heads", "B H S d_k", heads),
        (4, "attention weights", "B H S S", weights),
        (4, "heads merged", "B S D", attended),
        (5, "inside the feed-forward", "B S F", feed_forward.expand(attended)),
        (5, "after the sub-layer", "B S D", feed_forward(attended)),
        *rows_of_the_model,
    ]
    return [row for row in rows if row[0] < notebook]


def _rows_of_the_model(src: Tensor, tgt_in: Tensor) -> list[Row]:
    """Return the rows of notebook 06; earlier notebooks have no model, so it is imported here."""
    from transformer_lib.config import ModelConfig
    from transformer_lib.model import Transformer

    model = Transformer(ModelConfig(*map(len, vocabularies()))).eval()
    memory = model.encode(src)
    hidden = model.decode(tgt_in, memory, src)
    logits = (6, "logits", "B T V", model.output_projection(hidden))
    return [(6, "memory", "B S D", memory), (6, "hidden", "B T D", hidden), logits]
