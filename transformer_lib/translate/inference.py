"""Decoding without waste: the same model, one new token at a time, with far fewer calls.

A step on a CPU costs calls more than arithmetic. So the three projections of self-attention are
one product here, functions are called on the weights instead of a tree of modules, and no mask is
made where nothing is padded. Batches that have nothing to do with each other run side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lib.attention import KeyValueCache
from transformer_lib.config import ModelConfig
from transformer_lib.feed_forward import Dropout
from transformer_lib.layers import Decoder, DecoderLayer, Encoder, EncoderLayer, LayerCache
from transformer_lib.masks import padding_mask
from transformer_lib.model import Transformer

__all__ = ["InferenceModel", "SearchCache", "StackedLayer", "for_inference", "side_by_side"]

Rows = Float[Tensor, "R D"]
Mask = Bool[Tensor, "B 1 1 S"] | None
Item, Result = TypeVar("Item"), TypeVar("Result")


def for_inference(model: Transformer) -> Transformer:
    """An `InferenceModel` of it; or the model itself, where a part is not as the notebooks write
    it (compiled, sharded, adapted, watched by a hook) or where it is in training."""
    if type(model) is not Transformer or model.training:
        return model
    around = (model.encoder, model.decoder, model.dropout)  # passed by, as the layers are
    if [type(part) for part in around if not _is_watched(part)] != [Encoder, Decoder, Dropout]:
        return model
    layers = [*model.encoder.layers, *model.decoder.layers]
    return InferenceModel(model) if all(map(_is_plain, layers)) else model


def _is_plain(layer: nn.Module) -> bool:
    kind = type(layer)
    return kind in (EncoderLayer, DecoderLayer) and _kinds(layer) == _kinds_of_new(kind)


def _is_watched(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks)


@functools.cache
def _kinds_of_new(kind: type[EncoderLayer | DecoderLayer]) -> list[type]:
    with torch.device("meta"):  # no numbers are drawn
        return _kinds(kind(ModelConfig.tiny(1)))


def _kinds(module: nn.Module) -> list[type]:
    """The classes of a module and all parts within; a part that is watched by a hook has none."""
    parts = [module]
    for part in parts:  # which grows meanwhile
        parts += (p for p in part._modules.values() if p is not None)  # None: it was taken out
    return [type(part) for part in parts if not _is_watched(part)]


class StackedLayer:
    """An encoder or decoder layer as functions of its weights.

    The matrices of self-attention are copied into one, so it is made anew after each change.
    """

    def __init__(self, layer: EncoderLayer | DecoderLayer) -> None:
        own, network = layer.self_attention, layer.feed_forward
        self.n_heads = own.n_heads
        parts = (own.query, own.key, own.value)
        self.qkv = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
        linears = [own.output, network.expand, network.contract]
        if isinstance(layer, DecoderLayer):
            linears += [layer.cross_attention.query, layer.cross_attention.output]
        weights = [(linear.weight, linear.bias) for linear in linears]
        self.own_output, self.expand, self.contract, *self.cross = weights
        norms = [residual.norm for residual in layer.residuals]
        self.norms = [(norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in norms]
        self.norm_first = layer.residuals[0].norm_first

    def encode(self, x: Float[Tensor, "B S D"], mask: Mask) -> Float[Tensor, "B S D"]:
        """The encoder layer's output."""
        x = self._residual(0, x, self._attend_all, mask)
        return self._residual(1, x, self._feed_forward)

    def step(self, x: Rows, cache: LayerCache, mask: Tensor | None) -> Rows:
        """The decoder layer's output for one new token in every row; the cache grows by it."""
        x = self._residual(0, x, self._attend_to_past, cache.self_attention)
        x = self._residual(1, x, self._attend_to_memory, cache.cross_attention, mask)
        return self._residual(2, x, self._feed_forward)

    def _residual(self, i: int, x: Tensor, sublayer: Callable[..., Tensor], *more: Any) -> Tensor:
        if self.norm_first:
            return x + sublayer(torch.layer_norm(x, *self.norms[i]), *more)
        return torch.layer_norm(x + sublayer(x, *more), *self.norms[i])

    def _attend_all(self, x: Tensor, mask: Mask) -> Tensor:
        heads = F.linear(x, *self.qkv).view(*x.shape[:2], 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, H, S, d_k) each
        found = F.scaled_dot_product_attention(query, key, value, mask)
        return F.linear(found.transpose(1, 2).reshape(x.shape), *self.own_output)

    def _attend_to_past(self, x: Rows, cache: KeyValueCache) -> Rows:
        heads = F.linear(x, *self.qkv).view(len(x), 3, self.n_heads, 1, -1)
        query, key, value = heads.unbind(1)  # (R, H, 1, d_k) each
        found = F.scaled_dot_product_attention(query, *cache.append(key, value))
        return F.linear(found.reshape(x.shape), *self.own_output)

    def _attend_to_memory(self, x: Rows, cache: KeyValueCache, mask: Tensor | None) -> Rows:
        (to_query, output), keys = self.cross, cache.keys
        query = F.linear(x, *to_query)  # the beams of a sentence ask its keys together
        query = query.view(len(keys), -1, self.n_heads, keys.size(-1)).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, keys, cache.values, mask)
        return F.linear(found.transpose(1, 2).reshape(x.shape), *output)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, *self.expand).relu(), *self.contract)


class SearchCache(list[LayerCache]):
    """The caches of all layers, and the mask of the sentences that are still searched."""

    src: Tensor | None = None
    mask: Tensor | None = None


class InferenceModel(Transformer):
    """The same model on the same parameters, only to decode with.

    Args:
        model: in evaluation mode. After a training step, make another one.
    """

    def __init__(self, model: Transformer) -> None:
        nn.Module.__init__(self)  # not Transformer's, which would draw new parameters
        self.__dict__.update(model.__dict__)
        with torch.inference_mode():
            self.encoder_layers, self.decoder_layers = (
                [StackedLayer(layer) for layer in stack.layers]
                for stack in (model.encoder, model.decoder)
            )

    def train(self, mode: bool = True) -> InferenceModel:
        """Nothing: it is never in training, and telling all modules so takes its time."""
        return self

    def encode(
        self, src: Int[Tensor, "B S"], maps: list[Tensor] | None = None
    ) -> Float[Tensor, "B S D"]:
        """As the model's own; without a mask where nothing is padded."""
        mask = self._mask(src)
        if maps is not None:
            return self.encoder(self.embed(src, self.src_embedding), mask, maps)
        x = self.positions(self.src_embedding(src))
        for layer in self.encoder_layers:
            x = layer.encode(x, mask)
        return self.encoder.norm(x)

    def start_cache(
        self, memory: Float[Tensor, "B S D"], max_len: int, beam_size: int = 1
    ) -> SearchCache:
        """As the model's own, with room for a mask."""
        return SearchCache(super().start_cache(memory, max_len, beam_size))

    def decode(
        self,
        tgt: Int[Tensor, "R T"],
        memory: Float[Tensor, "B S D"],
        src: Int[Tensor, "B S"],
        cache: list[LayerCache] | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "R T D"]:
        """As the model's own; one new token takes the short way."""
        if not isinstance(cache, SearchCache) or maps is not None or tgt.size(1) != 1:
            return super().decode(tgt, memory, src, cache, maps)
        if src is not cache.src:  # at the start, and when sentences have ended
            mask = self._mask(src)
            if mask is not None:  # what the fused kernel would make of it in every layer
                mask = torch.zeros_like(mask, dtype=memory.dtype).masked_fill(~mask, -torch.inf)
            cache.src, cache.mask = src, mask
        x = self.positions(self.tgt_embedding(tgt), cache[0].self_attention.length)[:, 0]
        for layer, remembered in zip(self.decoder_layers, cache, strict=True):
            x = layer.step(x, remembered, cache.mask)
        return self.decoder.norm(x)[:, None]

    def _mask(self, src: Int[Tensor, "B S"]) -> Mask:
        mask = padding_mask(src, self.config.pad_id)
        return None if mask.all() else mask


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` of every item, in order: each of torch's CPU threads takes the next one, alone.

    Several threads gain little on one small product, and nearly everything on several batches.
    """
    threads = torch.get_num_threads()
    n_workers = min(threads, len(items))
    if n_workers < 2 or torch.is_autocast_enabled("cpu"):  # which other threads do not inherit
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(n_workers, None, torch.set_num_threads, (1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)  # that is what threads to come will get
