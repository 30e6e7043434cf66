"""Fast decoding gives the numbers of the model's own methods, alone and on several threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter

import pytest
import torch
from helpers import tiny, unsettled
from torch import nn

from transformer_lib.attention import MultiHeadAttention
from transformer_lib.config import ModelConfig
from transformer_lib.embeddings import TokenEmbedding
from transformer_lib.layers import DecoderLayer, Encoder
from transformer_lib.model import Transformer
from transformer_lib.translate import inference
from transformer_lib.translate.inference import FastDecoder, PlainDecoder, decoder_for, map_threads
from transformer_lib.translate.search import beam_search, greedy_decode
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
    return unsettled(tiny(30, **request.param)).eval()


@torch.no_grad()
def log_probs_of(decoder, src, tgt):
    """Log-probabilities after every target token, fed step by step: (B, T, V)."""
    with decoder.start(src, tgt.size(1)) as step:
        return torch.stack([step(token) for token in tgt.split(1, dim=1)], dim=1)


@pytest.mark.parametrize("src", [SRC, SRC[:1]], ids=["padded", "not padded"])
@pytest.mark.parametrize("kind", [FastDecoder, PlainDecoder])
def test_steps_are_the_model_without_a_cache(model, src, kind):
    tgt = torch.randint(4, 30, (len(src), 7))
    with torch.no_grad():
        expected = model(src, tgt).log_softmax(-1)
    found = log_probs_of(kind(model), src, tgt)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def same(found, expected):
    ids, scores = (
        [[getattr(h, name) for h in side] for side in (found, expected)]
        for name in ("ids", "score")
    )
    return ids[0] == ids[1] and scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_searches_find_the_same(model):
    plain = PlainDecoder(model)
    assert same(greedy_decode(model, SRC, extra=9), greedy_decode(plain, SRC, extra=9))
    options = {"beam_size": 3, "n_best": 3, "alpha": 0.7, "extra": 9}
    pairs = zip(beam_search(model, SRC, **options), beam_search(plain, SRC, **options), strict=True)
    assert all(same(found, expected) for found, expected in pairs)


def test_two_searches_on_one_model_do_not_meet(model, monkeypatch):
    """Both are in the first layer of the same step, with other sentences and other padding."""
    fast, meeting = decoder_for(model), threading.Barrier(2, timeout=20)
    first_layer = fast.decoder[0].step

    def step(*arguments):
        meeting.wait()
        return first_layer(*arguments)

    monkeypatch.setattr(fast.decoder[0], "step", step)
    tgt, sentences = torch.randint(4, 30, (3, 4)), [SRC, SRC.flip(0), torch.tensor([[8, 3, 0]])]
    for pair in ((0, 1), (2, 0)):
        both = [sentences[i] for i in pair]
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda src: log_probs_of(fast, src, tgt[: len(src)]), both))
        for src, found in zip(both, results, strict=True):
            expected = log_probs_of(PlainDecoder(model), src, tgt[: len(src)])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_decoder_is_of_the_weights_it_was_made_of(model):
    fast = decoder_for(model)
    with torch.no_grad():
        model.decoder.layers[0].self_attention.value.weight.zero_()
    stale, anew = (greedy_decode(each, SRC, extra=9) for each in (fast, model))
    assert same(anew, greedy_decode(PlainDecoder(model), SRC, extra=9))
    assert not same(stale, anew)


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("kind", [FastDecoder, PlainDecoder])
def test_no_mode_is_changed_also_after_an_error(model, kind, monkeypatch):
    model.train()
    model.encoder.layers[0].eval()  # a frozen part stays frozen
    before, seen = modes(model), []
    monkeypatch.setattr(model, "positions", model.positions)
    model.positions.register_forward_hook(lambda *_: seen.append(modes(model)))
    for search in (greedy_decode, beam_search):
        search(kind(model), SRC, extra=2)
    with pytest.raises(ZeroDivisionError), torch.no_grad(), kind(model).start(SRC, 4):
        raise ZeroDivisionError
    assert modes(model) == before
    if kind is FastDecoder:  # another thread may train the same model meanwhile
        assert all(state == before for state in seen)


LAYER = "decoder.layers.1"


def mine(kind):
    """A class of the user's own: an adapter, say, or dropout that works in evaluation, too."""
    return type(f"My{kind.__name__}", (kind,), {})


SMALL = ModelConfig.tiny(30, d_model=16, n_layers=2)
LINEARS = {
    "self_attention": ("query", "key", "value", "output"),
    "feed_forward": ("expand", "contract"),
}
OTHERS = [
    *(
        (f"{layer}.{sublayer}.{name}", mine(nn.Linear))
        for layer in (LAYER, "encoder.layers.0")
        for sublayer, names in LINEARS.items()
        for name in names
    ),
    (f"{LAYER}.cross_attention.query", mine(nn.Linear)),
    (f"{LAYER}.cross_attention.output", mine(nn.Linear)),
    (f"{LAYER}.self_attention", mine(MultiHeadAttention)),
    (f"{LAYER}.cross_attention", mine(MultiHeadAttention)),
    ("encoder.layers.0.self_attention", mine(MultiHeadAttention)),
    (f"{LAYER}.feed_forward", lambda *_: nn.Sequential()),
    (f"{LAYER}.feed_forward", nn.Linear),
    (f"{LAYER}.residuals.0.dropout", lambda *_: nn.AlphaDropout(0.5)),
    (f"{LAYER}.residuals.0.dropout", lambda *_: None),
    (f"{LAYER}.residuals.0.norm", lambda *_: None),
    (f"{LAYER}.residuals.1", lambda *_: nn.Identity()),
    (f"{LAYER}.residuals.2.norm", lambda *_: nn.RMSNorm(16)),
    (f"{LAYER}.residuals.2.norm", nn.Linear),
    (f"{LAYER}.self_attention.key.bias", lambda *_: None),
    (LAYER, lambda *_: mine(DecoderLayer)(SMALL)),
    ("encoder", lambda *_: mine(Encoder)(SMALL)),
    ("src_embedding", lambda *_: mine(TokenEmbedding)(30, 16)),
    ("dropout", lambda *_: nn.Tanh()),
    ("dropout", lambda *_: mine(nn.Dropout)(0.1)),
]


@pytest.mark.parametrize("part, make", OTHERS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_model_with_a_part_of_its_own_is_decoded_through_its_methods(part, make):
    model = tiny(30).eval()
    parent, _, name = part.rpartition(".")
    parent, old, other = model.get_submodule(parent), attrgetter(part)(model), make(16, 16)
    for inside in ("norm", "expand", "contract"):  # the same inside: only its own calls differ
        if other is not None and hasattr(old, inside):
            setattr(other, inside, getattr(old, inside))
    assert type(decoder_for(model)) is FastDecoder
    setattr(parent, name, other)
    assert type(decoder_for(model)) is PlainDecoder


def test_another_class_of_model_is_decoded_through_its_methods():
    model = mine(Transformer)(SMALL)
    assert type(decoder_for(model)) is PlainDecoder and greedy_decode(model, SRC, extra=1)


@pytest.mark.parametrize(
    "part",
    [
        *("encoder", "decoder", "dropout", LAYER),
        *(f"{LAYER}.self_attention", f"{LAYER}.residuals.0.norm", f"{LAYER}.feed_forward"),
    ],
)
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_part_that_is_watched_is_called(part, kind):
    model, seen = tiny(30).eval(), []
    hook = getattr(model.get_submodule(part), kind)(lambda *_: seen.append(1))
    greedy_decode(model, SRC, extra=2)
    assert seen
    hook.remove()
    assert type(decoder_for(model)) is FastDecoder


def test_looking_at_a_model_draws_no_random_numbers():
    model = tiny(30).eval()
    inference._kinds_of_new.cache_clear()
    before = torch.get_rng_state()
    assert type(decoder_for(model)) is FastDecoder
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["encode", "decode", "start_cache"])
def test_a_method_that_was_replaced_is_called(name):
    model, seen = tiny(30).eval(), []
    original = getattr(model, name)
    setattr(model, name, lambda *arguments: seen.append(1) or original(*arguments))
    greedy_decode(model, SRC, extra=2)
    assert seen


def test_a_residual_of_another_order_is_decoded_plainly():
    model = tiny(30).eval()
    model.decoder.layers[1].residuals[1].norm_first = True
    assert type(decoder_for(model)) is PlainDecoder


@pytest.mark.parametrize(
    "part", ["", "encoder", "decoder", "dropout", LAYER, f"{LAYER}.feed_forward"]
)
def test_a_forward_that_was_replaced_is_called(part):
    model, seen = tiny(30).eval(), []
    module = model.get_submodule(part)
    original = module.forward
    module.forward = lambda *args, **options: seen.append(1) or original(*args, **options)
    assert type(decoder_for(model)) is PlainDecoder
    greedy_decode(model, SRC, extra=2)
    assert seen or part == ""  # decoding calls encode and decode, not the model itself


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def translator():
    vocab = WordVocab.train(["a b c d e f g h i j k l m n o p"], "en", min_freq=1)
    return Translator(tiny(len(vocab), seed=1, max_len=80), vocab)


LINES = ["a b c d", "e", "f g", "h i j k l m n o p", "b a", "p o n", "g g g g g", "l"] * 2


@pytest.mark.parametrize("beam_size", [1, 3])
def test_threads_change_nothing(translator, beam_size, three_threads):
    options = {"beam_size": beam_size, "alpha": 0.0, "max_tokens": 8}
    results = []
    for threads in (3, 1):
        torch.set_num_threads(threads)
        found = translator.hypotheses(LINES, **options)
        results.append([h.ids for several in found for h in several])
        assert torch.get_num_threads() == threads
    assert results[0] == results[1]


def threads_of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_map_threads_keeps_the_order_and_gives_each_one_thread(three_threads):
    meeting = threading.Barrier(3, timeout=20)  # breaks unless three work at the same time

    def work(i):
        meeting.wait()
        return i, torch.get_num_threads(), threading.get_ident()

    found = map_threads(work, range(3))
    assert [i for i, _, _ in found] == [0, 1, 2]
    assert {threads for _, threads, _ in found} == {1}
    assert threading.get_ident() not in {ident for _, _, ident in found}
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_map_threads_gives_an_error_on_and_the_threads_back(three_threads):
    with pytest.raises(ZeroDivisionError):
        map_threads(lambda i: 1 // i, [1, 0, 1])
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_one_item_and_autocast_stay_where_they_are(three_threads):
    here = threading.get_ident()
    assert map_threads(lambda _: threading.get_ident(), [0]) == [here]
    assert map_threads(len, []) == []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert map_threads(lambda _: threading.get_ident(), [0, 1]) == [here, here]


def test_every_thread_gets_a_share_that_is_neither_tiny_nor_large(three_threads):
    assert [best_batch(n) for n in (0, 600, 1500, 3000, 10**6)] == [256, 256, 550, 1024, 1024]
    lengths = [15] * 60
    assert len(length_batches(lengths, best_batch(sum(lengths)))) == 3


def test_batches_hold_the_longest_first_and_no_more_than_fits():
    assert length_batches([3, 9, 1, 4, 20], 12) == [[4], [1], [3, 0, 2]]
    assert length_batches([], 12) == []
