"""The model against torch's own and against Figure 1 written out for one sentence."""

import io
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from transformer_lib import Decoder, Encoder, ModelConfig, Transformer, padding_mask, target_mask

orders = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
positions = pytest.mark.parametrize("positions", ["sinusoidal", "learned", "none"])

SRC = torch.tensor([[5, 6, 7, 8, 3], [9, 4, 3, 0, 0], [11, 3, 4, 17, 3]])
TGT = torch.tensor([[2, 9, 8, 7, 6, 5], [2, 4, 4, 10, 0, 0], [2, 12, 0, 0, 0, 0]])
REAL = TGT != 0


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"n_layers": 2, "d_model": 16, "d_ff": 24, "max_len": 30}
    return Transformer(ModelConfig.tiny(20, **(sizes | changes)))


def unsettled(module):
    """In float64, and no LayerNorm at 1, no bias at 0: what is mixed up shows."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module


def close(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def gradients(output, inputs):
    towards = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad(output, inputs, towards)


# Sizes


def unchecked(**changes):
    """A config built past the types, which the tests check before it can say a word."""
    config = object.__new__(ModelConfig)
    config.__dict__.update(vars(ModelConfig(10, 10)) | changes)
    config.__post_init__()
    return config


def test_one_error_lists_all_problems():
    wrong = {"src_vocab_size": 0, "tgt_vocab_size": 5.5, "n_layers": -1, "max_len": "9"}
    wrong |= {"dropout": 1.0, "positions": "rotary"}
    with pytest.raises(ValueError, match=r"^invalid ModelConfig: ") as error:
        unchecked(**wrong)
    problems = str(error.value).removeprefix("invalid ModelConfig: ").split("; ")
    for problem, (name, value) in zip(problems, wrong.items(), strict=True):
        assert problem.startswith(f"{name} must be ") and str(value) in problem


@pytest.mark.parametrize(
    "name",
    ["src_vocab_size", "tgt_vocab_size", "d_model", "n_heads", "n_layers", "d_ff", "max_len"],
)
@pytest.mark.parametrize("value", [0, 2.0, True])
def test_every_size_is_a_whole_number_of_at_least_1(name, value):
    with pytest.raises(
        ValueError, match=f"{name} must be a whole number of at least 1, got {value}"
    ):
        unchecked(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 7}, "d_model=512 is not divisible by n_heads=7"),
        ({"d_model": 9, "n_heads": 3}, "need an even d_model, got 9"),
        ({"pad_id": -1}, "pad_id=-1 is not an id of both"),
        ({"pad_id": 10}, "pad_id=10 is not an id of both"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
        ({"dropout": math.nan}, "dropout must be"),
        ({"n_heads": 7, "dropout": 1.5}, "divisible by n_heads=7; dropout must be"),
        ({"shared_vocabulary": True}, "a shared vocabulary has one size, got 10 and 12"),
        ({"max_len": 2**20}, "max_len=1048576 needs a table of positions over 1 GiB"),
    ],
)
def test_a_size_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(10, 12, **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pad_id", 1.5), ("pad_id", True), ("pad_id", None), ("dropout", "0.1")]
    + [(name, 1) for name in ("norm_first", "tie_embeddings", "shared_vocabulary")]
    + [("tie_embeddings", "no")],
)
def test_a_value_of_another_kind_is_a_problem_like_any_other(name, value):
    with pytest.raises(ValueError, match=rf"invalid ModelConfig: {name}.*{value!r}"):
        unchecked(**{name: value})


def test_problems_between_the_sizes_are_all_listed():
    with pytest.raises(ValueError, match=r"divisible by n_heads=4; .*even d_model.*; pad_id=99"):
        ModelConfig(10, 10, d_model=15, n_heads=4, pad_id=99)


def test_numpys_integers_are_sizes_and_become_pythons():
    config = unchecked(d_model=np.int64(64), pad_id=np.uint8(3))
    assert config.d_model == 64 and type(config.d_model) is type(config.pad_id) is int


def test_what_is_allowed():
    assert ModelConfig(10, 12, pad_id=9, dropout=0.0).pad_id == 9
    assert ModelConfig(10, 12, d_model=9, n_heads=3, positions="learned").d_model == 9


def test_a_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        ModelConfig(10, 10).d_model = 8


@pytest.mark.parametrize(
    ("preset", "table_3"),
    [
        ("base", (6, 512, 2048, 8, 0.1)),
        ("big", (6, 1024, 4096, 16, 0.3)),
        ("tiny", (4, 128, 256, 4, 0.1)),
    ],
)
def test_presets(preset, table_3):
    config = getattr(ModelConfig, preset)(37, max_len=9)
    assert table_3 == (
        config.n_layers, config.d_model, config.d_ff, config.n_heads, config.dropout
    )  # fmt: skip
    assert (config.src_vocab_size, config.tgt_vocab_size, config.max_len) == (37, 37, 9)
    assert config.tie_embeddings and not config.norm_first and config.positions == "sinusoidal"
    assert getattr(ModelConfig, preset)(37, d_model=64, n_heads=2).d_model == 64


def n_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("preset", "expected"), [("base", 63_082_496), ("big", 214_245_376)])
def test_number_of_parameters(preset, expected):
    with torch.device("meta"):
        assert n_parameters(Transformer(getattr(ModelConfig, preset)(37_000))) == expected


# Torch's own Transformer

TORCHS_NAMES = {
    "self_attention.": "self_attn.",
    "cross_attention.": "multihead_attn.",
    "attn.query.": "attn.in_proj_",  # in this order in one tensor
    "attn.key.": "attn.in_proj_",
    "attn.value.": "attn.in_proj_",
    "attn.output.": "attn.out_proj.",
    "feed_forward.expand.": "linear1.",
    "feed_forward.contract.": "linear2.",
    "residuals.0.norm.": "norm1.",
    "residuals.1.norm.": "norm2.",
    "residuals.2.norm.": "norm3.",
}


def as_torchs(tensors):
    """Our weights (or their gradients) by torch's names; query, key and value become one."""
    renamed = {}
    for name, tensor in tensors.items():
        for ours, theirs in TORCHS_NAMES.items():
            name = name.replace(ours, theirs)
        renamed.setdefault(name, []).append(tensor)
    return {name: torch.cat(parts) for name, parts in renamed.items()}


def torch_twin(config):
    """nn.Transformer of the same sizes, with last LayerNorms only in pre-norm."""
    width, *rest = config.d_model, config.n_heads, config.d_ff, config.dropout
    options = {"batch_first": True, "norm_first": config.norm_first}
    norms = [nn.LayerNorm(width) if config.norm_first else None for _ in range(2)]
    encoder, decoder = (
        nn.TransformerEncoderLayer(width, *rest, **options),
        nn.TransformerDecoderLayer(width, *rest, **options),
    )
    return nn.Transformer(
        width,
        config.n_heads,
        batch_first=True,
        custom_encoder=nn.TransformerEncoder(
            encoder, config.n_layers, norms[0], enable_nested_tensor=False
        ),
        custom_decoder=nn.TransformerDecoder(decoder, config.n_layers, norms[1]),
    )


@orders
def test_the_stacks_equal_torchs_in_outputs_and_all_gradients(norm_first):
    config = ModelConfig.tiny(
        20, d_model=16, d_ff=24, n_layers=3, dropout=0.0, norm_first=norm_first
    )
    ours = unsettled(nn.ModuleDict({"encoder": Encoder(config), "decoder": Decoder(config)}))
    theirs = torch_twin(config).double()
    theirs.load_state_dict(as_torchs(ours.state_dict()))  # strict: no weight is left out
    x, y = (torch.randn(*ids.shape, 16).double().requires_grad_() for ids in (SRC, TGT))
    memory = ours["encoder"](x, padding_mask(SRC))
    output = ours["decoder"](y, target_mask(TGT), memory, padding_mask(SRC))
    expected = theirs(
        x,
        y,
        tgt_mask=torch.ones(6, 6, dtype=torch.bool).triu(1),
        src_key_padding_mask=SRC == 0,
        memory_key_padding_mask=SRC == 0,
        tgt_key_padding_mask=TGT == 0,
    )
    close(output, expected)
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    found = gradients(output, [x, y, *mine.values()])
    wanted = gradients(expected, [x, y, *others.values()])
    close(found[:2], wanted[:2], 1e-10)
    renamed = as_torchs(dict(zip(mine, found[2:], strict=True)))
    assert renamed.keys() == others.keys()
    for name, gradient in zip(others, wanted[2:], strict=True):
        assert gradient.any() or name.endswith("in_proj_bias")
        close(renamed[name], gradient, 1e-10)


# Figure 1, written out


class WrittenOut:
    """Figure 1 for one sentence pair without padding, from a model's weights by their names."""

    def __init__(self, model):
        self.weights, self.config = model.state_dict(), model.config
        self.maps = {"encoder": [], "decoder": [], "cross": []}

    def __call__(self, src, tgt):
        return self.decode(tgt, self.encode(src)) @ self.weights["output_projection.weight"].T

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def embed(self, ids, side):
        width = self.config.d_model
        x = self.weights[f"{side}_embedding.weight"][ids] * math.sqrt(width)
        if self.config.positions == "learned":
            return x + self.weights["positions.table"][: len(ids)]
        if self.config.positions == "none":
            return x
        table = [
            [(math.cos if i % 2 else math.sin)(t / 10_000 ** ((i - i % 2) / width))
             for i in range(width)]
            for t in range(len(ids))
        ]  # fmt: skip
        return x + torch.tensor(table).double()  # rounded to float32, as the library keeps it

    def attend(self, x, source, name, kind, future=False):
        d_k = self.config.d_model // self.config.n_heads
        query, key, value = (
            self.linear(y, f"{name}.{part}")
            for y, part in ((x, "query"), (source, "key"), (source, "value"))
        )
        heads, maps = [], []
        for h in range(self.config.n_heads):
            of_head = slice(h * d_k, (h + 1) * d_k)
            scores = query[:, of_head] @ key[:, of_head].T / math.sqrt(d_k)
            if future:
                scores = scores + torch.full_like(scores, -torch.inf).triu(1)
            maps.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
            heads.append(maps[-1] @ value[:, of_head])
        self.maps[kind].append(torch.stack(maps))
        return self.linear(torch.cat(heads, -1), f"{name}.output")

    def feed_forward(self, x, name):
        return self.linear(self.linear(x, f"{name}.expand").clamp(min=0), f"{name}.contract")

    def around(self, x, norm, sublayer):
        if self.config.norm_first:
            return x + sublayer(self.norm(x, norm))
        return self.norm(x + sublayer(x), norm)

    def encode(self, src):
        x = self.embed(src, "src")
        for n in range(self.config.n_layers):
            at, norm = f"encoder.layers.{n}", f"encoder.layers.{n}.residuals.%d.norm"
            x = self.around(
                x, norm % 0, lambda y, at=at: self.attend(y, y, f"{at}.self_attention", "encoder")
            )
            x = self.around(
                x, norm % 1, lambda y, at=at: self.feed_forward(y, f"{at}.feed_forward")
            )
        return self.norm(x, "encoder.norm") if self.config.norm_first else x

    def decode(self, tgt, memory):
        x = self.embed(tgt, "tgt")
        for n in range(self.config.n_layers):
            at, norm = f"decoder.layers.{n}", f"decoder.layers.{n}.residuals.%d.norm"
            for k, sublayer in enumerate(
                (
                    lambda y, at=at: self.attend(y, y, f"{at}.self_attention", "decoder", True),
                    lambda y, at=at: self.attend(y, memory, f"{at}.cross_attention", "cross"),
                    lambda y, at=at: self.feed_forward(y, f"{at}.feed_forward"),
                )
            ):
                x = self.around(x, norm % k, sublayer)
        return self.norm(x, "decoder.norm") if self.config.norm_first else x


@orders
@positions
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_whole_forward_equals_figure_1_written_out(norm_first, positions, tied):
    model = tiny(norm_first=norm_first, positions=positions, tie_embeddings=tied)
    logits = unsettled(model).eval()(SRC, TGT)
    for b in range(3):
        expected = WrittenOut(model)(SRC[b][SRC[b] != 0], TGT[b][REAL[b]])
        close(logits[b, : len(expected)], expected, 1e-10)  # beside others, with padding


def test_another_id_of_padding():
    """Ids 0 and 7 change their parts, in the sentences, the matrix and the logits."""
    model, other = tiny().eval(), tiny(pad_id=7).eval()
    swap = torch.arange(20)
    swap[[0, 7]] = torch.tensor([7, 0])
    weights = model.state_dict()
    for side in ("src_embedding", "tgt_embedding", "output_projection"):
        weights[f"{side}.weight"] = weights[f"{side}.weight"][swap]
    other.load_state_dict(weights)
    close(other(swap[SRC], swap[TGT])[..., swap], model(SRC, TGT), 1e-6)


@orders
def test_gradcheck_of_every_weight(norm_first):
    sizes = {"d_model": 4, "n_heads": 2, "n_layers": 1, "d_ff": 5, "dropout": 0.0, "max_len": 3}
    torch.manual_seed(0)
    config = ModelConfig(5, 5, norm_first=norm_first, positions="learned", **sizes)
    model = unsettled(Transformer(config))
    names, weights = zip(*model.named_parameters(), strict=True)
    src, tgt = torch.tensor([[4, 3, 0]]), torch.tensor([[2, 4, 1]])

    def forward(*weights):
        return functional_call(model, dict(zip(names, weights, strict=True)), (src, tgt)).sin()

    assert torch.autograd.gradcheck(forward, weights, fast_mode=True)


# Shared weights


@pytest.mark.parametrize(
    ("sizes", "tied", "matrices"),
    [
        ((20, 20), {"shared_vocabulary": True}, "TTT"),
        ((20, 20), {}, "STT"),  # two vocabularies of one size by chance
        ((20, 20), {"shared_vocabulary": True, "tie_embeddings": False}, "STP"),
        ((20, 30), {}, "STT"),
        ((20, 30), {"tie_embeddings": False}, "STP"),
    ],
)
def test_which_matrices_are_one(sizes, tied, matrices):
    model = Transformer(ModelConfig(*sizes, d_model=8, n_heads=2, n_layers=1, d_ff=8, **tied))
    three = [model.src_embedding.weight, model.tgt_embedding.weight, model.output_projection.weight]
    assert [tuple(w.shape) for w in three] == [(sizes[0], 8), (sizes[1], 8), (sizes[1], 8)]
    for one, its in zip(three, matrices, strict=True):
        for other, theirs in zip(three, matrices, strict=True):
            assert (one is other) == (one.data_ptr() == other.data_ptr()) == (its == theirs)
    rest = n_parameters(model.encoder) + n_parameters(model.decoder)
    rows = {"S": sizes[0], "T": sizes[1], "P": sizes[1]}
    assert n_parameters(model) == rest + sum(8 * rows[one] for one in set(matrices))
    assert model(torch.full((1, 3), sizes[0] - 1), torch.full((1, 2), sizes[1] - 1)).shape == (
        1, 2, sizes[1]
    )  # fmt: skip


# Maps


@orders
def test_maps_are_those_of_figure_1_written_out(norm_first):
    model = unsettled(tiny(norm_first=norm_first)).eval()
    maps = model.attention_maps(SRC, TGT)
    for b in range(3):
        written_out = WrittenOut(model)
        written_out(SRC[b][SRC[b] != 0], TGT[b][REAL[b]])
        for kind, expected in written_out.maps.items():
            expected = torch.stack(expected)
            found = getattr(maps, kind)[:, b, :, : expected.size(-2), : expected.size(-1)]
            close(found, expected, 1e-10)


@orders
def test_maps_have_their_shapes_and_rows_that_add_up_to_one(norm_first):
    maps = unsettled(tiny(norm_first=norm_first, n_layers=4, n_heads=2)).attention_maps(SRC, TGT)
    assert [tuple(kind.shape) for kind in maps] == [
        (4, 3, 2, 5, 5), (4, 3, 2, 6, 6), (4, 3, 2, 6, 5)
    ]  # fmt: skip
    for kind in maps:
        close(kind.sum(-1), torch.ones(kind.shape[:-1]).double())
    from_padding = (SRC == 0)[:, None, None, :]
    assert not maps.encoder.masked_select(from_padding).any()
    assert not maps.cross.masked_select(from_padding).any()
    future_or_padding = (TGT == 0)[:, None, None, :] | torch.ones(6, 6).triu(1).bool()
    assert not maps.decoder.masked_select(future_or_padding).any()
    for kind, blocked in zip(maps, (from_padding, future_or_padding, from_padding), strict=True):
        assert kind.masked_select(~blocked).all()  # what may be seen is seen


@orders
def test_collecting_maps_changes_no_output(norm_first):
    model = unsettled(tiny(norm_first=norm_first)).eval()
    maps = []
    memory = model.encode(SRC, maps)
    close(memory, model.encode(SRC))
    close(model.decode(TGT, memory, SRC, maps=maps), model.decode(TGT, memory, SRC))
    assert len(maps) == 2 + 2 * 2


def test_maps_come_from_one_pass():
    """With dropout at work every pass is another: the maps are those of the pass that follows
    the same seed, and each layer runs once."""
    model, calls = tiny(dropout=0.3), []
    for name, module in model.named_modules():
        if name.endswith("attention") or name in ("encoder", "decoder"):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    torch.manual_seed(1)
    maps = model.attention_maps(SRC, TGT)
    assert len(calls) == len(set(calls)) == 2 + 2 + 2 * 2
    torch.manual_seed(1)
    encoder, decoder = [], []
    model.decode(TGT, model.encode(SRC, encoder), SRC, maps=decoder)
    for found, expected in zip(maps, (encoder, decoder[0::2], decoder[1::2]), strict=True):
        assert torch.equal(found, torch.stack(expected))


# Step by step


@orders
@positions
@pytest.mark.parametrize("chunks", [[1] * 6, [2, 1, 3], [1, 5], [6]], ids=str)
def test_cached_decoding_in_chunks_equals_uncached(norm_first, positions, chunks):
    model = unsettled(tiny(norm_first=norm_first, positions=positions)).eval()
    tgt, uncached = TGT.masked_fill(~REAL, 13), []
    memory = model.encode(SRC)
    expected = model.decode(tgt, memory, SRC, maps=uncached)
    cache, start = model.start_cache(memory, max_len=6), 0
    for chunk in tgt.split(chunks, dim=1):
        maps, end = [], start + chunk.size(1)
        close(model.decode(chunk, memory, SRC, cache, maps), expected[:, start:end], 1e-10)
        for k, (found, wanted) in enumerate(zip(maps, uncached, strict=True)):
            keys = slice(None) if k % 2 else slice(end)  # cross-attention sees the whole memory
            close(found, wanted[..., start:end, keys], 1e-10)
        start = end
    with pytest.raises(ValueError, match="room for 6 tokens, 7 are needed"):
        model.decode(tgt[:, :1], memory, SRC, cache)


# Hard cases


@orders
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_source_of_only_padding_gives_finite_numbers(norm_first, training):
    model = tiny(norm_first=norm_first).train(training)
    src = SRC.clone()
    src[1] = 0
    logits = model(src, TGT)
    maps = model.attention_maps(src, TGT)
    sum(output.square().sum() for output in (logits, *maps)).backward()
    assert logits.isfinite().all() and all(kind.isfinite().all() for kind in maps)
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.decoder.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert not maps.cross[:, 1].any() and not maps.encoder[:, 1].any()
    if not training:
        close(logits[[0, 2]], model(SRC, TGT)[[0, 2]], 1e-5)  # its neighbours do not notice


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_sequence_that_is_too_long_is_refused(positions):
    model = tiny(positions=positions, max_len=6)
    assert model(SRC, TGT).shape == (3, 6, 20)
    long = torch.full((3, 7), 5)
    for src, tgt in ((long, TGT), (SRC, long)):
        with pytest.raises(ValueError, match="sequence of 7 positions, but max_len is 6"):
            model(src, tgt)
    memory = model.encode(SRC)
    cache = model.start_cache(memory, max_len=9)
    model.decode(TGT, memory, SRC, cache)
    with pytest.raises(ValueError, match="sequence of 7 positions"):
        model.decode(TGT[:, :1], memory, SRC, cache)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)]
)
@orders
def test_other_precisions_stay_near_float32(dtype, tolerance, norm_first):
    model = tiny(norm_first=norm_first).eval()
    expected, maps = model(SRC, TGT), model.attention_maps(SRC, TGT)
    logits = model.to(dtype)(SRC, TGT)
    assert logits.dtype == dtype
    close(logits.float(), expected, tolerance)
    for found, wanted in zip(model.attention_maps(SRC, TGT), maps, strict=True):
        assert found.dtype == dtype
        close(found.float(), wanted, tolerance)


# Dropout


@orders
def test_dropout_stands_behind_every_sublayer_and_behind_the_embedding(norm_first):
    model = tiny(dropout=0.35, norm_first=norm_first)
    places = {name for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert places == {"dropout"} | {
        f"{stack}.layers.{n}.residuals.{k}.dropout"
        for stack, count in (("encoder", 2), ("decoder", 3))
        for n in range(2)
        for k in range(count)
    }
    assert all(model.get_submodule(name).p == 0.35 for name in places)


def test_dropout_of_the_embedding_takes_the_position_too():
    model, ids = tiny(dropout=0.5), torch.randint(1, 20, (8, 30))
    dropped = model.embed(ids, model.src_embedding)
    whole = model.eval().embed(ids, model.src_embedding)
    kept = dropped != 0
    close(dropped[kept], 2 * whole[kept], 1e-6)
    assert kept.float().mean() == pytest.approx(0.5, abs=0.05)


def test_evaluation_drops_nothing():
    model = tiny(dropout=0.5).eval()
    assert torch.equal(model(SRC, TGT), model(SRC, TGT))
    assert not torch.equal(model.train()(SRC, TGT), model(SRC, TGT))


# Where it starts, what it can learn, how it is kept


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_first_weights_are_drawn_as_told(tied):
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(500, 500, d_model=128, n_layers=1, d_ff=256, n_heads=4, tie_embeddings=tied,
                    positions="learned", pad_id=3)
    )  # fmt: skip
    for name, weight in model.named_parameters():
        if ".norm." in name:
            assert (weight == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias"):
            assert not weight.any(), name
        elif ".layers." in name:  # Glorot and Bengio (2010), equation 16
            bound = math.sqrt(6 / sum(weight.shape))
            assert 0.99 * bound < weight.abs().max() <= bound, name
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03), name
            assert abs(weight.mean()) < 0.02 * bound, name
    for embedding in (model.src_embedding, model.tgt_embedding):
        assert not embedding.weight[3].any()
        others = embedding.weight[torch.arange(500) != 3]
        assert others.std().item() == pytest.approx(128**-0.5, rel=0.02)
        assert others.abs().max() > 3 * 128**-0.5  # normal, not uniform
    assert model.output_projection.weight.std().item() == pytest.approx(128**-0.5, rel=0.02)
    assert model.positions.table.std().item() == pytest.approx(0.5**0.5, rel=0.02)


def test_the_seed_decides():
    one, same, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    for (name, a), b, c in zip(
        one.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert name.endswith("bias") or ".norm." in name or not torch.equal(a, c), name
    logits = []
    for _ in range(2):
        torch.manual_seed(3)
        logits.append(one.train()(SRC, TGT))
    assert torch.equal(*logits)


@orders
def test_one_batch_is_learned_by_heart(norm_first):
    model = tiny(norm_first=norm_first, d_model=32, d_ff=64, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        logits = model(SRC, TGT[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), TGT[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


@positions
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_weights_survive_a_file(positions, tied):
    model, other = (tiny(seed, positions=positions, tie_embeddings=tied) for seed in (1, 2))
    assert not torch.equal(model.eval()(SRC, TGT), other.eval()(SRC, TGT))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    weights = torch.load(file, weights_only=True)
    other.load_state_dict(weights)
    assert torch.equal(model(SRC, TGT), other(SRC, TGT))
    assert (other.tgt_embedding.weight is other.output_projection.weight) is tied
    assert ("positions.table" in weights) is (positions == "learned")  # a formula is not stored
