# Written by notebooks/04_multi_head_attention.ipynb: edit there, then `make export`.
"""Attention: the written-out reference, the fused multi-head layer and its key-value cache
(section 3.2)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "attention",
    "split_heads",
    "merge_heads",
    "Maps",
    "attend",
    "KeyValueCache",
    "MultiHeadAttention",
]


def attention(
    query: Float[Tensor, "*B T d_k"],
    key: Float[Tensor, "*B S d_k"],
    value: Float[Tensor, "*B S d_v"],
    mask: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "*B T d_v"], Float[Tensor, "*B T S"]]:
    """Scaled dot-product attention, step by step: for every query, a weighted sum of the values.

    Returns the output and the weights. `mask` is True = may attend, and broadcasts to (*B, T, S).
    A row of weights adds up to 1. A row with no key to attend to is all 0, and so is its output.

    Source: section 3.2.1, equation 1. Built in notebook 04.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))  # (*B, T, S)
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:  # -1e9 would overflow in half precision; -inf would give NaN in a row without keys
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~mask, lowest).softmax(dim=-1).masked_fill(~mask, 0.0)
    return weights @ value, weights


def split_heads(x: Float[Tensor, "B T D"], n_heads: int) -> Float[Tensor, "B H T d_k"]:
    """Split every vector into n_heads parts of width D / H, one per head."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def merge_heads(x: Float[Tensor, "B H T d_k"]) -> Float[Tensor, "B T D"]:
    """Concatenate the heads; the inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


Maps = list[Tensor] | None  # the caller's list, which collects the attention weights


def attend(
    query: Float[Tensor, "*B T d_k"],
    key: Float[Tensor, "*B S d_k"],
    value: Float[Tensor, "*B S d_v"],
    mask: Bool[Tensor, "..."] | None = None,
    maps: Maps = None,
) -> Float[Tensor, "*B T d_v"]:
    """Return the output of `attention`, from torch's fused kernel unless the weights are wanted.

    Args:
        mask: True = may attend; broadcasts to (*B, T, S).
        maps: a list that receives the weights (*B, T, S); None runs the fused kernel.

    Source: section 3.2.1, equation 1. Built in notebook 04.
    """
    if maps is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    output, weights = attention(query, key, value, mask)
    maps.append(weights)
    return output


@dataclass(eq=False)
class KeyValueCache:
    """The keys and values of all tokens so far, so that each step projects only the new one.

    There is room for S tokens, allocated once; the first `length` are in use.
    """

    keys: Float[Tensor, "B H S d_k"]
    values: Float[Tensor, "B H S d_k"]
    length: int = 0

    @classmethod
    def empty(
        cls, batch: int, n_heads: int, max_len: int, d_k: int, like: Tensor
    ) -> "KeyValueCache":
        """Allocate room for max_len tokens, with the dtype and device of `like`."""
        # the heads of a token are neighbors in memory
        both = (like.new_empty(batch, max_len, n_heads, d_k) for _ in range(2))
        return cls(*(stored.transpose(1, 2) for stored in both))

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> "KeyValueCache":
        """Wrap keys and values that do not grow, such as those of the encoder's output."""
        return cls(keys, values, keys.size(2))

    def append(
        self, keys: Float[Tensor, "B H T d_k"], values: Float[Tensor, "B H T d_k"]
    ) -> tuple[Float[Tensor, "B H S d_k"], ...]:
        """Append keys and values of T tokens, and return those of all tokens.

        Raises:
            ValueError: there is no room for them.
        """
        end = self.length + keys.size(2)
        if end > self.keys.size(2):
            raise ValueError(f"cache has room for {self.keys.size(2)} tokens, {end} are needed")
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.read()

    def read(self) -> tuple[Float[Tensor, "B H S d_k"], ...]:
        """Return views of the keys and values stored so far."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order, in place; at most as many as now."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().flatten()
        for stored in (part.transpose(1, 2) for part in self.read()):  # in memory order
            stored.index_copy_(0, moved, stored.index_select(0, rows[moved]))
        self.keys, self.values = self.keys[: len(rows)], self.values[: len(rows)]


class MultiHeadAttention(nn.Module):
    """Several heads of attention in parallel, each with projections of width d_model / n_heads.

    Raises:
        ValueError: n_heads does not divide d_model.

    Source: section 3.2.2. Built in notebook 04.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        self.n_heads = n_heads
        self.query, self.key = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value, self.output = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def project(self, source: Float[Tensor, "B S D"]) -> tuple[Float[Tensor, "B H S d_k"], ...]:
        """Return the keys and values of all heads."""
        keys = split_heads(self.key(source), self.n_heads)
        values = split_heads(self.value(source), self.n_heads)
        return keys, values

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        source: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        cache: KeyValueCache | None = None,
        maps: Maps = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend from x (queries) to source (keys, values); mask and maps as in `attend`.

        With a cache, the keys and values of `source` are appended to those it holds.
        """
        queries = split_heads(self.query(x), self.n_heads)  # (B, H, T, d_k)
        keys, values = self.project(source)  # (B, H, S, d_k) each
        if cache is not None:
            keys, values = cache.append(keys, values)  # of all tokens so far
        return self.output(merge_heads(attend(queries, keys, values, mask, maps)))  # (B, T, D)
