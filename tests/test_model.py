"""The model against torch's own and against Figure 1 written out for one sentence."""

import math
from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import pytest
import torch
from helpers import close, random, same_as_torch, tiny, unsettled
from torch import nn
from torch.func import functional_call

from transformer_lib import ModelConfig, Transformer, lessons, padding_mask, target_mask
from transformer_lib.lessons import figures
from transformer_lib.lessons.twin import torch_twin
from transformer_lib.masks import causal_mask

orders = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
positions = pytest.mark.parametrize("positions", ["sinusoidal", "learned", "none"])

SRC = torch.tensor([[5, 6, 7, 8, 3], [9, 4, 3, 0, 0], [11, 3, 4, 17, 3]])
TGT = torch.tensor([[2, 9, 8, 7, 6, 5], [2, 4, 4, 10, 0, 0], [2, 12, 0, 0, 0, 0]])
REAL = TGT != 0


# Sizes


def unchecked(**changes):
    """Build a config past the types, which the tests would check first."""
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


SIZES = ("src_vocab_size", "tgt_vocab_size", "d_model", "n_heads", "n_layers", "d_ff", "max_len")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: value}, f"{name} must be a whole number of at least 1, got {value}")
            for name in SIZES
            for value in (0, 2.0, True)
        ),
        ({"n_heads": 7}, "d_model=512 is not divisible by n_heads=7"),
        ({"d_model": 9, "n_heads": 3}, "need an even d_model, got 9"),
        *(({"pad_id": value}, f"pad_id={value} is not an id of") for value in (-1, 10, 1.5, True)),
        ({"pad_id": None}, "pad_id=None is not an id of both"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
        ({"dropout": math.nan}, "dropout must be"),
        ({"dropout": "0.1"}, "dropout must be .*'0.1'"),
        ({"n_heads": 7, "dropout": 1.5}, "divisible by n_heads=7; dropout must be"),
        ({"d_model": 15, "n_heads": 4, "pad_id": 99}, "n_heads=4; .*even d_model.*; pad_id=99"),
        ({"shared_vocabulary": True, "tgt_vocab_size": 12}, "has one size, got 10 and 12"),
        ({"max_len": 2**20}, "max_len=1048576 needs a table of positions over 1 GiB"),
        *(
            ({name: 1}, f"{name} must be True or False, got 1")
            for name in ("norm_first", "tie_embeddings", "shared_vocabulary")
        ),
        ({"tie_embeddings": "no"}, "tie_embeddings.*'no'"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^invalid ModelConfig: .*{message}"):
        unchecked(**changes)


def test_what_is_allowed():
    assert ModelConfig(10, 12, pad_id=9, dropout=0.0).pad_id == 9
    assert ModelConfig(10, 12, d_model=9, n_heads=3, positions="learned").d_model == 9
    config = unchecked(d_model=np.int64(64), pad_id=np.uint8(3), dropout=np.float32(0.5))
    assert config.d_model == 64 and type(config.d_model) is type(config.pad_id) is int
    assert type(config.dropout) is float
    with pytest.raises(ValueError, match="over 1 GiB"):  # though the product wraps around in numpy
        unchecked(d_model=np.int32(64), n_heads=2, max_len=np.int32(2**27))
    with pytest.raises(FrozenInstanceError):
        config.d_model = 8


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
    names = ("n_layers", "d_model", "d_ff", "n_heads", "dropout")
    assert table_3 == tuple(getattr(config, name) for name in names)
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


@orders
def test_the_stacks_equal_torchs_in_outputs_and_all_gradients(norm_first):
    sizes = {"d_model": 16, "d_ff": 24, "n_layers": 3, "dropout": 0.0}
    config = ModelConfig.tiny(20, norm_first=norm_first, **sizes)
    model = unsettled(Transformer(config), 0.1)
    ours = nn.ModuleDict({"encoder": model.encoder, "decoder": model.decoder})
    theirs = torch_twin(model)
    x, y = random(*SRC.shape, 16), random(*TGT.shape, 16)
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
    same_as_torch(ours, theirs, output, expected, [x, y], 1e-10)


class CausalEncoder(Transformer):
    """Its encoder is causal, so it is another model than torch's."""

    def encode(self, src, maps=None):
        mask = padding_mask(src) & causal_mask(src.size(1))
        return self.encoder(self.embed(src, self.src_embedding), mask, maps)


@pytest.mark.parametrize(("kind", "equal"), [(Transformer, True), (CausalEncoder, False)])
def test_the_lessons_comparison_with_torch_tells_a_difference(kind, equal):
    model = unsettled(kind(ModelConfig.tiny(20, d_model=16, d_ff=24, dropout=0.0)), 0.1)
    said = lessons.same_as_torch(model.eval(), SRC, TGT)
    assert said.startswith(f"outputs equal: {equal}, ") and said.endswith(f"equal: {equal}")


# Figure 1, written out


class WrittenOut:
    """Figure 1 for one sentence pair without padding, from a model's weights by their names."""

    def __init__(self, model):
        self.weights, self.config = model.state_dict(), model.config
        self.maps = {"encoder": [], "decoder": [], "cross": []}

    def __call__(self, src, tgt):
        memory = self.stack("encoder", self.embed(src, "src"))
        hidden = self.stack("decoder", self.embed(tgt, "tgt"), memory)
        return hidden @ self.weights["output_projection.weight"].T

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
        rows = []
        for t in range(len(ids)):
            angles = [t / 10_000 ** ((i - i % 2) / width) for i in range(width)]
            rows.append([(math.sin, math.cos)[i % 2](angle) for i, angle in enumerate(angles)])
        return x + torch.tensor(rows).double()  # rounded to float32, as the library keeps it

    def attend(self, name, kind, x, source):
        d_k = self.config.d_model // self.config.n_heads
        query, key, value = (
            self.linear(y, f"{name}.{part}")
            for y, part in ((x, "query"), (source, "key"), (source, "value"))
        )
        heads, maps = [], []
        for h in range(self.config.n_heads):
            of_head = slice(h * d_k, (h + 1) * d_k)
            scores = query[:, of_head] @ key[:, of_head].T / math.sqrt(d_k)
            if kind == "decoder":
                scores = scores + torch.full_like(scores, -torch.inf).triu(1)
            maps.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
            heads.append(maps[-1] @ value[:, of_head])
        self.maps[kind].append(torch.stack(maps))
        return self.linear(torch.cat(heads, -1), f"{name}.output")

    def feed_forward(self, name, x):
        return self.linear(self.linear(x, f"{name}.expand").clamp(min=0), f"{name}.contract")

    def stack(self, kind, x, memory=None):
        for layer in (f"{kind}.layers.{n}" for n in range(self.config.n_layers)):
            attend = partial(self.attend, f"{layer}.self_attention", kind)
            sublayers = [lambda y, attend=attend: attend(y, y)]
            if memory is not None:
                cross = partial(self.attend, f"{layer}.cross_attention", "cross")
                sublayers.append(partial(cross, source=memory))
            sublayers.append(partial(self.feed_forward, f"{layer}.feed_forward"))
            for k, sublayer in enumerate(sublayers):
                norm = f"{layer}.residuals.{k}.norm"
                if self.config.norm_first:
                    x = x + sublayer(self.norm(x, norm))
                else:
                    x = self.norm(x + sublayer(x), norm)
        return self.norm(x, f"{kind}.norm") if self.config.norm_first else x


@orders
@positions
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_and_maps_equal_figure_1_written_out(norm_first, positions, tied):
    model = tiny(norm_first=norm_first, positions=positions, tie_embeddings=tied)
    model = unsettled(model, 0.1).eval()
    logits, maps = model(SRC, TGT), model.attention_maps(SRC, TGT)
    for b in range(3):  # beside others, with padding
        written_out = WrittenOut(model)
        expected = written_out(SRC[b][SRC[b] != 0], TGT[b][REAL[b]])
        close(logits[b, : len(expected)], expected, 1e-10)
        for kind, weights in written_out.maps.items():
            weights = torch.stack(weights)
            found = getattr(maps, kind)[:, b]
            close(found[:, :, : weights.size(-2), : weights.size(-1)], weights, 1e-10)
            assert not found[..., weights.size(-1) :].any()  # padding gets exactly 0


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
    config = ModelConfig(5, 5, norm_first=norm_first, positions="learned", **sizes)
    model = unsettled(Transformer(config), 0.1)
    names, weights = zip(*model.named_parameters(), strict=True)
    src, tgt = torch.tensor([[4, 3, 0]]), torch.tensor([[2, 4, 1]])

    def forward(*weights):
        return functional_call(model, dict(zip(names, weights, strict=True)), (src, tgt)).sin()

    assert torch.autograd.gradcheck(forward, weights, fast_mode=True)


def test_maps_come_from_the_pass_that_computes_the_output():
    model, encoder, decoder = tiny(dropout=0.3), [], []  # every pass drops other numbers
    torch.manual_seed(1)
    maps = model.attention_maps(SRC, TGT)
    torch.manual_seed(1)
    model.decode(TGT, model.encode(SRC, encoder), SRC, maps=decoder)
    for found, expected in zip(maps, (encoder, decoder[0::2], decoder[1::2]), strict=True):
        assert torch.equal(found, torch.stack(expected))


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
    logits = model(torch.full((1, 3), sizes[0] - 1), torch.full((1, 2), sizes[1] - 1))
    assert logits.shape == (1, 2, sizes[1])


# Step by step


@orders
@positions
@pytest.mark.parametrize("chunks", [[1] * 6, [2, 1, 3], [1, 5], [6]], ids=str)
def test_cached_decoding_in_chunks_equals_uncached(norm_first, positions, chunks):
    model = unsettled(tiny(norm_first=norm_first, positions=positions), 0.1).eval()
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
    model, src = tiny(norm_first=norm_first).train(training), SRC.clone()
    src[1] = 0
    logits, maps = model(src, TGT), model.attention_maps(src, TGT)
    sum(output.square().sum() for output in (logits, *maps)).backward()
    assert logits.isfinite().all() and all(kind.isfinite().all() for kind in maps)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.any() for p in model.decoder.parameters())
    assert not maps.cross[:, 1].any() and not maps.encoder[:, 1].any()
    if not training:
        close(logits[[0, 2]], model(SRC, TGT)[[0, 2]], 1e-5)  # its neighbors do not notice


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_sequence_that_is_too_long_is_refused(positions):
    model = tiny(positions=positions, max_len=6)
    long, memory = torch.full((3, 7), 5), model.encode(SRC)
    cache = model.start_cache(memory, max_len=9)
    model.decode(TGT, memory, SRC, cache)
    for too_long in (
        lambda: model(long, TGT),
        lambda: model(SRC, long),
        lambda: model.decode(TGT[:, :1], memory, SRC, cache),
    ):
        with pytest.raises(ValueError, match="sequence of 7 positions, but max_len is 6"):
            too_long()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)]
)
@orders
def test_other_precisions_stay_near_float32(dtype, tolerance, norm_first):
    model = tiny(norm_first=norm_first).eval()
    expected = model(SRC, TGT), *model.attention_maps(SRC, TGT)
    model.to(dtype)
    found = model(SRC, TGT), *model.attention_maps(SRC, TGT)
    assert {output.dtype for output in found} == {dtype}
    close([output.float() for output in found], [*expected], tolerance)


# Dropout and the first weights


@orders
def test_dropout_follows_every_sublayer_and_the_embedding(norm_first):
    model = tiny(dropout=0.35, norm_first=norm_first)
    rates = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    names = {"dropout"} | {
        f"{stack}.layers.{n}.residuals.{k}.dropout"
        for stack, count in (("encoder", 2), ("decoder", 3))
        for n in range(2)
        for k in range(count)
    }
    assert rates == dict.fromkeys(names, 0.35)


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


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_first_weights_are_drawn_as_told(tied):
    sizes = {"d_model": 128, "n_layers": 1, "d_ff": 256, "n_heads": 4, "pad_id": 3}
    model = Transformer(ModelConfig(500, 500, tie_embeddings=tied, positions="learned", **sizes))
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


# The figure of its attentions


def test_three_attentions_are_hatched_where_masked_and_another_mask_is_refused():
    tokens = {"source": ["a", "b", "<pad>"], "target": ["w", "x", "y", "z"]}
    padding, causal = torch.tensor([[True, True, False]]), torch.ones(4, 4).tril() > 0
    masks = padding, causal, padding
    allowed = padding.expand(3, 3), causal, padding.expand(4, 3)
    maps = [mask / mask.sum(1, keepdim=True) for mask in allowed]
    draw = partial(figures.three_attentions, *maps, title="three", **tokens)
    hatched = [
        len(cells.get_paths())
        for ax in draw(masks=masks).axes[:3]
        for cells in ax.collections
        if cells.get_hatch()
    ]
    assert hatched == [3, 6, 4]
    with pytest.raises(ValueError, match="decoder self-attention: a masked cell has a weight"):
        draw(masks=(padding, causal.T, padding))


def test_an_exported_program_computes_the_same():
    model = Transformer(ModelConfig.tiny(30, n_layers=1)).eval()
    src, tgt = torch.randint(4, 30, (2, 7)), torch.randint(4, 30, (2, 5))
    program = torch.export.export(model, (src, tgt)).module()
    assert torch.equal(program(src, tgt), model(src, tgt))
