# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""The whole Transformer of Figure 1: embeddings, encoder, decoder, output projection."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer_lib.config import ModelConfig
from transformer_lib.embeddings import OutputProjection, TokenEmbedding
from transformer_lib.feed_forward import Dropout
from transformer_lib.layers import Decoder, Encoder, LayerCache
from transformer_lib.masks import causal_mask, padding_mask, target_mask
from transformer_lib.positional import LearnedPositionalEncoding, SinusoidalPositionalEncoding

__all__ = [
    "AttentionMaps",
    "Readout",
    "NoPositionalEncoding",
    "POSITIONS",
    "new_token_mask",
    "EncoderDecoder",
    "Transformer",
]


class AttentionMaps(NamedTuple):
    """All weights of one forward pass. Rows are queries and add up to 1."""

    encoder: Float[Tensor, "N B H S S"]
    decoder: Float[Tensor, "N B H T T"]
    cross: Float[Tensor, "N B H T S"]


# From hidden vectors (B, T, D) and the output matrix (V, D) to what is wanted instead of logits.
Readout = Callable[[Tensor, Tensor], Any]


class NoPositionalEncoding(nn.Module):
    """Adds nothing: the model without any sense of order, for experiments."""

    def __init__(self, d_model: int, max_len: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "B T D"], offset: int = 0) -> Float[Tensor, "B T D"]:
        """x itself."""
        return x


POSITIONS = {
    "sinusoidal": SinusoidalPositionalEncoding,
    "learned": LearnedPositionalEncoding,
    "none": NoPositionalEncoding,
}


def new_token_mask(new: Int[Tensor, "B T"], offset: int) -> Bool[Tensor, "T K"] | None:
    """What new tokens may see behind a cache of `offset` tokens; one alone may see everything."""
    n_new = new.size(1)
    return None if n_new == 1 else causal_mask(n_new, offset + n_new, device=new.device)


class EncoderDecoder(nn.Module):
    """From ids to hidden vectors: all of Figure 1 below the output projection (section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, width, pad_id = config, config.d_model, config.pad_id
        self.tgt_embedding = TokenEmbedding(config.tgt_vocab_size, width, pad_id)
        self.src_embedding = self.tgt_embedding  # the same module: one matrix
        if not config.shares_vocabulary:
            self.src_embedding = TokenEmbedding(config.src_vocab_size, width, pad_id)
        self.positions = POSITIONS[config.positions](width, config.max_len)
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def embed(
        self, ids: Int[Tensor, "B T"], embedding: TokenEmbedding, offset: int = 0
    ) -> Float[Tensor, "B T D"]:
        """Embedding plus position, with dropout (section 5.4)."""
        return self.dropout(self.positions(embedding(ids), offset))

    def encode(
        self, src: Int[Tensor, "B S"], maps: list[Tensor] | None = None
    ) -> Float[Tensor, "B S D"]:
        """Source ids to memory: one vector per source token."""
        mask = padding_mask(src, self.config.pad_id)
        return self.encoder(self.embed(src, self.src_embedding), mask, maps)

    def decode(
        self,
        tgt: Int[Tensor, "R T"],
        memory: Float[Tensor, "B S D"],
        src: Int[Tensor, "B S"],
        cache: list[LayerCache] | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "R T D"]:
        """Target ids to hidden vectors; position t has seen the targets up to t and the memory.

        With a cache from `start_cache`, tgt holds only what is new, in R = B · beam_size rows.
        """
        offset = cache[0].self_attention.length if cache else 0
        mask = new_token_mask(tgt, offset) if cache else target_mask(tgt, self.config.pad_id)
        x = self.embed(tgt, self.tgt_embedding, offset)
        return self.decoder(x, mask, memory, padding_mask(src, self.config.pad_id), cache, maps)


class Transformer(EncoderDecoder):
    """The whole model of Figure 1, of the sizes in `config` (section 3). Built in notebook 06."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        shared = self.tgt_embedding.weight
        self.output_projection = OutputProjection(
            shared if config.tie_embeddings else nn.Parameter(torch.empty_like(shared))
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the layers anew: Xavier for matrices, zero for biases. The embeddings stay; they
        have a `reset_parameters` of their own."""
        for name, parameter in self.named_parameters():
            if ".layers." in name and parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif ".layers." in name and name.endswith("bias"):
                nn.init.zeros_(parameter)
        if not self.config.tie_embeddings:
            nn.init.normal_(self.output_projection.weight, std=self.config.d_model**-0.5)

    def forward(
        self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"], readout: Readout | None = None
    ) -> Float[Tensor, "B T V"] | Any:
        """Logits of the next token at every target position, in one pass (teacher forcing); or
        what `readout` makes of the hidden vectors and the projection's weight."""
        hidden = self.decode(tgt, self.encode(src), src)
        if readout is not None:
            return readout(hidden, self.output_projection.weight)
        return self.output_projection(hidden)

    def start_cache(
        self, memory: Float[Tensor, "B S D"], max_len: int, beam_size: int = 1
    ) -> list[LayerCache]:
        """An empty cache to decode max_len tokens step by step, in B · beam_size rows."""
        return [layer.start_cache(memory, max_len, beam_size) for layer in self.decoder.layers]

    def attention_maps(self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"]) -> AttentionMaps:
        """The weights of all layers and heads, from the same pass that computes the output."""
        encoder: list[Tensor] = []
        decoder: list[Tensor] = []  # self, cross, self, cross, …
        self.decode(tgt, self.encode(src, encoder), src, maps=decoder)
        return AttentionMaps(*map(torch.stack, (encoder, decoder[0::2], decoder[1::2])))
