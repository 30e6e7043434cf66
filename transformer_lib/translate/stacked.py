"""Layers as functions of their weights: fewer calls than a tree of modules, and faster kernels.

On a CPU, calls cost as much as arithmetic in a step of decoding. So the three projections of
self-attention are one product here, products of many rows use oneDNN, and attention from one query
is two batched products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lib.layers import DecoderLayer, EncoderLayer

__all__ = [
    "ONEDNN_WORK",
    "Mask",
    "Product",
    "Rows",
    "StackedLayer",
    "has_fast_onednn",
    "scores_of",
    "views",
]

Rows = Float[Tensor, "R D"]
Mask = Bool[Tensor, "B 1 1 M"] | None


@functools.cache
def has_fast_onednn() -> bool:
    """True where oneDNN takes half the time of `F.linear` for many rows of float32."""
    capability = torch.backends.cpu.get_cpu_capability()
    return torch.backends.mkldnn.is_available() and capability == "AVX512"


class Product:
    """A linear map as a function of its weights, by the fastest kernel for the number of rows.

    On processors with AVX-512, oneDNN takes half the time of `F.linear` (MKL takes AVX2 on AMD),
    and its calls are slower to start. It reads a copy of the matrix in an order of its own.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.detach(), bias if bias is None else bias.detach()
        width_out, width_in = weight.shape
        self.least = max(ONEDNN_WORK // width_out, ONEDNN_ROWS * width_in)  # numbers in x
        suits = weight.dtype == torch.float32 and weight.device.type == "cpu"
        self.suits_onednn = suits and has_fast_onednn()

    @functools.cached_property
    def packed(self) -> Tensor:
        """The matrix in oneDNN's order, made at the first call that needs it."""
        return torch.ops.mkldnn._reorder_linear_weight(self.weight, None)

    def __call__(self, x: Float[Tensor, "*R i"], then: str = "none") -> Float[Tensor, "*R o"]:
        """Return x · Wᵀ + b, or with `then="relu"` its positive part."""
        many = self.suits_onednn and x.numel() >= self.least
        if many and not torch.is_autocast_enabled("cpu"):
            call = torch.ops.mkldnn._linear_pointwise
            return call(x, self.packed, self.bias, then, [], "")
        product = F.linear(x, self.weight, self.bias)
        return product.relu_() if then == "relu" else product


# Measured: with less, starting oneDNN costs more. A new number of rows costs 0.3 ms once.
ONEDNN_WORK, ONEDNN_ROWS = 700_000, 48


class StackedLayer:
    """An encoder or decoder layer as functions of its weights.

    The matrices that multiply the same vectors are copied into one, so it is made anew after each
    change.
    """

    def __init__(self, layer: EncoderLayer | DecoderLayer) -> None:
        own, network = layer.self_attention, layer.feed_forward
        self.n_heads = own.n_heads
        self.qkv = stack(own.query, own.key, own.value)
        self.own_output, self.expand, self.contract = map(
            stack, (own.output, network.expand, network.contract)
        )
        if isinstance(layer, DecoderLayer):
            cross = layer.cross_attention
            self.cross_query, self.cross_output = stack(cross.query), stack(cross.output)
            self.cross_kv = stack(cross.key, cross.value)
        norms = [residual.norm for residual in layer.residuals]
        self.norms = [(norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in norms]
        self.norm_first = layer.residuals[0].norm_first

    def encode(self, x: Float[Tensor, "B S D"], mask: Mask) -> Float[Tensor, "B S D"]:
        """Return the encoder layer's output; the mask may have more keys than x, all False."""
        x = self._residual(0, x, self._attend_all, mask)
        return self._residual(1, x, self._feed_forward)

    def project(self, memory: Float[Tensor, "B S D"], n: int) -> Float[Tensor, "2 B H n d_k"]:
        """Return the keys and values of the memory; zeros after them, if n is more than S."""
        both = self.cross_kv(memory).view(*memory.shape[:2], 2, self.n_heads, -1)
        return widened(both.permute(2, 0, 3, 1, 4), n).contiguous()

    def step(self, x: Rows, new: Tensor, own: Pair, cross: Stored, scores: Tensor) -> Rows:
        """Return the decoder layer's output for one new token per row.

        Args:
            new: where `own` holds the new token's keys and values, (2, R, H, d_k): written here.
            own, cross: of the tokens so far, with their `scores`, and of the memory: see
                `attend_to`.
        """
        x = self._residual(0, x, self._attend_to_past, new, *own, scores)
        x = self._residual(1, x, self._attend_to_memory, cross)
        return self._residual(2, x, self._feed_forward)

    def _residual(self, i: int, x: Tensor, sublayer: Callable[..., Tensor], *more: Any) -> Tensor:
        if self.norm_first:
            return x + sublayer(torch.layer_norm(x, *self.norms[i]), *more)
        return torch.layer_norm(x + sublayer(x, *more), *self.norms[i])

    def _attend_all(self, x: Tensor, mask: Mask) -> Tensor:
        heads = self.qkv(x).view(*x.shape[:2], 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, H, S, d_k) each
        if mask is not None:
            key, value = widened(key, mask.size(-1)), widened(value, mask.size(-1))
        output = F.scaled_dot_product_attention(query, key, value, mask)
        return self.own_output(output.transpose(1, 2).reshape(x.shape))

    def _attend_to_past(self, x: Rows, new: Tensor, *own: Tensor) -> Rows:
        heads = self.qkv(x).view(len(x), 3, self.n_heads, -1).transpose(0, 1)
        new.copy_(heads[1:])
        query = heads[0].reshape(len(own[1]), 1, -1)  # (R·H, 1, d_k)
        return self.own_output(attend_to(query, *own).view(x.shape))

    def _attend_to_memory(self, x: Rows, cross: Stored) -> Rows:
        d_k = cross[1].size(-1)
        query = self.cross_query(x)
        if len(cross[1]) == len(x) * self.n_heads:
            return self.cross_output(attend_to(query.view(-1, 1, d_k), *cross).view(x.shape))
        # the beams of a sentence are queries to the same keys
        query = query.view(len(cross[1]) // self.n_heads, -1, self.n_heads, d_k).transpose(1, 2)
        output = attend_to(query.flatten(0, 1), *cross).view(query.shape)
        return self.cross_output(output.transpose(1, 2).reshape(x.shape))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.contract(self.expand(x, "relu"))


def attend_to(
    query: Float[Tensor, "N K d_k"],
    key: Float[Tensor, "N d_k S"],
    value: Float[Tensor, "N S d_k"],
    scores: Float[Tensor, "#N 1 S"],
) -> Float[Tensor, "N K d_k"]:
    """Attend from few queries to each head's keys and values (N = B · H).

    From 16 keys on, two batched products take about 0.6 of the time of the fused kernel.

    Args:
        scores: added to the scores; from `scores_of`.
    """
    weights = torch.baddbmm(scores, query, key, alpha=query.size(-1) ** -0.5).softmax(dim=-1)
    return torch.bmm(weights, value)


Pair = tuple[Tensor, Tensor]  # keys and values
Stored = tuple[Tensor, Tensor, Tensor]  # the same and scores, as `attend_to` takes them


def widened(keys: Float[Tensor, "*B S d_k"], n: int) -> Float[Tensor, "*B n d_k"]:
    """Return n keys: zeros after those that there are."""
    missing = n - keys.size(-2)
    return F.pad(keys, (0, 0, 0, missing)) if missing else keys


def views(stored: Float[Tensor, "2 B H S d_k"]) -> Pair:
    """Return keys and values as `attend_to` takes them, which share their memory."""
    key, value = stored.flatten(1, 2).unbind()
    return key.transpose(1, 2), value


def scores_of(mask: Bool[Tensor, "*B S"], dtype: torch.dtype) -> Float[Tensor, "*B S"]:
    """Return 0 where the mask is True, else half of the lowest number: no sum is -inf."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min / 2)


def stack(*linears: nn.Linear) -> Product:
    """Return the linear maps of the same vectors as one product; a single one is not copied."""
    if len(linears) == 1:
        return Product(linears[0].weight, linears[0].bias)
    return Product(torch.cat([p.weight for p in linears]), torch.cat([p.bias for p in linears]))
