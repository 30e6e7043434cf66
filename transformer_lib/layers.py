# Written by notebooks/06_encoder_decoder.ipynb: edit there, then `make export`.
"""Encoder and decoder layers and the two stacks of N layers (section 3.1)."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from transformer_lib.attention import KeyValueCache, Maps, MultiHeadAttention
from transformer_lib.config import ModelConfig
from transformer_lib.feed_forward import FeedForward, Residual

__all__ = ["EncoderLayer", "DecoderLayer", "Encoder", "Decoder"]


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
        self, x: Float[Tensor, "B S D"], mask: Bool[Tensor, "B 1 #S S"] | None, maps: Maps = None
    ) -> Float[Tensor, "B S D"]:
        """Apply one layer; append its attention weights to `maps` if given."""
        x = self.residuals[0](x, lambda y: self.self_attention(y, y, mask, maps=maps))
        return self.residuals[1](x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the memory, feed-forward network.

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

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "..."],
        memory: Float[Tensor, "B S D"],
        memory_mask: Bool[Tensor, "B 1 1 S"],
        cache: KeyValueCache | None = None,
        maps: Maps = None,
    ) -> Float[Tensor, "B T D"]:
        """Apply one layer; append the weights of both attentions to `maps` if given.

        With a cache, x holds the new tokens only.
        """
        x = self.residuals[0](x, lambda y: self.self_attention(y, y, mask, cache=cache, maps=maps))
        x = self.residuals[1](x, lambda y: self.cross_attention(y, memory, memory_mask, maps=maps))
        return self.residuals[2](x, self.feed_forward)


class Encoder(nn.Module):
    """N encoder layers; in pre-norm, a final LayerNorm.

    Source: section 3.1. Built in notebook 06.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B S D"], mask: Bool[Tensor, "B 1 #S S"] | None, maps: Maps = None
    ) -> Float[Tensor, "B S D"]:
        """Turn the embedded source into the memory."""
        for layer in self.layers:
            x = layer(x, mask, maps)
        return self.norm(x)


class Decoder(nn.Module):
    """N decoder layers; in pre-norm, a final LayerNorm.

    Source: section 3.1. Built in notebook 06.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "..."],
        memory: Float[Tensor, "B S D"],
        memory_mask: Bool[Tensor, "B 1 1 S"],
        cache: list[KeyValueCache] | None = None,
        maps: Maps = None,
    ) -> Float[Tensor, "B T D"]:
        """Turn the embedded target and the memory into hidden vectors."""
        caches = cache or [None] * len(self.layers)  # one for each layer
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            x = layer(x, mask, memory, memory_mask, layer_cache, maps)
        return self.norm(x)
