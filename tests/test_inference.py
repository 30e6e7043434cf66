"""Fast decoding gives the numbers of the model's own methods, alone and on several threads."""

import math
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter

import pytest
import torch
from helpers import tiny, unsettled
from torch import nn
from torch.nn.utils import parametrize

from transformer_lib.attention import MultiHeadAttention
from transformer_lib.config import ModelConfig
from transformer_lib.data.reading import NotFiniteError
from transformer_lib.embeddings import TokenEmbedding
from transformer_lib.feed_forward import FeedForward
from transformer_lib.layers import DecoderLayer, Encoder
from transformer_lib.model import Transformer
from transformer_lib.train.dropout import FastDropout, use_fast_dropout
from transformer_lib.translate import inference, stacked
from transformer_lib.translate.inference import FastDecoder, PlainDecoder, decoder_for, map_threads
from transformer_lib.translate.search import beam_search, greedy_decode, log_softmax
from transformer_lib.translate.translator import Translator, best_batch, length_batches
from transformer_lib.vocab import SPECIALS, WordVocab

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
        return torch.stack([log_softmax(step(token)) for token in tgt.split(1, dim=1)], dim=1)


@pytest.mark.parametrize("src", [SRC, SRC[:1]], ids=["padded", "not padded"])
@pytest.mark.parametrize("kind", [FastDecoder, PlainDecoder])
def test_steps_are_the_model_without_a_cache(model, src, kind):
    tgt = torch.randint(4, 30, (len(src), inference.KEYS + inference.READ + 3))
    with torch.no_grad():
        expected = model(src, tgt).log_softmax(-1)
    found = log_probs_of(kind(model), src, tgt)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_onednn_gives_the_numbers_of_the_model(monkeypatch):
    """In float32 with any number of rows, also for a source of padding only."""
    monkeypatch.setattr(stacked, "ONEDNN_WORK", 0)
    monkeypatch.setattr(stacked, "ONEDNN_ROWS", 0)
    model = unsettled(tiny(30)).eval().float()
    src, tgt = torch.cat([SRC, torch.zeros_like(SRC[:1])]), torch.randint(4, 30, (4, 5))
    with torch.no_grad():
        expected = model(src, tgt).log_softmax(-1)
        found = log_probs_of(decoder_for(model), src, tgt)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = log_probs_of(decoder_for(model), src, tgt)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(rounded, expected, rtol=0, atol=0.5)


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("n_columns", [5, inference.KEYS, inference.KEYS + 7])
def test_rows_that_move_and_sentences_that_leave_keep_their_past(
    model, width, n_columns, monkeypatch
):
    """In the order of the caller, wherever they are stored, whatever new memory holds."""
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *size: empty(*size).fill_(torch.nan))
    draw, n = random.Random(width), 6
    src = torch.randint(4, 30, (n, n_columns))
    for sentence in range(1, n):
        src[sentence, n_columns - sentence :] = 0
    with (
        torch.no_grad(),
        FastDecoder(model).start(src, 40) as fast,
        PlainDecoder(model).start(src, 40) as plain,
    ):
        before = 1
        while n:
            token = torch.randint(4, 30, (n * before, 1))
            found, expected = (log_softmax(step(token)) for step in (fast, plain))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
            leaves = draw.random() < 0.4 and fast.length > 3
            stay = sorted(draw.sample(range(n), n - draw.randint(1, 2) if leaves and n > 1 else n))
            if fast.length == inference.KEYS + inference.READ + 2:
                stay = []
            parents = [i * before + draw.randrange(before) for i in stay for _ in range(width)]
            for step in (fast, plain):
                step.select(
                    torch.tensor(parents, dtype=torch.long), stay if len(stay) < n else None
                )
            n, before = len(stay), width


def test_a_beam_stays_in_its_slot_unless_another_has_it():
    wanted = torch.tensor([[0, 1, 2], [2, 2, 1], [1, 1, 1], [2, 0, 1], [0, 0, 1]])
    slots = inference.slots_of(wanted)
    assert slots.tolist() == [[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 0, 1], [0, 2, 1]]


def test_no_more_is_copied_than_beams_that_share_a_parent(monkeypatch):
    model, copied, copy = unsettled(tiny(30)).eval(), [], torch.Tensor.index_copy_

    def counting(self, dim, index, source):
        copied.append(len(index))
        return copy(self, dim, index, source)

    with torch.no_grad(), FastDecoder(model).start(SRC, 9) as step:
        step(torch.full((3, 1), 2))
        step.select(torch.tensor([0, 0, 1, 1, 2, 2]), None)
        step(torch.full((6, 1), 5))
        monkeypatch.setattr(torch.Tensor, "index_copy_", counting)
        step.select(torch.tensor([1, 0, 2, 2, 5, 4]), None)  # one swap, one copy, one swap
    assert {*copied} == {1}


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


def test_a_translation_without_scores_is_the_same(model):
    found, expected = (
        greedy_decode(model, SRC, extra=9, scores=scores) for scores in (False, True)
    )
    assert [(h.ids, h.finished) for h in found] == [(h.ids, h.finished) for h in expected]
    assert all(math.isnan(h.score) and math.isnan(h.log_prob) for h in found)


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("values", [(torch.nan, 0.0), (torch.inf, -torch.inf)])
def test_a_search_says_what_it_cannot_rank(model, scores, values):
    rows = torch.zeros(2, model.config.d_model)
    rows[:, 0] = torch.tensor(values)  # of (inf, -inf), one logit is inf, and none is NaN
    model.output_projection.weight.data[20:22] = rows
    with pytest.raises(NotFiniteError, match="the model computes NaN"):
        greedy_decode(model, SRC, extra=3, scores=scores)


def test_a_text_needs_no_scores(monkeypatch):
    vocab = WordVocab([*SPECIALS, "ein", "Hund"], "de")
    translator = Translator(tiny(len(vocab)), vocab, vocab)
    options = {"beam_size": 1, "alpha": 0.0}
    expected = translator.translate(["ein Hund"], **options)
    monkeypatch.setattr("transformer_lib.translate.search.log_softmax", None)
    assert translator.translate(["ein Hund"], **options) == expected


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
    assert seen and all(state == before for state in seen)  # another thread may train it meanwhile


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
    (f"{LAYER}.feed_forward.contract", lambda *_: nn.Linear(24, 16).double()),
    ("src_embedding", lambda *_: TokenEmbedding(50, 16)),
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
    inference._built.cache_clear()
    before = torch.get_rng_state()
    assert type(decoder_for(model)) is FastDecoder
    assert torch.equal(torch.get_rng_state(), before)


def louder(function):
    """The same function with another result, so that a call shows in the numbers."""
    return lambda *args, **options: function(*args, **options).tanh()


def replace(owner, name, change=louder):
    """Give a part of the model, a class or a module another function of this name."""

    def act(model, monkeypatch):
        thing = model.get_submodule(owner) if isinstance(owner, str) else owner
        monkeypatch.setattr(thing, name, change(getattr(thing, name)))

    return act


def assign(part, name, make):
    return lambda model, _: setattr(model.get_submodule(part), name, make(model))


def hook(part, kind="register_forward_hook"):
    def change(module, inputs, output=None):
        return (inputs[0].tanh(), *inputs[1:]) if output is None else output.tanh()

    return lambda model, _: getattr(model.get_submodule(part), kind)(change)


def global_hook(model, monkeypatch):
    def change(module, inputs, output):
        return 1.1 * output if isinstance(module, nn.LayerNorm) else None

    HANDLES.append(nn.modules.module.register_module_forward_hook(change))


HANDLES = []


class MyDropout(FastDropout):
    def forward(self, x):
        return 1.1 * x


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


PARTS = [
    *("encoder", "decoder", "dropout", "positions", "src_embedding", "tgt_embedding"),
    *("output_projection", "encoder.norm", "decoder.norm", LAYER, f"{LAYER}.feed_forward"),
    *(f"{LAYER}.self_attention", f"{LAYER}.cross_attention", f"{LAYER}.cross_attention.key"),
    *(f"{LAYER}.self_attention.query", f"{LAYER}.residuals.2", f"{LAYER}.residuals.1.norm"),
    *(f"{LAYER}.residuals.0.dropout", f"{LAYER}.feed_forward.expand", "encoder.layers.0"),
]
CHANGES = {
    **{f"forward of {part}": replace(part, "forward") for part in PARTS},
    **{f"hook on {part}": hook(part) for part in PARTS if "positions" not in part},
    "pre-hook": hook(f"{LAYER}.feed_forward", "register_forward_pre_hook"),
    "global hook": global_hook,
    "method of the model": replace("", "embed"),
    "projection of an attention": replace(
        f"{LAYER}.cross_attention", "project", lambda f: lambda x: [1.1 * y for y in f(x)]
    ),
    "forward of a class": replace(FeedForward, "forward"),
    "forward of torch's class": replace(nn.LayerNorm, "forward"),
    "call of a class": replace(nn.Module, "__call__", lambda f: noisy_call(f)),
    "new method of a class": lambda model, monkeypatch: monkeypatch.setattr(
        FeedForward, "__call__", louder(FeedForward.__call__), raising=False
    ),
    "function of a module": replace(sys.modules["transformer_lib.attention"], "attend"),
    "function that another module has imported": replace(
        sys.modules["transformer_lib.model"],
        "padding_mask",
        lambda f: lambda *args: torch.ones_like(f(*args)),
    ),
    "function of torch": replace(nn.functional, "linear"),
    "heads": assign("encoder.layers.0.self_attention", "n_heads", lambda _: 1),
    "eps": assign(f"{LAYER}.residuals.1.norm", "eps", lambda _: 0.5),
    "scale": assign("tgt_embedding", "scale", lambda _: 1.0),
    "a vector as scale": assign("src_embedding", "scale", lambda m: torch.arange(16.0).double()),
    "order": assign(f"{LAYER}.residuals.1", "norm_first", lambda m: not m.config.norm_first),
    "activation": assign(f"{LAYER}.feed_forward", "forward", lambda m: plain_gelu(m)),
    "class": assign(f"{LAYER}.feed_forward", "__class__", lambda _: Louder),
    "my dropout": assign("", "dropout", lambda _: MyDropout(0.1)),
    "parametrized": lambda model, _: parametrize.register_parametrization(
        model.get_submodule(LAYER).feed_forward.expand, "weight", Doubled()
    ),
    "one layer less": lambda model, _: model.decoder.layers.__delitem__(1),
    "layers the other way round": assign(
        "decoder", "layers", lambda m: nn.ModuleList(reversed(m.decoder.layers))
    ),
    "no bias": assign(f"{LAYER}.feed_forward.contract", "bias", lambda _: None),
    "other width": assign(f"{LAYER}", "feed_forward", lambda _: FeedForward(16, 8).double()),
}


class Louder(FeedForward):
    def forward(self, x):
        return 1.1 * super().forward(x)


def noisy_call(call):
    def changed(self, *args, **options):
        output = call(self, *args, **options)
        return 1.1 * output if isinstance(self, FeedForward) else output

    return changed


def plain_gelu(model):
    network = model.get_submodule(LAYER).feed_forward
    return lambda x: network.contract(nn.functional.gelu(network.expand(x)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_decoded_as_it_is(change, monkeypatch):
    """Whatever was changed, decoding step by step gives the changed model's own numbers."""
    model = unsettled(tiny(30, norm_first=True)).eval()
    tgt = torch.randint(4, 30, (len(SRC), 5))
    before = log_probs_of(decoder_for(model), SRC, tgt)
    assert type(decoder_for(model)) is FastDecoder
    CHANGES[change](model, monkeypatch)
    try:
        found = log_probs_of(decoder_for(model), SRC, tgt)
        with torch.no_grad():
            expected = model(SRC, tgt).log_softmax(-1)
    finally:
        while HANDLES:
            HANDLES.pop().remove()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(found, before, atol=1e-4)


def test_dropout_of_a_training_run_does_not_slow_decoding():
    model = tiny(30)
    use_fast_dropout(model)
    model.dropout.p = 0.7
    assert type(decoder_for(model)) is FastDecoder


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


@pytest.mark.parametrize("n", [1, 4, 31, 60, 200, 1000])
def test_every_thread_gets_as_many_batches_neither_tiny_nor_large(n, three_threads):
    lengths = [5 + i % 20 for i in range(n)]
    size = best_batch(lengths, 1024)
    batches = length_batches(lengths, size)
    assert 256 <= size <= 1024 and (size == 256 or len(batches) % 3 == 0)
    assert len(length_batches(lengths, 1024)) > len(batches) - 3  # no more turns than needed
    assert best_batch([], 1024) == 256 and best_batch([5000], 1024) == 256


def test_batches_hold_the_longest_first_and_no_more_than_fits():
    assert length_batches([3, 9, 1, 4, 20], 12) == [[4], [1], [3, 0, 2]]
    assert length_batches([], 12) == []
