"""Attention against torch's own layers, against loops, and against itself on its other path."""

import math

import pytest
import torch
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
from transformer_lib.masks import causal_mask

B, H, Q, K, D = 2, 4, 5, 7, 32


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def query_key_value(dtype=torch.float64):
    return [random(B, H, n, 8, dtype=dtype) for n in (Q, K, K)]


def padding():
    """(B, 1, 1, K): the second sentence has three real keys."""
    mask = torch.ones(B, 1, 1, K, dtype=torch.bool)
    mask[1, ..., 3:] = False
    return mask


def one_row_without_keys():
    """(Q, K): query 2 may attend to nothing."""
    mask = causal_mask(Q, K).clone()
    mask[2] = False
    return mask


MASKS = {
    "no mask": lambda: None,
    "padding": padding,
    "causal": lambda: causal_mask(Q, K),
    "padding and causal": lambda: padding() & causal_mask(Q, K),
    "a row without keys": one_row_without_keys,
    "no keys at all": lambda: torch.zeros(Q, K, dtype=torch.bool),
}
each_mask = pytest.mark.parametrize("name", MASKS)


def close(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def gradients(output, inputs):
    towards = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad(output, inputs, towards)


# The written-out reference


@each_mask
def test_equals_torch_in_outputs_and_gradients(name):
    inputs, mask = query_key_value(), MASKS[name]()
    output, _ = attention(*inputs, mask)
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    close(output, expected)
    close(gradients(output, inputs), gradients(expected, inputs))


@each_mask
def test_equals_loops(name):
    query, key, value = (tensor.detach() for tensor in query_key_value())
    mask = MASKS[name]()
    output, weights = attention(query, key, value, mask)
    allowed = torch.ones(B, H, Q, K, dtype=torch.bool) if mask is None else mask.expand(B, H, Q, K)
    for b, h, i in [(0, 0, 0), (1, 3, 2), (1, 0, 4)]:
        keys = [j for j in range(K) if allowed[b, h, i, j]]
        dots = [math.exp(query[b, h, i].dot(key[b, h, j]).item() / math.sqrt(8)) for j in keys]
        row = torch.zeros(K, dtype=torch.float64)
        row[keys] = torch.tensor(dots, dtype=torch.float64) / sum(dots)
        close(weights[b, h, i], row)
        close(output[b, h, i], sum(row[j] * value[b, h, j] for j in range(K)))


@each_mask
def test_gradcheck(name):
    query, key, value = (random(1, n, 3) for n in (Q, K, K))
    mask = MASKS[name]()
    mask = mask if mask is None or mask.dim() == 2 else mask[1, 0]
    assert torch.autograd.gradcheck(lambda *inputs: attention(*inputs, mask), (query, key, value))


@each_mask
def test_rows_add_up_to_one_and_blocked_weights_are_zero(name):
    mask = MASKS[name]()
    _, weights = attention(*query_key_value(), mask)
    allowed = torch.ones(Q, K, dtype=torch.bool) if mask is None else mask
    close(weights.sum(-1), allowed.any(-1).double().expand(B, H, Q))
    assert (weights >= 0).all()
    assert not weights.masked_select(~allowed).any()


@pytest.mark.parametrize("written_out", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_row_without_keys_gives_zero_and_finite_gradients(dtype, written_out):
    inputs = query_key_value(dtype)
    output = attend(*inputs, one_row_without_keys(), maps=[] if written_out else None)
    assert output.dtype == dtype
    assert not output[:, :, 2].any()
    assert output.isfinite().all() and output[:, :, 3].any()
    if dtype in (torch.float32, torch.float64):
        assert all(gradient.isfinite().all() for gradient in gradients(output, inputs))


def test_no_nan_on_the_way_back():
    inputs = query_key_value()
    with torch.autograd.set_detect_anomaly(True):
        gradients(attention(*inputs, one_row_without_keys())[0], inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype):
    inputs = [tensor.detach().to(dtype) for tensor in query_key_value()]
    exact, _ = attention(*(tensor.float() for tensor in inputs), padding())
    tolerance = 8 * torch.finfo(dtype).eps  # a few roundings of numbers below 4
    for maps in ([], None):
        close(attend(*inputs, padding(), maps).float(), exact, tolerance)


def test_scores_are_divided_by_the_root_of_the_width():
    """Twice the width with every coordinate repeated: dot products double, scores grow by √2."""
    query, key, value = query_key_value()
    _, weights = attention(query * 2**0.5, key, value)
    _, repeated = attention(query.repeat(1, 1, 1, 2), key.repeat(1, 1, 1, 2), value)
    close(repeated, weights)


def test_a_factor_may_move_from_the_query_to_the_key():
    query, key, value = query_key_value()
    close(attention(query * 3, key, value), attention(query, key * 3, value))


def test_the_same_vector_added_to_all_keys_changes_nothing():
    query, key, value = query_key_value()
    close(attention(query, key + random(8), value), attention(query, key, value))


def test_output_is_linear_in_the_values():
    query, key, value = query_key_value()
    other = random(B, H, K, 8)
    both, _ = attention(query, key, 2 * value - other)
    close(both, 2 * attention(query, key, value)[0] - attention(query, key, other)[0])


def test_order_of_the_keys_does_not_matter():
    query, key, value = query_key_value()
    order = torch.randperm(K)
    output, weights = attention(query, key, value, padding())
    shuffled = attention(query, key[..., order, :], value[..., order, :], padding()[..., order])
    close(shuffled[0], output)
    close(shuffled[1], weights[..., order])


# The two paths


@each_mask
def test_fused_path_equals_written_out_path(name):
    inputs, mask = query_key_value(), MASKS[name]()
    maps = []
    written_out, fused = attend(*inputs, mask, maps), attend(*inputs, mask)
    close(fused, written_out)
    close(gradients(fused, inputs), gradients(written_out, inputs))
    (weights,) = maps
    close(weights @ inputs[2], fused)


def test_the_fast_path_is_torchs_kernel(monkeypatch):
    calls = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k)
    )
    attend(*query_key_value(), maps=[])
    assert not calls
    attend(*query_key_value())
    assert calls == [1]


# Heads


def test_heads_are_slices_of_the_columns():
    x = torch.randn(B, Q, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (B, 3, Q, 4)
    for head in range(3):
        assert heads[:, head].equal(x[..., head * 4 : head * 4 + 4])


def test_merge_is_the_inverse_of_split():
    x = torch.randn(B, Q, 12)
    assert merge_heads(split_heads(x, 3)).equal(x)


# The layer


def layer_and_twin(n_heads=H):
    """Our layer and nn.MultiheadAttention with the same weights, biases included, in float64."""
    ours = MultiHeadAttention(D, n_heads).double()
    twin = nn.MultiheadAttention(D, n_heads, batch_first=True, dtype=torch.float64)
    inputs = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([linear.weight for linear in inputs]))
        twin.in_proj_bias.copy_(torch.cat([linear.bias for linear in inputs]))
        twin.out_proj.weight.copy_(ours.output.weight)
        twin.out_proj.bias.copy_(ours.output.bias)
    return ours, twin


def our_gradients(output, layer, inputs):
    """In the order and packing of nn.MultiheadAttention's parameters."""
    linears = [layer.query, layer.key, layer.value, layer.output]
    parameters = [linear.weight for linear in linears] + [linear.bias for linear in linears]
    found = gradients(output, [*inputs, *parameters])
    rest = found[len(inputs) :]
    packed = [torch.cat(rest[0:3]), torch.cat(rest[4:7]), rest[3], rest[7]]
    return [*found[: len(inputs)], *packed]


def twin_gradients(output, twin, inputs):
    names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    return [*gradients(output, [*inputs, *map(twin.get_parameter, names)])]


@pytest.mark.parametrize("written_out", [True, False])
@pytest.mark.parametrize("n_heads", [1, 4, 32])
def test_cross_attention_equals_torchs_layer(n_heads, written_out):
    layer, twin = layer_and_twin(n_heads)
    x, memory = random(B, Q, D), random(B, K, D)
    maps = [] if written_out else None
    output = layer(x, memory, padding(), maps=maps)
    ignored = ~padding()[:, 0, 0]  # torch's layer says True = ignore
    expected, weights = twin(
        x, memory, memory, key_padding_mask=ignored, average_attn_weights=False
    )
    close(output, expected)
    close(our_gradients(output, layer, [x, memory]), twin_gradients(expected, twin, [x, memory]))
    if written_out:
        close(maps[0], weights)


@pytest.mark.parametrize("written_out", [True, False])
def test_causal_self_attention_equals_torchs_layer(written_out):
    layer, twin = layer_and_twin()
    x = random(B, Q, D)
    output = layer(x, x, causal_mask(Q), maps=[] if written_out else None)
    expected, _ = twin(x, x, x, attn_mask=~causal_mask(Q))
    close(output, expected)
    close(our_gradients(output, layer, [x]), twin_gradients(expected, twin, [x]))


def test_maps_are_of_this_call_and_stored_nowhere():
    layer = MultiHeadAttention(D, H)
    before = set(vars(layer))
    maps = []
    layer(torch.randn(B, Q, D), torch.randn(B, K, D), padding(), maps=maps)
    layer(torch.randn(1, K, D), torch.randn(1, Q, D), maps=maps)
    assert [tuple(weights.shape) for weights in maps] == [(B, H, Q, K), (1, H, K, Q)]
    assert set(vars(layer)) == before and not list(layer.buffers())


def test_self_attention_without_positions_is_permutation_equivariant():
    layer = MultiHeadAttention(D, H).double()
    x, order = random(B, Q, D), torch.randperm(Q)
    close(layer(x[:, order], x[:, order]), layer(x, x)[:, order])


def test_padding_changes_nothing():
    layer = MultiHeadAttention(D, H).double()
    x, memory = random(B, Q, D), random(B, K, D)
    alone = layer(x[1:], memory[1:, :3])
    close(layer(x, memory, padding())[1:], alone)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="d_model=10 is not divisible by n_heads=4"):
        MultiHeadAttention(10, 4)


def test_heads_cost_no_parameters():
    for n_heads in (1, 8, 32):
        layer = MultiHeadAttention(D, n_heads)
        assert sum(p.numel() for p in layer.parameters()) == 4 * D * (D + 1)


# The cache


@pytest.mark.parametrize("sizes", [[6], [1] * 6, [3, 1, 2]])
@pytest.mark.parametrize("written_out", [True, False])
def test_cached_self_attention_equals_recomputation(sizes, written_out):
    layer = MultiHeadAttention(D, H).double()
    x = torch.randn(B, 6, D, dtype=torch.float64)
    cache = KeyValueCache.empty(B, H, 6, D // H, like=x)
    outputs, maps = [], [] if written_out else None
    with torch.no_grad():
        for chunk in x.split(sizes, dim=1):
            mask = causal_mask(chunk.size(1), cache.length + chunk.size(1))
            outputs.append(layer(chunk, chunk, mask, cache=cache, maps=maps))
        close(torch.cat(outputs, dim=1), layer(x, x, causal_mask(6)))


def test_one_new_token_needs_no_mask():
    layer = MultiHeadAttention(D, H).double()
    x = torch.randn(B, 6, D, dtype=torch.float64)
    cache = KeyValueCache.empty(B, H, 6, D // H, like=x)
    with torch.no_grad():
        steps = [layer(x[:, [t]], x[:, [t]], cache=cache) for t in range(6)]
        close(torch.cat(steps, dim=1), layer(x, x, causal_mask(6)))


def filled_cache(length=4, max_len=6):
    cache = KeyValueCache.empty(3, H, max_len, 2, like=torch.empty(0, dtype=torch.float64))
    keys, values = torch.randn(2, 3, H, length, 2, dtype=torch.float64)
    cache.append(keys, values)
    return cache, keys, values


def test_append_and_read_give_back_what_was_stored():
    cache, keys, values = filled_cache()
    more_keys, more_values = torch.randn(2, 3, H, 2, 2, dtype=torch.float64)
    read = cache.append(more_keys, more_values)
    for stored in (read, cache.read()):
        assert stored[0].equal(torch.cat([keys, more_keys], dim=2))
        assert stored[1].equal(torch.cat([values, more_values], dim=2))
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
    places = cache.keys.data_ptr(), cache.values.data_ptr()
    for _ in range(5):
        read_keys, read_values = cache.append(keys, values)
        assert (read_keys.data_ptr(), read_values.data_ptr()) == places
    cache.select(torch.tensor([2, 1]))
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == places
    assert cache.keys.untyped_storage().nbytes() == 3 * H * 6 * 2 * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_cache_takes_dtype_and_device_of_its_model(dtype):
    cache = KeyValueCache.empty(1, 2, 3, 4, like=torch.empty(0, dtype=dtype))
    assert cache.keys.dtype == cache.values.dtype == dtype
    assert cache.keys.shape == cache.values.shape == (1, 2, 3, 4)
    assert cache.keys.data_ptr() != cache.values.data_ptr()
    assert cache.length == 0
