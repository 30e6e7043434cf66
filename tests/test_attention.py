"""Attention against torch's own layers, against loops, and against itself on its other path."""

import math
from unittest import mock

import pytest
import torch
from helpers import close, gradients, random, same_as_torch
from torch import nn
from torch.nn import functional as F

from transformer_lib.attention import (
    KeyValueCache,
    MultiHeadAttention,
    attend,
    attention,
    merge_heads,
    split_heads,
)
from transformer_lib.lessons.cost import peak_bytes
from transformer_lib.lessons.twin import as_torchs
from transformer_lib.masks import causal_mask

B, H, T, S, D = 2, 4, 5, 7, 32


def query_key_value(dtype=torch.float64):
    return [random(B, H, n, 8, dtype=dtype) for n in (T, S, S)]


def padding():
    """(B, 1, 1, S): the second sentence has three real keys."""
    mask = torch.ones(B, 1, 1, S, dtype=torch.bool)
    mask[1, ..., 3:] = False
    return mask


def one_row_without_keys():
    """(T, S): query 2 may attend to nothing."""
    mask = causal_mask(T, S).clone()
    mask[2] = False
    return mask


MASKS = {
    "no mask": lambda: None,
    "padding": padding,
    "causal": lambda: causal_mask(T, S),
    "padding and causal": lambda: padding() & causal_mask(T, S),
    "a row without keys": one_row_without_keys,
    "no keys at all": lambda: torch.zeros(T, S, dtype=torch.bool),
}
each_mask = pytest.mark.parametrize("name", MASKS)
both_paths = pytest.mark.parametrize("written_out", [True, False])


@each_mask
def test_equals_torch_in_outputs_and_gradients(name):
    inputs, mask, maps = query_key_value(), MASKS[name](), []
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    wanted = gradients(expected, inputs)
    written_out, weights = attention(*inputs, mask)
    for output in (written_out, attend(*inputs, mask, maps), attend(*inputs, mask)):
        close(output, expected)
        close(gradients(output, inputs), wanted)
    assert len(maps) == 1 and maps[0].equal(weights)


@each_mask
def test_equals_loops(name):
    query, key, value = (tensor.detach() for tensor in query_key_value())
    mask = MASKS[name]()
    output, weights = attention(query, key, value, mask)
    allowed = torch.ones(B, H, T, S, dtype=torch.bool) if mask is None else mask.expand(B, H, T, S)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, (B, H, T))).tolist():
        keys = [j for j in range(S) if allowed[b, h, i, j]]
        dots = [math.exp(query[b, h, i].dot(key[b, h, j]).item() / math.sqrt(8)) for j in keys]
        row = torch.zeros(S, dtype=torch.float64)
        row[keys] = torch.tensor(dots, dtype=torch.float64) / sum(dots)
        close(weights[b, h, i], row)
        close(output[b, h, i], sum(row[j] * value[b, h, j] for j in range(S)))
    assert not weights[~allowed].any()  # exactly 0


@each_mask
def test_gradcheck(name):
    query, key, value = (random(1, n, 3) for n in (T, S, S))
    mask = MASKS[name]()
    mask = mask if mask is None or mask.dim() == 2 else mask[1, 0]
    assert torch.autograd.gradcheck(lambda *inputs: attention(*inputs, mask), (query, key, value))


@both_paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_row_without_keys_gives_zero_and_finite_gradients(dtype, written_out):
    inputs = query_key_value(dtype)
    with torch.autograd.set_detect_anomaly(written_out):  # no NaN on the way back either
        output = attend(*inputs, one_row_without_keys(), maps=[] if written_out else None)
        assert output.dtype == dtype
        assert not output[:, :, 2].any()
        assert output.isfinite().all() and output[:, :, 3].any()
        if dtype in (torch.float32, torch.float64):
            assert all(gradient.isfinite().all() for gradient in gradients(output, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype):
    inputs = [tensor.detach().to(dtype) for tensor in query_key_value()]
    exact, _ = attention(*(tensor.float() for tensor in inputs), padding())
    tolerance = 8 * torch.finfo(dtype).eps  # a few roundings of numbers below 4
    for maps in ([], None):
        close(attend(*inputs, padding(), maps).float(), exact, tolerance)


def test_the_fast_path_is_torchs_kernel():
    kernel = F.scaled_dot_product_attention
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=kernel) as called:
        attend(*query_key_value(), maps=[])
        assert not called.called
        attend(*query_key_value())
        assert called.called


# The layer


def test_heads_are_slices_of_the_columns():
    x = torch.randn(B, T, 12)
    heads = split_heads(x, 3)
    assert heads.equal(torch.stack([x[..., :4], x[..., 4:8], x[..., 8:]], dim=1))
    assert merge_heads(heads).equal(x)


def layer_and_twin(n_heads=H):
    """Our layer and nn.MultiheadAttention with the same weights, biases included, in float64."""
    ours = MultiHeadAttention(D, n_heads).double()
    twin = nn.MultiheadAttention(D, n_heads, batch_first=True, dtype=torch.float64)
    twin.load_state_dict(as_torchs(ours.state_dict()))
    return ours, twin


@both_paths
@pytest.mark.parametrize("n_heads", [1, 4, 32])
def test_cross_attention_equals_torchs_layer(n_heads, written_out):
    layer, twin = layer_and_twin(n_heads)
    x, memory = random(B, T, D), random(B, S, D)
    maps = [] if written_out else None
    output = layer(x, memory, padding(), maps=maps)
    ignored = ~padding()[:, 0, 0]  # in torch's layer, True = ignore
    options = {"key_padding_mask": ignored, "average_attn_weights": False}
    expected, weights = twin(x, memory, memory, **options)
    same_as_torch(layer, twin, output, expected, [x, memory])
    if written_out:
        close(maps[0], weights)


@both_paths
def test_causal_self_attention_equals_torchs_layer(written_out):
    layer, twin = layer_and_twin()
    x = random(B, T, D)
    output = layer(x, x, causal_mask(T), maps=[] if written_out else None)
    same_as_torch(layer, twin, output, twin(x, x, x, attn_mask=~causal_mask(T))[0], [x])


def test_maps_are_of_this_call_and_stored_nowhere():
    layer, maps = MultiHeadAttention(D, H), []
    before = set(vars(layer))
    layer(torch.randn(B, T, D), torch.randn(B, S, D), padding(), maps=maps)
    layer(torch.randn(1, S, D), torch.randn(1, T, D), maps=maps)
    assert [tuple(weights.shape) for weights in maps] == [(B, H, T, S), (1, H, S, T)]
    assert set(vars(layer)) == before and not list(layer.buffers())


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="d_model=10 is not divisible by n_heads=4"):
        MultiHeadAttention(10, 4)


# The cache


@pytest.mark.parametrize("sizes", [[6], [1] * 6, [3, 1, 2]])
@both_paths
def test_cached_self_attention_equals_recomputation(sizes, written_out):
    layer = MultiHeadAttention(D, H).double()
    x = torch.randn(B, 6, D, dtype=torch.float64)
    cache = KeyValueCache.empty(B, H, 6, D // H, like=x)
    outputs, maps = [], [] if written_out else None
    with torch.no_grad():
        for chunk in x.split(sizes, dim=1):
            n = chunk.size(1)
            mask = causal_mask(n, cache.length + n) if n > 1 else None  # one token needs none
            outputs.append(layer(chunk, chunk, mask, cache=cache, maps=maps))
        close(torch.cat(outputs, dim=1), layer(x, x, causal_mask(6)))


def filled_cache(length=4, max_len=6):
    cache = KeyValueCache.empty(3, H, max_len, 2, like=torch.empty(0, dtype=torch.float64))
    keys, values = torch.randn(2, 3, H, length, 2, dtype=torch.float64)
    cache.append(keys, values)
    return cache, keys, values


def test_append_and_read_give_back_what_was_stored():
    cache, *stored = filled_cache()
    more = torch.randn(2, 3, H, 2, 2, dtype=torch.float64)
    read = cache.append(*more)
    for found in (read, cache.read()):
        for part, old, new in zip(found, stored, more, strict=True):
            assert part.equal(torch.cat([old, new], dim=2))
    assert cache.length == 6


def test_a_full_cache_refuses_more_and_stays_as_it_was():
    cache, keys, values = filled_cache()
    with pytest.raises(ValueError, match="room for 6 tokens, 7 are needed"):
        cache.append(keys[:, :, :3], values[:, :, :3])
    assert cache.length == 4
    assert cache.read()[0].equal(keys) and cache.read()[1].equal(values)


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 1], [1, 1, 0], [2, 2, 2], [2, 0], [1]])
def test_select_keeps_and_reorders_rows(rows):
    cache, keys, values = filled_cache()
    cache.select(torch.tensor(rows))
    assert cache.read()[0].equal(keys[rows]) and cache.read()[1].equal(values[rows])
    more = torch.randn(len(rows), H, 1, 2, dtype=torch.float64)
    read, _ = cache.append(more, more)
    assert read.equal(torch.cat([keys[rows], more], dim=2))


def test_memory_is_taken_once():
    cache, keys, values = filled_cache(length=1)
    addresses = cache.keys.data_ptr(), cache.values.data_ptr()
    for _ in range(5):
        assert tuple(part.data_ptr() for part in cache.append(keys, values)) == addresses
    cache.select(torch.tensor([2, 1]))
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == addresses
    assert cache.keys.untyped_storage().nbytes() == 3 * H * 6 * 2 * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_cache_takes_the_dtype_of_its_model(dtype):
    cache = KeyValueCache.empty(1, 2, 3, 4, like=torch.empty(0, dtype=dtype))
    assert cache.keys.dtype == cache.values.dtype == dtype
    assert cache.keys.shape == cache.values.shape == (1, 2, 3, 4)
    assert cache.keys.data_ptr() != cache.values.data_ptr() and cache.length == 0


# The meter of notebook 04


def test_peak_bytes_counts_what_is_alive_at_once():
    x = torch.ones(1000)  # existed before: not counted
    assert peak_bytes(lambda: (x + 1) * 2) == 8000
    assert peak_bytes(lambda: [x + number for number in range(3)]) == 12000
    assert peak_bytes(lambda: [(x + number).sum() for number in range(3)]) < 8000
    assert peak_bytes(lambda: x[:500]) == 0
