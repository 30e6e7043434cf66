"""Decoding without waste: the same model, one new token at a time, with far fewer calls.

Functions are applied to the weights instead of calling a tree of modules (`stacked.py`), and the
memory's keys and values are computed once. A model that is not exactly as the notebooks write it
is decoded through its own methods instead.
"""

from __future__ import annotations

import copy
import functools
import importlib
import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lib.config import ModelConfig
from transformer_lib.masks import causal_mask, padding_mask
from transformer_lib.model import Transformer
from transformer_lib.positional import position_rows
from transformer_lib.training import evaluation_mode
from transformer_lib.translate.stacked import Mask, Product, Rows, StackedLayer, scores_of, views

__all__ = [
    "BatchDecoder",
    "FastDecoder",
    "PlainDecoder",
    "decoder_for",
    "in_evaluation",
    "map_threads",
]

Item, Result = TypeVar("Item"), TypeVar("Result")


# Any model, through its own methods


class PlainDecoder:
    """Decoding through the `encode` and `decode` of any model like `Transformer`."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    @contextmanager
    def start(self, src: Tensor, max_len: int) -> Iterator[PlainSteps]:
        """Encode the source, in evaluation mode."""
        with in_evaluation(self.model) as model:
            yield PlainSteps(model, src, max_len)


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[nn.Module]:
    """Provide the model in evaluation mode, while another thread may train it.

    Where a part is in training mode, it is a copy with the same tensors and modes of its own. Only
    what cannot be copied, or has a function in the place of a method, whose variables a copy would
    share, changes its mode until the end.
    """
    if not any(module.training for module in model.modules()):
        yield model
        return
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        if any(isinstance(f, FunctionType) for m in model.modules() for f in vars(m).values()):
            raise TypeError("a function in the place of a method")
        shared = copy.deepcopy(model, tensors).eval()
    except Exception:  # a model may forbid copying in any way it likes
        with evaluation_mode(model):
            yield model
    else:
        yield shared


class PlainSteps:
    """The decoding of one batch, a row of memory for every row of the decoder.

    A call takes the last ids (R, 1) and returns logits of the next (R, V).
    """

    def __init__(self, model: Transformer, src: Tensor, max_len: int) -> None:
        self.model, self.src, self.max_len = model, src, max_len
        self.memory = model.encode(src)
        self.cache = model.start_cache(self.memory, max_len)

    def __call__(self, last: Int[Tensor, "R 1"]) -> Float[Tensor, "R V"]:
        self.last = last
        hidden = self.model.decode(last, self.memory, self.src, self.cache)
        return self.model.output_projection(hidden[:, -1])

    def select(self, rows: Int[Tensor, " rows"], sentences: Sequence[int] | None) -> None:
        """Keep these rows, in this order; `sentences` are those that remain, None for all.

        After the first token, there may be more rows than before: the beams of each sentence.
        """
        more = len(rows) > len(self.memory)
        if more or sentences is not None:  # else the same sentences, whose beams have equal rows
            self.memory, self.src = self.memory[rows], self.src[rows]
        if more:  # a cache has no room for more rows
            self.cache = self.model.start_cache(self.memory, self.max_len)
            self.model.decode(self.last[rows], self.memory, self.src, self.cache)
            return
        for cache in self.cache:
            cache.select(rows)


# Our model, as functions of its weights


def is_plain(model: Transformer) -> bool:
    """True for a model that is exactly what the notebooks build from its configuration.

    Functions replace the calls of its parts, so any difference counts: a part of another class or
    missing, an attribute (a method, a hook, the eps of a LayerNorm), a parameter that is no plain
    one, and a function of this package or of torch that was replaced. Only dropout may differ as
    long as it does nothing in evaluation mode.
    """
    if type(model) is not Transformer or type(model.config) is not ModelConfig:
        return False
    if any(functions_of(owner) != known for owner, known in KNOWN.items()) or any(GLOBAL_HOOKS):
        return False
    kinds: set[tuple[torch.dtype, torch.device]] = set()
    return _is_built_as(model, _built(model.config), kinds) and len(kinds) == 1


def functions_of(owner: Any) -> dict[str, Any]:
    """Return the functions of a module, or the methods of a class."""
    return {name: value for name, value in vars(owner).items() if isinstance(value, FUNCTIONS)}


FUNCTIONS = (FunctionType, BuiltinFunctionType, classmethod, staticmethod, property)
# By name: `transformer_lib.attention` as an attribute is the function.
PAPER = ("attention", "embeddings", "feed_forward", "layers", "masks", "model", "positional")
OURS = [importlib.import_module(f"transformer_lib.{name}") for name in PAPER]
CLASSES = {c for m in OURS for c in vars(m).values() if isinstance(c, type) and c is not Tensor}
TORCHS = (nn.Module, nn.Linear, nn.LayerNorm, nn.Dropout, nn.ModuleList, nn.Identity)
KNOWN = {owner: functions_of(owner) for owner in (*OURS, F, *CLASSES, *TORCHS)}
GLOBAL_HOOKS = (
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
)


class Part(NamedTuple):
    """Description of a module as built: all but the numbers of its parameters and its mode."""

    kind: type[nn.Module]
    size: int  # of its dictionary, which also holds what somebody put in the place of a method
    values: dict[str, Any]
    tensors: list[tuple[str, str, type, torch.Size]]
    parts: dict[str, Part]


@functools.lru_cache(maxsize=4)
def _built(config: ModelConfig) -> Part:
    with torch.device("meta"):  # takes no memory and draws no numbers
        return _describe(Transformer(config))


def _describe(module: nn.Module) -> Part:
    values = {name: value for name, value in vars(module).items() if name not in OF_ALL}
    tensors = [
        (store, name, type(tensor), tensor.shape)
        for store in ("_parameters", "_buffers")
        for name, tensor in vars(module)[store].items()
    ]
    parts = {name: _describe(part) for name, part in vars(module)["_modules"].items()}
    return Part(type(module), len(vars(module)), values, tensors, parts)


def _is_built_as(part: nn.Module | None, known: Part, kinds: set[Any]) -> bool:
    """True if a module is as described; adds the dtypes and devices of its parameters."""
    if known.kind is nn.Dropout and part is not None:
        if not _is_dropout(part):
            return False
    elif type(part) is not known.kind:
        return False
    mine = vars(part)
    if len(mine) != known.size or any(read_hooks(mine)):
        return False
    try:
        for name, value in known.values.items():
            if name not in OF_DROPOUT and mine[name] != value:
                return False
        for store, name, kind, shape in known.tensors:
            tensor = mine[store][name]
            if type(tensor) is not kind or tensor.shape != shape:
                return False
            if kind is nn.Parameter:
                kinds.add((tensor.dtype, tensor.device))
    except (KeyError, RuntimeError, ValueError):  # an array took the place of a number
        return False
    inside = mine["_modules"]
    if len(mine["_parameters"]) + len(mine["_buffers"]) != len(known.tensors):
        return False
    return [*inside] == [*known.parts] and all(
        _is_built_as(inside[name], other, kinds) for name, other in known.parts.items()
    )


OF_ALL = vars(nn.Module()).keys()
HOOKS = {name for name, value in vars(nn.Module()).items() if not value and "hook" in name}
read_hooks = operator.itemgetter(*HOOKS)
OF_DROPOUT = {"p", "inplace"}


def _is_dropout(part: nn.Module) -> bool:
    """True for dropout that does nothing in evaluation mode: torch's own, or one that says so.

    The class says so by `nothing_in_evaluation = forward`; not a subclass with another `forward`.
    """
    kind = type(part)
    return kind is nn.Dropout or vars(kind).get("nothing_in_evaluation") is kind.forward


class FastDecoder:
    """Decoding with the stacked weights of a plain model; after a training step, make another."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        with torch.inference_mode():
            self.encoder, self.decoder = (
                [StackedLayer(layer) for layer in stack.layers]
                for stack in (model.encoder, model.decoder)
            )
            self.output = Product(model.output_projection.weight)
        # Read once: to read from a module takes a microsecond.
        self.embedding, self.scale = model.tgt_embedding.weight, model.tgt_embedding.scale
        self.positions, self.norm = model.positions.table, model.decoder.norm

    def embed(self, last: Int[Tensor, "R 1"], t: int) -> Rows:
        """Return the vectors of the tokens at position t."""
        row = position_rows(self.positions, t, 1)
        return F.embedding(last[:, 0], self.embedding) * self.scale + row

    @contextmanager
    def start(self, src: Tensor, max_len: int) -> Iterator[FastSteps]:
        """Encode the source. No module is called that knows a mode, so none is changed."""
        yield FastSteps(self, src)

    def encode(self, src: Int[Tensor, "B S"], mask: Mask) -> Float[Tensor, "B S D"]:
        """Return the memory."""
        x = self.model.positions(self.model.src_embedding(src))
        for layer in self.encoder:
            x = layer.encode(x, mask)
        return self.model.encoder.norm(x)


KEYS = 16  # there are at least so many: a softmax over fewer takes up to 8 times as long
READ = 8  # after the first 16, tokens so far are read in blocks: fewer views


class FastSteps:
    """The decoding of one batch: a row for every beam, one row of memory for every sentence.

    What is stored moves as little as possible, so it may be in another order: the caller's row r
    is the stored row `at[r]`, its sentence i has the stored memory `groups[i]`.
    """

    def __init__(self, decoder: FastDecoder, src: Tensor) -> None:
        self.decoder, self.length = decoder, 0
        pad_id = decoder.model.config.pad_id
        wide = F.pad(src, (0, max(0, KEYS - src.size(1))), value=pad_id)
        mask = padding_mask(wide, pad_id)  # (B, 1, 1, S)
        padded = not mask[..., : src.size(1)].all()
        memory = decoder.encode(src, mask if padded else None)
        self.cross = [layer.project(memory, wide.size(1)) for layer in decoder.decoder]
        for _, value in self.cross if padded else ():
            value.masked_fill_(~mask.transpose(2, 3), 0.0)  # a source of padding only gives 0
        _, _, n_heads, _, d_k = self.cross[0].shape
        scores = scores_of(mask[:, 0], memory.dtype)  # (B, 1, S)
        self.scores = scores.repeat_interleave(n_heads, 0)
        self.views = [(*views(both), self.scores) for both in self.cross]
        self.own = memory.new_empty(len(self.cross), 2, len(src), n_heads, 0, d_k)
        self.groups, self.at = [*range(len(src))], torch.arange(len(src), device=src.device)
        self.places = self.at  # `groups` as a tensor: a GPU waits where one is made
        self.rows: Tensor | None = None  # the caller's row of each stored one; None: the same

    def __call__(self, last: Int[Tensor, "R 1"]) -> Float[Tensor, "R V"]:
        decoder, t = self.decoder, self.length
        x = decoder.embed(last if self.rows is None else last[self.rows], t)
        if t == self.own.size(4):
            size = t + READ if t else KEYS
            self._store(self.own, size)
            self.own_scores = scores_of(causal_mask(size - t, size, x.device), x.dtype)
        self.length = t + 1
        scores = self.own_scores[None, t - self.own.size(4), None]  # (1, 1, tokens that are read)
        new = self.own[..., t, :].unbind()
        for layer, *stored in zip(decoder.decoder, new, self.own_views, self.views, strict=True):
            x = layer.step(x, *stored, scores)
        x = decoder.norm(x)
        return decoder.output(x if self.rows is None else x[self.at])

    def select(self, rows: Int[Tensor, " rows"], sentences: Sequence[int] | None) -> None:
        """Keep these rows, in this order; `sentences` are those that remain, None for all.

        After the first token, there may be more rows than before: the beams of each sentence.
        """
        origin = self.at[rows]
        if sentences is not None:
            self._select_memory(sentences)
        if len(rows) > self.own.size(2):
            self._store(self.own[..., : self.length, :][:, :, origin], self.own.size(4))
            origin = torch.arange(len(rows), device=rows.device)
        beams = max(1, len(rows) // max(1, len(self.groups)))
        slots = slots_of(origin.view(-1, beams) % beams)
        self.at = (self.places[:, None] * beams + slots).flatten()
        self.rows = self.at.argsort()
        moved = (self.at != origin).nonzero().flatten()
        origin, target = origin[moved], self.at[moved]
        for stored in self.own[..., : self.length, :].flatten(0, 1):
            stored.index_copy_(0, target, stored.index_select(0, origin))
        self.own = self.own[:, :, : len(rows)]
        self.own_views = [views(layer) for layer in self.own.unbind()]

    def _store(self, own: Float[Tensor, "L 2 R H t d_k"], size: int) -> None:
        """Store these keys and values, with room for `size` tokens."""
        t = own.size(4)
        self.own = own.new_empty((*own.shape[:4], size, own.size(5)))
        self.own[..., :t, :] = own
        self.own[..., t:, :] = 0.0  # no NaN where the mask is False
        self.own_views = [views(layer) for layer in self.own.unbind()]

    def _select_memory(self, sentences: Sequence[int]) -> None:
        """Keep the memory of these sentences: the last ones fill the gaps of those that left."""
        groups = [self.groups[i] for i in sentences]
        n = len(groups)
        gaps = sorted({*range(n)}.difference(groups))
        last = [group for group in groups if group >= n]
        moves = dict(zip(last, gaps, strict=True))
        self.groups = [moves.get(group, group) for group in groups]
        self.places = self.at.new_tensor(self.groups)
        origin, target = self.at.new_tensor(last), self.at.new_tensor(gaps)
        scores = self.scores.unflatten(0, (-1, self.cross[0].size(2)))  # (B, H, 1, S)
        for stored in (*(both.transpose(0, 1) for both in self.cross), scores):
            stored.index_copy_(0, target, stored.index_select(0, origin))
        self.cross = [both[:, :n] for both in self.cross]
        self.scores = scores[:n].flatten(0, 1)
        self.views = [(*views(both), self.scores) for both in self.cross]


def slots_of(wanted: Int[Tensor, "n k"]) -> Int[Tensor, "n k"]:
    """Give each of k beams one of k slots: the one it wants, unless an earlier beam has it."""
    k = wanted.size(1)
    earlier = torch.ones(k, k, dtype=torch.bool, device=wanted.device).tril(-1)
    taken = ((wanted[:, :, None] == wanted[:, None, :]) & earlier).any(dim=-1)
    free = torch.zeros_like(wanted).scatter_(1, wanted, 1).argsort(dim=1, stable=True)
    return torch.where(taken, free.gather(1, (taken.cumsum(1) - 1).clamp(min=0)), wanted)


BatchDecoder = FastDecoder | PlainDecoder


def decoder_for(model: nn.Module | BatchDecoder) -> BatchDecoder:
    """Return the fastest way to decode with a model, which gives the model's own numbers.

    `FastDecoder` where the model is exactly as the notebooks write it; `PlainDecoder` where a
    part is another one (compiled, sharded, adapted), is watched by a hook, or was changed.
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
