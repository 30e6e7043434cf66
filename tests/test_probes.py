"""Every planted bug makes its probe fire, and a correct model passes them all."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer_lib import ModelConfig, MultiHeadAttention, Transformer, probes
from transformer_lib.attention import merge_heads, split_heads
from transformer_lib.decoding import beam_sentence
from transformer_lib.masks import padding_mask

PERMUTED = probes.encoder_is_permutation_equivariant_without_positions


def model_with(
    attention_class=MultiHeadAttention, model_class=Transformer, vocab_size=40, **changes
):
    torch.manual_seed(0)
    model = model_class(ModelConfig.tiny(vocab_size, n_layers=2, d_model=32, d_ff=64, **changes))
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.__class__ = attention_class
    return model


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"norm_first": True}, {"positions": "learned"}, {"tie_embeddings": False}),
        *({"vocab_size": 4}, {"vocab_size": 5}),
    ],
)
@pytest.mark.parametrize("probe", probes.ALL, ids=lambda probe: probe.__name__)
def test_a_correct_model_passes(probe, changes):
    result = probe(model_with(**changes))
    assert result, str(result)


class PositionsInItsName(Transformer):
    """A correct model whose own class name contains "position"."""


def test_positions_are_a_part_of_the_model_never_the_model_itself():
    assert PERMUTED(model_with(model_class=PositionsInItsName))


def test_a_probe_leaves_the_model_as_it_was():
    model = model_with()
    model.train()
    model.encoder.layers[0].eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    probes.run_all(model)
    assert model.training and not model.encoder.layers[0].training
    assert all(m.p == 0.1 for m in model.modules() if isinstance(m, nn.Dropout))
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


class CausalInTrainingOnly(Transformer):
    """In evaluation, the decoder's mask covers padding alone."""

    def decode(self, tgt, memory, src, cache=None, maps=None):
        if self.training or cache is not None:
            return super().decode(tgt, memory, src, cache, maps)
        x = self.embed(tgt, self.tgt_embedding)
        return self.decoder(x, padding_mask(tgt), memory, padding_mask(src), None, maps)


class LeakBesideTheMask(Transformer):
    """The attention is causal, and the mean of all target embeddings is added to every output."""

    def decode(self, tgt, memory, src, *options, **more):
        mean = self.tgt_embedding(tgt).mean(1, keepdim=True)
        return super().decode(tgt, memory, src, *options, **more) + mean


class CausalEncoder(Transformer):
    """A source token sees only those before it."""

    def encode(self, src, maps=None):
        x = self.embed(src, self.src_embedding)
        return self.encoder(x, padding_mask(src) & torch.ones(6, 6).tril().bool(), maps)


class AlwaysPositionZero(Transformer):
    """A step ignores how many steps came before."""

    def embed(self, ids, embedding, offset=0):
        return super().embed(ids, embedding, 0)


class MapsWithoutMask(Transformer):
    """The loop that collects the maps passes no mask to the layers."""

    def attention_maps(self, src, tgt):
        x, weights = self.embed(src, self.src_embedding), []
        for layer in self.encoder.layers:
            layer.self_attention(x, x, padding_mask(src), maps=weights)
            x = layer(x, None)
        return super().attention_maps(src, tgt)._replace(encoder=torch.stack(weights))


class InvertedMask(MultiHeadAttention):
    """True taken for "ignore"."""

    def forward(self, x, source, mask=None, **options):
        return super().forward(x, source, None if mask is None else ~mask, **options)


class HandWritten(MultiHeadAttention):
    """Base of the next two: an explicit masked softmax with another fill value."""

    filling = -torch.inf

    def forward(self, x, source, mask=None, *, cache=None, maps=None):
        queries = split_heads(self.query(x), self.n_heads)
        if source is None:
            keys, values = cache.read()
        else:
            keys, values = self.project(source)
            if cache is not None:
                keys, values = cache.append(keys, values)
        scores = queries @ keys.transpose(-2, -1) / queries.size(-1) ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, self.filling)
        weights = scores.softmax(-1)
        if maps is not None:
            maps.append(weights)
        return self.output(merge_heads(weights @ values))


class MinusInfinity(HandWritten):
    """A row without keys becomes NaN."""


class MinusBillion(HandWritten):
    """Overflows in float16; a row without keys attends to padding."""

    filling = -1e9


class CausalFlagWithCache(MultiHeadAttention):
    """`is_causal=True` is aligned at the first key, so one query sees one key."""

    def forward(self, x, source, mask=None, *, cache=None, maps=None):
        if cache is None or source is None:
            return super().forward(x, source, mask, cache=cache, maps=maps)
        queries = split_heads(self.query(x), self.n_heads)
        keys, values = cache.append(*self.project(source))
        heads = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.output(merge_heads(heads))


@pytest.mark.parametrize(
    ("planted", "probe", "words"),
    [
        ({"model_class": CausalInTrainingOnly}, probes.is_causal, "in evaluation mode"),
        ({"model_class": CausalInTrainingOnly}, probes.stepwise_equals_teacher_forced, "step 0"),
        ({"model_class": AlwaysPositionZero}, probes.cached_equals_uncached, "step 1 differs"),
        ({"model_class": MapsWithoutMask}, probes.ignores_padding, "encoder map of layer 2"),
        ({"attention_class": InvertedMask}, probes.is_causal, "in training mode"),
        ({"attention_class": InvertedMask}, probes.ignores_padding, "padding moves the encoder"),
        ({"attention_class": MinusInfinity}, probes.ignores_padding, "padding only gives NaN"),
        ({"attention_class": MinusBillion}, probes.ignores_padding, "float16: value cannot"),
        ({"attention_class": MinusBillion}, probes.ignores_padding, "padding only is attended to"),
        ({"attention_class": CausalFlagWithCache}, probes.cached_equals_uncached, "step 1 differs"),
        ({"positions": "none"}, PERMUTED, "order makes no difference"),
        ({"model_class": CausalEncoder}, PERMUTED, "order still moves"),
    ],
)
def test_a_planted_bug_is_caught(planted, probe, words):
    result = probe(model_with(**planted))
    assert not result
    assert words in str(result)
    assert "Usual cause:" in str(result)


def test_a_leak_is_caught_whatever_the_vocabulary_and_the_ids():
    for size in (4, 5, 6):
        leaking = model_with(model_class=LeakBesideTheMask, vocab_size=size)
        assert "in training mode, changing target 1" in str(probes.is_causal(leaking))
    leaking = model_with(model_class=LeakBesideTheMask)
    for ids in ([1, 1, 1], [3, 2, 1], [4, 4, 4], [4, 5, 4], [0, 4, 0], [9, 9, 9]):
        tgt = torch.tensor([ids])
        assert not probes.is_causal(leaking, tgt, tgt)
        assert ids == [1, 1, 1] or not probes.is_causal(Foreign(causal=False), tgt, tgt)


def test_ids_that_can_show_nothing_are_refused():
    model, one = model_with(), torch.tensor([[4]])
    with pytest.raises(ValueError, match="at least two target tokens"):
        probes.is_causal(model, one, one)
    with pytest.raises(ValueError, match="two different ids besides padding"):
        probes.is_causal(Foreign(causal=False), torch.ones(1, 3).long(), torch.ones(1, 3).long())
    with pytest.raises(ValueError, match="reads the same backwards"):
        PERMUTED(model, torch.tensor([[4, 5, 4]]))


def test_probes_are_found_without_importing_the_lessons_or_any_extra():
    code = (
        "import sys, transformer_lib; assert 'probes' in dir(transformer_lib)\n"
        "assert 'transformer_lib.lessons' not in sys.modules\n"
        "from transformer_lib import probes; assert probes is transformer_lib.probes\n"
        "extras = {'matplotlib', 'seaborn', 'spacy', 'torchtext', 'tyro', 'sacrebleu'}\n"
        "assert not extras & sys.modules.keys(), extras & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_beam_with_another_rule_than_greedy_is_caught():
    def second_best(model, src, limit, beam_size):
        return beam_sentence(model, src, limit, beam_size=beam_size + 1)[1:]

    assert probes.beam_one_equals_greedy(model_with())
    assert not probes.beam_one_equals_greedy(model_with(), beam=second_best)


class Foreign(nn.Module):
    """A reader's model: torch's own, without config, attention maps or cache."""

    def __init__(self, causal):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.inner = nn.Transformer(16, 2, 1, 1, 32, batch_first=True, custom_encoder=encoder)
        self.causal = causal

    def encode(self, src):
        return self.inner.encoder(self.embedding(src), src_key_padding_mask=src == 0)

    def decode(self, tgt, memory, src):
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
        return self.inner.decoder(
            self.embedding(tgt),
            memory,
            tgt_mask=mask if self.causal else None,
            memory_key_padding_mask=src == 0,
        )


@pytest.mark.parametrize("causal", [True, False])
def test_a_readers_model_can_be_probed(causal):
    torch.manual_seed(0)
    ids = torch.randint(4, 20, (2, 5))
    model = Foreign(causal)
    assert bool(probes.is_causal(model, ids, ids)) is causal
    assert bool(probes.stepwise_equals_teacher_forced(model, ids, ids)) is causal
    with pytest.raises(ValueError, match="start_cache"):
        probes.cached_equals_uncached(model, ids, ids)
    with pytest.raises(ValueError, match="pass positions"):
        PERMUTED(model, ids)
    with pytest.raises(ValueError, match="no config"):
        probes.is_causal(model)


def test_the_planted_bugs_differ_from_the_correct_model_in_nothing_else():
    model, written = model_with(), model_with(MinusInfinity)
    src, tgt = torch.randint(4, 40, (2, 5)), torch.randint(4, 40, (2, 4))
    torch.testing.assert_close(model.eval()(src, tgt), written.eval()(src, tgt))
