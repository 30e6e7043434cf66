"""The searches against exhaustive search, the lesson's own, and the model's probabilities."""

import itertools

import pytest
import torch
from helpers import tiny

from transformer_lib import beam_search, greedy_decode
from transformer_lib.decoding import beam_sentence, greedy_sentence, length_penalty
from transformer_lib.translate.search import first_top_k, highest

BOS, EOS = 2, 3


def sharpened(vocab_size=30, seed=0):
    """A random model with larger weights, so that it prefers some sentences to others."""
    model = tiny(vocab_size, seed, d_model=32, d_ff=64).eval()
    with torch.no_grad():
        model.tgt_embedding.weight *= 3
    return model


def endless(**changes):
    """A model that never ends its sentence; and how many rows each step had."""
    model, rows = tiny(30, **changes).eval(), []
    without_eos = torch.zeros(30).index_fill(0, torch.tensor(EOS), -1e9)
    model.output_projection.register_forward_hook(
        lambda module, inputs, logits: rows.append(len(logits)) or logits + without_eos
    )
    return model, rows


SRC = torch.tensor([[5, 6, 7, 8, EOS], [9, 4, EOS, 0, 0], [11, 3, 4, 17, EOS]])


@torch.no_grad()
def log_prob(model, src, ids, finished):
    """Σ log p of a hypothesis by one teacher-forced pass."""
    says = [*ids, EOS] if finished else ids
    logits = model(src, torch.tensor([[BOS, *says[:-1]]]))
    return float(logits.log_softmax(-1)[0, range(len(says)), says].sum())


@torch.no_grad()
def exhaustive(model, src, living, limit, alpha):
    """The best finished sequence over `living` ids of at most `limit` tokens, `<eos>` included."""
    best = (-torch.inf, [])
    for length in range(limit):
        for ids in itertools.product(living, repeat=length):
            total = log_prob(model, src, list(ids), finished=True)
            best = max(best, (total / length_penalty(length + 1, alpha), list(ids)))
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_the_tree_finds_what_exhaustive_search_finds(seed, alpha):
    model, src = tiny(120, seed, n_layers=1, d_ff=16).eval(), torch.tensor([[8, 9]])
    torch.nn.init.normal_(model.tgt_embedding.weight, std=1.0)
    bias = torch.full((120,), -200.0).index_fill(0, torch.arange(3, 7), 0.0)  # <eos> and 4, 5, 6
    model.output_projection.register_forward_hook(lambda _, inputs, logits: logits * 0.2 + bias)
    score, ids = exhaustive(model, src, [4, 5, 6], limit=4, alpha=alpha)
    # 27 prefixes of 3 tokens and their 4 continuations fit into 120 beams: nothing is cut.
    (found,) = beam_search(model, src, beam_size=120, alpha=alpha, extra=2, n_best=40)
    assert not any(EOS in h.ids for h in found)
    assert found[0].ids == ids
    assert found[0].score == pytest.approx(score, abs=1e-4)


def almost_equal(found, expected, fields=("log_prob", "score")):
    assert [h.ids for h in found] == [h.ids for h in expected]
    assert [h.finished for h in found] == [h.finished for h in expected]
    for field in fields:
        values = [[getattr(h, field) for h in side] for side in (found, expected)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_one_beam_is_greedy(seed, alpha):
    model = sharpened(seed=seed)
    beams = beam_search(model, SRC, beam_size=1, alpha=alpha, extra=10)
    almost_equal(greedy_decode(model, SRC, extra=10), [h for (h,) in beams], ["log_prob"])


@pytest.mark.parametrize("beam_size", [1, 2, 4, 7])
def test_scores_are_the_models_own_log_probabilities(beam_size):
    model = sharpened()
    for row, found in zip(SRC, beam_search(model, SRC, beam_size=beam_size, extra=6), strict=True):
        src = row[row != 0][None]
        h = found[0]
        assert h.log_prob == pytest.approx(log_prob(model, src, h.ids, h.finished), abs=1e-4)
        length = len(h.ids) + h.finished
        assert h.score == pytest.approx(h.log_prob / ((5 + length) / 6) ** 0.6)


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_gives_what_its_sentences_give_alone(seed):
    model = sharpened(seed=seed)
    greedy = greedy_decode(model, SRC, extra=6)
    for k in (4, 25):  # with 25, there are empty translations
        options = {"beam_size": k, "n_best": k, "extra": 6}
        beams = beam_search(model, SRC, **options)
        assert k < 25 or any(not h.ids for several in beams[1:] for h in several)
        for row, one, several in zip(SRC, greedy, beams, strict=True):
            row = row[row != 0][None]
            almost_equal([one], greedy_decode(model, row, extra=6))
            almost_equal(several, beam_search(model, row, **options)[0])


@pytest.mark.parametrize("seed", range(4))
def test_batches_find_what_the_lesson_finds(seed):
    model = sharpened(seed=seed)
    greedy = greedy_decode(model, SRC, extra=5)
    wide = beam_search(model, SRC, beam_size=4, n_best=4, alpha=0.7, extra=5)
    for row, one, several in zip(SRC, greedy, wide, strict=True):
        src = row[row != 0][None]
        limit = src.size(1) + 5
        almost_equal([one], [greedy_sentence(model, src, limit)])
        almost_equal(several, beam_sentence(model, src, limit, beam_size=4, alpha=0.7))
        almost_equal(beam_sentence(model, src, limit, beam_size=1, alpha=0.0), [one])


def test_hypotheses_are_different_and_sorted():
    for found in beam_search(sharpened(), SRC, beam_size=5, n_best=5, extra=6):
        assert len({tuple(h.ids) for h in found}) == len(found) == 5
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@pytest.mark.parametrize(("max_len", "lengths"), [(30, (9, 7, 9)), (8, (8, 7, 8)), (7, (7, 7, 7))])
def test_a_model_that_never_ends_stops_at_the_limit(max_len, lengths):
    """The limit is four tokens more than the source has, or the model's last position."""
    model, _ = endless(max_len=max_len)
    beams = beam_search(model, SRC, extra=4)
    for found in (greedy_decode(model, SRC, extra=4), [several[0] for several in beams]):
        assert tuple(len(h.ids) for h in found) == lengths
        assert not any(h.finished for h in found)
    one = [greedy_sentence(model, SRC[:1], 9), beam_sentence(model, SRC[:1], 9)[0]]
    assert [(len(h.ids), h.finished) for h in one] == [(lengths[0], False)] * 2


# Ties


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("n", [6, 20, 1500, 1511])
@pytest.mark.parametrize("values", [3, 40, 10**6])
def test_the_best_of_equals_are_those_of_the_lowest_index(k, n, values):
    """Few different values: many are equal, in long rows within a block and across blocks."""
    scores = torch.randint(values, (20, n)).float()
    scores[:5, torch.randperm(n)[7:]] = -torch.inf  # seven numbers at most, in few blocks
    expected = scores.sort(dim=1, descending=True, stable=True)
    found = first_top_k(scores, k)
    assert found[0].equal(expected.values[:, :k])
    assert found[1].equal(expected.indices[:, :k])


@pytest.mark.parametrize("size", [32, 96, 100])
@pytest.mark.parametrize("n", [1, 20])
def test_the_highest_of_many_rows_is_the_first_of_ties(n, size):
    scores = torch.randint(2 * size, (n, size)).float()
    scores[0] = -torch.inf
    for found, expected in zip(highest(scores), scores.max(1, keepdim=True), strict=True):
        assert torch.equal(found, expected)
    scores[0, size // 2] = torch.nan
    assert highest(scores)[0][0].isnan()


def test_a_row_with_fewer_numbers_than_asked_for_gives_each_once():
    scores = torch.full((1, 2000), -torch.inf)
    scores[0, [5, 7, 1999]] = torch.tensor([1.0, 3.0, 2.0])
    values, indices = first_top_k(scores, 5)
    assert values.tolist() == [[3.0, 2.0, 1.0, -torch.inf, -torch.inf]]
    assert indices[0, :3].tolist() == [7, 1999, 5]


def test_a_source_of_padding_alone_has_room_for_one_token():
    src = torch.cat([SRC, torch.zeros_like(SRC[:1])])
    greedy = greedy_decode(sharpened(), src, extra=0)
    beams = beam_search(sharpened(), src, beam_size=1, extra=0)
    assert [h.ids for h in greedy] == [h.ids for (h,) in beams]
    for found, row in zip(greedy, src, strict=True):
        assert len(found.ids) + found.finished <= max(1, int((row != 0).sum()))
    assert len(greedy[-1].ids) + greedy[-1].finished == 1


def test_sentences_that_have_ended_leave_the_batch():
    """The last one is as in a batch of its own, and the others cost nothing any more."""
    model, rows = endless(seed=1)
    lengths = [1, 2, 3, 2, 4, 10]  # each ends at its limit, which is its source's length
    src = torch.arange(4, 14).repeat(6, 1)
    src = src.masked_fill(torch.arange(10) >= torch.tensor(lengths)[:, None], 0)
    found = greedy_decode(model, src, extra=0)
    assert [len(h.ids) for h in found] == lengths
    assert len(rows) == 10 and rows == sorted(rows, reverse=True) and rows[0] == 6 and rows[5] == 1
    for row, length, h in zip(src, lengths, found, strict=True):
        almost_equal([h], greedy_decode(model, row[None, :length], extra=0))


def test_a_model_that_does_not_care_is_decoded_by_the_rule():
    model = tiny(30).eval()
    torch.nn.init.zeros_(model.tgt_embedding.weight)  # every id has the same probability
    beams = beam_search(model, SRC, beam_size=1, extra=0)
    for found in (greedy_decode(model, SRC, extra=0), [h for (h,) in beams]):
        assert [h.ids for h in found] == [[0] * 5, [0] * 3, [0] * 5]


@pytest.mark.parametrize(
    "options",
    [{"beam_size": 0}, {"beam_size": 31}, {"n_best": 5}]
    + [{"alpha": alpha} for alpha in (float("nan"), float("inf"), -1.0, 1e9)],
    ids=str,
)
def test_impossible_widths_are_refused(options):
    problem = "alpha must be a number" if "alpha" in options else "beam_size <= vocabulary size"
    with pytest.raises(ValueError, match=problem):
        beam_search(tiny(30), SRC, **options)


@pytest.mark.parametrize("decode", [greedy_decode, beam_search])
def test_no_sentences_have_no_translations(decode):
    assert decode(tiny(30), torch.zeros(0, 4, dtype=torch.long)) == []
