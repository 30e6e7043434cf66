# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""The whole Transformer of Figure 1: embeddings, encoder, decoder, output projection."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer_lib.attention import KeyValueCache, Maps
from transformer_lib.config import ModelConfig
from transformer_lib.embeddings import OutputProjection, TokenEmbedding
from transformer_lib.layers import Decoder, Encoder
from transformer_lib.masks import causal_mask, padding_mask, target_mask
from transformer_lib.positional import LearnedPositionalEncoding, SinusoidalPositionalEncoding

__all__ = ["AttentionMaps", "make_positions", "initialize", "Transformer"]


class AttentionMaps(NamedTuple):
    """All attention weights of one forward pass. Rows are queries; each sums to 1 or is all 0."""

    encoder: Float[Tensor, "N B H S S"]
    decoder: Float[Tensor, "N B H T T"]
    cross: Float[Tensor, "N B H T S"]


def make_positions(config: ModelConfig) -> nn.Module:
    """Return the positional encoding that `config` names; "none" is a table of zeros."""
    if config.positions == "learned":
        return LearnedPositionalEncoding(config.d_model, config.max_len)
    positions = SinusoidalPositionalEncoding(config.d_model, config.max_len)
    if config.positions == "none":  # a model without any sense of order, for experiments
        positions.table.zero_()
    return positions


def initialize(model: nn.Module) -> None:
    """Draw the weights of all layers: Xavier for matrices, zero for biases.

    Embeddings and positions draw their own when they are made.
    """
    for name, parameter in model.named_parameters():
        if ".layers." in name and parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        elif ".layers." in name and name.endswith("bias"):
            nn.init.zeros_(parameter)


class Transformer(nn.Module):
    """The whole model of Figure 1, with the sizes in `config` (section 3). Built in notebook 06."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        embedding = partial(TokenEmbedding, d_model=config.d_model, pad_id=config.pad_id)
        self.tgt_embedding = self.src_embedding = embedding(config.tgt_vocab_size)  # one matrix
        if not (config.tie_embeddings and config.shared_vocabulary):
            self.src_embedding = embedding(config.src_vocab_size)
        self.positions, self.dropout = make_positions(config), nn.Dropout(config.dropout)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        initialize(self)
        output = self.tgt_embedding if config.tie_embeddings else embedding(config.tgt_vocab_size)
        self.output_projection = OutputProjection(output.weight)

    def embed(self, ids: Int[Tensor, "B T"], embedding: nn.Module, offset: int = 0) -> Tensor:
        """Add embedding and positions, with dropout (section 5.4): (B, T, D)."""
        return self.dropout(self.positions(embedding(ids), offset))

    def encode(self, src: Int[Tensor, "B S"], maps: Maps = None) -> Float[Tensor, "B S D"]:
        """Turn source ids into the memory: one vector per source token."""
        mask = padding_mask(src, self.config.pad_id)
        return self.encoder(self.embed(src, self.src_embedding), mask, maps)

    def decode(
        self,
        tgt: Int[Tensor, "B T"],
        memory: Float[Tensor, "B S D"],
        src: Int[Tensor, "B S"],
        cache: list[KeyValueCache] | None = None,
        maps: Maps = None,
    ) -> Float[Tensor, "B T D"]:
        """Turn target ids into hidden vectors; with a cache, tgt holds the new tokens only."""
        pad_id, n, offset = self.config.pad_id, tgt.size(1), cache[0].length if cache else 0
        mask = causal_mask(n, offset + n, tgt.device) if cache else target_mask(tgt, pad_id)
        x = self.embed(tgt, self.tgt_embedding, offset)
        return self.decoder(x, mask, memory, padding_mask(src, pad_id), cache, maps)

    def forward(self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits of the next token at every target position (teacher forcing)."""
        return self.output_projection(self.decode(tgt, self.encode(src), src))

    def start_cache(self, memory: Float[Tensor, "B S D"], max_len: int) -> list[KeyValueCache]:
        """Return an empty cache per decoder layer, to decode max_len tokens step by step."""
        room = len(memory), self.config.n_heads, max_len, self.config.d_model // self.config.n_heads
        return [KeyValueCache.empty(*room, like=memory) for _ in self.decoder.layers]

    def attention_maps(self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"]) -> AttentionMaps:
        """Return the attention weights of all layers and heads, from one forward pass."""
        encoder, decoder = [], []  # the decoder's: self, cross, self, cross, …
        self.decode(tgt, self.encode(src, encoder), src, maps=decoder)
        return AttentionMaps(*map(torch.stack, (encoder, decoder[0::2], decoder[1::2])))
