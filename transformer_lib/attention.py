"""Attention: the written-out reference, the fused multi-head layer and its key-value cache
(section 3.2)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


def attention(
    query: Float[Tensor, "*B Q d_k"],
    key: Float[Tensor, "*B K d_k"],
    value: Float[Tensor, "*B K d_v"],
    mask: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "*B Q d_v"], Float[Tensor, "*B Q K"]]:
    """softmax(Q Kᵀ / √d_k) V, step by step: for every query a weighted sum of the values.

    Args:
        mask: True = may attend; broadcasts to (*B, Q, K).

    Returns:
        The output and the weights. Rows of weights add up to 1; a row with no key to attend to
        is all 0, and so is its output.

    Source: section 3.2.1, equation 1. Built in notebook 04.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))  # (*B, Q, K)
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        # The lowest finite number, not -inf: a row without keys must not become NaN, in the
        # gradient either, and -1e9 does not fit into half precision.
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~mask, lowest).softmax(dim=-1).masked_fill(~mask, 0.0)
    return weights @ value, weights


def split_heads(x: Float[Tensor, "B T D"], n_heads: int) -> Float[Tensor, "B H T d_k"]:
    """Cuts every vector into n_heads pieces of width D / H, one per head."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def merge_heads(x: Float[Tensor, "B H T d_k"]) -> Float[Tensor, "B T D"]:
    """Puts the heads' pieces side by side again: the inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


class KeyValueCache:
    """Keys and values of the tokens so far, so that each step projects only the new one.

    The memory is taken once, for max_len tokens: adding one costs the same whatever came before.

    Built in notebook 04.
    """

    def __init__(
        self, keys: Float[Tensor, "B H L d_k"], values: Float[Tensor, "B H L d_k"]
    ) -> None:
        self.keys, self.values = keys, values
        self.length = 0

    @classmethod
    def empty(
        cls, batch: int, n_heads: int, max_len: int, d_k: int, like: Tensor
    ) -> "KeyValueCache":
        """Room for max_len tokens, with the dtype and device of `like`."""
        shape = (batch, n_heads, max_len, d_k)
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    @classmethod
    def of(
        cls, keys: Float[Tensor, "B H L d_k"], values: Float[Tensor, "B H L d_k"]
    ) -> "KeyValueCache":
        """A full cache that will not grow: the encoder's output, projected once."""
        cache = cls(keys, values)
        cache.length = keys.size(2)
        return cache

    def append(
        self, keys: Float[Tensor, "B H T d_k"], values: Float[Tensor, "B H T d_k"]
    ) -> tuple[Float[Tensor, "B H L d_k"], Float[Tensor, "B H L d_k"]]:
        """Stores the new keys and values behind the old and returns all of them.

        Raises:
            ValueError: there is no room left.
        """
        end = self.length + keys.size(2)
        if end > self.keys.size(2):
            raise ValueError(f"cache has room for {self.keys.size(2)} tokens, {end} are needed")
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.read()

    def read(self) -> tuple[Float[Tensor, "B H L d_k"], Float[Tensor, "B H L d_k"]]:
        """Everything stored so far; views, not copies."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these rows of the batch, in this order: beams that live on, sentences not done.

        In place, so there may be no more rows than before; unused room is not copied.
        """
        for name in ("keys", "values"):
            stored = getattr(self, name)
            stored[: len(rows), :, : self.length] = stored[rows, :, : self.length]
            setattr(self, name, stored[: len(rows)])


class MultiHeadAttention(nn.Module):
    """h attentions side by side, each on its own d_model / h wide projection.

    Runs on the fused `scaled_dot_product_attention`; where the weights are asked for, on
    the written-out `attention`. A test holds the two equal, outputs and gradients.

    Args:
        d_model: width D.
        n_heads: number of heads H; divides d_model.

    Raises:
        ValueError: n_heads does not divide d_model.

    Source: section 3.2.2. Built in notebook 04.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        self.n_heads = n_heads
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)

    def project(
        self, x: Float[Tensor, "B K D"]
    ) -> tuple[Float[Tensor, "B H K d_k"], Float[Tensor, "B H K d_k"]]:
        """Keys and values of all heads."""
        return split_heads(self.key(x), self.n_heads), split_heads(self.value(x), self.n_heads)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        source: Float[Tensor, "B K D"] | None,
        mask: Bool[Tensor, "..."] | None = None,
        *,
        cache: KeyValueCache | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """Every vector of x asks, every vector of the source answers.

        Args:
            x: gives the queries.
            source: gives keys and values: x itself in self-attention, the encoder's output in
                cross-attention. None reads them from the cache alone.
            mask: True = may attend; broadcasts to (B, H, Q, K).
            cache: keys and values of earlier steps; those of `source` are added.
            maps: the caller's list; the weights (B, H, Q, K) are appended to it.
        """
        queries = split_heads(self.query(x), self.n_heads)  # (B, H, Q, d_k)
        if source is None:
            keys, values = cache.read()
        elif cache is None:
            keys, values = self.project(source)
        else:
            keys, values = cache.append(*self.project(source))
        if maps is None:
            heads = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        else:
            heads, weights = attention(queries, keys, values, mask)
            maps.append(weights)
        return self.output(merge_heads(heads))
