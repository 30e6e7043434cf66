# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""Encoder and decoder layers and the two stacks of N layers (section 3.1)."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from transformer_lib.attention import KeyValueCache, MultiHeadAttention
from transformer_lib.config import ModelConfig
from transformer_lib.feed_forward import FeedForward, Residual

__all__ = ["EncoderLayer", "LayerCache", "DecoderLayer", "Encoder", "Decoder"]


class EncoderLayer(nn.Module):
    """Self-attention, then the feed-forward network, each inside a `Residual`.

    Source: section 3.1. Built in notebook 06.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(config.d_model, config.n_heads)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.residuals = nn.ModuleList(
            Residual(config.d_model, config.dropout, config.norm_first) for _ in range(2)
        )

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "B 1 #S S"] | None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """One layer further; the attention weights are appended to `maps` when it is given."""
        x = self.residuals[0](x, lambda y: self.self_attention(y, y, mask, maps=maps))
        return self.residuals[1](x, self.feed_forward)


class LayerCache(NamedTuple):
    """What one decoder layer remembers between steps."""

    self_attention: KeyValueCache
    cross_attention: KeyValueCache


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the encoder's output, feed-forward network.

    Source: section 3.1. Built in notebook 06.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(config.d_model, config.n_heads)
        self.cross_attention = MultiHeadAttention(config.d_model, config.n_heads)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.residuals = nn.ModuleList(
            Residual(config.d_model, config.dropout, config.norm_first) for _ in range(3)
        )

    def start_cache(
        self, memory: Float[Tensor, "B S D"], max_len: int, beam_size: int = 1
    ) -> LayerCache:
        """Room for max_len target tokens; the memory's keys and values are computed once."""
        heads = self.self_attention.n_heads
        batch, _, d_model = memory.shape
        own = KeyValueCache.empty(batch * beam_size, heads, max_len, d_model // heads, like=memory)
        return LayerCache(own, KeyValueCache.of(*self.cross_attention.project(memory)))

    def forward(
        self,
        x: Float[Tensor, "R T D"],
        mask: Bool[Tensor, "..."] | None,
        memory: Float[Tensor, "B S D"],
        memory_mask: Bool[Tensor, "B 1 1 S"] | None,
        cache: LayerCache | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "R T D"]:
        """One layer further. With a cache, x holds the new tokens only.

        Two maps are appended to `maps` when it is given: self-attention, then cross-attention.
        """
        own, cross = cache or (None, None)
        source = memory if cache is None else None  # the cache has the memory's keys already
        x = self.residuals[0](x, lambda y: self.self_attention(y, y, mask, cache=own, maps=maps))
        x = self.residuals[1](
            x, lambda y: self.cross_attention(y, source, memory_mask, cache=cross, maps=maps)
        )
        return self.residuals[2](x, self.feed_forward)


class Encoder(nn.Module):
    """N encoder layers; pre-norm adds one last LayerNorm, which post-norm has already.

    Source: section 3.1. Built in notebook 06.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "B 1 #S S"] | None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Embedded source to memory."""
        for layer in self.layers:
            x = layer(x, mask, maps)
        return self.norm(x)


class Decoder(nn.Module):
    """N decoder layers; pre-norm adds one last LayerNorm.

    Source: section 3.1. Built in notebook 06.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "R T D"],
        mask: Bool[Tensor, "..."] | None,
        memory: Float[Tensor, "B S D"],
        memory_mask: Bool[Tensor, "B 1 1 S"] | None,
        cache: list[LayerCache] | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "R T D"]:
        """Embedded target and memory to hidden vectors, one cache entry per layer."""
        for layer, remembered in zip(self.layers, cache or [None] * len(self.layers), strict=True):
            x = layer(x, mask, memory, memory_mask, remembered, maps)
        return self.norm(x)
