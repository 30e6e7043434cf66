"""The short way to decode gives the numbers of the long one, alone and side by side."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from transformer_lib.attention import MultiHeadAttention
from transformer_lib.config import ModelConfig
from transformer_lib.decoding import beam_search, greedy_decode
from transformer_lib.layers import DecoderLayer, Encoder
from transformer_lib.model import Transformer
from transformer_lib.translate import inference
from transformer_lib.translate.inference import InferenceModel, for_inference, side_by_side
from transformer_lib.translate.translator import Translator, best_batch, length_batches
from transformer_lib.vocab import WordVocab

KINDS = [
    {"norm_first": norm_first, "positions": positions, "tie_embeddings": tied}
    for norm_first in (False, True)
    for positions, tied in (("sinusoidal", True), ("learned", False), ("none", True))
]
SRC = torch.tensor([[5, 6, 7, 8, 9, 3], [9, 8, 3, 0, 0, 0], [4, 3, 0, 0, 0, 0]])


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def model(request):
    torch.manual_seed(0)
    config = ModelConfig.tiny(30, d_model=16, d_ff=24, n_layers=2, max_len=80, **request.param)
    made = Transformer(config).double().eval()
    with torch.no_grad():  # biases and LayerNorms start as 0 and 1, which would hide a mistake
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("src", [SRC, SRC[:1]], ids=["padded", "not padded"])
def test_a_step_is_the_model_without_a_cache(model, src):
    tgt = torch.randint(4, 30, (len(src), 7))
    fast = for_inference(model)
    assert type(fast) is InferenceModel
    with torch.no_grad():
        memory = fast.encode(src)
        expected = model.decode(tgt, model.encode(src), src)
        cache = fast.start_cache(memory, 7)
        steps = [fast.decode(tgt[:, i : i + 1], memory, src, cache) for i in range(7)]
    real = src != 0
    torch.testing.assert_close(memory[real], model.encode(src)[real], rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=0, atol=1e-12)


def same(found, expected):
    scores = [h.score for h in expected]
    return [h.ids for h in found] == [h.ids for h in expected] and [
        h.score for h in found
    ] == pytest.approx(scores, abs=1e-5)


def test_searches_find_the_same(model):
    fast = for_inference(model)
    assert same(greedy_decode(fast, SRC, extra=9), greedy_decode(model, SRC, extra=9))
    options = {"beam_size": 3, "n_best": 3, "alpha": 0.7, "extra": 9}
    pairs = zip(beam_search(fast, SRC, **options), beam_search(model, SRC, **options), strict=True)
    assert all(same(found, expected) for found, expected in pairs)


def test_several_new_tokens_and_maps_take_the_long_way(model):
    fast, tgt = for_inference(model), torch.randint(4, 30, (3, 5))
    with torch.no_grad():
        memory = model.encode(SRC)
        expected = model.decode(tgt, memory, SRC)
        cache = fast.start_cache(memory, 5)
        parts = [fast.decode(part, memory, SRC, cache) for part in tgt.split([2, 1, 2], dim=1)]
        maps, found = fast.attention_maps(SRC, tgt), []
        fast.decode(tgt[:, :1], memory, SRC, fast.start_cache(memory, 1), maps=found)
    assert len(found) == 2 * model.config.n_layers
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-12)
    for ours, known in zip(maps, model.attention_maps(SRC, tgt), strict=True):
        torch.testing.assert_close(ours, known, rtol=0, atol=1e-12)


def test_two_searches_on_one_model_do_not_meet(model, monkeypatch):
    """Both are in the first layer of the same step, with other sentences and other padding."""
    fast, meeting = for_inference(model), threading.Barrier(2, timeout=20)
    first_layer = fast.decoder_layers[0].step

    def step(*arguments):
        meeting.wait()
        return first_layer(*arguments)

    monkeypatch.setattr(fast.decoder_layers[0], "step", step)

    @torch.no_grad()
    def decode(src):
        memory = fast.encode(src)
        cache = fast.start_cache(memory, 4)
        steps = [fast.decode(tgt[: len(src), i : i + 1], memory, src, cache) for i in range(4)]
        return torch.cat(steps, 1)

    tgt, sentences = torch.randint(4, 30, (3, 4)), [SRC, SRC.flip(0), torch.tensor([[8, 3, 0]])]
    for pair in ((0, 1), (2, 0)):
        with ThreadPoolExecutor(2) as pool:
            both = [sentences[i] for i in pair]
            for src, found in zip(both, pool.map(decode, both), strict=True):
                with torch.no_grad():
                    expected = model.decode(tgt[: len(src)], model.encode(src), src)
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_it_shares_the_parameters_and_leaves_the_mode_alone(model):
    fast = for_inference(model)
    assert all(a is b for a, b in zip(fast.parameters(), model.parameters(), strict=True))
    fast.train()
    assert not model.training and not model.decoder.training and not fast.training
    with torch.no_grad():
        model.decoder.layers[0].self_attention.value.weight.zero_()
    stale, anew = (greedy_decode(each, SRC, extra=9) for each in (fast, for_inference(model)))
    assert same(anew, greedy_decode(model, SRC, extra=9))
    assert not same(stale, anew)  # it says so: made anew after a change


class Adapted(nn.Linear):
    """As an adapter would replace a projection."""

    def forward(self, x):
        return super().forward(x) + 1


PARTS = ("query", "key", "value", "output")


@pytest.mark.parametrize(
    "part",
    [f"decoder.layers.1.self_attention.{name}" for name in PARTS]
    + ["decoder.layers.1.cross_attention.query", "decoder.layers.1.cross_attention.output"]
    + [f"encoder.layers.0.self_attention.{name}" for name in PARTS]
    + [f"{stack}.layers.0.feed_forward.expand" for stack in ("encoder", "decoder")]
    + [f"{stack}.layers.0.feed_forward.contract" for stack in ("encoder", "decoder")],
)
def test_a_model_with_a_part_of_its_own_is_left_as_it_is(part):
    model = Transformer(ModelConfig.tiny(30, d_model=16, n_layers=2)).eval()
    assert type(for_inference(model)) is InferenceModel
    old = model.get_submodule(part)
    model.set_submodule(part, Adapted(old.in_features, old.out_features))
    assert for_inference(model) is model


LAYER = "decoder.layers.1"


class MyAttention(MultiHeadAttention):
    pass


@pytest.mark.parametrize(
    "part, other",
    [
        (f"{LAYER}.self_attention", MyAttention(16, 4)),
        (f"{LAYER}.cross_attention", MyAttention(16, 4)),
        ("encoder.layers.0.self_attention", MyAttention(16, 4)),
        (f"{LAYER}.feed_forward", nn.Sequential()),
        (f"{LAYER}.feed_forward", nn.Linear(16, 16)),
        (f"{LAYER}.residuals.0.dropout", nn.AlphaDropout(0.5)),
        (f"{LAYER}.residuals.1", nn.Identity()),
        (f"{LAYER}.residuals.2.norm", nn.RMSNorm(16)),
        (f"{LAYER}.residuals.2.norm", nn.Linear(16, 16)),
    ],
    ids=str,
)
def test_a_part_of_another_kind_is_not_passed_over(part, other):
    model = Transformer(ModelConfig.tiny(30, d_model=16, n_layers=2)).eval()
    for name in ("norm", "expand", "contract"):  # the same within: only its own calls differ
        if hasattr(model.get_submodule(part), name):
            setattr(other, name, getattr(model.get_submodule(part), name))
    model.set_submodule(part, other)
    assert for_inference(model) is model


@pytest.mark.parametrize("name", ["norm", "dropout"])
def test_a_part_that_was_taken_out_is_not_passed_over(name):
    model = Transformer(ModelConfig.tiny(30, d_model=16, n_layers=2)).eval()
    setattr(model.get_submodule(f"{LAYER}.residuals.0"), name, None)
    assert for_inference(model) is model


@pytest.mark.parametrize(
    "part",
    [
        *("encoder", "decoder", "dropout", LAYER),
        *(f"{LAYER}.self_attention", f"{LAYER}.residuals.0.norm", f"{LAYER}.feed_forward"),
    ],
)
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_part_that_is_watched_is_called(part, kind):
    """As somebody does who wants to see what goes on in there while the model translates."""
    model, seen = Transformer(ModelConfig.tiny(30, d_model=16, n_layers=2)).eval(), []
    hook = getattr(model.get_submodule(part), kind)(lambda *_: seen.append(1))
    greedy_decode(for_inference(model), SRC, extra=2)
    assert seen
    hook.remove()
    assert type(for_inference(model)) is InferenceModel


def test_looking_at_a_model_draws_no_random_numbers():
    model = Transformer(ModelConfig.tiny(30, d_model=16, n_layers=2)).eval()
    inference._kinds_of_new.cache_clear()
    before = torch.get_rng_state()
    assert type(for_inference(model)) is InferenceModel
    assert torch.equal(torch.get_rng_state(), before)


def test_other_classes_and_training_are_left_as_they_are():
    class Mine(Transformer):
        pass

    class MyLayer(DecoderLayer):
        pass

    class MyStack(Encoder):
        pass

    config = ModelConfig.tiny(30, d_model=16, n_layers=2)
    mine, training, layered = Mine(config).eval(), Transformer(config), Transformer(config).eval()
    layered.decoder.layers[0] = MyLayer(config).eval()
    stacked, dropping = Transformer(config).eval(), Transformer(config).eval()
    stacked.encoder, dropping.dropout = MyStack(config).eval(), nn.Tanh()
    for model in (mine, training, layered, stacked, dropping):
        assert for_inference(model) is model


@pytest.fixture
def translator():
    torch.manual_seed(1)
    vocab = WordVocab.train(["a b c d e f g h i j k l m n o p"], "en", min_freq=1)
    model = Transformer(ModelConfig.tiny(len(vocab), d_model=16, d_ff=16, n_layers=2))
    return Translator(model, vocab)


LINES = ["a b c d", "e", "f g", "h i j k l m n o p", "b a", "p o n", "g g g g g", "l"] * 2


@pytest.mark.parametrize("beam_size", [1, 3])
def test_threads_change_nothing(translator, beam_size):
    options = {"beam_size": beam_size, "alpha": 0.0, "max_tokens": 8}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = translator.hypotheses(LINES, **options)
        torch.set_num_threads(4)
        together = translator.hypotheses(LINES, **options)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert [h.ids for found in together for h in found] == [h.ids for found in alone for h in found]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back_also_after_an_error(translator, training, monkeypatch):
    translator.model.train(training)
    translator.translate(["a b"])
    assert translator.model.training == translator.model.encoder.training == training
    for broken in ("greedy_decode", "for_inference"):
        monkeypatch.setattr(f"transformer_lib.translate.translator.{broken}", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            translator.translate(["a b"], beam_size=1, alpha=0.0)
        assert translator.model.training == translator.model.encoder.training == training


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_side_by_side_keeps_the_order_and_gives_each_one_thread(three_threads):
    meeting = threading.Barrier(3, timeout=20)  # breaks unless three work at the same time

    def work(i):
        meeting.wait()
        return i, torch.get_num_threads(), threading.get_ident()

    found = side_by_side(work, range(3))
    assert [i for i, _, _ in found] == [0, 1, 2]
    assert {threads for _, threads, _ in found} == {1}
    assert threading.get_ident() not in {ident for _, _, ident in found}
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_side_by_side_gives_an_error_on_and_the_threads_back(three_threads):
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda i: 1 // i, [1, 0, 1])
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_one_item_and_autocast_stay_where_they_are(three_threads):
    here = threading.get_ident()
    assert side_by_side(lambda _: threading.get_ident(), [0]) == [here]
    assert side_by_side(len, []) == []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert side_by_side(lambda _: threading.get_ident(), [0, 1]) == [here, here]


def test_every_thread_gets_a_share_that_is_neither_tiny_nor_large(three_threads):
    assert [best_batch(n) for n in (0, 600, 1500, 3000, 10**6)] == [256, 256, 550, 1024, 1024]
    lengths = [15] * 60
    assert len(length_batches(lengths, best_batch(sum(lengths)))) == 3


def test_batches_hold_the_longest_first_and_no_more_than_fits():
    assert length_batches([3, 9, 1, 4, 20], 12) == [[4], [1], [3, 0, 2]]
    assert length_batches([], 12) == []
