# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""The whole Transformer of Figure 1: embeddings, encoder, decoder, output projection."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer_lib.attention import KeyValueCache, Maps
from transformer_lib.config import ModelConfig
from transformer_lib.embeddings import OutputProjection, TokenEmbedding
from transformer_lib.layers import Decoder, Encoder
from transformer_lib.masks import causal_mask, padding_mask, target_mask
from transformer_lib.positional import LearnedPositionalEncoding, SinusoidalPositionalEncoding

__all__ = [
    "AttentionMaps",
    "Transformer",
    "make_embeddings",
    "make_output_projection",
    "make_positions",
    "decoder_mask",
    "initialize",
]


class AttentionMaps(NamedTuple):
    """All attention weights of one forward pass. Rows are queries; each sums to 1 or is all 0."""

    encoder: Float[Tensor, "N B H S S"]
    decoder: Float[Tensor, "N B H T T"]
    cross: Float[Tensor, "N B H T S"]


class Transformer(nn.Module):
    """The whole model of Figure 1, with the sizes in `config` (section 3). Built in notebook 06."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tgt_embedding, self.src_embedding = make_embeddings(config)
        self.positions = make_positions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        initialize(self)
        self.output_projection = make_output_projection(config, self.tgt_embedding)

    def embed(self, ids: Int[Tensor, "B T"], embedding: nn.Module, offset: int = 0) -> Tensor:
        """Add embedding and positions, with dropout (section 5.4): (B, T, D)."""
        return self.dropout(self.positions(embedding(ids), offset))

    def encode(self, src: Int[Tensor, "B S"], maps: Maps = None) -> Float[Tensor, "B S D"]:
        """Turn source ids into the memory: one vector per source token."""
        x = self.embed(src, self.src_embedding)
        return self.encoder(x, padding_mask(src, self.config.pad_id), maps)

    def decode(
        self,
        tgt: Int[Tensor, "B T"],
        memory: Float[Tensor, "B S D"],
        src: Int[Tensor, "B S"],
        cache: list[KeyValueCache] | None = None,
        maps: Maps = None,
    ) -> Float[Tensor, "B T D"]:
        """Turn target ids into hidden vectors; with a cache, tgt holds the new tokens only."""
        offset = cache[0].length if cache else 0  # number of tokens before these
        x = self.embed(tgt, self.tgt_embedding, offset)
        mask = decoder_mask(tgt, cache, self.config.pad_id)
        memory_mask = padding_mask(src, self.config.pad_id)
        return self.decoder(x, mask, memory, memory_mask, cache, maps)

    def forward(self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits of the next token at every target position (teacher forcing)."""
        hidden = self.decode(tgt, self.encode(src), src)
        return self.output_projection(hidden)

    def start_cache(self, memory: Float[Tensor, "B S D"], max_len: int) -> list[KeyValueCache]:
        """Return an empty cache per decoder layer, to decode max_len tokens step by step."""
        room = len(memory), self.config.n_heads, max_len, self.config.d_model // self.config.n_heads
        return [KeyValueCache.empty(*room, like=memory) for _ in self.decoder.layers]

    def attention_maps(self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"]) -> AttentionMaps:
        """Return the attention weights of all layers and heads, from one forward pass."""
        encoder, decoder = [], []  # the decoder's list: self, cross, self, cross, …
        self.decode(tgt, self.encode(src, encoder), src, maps=decoder)
        return AttentionMaps(*map(torch.stack, (encoder, decoder[0::2], decoder[1::2])))


def make_embeddings(config: ModelConfig) -> tuple[TokenEmbedding, TokenEmbedding]:
    """Return the embeddings of target and source: one module if tied and of one vocabulary."""
    target = TokenEmbedding(config.tgt_vocab_size, config.d_model, config.pad_id)
    if config.tie_embeddings and config.shared_vocabulary:
        return target, target
    return target, TokenEmbedding(config.src_vocab_size, config.d_model, config.pad_id)


def make_output_projection(config: ModelConfig, embedding: TokenEmbedding) -> OutputProjection:
    """Return the output projection: it shares the target embedding's matrix if they are tied."""
    if not config.tie_embeddings:
        embedding = TokenEmbedding(config.tgt_vocab_size, config.d_model, config.pad_id)
    return OutputProjection(embedding.weight)


def make_positions(config: ModelConfig) -> nn.Module:
    """Return the positional encoding that `config` names; for "none", a table of zeros."""
    if config.positions == "learned":
        return LearnedPositionalEncoding(config.d_model, config.max_len)
    positions = SinusoidalPositionalEncoding(config.d_model, config.max_len)
    if config.positions == "none":  # a model without any sense of order, for experiments
        positions.table.zero_()
    return positions


def decoder_mask(
    tgt: Int[Tensor, "B T"], cache: list[KeyValueCache] | None, pad_id: int
) -> Bool[Tensor, "..."]:
    """Return the mask of the decoder's self-attention; with a cache, tgt holds new tokens only."""
    if not cache:
        return target_mask(tgt, pad_id)
    n_new = tgt.size(1)
    return causal_mask(n_new, cache[0].length + n_new, tgt.device)


def initialize(model: nn.Module) -> None:
    """Draw the weights of all layers: Xavier for matrices, zero for biases.

    Embeddings and positions draw their own weights when they are created.
    """
    for name, parameter in model.named_parameters():
        if ".layers." in name and parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        elif ".layers." in name and name.endswith("bias"):
            nn.init.zeros_(parameter)
