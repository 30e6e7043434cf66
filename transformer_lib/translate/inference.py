"""Decoding without waste: the same model, one new token at a time, with far fewer calls.

On a CPU, calls cost more than arithmetic in a step. So the three projections of self-attention
are one product here, functions are applied to the weights instead of calling a tree of modules,
the memory's keys and values are computed once, and no mask is made where nothing is padded. A
model that is not exactly as the notebooks write it is decoded through its own methods instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lib import layers, positional
from transformer_lib.attention import KeyValueCache
from transformer_lib.config import ModelConfig
from transformer_lib.embeddings import OutputProjection, TokenEmbedding
from transformer_lib.layers import DecoderLayer, EncoderLayer
from transformer_lib.masks import padding_mask
from transformer_lib.model import Transformer
from transformer_lib.training import evaluation_mode

__all__ = ["BatchDecoder", "FastDecoder", "PlainDecoder", "decoder_for", "map_threads"]

Rows = Float[Tensor, "R D"]
Mask = Bool[Tensor, "B 1 1 S"] | None
Item, Result = TypeVar("Item"), TypeVar("Result")

# The parts of a plain model by name, each with the classes it may have.
PARTS: dict[str, tuple[type, ...]] = {
    "src_embedding": (TokenEmbedding,),
    "tgt_embedding": (TokenEmbedding,),
    "positions": (positional.SinusoidalPositionalEncoding, positional.LearnedPositionalEncoding),
    "encoder": (layers.Encoder,),
    "decoder": (layers.Decoder,),
    "output_projection": (OutputProjection,),
}


def log_softmax(logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
    """Log-probabilities, in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


# Any model, through its own methods


class PlainDecoder:
    """Decoding through the `encode` and `decode` of any model like `Transformer`."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    @contextmanager
    def start(self, src: Tensor, max_len: int, beam_size: int = 1) -> Iterator[PlainSteps]:
        """Encode the source; the model is in evaluation mode until the end."""
        with evaluation_mode(self.model):
            yield PlainSteps(self.model, src, max_len, beam_size)


class PlainSteps:
    """The decoding of one batch, a row of memory for every row of the decoder.

    A call takes the last ids (R, 1) and returns log-probabilities of the next (R, V).
    """

    def __init__(self, model: Transformer, src: Tensor, max_len: int, beam_size: int) -> None:
        self.model, self.src = model, src.repeat_interleave(beam_size, dim=0)
        self.memory = model.encode(src).repeat_interleave(beam_size, dim=0)
        self.cache = model.start_cache(self.memory, max_len)

    def __call__(self, last: Int[Tensor, "R 1"]) -> Float[Tensor, "R V"]:
        hidden = self.model.decode(last, self.memory, self.src, self.cache)
        return log_softmax(self.model.output_projection(hidden[:, -1]))

    def select(self, rows: Int[Tensor, " rows"], sentences: Int[Tensor, " n"] | None) -> None:
        """Keep these rows, in this order; `sentences` are those that remain, None for all."""
        for cache in self.cache:
            cache.select(rows)
        if sentences is not None:  # else the same sentences, whose beams have equal rows here
            self.memory, self.src = self.memory[rows], self.src[rows]


# Our model, as functions of its weights


def is_plain(model: Transformer) -> bool:
    """True where every part is what the notebooks write, so that functions can replace calls."""
    if type(model) is not Transformer:
        return False
    if any(type(getattr(model, name)) not in kinds for name, kinds in PARTS.items()):
        return False
    replaced = (model, model.encoder, model.decoder, model.dropout)  # never called as modules here
    if not all(map(_is_untouched, replaced)) or not _does_nothing(model.dropout):
        return False
    if {"encode", "decode", "embed", "start_cache"} & vars(model).keys():  # replaced by the user
        return False
    return all(map(_is_plain_layer, (*model.encoder.layers, *model.decoder.layers)))


def _is_plain_layer(layer: nn.Module) -> bool:
    kind = type(layer)
    if kind not in (EncoderLayer, DecoderLayer) or _kinds(layer) != _kinds_of_new(kind):
        return False
    return len({residual.norm_first for residual in layer.residuals}) == 1


def _is_untouched(part: nn.Module) -> bool:
    """True for a part without hooks and with the `forward` of its class."""
    return not (part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))


def _does_nothing(part: nn.Module) -> bool:
    """True for dropout that is known to do nothing in evaluation mode."""
    return type(part) is nn.Dropout or getattr(type(part), "does_nothing_in_evaluation", False)


@functools.cache
def _kinds_of_new(kind: type[EncoderLayer | DecoderLayer]) -> list[type]:
    with torch.device("meta"):  # no numbers are drawn
        return _kinds(kind(ModelConfig.tiny(1)))


def _kinds(module: nn.Module) -> list[type]:
    """List the classes of a module and all its parts; a part that was touched has none."""
    parts = [module]
    for part in parts:  # which grows meanwhile
        parts += (p for p in part._modules.values() if p is not None)  # None: it was taken out
    kinds = [nn.Dropout if _does_nothing(part) else type(part) for part in parts]
    whole = (_is_untouched(p) and getattr(p, "bias", 0) is not None for p in parts)
    return [kind for kind, is_whole in zip(kinds, whole, strict=True) if is_whole]


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
        self.project = None
        if isinstance(layer, DecoderLayer):
            linears += [layer.cross_attention.query, layer.cross_attention.output]
            self.project = layer.cross_attention.project
        weights = [(linear.weight, linear.bias) for linear in linears]
        self.own_output, self.expand, self.contract, *self.cross = weights
        norms = [residual.norm for residual in layer.residuals]
        self.norms = [(norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in norms]
        self.norm_first = layer.residuals[0].norm_first

    def encode(self, x: Float[Tensor, "B S D"], mask: Mask) -> Float[Tensor, "B S D"]:
        """Return the encoder layer's output."""
        x = self._residual(0, x, self._attend_all, mask)
        return self._residual(1, x, self._feed_forward)

    def step(self, x: Rows, own: KeyValueCache, cross: KeyValueCache, mask: Tensor | None) -> Rows:
        """Return the decoder layer's output for one new token per row; `own` grows by it."""
        x = self._residual(0, x, self._attend_to_past, own)
        x = self._residual(1, x, self._attend_to_memory, cross, mask)
        return self._residual(2, x, self._feed_forward)

    def _residual(self, i: int, x: Tensor, sublayer: Callable[..., Tensor], *more: Any) -> Tensor:
        if self.norm_first:
            return x + sublayer(torch.layer_norm(x, *self.norms[i]), *more)
        return torch.layer_norm(x + sublayer(x, *more), *self.norms[i])

    def _attend_all(self, x: Tensor, mask: Mask) -> Tensor:
        heads = F.linear(x, *self.qkv).view(*x.shape[:2], 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, H, S, d_k) each
        output = F.scaled_dot_product_attention(query, key, value, mask)
        return F.linear(output.transpose(1, 2).reshape(x.shape), *self.own_output)

    def _attend_to_past(self, x: Rows, cache: KeyValueCache) -> Rows:
        heads = F.linear(x, *self.qkv).view(len(x), 3, self.n_heads, 1, -1)
        query, key, value = heads.unbind(1)  # (R, H, 1, d_k) each
        output = F.scaled_dot_product_attention(query, *cache.append(key, value))
        return F.linear(output.reshape(x.shape), *self.own_output)

    def _attend_to_memory(self, x: Rows, cache: KeyValueCache, mask: Tensor | None) -> Rows:
        (to_query, to_output), keys = self.cross, cache.keys
        query = F.linear(x, *to_query)  # the beams of a sentence are queries to the same keys
        query = query.view(len(keys), -1, self.n_heads, keys.size(-1)).transpose(1, 2)
        output = F.scaled_dot_product_attention(query, keys, cache.values, mask)
        return F.linear(output.transpose(1, 2).reshape(x.shape), *to_output)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, *self.expand).relu(), *self.contract)


class FastDecoder:
    """Decoding with the stacked weights of a plain model; after a training step, make another."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        with torch.inference_mode():
            self.encoder, self.decoder = (
                [StackedLayer(layer) for layer in stack.layers]
                for stack in (model.encoder, model.decoder)
            )

    @contextmanager
    def start(self, src: Tensor, max_len: int, beam_size: int = 1) -> Iterator[FastSteps]:
        """Encode the source. No module is called that knows a mode, so none is changed."""
        yield FastSteps(self, src, max_len, beam_size)

    def encode(self, src: Int[Tensor, "B S"], mask: Mask) -> Float[Tensor, "B S D"]:
        """Return the memory."""
        x = self.model.positions(self.model.src_embedding(src))
        for layer in self.encoder:
            x = layer.encode(x, mask)
        return self.model.encoder.norm(x)


class FastSteps:
    """The decoding of one batch: a row for every beam, one row of memory for every sentence."""

    def __init__(self, decoder: FastDecoder, src: Tensor, max_len: int, beam_size: int) -> None:
        self.model, self.layers, self.src = decoder.model, decoder.decoder, src
        memory = decoder.encode(src, self._find_mask())
        config = self.model.config
        room = len(src) * beam_size, config.n_heads, max_len, config.d_model // config.n_heads
        self.own = [KeyValueCache.empty(*room, like=memory) for _ in self.layers]
        self.cross = [KeyValueCache.of(*layer.project(memory)) for layer in self.layers]
        self._set_scores(memory.dtype)

    def __call__(self, last: Int[Tensor, "R 1"]) -> Float[Tensor, "R V"]:
        model = self.model
        x = model.positions(model.tgt_embedding(last), self.own[0].length)[:, 0]
        for layer, own, cross in zip(self.layers, self.own, self.cross, strict=True):
            x = layer.step(x, own, cross, self.scores)
        return log_softmax(model.output_projection(model.decoder.norm(x)))

    def select(self, rows: Int[Tensor, " rows"], sentences: Int[Tensor, " n"] | None) -> None:
        """Keep these rows, in this order; `sentences` are those that remain, None for all."""
        for cache in self.own:
            cache.select(rows)
        if sentences is not None:
            self.src = self.src[sentences]
            for cache in self.cross:
                cache.select(sentences)
            self._set_scores(self.cross[0].keys.dtype)

    def _find_mask(self) -> Mask:
        mask = padding_mask(self.src, self.model.config.pad_id)
        return None if mask.all() else mask

    def _set_scores(self, dtype: torch.dtype) -> None:
        """Add to scores what the fused kernel would make of the mask, in every layer anew."""
        self.scores = mask = self._find_mask()
        if mask is not None:
            self.scores = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)


BatchDecoder = FastDecoder | PlainDecoder


def decoder_for(model: nn.Module | BatchDecoder) -> BatchDecoder:
    """Return the fastest way to decode with a model, which gives the model's own numbers.

    `FastDecoder` where every part is as the notebooks write it; `PlainDecoder` where a part is
    another one (compiled, sharded, adapted), is watched by a hook, or had its `forward` replaced.
    """
    if not isinstance(model, nn.Module):
        return model
    return FastDecoder(model) if is_plain(model) else PlainDecoder(model)


def map_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply a function to every item, in order: each of torch's CPU threads takes the next one."""
    threads = torch.get_num_threads()
    n_workers = min(threads, len(items))
    if n_workers < 2 or torch.is_autocast_enabled("cpu"):  # which other threads do not inherit
        return [function(item) for item in items]
    try:
        with ThreadPoolExecutor(n_workers, None, torch.set_num_threads, (1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)  # that is what threads to come will get
